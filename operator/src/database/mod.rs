//! A configured database as the operator uses it: one administrator pool, migrations before anything else, and one
//! advisory lock per tenant.

pub mod apply;
pub mod fence;
pub mod observe;
pub mod revoke;
pub mod sql;

use std::{sync::Arc, time::Duration};

use sqlx::{
    PgConnection,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgDatabaseError, PgPool, PgPoolOptions, Postgres},
};
use storefence_tenancy::TenantId;
use tokio::sync::OnceCell;

use crate::{
    config::{DatabaseConfig, Endpoint},
    errors::Reason,
    migrate,
    verify::Expectations,
};

/// Idle administrator connections are kept this long.
const IDLE: Duration = Duration::from_secs(60);

/// What went wrong at a database, as administrator.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// No connection, or it was lost.
    #[error("database {place} cannot be reached: {problem}; the operator keeps trying")]
    Unreachable {
        /// `host:port/database`.
        place: String,
        /// The driver's words.
        problem: String,
    },
    /// The administrator lacks a right.
    #[error("the administrator of database {place} lacks a privilege: {problem}")]
    InsufficientPrivileges {
        /// `host:port/database`.
        place: String,
        /// PostgreSQL's words.
        problem: String,
    },
    /// The migrations failed.
    #[error("database {place}: {source}")]
    Migration {
        /// `host:port/database`.
        place: String,
        /// Why.
        source: migrate::MigrateError,
    },
    /// Any other error.
    #[error("database {place} answered: {problem}")]
    Query {
        /// `host:port/database`.
        place: String,
        /// PostgreSQL's words, with the SQLSTATE.
        problem: String,
    },
}

impl DatabaseError {
    /// The word for conditions, events and metrics.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Unreachable { .. } => Reason::DatabaseUnreachable,
            Self::InsufficientPrivileges { .. } => Reason::InsufficientPrivileges,
            Self::Migration { source, .. } => match source {
                migrate::MigrateError::Unreachable(_) => Reason::DatabaseUnreachable,
                migrate::MigrateError::InsufficientPrivileges(_) => Reason::InsufficientPrivileges,
                _ => Reason::MigrationFailed,
            },
            Self::Query { .. } => Reason::DatabaseError,
        }
    }
}

/// Bounds of the work at one database.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Passes at a time, each with one connection.
    pub concurrency: u16,
    /// Longest wait for one answer.
    pub deadline: Duration,
    /// How old a look at the whole fence may be.
    pub fence_age: Duration,
}

/// One configured database.
pub struct Database {
    options: PgConnectOptions,
    endpoint: Endpoint,
    fingerprint: [u8; 32],
    expectations: Expectations,
    pool: PgPool,
    deadline: Duration,
    salt: OnceCell<Arc<[u8]>>,
    fence_age: Duration,
    last_look: tokio::sync::Mutex<fence::LastLook>,
}

impl Database {
    /// Sets up the pool; connects to nothing yet.
    #[must_use]
    pub fn new(config: &DatabaseConfig, limits: Limits) -> Self {
        let Limits { concurrency, deadline, fence_age } = limits;
        let options = config.options.clone().application_name("storefence-operator");
        let pool = PgPoolOptions::new()
            .max_connections(u32::from(concurrency) + 2)
            .acquire_timeout(deadline)
            .idle_timeout(IDLE)
            .connect_lazy_with(options.clone());
        Self {
            options,
            endpoint: config.endpoint.clone(),
            fingerprint: config.fingerprint,
            expectations: config.expectations.clone(),
            pool,
            deadline,
            salt: OnceCell::new(),
            fence_age,
            last_look: tokio::sync::Mutex::default(),
        }
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

    /// Migrates the database, once per process; then gives the salt of its role names.
    ///
    /// # Errors
    /// The next call tries again.
    pub async fn ready(&self) -> Result<Arc<[u8]>, DatabaseError> {
        let salt = self.salt.get_or_try_init(|| async {
            // Migrations may take longer than a call; what bounds them is the server.
            let report = migrate::run(&self.options)
                .await
                .map_err(|source| DatabaseError::Migration { place: self.place(), source })?;
            if !report.applied.is_empty() {
                tracing::info!(database = self.place(), applied = ?report.applied, "migrated");
            }
            self.salt().await
        });
        salt.await.cloned()
    }

    /// The salt of the role names, of a database that is migrated already.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn salt(&self) -> Result<Arc<[u8]>, DatabaseError> {
        let read = sqlx::query_scalar::<_, Vec<u8>>("SELECT value FROM fence.settings WHERE name = 'role_salt'");
        let mut connection = self.acquire().await?;
        let salt = self.within(read.fetch_one(&mut *connection)).await?;
        Ok(Arc::from(salt))
    }

