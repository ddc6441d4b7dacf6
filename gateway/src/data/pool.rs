//! Per-tenant pools: opened on first use, closed when idle, under one budget for all.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use prometheus::IntGauge;
use storefence_tenancy::TenantId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    connection::{Connection, OpenError},
    credentials::{Loaded, Loader},
    life::Span,
};
use crate::{metrics::Metrics, tenants::Tenant};

/// Sizes and times of the pools.
#[derive(Clone, Copy, Debug)]
pub struct PoolSettings {
    /// Most connections of one tenant.
    pub per_tenant: usize,
    /// Most connections of all tenants.
    pub total: usize,
    /// Longest wait for a connection.
    pub wait: Duration,
    /// How long a connection may stay unused.
    pub idle: Duration,
    /// How long it may be used.
    pub life: Span,
}

/// How long a refusal is believed before secrets are read again for the same tenant.
const RELOAD_PAUSE: Duration = Duration::from_secs(5);
/// First and longest time for which a database that could not be reached is not tried again.
const OPEN_CIRCUIT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// Why no connection is to be had. The text is for the log.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// All connections stayed busy for the whole wait.
    #[error("all connections are busy")]
    Busy,
    /// The database was away a moment ago.
    #[error("the database was not reachable a moment ago: {0}")]
    CircuitOpen(String),
    /// Secrets could not be read or used.
    #[error("credentials: {0}")]
    Credentials(String),
    /// Opening failed.
    #[error("connecting: {0}")]
    Open(String),
}

impl PoolError {
    /// A word for metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Busy => "PoolBusy",
            Self::CircuitOpen(_) => "CircuitOpen",
            Self::Credentials(_) => "Credentials",
            Self::Open(_) => "DatabaseUnreachable",
        }
    }
}

/// The pools of all tenants.
pub struct Pools {
    settings: PoolSettings,
    loader: Loader,
    budget: Arc<Semaphore>,
    pools: Mutex<HashMap<TenantId, Arc<Pool>>>,
    metrics: Arc<Metrics>,
}

/// One tenant's connections.
struct Pool {
    slots: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
    idle_gauge: IntGauge,
    loaded: ArcSwapOption<Loaded>,
    loading: tokio::sync::Mutex<Loading>,
    circuit: Mutex<Circuit>,
    used: Mutex<Instant>,
}

/// A connection that waits for a call.
struct Idle {
    connection: Connection,
    since: Instant,
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

impl Pool {
    fn keep(&self, connection: Connection) {
        let counted = Counted::new(self.idle_gauge.clone());
        locked(&self.idle).push(Idle { connection, since: Instant::now(), _counted: counted });
    }
}

/// When secrets were last read again, and last could not be read.
#[derive(Default)]
struct Loading {
    reloaded: Option<Instant>,
    failed: Option<Instant>,
}

#[derive(Default)]
struct Circuit {
    failures: u32,
    open_until: Option<(Instant, String)>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection on loan. Only [`Lease::give_back`] returns it; dropped in any other way it is cancelled and closed.
pub struct Lease {
    connection: Option<Connection>,
    pool: Arc<Pool>,
    reused: bool,
    _slot: OwnedSemaphorePermit,
    _in_use: Counted,
}

impl Lease {
    /// Whether the connection has served another call before: it may have died since without anybody noticing.
    #[must_use]
    pub const fn is_reused(&self) -> bool {
        self.reused
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
        if let Some(connection) = self.connection.take() {
            connection.kill(cause);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // The caller went away in the middle of a flight.
        if let Some(connection) = self.connection.take() {
            connection.kill("disconnect");
        }
    }
}

impl Pools {
    /// Pools without connections.
    #[must_use]
    pub fn new(settings: PoolSettings, loader: Loader, metrics: Arc<Metrics>) -> Self {
        Self { settings, loader, budget: Arc::new(Semaphore::new(settings.total)), pools: Mutex::default(), metrics }
    }

