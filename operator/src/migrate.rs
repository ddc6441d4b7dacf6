//! Applies `migrations/` to a database: the retail schema and the fence.
//!
//! sqlx's migrator does the work: one transaction per migration, an advisory lock per database, and a checksum of every
//! migration in `fence.schema_history`. The SQL is part of this binary.

use std::{borrow::Cow, time::Duration};

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
    /// One word for conditions, events and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "DatabaseUnreachable",
            Self::ServerTooOld(_) => "ServerTooOld",
            Self::InsufficientPrivileges(_) => "InsufficientPrivileges",
            Self::ExtensionUnavailable(_) => "ExtensionUnavailable",
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
    let outcome = run_on(&mut connection).await;
    // Closing is a courtesy to the server's log; the outcome stands without it.
    let _ = connection.close().await;
    outcome
}

/// The same on a connection that the caller has.
pub async fn run_on(connection: &mut PgConnection) -> Result<Report, MigrateError> {
    check_server(connection).await?;
    let mut migrator = Migrator::with_migrations(
        MIGRATIONS
            .iter()
            .map(|&(version, name, sql)| {
                Migration::new(version, Cow::Borrowed(name), MigrationType::Simple, sql.into_sql_str(), false)
            })
            .collect(),
    );
    migrator.create_schema("fence");
    migrator.dangerous_set_table_name(HISTORY_TABLE);

    let before = applied(connection).await?;
    let mut attempt = 1;
    loop {
        // Not `run`: its `Acquire` bound makes this future's type too general for `tokio::spawn`.
        let outcome = migrator.run_direct(None, connection, false).await;
        let Err(error) = outcome else { break };
        // The migrator lets go of its lock only when it succeeds.
        sqlx::query("SELECT pg_advisory_unlock_all()")
            .execute(&mut *connection)
            .await
            .map_err(MigrateError::Unreachable)?;
        if attempt < ATTEMPTS && met_another_migration(&error) {
            tokio::time::sleep(Duration::from_millis(50 * u64::from(attempt))).await;
            attempt += 1;
            continue;
        }
        return Err(explain(error, &before));
    }
    let after = applied(connection).await?;
    Ok(Report {
        version: after.last().copied().unwrap_or(0),
        applied: after.into_iter().filter(|version| !before.contains(version)).collect(),
    })
}

async fn check_server(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let row = sqlx::query("SELECT current_setting('server_version_num')::int, current_setting('server_version')")
        .fetch_one(connection)
        .await
        .map_err(MigrateError::Unreachable)?;
    if row.get::<i32, _>(0) < OLDEST_SERVER {
        return Err(MigrateError::ServerTooOld(row.get(1)));
    }
    Ok(())
}

/// Versions in the history, oldest first; none when there is no history.
async fn applied(connection: &mut PgConnection) -> Result<Vec<i64>, MigrateError> {
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
        return Ok(Vec::new());
    }
    sqlx::query_scalar("SELECT version FROM fence.schema_history ORDER BY version").fetch_all(connection).await.map_err(|error| {
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

fn explain(error: SqlxError, before: &[i64]) -> MigrateError {
    let known = MIGRATIONS.last().map_or(0, |migration| migration.0);
    match &error {
        SqlxError::VersionMismatch(version) => return MigrateError::Modified(*version),
        SqlxError::VersionMissing(_) => {
            return MigrateError::DatabaseNewer { found: before.last().copied().unwrap_or(0), known };
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
    use super::MIGRATIONS;

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
