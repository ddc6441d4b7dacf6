//! The databases and Key Vaults of the configuration, by name.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use storefence_runtime::{AzureOptions, OptionsError};

use crate::{
    circuit::CircuitPolicy,
    config::{AdministratorError, Administrators, Config, DatabaseSource, Resolved},
    database::{Database, Limits},
    leader::Leadership,
    metrics::Metrics,
    reason::{Area, Reason},
    vault::{Vault, VaultFactory},
};

/// Timeout of a call to a vault outside of `run`.
const VAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The databases of a configuration, for a command that does one thing. Needs an identity only where an administrator's
/// URL is in a vault.
///
/// # Errors
/// The options give no identity, or no client for a vault.
pub async fn resolve_once(
    config: &Config,
    azure: AzureOptions,
    metrics: Arc<Metrics>,
) -> Result<Resolved, OptionsError> {
    let mut administrators = Administrators::default();
    let mut vaults = Vaults::new();
    let wanted = |name: &String| {
        config.databases.values().filter_map(DatabaseSource::secret).any(|secret| secret.vault == *name)
    };
    if config.key_vaults.keys().any(wanted) {
        let factory = VaultFactory::new(azure, metrics, VAULT_TIMEOUT)?;
        let circuit = CircuitPolicy::new(VAULT_TIMEOUT, VAULT_TIMEOUT);
        for (name, url) in config.key_vaults.iter().filter(|(name, _)| wanted(name)) {
            vaults.insert(name.clone(), Arc::new(factory.vault(name, url, circuit, Leadership::alone())?));
        }
    }
    Ok(administrators.resolve(config, &vaults, |_| false).await)
}

/// Why there is no database or Key Vault of that name.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// No such database in the configuration.
    #[error("databaseRef '{0}' is not in the operator's configuration; add it under databases")]
    DatabaseNotConfigured(String),
    /// No such Key Vault in the configuration.
    #[error("keyVaultRef '{0}' is not in the operator's configuration; add it under keyVaults")]
    KeyVaultNotConfigured(String),
    /// Nobody knows how to connect as the database's administrator.
    #[error(transparent)]
    Administrator(#[from] Arc<AdministratorError>),
}

impl BackendError {
    /// The code for conditions, events and metrics.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::DatabaseNotConfigured(_) => Reason::DatabaseNotConfigured,
            Self::KeyVaultNotConfigured(_) => Reason::KeyVaultNotConfigured,
            Self::Administrator(_) => Reason::AdministratorUnknown,
        }
    }

    /// Which condition it belongs to.
    #[must_use]
    pub const fn area(&self) -> Area {
        match self {
            Self::DatabaseNotConfigured(_) | Self::Administrator(_) => Area::Database,
            Self::KeyVaultNotConfigured(_) => Area::Secrets,
        }
    }
}

/// Vaults by name.
pub type Vaults = BTreeMap<String, Arc<Vault>>;

/// Databases and vaults by name.
#[derive(Default)]
pub struct Backends {
    databases: BTreeMap<String, Arc<Database>>,
    unknown: BTreeMap<String, Arc<AdministratorError>>,
    vaults: Vaults,
}

impl Backends {
    /// Clients for the configuration's vaults. A vault that `self` has at the same address keeps its client and
    /// circuit.
    ///
    /// # Errors
    /// The client refuses the URL of a vault.
    pub fn next_vaults(
        &self,
        config: &Config,
        factory: &VaultFactory,
        limits: &Limits,
    ) -> Result<Vaults, OptionsError> {
        let mut vaults = BTreeMap::new();
        for (name, url) in &config.key_vaults {
            let kept = self.vaults.get(name).filter(|kept| kept.is_at(url)).cloned();
            let new = || {
                factory.metrics().circuit("key_vault", name).set(0);
                factory.vault(name, url, limits.circuit, limits.leadership.clone()).map(Arc::new)
            };
            let vault = kept.map_or_else(new, Ok)?;
            vaults.insert(name.clone(), vault);
        }
        Ok(vaults)
    }

    /// Sets up pools, without connecting. A database that `self` has with the same configuration keeps its connections
    /// and circuit.
    #[must_use]
    pub fn next(&self, resolved: &Resolved, vaults: Vaults, limits: &Limits, metrics: &Arc<Metrics>) -> Self {
        let databases = resolved.databases.iter().map(|(name, database)| {
            let kept = self.databases.get(name).filter(|kept| kept.is_of(database)).cloned();
            let new = || {
                metrics.circuit("database", name).set(0);
                Arc::new(Database::new(name, database, limits.clone(), vaults.len(), metrics))
            };
            (name.clone(), kept.unwrap_or_else(new))
        });
        let databases: BTreeMap<String, Arc<Database>> = databases.collect();
        for name in self.databases.keys().filter(|name| !databases.contains_key(*name)) {
            metrics.forget_circuit("database", name);
        }
        for name in self.vaults.keys().filter(|name| !vaults.contains_key(*name)) {
            metrics.forget_circuit("key_vault", name);
        }
        let unknown = resolved.unknown.iter().map(|(name, error)| (name.clone(), Arc::new(error.clone())));
        Self { databases, unknown: unknown.collect(), vaults }
    }

    /// The database of that name.
    ///
    /// # Errors
    /// [`BackendError::DatabaseNotConfigured`], [`BackendError::Administrator`].
    pub fn database(&self, name: &str) -> Result<Arc<Database>, BackendError> {
        if let Some(error) = self.unknown.get(name) {
            return Err(BackendError::Administrator(Arc::clone(error)));
        }
        self.databases.get(name).cloned().ok_or_else(|| BackendError::DatabaseNotConfigured(name.to_owned()))
    }

    /// Whether the server of that database refused the administrator's login.
    #[must_use]
    pub fn is_refused(&self, name: &str) -> bool {
        self.databases.get(name).is_some_and(|database| database.is_refused())
    }

    /// The vault of that name.
    ///
    /// # Errors
    /// [`BackendError::KeyVaultNotConfigured`].
    pub fn vault(&self, name: &str) -> Result<Arc<Vault>, BackendError> {
        self.vaults.get(name).cloned().ok_or_else(|| BackendError::KeyVaultNotConfigured(name.to_owned()))
    }

    pub fn databases(&self) -> impl Iterator<Item = (&str, &Arc<Database>)> {
        self.databases.iter().map(|(name, database)| (name.as_str(), database))
    }

    /// All vaults with their names.
    pub fn named_vaults(&self) -> impl Iterator<Item = (&str, &Arc<Vault>)> {
        self.vaults.iter().map(|(name, vault)| (name.as_str(), vault))
    }

    pub fn vaults(&self) -> impl Iterator<Item = &Arc<Vault>> {
        self.vaults.values()
    }
}