    /// Takes the tenant's lock; `None` if another session has it. It is given back by [`TenantLock::release`], and with
    /// the connection in any other case.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn lock(&self, tenant: &TenantId) -> Result<Option<TenantLock>, DatabaseError> {
        let mut guard = TenantLock { connection: Some(self.acquire().await?), key: format!("storefence/{tenant}") };
        let key = guard.key.clone();
        let connection = guard.connection()?;
        let take = sqlx::query_scalar::<_, bool>("SELECT pg_try_advisory_lock(hashtextextended($1, 0))").bind(key);
        if self.within(take.fetch_one(connection)).await? {
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
        self.pool.acquire().await.map_err(|error| self.error(error))
    }

    /// Ends the pool.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Runs one call within the deadline and classifies its error.
    pub(crate) async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, DatabaseError> {
        match tokio::time::timeout(self.deadline, call).await {
            Ok(outcome) => outcome.map_err(|error| self.error(error)),
            Err(_) => Err(DatabaseError::Unreachable {
                place: self.place(),
                problem: format!("no answer within {} ms", self.deadline.as_millis()),
            }),
        }
    }

    pub(crate) fn error(&self, error: sqlx::Error) -> DatabaseError {
        let place = self.place();
        match error {
            sqlx::Error::Database(error) => {
                let code = error.code().unwrap_or_default().into_owned();
                let mut problem = format!("{} (SQLSTATE {code})", error.message());
                // Which attribute or role it is about stands in the detail.
                if let Some(detail) = error.try_downcast_ref::<PgDatabaseError>().and_then(PgDatabaseError::detail) {
                    problem = format!("{problem}: {detail}");
                }
                match code.as_str() {
                    "42501" => DatabaseError::InsufficientPrivileges { place, problem },
                    code if is_unavailable(code) => DatabaseError::Unreachable { place, problem },
                    _ => DatabaseError::Query { place, problem },
                }
            }
            sqlx::Error::PoolTimedOut => DatabaseError::Unreachable {
                place,
                problem: format!("no connection within {} ms", self.deadline.as_millis()),
            },
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::RowNotFound => {
                DatabaseError::Query { place, problem: error.to_string() }
            }
            error => DatabaseError::Unreachable { place, problem: error.to_string() },
        }
    }

    fn place(&self) -> String {
        let Endpoint { host, port, database, .. } = &self.endpoint;
        format!("{host}:{port}/{database}")
    }
}

/// SQLSTATEs of a server that is there but takes no work now: connection exceptions, the administrator's own login
/// refused (its password is being rotated), no such database, resources, operator intervention, read-only standby.
fn is_unavailable(code: &str) -> bool {
    ["08", "28", "53", "57", "58"].iter().any(|class| code.starts_with(class)) || matches!(code, "3D000" | "25006")
}

/// The lock on one tenant and the connection that holds it.
pub struct TenantLock {
    connection: Option<PoolConnection<Postgres>>,
    key: String,
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
        let unlock = sqlx::query("SELECT pg_advisory_unlock(hashtextextended($1, 0))").bind(&self.key);
        if unlock.execute(&mut *connection).await.is_err() {
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
