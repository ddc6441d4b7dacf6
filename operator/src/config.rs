//! The configuration file: which databases and Key Vaults the names in a `RetailTenant` stand for.
//!
//! [`File`] is what the user writes (unknown keys are refused); [`Config`] is what runs: checked, with the administrator
//! URLs read. Both name the field that is wrong.

mod expectations;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use storefence_azure::{EmbeddingsConfig, EmbeddingsEntry};
use url::Url;

use crate::verify::Expectations;
use expectations::{FenceEntry, ProtectedTableEntry};

/// What the user writes.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    #[serde(default)]
    databases: Vec<DatabaseEntry>,
    #[serde(default)]
    key_vaults: Vec<KeyVaultEntry>,
    embeddings: Option<EmbeddingsEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DatabaseEntry {
    name: String,
    admin_url: Option<String>,
    admin_url_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    #[serde(default)]
    protected_tables: Vec<ProtectedTableEntry>,
    hardening: Option<String>,
    #[serde(default)]
    loaders: Vec<String>,
    #[serde(default)]
    administrators: Vec<String>,
    #[serde(default)]
    bypass_rls: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct KeyVaultEntry {
    name: String,
    url: String,
}

/// The configuration that runs.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Databases by name (`spec.databaseRef.name`).
    pub databases: BTreeMap<String, DatabaseConfig>,
    /// Key Vaults by name (`spec.keyVaultRef.name`).
    pub key_vaults: BTreeMap<String, Url>,
    /// Who embeds the products' texts, if anybody.
    pub embeddings: Option<EmbeddingsConfig>,
}

impl PartialEq for Config {
    /// Whether both mean the same connections.
    fn eq(&self, other: &Self) -> bool {
        let prints = |config: &Self| -> Vec<(String, [u8; 32])> {
            config.databases.iter().map(|(name, database)| (name.clone(), database.fingerprint)).collect()
        };
        prints(self) == prints(other) && self.key_vaults == other.key_vaults && self.embeddings == other.embeddings
    }
}

/// One database.
#[derive(Clone)]
pub struct DatabaseConfig {
    /// How the operator connects, as administrator.
    pub options: PgConnectOptions,
    /// Where the tenants' logins connect to.
    pub endpoint: Endpoint,
    /// What its fence should be beyond what the migrations make.
    pub expectations: Expectations,
    /// SHA-256 of all that the entry says, files included: tells whether a reload changed it.
    pub fingerprint: [u8; 32],
}

impl fmt::Debug for DatabaseConfig {
    // PgConnectOptions holds the administrator's password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseConfig").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// Server, database and TLS mode as they stand in a tenant's connection URI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Database.
    pub database: String,
    /// TLS mode as libpq spells it.
    pub ssl_mode: &'static str,
}

/// A configuration that cannot be used; the text names the file and the field.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file, or a file it names, cannot be read.
    #[error("{field}: cannot read {}: {source}", path.display())]
    Read {
        /// Which setting named the file.
        field: String,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not YAML, or not of this shape.
    #[error("{}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The parser's words, with line and column.
        message: String,
    },
    /// A field has a value that cannot be used.
    #[error("{}: {field}: {problem}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// Path of the field.
        field: String,
        /// What is wrong and what is expected.
        problem: String,
    },
}

impl Config {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// [`ConfigError`] names the field.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = read("--config", path)?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let file: File = serde_saphyr::from_str(text)
            .map_err(|error| ConfigError::Syntax { path: path.to_owned(), message: error.to_string() })?;
        let File { databases, key_vaults, embeddings } = file;
        let refuse = |field: String, problem: &str| ConfigError::Field {
            path: path.to_owned(),
            field,
            problem: problem.to_owned(),
        };
        let mut config = Self::default();
        for (i, entry) in databases.into_iter().enumerate() {
            let at = format!("databases[{i}]");
            let name = entry.name.clone();
            let database = DatabaseConfig::from_entry(path, &at, entry)?;
            if config.databases.insert(name, database).is_some() {
                return Err(refuse(format!("{at}.name"), "stands twice"));
            }
        }
        for (i, KeyVaultEntry { name, url }) in key_vaults.into_iter().enumerate() {
            let at = format!("keyVaults[{i}]");
            let url = Url::parse(&url)
                .ok()
                .filter(|url| url.scheme() == "https" && url.host().is_some())
                .ok_or_else(|| refuse(format!("{at}.url"), "an https:// URL is expected"))?;
            if config.key_vaults.insert(name, url).is_some() {
                return Err(refuse(format!("{at}.name"), "stands twice"));
            }
        }
        let embeddings = embeddings.map(|entry| entry.check(path.parent().unwrap_or(Path::new("."))));
        config.embeddings =
            embeddings.transpose().map_err(|error| refuse(format!("embeddings.{}", error.field), error.problem))?;
        Ok(config)
    }
}

