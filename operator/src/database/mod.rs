//! A configured database as the operator uses it: one administrator pool, migrations before anything else, and one
//! advisory lock per tenant.

pub mod apply;
mod error;
pub mod fence;
pub mod observe;
pub mod probe;
pub mod revoke;
pub mod sql;
pub mod unclaimed;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgDatabaseError, PgPool, PgPoolOptions, Postgres},
};
use storefence_tenancy::TenantId;

pub use error::DatabaseError;
use error::is_unavailable;

use crate::{
    circuit::{Circuit, CircuitPolicy},
    config::{DatabaseConfig, Endpoint},
    leader::Leadership,
    metrics::Metrics,
    migrate,
    verify::Expectations,
};

/// Idle administrator connections are kept this long.
const IDLE: Duration = Duration::from_secs(60);

/// Longest migration: an index over a tenant's products takes its time.
const MIGRATION_MAX: Duration = Duration::from_secs(1800);

/// Bounds of the work at one database.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Passes at a time over the tenants of one database and Key Vault, each with one connection.
    pub concurrency: u16,
    /// Longest wait for one answer.
    pub deadline: Duration,
    /// How old a look at the whole fence may be.
    pub fence_age: Duration,
    /// When calls are held back.
    pub circuit: CircuitPolicy,
    /// Whether this process may write.
    pub leadership: Leadership,
}

/// One configured database.
pub struct Database {
    options: PgConnectOptions,
    endpoint: Endpoint,
    fingerprint: [u8; 32],
    expectations: Expectations,
    pool: PgPool,
    deadline: Duration,
    salt: RwLock<Option<Arc<[u8]>>>,
    migrating: tokio::sync::Mutex<()>,
    migration_waits: Mutex<Option<String>>,
    fence_age: Duration,
    last_look: tokio::sync::Mutex<fence::LastLook>,
    looks: AtomicU64,
    circuit: Circuit<String>,
    refused: AtomicBool,
    metrics: Arc<Metrics>,
    leadership: Leadership,
}

impl Database {
    /// Sets up the pool; connects to nothing yet. `queues` is the number of groups of tenants that may each use as many
    /// connections as the limits say.
    #[must_use]
    pub fn new(name: &str, config: &DatabaseConfig, limits: Limits, lanes: usize, metrics: &Arc<Metrics>) -> Self {
        let Limits { concurrency, deadline, fence_age, circuit, leadership } = limits;
        let options = config.options.clone().application_name("storefence-operator");
        let lanes = u32::try_from(lanes.max(1)).unwrap_or(u32::MAX);
        // What waits for another session's lock gives up before the call's deadline, and is distinguished from a server that is
        // away; what the operator has given up does not go on at the server. A pass looks up single rows by key, with the
        // same few statements again and again: planned once, and by the indexes whatever the server knows of the tables. What has no index looks dear then: not to
        // be compiled for that.
        let settings = format!(
            "SET quote_all_identifiers = off; SET row_security = on; SET lock_timeout = {}; SET statement_timeout = {}; \
             SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET jit = off",
            deadline.as_millis() / 2,
            deadline.as_millis()
        );
        let pool = PgPoolOptions::new()
            .max_connections(u32::from(concurrency).saturating_mul(lanes).saturating_add(2))
            // Before the deadline of the call, to distinguish it from a server that does not answer.
            .acquire_timeout(deadline * 9 / 10)
            .idle_timeout(IDLE)
            .after_connect(move |connection, _| {
                let settings = settings.clone();
                // Audited: two numbers.
                Box::pin(async move { sqlx::raw_sql(AssertSqlSafe(settings)).execute(connection).await.map(drop) })
            })
            .connect_lazy_with(options.clone());
        Self {
            options,
            endpoint: config.endpoint.clone(),
            fingerprint: config.fingerprint,
            expectations: config.expectations.clone(),
            pool,
            deadline,
            salt: RwLock::default(),
            migrating: tokio::sync::Mutex::default(),
            migration_waits: Mutex::default(),
            fence_age,
            last_look: tokio::sync::Mutex::default(),
            looks: AtomicU64::new(0),
            circuit: Circuit::new(circuit, metrics.circuit("database", name)),
            refused: AtomicBool::new(false),
            metrics: Arc::clone(metrics),
            leadership,
        }
    }

