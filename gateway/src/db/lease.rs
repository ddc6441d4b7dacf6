//! One tenant's pool of connections, and the leases on them.

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
    concurrency::{Concurrency, Weight},
    connection::Connection,
    credentials::Loaded,
    ending::Endings,
    pool::PoolSettings,
    throttle::Throttle,
};
use crate::{identity::PrincipalId, metrics::Metrics};

/// One tenant's connections.
pub struct Pool {
    /// Permits for connections that are leased, being opened, or being ended.
    pub slots: Arc<Semaphore>,
    /// Connections that are being opened.
    pub opening: TaskTracker,
    /// Statements that run or are being ended at the server.
    pub working: TaskTracker,
    /// Idle connections, the one used last at the end.
    pub idle: Mutex<Vec<Idle>>,
    idle_gauge: IntGauge,
    /// The credentials that were read last.
    pub loaded: ArcSwapOption<Loaded>,
    /// Held while credentials are read. The time of the last read that followed a refusal by the database.
    pub loading: Arc<tokio::sync::Mutex<Option<Instant>>>,
    /// Circuit breaker of Key Vault.
    pub vault: Circuit,
    /// Circuit breaker of the database.
    pub database: Circuit,
    /// Statements of each principal at a time.
    pub concurrency: Concurrency,
    /// Statements of principals that ran long ones lately.
    pub throttle: Throttle,
    /// When a call last came.
    pub used: Mutex<Instant>,
    budget: Budget,
    endings: Endings,
}

/// An idle connection.
pub struct Idle {
    pub connection: Connection,
    /// When it became idle.
    pub since: Instant,
    _counted: Counted,
}

/// Counts one in a gauge until it is dropped.
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

/// Locks a mutex, also after a thread that held it has panicked.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// A pool without connections.
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
            concurrency: Concurrency::new(sizes.per_principal),
            throttle: Throttle::new(sizes.long_per_tenant),
            used: Mutex::new(Instant::now()),
            budget,
            endings,
        }
    }

    /// Keeps a sound connection for the next call. Where other calls wait for the budget, the connection of this pool that has
    /// been idle for longest is closed.
    pub fn keep(&self, connection: Connection) {
        let counted = Counted::new(self.idle_gauge.clone());
        locked(&self.idle).push(Idle { connection, since: Instant::now(), _counted: counted });
        if self.budget.is_short() {
            self.close_one();
        }
    }

    /// Closes the connection that has been idle for longest.
    pub fn close_one(&self) {
        let mut idle = locked(&self.idle);
        if !idle.is_empty() {
            idle.remove(0);
        }
    }

    /// The idle connection that was used last, if it was opened with these credentials. Connections of former credentials are
    /// closed on the way.
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

/// The permits that a statement holds until it has ended at the server.
#[derive(Debug)]
pub struct Permits {
    /// Of its principal's concurrency limit.
    pub concurrency: OwnedSemaphorePermit,
    /// Of the tenant's connections.
    pub slot: OwnedSemaphorePermit,
    /// Of the throttle, where its principal is throttled.
    pub throttle: Option<OwnedSemaphorePermit>,
    /// Counts the statement.
    pub working: TaskTrackerToken,
}

/// A leased connection. Only [`Lease::give_back`] returns it to the pool. Dropped in any other way, its statement is cancelled
/// and the connection closed.
pub struct Lease {
    connection: Option<Connection>,
    pool: Arc<Pool>,
    reused: bool,
    /// A connection that has to be ended keeps the permits until it has ended.
    permits: Option<Permits>,
    weight: Weight,
    principal: PrincipalId,
    since: Instant,
    _in_use: Counted,
    _lent: TaskTrackerToken,
}

impl Lease {
    /// Leases a connection, with the permits that its statement holds, to a principal.
    #[must_use]
    pub fn new(
        connection: Connection,
        pool: Arc<Pool>,
        reused: bool,
        permits: Permits,
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
            permits: Some(permits),
            weight,
            principal,
            since: Instant::now(),
            _in_use: in_use,
            _lent: lent,
        }
    }

    /// Whether the connection has served another call before: it may have died since then, unnoticed.
    #[must_use]
    pub const fn is_reused(&self) -> bool {
        self.reused
    }

    /// The weight that the permits allow.
    #[must_use]
    pub const fn weight(&self) -> Weight {
        self.weight
    }

    /// The connection.
    ///
    /// # Panics
    /// Never: a lease holds its connection until it ends.
    pub fn connection(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("a lease holds its connection until it ends")
    }

    /// Returns the connection after a batch that completed.
    pub fn give_back(mut self) {
        let Some(mut connection) = self.connection.take().filter(|connection| !connection.is_closed()) else { return };
        connection.life().spend();
        if connection.is_spent() {
            connection.retire();
        } else {
            self.pool.keep(connection);
        }
    }

    /// Cancels the statement and closes the connection.
    pub fn kill(mut self, cause: &'static str) {
        self.end(cause);
    }

    fn end(&mut self, cause: &'static str) {
        if let Some(connection) = self.connection.take() {
            self.pool.endings.begin(connection, cause, self.permits.take());
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // The caller went away during a batch.
        self.end("disconnect");
        self.pool.throttle.charge(self.principal, self.since, Instant::now());
    }
}
