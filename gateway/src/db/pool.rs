//! The pools of all tenants. Connections are opened on first use and closed when idle, under one budget for all tenants.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use storefence_tenancy::TenantId;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, oneshot};

use super::{
    budget::Budget,
    concurrency::Weight,
    connection::{Connection, OpenError},
    credentials::{Loaded, Loader},
    ending::Endings,
    lease::{Lease, Permits, Pool, locked},
    life::Span,
};
use crate::{identity::PrincipalId, metrics::Metrics, tenants::Tenant};

/// Sizes and times of the pools.
#[derive(Clone, Copy, Debug)]
pub struct PoolSettings {
    /// Most connections of one tenant.
    pub per_tenant: usize,
    /// Most statements of one principal at a time, and most processes of one statement, parallel workers included.
    pub per_principal: u32,
    /// Most statements at a time of principals that are throttled, for statements that ran long lately.
    pub long_per_tenant: usize,
    /// Most connections of all tenants.
    pub total: usize,
    /// Longest wait for a connection.
    pub wait: Duration,
    /// How long a connection may stay unused.
    pub idle: Duration,
    /// Longest life of a connection.
    pub life: Span,
}

/// Shortest time between two reads of a tenant's secrets after refusals by the database.
const RELOAD_PAUSE: Duration = Duration::from_secs(5);
/// Longest wait for a tenant's secrets. After it the vault counts as unavailable.
const READ_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a call waits for new credentials while the former ones still work.
const ROTATION_WAIT: Duration = Duration::from_secs(1);

/// Why a call got no connection. The text is for the log.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// All connections of the tenant stayed busy for the whole wait.
    #[error("all connections are busy")]
    Busy,
    /// Other statements of the principal used up its concurrency limit for the whole wait.
    #[error("all connections of this principal are busy")]
    PrincipalBusy,
    /// The principal is throttled, and throttled statements used all permits for the whole wait.
    #[error("statements that ran long lately run one after the other")]
    Throttled,
    /// The database's circuit breaker is open.
    #[error("the database was not reachable a moment ago: {0}")]
    CircuitOpen(String),
    /// Secrets could not be read or used.
    #[error("credentials: {0}")]
    Credentials(String),
    /// The connection could not be opened.
    #[error("connecting: {0}")]
    Open(String),
}

impl PoolError {
    /// The reason, for metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Busy => "PoolBusy",
            Self::PrincipalBusy => "PrincipalBusy",
            Self::Throttled => "LongStatements",
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
    budget: Budget,
    pools: Mutex<HashMap<TenantId, Arc<Pool>>>,
    endings: Endings,
    metrics: Arc<Metrics>,
}

/// A new connection, with its permit of the tenant's.
type Opened = Result<(Connection, OwnedSemaphorePermit), PoolError>;

impl Pools {
    /// Pools without connections.
    #[must_use]
    pub fn new(settings: PoolSettings, loader: Loader, metrics: Arc<Metrics>) -> Arc<Self> {
        let (budget, pools) = (Budget::new(settings.total), Mutex::default());
        Arc::new(Self { settings, loader, budget, pools, endings: Endings::default(), metrics })
    }

    fn pool(&self, id: &TenantId) -> Arc<Pool> {
        let mut pools = locked(&self.pools);
        if let Some(pool) = pools.get(id) {
            return pool.clone();
        }
        let (budget, endings) = (self.budget.clone(), self.endings.clone());
        let pool = Arc::new(Pool::new(&self.settings, budget, endings, &self.metrics));
        pools.insert(id.clone(), pool.clone());
        pool
    }

    /// Whether this principal is throttled, because its statements ran long lately.
    #[must_use]
    pub fn is_throttled(&self, tenant: &Tenant, principal: PrincipalId) -> bool {
        self.pool(tenant.id()).throttle.applies(principal, Instant::now())
    }