    fn pool(&self, id: &TenantId) -> Arc<Pool> {
        let mut pools = locked(&self.pools);
        if let Some(pool) = pools.get(id) {
            return pool.clone();
        }
        let pool = Arc::new(Pool {
            slots: Arc::new(Semaphore::new(self.settings.per_tenant)),
            idle: Mutex::default(),
            idle_gauge: self.metrics.connections.with_label_values(&["idle"]),
            loaded: ArcSwapOption::empty(),
            loading: tokio::sync::Mutex::default(),
            circuit: Mutex::default(),
            used: Mutex::new(Instant::now()),
        });
        pools.insert(id.clone(), pool.clone());
        pool
    }

    /// Lends a connection of the tenant's login that is in force.
    ///
    /// # Errors
    /// [`PoolError`].
    pub async fn lend(&self, tenant: &Tenant) -> Result<Lease, PoolError> {
        let started = Instant::now();
        let pool = self.pool(tenant.id());
        *locked(&pool.used) = started;
        let slot = tokio::time::timeout(self.settings.wait, pool.slots.clone().acquire_owned()).await;
        let slot = slot.map_err(|_| PoolError::Busy)?.map_err(|_| PoolError::Busy)?;
        let loaded = self.credentials(&pool, tenant).await?;
        let (connection, reused) = match take_idle(&pool, &loaded) {
            Some(connection) => (connection, true),
            None => (self.open(&pool, tenant, loaded).await?, false),
        };
        self.metrics.pool_wait.observe(started.elapsed().as_secs_f64());
        let in_use = Counted::new(self.metrics.connections.with_label_values(&["in_use"]));
        Ok(Lease { connection: Some(connection), pool, reused, _slot: slot, _in_use: in_use })
    }

    /// The credentials in force, as far as a call has read them already.
    #[must_use]
    pub fn loaded(&self, tenant: &Tenant) -> Option<Arc<Loaded>> {
        self.pool(tenant.id()).loaded.load_full().filter(|loaded| loaded.in_force == tenant.credentials)
    }

    /// Closes a tenant's idle connections: one of them was found dead, so the others are in doubt.
    pub fn distrust_idle(&self, tenant: &Tenant) {
        locked(&self.pool(tenant.id()).idle).clear();
    }

    /// Reads the secrets again after the database refused what `refused` holds: at most every five seconds, and not if
    /// another call has just done so.
    pub async fn reload(&self, tenant: &Tenant, refused: &Arc<Loaded>) {
        let pool = self.pool(tenant.id());
        let mut loading = pool.loading.lock().await;
        let replaced = pool.loaded.load().as_ref().is_some_and(|loaded| !Arc::ptr_eq(loaded, refused));
        if replaced || loading.reloaded.is_some_and(|at| at.elapsed() < RELOAD_PAUSE) {
            return;
        }
        loading.reloaded = Some(Instant::now());
        match self.loader.load(tenant).await {
            Ok(loaded) => pool.loaded.store(Some(Arc::new(loaded))),
            Err(error) => tracing::warn!(tenant = %tenant.id(), %error, "credentials could not be read again"),
        }
    }

    async fn credentials(&self, pool: &Pool, tenant: &Tenant) -> Result<Arc<Loaded>, PoolError> {
        let current = |pool: &Pool| pool.loaded.load_full().filter(|loaded| loaded.in_force == tenant.credentials);
        if let Some(loaded) = current(pool) {
            return Ok(loaded);
        }
        let mut loading = pool.loading.lock().await;
        if let Some(loaded) = current(pool) {
            return Ok(loaded);
        }
        let before = pool.loaded.load_full();
        // A vault that is away is not asked by every call; what was read before a rotation works until its overlap ends.
        if let (Some(before), Some(at)) = (&before, loading.failed)
            && at.elapsed() < RELOAD_PAUSE
        {
            return Ok(before.clone());
        }
        match (self.loader.load(tenant).await, before) {
            (Ok(loaded), _) => {
                loading.failed = None;
                let loaded = Arc::new(loaded);
                pool.loaded.store(Some(loaded.clone()));
                Ok(loaded)
            }
            (Err(error), Some(before)) => {
                loading.failed = Some(Instant::now());
                tracing::warn!(tenant = %tenant.id(), %error, "new credentials could not be read; the former ones stay in use");
                Ok(before)
            }
            (Err(error), None) => Err(PoolError::Credentials(error.to_string())),
        }
    }

