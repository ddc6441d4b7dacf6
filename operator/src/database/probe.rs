//! The login probe: does the gateway's way into the database work, and does it lead nowhere else?

use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgDatabaseError};
use storefence_tenancy::{
    TenantId,
    context::{self, Ticket},
    credentials::ContextKey,
    scope::StoreSet,
};

use super::{Database, DatabaseError, TenantLock};
use crate::{credentials::Password, reason::Reason};

/// Life of the probe's own context, in seconds of the server's clock.
const LIFETIME_SECONDS: i64 = 30;

/// What the probe found.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The database does not let the login in.
    #[error("login {login} is refused with the password in Key Vault: {problem}; the operator sets a new one")]
    Refused {
        /// The role.
        login: String,
        /// PostgreSQL's message.
        problem: String,
    },
    /// The login is more than it should be.
    #[error("login {login} {deviation}; take that away from it: the tenant is not served as it is")]
    Deviation {
        /// The role.
        login: String,
        /// What it is or has.
        deviation: &'static str,
    },
    /// A call through the fence fails.
    #[error("login {login} cannot ask through the fence: {problem}; run storefence-operator verify")]
    Fence {
        /// The role.
        login: String,
        /// PostgreSQL's message.
        problem: String,
    },
    /// The fence shows another number of stores than the spec has.
    #[error(
        "login {login} sees {found} stores through the fence, the spec has {expected}; run storefence-operator verify"
    )]
    Stores {
        /// The role.
        login: String,
        /// Seen.
        found: i64,
        /// In the spec.
        expected: usize,
    },
    /// No session of the login is left, and none is in use either.
    #[error(
        "login {login} may open no session: its CONNECTION LIMIT is reached; raise spec.gateway.connectionLimit, or \
         ALTER ROLE {login} CONNECTION LIMIT -1"
    )]
    Full {
        /// The role.
        login: String,
    },
    /// The database is away.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl ProbeError {
    /// The reason in conditions, events and metrics.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Database(error) => error.reason(),
            _ => Reason::LoginProbeFailed,
        }
    }
}

/// What became of an attempt to log in.
pub enum Entry {
    /// The login is in.
    Session(PgConnection),
    /// The password is right, and the login may not enter this database.
    NotHere,
    /// The password is right, and as many sessions of the login are open as its `CONNECTION LIMIT` allows.
    Full,
    /// The login or its password is refused.
    Refused,
}

/// What a probe uses: exactly what the gateway will use.
pub struct Credentials<'a> {
    pub login: &'a str,
    /// Its password, from the vault.
    pub password: &'a Password,
    /// Key id.
    pub kid: u32,
    /// The context key, from the vault.
    pub key: &'a ContextKey,
}

impl Database {
    /// Whether the password lets the login in. Writes nothing.
    ///
    /// # Errors
    /// [`DatabaseError`] when the server gives no answer to that.
    pub async fn try_password(&self, login: &str, password: &Password) -> Result<Entry, DatabaseError> {
        match self.connect(login, password).await {
            Ok(session) => Ok(Entry::Session(session)),
            // Let in, and then not into this database: CONNECT comes with the membership, which may have been revoked.
            Err(ProbeError::Database(DatabaseError::InsufficientPrivileges { .. })) => Ok(Entry::NotHere),
            Err(ProbeError::Full { .. }) => Ok(Entry::Full),
            Err(ProbeError::Database(error)) => Err(error),
            Err(_) => Ok(Entry::Refused),
        }
    }

    /// One call as the gateway makes it, and a look at what else the login could do. `stores` is the number of stores
    /// that the tenant has; `session` is one that the login has opened since it was last changed.
    ///
    /// # Errors
    /// [`ProbeError`].
    pub async fn probe(
        &self,
        lock: &mut TenantLock,
        credentials: &Credentials<'_>,
        tenant: &TenantId,
        stores: usize,
        session: Option<PgConnection>,
    ) -> Result<(), ProbeError> {
        let login = credentials.login;
        let administrator = lock.connection()?;
        let mut session = match session {
            Some(session) => session,
            None => match self.connect(login, credentials.password).await {
                Ok(session) => session,
                Err(full @ ProbeError::Full { .. }) => return self.probe_full(administrator, login, full).await,
                Err(error) => return Err(error),
            },
        };
        let outcome = self.within("probe", async {
            if let Some(deviation) = deviation(administrator, login).await? {
                return Ok(Err(ProbeError::Deviation { login: login.to_owned(), deviation }));
            }
            let found = match call(&mut session, credentials, tenant).await {
                Ok(found) => found,
                // What the fence refuses is the probe's finding, and no answer about the database.
                Err(error @ sqlx::Error::Database(_)) => return Ok(Err(self.classify(login, error))),
                Err(error) => return Err(error),
            };
            if usize::try_from(found).ok() == Some(stores) {
                return Ok(Ok(()));
            }
            Ok(Err(ProbeError::Stores { login: login.to_owned(), found, expected: stores }))
        });
        let outcome = outcome.await.map_err(ProbeError::from).flatten();
        self.part(session).await;
        outcome
    }

    /// What can be said of a login that has all its sessions in use: the gateway's calls go through them, and the password
    /// was right, which PostgreSQL checks before it counts.
    async fn probe_full(
        &self,
        administrator: &mut PgConnection,
        login: &str,
        full: ProbeError,
    ) -> Result<(), ProbeError> {
        let outcome = self.within("probe", async {
            if let Some(deviation) = deviation(administrator, login).await? {
                return Ok(Err(ProbeError::Deviation { login: login.to_owned(), deviation }));
            }
            let used = "SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE usename = $1)";
            let used: bool = sqlx::query_scalar(used).bind(login).fetch_one(administrator).await?;
            Ok(if used { Ok(()) } else { Err(full) })
        });
        outcome.await.map_err(ProbeError::from).flatten()
    }

