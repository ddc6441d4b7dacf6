//! Administrators' URLs in Key Vaults: read at the start, when the server refuses them, and from time to time.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use storefence_runtime::SecretValue;

use super::{Config, ConfigError, DatabaseConfig, DatabaseSource, SecretRef};
use crate::vault::{Vault, VaultError};

/// How often a URL is read again while it works.
const REFRESH: Duration = Duration::from_secs(300);

/// How soon a URL is read again after the server refused it: its password may be changing.
const REFUSED: Duration = Duration::from_secs(5);

/// Why the administrator of a database is not known.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AdministratorError {
    /// The vault did not give out the secret.
    #[error("the administrator's URL of database '{database}' cannot be read from Key Vault secret {name}: {source}")]
    Vault {
        /// Name of the database.
        database: String,
        /// Name of the secret.
        name: String,
        /// Why.
        source: VaultError,
    },
    /// The secret's value is no URL of a database.
    #[error("Key Vault secret {name} with the administrator's URL of database '{database}' cannot be used: {source}")]
    Value {
        /// Name of the database.
        database: String,
        /// Name of the secret.
        name: String,
        /// Why, without the value.
        source: Arc<ConfigError>,
    },
}

/// The configuration with every administrator that could be resolved.
#[derive(Debug, Default)]
pub struct Resolved {
    /// Databases by name.
    pub databases: BTreeMap<String, DatabaseConfig>,
    /// Why the other databases could not be resolved, by name.
    pub unknown: BTreeMap<String, AdministratorError>,
}

impl Resolved {
    /// Whether both lead to the same connections and the same errors.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let prints = |resolved: &Self| -> Vec<(String, [u8; 32])> {
            resolved.databases.iter().map(|(name, database)| (name.clone(), database.fingerprint)).collect()
        };
        let errors = |resolved: &Self| -> Vec<String> { resolved.unknown.values().map(ToString::to_string).collect() };
        prints(self) == prints(other) && errors(self) == errors(other)
    }
}

/// A secret that was read.
struct Known {
    value: SecretValue,
    when: Instant,
    /// The vault is away, or has a newer value that cannot be used.
    outdated: bool,
}

/// The secrets that were read so far.
#[derive(Default)]
pub struct Administrators(BTreeMap<SecretRef, Known>);

impl Administrators {
    /// Resolves every database. A secret is read if it is unknown or old, or if `refused` says that the server of its
    /// database refuses the known one. The last known value stays in use while the vault is away or has a value that
    /// cannot be used.
    pub async fn resolve(
        &mut self,
        config: &Config,
        vaults: &BTreeMap<String, Arc<Vault>>,
        refused: impl Fn(&str) -> bool,
    ) -> Resolved {
        let problems = self.read(config, vaults, refused).await;
        self.0.retain(|secret, _| config.databases.values().any(|source| source.secret() == Some(secret)));
        let mut resolved = Resolved::default();
        for (database, source) in &config.databases {
            let known = source.secret().and_then(|secret| self.0.get(secret));
            let outcome = match (known, problems.get(database)) {
                (None, Some(problem)) => Err(problem.clone()),
                (known, _) => source
                    .resolve(known.map(|known| known.value.expose()))
                    .map_err(|error| unusable(database, source, error)),
            };
            match outcome {
                Ok(known) => drop(resolved.databases.insert(database.clone(), known)),
                Err(error) => drop(resolved.unknown.insert(database.clone(), error)),
            }
        }
        resolved
    }

    /// Reads the secrets that are due. Returns the problems by database.
    async fn read(
        &mut self,
        config: &Config,
        vaults: &BTreeMap<String, Arc<Vault>>,
        refused: impl Fn(&str) -> bool,
    ) -> BTreeMap<String, AdministratorError> {
        let wanted = config.databases.iter().filter_map(|(database, source)| {
            let secret = source.secret()?;
            let vault = vaults.get(&secret.vault)?;
            let is_fresh = |known: &Known| {
                known.when.elapsed() < if known.outdated || refused(database) { REFUSED } else { REFRESH }
            };
            if self.0.get(secret).is_some_and(is_fresh) {
                return None;
            }
            Some(async move { (database, source, secret, vault.value(&secret.name).await) })
        });
        let mut problems = BTreeMap::new();
        for (database, source, secret, outcome) in join_all(wanted).await {
            let error = match outcome {
                Ok(value) => match source.resolve(Some(value.expose())) {
                    Ok(_) => {
                        self.0.insert(secret.clone(), Known { value, when: Instant::now(), outdated: false });
                        continue;
                    }
                    Err(error) => unusable(database, source, error),
                },
                Err(source) => {
                    AdministratorError::Vault { database: database.clone(), name: secret.name.clone(), source }
                }
            };
            if let Some(known) = self.0.get_mut(secret) {
                if !known.outdated {
                    tracing::error!(database, "the last administrator that was read stays in use: {error}");
                }
                (known.outdated, known.when) = (true, Instant::now());
            }
            problems.insert(database.clone(), error);
        }
        problems
    }
}

fn unusable(database: &str, source: &DatabaseSource, error: ConfigError) -> AdministratorError {
    let name = source.secret().map(|secret| secret.name.clone()).unwrap_or_default();
    AdministratorError::Value { database: database.to_owned(), name, source: Arc::new(error) }
}