    async fn open(&self, pool: &Pool, tenant: &Tenant, loaded: Arc<Loaded>) -> Result<Connection, PoolError> {
        if let Some((until, error)) = &locked(&pool.circuit).open_until
            && *until > Instant::now()
        {
            return Err(PoolError::CircuitOpen(error.clone()));
        }
        let opened = self.open_once(loaded.clone()).await;
        let opened = match opened {
            Err(Opening::Failed(error)) if error.is_refused() => {
                self.reload(tenant, &loaded).await;
                let fresh = pool.loaded.load_full().unwrap_or(loaded);
                self.open_once(fresh).await
            }
            other => other,
        };
        let mut circuit = locked(&pool.circuit);
        match opened {
            Ok(connection) => {
                *circuit = Circuit::default();
                Ok(connection)
            }
            Err(Opening::Busy) => Err(PoolError::Busy),
            Err(Opening::Failed(error)) => {
                let error = error.to_string();
                let pause = OPEN_CIRCUIT.0.saturating_mul(1 << circuit.failures.min(6)).min(OPEN_CIRCUIT.1);
                circuit.failures += 1;
                circuit.open_until = Some((Instant::now() + pause, error.clone()));
                Err(PoolError::Open(error))
            }
        }
    }

    async fn open_once(&self, loaded: Arc<Loaded>) -> Result<Connection, Opening> {
        let budget = match self.budget.clone().try_acquire_owned() {
            Ok(budget) => budget,
            Err(_) => {
                self.close_longest_idle();
                let waiting = tokio::time::timeout(self.settings.wait, self.budget.clone().acquire_owned());
                waiting.await.map_err(|_| Opening::Busy)?.map_err(|_| Opening::Busy)?
            }
        };
        Connection::open(loaded, self.settings.life.begin(), budget, self.metrics.clone())
            .await
            .map_err(Opening::Failed)
    }

    /// Makes room: the tenant that has not used a connection for longest gives one up.
    fn close_longest_idle(&self) {
        let pools = locked(&self.pools);
        let oldest = pools
            .values()
            .filter_map(|pool| Some((locked(&pool.idle).first()?.since, pool)))
            .min_by_key(|(since, _)| *since);
        if let Some((_, pool)) = oldest {
            let mut idle = locked(&pool.idle);
            if !idle.is_empty() {
                idle.remove(0);
            }
        }
    }

    /// Closes what has not been used, and forgets tenants that are gone.
    pub fn tidy(&self, is_served: impl Fn(&TenantId) -> bool) {
        let mut pools = locked(&self.pools);
        pools.retain(|id, pool| {
            let mut idle = locked(&pool.idle);
            let served = is_served(id);
            if served {
                let mut kept = Vec::with_capacity(idle.len());
                for mut one in idle.drain(..) {
                    if one.connection.is_gone() || one.since.elapsed() >= self.settings.idle {
                        continue;
                    }
                    if one.connection.is_spent() { one.connection.retire() } else { kept.push(one) }
                }
                *idle = kept;
            } else {
                idle.clear();
            }
            let in_use = pool.slots.available_permits() < self.settings.per_tenant;
            in_use || !idle.is_empty() || (served && locked(&pool.used).elapsed() < self.settings.idle)
        });
    }

    /// Closes everything that is idle.
    pub fn close(&self) {
        locked(&self.pools).clear();
    }
}

enum Opening {
    Busy,
    Failed(OpenError),
}

/// The connection used last, of the credentials in force; those of former ones are closed on the way.
fn take_idle(pool: &Pool, loaded: &Arc<Loaded>) -> Option<Connection> {
    let mut idle = locked(&pool.idle);
    while let Some(Idle { mut connection, .. }) = idle.pop() {
        if Arc::ptr_eq(connection.loaded(), loaded) && !connection.is_gone() {
            return Some(connection);
        }
    }
    None
}
