//! Applies `migrations/` to a database: the retail schema and the fence.
//!
//! sqlx's migrator does the work: one transaction per migration, an advisory lock per database, and a checksum of every
//! migration in `fence.schema_history`. The SQL is part of this binary.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    time::{Duration, Instant},
};

use sqlx::{
    ConnectOptions, Connection, Row, SqlSafeStr,
    migrate::{MigrateError as SqlxError, Migration, MigrationType, Migrator},
    postgres::{PgConnectOptions, PgConnection},
};

/// Where the migrator keeps its history; in schema `fence`, because nobody but its owner may look into it.
const HISTORY_TABLE: &str = "fence.schema_history";

/// The oldest PostgreSQL whose role memberships have the options that the fence needs.
const OLDEST_SERVER: i32 = 160_000;

/// How often a migration is tried that met another database's migration on the roles they share.
const ATTEMPTS: u32 = 6;

/// The administrator's session as migrations and comparisons expect it, whatever is set for the role or the server. A
/// migration that waits for a lock makes every call wait that comes after it: for about a second, then it gives way.
const SESSION: &str = "SET quote_all_identifiers = off; SET row_security = on; SET lock_timeout = '1s'";

/// Pauses between attempts to get a lock: calls go on in between.
const LOCK_PAUSES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(10));

/// How long locks are asked for before a pass hears of it, which comes back; and before a person does.
const LOCK_DEADLINES: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(600));

/// Texts of migrations that databases have run and that were changed since: the version, the SHA-384 that the history
/// has of the former text, and why a database that ran it needs nothing more.
const FORMER: [(i64, &str, &str); 2] = [
    (
        1,
        "a75d183c291f6a4e0b4a41cc1691cd71251b2c3d3764794c59844d8144b58df6c51d4e4333b37346e758de8d3f56fd26",
        "looked up the administrator without quotes: it failed for a name that needs some, and did the same for any other",
    ),
    (
        12,
        "a73feae490ae4b60b4749114dda58be53a6a61c93dca7bc112bbce91a1c30698a716b14330dde8511ae0faebcbd6420b",
        "looked up the administrator without quotes: it failed for a name that needs some, and did the same for any other",
    ),
];

/// The migrations: version, name, SQL.
pub const MIGRATIONS: [(i64, &str, &str); 16] = [
    (1, "roles and schemas", include_str!("../../migrations/0001_roles_and_schemas.sql")),
    (2, "retail tables", include_str!("../../migrations/0002_retail_tables.sql")),
    (3, "fence tables", include_str!("../../migrations/0003_fence_tables.sql")),
    (4, "fence functions", include_str!("../../migrations/0004_fence_functions.sql")),
    (5, "policies and grants", include_str!("../../migrations/0005_policies_and_grants.sql")),
    (7, "product search", include_str!("../../migrations/0007_product_search.sql")),
    (8, "reports", include_str!("../../migrations/0008_reports.sql")),
    (9, "plan hash", include_str!("../../migrations/0009_plan_hash.sql")),
    (10, "search bits", include_str!("../../migrations/0010_search_bits.sql")),
    (11, "reports of one store", include_str!("../../migrations/0011_reports_of_one_store.sql")),
    (12, "login creators", include_str!("../../migrations/0012_login_creators.sql")),
    (13, "ticket seeds", include_str!("../../migrations/0013_ticket_seeds.sql")),
    (14, "keys without statistics", include_str!("../../migrations/0014_keys_without_statistics.sql")),
    (15, "items of orders", include_str!("../../migrations/0015_items_of_orders.sql")),
    (18, "views of callers", include_str!("../../migrations/0018_views_of_callers.sql")),
    (19, "search without neighbours", include_str!("../../migrations/0019_search_without_neighbours.sql")),
];

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Versions that this run applied, in order; empty when the database was up to date.
    pub applied: Vec<i64>,
    /// The version that the database is at now.
    pub version: i64,
}

/// Why a database could not be migrated.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// No connection, or it was lost.
    #[error("database unreachable: {0}")]
    Unreachable(#[source] sqlx::Error),
    /// The server is older than PostgreSQL 16.
    #[error("the server is PostgreSQL {0}, Storefence needs 16 or later")]
    ServerTooOld(String),
    /// The administrator lacks a right; the message says which statement grants it.
    #[error("{0}")]
    InsufficientPrivileges(String),
    /// pgvector is missing or may not be created; the message says what to do.
    #[error("{0}")]
    ExtensionUnavailable(String),
    /// The database takes no writes.
    #[error("{0}")]
    ReadOnly(String),
    /// A schema of the name that a migration makes is there and is somebody else's.
    #[error("{0}")]
    SchemaTaken(String),
    /// Another session holds what a migration needs; nothing was changed.
    #[error("{0}")]
    Locked(String),
    /// A migration that was applied is not the one in this binary.
    #[error("migration {0} was applied in another form than this version ships: the files were edited after the fact")]
    Modified(i64),
    /// A newer version of Storefence has migrated the database.
    #[error("the database is at migration {found}, this version knows {known}: run the newer version of Storefence")]
    DatabaseNewer {
        /// The newest migration in the database.
        found: i64,
        /// The newest migration in this binary.
        known: i64,
    },
    /// A statement of a migration failed; the database is as before that migration.
    #[error("migration failed: {0}")]
    Failed(String),
}

