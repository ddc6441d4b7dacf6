//! Databases with an administrator of their own.

use super::{Cluster, Error, SslMode};
use crate::random;

/// What a database's administrator may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminKind {
    /// Everything.
    Superuser,
    /// What Azure Database for PostgreSQL Flexible Server gives: CREATEROLE, CREATEDB, ownership of the database.
    CreateRole,
}

/// A database and how its administrator gets in.
#[derive(Clone, Debug)]
pub struct Database {
    pub name: String,
    /// The administrator's role, made for this database alone.
    pub admin: String,
    /// The administrator's password; letters and digits.
    pub admin_password: String,
    /// The administrator's connection URI, without TLS.
    pub admin_url: String,
    /// The same through the TLS proxy, with `sslmode=verify-full` against [`Cluster::ca_file`].
    pub admin_tls_url: String,
}

impl Cluster {
    /// Creates a database, UTF-8 like the cluster, and a role that owns and administers it.
    ///
    /// Roles belong to the whole cluster: what two CREATEROLE administrators make, neither can grant for the other.
    /// Tests that need several such administrators take a cluster each.
    pub async fn create_database(&self, name: &str, kind: AdminKind) -> Result<Database, Error> {
        let admin = format!("admin_{}", random::suffix());
        let admin_password = random::password();
        let attributes = match kind {
            AdminKind::Superuser => "SUPERUSER",
            AdminKind::CreateRole => "NOSUPERUSER CREATEROLE CREATEDB NOREPLICATION NOBYPASSRLS",
        };
        let client = self.connect("postgres").await?;
        client.batch_execute(&format!("CREATE ROLE {admin} LOGIN PASSWORD '{admin_password}' {attributes}")).await?;
        client.batch_execute(&format!("CREATE DATABASE {} OWNER {admin}", quote(name))).await?;

        // Azure lets its administrators create allow-listed extensions. An installed pgvector may not be marked
        // as trusted; then the extension is there already, and CREATE EXTENSION IF NOT EXISTS is content with it.
        let trusted = client
            .query_one("SELECT bool_or(trusted) FROM pg_available_extension_versions WHERE name = 'vector'", &[])
            .await?
            .try_get::<_, Option<bool>>(0)?;
        if kind == AdminKind::CreateRole && trusted != Some(true) {
            self.connect(name).await?.batch_execute("CREATE EXTENSION vector").await?;
        }
        Ok(Database {
            admin_url: self.url(&admin, &admin_password, name, SslMode::Disable),
            admin_tls_url: self.url(&admin, &admin_password, name, SslMode::VerifyFull),
            name: name.to_owned(),
            admin,
            admin_password,
        })
    }

    /// Drops a database, ending its sessions.
    pub async fn drop_database(&self, name: &str) -> Result<(), Error> {
        let client = self.connect("postgres").await?;
        client.batch_execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote(name))).await?;
        Ok(())
    }
}

fn quote(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}