    /// Whether this process may still write here. The tenant's lock keeps a replica that stood still from writing beside
    /// its successor for as long as the session lives; this reports it before it tries.
    pub(crate) fn may_write(&self) -> Result<(), DatabaseError> {
        let place = || self.place();
        self.leadership.check().map_err(|error| DatabaseError::Locked { place: place(), problem: error.to_string() })
    }

    /// Whether the server has refused the administrator's password: it may have been changed.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Whether it was set up from this configuration.
    #[must_use]
    pub fn is_of(&self, config: &DatabaseConfig) -> bool {
        self.fingerprint == config.fingerprint
    }

    /// Where the tenants' logins connect to.
    #[must_use]
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// How a tenant's login connects: as the administrator does, TLS roots included, but as somebody else.
    #[must_use]
    pub fn options_for(&self, login: &str, password: &str) -> PgConnectOptions {
        self.options.clone().username(login).password(password).application_name("storefence-probe")
    }

    /// Longest wait for one answer.
    #[must_use]
    pub const fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Migrates the database, once per process unless it is replaced meanwhile; then gives the salt of its role names.
    ///
    /// # Errors
    /// The next call tries again. A replica that does not lead migrates nothing.
    pub async fn ready(&self) -> Result<Arc<[u8]>, DatabaseError> {
        if let Some(salt) = self.known_salt() {
            return Ok(salt);
        }
        // One at a time; who waits for longer than a call may take comes back.
        let Ok(_migrating) = tokio::time::timeout(self.deadline, self.migrating.lock()).await else {
            let place = self.place();
            return Err(match self.migration_waits().clone() {
                Some(problem) => DatabaseError::Migration { place, source: migrate::MigrateError::Locked(problem) },
                None => DatabaseError::Locked { place, problem: "its migrations are under way".to_owned() },
            });
        };
        if let Some(salt) = self.known_salt() {
            return Ok(salt);
        }
        let salt = self.migrate().await?;
        *self.migration_waits() = None;
        *self.salt.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&salt));
        Ok(salt)
    }

    /// For what a migration waits that is under way.
    fn migration_waits(&self) -> MutexGuard<'_, Option<String>> {
        self.migration_waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether its migrations have run.
    #[must_use]
    pub fn is_migrated(&self) -> bool {
        self.known_salt().is_some()
    }

    fn known_salt(&self) -> Option<Arc<[u8]>> {
        self.salt.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was learnt of the database holds no longer: it is migrated and looked at again.
    fn forget(&self) {
        *self.salt.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.looks.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a database is the one that was migrated, by the salt of its role names in hexadecimal.
    pub(crate) fn recognise(&self, salt: Option<&str>) -> Result<(), DatabaseError> {
        let hex = |known: &[u8]| known.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        match (self.known_salt(), salt) {
            (Some(known), Some(found)) if hex(&known) != found => {
                self.forget();
                Err(DatabaseError::Replaced {
                    place: self.place(),
                    problem: "its salt of role names is another one".to_owned(),
                })
            }
            _ => Ok(()),
        }
    }

    async fn migrate(&self) -> Result<Arc<[u8]>, DatabaseError> {
        self.may_write()?;
        // Over a connection of its own, which the pool's time limits do not bind.
        let mut connection = self.within("connect", self.options.connect()).await?;
        self.within("migrate", connection.ping()).await?;
        let started = Instant::now();
        let waits = |problem: &str| *self.migration_waits() = Some(problem.to_owned());
        let outcome = tokio::time::timeout(MIGRATION_MAX, migrate::run_reporting(&mut connection, &waits)).await;
        let (outcome, label) = match outcome {
            Ok(Ok(report)) => (Ok(report), "ok"),
            Ok(Err(migrate::MigrateError::Unreachable(error))) => (Err(self.error(error)), "unavailable"),
            Ok(Err(source)) => (Err(DatabaseError::Migration { place: self.place(), source }), "refused"),
            Err(_) => {
                let problem = format!("migrations did not end within {} s", MIGRATION_MAX.as_secs());
                (Err(DatabaseError::Unreachable { place: self.place(), problem }), "unavailable")
            }
        };
        self.metrics.database_call("migrate", label, started.elapsed());
        let report = outcome?;
        // A courtesy to the server's log.
        let _ = tokio::time::timeout(self.deadline, connection.close()).await;
        if !report.applied.is_empty() {
            tracing::info!(database = self.place(), applied = ?report.applied, "migrated");
        }
        self.salt().await
    }

    /// The salt of the role names, of a database that is migrated already.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn salt(&self) -> Result<Arc<[u8]>, DatabaseError> {
        let read = sqlx::query_scalar::<_, Vec<u8>>("SELECT value FROM fence.settings WHERE name = 'role_salt'");
        let mut connection = self.acquire().await?;
        let salt = self.within("observe", read.fetch_one(&mut *connection)).await?;
        Ok(Arc::from(salt))
    }

    /// Takes the tenant's lock; `None` if another session has it. It is given back by [`TenantLock::release`], and with
    /// the connection in any other case.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn lock(&self, tenant: &TenantId) -> Result<Option<TenantLock>, DatabaseError> {
        let key = format!("storefence/{tenant}");
        let mut guard = TenantLock {
            connection: Some(self.acquire().await?),
            key: key.clone(),
            deadline: self.deadline,
            in_doubt: false,
        };
        let connection = guard.connection()?;
        let take = sqlx::query_as::<_, (bool, bool, bool)>(
            "SELECT pg_try_advisory_lock(hashtextextended($1, 0)), pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'",
        );
        let (taken, in_recovery, read_only) = self.within("lock", take.bind(key).fetch_one(connection)).await?;
        // With nothing to write a pass would find all in order, where no call can be answered: each draws a ticket.
        if let Some(why) = migrate::why_read_only(in_recovery, read_only) {
            if taken {
                guard.release().await;
            }
            return Err(DatabaseError::ReadOnly { place: self.place(), problem: why.to_owned() });
        }
        if taken {
            return Ok(Some(guard));
        }
        // Not taken, so there is nothing to give back: the connection may return to the pool.
        drop(guard.connection.take());
        Ok(None)
    }

    /// A connection of the administrator.
    ///
    /// # Errors
    /// [`DatabaseError::Unreachable`].
    pub async fn acquire(&self) -> Result<PoolConnection<Postgres>, DatabaseError> {
        self.within("connect", self.pool.acquire()).await
    }

    /// What holds calls back while the server is away.
    #[must_use]
    pub const fn circuit(&self) -> &Circuit<String> {
        &self.circuit
    }

    /// Tries whether the server takes calls again.
    pub async fn try_again(&self) {
        // The circuit hears of the outcome.
        let _ = self.acquire().await;
    }

    /// Ends the pool.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Runs one call within the deadline, unless calls are held back; counts it and classifies its error.
    pub(crate) async fn within<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, DatabaseError> {
        self.guarded(operation, async { call.await.map_err(|error| self.error(error)) }).await
    }

    /// The same for a call that classifies its errors itself.
    pub(crate) async fn guarded<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, DatabaseError>>,
    ) -> Result<T, DatabaseError> {
        let permit =
            self.circuit.enter().map_err(|problem| DatabaseError::Unreachable { place: self.place(), problem })?;
        let started = Instant::now();
        let outcome = match tokio::time::timeout(self.deadline, call).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let problem = format!("no answer within {} ms", self.deadline.as_millis());
                Err(DatabaseError::Unreachable { place: self.place(), problem })
            }
        };
        let label = match &outcome {
            Ok(_) => "ok",
            Err(DatabaseError::Unreachable { .. }) => "unavailable",
            Err(DatabaseError::InsufficientPrivileges { .. }) => "forbidden",
            Err(_) => "refused",
        };
        self.metrics.database_call(operation, label, started.elapsed());
        match &outcome {
            Err(DatabaseError::Unreachable { problem, .. }) => permit.failed(problem.clone()),
            _ => permit.answered(),
        }
        outcome
    }

    pub(crate) fn error(&self, error: sqlx::Error) -> DatabaseError {
        let place = self.place();
        match error {
            sqlx::Error::Database(error) => {
                let code = error.code().unwrap_or_default().into_owned();
                if matches!(code.as_str(), "28P01" | "28000") {
                    self.refused.store(true, Ordering::Relaxed);
                }
                let mut problem = format!("{} (SQLSTATE {code})", error.message());
                // Which attribute or role it is about stands in the detail.
                if let Some(detail) = error.try_downcast_ref::<PgDatabaseError>().and_then(PgDatabaseError::detail) {
                    problem = format!("{problem}: {}", detail.replace('\n', ", "));
                }
                match code.as_str() {
                    // undefined_table, invalid_schema_name
                    "42P01" | "3F000" => {
                        self.forget();
                        DatabaseError::Replaced { place, problem }
                    }
                    "25006" => DatabaseError::ReadOnly { place, problem },
                    "2BP01" => DatabaseError::DependentObjects { place, problem },
                    "42501" => DatabaseError::InsufficientPrivileges { place, problem },
                    // lock_not_available, deadlock_detected, serialization_failure
                    "55P03" | "40P01" | "40001" => DatabaseError::Locked { place, problem },
                    code if is_unavailable(code) => DatabaseError::Unreachable { place, problem },
                    _ => DatabaseError::Query { place, problem },
                }
            }
            sqlx::Error::PoolTimedOut => DatabaseError::Unreachable {
                place,
                problem: "no connection in time: it is down, starting up, or all of max_connections are taken"
                    .to_owned(),
            },
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::RowNotFound => {
                DatabaseError::Query { place, problem: error.to_string() }
            }
            error => DatabaseError::Unreachable { place, problem: error.to_string() },
        }
    }

    pub(super) fn place(&self) -> String {
        let Endpoint { host, port, database, .. } = &self.endpoint;
        format!("{host}:{port}/{database}")
    }
}

