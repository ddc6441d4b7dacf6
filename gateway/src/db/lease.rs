//! One tenant's connections, and those of them that are on loan.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use arc_swap::ArcSwapOption;
use prometheus::IntGauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

use super::{
    budget::Budget,
    circuit::Circuit,
    connection::Connection,
    credentials::Loaded,
    ending::Endings,
    pool::PoolSettings,
    shares::{Shares, Weight},
    turns::Turns,
};
use crate::{identity::PrincipalId, metrics::Metrics};

/// One tenant's connections.
pub struct Pool {
    /// For those at work, those that are being opened, and those that are being ended.
    pub slots: Arc<Semaphore>,
    /// Slots that are taken by openings.
    pub opening: TaskTracker,
    /// Slots that are taken by statements, those that are being ended included.
    pub working: TaskTracker,
    /// Those that wait for a call.
    pub idle: Mutex<Vec<Idle>>,
    idle_gauge: IntGauge,
    /// The credentials that were read last.
    pub loaded: ArcSwapOption<Loaded>,
    /// Held while they are read; when they were last read because the database refused them.
    pub loading: Arc<tokio::sync::Mutex<Option<Instant>>>,
    /// Whether the vault is asked.
    pub vault: Circuit,
    /// Whether connections are opened.
    pub database: Circuit,
    /// What each principal has of them.
    pub shares: Shares,
    /// Who has long statements run one after the other.
    pub turns: Turns,
    /// When a call last came.
    pub used: Mutex<Instant>,
    budget: Budget,
    endings: Endings,
}

/// A connection that waits for a call.
pub struct Idle {
    /// It.
    pub connection: Connection,
    /// Since when.
    pub since: Instant,
    _counted: Counted,
}

/// One more in a gauge until it is dropped.
struct Counted(IntGauge);

impl Counted {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The value, whatever became of a thread that held it.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// Without connections.
    pub fn new(sizes: &PoolSettings, budget: Budget, endings: Endings, metrics: &Metrics) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(sizes.per_tenant)),
            opening: TaskTracker::default(),
            working: TaskTracker::default(),
            idle: Mutex::default(),
            idle_gauge: metrics.connections.with_label_values(&["idle"]),
            loaded: ArcSwapOption::empty(),
            loading: Arc::default(),
            vault: Circuit::default(),
            database: Circuit::default(),
            shares: Shares::new(sizes.per_principal),
            turns: Turns::new(sizes.long_per_tenant),
            used: Mutex::new(Instant::now()),
            budget,
            endings,
        }
    }

    /// Keeps a sound connection for another call, or closes one where other tenants wait for a place.
    pub fn keep(&self, connection: Connection) {
        let counted = Counted::new(self.idle_gauge.clone());
        locked(&self.idle).push(Idle { connection, since: Instant::now(), _counted: counted });
        if self.budget.is_short() {
            self.close_one();
        }
    }

    /// Closes the connection that has not been used for longest.
    pub fn close_one(&self) {
        let mut idle = locked(&self.idle);
        if !idle.is_empty() {
            idle.remove(0);
        }
    }

    /// The connection used last, of the credentials in force; those of former ones are closed on the way.
    pub fn take_idle(&self, loaded: &Arc<Loaded>) -> Option<Connection> {
        let mut idle = locked(&self.idle);
        while let Some(Idle { mut connection, .. }) = idle.pop() {
            if Arc::ptr_eq(connection.loaded(), loaded) && !connection.is_gone() {
                return Some(connection);
            }
        }
        None
    }
}

/// What a statement takes until it has ended at the server: a part of its principal's share, one of the tenant's
/// connections, and the turn of who has them.
#[derive(Debug)]
pub struct Places {
    /// Its principal's.
    pub share: OwnedSemaphorePermit,
    /// A connection's.
    pub slot: OwnedSemaphorePermit,
    /// Whose statements ran long lately has one.
    pub turn: Option<OwnedSemaphorePermit>,
    /// Of the tenant's statements.
    pub working: TaskTrackerToken,
}

/// A connection on loan. Only [`Lease::give_back`] returns it; dropped in any other way it is cancelled and closed.
pub struct Lease {
    connection: Option<Connection>,
    pool: Arc<Pool>,
    reused: bool,
    /// Go with a connection that has to be ended, and are free again when it has.
    places: Option<Places>,
    weight: Weight,
    principal: PrincipalId,
    since: Instant,
    _in_use: Counted,
    _lent: TaskTrackerToken,
}

impl Lease {
    /// Lends a connection, with the places that it takes, to a principal.
    #[must_use]
    pub fn new(
        connection: Connection,
        pool: Arc<Pool>,
        reused: bool,
        places: Places,
        weight: Weight,
        principal: PrincipalId,
        metrics: &Metrics,
    ) -> Self {
        let in_use = Counted::new(metrics.connections.with_label_values(&["in_use"]));
        let lent = pool.endings.lent();
        Self {
            connection: Some(connection),
            pool,
            reused,
            places: Some(places),
            weight,
            principal,
            since: Instant::now(),
            _in_use: in_use,
            _lent: lent,
        }
    }

    /// Whether the connection has served another call before: it may have died since without anybody noticing.
    #[must_use]
    pub const fn is_reused(&self) -> bool {
        self.reused
    }

    /// What the places are for.
    #[must_use]
    pub const fn weight(&self) -> Weight {
        self.weight
    }

    /// The connection.
    ///
    /// # Panics
    /// Never: it is there until the lease ends.
    pub fn connection(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("a lease holds its connection until it ends")
    }

    /// Returns a connection whose flight completed.
    pub fn give_back(mut self) {
        let Some(mut connection) = self.connection.take().filter(|connection| !connection.is_closed()) else { return };
        connection.life().spend();
        if connection.is_spent() {
            connection.retire();
        } else {
            self.pool.keep(connection);
        }
    }

    /// Cancels what runs and closes.
    pub fn kill(mut self, cause: &'static str) {
        self.end(cause);
    }

    fn end(&mut self, cause: &'static str) {
        if let Some(connection) = self.connection.take() {
            self.pool.endings.begin(connection, cause, self.places.take());
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // The caller went away in the middle of a flight.
        self.end("disconnect");
        self.pool.turns.charge(self.principal, self.since, Instant::now());
    }
}
