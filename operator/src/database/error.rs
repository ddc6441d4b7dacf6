//! What goes wrong at a database.

use crate::{migrate, reason::Reason};

/// What went wrong at a database, as administrator.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// No connection, or it was lost.
    #[error("database {place} cannot be reached: {problem}; the operator keeps trying")]
    Unreachable {
        /// `host:port/database`.
        place: String,
        /// The driver's message.
        problem: String,
    },
    /// The administrator lacks a right.
    #[error("the administrator of database {place} lacks a privilege: {problem}")]
    InsufficientPrivileges {
        /// `host:port/database`.
        place: String,
        /// PostgreSQL's message.
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
    /// It answers and takes no writes.
    #[error("database {place} takes no writes: {problem}; the operator keeps trying")]
    ReadOnly {
        /// `host:port/database`.
        place: String,
        /// Why, and the way out.
        problem: String,
    },
    /// It is not the database that was migrated, or lost its tables.
    #[error("database {place} was made anew or lost its tables: {problem}; the operator migrates it")]
    Replaced {
        /// `host:port/database`.
        place: String,
        /// What shows it.
        problem: String,
    },
    /// Another session holds what is needed, or was given way to.
    #[error("database {place} is locked: {problem}")]
    Locked {
        /// `host:port/database`.
        place: String,
        /// PostgreSQL's message.
        problem: String,
    },
    /// A login cannot be dropped.
    #[error(
        "database {place} answered: {problem}; in each database named there, give away what the login owns (REASSIGN \
         OWNED BY … TO …) and take back what it was given (DROP OWNED BY …): the deletion then goes on by itself"
    )]
    DependentObjects {
        /// `host:port/database`.
        place: String,
        /// PostgreSQL's message, with what depends on the login.
        problem: String,
    },
    /// Any other error.
    #[error("database {place} answered: {problem}")]
    Query {
        /// `host:port/database`.
        place: String,
        /// PostgreSQL's message, with the SQLSTATE.
        problem: String,
    },
}

impl DatabaseError {
    /// The reason in conditions, events and metrics.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Unreachable { .. } => Reason::DatabaseUnreachable,
            Self::InsufficientPrivileges { .. } => Reason::InsufficientPrivileges,
            Self::Migration { source, .. } => match source {
                migrate::MigrateError::Unreachable(_) => Reason::DatabaseUnreachable,
                migrate::MigrateError::InsufficientPrivileges(_) => Reason::InsufficientPrivileges,
                migrate::MigrateError::ReadOnly(_) => Reason::DatabaseReadOnly,
                _ => Reason::MigrationFailed,
            },
            Self::ReadOnly { .. } => Reason::DatabaseReadOnly,
            Self::Replaced { .. } => Reason::DatabaseError,
            Self::Locked { .. } => Reason::LockContention,
            Self::DependentObjects { .. } => Reason::DependentObjects,
            Self::Query { .. } => Reason::DatabaseError,
        }
    }

    /// Whether it is about the statement, so that another statement may well succeed.
    #[must_use]
    pub const fn is_of_a_statement(&self) -> bool {
        matches!(self, Self::InsufficientPrivileges { .. } | Self::DependentObjects { .. } | Self::Query { .. })
    }
}

/// SQLSTATEs of a server that is there but takes no work now: connection exceptions, the administrator's own login
/// refused (its password is being rotated), no such database, resources, operator intervention.
pub(super) fn is_unavailable(code: &str) -> bool {
    ["08", "28", "53", "57", "58"].iter().any(|class| code.starts_with(class)) || code == "3D000"
}