/// The lock on one tenant and the connection that holds it.
pub struct TenantLock {
    connection: Option<PoolConnection<Postgres>>,
    key: String,
    deadline: Duration,
    /// A transaction may be open.
    in_doubt: bool,
}

impl TenantLock {
    /// The connection, for the work under the lock.
    ///
    /// # Errors
    /// Never while the lock is held.
    pub fn connection(&mut self) -> Result<&mut PgConnection, DatabaseError> {
        match &mut self.connection {
            Some(connection) => Ok(connection),
            None => {
                Err(DatabaseError::Query { place: self.key.clone(), problem: "the lock was given back".to_owned() })
            }
        }
    }

    /// Gives the lock back and the connection to the pool.
    pub async fn release(mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        if self.in_doubt {
            drop(connection.detach());
            return;
        }
        let unlock = sqlx::query("SELECT pg_advisory_unlock(hashtextextended($1, 0))").bind(&self.key);
        let unlocked = tokio::time::timeout(self.deadline, unlock.execute(&mut *connection)).await;
        if !matches!(unlocked, Ok(Ok(_))) {
            drop(connection.detach());
        }
    }
}

impl Drop for TenantLock {
    /// A pass that was cut short: the session ends, and its lock with it.
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            drop(connection.detach());
        }
    }
}
