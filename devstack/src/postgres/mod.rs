//! A throw-away PostgreSQL with pgvector.
//!
//! [`Binaries::find`] says which server programs to use, [`Cluster::start`] starts a cluster on a free port,
//! [`Cluster::create_database`] makes databases with an administrator of their own.

mod binaries;
mod cluster;
mod database;
mod fetch;
mod proxy;
mod template;

pub use binaries::Binaries;
pub use cluster::{Cluster, ClusterOptions, DataDir, SslMode};
pub use database::{AdminKind, Database};
pub use proxy::Proxy;

use std::io;

/// What can go wrong with a throw-away PostgreSQL.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No usable server programs, and none could be fetched.
    #[error("no PostgreSQL 16 or later with pgvector: {0}")]
    NoBinaries(String),
    /// A server program failed.
    #[error("{program} failed: {output}")]
    Program {
        program: String,
        /// The end of what it wrote.
        output: String,
    },
    /// The server did not become ready.
    #[error("PostgreSQL did not start: {0}")]
    NotReady(String),
    /// A file could not be read or written, or a process not started.
    #[error("{context}: {source}")]
    Io {
        /// What was being done.
        context: String,
        source: io::Error,
    },
    /// The server refused a statement.
    #[error("PostgreSQL: {}", describe(.0))]
    Sql(#[from] tokio_postgres::Error),
    /// A certificate could not be made.
    #[error(transparent)]
    Tls(#[from] crate::tls::Error),
}

/// tokio-postgres says only "db error" by itself.
fn describe(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |db| format!("{} ({})", db.message(), db.code().code()))
}

trait Context<T> {
    fn context(self, what: impl Into<String>) -> Result<T, Error>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, what: impl Into<String>) -> Result<T, Error> {
        self.map_err(|source| Error::Io { context: what.into(), source })
    }
}
