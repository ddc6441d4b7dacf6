//! The configuration file: which databases and Key Vaults the names in a `RetailTenant` stand for.
//!
//! [`File`] is what the user writes; unknown keys are refused. [`Config`] is what runs: checked, with the URLs of the
//! administrators read from their files. Errors name the field.

mod administrators;
mod database;
mod expectations;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use storefence_runtime::{EmbeddingsConfig, EmbeddingsEntry};
use url::Url;

pub use administrators::{AdministratorError, Administrators, Resolved};
pub use database::{Administrator, DatabaseConfig, DatabaseSource, Endpoint, SecretRef};

use database::DatabaseEntry;

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
struct KeyVaultEntry {
    name: String,
    url: String,
}

/// The configuration that runs.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Databases by name (`spec.databaseRef.name`).
    pub databases: BTreeMap<String, DatabaseSource>,
    /// Key Vaults by name (`spec.keyVaultRef.name`).
    pub key_vaults: BTreeMap<String, Url>,
    /// The service that embeds the products' texts, if there is one.
    pub embeddings: Option<EmbeddingsConfig>,
}

impl PartialEq for Config {
    /// Whether both lead to the same connections.
    fn eq(&self, other: &Self) -> bool {
        let prints = |config: &Self| -> Vec<(String, [u8; 32])> {
            config.databases.iter().map(|(name, database)| (name.clone(), database.fingerprint())).collect()
        };
        prints(self) == prints(other) && self.key_vaults == other.key_vaults && self.embeddings == other.embeddings
    }
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
        /// The parser's message, with line and column.
        message: String,
    },
    /// A field has a value that cannot be used.
    #[error("{}: {field}: {problem}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// Path of the field.
        field: String,
        /// What is wrong, and what is expected.
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
            let database = DatabaseSource::from_entry(path, &at, entry)?;
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
        for (name, database) in &config.databases {
            let Some(vault) = database.secret().map(|secret| &secret.vault) else { continue };
            if !config.key_vaults.contains_key(vault) {
                let field = format!("databases: {name}: adminUrlSecret.keyVault");
                return Err(refuse(field, &format!("'{vault}' is not among keyVaults")));
            }
        }
        let embeddings = embeddings.map(|entry| entry.check(path.parent().unwrap_or(Path::new("."))));
        config.embeddings =
            embeddings.transpose().map_err(|error| refuse(format!("embeddings.{}", error.field), error.problem))?;
        Ok(config)
    }
}

