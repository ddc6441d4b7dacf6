//! Per-tenant pools: opened on first use, closed when idle, under one budget for all.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use storefence_tenancy::TenantId;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, oneshot};

use super::{
    budget::Budget,
    connection::{Connection, OpenError},
    credentials::{Loaded, Loader},
    ending::Endings,
    lease::{Lease, Places, Pool, locked},
    life::Span,
    shares::Weight,
};
use crate::{identity::PrincipalId, metrics::Metrics, tenants::Tenant};

/// Sizes and times of the pools.
#[derive(Clone, Copy, Debug)]
pub struct PoolSettings {
    /// Most connections of one tenant.
    pub per_tenant: usize,
    /// Most of them of one principal, and most processes of one statement, parallel workers included.
    pub per_principal: u32,
    /// Most of them for those whose statements ran long lately.
    pub long_per_tenant: usize,
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
/// Longest wait for a tenant's secrets, until the vault counts as away.
const READ_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a call waits for new credentials where the former ones still work.
const ROTATION_WAIT: Duration = Duration::from_secs(1);

/// Why no connection is to be had. The text is for the log.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// All connections stayed busy for the whole wait.
    #[error("all connections are busy")]
    Busy,
    /// So did those that one principal may have.
    #[error("all connections of this principal are busy")]
    PrincipalBusy,
    /// Statements of this principal ran long lately, and others that did have their turn.
    #[error("statements that ran long lately run one after the other")]
    Throttled,
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

/// A new connection, with the slot that it takes.
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

    /// Whether this principal's statements ran long lately, and have to take turns.
    #[must_use]
    pub fn takes_turns(&self, tenant: &Tenant, principal: PrincipalId) -> bool {
        self.pool(tenant.id()).turns.takes(principal, Instant::now())
    }

    /// Lends a connection of the tenant's login that is in force to a principal, for a statement of such a weight or of less
    /// ([`Lease::weight`]). What takes longer than to the deadline, reading secrets or opening a connection, goes on without
    /// the caller: otherwise a short deadline would never learn that something is away, and never get a connection that
    /// takes a little longer to open.
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
        // Before a connection is waited for: who waits for its own statements, or for a turn, holds none of those that others
        // could use.
        let share = tokio::time::timeout_at(wait_until.into(), pool.shares.take(principal, weight)).await;
        let Ok(Some((share, weight))) = share else { return Err(busy(&pool, PoolError::PrincipalBusy)) };
        let turn = if pool.turns.takes(principal, started) {
            let turn = tokio::time::timeout_at(wait_until.into(), pool.turns.next()).await;
            self.metrics.turns.with_label_values(&[if turn.is_ok() { "taken" } else { "refused" }]).inc();
            turn.map_err(|_| busy(&pool, PoolError::Throttled))?
        } else {
            None
        };
        let of_its_own = ready.elapsed();
        self.metrics.principal_wait.observe(of_its_own.as_secs_f64());
        let waiting = tokio::time::timeout_at(wait_until.into(), pool.slots.clone().acquire_owned());
        let Ok(Ok(slot)) = waiting.await else { return Err(busy(&pool, PoolError::Busy)) };
        // Others may have come with newer ones while this call waited.
        let loaded = pool.loaded.load_full().unwrap_or(loaded);
        let (connection, slot, reused) = match pool.take_idle(&loaded) {
            Some(connection) => (connection, slot, true),
            None => {
                pool.database.check().map_err(PoolError::CircuitOpen)?;
                let patience = wait_until.saturating_duration_since(Instant::now());
                let place = self.budget.take(|| self.close_longest_idle(), patience).await.ok_or(PoolError::Busy)?;
                let (connection, slot) = self.open(&pool, tenant, loaded, (slot, place), deadline).await?;
                (connection, slot, false)
            }
        };
        self.metrics.pool_wait.observe((started.elapsed() - of_its_own).as_secs_f64());
        let places = Places { share, slot, turn, working: pool.working.token() };
        Ok(Lease::new(connection, pool, reused, places, weight, principal, &self.metrics))
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
        // What was read before a rotation works until its overlap ends.
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
                // Another call reads them.
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

    /// Reads secrets. With the attempts that the client makes by itself a vault that hangs would take half a minute.
    async fn load(&self, tenant: &Tenant) -> Result<Loaded, String> {
        match tokio::time::timeout(READ_TIMEOUT, self.loader.load(tenant)).await {
            Ok(read) => read.map_err(|error| error.to_string()),
            Err(_) => {
                self.metrics.secrets.with_label_values(&["error"]).inc();
                Err("Key Vault did not answer in time".to_owned())
            }
        }
    }

    /// Reads what is in force.
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

    /// Opens a connection; one that comes after the deadline is kept for the next call.
    async fn open(
        self: &Arc<Self>,
        pool: &Arc<Pool>,
        tenant: &Tenant,
        loaded: Arc<Loaded>,
        (slot, place): (OwnedSemaphorePermit, OwnedSemaphorePermit),
        deadline: Instant,
    ) -> Opened {
        let (sender, receiver) = oneshot::channel();
        let (pools, pool, tenant) = (self.clone(), pool.clone(), tenant.clone());
        // Counted before the task begins: who waits meanwhile is told what for.
        let opening = pool.opening.token();
        tokio::spawn(async move {
            let opened = pools.open_now(&pool, &tenant, loaded, place).await;
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
        place: OwnedSemaphorePermit,
    ) -> Result<Connection, PoolError> {
        let PoolSettings { life, per_principal, .. } = self.settings;
        let open = |loaded, place| {
            Connection::open(loaded, life.begin(), per_principal.saturating_sub(1), place, self.metrics.clone())
        };
        let opened: Result<Connection, OpenError> = match open(loaded.clone(), place).await {
            Err(error) if error.is_refused() => {
                self.reload(tenant, &loaded).await;
                let fresh = pool.loaded.load_full().unwrap_or(loaded);
                let place = self.budget.take(|| self.close_longest_idle(), self.settings.wait).await;
                open(fresh, place.ok_or(PoolError::Busy)?).await
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

    /// Makes room: the tenant that has not used a connection for longest gives one up.
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
            in_use
                || !idle.is_empty()
                || pool.turns.remember(Instant::now())
                || (served && locked(&pool.used).elapsed() < self.settings.idle)
        });
    }

    /// Closes everything that is idle, and waits, at most so long, until what still runs has ended at the server.
    pub async fn close(&self, limit: Duration) {
        locked(&self.pools).clear();
        self.endings.over(limit).await;
    }
}

/// What has been waited for in vain; or the database is away, where connections are waited for and no statement is at
/// work on one.
fn busy(pool: &Pool, waited_for: PoolError) -> PoolError {
    if !pool.working.is_empty() {
        return waited_for;
    }
    if !pool.opening.is_empty() {
        return PoolError::Open("connections are being opened and the database does not answer".to_owned());
    }
    pool.database.check().map_or_else(PoolError::CircuitOpen, |()| waited_for)
}
