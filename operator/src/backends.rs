//! The databases and Key Vaults of the configuration, by name.

use std::{collections::BTreeMap, sync::Arc};

use storefence_azure::OptionsError;

use crate::{
    config::Config,
    database::{Database, Limits},
    errors::Failure,
    vault::{Vault, VaultFactory},
};

/// Databases and vaults by name.
#[derive(Default)]
pub struct Backends {
    databases: BTreeMap<String, Arc<Database>>,
    vaults: BTreeMap<String, Arc<Vault>>,
}

impl Backends {
    /// Sets up pools and clients; connects to nothing yet. Databases that `previous` has with the same configuration
    /// keep their connections.
    ///
    /// # Errors
    /// A vault's URL that the client does not take.
    pub fn new(config: &Config, previous: &Self, factory: &VaultFactory, limits: Limits) -> Result<Self, OptionsError> {
        let databases = config.databases.iter().map(|(name, database)| {
            let kept = previous.databases.get(name).filter(|kept| kept.is_of(database));
            (name.clone(), kept.cloned().unwrap_or_else(|| Arc::new(Database::new(database, limits))))
        });
        let databases = databases.collect();
        let mut vaults = BTreeMap::new();
        for (name, url) in &config.key_vaults {
            vaults.insert(name.clone(), Arc::new(factory.vault(url)?));
        }
        Ok(Self { databases, vaults })
    }

    /// The database of that name.
    ///
    /// # Errors
    /// [`Failure::DatabaseNotConfigured`].
    pub fn database(&self, name: &str) -> Result<Arc<Database>, Failure> {
        self.databases.get(name).cloned().ok_or_else(|| Failure::DatabaseNotConfigured(name.to_owned()))
    }

    /// The vault of that name.
    ///
    /// # Errors
    /// [`Failure::KeyVaultNotConfigured`].
    pub fn vault(&self, name: &str) -> Result<Arc<Vault>, Failure> {
        self.vaults.get(name).cloned().ok_or_else(|| Failure::KeyVaultNotConfigured(name.to_owned()))
    }

    /// All databases.
    pub fn databases(&self) -> impl Iterator<Item = (&str, &Arc<Database>)> {
        self.databases.iter().map(|(name, database)| (name.as_str(), database))
    }

    /// All vaults.
    pub fn vaults(&self) -> impl Iterator<Item = &Arc<Vault>> {
        self.vaults.values()
    }
}