fn read(field: &str, path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        field: field.to_owned(),
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::Expectations;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("/etc/storefence.yaml"), text).map_err(|error| error.to_string())
    }

    fn known<'a>(config: &'a Config, name: &str) -> &'a DatabaseConfig {
        match &config.databases[name] {
            DatabaseSource::Known(database) => database,
            other => panic!("{other:?}"),
        }
    }

    /// The examples in docs/database.md, with existing files in place of the ones they name.
    #[test]
    fn configurations_in_the_documents_are_accepted() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/database.md");
        let page = std::fs::read_to_string(page).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let url = directory.path().join("url");
        std::fs::write(&url, "postgresql://boss:secret@db.example/retail?sslmode=verify-full").unwrap();
        let ca = directory.path().join("ca.pem");
        std::fs::write(&ca, storefence_devstack::tls::Authority::new().unwrap().pem()).unwrap();
        let blocks: Vec<&str> =
            page.split("```yaml\n").skip(1).map(|block| block.split("```").next().unwrap()).collect();
        assert_eq!(blocks.len(), 2, "of another kind? tests/tests/documents.rs knows which kinds there are");
        for block in blocks {
            let here = block.replace("/run/secrets/admin-url", url.to_str().unwrap());
            assert!(here != block, "no administrator in {block}");
            let here = here.replace("/etc/ssl/archive-ca.pem", ca.to_str().unwrap());
            parse(&here).unwrap_or_else(|error| panic!("{error}\n{block}"));
        }
    }

    #[test]
    fn reads_databases_and_vaults() {
        let config = parse(
            "databases:\n- name: retail\n  adminUrl: postgresql://boss:s%2Fecret@db.example:6432/retail?sslmode=verify-full\n\
             keyVaults:\n- name: main\n  url: https://vault.example/\n",
        )
        .unwrap();
        let endpoint = &known(&config, "retail").endpoint;
        assert_eq!((endpoint.host.as_str(), endpoint.port), ("db.example", 6432));
        assert_eq!((endpoint.database.as_str(), endpoint.ssl_mode), ("retail", "verify-full"));
        assert_eq!(config.key_vaults["main"].as_str(), "https://vault.example/");
        assert!(!format!("{config:?}").contains("ecret"));
    }

    #[test]
    fn names_the_field_that_is_wrong() {
        for (text, expected) in [
            ("databases:\n- name: retail\n", "databases[0]: exactly one of adminUrl, adminUrlFile and adminUrlSecret"),
            ("databases:\n- name: a\n  adminUrl: postgresql://h/d\n  adminUrlFile: x\n", "databases[0]: exactly one"),
            ("databases:\n- name: a\n  adminUrl: mysql://h/d\n", "databases[0].adminUrl: a URL such as"),
            ("databases:\n- name: a\n  adminUrlFile: missing\n", "databases[0].adminUrlFile: cannot read /etc/missing"),
            ("keyVaults:\n- name: main\n  url: http://vault\n", "keyVaults[0].url: an https:// URL"),
            (
                "keyVaults:\n- name: m\n  url: https://a\n- name: m\n  url: https://b\n",
                "keyVaults[1].name: stands twice",
            ),
            ("databases:\n- name: a\n  adminUrl: postgresql://h\n", "databases[0].adminUrl: a URL such as"),
            (
                "databases:\n- name: a\n  adminUrlSecret: {keyVault: gone, name: admin}\n",
                "databases: a: adminUrlSecret.keyVault: 'gone' is not among keyVaults",
            ),
            (
                "databases:\n- name: a\n  adminUrlSecret: {keyVault: main, name: a_b}\n",
                "databases[0].adminUrlSecret.name: 'a_b' is not the name of a Key Vault secret",
            ),
            ("databases:\n- name: a\n  adminUrlSecret: {keyVault: main, name: a, version: 1}\n", "version"),
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
             \x20 - table: chain.returns\n    storeColumn: store_id\n  - {table: crm.segments, tenantColumn: tenant}\n",
        ))
        .unwrap();
        let Expectations { administrators, loaders, bypass_rls, protected, level } = &known(&config, "a").expectations;
        assert_eq!(*level, crate::verify::Level::Strict);
        assert!(administrators.contains("dba") && loaders.contains("nightly") && bypass_rls.contains("dumps"));
        let protected: Vec<String> = protected.iter().map(ToString::to_string).collect();
        assert_eq!(protected, ["chain.returns:store=store_id", "crm.segments:tenant=tenant"]);
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
    fn tls_is_verified_unless_the_url_says_otherwise() {
        for (query, expected) in [
            ("", "verify-full"),
            ("?application_name=x", "verify-full"),
            ("?sslmode=require", "require"),
            ("?sslmode=verify-ca", "verify-ca"),
            ("?sslmode=disable", "disable"),
        ] {
            let config = parse(&format!("databases:\n- name: a\n  adminUrl: postgresql://u:p@h/d{query}\n")).unwrap();
            let database = known(&config, "a");
            assert_eq!(database.endpoint.ssl_mode, expected, "{query}");
            assert_eq!(format!("{:?}", database.options.get_ssl_mode()).to_lowercase(), expected.replace('-', ""));
        }
    }

    #[test]
    fn an_administrator_in_a_vault_is_resolved_by_its_value() {
        let config = parse(
            "keyVaults:\n- {name: main, url: https://vault.example}\n\
             databases:\n- name: a\n  adminUrlSecret: {keyVault: main, name: admin-url}\n",
        )
        .unwrap();
        let source = &config.databases["a"];
        assert_eq!(source.secret(), Some(&SecretRef { vault: "main".to_owned(), name: "admin-url".to_owned() }));
        let one = source.resolve(Some("postgresql://u:p@h:6000/d\n")).unwrap();
        assert_eq!((one.endpoint.port, one.endpoint.ssl_mode), (6000, "verify-full"));
        let two = source.resolve(Some("postgresql://u:q@h:6000/d")).unwrap();
        assert!(one.fingerprint != two.fingerprint, "a new password is a change");
        let error = source.resolve(Some("hunter2")).unwrap_err().to_string();
        assert!(error.contains("databases[0].adminUrlSecret") && !error.contains("hunter2"), "{error}");
        assert!(config != parse("keyVaults:\n- {name: main, url: https://vault.example}\n").unwrap());
    }

    #[test]
    fn a_password_in_a_bad_url_is_not_repeated() {
        let error = parse("databases:\n- name: a\n  adminUrl: 'mysql://u:hunter2@h/d'\n").unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
