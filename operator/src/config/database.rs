//! One database of the configuration: where it is, who administers it, and how its server is trusted.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::Url;

use super::{
    ConfigError,
    expectations::{FenceEntry, ProtectedTableEntry},
    read,
};
use crate::verify::Expectations;

/// What the user writes.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DatabaseEntry {
    pub(super) name: String,
    admin_url: Option<String>,
    admin_url_file: Option<PathBuf>,
    admin_url_secret: Option<SecretEntry>,
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
struct SecretEntry {
    key_vault: String,
    name: String,
}

/// A secret that holds an administrator's URL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretRef {
    /// Name of a vault in the configuration.
    pub vault: String,
    /// Name of the secret.
    pub name: String,
}

/// One database, with its administrator's URL or where that is.
#[derive(Clone, Debug)]
pub enum DatabaseSource {
    /// The URL is known.
    Known(Box<DatabaseConfig>),
    /// The administrator's URL is in a Key Vault.
    InVault(Box<Administrator>),
}

/// A database whose administrator's URL is in a Key Vault.
#[derive(Clone, Debug)]
pub struct Administrator {
    secret: SecretRef,
    entry: Entry,
}

/// The part of an entry that does not depend on the URL.
#[derive(Clone, Debug)]
struct Entry {
    path: PathBuf,
    /// Path of the field with the URL.
    field: String,
    ca_pem: Option<String>,
    expectations: Expectations,
}

/// One database that can be connected to.
#[derive(Clone)]
pub struct DatabaseConfig {
    /// How the operator connects, as administrator.
    pub options: PgConnectOptions,
    /// Where the tenants' logins connect.
    pub endpoint: Endpoint,
    /// What its fence should have beyond what the migrations make.
    pub expectations: Expectations,
    /// SHA-256 of the whole entry and its files: shows whether a reload changed it.
    pub fingerprint: [u8; 32],
}

impl fmt::Debug for DatabaseConfig {
    // PgConnectOptions holds the administrator's password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseConfig").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// Server, database and TLS mode as a tenant's connection URI has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Host name or address.
    pub host: String,
    pub port: u16,
    pub database: String,
    /// TLS mode as libpq spells it.
    pub ssl_mode: &'static str,
}

impl DatabaseSource {
    pub(super) fn from_entry(path: &Path, at: &str, entry: DatabaseEntry) -> Result<Self, ConfigError> {
        let DatabaseEntry {
            name: _,
            admin_url,
            admin_url_file,
            admin_url_secret,
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
        // Relative to the configuration, so that all can be mounted anywhere.
        let beside = |file: PathBuf| path.parent().unwrap_or(Path::new(".")).join(file);
        let fence = FenceEntry { protected_tables, hardening, loaders, administrators, bypass_rls };
        let expectations = fence.check().map_err(|(field, problem)| refuse(&format!(".{field}"), problem))?;
        let ca_pem = ca_file.map(|file| read(&format!("{at}.caFile"), &beside(file))).transpose()?;
        let entry = |field: &str| Entry { path: path.to_owned(), field: format!("{at}{field}"), ca_pem, expectations };
        match (admin_url, admin_url_file, admin_url_secret) {
            (Some(url), None, None) => entry(".adminUrl").connect(&url).map(Box::new).map(Self::Known),
            (None, Some(file), None) => {
                let url = read(&format!("{at}.adminUrlFile"), &beside(file))?;
                entry(".adminUrlFile").connect(&url).map(Box::new).map(Self::Known)
            }
            (None, None, Some(SecretEntry { key_vault, name })) => {
                if name.is_empty() || name.len() > 127 || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                {
                    let problem = format!("'{name}' is not the name of a Key Vault secret");
                    return Err(refuse(".adminUrlSecret.name", problem));
                }
                let secret = SecretRef { vault: key_vault, name };
                Ok(Self::InVault(Box::new(Administrator { secret, entry: entry(".adminUrlSecret") })))
            }
            _ => {
                let problem = "exactly one of adminUrl, adminUrlFile and adminUrlSecret is expected";
                Err(refuse("", problem.to_owned()))
            }
        }
    }

    /// The secret that holds the administrator's URL, where one does.
    #[must_use]
    pub const fn secret(&self) -> Option<&SecretRef> {
        match self {
            Self::Known(_) => None,
            Self::InVault(administrator) => Some(&administrator.secret),
        }
    }

    /// The database to connect to. `value` is the secret's value, where there is a secret.
    ///
    /// # Errors
    /// The value is no URL of a database. The error does not repeat it.
    pub fn resolve(&self, value: Option<&str>) -> Result<DatabaseConfig, ConfigError> {
        match self {
            Self::Known(database) => Ok(DatabaseConfig::clone(database)),
            Self::InVault(administrator) => administrator.entry.connect(value.unwrap_or_default()),
        }
    }

    /// Shows whether a reload changed the entry; a secret counts by its name.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        match self {
            Self::Known(database) => database.fingerprint,
            Self::InVault(administrator) => {
                let Administrator { secret: SecretRef { vault, name }, entry } = administrator.as_ref();
                entry.fingerprint(&format!("{vault}/{name}"))
            }
        }
    }
}

impl Entry {
    fn fingerprint(&self, url: &str) -> [u8; 32] {
        let Self { path: _, field: _, ca_pem, expectations } = self;
        let digest = Sha256::new().chain_update(url);
        let digest = digest.chain_update([0]).chain_update(ca_pem.as_deref().unwrap_or_default());
        digest.chain_update([0]).chain_update(format!("{expectations:?}")).finalize().into()
    }

    fn connect(&self, url: &str) -> Result<DatabaseConfig, ConfigError> {
        let url = url.trim();
        let refuse =
            |problem: String| ConfigError::Field { path: self.path.clone(), field: self.field.clone(), problem };
        let expected = "a URL such as postgresql://admin:password@host:5432/retail?sslmode=verify-full is expected";
        let parsed = Url::parse(url).map_err(|_| refuse(expected.to_owned()))?;
        if !matches!(parsed.scheme(), "postgresql" | "postgres") {
            return Err(refuse(expected.to_owned()));
        }
        let mut options = PgConnectOptions::from_str(url).map_err(|error| refuse(error.to_string()))?;
        // Checked in the URL itself: the driver fills gaps from PGHOST and the like, and the tenants' URIs must not.
        let given = parsed.host_str().is_some_and(|host| !host.is_empty()) && parsed.path().len() > 1;
        let Some(database) = options.get_database().map(str::to_owned).filter(|_| given) else {
            return Err(refuse(format!("{expected}, with host and database")));
        };
        // The driver's default would continue without encryption if the server has no TLS.
        if !parsed.query_pairs().any(|(name, _)| matches!(name.as_ref(), "sslmode" | "ssl-mode")) {
            options = options.ssl_mode(PgSslMode::VerifyFull);
        }
        let endpoint = Endpoint {
            host: options.get_host().trim_matches(['[', ']']).to_owned(),
            port: options.get_port(),
            database,
            ssl_mode: ssl_mode(options.get_ssl_mode()),
        };
        if let Some(pem) = &self.ca_pem {
            options = options.ssl_root_cert_from_pem(pem.clone().into_bytes());
        }
        let expectations = self.expectations.clone();
        Ok(DatabaseConfig { options, endpoint, expectations, fingerprint: self.fingerprint(url) })
    }
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