impl DatabaseConfig {
    fn from_entry(path: &Path, at: &str, entry: DatabaseEntry) -> Result<Self, ConfigError> {
        let DatabaseEntry {
            name: _,
            admin_url,
            admin_url_file,
            ca_file,
            protected_tables,
            hardening,
            loaders,
            administrators,
            bypass_rls,
        } = entry;
        let refuse = |field: &str, problem: String| ConfigError::Field {
            path: path.to_owned(),
            field: format!("{at}{field}"),
            problem,
        };
        let fence = FenceEntry { protected_tables, hardening, loaders, administrators, bypass_rls };
        let expectations = fence.check().map_err(|(field, problem)| refuse(&format!(".{field}"), problem))?;
        let (field, url) = match (admin_url, admin_url_file) {
            (Some(url), None) => (".adminUrl", url),
            (None, Some(file)) => {
                // Relative to the configuration, so that both can be mounted anywhere.
                let file = path.parent().unwrap_or(Path::new(".")).join(file);
                (".adminUrlFile", read(&format!("{at}.adminUrlFile"), &file)?.trim().to_owned())
            }
            _ => return Err(refuse("", "exactly one of adminUrl and adminUrlFile is expected".to_owned())),
        };
        let expected = "a URL such as postgresql://admin:password@host:5432/retail?sslmode=verify-full is expected";
        let parsed = Url::parse(&url).map_err(|_| refuse(field, expected.to_owned()))?;
        if !matches!(parsed.scheme(), "postgresql" | "postgres") {
            return Err(refuse(field, expected.to_owned()));
        }
        let mut options = PgConnectOptions::from_str(&url).map_err(|error| refuse(field, error.to_string()))?;
        // Asked of the URL: the driver fills gaps from PGHOST and its kin, which the tenants' URIs must not follow.
        let given = parsed.host_str().is_some_and(|host| !host.is_empty()) && parsed.path().len() > 1;
        let Some(database) = options.get_database().map(str::to_owned).filter(|_| given) else {
            return Err(refuse(field, format!("{expected}, with host and database")));
        };
        let endpoint = Endpoint {
            host: options.get_host().trim_matches(['[', ']']).to_owned(),
            port: options.get_port(),
            database,
            ssl_mode: ssl_mode(options.get_ssl_mode()),
        };
        let mut fingerprint = Sha256::new().chain_update(&url);
        if let Some(file) = ca_file {
            let file = path.parent().unwrap_or(Path::new(".")).join(file);
            let pem = read(&format!("{at}.caFile"), &file)?;
            fingerprint = fingerprint.chain_update([0]).chain_update(&pem);
            options = options.ssl_root_cert_from_pem(pem.into_bytes());
        }
        fingerprint = fingerprint.chain_update([0]).chain_update(format!("{expectations:?}"));
        Ok(Self { options, endpoint, expectations, fingerprint: fingerprint.finalize().into() })
    }
}

fn read(field: &str, path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        field: field.to_owned(),
        path: path.to_owned(),
        source,
    })
}