    /// Leases a connection of the tenant's current login to a principal, for a statement of this weight or a lower one
    /// ([`Lease::weight`]). Reading secrets and opening a connection continue after the deadline, without the caller.
    /// Otherwise calls with short deadlines would never open a circuit breaker, and never get a connection that takes a
    /// little longer to open.
    ///
    /// # Errors
    /// [`PoolError`].
    pub async fn lend(
        self: &Arc<Self>,
        tenant: &Tenant,
        principal: PrincipalId,
        weight: Weight,
        deadline: Instant,
    ) -> Result<Lease, PoolError> {
        let started = Instant::now();
        let pool = self.pool(tenant.id());
        *locked(&pool.used) = started;
        let loaded = self.credentials(&pool, tenant, deadline).await?;
        let wait_until = deadline.min(started + self.settings.wait);
        let ready = Instant::now();
        // Before the wait for a connection: a principal that waits for its own statements, or for the throttle, holds no
        // connection that others could use.
        let permit = tokio::time::timeout_at(wait_until.into(), pool.concurrency.acquire(principal, weight)).await;
        let Ok(Some((concurrency, weight))) = permit else { return Err(busy(&pool, PoolError::PrincipalBusy)) };
        let throttle = if pool.throttle.applies(principal, started) {
            let permit = tokio::time::timeout_at(wait_until.into(), pool.throttle.acquire()).await;
            self.metrics.throttle.with_label_values(&[if permit.is_ok() { "taken" } else { "refused" }]).inc();
            permit.map_err(|_| busy(&pool, PoolError::Throttled))?
        } else {
            None
        };
        let principal_wait = ready.elapsed();
        self.metrics.principal_wait.observe(principal_wait.as_secs_f64());
        let waiting = tokio::time::timeout_at(wait_until.into(), pool.slots.clone().acquire_owned());
        let Ok(Ok(slot)) = waiting.await else { return Err(busy(&pool, PoolError::Busy)) };
        // Another call may have read newer credentials meanwhile.
        let loaded = pool.loaded.load_full().unwrap_or(loaded);
        let (connection, slot, reused) = match pool.take_idle(&loaded) {
            Some(connection) => (connection, slot, true),
            None => {
                pool.database.check().map_err(PoolError::CircuitOpen)?;
                let limit = wait_until.saturating_duration_since(Instant::now());
                let budget = self.budget.take(|| self.close_longest_idle(), limit).await.ok_or(PoolError::Busy)?;
                let (connection, slot) = self.open(&pool, tenant, loaded, (slot, budget), deadline).await?;
                (connection, slot, false)
            }
        };
        self.metrics.pool_wait.observe((started.elapsed() - principal_wait).as_secs_f64());
        let permits = Permits { concurrency, slot, throttle, working: pool.working.token() };
        Ok(Lease::new(connection, pool, reused, permits, weight, principal, &self.metrics))
    }

    /// The current credentials, if a call has read them already.
    #[must_use]
    pub fn loaded(&self, tenant: &Tenant) -> Option<Arc<Loaded>> {
        self.pool(tenant.id()).loaded.load_full().filter(|loaded| loaded.in_force == tenant.credentials)
    }

    /// Closes a tenant's idle connections: one of them was dead, so the others may be.
    pub fn distrust_idle(&self, tenant: &Tenant) {
        locked(&self.pool(tenant.id()).idle).clear();
    }

    /// Reads the secrets again after the database refused the credentials in `refused`: at most every five seconds, and not
    /// if another call has replaced them already.
    pub async fn reload(&self, tenant: &Tenant, refused: &Arc<Loaded>) {
        let pool = self.pool(tenant.id());
        let mut reloaded = pool.loading.lock().await;
        let replaced = pool.loaded.load().as_ref().is_some_and(|loaded| !Arc::ptr_eq(loaded, refused));
        if replaced || reloaded.is_some_and(|at| at.elapsed() < RELOAD_PAUSE) {
            return;
        }
        *reloaded = Some(Instant::now());
        match self.load(tenant).await {
            Ok(loaded) => pool.loaded.store(Some(Arc::new(loaded))),
            Err(error) => tracing::warn!(tenant = %tenant.id(), %error, "credentials could not be read again"),
        }
    }

    async fn credentials(
        self: &Arc<Self>,
        pool: &Arc<Pool>,
        tenant: &Tenant,
        deadline: Instant,
    ) -> Result<Arc<Loaded>, PoolError> {
        let current = || pool.loaded.load_full().filter(|loaded| loaded.in_force == tenant.credentials);
        if let Some(loaded) = current() {
            return Ok(loaded);
        }
        // The credentials from before a rotation work until the overlap ends.
        let former = pool.loaded.load_full();
        if let Err(error) = pool.vault.check() {
            return former.ok_or(PoolError::Credentials(error));
        }
        let until = if former.is_some() { deadline.min(Instant::now() + ROTATION_WAIT) } else { deadline };
        let reading = async {
            match pool.loading.clone().try_lock_owned() {
                // Another call has just read them.
                Ok(_) if current().is_some() => {}
                Ok(guard) => drop(tokio::spawn(self.clone().read(pool.clone(), tenant.clone(), guard)).await),
                // Another call is reading them.
                Err(_) if former.is_some() => {}
                Err(_) => drop(pool.loading.lock().await),
            }
        };
        let _ = tokio::time::timeout_at(until.into(), reading).await;
        if let Some(loaded) = current().or_else(|| pool.loaded.load_full()) {
            return Ok(loaded);
        }
        let slow = || "Key Vault has not answered yet".to_owned();
        Err(PoolError::Credentials(pool.vault.check().err().unwrap_or_else(slow)))
    }

