//! A tenant's database login and context key, read from Key Vault when a call first needs them.

use std::sync::Arc;

use futures::future::BoxFuture;
use rustls::ClientConfig;
use storefence_tenancy::credentials::ContextKey;
use tokio_postgres::{Config, config::SslMode};
use zeroize::Zeroizing;

use super::uri;
use crate::{
    metrics::Metrics,
    tenants::{CredentialsInForce, Tenant},
    trust::{Roots, Trust, tls},
};

/// Reads secrets by vault and name.
pub trait SecretSource: Send + Sync {
    /// Reads a version of a secret; the latest where `version` is absent.
    fn read<'a>(
        &'a self,
        vault: &'a str,
        name: &'a str,
        version: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Zeroizing<String>, SecretError>>;
}

/// A secret that could not be read. The text is for the log and holds no value.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SecretError(pub String);

/// Why a tenant's credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A secret could not be read.
    #[error("secret {name}: {source}")]
    Secret {
        /// The secret's name.
        name: String,
        /// Why.
        source: SecretError,
    },
    /// A secret's value is not what it should be.
    #[error("secret {name} is malformed: {problem}")]
    Malformed {
        /// The secret's name.
        name: String,
        /// What is wrong, without the value.
        problem: String,
    },
    /// TLS towards the database cannot be set up.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
}

/// Login and key, ready for use.
pub struct Loaded {
    /// The slots and versions that they were read for.
    pub in_force: CredentialsInForce,
    /// Address, login and database.
    pub config: Config,
    /// TLS towards the server; not used with [`SslMode::Disable`].
    pub tls: Arc<ClientConfig>,
    /// Key id of `key`.
    pub kid: u32,
    /// Signs contexts.
    pub key: ContextKey,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded").field("in_force", &self.in_force).finish_non_exhaustive()
    }
}

/// Reads and prepares credentials.
pub struct Loader {
    secrets: Arc<dyn SecretSource>,
    roots: Roots,
    /// The system's roots, for databases without a `caFile`.
    system: Arc<Trust>,
    metrics: Arc<Metrics>,
}

impl Loader {
    /// Reads secrets from `secrets`. `roots` are extra trust roots by database name.
    #[must_use]
    pub fn new(secrets: Arc<dyn SecretSource>, roots: Roots, metrics: Arc<Metrics>) -> Self {
        Self { secrets, roots, system: Arc::default(), metrics }
    }

    /// Reads the credentials that are in force for a tenant.
    ///
    /// # Errors
    /// [`CredentialsError`].
    pub async fn load(&self, tenant: &Tenant) -> Result<Loaded, CredentialsError> {
        let (login, key) = (tenant.database_secret(), tenant.context_secret());
        let in_force = &tenant.credentials;
        let (uri, key_text) = futures::try_join!(
            self.read(&tenant.vault, &login, in_force.slot_version.as_deref()),
            self.read(&tenant.vault, &key, in_force.key_version.as_deref()),
        )?;
        let key = ContextKey::from_base64(&key_text)
            .map_err(|error| CredentialsError::Malformed { name: key, problem: error.to_string() })?;
        let trust = self.roots.get(&*tenant.database).unwrap_or(&self.system);
        let (config, verify) = uri::parse(&uri, trust.file().is_some())
            .map_err(|error| CredentialsError::Malformed { name: login, problem: error.to_string() })?;
        debug_assert_eq!(config.get_ssl_mode() == SslMode::Disable, verify.is_none());
        let tls = trust.connector(verify.unwrap_or(tls::Verify::ChainAndName))?;
        Ok(Loaded { in_force: in_force.clone(), config, tls, kid: in_force.kid, key })
    }

    async fn read(
        &self,
        vault: &str,
        name: &str,
        version: Option<&str>,
    ) -> Result<Zeroizing<String>, CredentialsError> {
        let read = self.secrets.read(vault, name, version).await;
        self.metrics.secrets.with_label_values(&[if read.is_ok() { "ok" } else { "error" }]).inc();
        read.map_err(|source| CredentialsError::Secret { name: name.to_owned(), source })
    }
}