const fn ssl_mode(mode: PgSslMode) -> &'static str {
    match mode {
        PgSslMode::Disable => "disable",
        PgSslMode::Allow => "allow",
        PgSslMode::Prefer => "prefer",
        PgSslMode::Require => "require",
        PgSslMode::VerifyCa => "verify-ca",
        PgSslMode::VerifyFull => "verify-full",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("/etc/storefence.yaml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn reads_databases_and_vaults() {
        let config = parse(
            "databases:\n- name: retail\n  adminUrl: postgresql://boss:s%2Fecret@db.example:6432/retail?sslmode=verify-full\n\
             keyVaults:\n- name: main\n  url: https://vault.example/\n",
        )
        .unwrap();
        let endpoint = &config.databases["retail"].endpoint;
        assert_eq!((endpoint.host.as_str(), endpoint.port), ("db.example", 6432));
        assert_eq!((endpoint.database.as_str(), endpoint.ssl_mode), ("retail", "verify-full"));
        assert_eq!(config.key_vaults["main"].as_str(), "https://vault.example/");
        assert!(!format!("{config:?}").contains("ecret"));
    }

    #[test]
    fn names_the_field_that_is_wrong() {
        for (text, expected) in [
            ("databases:\n- name: retail\n", "databases[0]: exactly one of adminUrl and adminUrlFile"),
            ("databases:\n- name: a\n  adminUrl: postgresql://h/d\n  adminUrlFile: x\n", "databases[0]: exactly one"),
            ("databases:\n- name: a\n  adminUrl: mysql://h/d\n", "databases[0].adminUrl: a URL such as"),
            ("databases:\n- name: a\n  adminUrlFile: missing\n", "databases[0].adminUrlFile: cannot read /etc/missing"),
            ("keyVaults:\n- name: main\n  url: http://vault\n", "keyVaults[0].url: an https:// URL"),
            (
                "keyVaults:\n- name: m\n  url: https://a\n- name: m\n  url: https://b\n",
                "keyVaults[1].name: stands twice",
            ),
            ("databases:\n- name: a\n  adminUrl: postgresql://h\n", "databases[0].adminUrl: a URL such as"),
            ("keyvaults: []\n", "keyvaults"),
            ("databases:\n- name: a\n  adminurl: x\n", "adminurl"),
            ("embeddings:\n  provider: azureOpenAI\n  endpoint: https://a\n", "embeddings.deployment: is required"),
            ("embeddings:\n  provider: openAI\n  endpoint: https://a\n  modell: x\n", "modell"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_database_says_what_its_fence_should_be() {
        let entry = |more: &str| format!("databases:\n- name: a\n  adminUrl: postgresql://h/d\n{more}");
        let config = parse(&entry(
            "  hardening: strict\n  loaders: [nightly]\n  administrators: [dba]\n  bypassRls: [dumps]\n  protectedTables:\n\
             \x20 - table: chain.returns\n    storeColumn: store_id\n  - {table: crm.segments, tenantColumn: chain}\n",
        ))
        .unwrap();
        let Expectations { administrators, loaders, bypass_rls, protected, level } =
            &config.databases["a"].expectations;
        assert_eq!(*level, crate::verify::Level::Strict);
        assert!(administrators.contains("dba") && loaders.contains("nightly") && bypass_rls.contains("dumps"));
        let protected: Vec<String> = protected.iter().map(ToString::to_string).collect();
        assert_eq!(protected, ["chain.returns:store=store_id", "crm.segments:tenant=chain"]);
        assert!(config != parse(&entry("")).unwrap(), "a reload must see the difference");
        for (more, expected) in [
            ("  hardening: extreme\n", "databases[0].hardening: 'extreme' is neither standard nor strict"),
            ("  loaders: ['']\n", "databases[0].loaders[0]: the name of a role"),
            ("  protectedTables:\n  - {table: c.r}\n", "databases[0].protectedTables[0]: exactly one of storeColumn"),
            (
                "  protectedTables:\n  - {table: c.r, storeColumn: s, tenantColumn: t}\n",
                "databases[0].protectedTables[0]: exactly one of storeColumn",
            ),
            (
                "  protectedTables:\n  - {table: r, storeColumn: s}\n",
                "protectedTables[0].table: 'r' cannot be protected",
            ),
            (
                "  protectedTables:\n  - {table: retail.orders, storeColumn: s}\n",
                "protectedTables[0].table: 'retail.orders'",
            ),
            ("  protectedTables:\n  - {table: c.r, storeColumn: 'a b'}\n", "protectedTables[0].storeColumn: 'a b'"),
            (
                "  protectedTables:\n  - {table: c.r, storeColumn: s}\n  - {table: c.r, tenantColumn: t}\n",
                "protectedTables[1].table: 'c.r' stands twice",
            ),
            ("  protectedTables:\n  - {table: c.r, column: s}\n", "column"),
        ] {
            let error = parse(&entry(more)).unwrap_err();
            assert!(error.contains(expected), "{more:?}: {error}");
        }
    }

    #[test]
    fn a_password_in_a_bad_url_is_not_repeated() {
        let error = parse("databases:\n- name: a\n  adminUrl: 'mysql://u:hunter2@h/d'\n").unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