    /// Ends a login's session: a courtesy to the server's log.
    pub async fn part(&self, session: PgConnection) {
        let _ = tokio::time::timeout(self.deadline(), session.close()).await;
    }

    async fn connect(&self, login: &str, password: &Password) -> Result<PgConnection, ProbeError> {
        let options = self.options_for(login, password.expose());
        let refused = |problem: String| ProbeError::Refused { login: login.to_owned(), problem };
        let attempt = self.within("login", async {
            match options.connect().await {
                Ok(connection) => Ok(Ok(connection)),
                // 28P01 wrong password, 28000 not permitted to log in.
                Err(sqlx::Error::Database(error)) if matches!(error.code().as_deref(), Some("28P01" | "28000")) => {
                    Ok(Err(refused(error.message().to_owned())))
                }
                Err(sqlx::Error::Database(error)) if is_full(&*error) => {
                    Ok(Err(ProbeError::Full { login: login.to_owned() }))
                }
                Err(error) => Err(error),
            }
        });
        attempt.await?
    }

    fn classify(&self, login: &str, error: sqlx::Error) -> ProbeError {
        match self.error(error) {
            error @ DatabaseError::Unreachable { .. } => error.into(),
            error => ProbeError::Fence { login: login.to_owned(), problem: error.to_string() },
        }
    }
}

/// Whether the login's own limit refuses the session. 53300 is also the code of a server that is full; what distinguishes them
/// in every language is the function of PostgreSQL that reports it (`src/backend/utils/init/miscinit.c`).
fn is_full(error: &dyn sqlx::error::DatabaseError) -> bool {
    let routine = error.try_downcast_ref::<PgDatabaseError>().and_then(PgDatabaseError::routine);
    error.code().as_deref() == Some("53300") && routine == Some("InitializeSessionUserId")
}

/// The first thing that a tenant's login must not be or have. Asked for by the administrator, whose session has planned the
/// statement before and holds what it reads of the catalogs: in the login's own, which is new, it would take longer than the call.
async fn deviation(administrator: &mut PgConnection, login: &str) -> Result<Option<&'static str>, sqlx::Error> {
    const CHECKS: [&str; 7] = [
        "is superuser",
        "bypasses row-level security",
        "may create roles, create databases or replicate",
        "is not a member of fence_login alone",
        "owns database objects",
        "can read the tables of schema retail past the fence",
        "can create objects in this database",
    ];
    let found: Vec<bool> = sqlx::query_scalar(
        r"SELECT ARRAY[
            r.rolsuper,
            r.rolbypassrls,
            r.rolcreaterole OR r.rolcreatedb OR r.rolreplication,
            (SELECT coalesce(array_agg(DISTINCT m.roleid::regrole::text), '{}') FROM pg_catalog.pg_auth_members m WHERE m.member = r.oid)
              <> ARRAY['fence_login'],
            EXISTS (SELECT FROM pg_catalog.pg_shdepend d
                     WHERE d.refclassid = 'pg_catalog.pg_authid'::regclass AND d.refobjid = r.oid AND d.deptype = 'o'),
            EXISTS (SELECT FROM pg_catalog.pg_class c
                     WHERE c.relnamespace IN ('retail'::regnamespace, 'fence'::regnamespace) AND c.relkind IN ('r', 'p', 'v', 'm')
                       AND (has_table_privilege(r.oid, c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
                            OR has_any_column_privilege(r.oid, c.oid, 'SELECT, INSERT, UPDATE, REFERENCES'))),
            has_database_privilege(r.oid, current_database(), 'CREATE, TEMP')
              OR has_schema_privilege(r.oid, 'retail', 'CREATE') OR has_schema_privilege(r.oid, 'fence', 'CREATE')
          ]
          FROM pg_catalog.pg_roles r WHERE r.rolname = $1",
    )
    .bind(login)
    .fetch_one(administrator)
    .await?;
    Ok(found.iter().zip(CHECKS).find_map(|(found, text)| found.then_some(text)))
}

/// One call: ticket, signed context for all stores, a count through `fence.run_query`.
async fn call(
    connection: &mut PgConnection,
    credentials: &Credentials<'_>,
    tenant: &TenantId,
) -> Result<i64, sqlx::Error> {
    let (ticket, pid, epoch): (i64, i32, i64) =
        sqlx::query_as("SELECT ticket, pid, epoch FROM fence.ticket()").fetch_one(&mut *connection).await?;
    let ticket = Ticket { ticket, pid, epoch };
    let signed =
        context::sign(credentials.key, credentials.kid, tenant, ticket, epoch + LIFETIME_SECONDS, &StoreSet::All);
    sqlx::raw_sql("BEGIN READ ONLY").execute(&mut *connection).await?;
    let line: String = sqlx::query_scalar("SELECT line FROM fence.run_query($1, $2, 1, 1000)")
        .bind(signed)
        .bind("SELECT count(*) AS stores FROM retail.stores")
        .fetch_one(&mut *connection)
        .await?;
    sqlx::raw_sql("ROLLBACK").execute(&mut *connection).await?;
    let value: serde_json::Value = serde_json::from_str(&line).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    Ok(value["stores"].as_i64().unwrap_or(-1))
}