    /// Reads secrets, within a timeout: with the client's own retries a vault that hangs would take half a minute.
    async fn load(&self, tenant: &Tenant) -> Result<Loaded, String> {
        match tokio::time::timeout(READ_TIMEOUT, self.loader.load(tenant)).await {
            Ok(read) => read.map_err(|error| error.to_string()),
            Err(_) => {
                self.metrics.secrets.with_label_values(&["error"]).inc();
                Err("Key Vault did not answer in time".to_owned())
            }
        }
    }

    /// Reads the current credentials, and keeps them in the pool.
    async fn read(self: Arc<Self>, pool: Arc<Pool>, tenant: Tenant, _guard: OwnedMutexGuard<Option<Instant>>) {
        match self.load(&tenant).await {
            Ok(loaded) => {
                pool.vault.worked();
                pool.loaded.store(Some(Arc::new(loaded)));
            }
            Err(error) => {
                pool.vault.failed(error.clone());
                let problem = "credentials could not be read";
                if pool.loaded.load().is_some() {
                    tracing::warn!(tenant = %tenant.id(), %error, "new {problem}; the former ones stay in use");
                } else {
                    tracing::warn!(tenant = %tenant.id(), %error, "{problem}");
                }
            }
        }
    }

    /// Opens a connection. One that is ready only after the deadline becomes idle, for the next call.
    async fn open(
        self: &Arc<Self>,
        pool: &Arc<Pool>,
        tenant: &Tenant,
        loaded: Arc<Loaded>,
        (slot, budget): (OwnedSemaphorePermit, OwnedSemaphorePermit),
        deadline: Instant,
    ) -> Opened {
        let (sender, receiver) = oneshot::channel();
        let (pools, pool, tenant) = (self.clone(), pool.clone(), tenant.clone());
        // Counted before the task begins, so that the error of a call that waits meanwhile names the cause.
        let opening = pool.opening.token();
        tokio::spawn(async move {
            let opened = pools.open_now(&pool, &tenant, loaded, budget).await;
            drop(opening);
            if let Err(Ok((connection, slot))) = sender.send(opened.map(|connection| (connection, slot))) {
                pool.keep(connection);
                drop(slot);
            }
        });
        let late = || PoolError::Open("the database did not answer in the time of the statement".to_owned());
        match tokio::time::timeout_at(deadline.into(), receiver).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(_)) | Err(_) => Err(late()),
        }
    }

    async fn open_now(
        &self,
        pool: &Pool,
        tenant: &Tenant,
        loaded: Arc<Loaded>,
        budget: OwnedSemaphorePermit,
    ) -> Result<Connection, PoolError> {
        let PoolSettings { life, per_principal, .. } = self.settings;
        let open = |loaded, budget| {
            Connection::open(loaded, life.begin(), per_principal.saturating_sub(1), budget, self.metrics.clone())
        };
        let opened: Result<Connection, OpenError> = match open(loaded.clone(), budget).await {
            Err(error) if error.is_refused() => {
                self.reload(tenant, &loaded).await;
                let fresh = pool.loaded.load_full().unwrap_or(loaded);
                let budget = self.budget.take(|| self.close_longest_idle(), self.settings.wait).await;
                open(fresh, budget.ok_or(PoolError::Busy)?).await
            }
            other => other,
        };
        match opened {
            Ok(connection) => {
                pool.database.worked();
                Ok(connection)
            }
            Err(error) => {
                let error = error.to_string();
                pool.database.failed(error.clone());
                Err(PoolError::Open(error))
            }
        }
    }

    /// Makes room in the budget: closes the connection that has been idle for longest, of all tenants.
    fn close_longest_idle(&self) {
        let pools = locked(&self.pools);
        let oldest = pools
            .values()
            .filter_map(|pool| Some((locked(&pool.idle).first()?.since, pool)))
            .min_by_key(|(since, _)| *since);
        if let Some((_, pool)) = oldest {
            pool.close_one();
        }
    }

    /// Closes connections that have been idle for too long, and forgets the pools of tenants that are not served any more.
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
            in_use
                || !idle.is_empty()
                || pool.throttle.has_charges(Instant::now())
                || (served && locked(&pool.used).elapsed() < self.settings.idle)
        });
    }

    /// Closes all idle connections, and waits, for at most `limit`, until the statements that still run have ended at the
    /// server.
    pub async fn close(&self, limit: Duration) {
        locked(&self.pools).clear();
        self.endings.over(limit).await;
    }
}

/// The error of a wait that took too long: `waited_for` while statements of the tenant run, otherwise the database that
/// does not answer.
fn busy(pool: &Pool, waited_for: PoolError) -> PoolError {
    if !pool.working.is_empty() {
        return waited_for;
    }
    if !pool.opening.is_empty() {
        return PoolError::Open("connections are being opened and the database does not answer".to_owned());
    }
    pool.database.check().map_or_else(PoolError::CircuitOpen, |()| waited_for)
}