impl MigrateError {
    /// The reason in conditions, events and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "DatabaseUnreachable",
            Self::ServerTooOld(_) => "ServerTooOld",
            Self::InsufficientPrivileges(_) => "InsufficientPrivileges",
            Self::ExtensionUnavailable(_) => "ExtensionUnavailable",
            Self::ReadOnly(_) => "DatabaseReadOnly",
            Self::SchemaTaken(_) => "SchemaTaken",
            Self::Locked(_) => "LockContention",
            Self::Modified(_) => "MigrationModified",
            Self::DatabaseNewer { .. } => "DatabaseNewer",
            Self::Failed(_) => "MigrationFailed",
        }
    }
}

/// Brings the database up to date over a connection of its own, as the administrator.
///
/// The administrator owns the database and may create roles; it need not be superuser.
pub async fn run(admin: &PgConnectOptions) -> Result<Report, MigrateError> {
    let mut connection = admin.connect().await.map_err(MigrateError::Unreachable)?;
    let outcome = run_within(&mut connection, LOCK_DEADLINES.1, &|_| {}).await;
    // Closing is a courtesy to the server's log; the outcome stands without it.
    let _ = connection.close().await;
    outcome
}

/// The same on a connection that the caller has; who holds a lock is heard of sooner.
pub async fn run_on(connection: &mut PgConnection) -> Result<Report, MigrateError> {
    run_reporting(connection, &|_| {}).await
}

/// The same; `waits` hears of each attempt that gave way to another session.
pub async fn run_reporting(connection: &mut PgConnection, waits: Waits<'_>) -> Result<Report, MigrateError> {
    run_within(connection, LOCK_DEADLINES.0, waits).await
}

/// Receives the text that says what a migration waits for.
pub type Waits<'a> = &'a (dyn Fn(&str) + Sync);

async fn run_within(
    connection: &mut PgConnection,
    lock_deadline: Duration,
    waits: Waits<'_>,
) -> Result<Report, MigrateError> {
    sqlx::raw_sql(SESSION).execute(&mut *connection).await.map_err(MigrateError::Unreachable)?;
    let outcome = run_in_session(connection, lock_deadline, waits).await;
    // For whoever uses the connection next; one that is lost has no next.
    let _ = sqlx::raw_sql("RESET lock_timeout").execute(connection).await;
    outcome
}

async fn run_in_session(
    connection: &mut PgConnection,
    lock_deadline: Duration,
    waits: Waits<'_>,
) -> Result<Report, MigrateError> {
    check_server(connection).await?;
    let before = applied(connection).await?;
    if before.is_empty() {
        check_schemas(connection).await?;
    }
    let mut migrator = Migrator::with_migrations(
        MIGRATIONS
            .iter()
            .map(|&(version, name, sql)| {
                let description = Cow::Borrowed(name);
                let mut migration =
                    Migration::new(version, description, MigrationType::Simple, sql.into_sql_str(), false);
                if let Some(former) = before.get(&version).filter(|found| is_former(version, found)) {
                    migration.checksum = Cow::Owned(former.clone());
                }
                migration
            })
            .collect(),
    );
    migrator.create_schema("fence");
    migrator.dangerous_set_table_name(HISTORY_TABLE);

    let (mut attempt, began, mut pause) = (1, Instant::now(), LOCK_PAUSES.0);
    loop {
        // Not `run`: its `Acquire` bound makes this future's type too general for `tokio::spawn`.
        let outcome = migrator.run_direct(None, connection, false).await;
        let Err(error) = outcome else { break };
        // The migrator lets go of its lock only when it succeeds.
        sqlx::query("SELECT pg_advisory_unlock_all()")
            .execute(&mut *connection)
            .await
            .map_err(MigrateError::Unreachable)?;
        if met_a_lock(&error) {
            let problem = locked(connection, &error).await?;
            waits(&problem);
            if began.elapsed() >= lock_deadline {
                return Err(MigrateError::Locked(problem));
            }
            tracing::warn!("{problem}");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOCK_PAUSES.1);
            continue;
        }
        if attempt < ATTEMPTS && met_another_migration(&error) {
            tokio::time::sleep(Duration::from_millis(50 * u64::from(attempt))).await;
            attempt += 1;
            continue;
        }
        let error = explain(error, &before);
        return Err(match error {
            MigrateError::InsufficientPrivileges(problem) => {
                MigrateError::InsufficientPrivileges(with_missing_usage(connection, problem).await?)
            }
            error => error,
        });
    }
    let after = applied(connection).await?;
    Ok(Report {
        version: after.keys().last().copied().unwrap_or(0),
        applied: after.into_keys().filter(|version| !before.contains_key(version)).collect(),
    })
}

