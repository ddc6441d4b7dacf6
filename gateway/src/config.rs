//! The configuration file: which Key Vaults and databases the names in a `RetailTenant` stand for.
//!
//! The operator's file has the same shape and more fields. The gateway has no administrator's credentials, so it refuses
//! fields that would hold them rather than ignoring them.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;
use storefence_runtime::{EmbeddingsConfig, EmbeddingsConfigError, EmbeddingsEntry};
use url::Url;

use crate::trust::{Roots, Trust, tls::TlsError};

/// The file as the user writes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    #[serde(default)]
    databases: Vec<Database>,
    #[serde(default)]
    key_vaults: Vec<KeyVault>,
    embeddings: Option<EmbeddingsEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Database {
    name: String,
    ca_file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct KeyVault {
    name: String,
    url: Url,
}

/// The checked configuration.
#[derive(Debug, Default)]
pub struct Config {
    /// Extra trust roots by `spec.databaseRef.name`.
    pub roots: Roots,
    /// Key Vaults by `spec.keyVaultRef.name`.
    pub key_vaults: HashMap<String, Url>,
    /// The embeddings provider, if there is one.
    pub embeddings: Option<EmbeddingsConfig>,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("--config (STOREFENCE_CONFIG): cannot read {0}: {1}")]
    Unreadable(String, std::io::Error),
    /// Not the expected YAML.
    #[error("--config (STOREFENCE_CONFIG): {0}: {1}")]
    Malformed(String, String),
    /// A list has a name twice.
    #[error("--config (STOREFENCE_CONFIG): {field}: '{name}' stands twice")]
    Twice {
        /// The list.
        field: &'static str,
        name: String,
    },
    /// Without a vault no tenant can be served.
    #[error("--config (STOREFENCE_CONFIG): keyVaults is empty; tenants' credentials come from there")]
    NoVault,
    /// Trust roots of a database.
    #[error("--config (STOREFENCE_CONFIG): databases[].caFile: {0}")]
    Roots(#[from] TlsError),
    /// The embeddings provider.
    #[error("--config (STOREFENCE_CONFIG): {0}")]
    Embeddings(#[from] EmbeddingsConfigError),
}

impl Config {
    /// Reads the file.
    ///
    /// # Errors
    /// [`ConfigError`] names the field.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable(shown.clone(), error))?;
        Self::parse(&text, path.parent().unwrap_or(Path::new("."))).map_err(|error| match error {
            ConfigError::Malformed(_, problem) => ConfigError::Malformed(shown, problem),
            other => other,
        })
    }

    fn parse(text: &str, directory: &Path) -> Result<Self, ConfigError> {
        let File { databases, key_vaults, embeddings } =
            serde_saphyr::from_str(text).map_err(|error| ConfigError::Malformed(String::new(), error.to_string()))?;
        let mut config = Self::default();
        for Database { name, ca_file } in databases {
            let trust = Arc::new(Trust::open(ca_file)?);
            if config.roots.insert(name.clone(), trust).is_some() {
                return Err(ConfigError::Twice { field: "databases[].name", name });
            }
        }
        for KeyVault { name, url } in key_vaults {
            if config.key_vaults.insert(name.clone(), url).is_some() {
                return Err(ConfigError::Twice { field: "keyVaults[].name", name });
            }
        }
        config.embeddings = embeddings.map(|entry| entry.check(directory)).transpose()?;
        if config.key_vaults.is_empty() { Err(ConfigError::NoVault) } else { Ok(config) }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Config;

    #[test]
    fn unknown_and_doubled_fields_are_refused() {
        let good = "keyVaults:\n  - name: main\n    url: https://vault.example\ndatabases:\n  - name: retail\n";
        assert_eq!(Config::parse(good, Path::new("/")).expect("good").key_vaults.len(), 1);
        for (text, words) in [
            ("keyVaults: []", "keyVaults is empty"),
            ("keyVaults:\n  - {name: a, url: 'https://x'}\n  - {name: a, url: 'https://y'}", "'a' stands twice"),
            ("keyVault: []", "keyVault"),
            (
                "keyVaults:\n  - {name: a, url: 'https://x'}\ndatabases:\n  - {name: r, adminUrl: 'postgresql://a'}",
                "adminUrl",
            ),
            ("embeddings: {provider: openAI, endpoint: 'https://x'}", "embeddings.model: is required"),
        ] {
            let error = Config::parse(text, Path::new("/")).expect_err(text).to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