/// Whether the checksum of an applied migration is that of a former text which needs nothing more.
fn is_former(version: i64, checksum: &[u8]) -> bool {
    let hex: String = checksum.iter().map(|byte| format!("{byte:02x}")).collect();
    FORMER.iter().any(|(known, former, _)| *known == version && *former == hex)
}

async fn check_server(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let row = sqlx::query("SELECT current_setting('server_version_num')::int, current_setting('server_version')")
        .fetch_one(&mut *connection)
        .await
        .map_err(MigrateError::Unreachable)?;
    if row.get::<i32, _>(0) < OLDEST_SERVER {
        return Err(MigrateError::ServerTooOld(row.get(1)));
    }
    let why = read_only(connection).await.map_err(MigrateError::Unreachable)?;
    why.map_or(Ok(()), |why| Err(MigrateError::ReadOnly(why)))
}

/// Why the database takes no writes from this session, with the way out; `None` where it takes some.
pub(crate) async fn read_only(connection: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    let state: (bool, bool) =
        sqlx::query_as("SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'")
            .fetch_one(connection)
            .await?;
    Ok(why_read_only(state.0, state.1).map(str::to_owned))
}

/// The same of what a server says of itself.
pub(crate) const fn why_read_only(in_recovery: bool, read_only: bool) -> Option<&'static str> {
    match (in_recovery, read_only) {
        (true, _) => Some(
            "the server is a standby or still in recovery (pg_is_in_recovery), and takes no writes: let the endpoint lead to \
             the primary",
        ),
        (false, true) => Some(
            "the server is read-only (default_transaction_read_only is on, as managed servers set it when the disk is full): \
             make room or a larger disk, then set it back to off",
        ),
        (false, false) => None,
    }
}

/// Schemas of our names that others have made are not taken over.
async fn check_schemas(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let taken: Option<String> = sqlx::query_scalar(
        "SELECT n.nspname::text FROM pg_namespace n WHERE n.nspname = 'retail' \
             OR n.nspname = 'fence' AND (EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relname NOT LIKE 'schema\\_history%') \
                                         OR EXISTS (SELECT FROM pg_proc p WHERE p.pronamespace = n.oid)) \
          ORDER BY 1 LIMIT 1",
    )
    .fetch_optional(connection)
    .await
    .map_err(MigrateError::Unreachable)?;
    taken.map_or(Ok(()), |schema| {
        Err(MigrateError::SchemaTaken(format!(
            "schema {schema} is there already, and Storefence has not made it: give Storefence a database of its own, or \
             rename it first (ALTER SCHEMA {schema} RENAME TO …); nothing in it was changed"
        )))
    })
}

/// Names the session that stands in the way, as far as an administrator may see it.
async fn locked(connection: &mut PgConnection, error: &SqlxError) -> Result<String, MigrateError> {
    let holder: Option<(i32, String)> = sqlx::query_as(
        "SELECT a.pid, coalesce(a.usename::text, '?') \
           FROM pg_locks l JOIN pg_stat_activity a USING (pid) JOIN pg_class c ON c.oid = l.relation \
          WHERE l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
            AND c.relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname IN ('retail', 'fence')) AND a.pid <> pg_backend_pid() \
          ORDER BY a.usename ~ '^sf_[0-9a-f]{12}_[ab]$', a.pid LIMIT 1",
    )
    .fetch_optional(connection)
    .await
    .map_err(MigrateError::Unreachable)?;
    let SqlxError::ExecuteMigration(_, version) = error else {
        return Ok("another migration of this database is under way; this one waits for it".to_owned());
    };
    let holder = holder.map_or_else(
        || "another session".to_owned(),
        |(pid, role)| format!("session {pid} of role {role} (pg_terminate_backend({pid}) would end it)"),
    );
    Ok(format!(
        "migration {version} needs a lock on tables that {holder} holds: it gave way so that calls go on, and is tried again"
    ))
}

/// A GRANT by somebody without the right to it is a mere warning: what the roles lack of pgvector's schema shows later.
async fn with_missing_usage(connection: &mut PgConnection, problem: String) -> Result<String, MigrateError> {
    let missing: Option<String> = sqlx::query_scalar(
        "SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace \
          WHERE e.extname = 'vector' \
            AND EXISTS (SELECT FROM pg_roles r WHERE r.rolname IN ('retail_owner', 'fence_reader') AND NOT has_schema_privilege(r.oid, n.oid, 'USAGE'))",
    )
    .fetch_optional(connection)
    .await
    .map_err(MigrateError::Unreachable)?;
    Ok(match missing {
        Some(schema) if !problem.contains("GRANT") => format!(
            "{problem}: extension vector is in schema {schema}, which its owner or a superuser must open: \
             GRANT USAGE ON SCHEMA {schema} TO retail_owner, fence_reader, fence_login, retail_loader"
        ),
        _ => problem,
    })
}

/// Versions in the history with their checksums, oldest first; none when there is no history.
async fn applied(connection: &mut PgConnection) -> Result<BTreeMap<i64, Vec<u8>>, MigrateError> {
    let exists: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(HISTORY_TABLE)
        .fetch_one(&mut *connection)
        .await
        .or_else(|error| match sqlstate(&error).as_deref() {
            // no USAGE on schema fence: somebody else's fence, which the migration itself will explain
            Some("42501") => Ok(false),
            _ => Err(MigrateError::Unreachable(error)),
        })?;
    if !exists {
        return Ok(BTreeMap::new());
    }
    let rows = sqlx::query_as::<_, (i64, Vec<u8>)>("SELECT version, checksum FROM fence.schema_history");
    rows.fetch_all(connection).await.map(|rows| rows.into_iter().collect()).map_err(|error| {
        match sqlstate(&error).as_deref() {
            Some("42501") => MigrateError::InsufficientPrivileges(
                "another role migrated this database: GRANT retail_owner, fence_owner, retail_loader, fence_reader, fence_runner, fence_login \
                 TO the administrator WITH ADMIN OPTION"
                    .to_owned(),
            ),
            _ => MigrateError::Unreachable(error),
        }
    })
}

/// Two databases of one cluster that are migrated at once create and grant the same roles.
fn met_another_migration(error: &SqlxError) -> bool {
    database_error(error).is_some_and(|error| {
        let code = error.code();
        code == "40001"
            || code == "40P01"
            || code == "23505"
            || (code == "XX000" && error.message().contains("concurrently"))
    })
}

/// Another session holds a lock for longer than ours may be waited for.
fn met_a_lock(error: &SqlxError) -> bool {
    database_error(error).is_some_and(|error| error.code() == "55P03")
}

fn explain(error: SqlxError, before: &BTreeMap<i64, Vec<u8>>) -> MigrateError {
    let known = MIGRATIONS.last().map_or(0, |migration| migration.0);
    match &error {
        SqlxError::VersionMismatch(version) => return MigrateError::Modified(*version),
        SqlxError::VersionMissing(_) => {
            return MigrateError::DatabaseNewer { found: before.keys().last().copied().unwrap_or(0), known };
        }
        _ => {}
    }
    let Some(database) = database_error(&error) else {
        return match error {
            SqlxError::Execute(source) | SqlxError::ExecuteMigration(source, _) => MigrateError::Unreachable(source),
            other => MigrateError::Failed(other.to_string()),
        };
    };
    let hint = database.hint().map_or_else(String::new, |hint| format!(" ({hint})"));
    let message = format!("{}{hint}", database.message());
    if message.contains("pgvector") {
        return MigrateError::ExtensionUnavailable(message);
    }
    match database.code() {
        "42501" => MigrateError::InsufficientPrivileges(message),
        _ => MigrateError::Failed(message),
    }
}

fn database_error(error: &SqlxError) -> Option<&sqlx::postgres::PgDatabaseError> {
    match error {
        SqlxError::Execute(source) | SqlxError::ExecuteMigration(source, _) => {
            source.as_database_error()?.try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
        }
        _ => None,
    }
}

fn sqlstate(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::{FORMER, MIGRATIONS};

    #[test]
    fn a_former_text_is_of_a_migration_that_ships_in_another_one() {
        use sqlx::{
            SqlSafeStr,
            migrate::{Migration, MigrationType},
        };
        for (version, former, _) in FORMER {
            let (.., sql) = MIGRATIONS.iter().find(|migration| migration.0 == version).unwrap();
            let now = Migration::new(version, "".into(), MigrationType::Simple, sql.into_sql_str(), false).checksum;
            let hex: String = now.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(former.len(), hex.len());
            assert_ne!(former, hex, "migration {version} is as it was");
        }
    }

    #[test]
    fn every_file_is_shipped_in_order() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations");
        let mut files: Vec<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".sql"))
            .collect();
        files.sort();
        let shipped: Vec<String> = MIGRATIONS
            .iter()
            .map(|(version, name, _)| format!("{version:04}_{}.sql", name.replace(' ', "_")))
            .collect();
        assert_eq!(files, shipped);
    }
}
