//! A stand-in for Azure Key Vault: the secrets API over TLS, with the bearer challenge and real token checks.
//!
//! Versions, tags, attributes, soft delete, recovery and purge behave as the service documents them; errors are
//! `{"error": {"code", "message", "innererror"}}`. Backup, keys and certificates are not there. Who may do what
//! is set with [`KeyVault::allow`]; tests look inside with [`KeyVault::secret`] and spoil things with
//! [`KeyVault::inject`] and [`KeyVault::edit`].

mod faults;
mod routes;
mod store;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub use faults::{Effect, FaultRule};
pub use store::SecretVersion;

use crate::{
    entra::{Entra, Verifier, principals},
    http::{self, Bind, ServerHandle},
    tls::{self, Authority},
};
use faults::Faults;
use store::Store;

/// The audience of tokens for Key Vault.
pub const RESOURCE: &str = "https://vault.azure.net";

/// What can go wrong while starting the vault.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server's certificate could not be made.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// The server could not listen.
    #[error("the vault cannot listen: {0}")]
    Listen(#[from] io::Error),
}

/// An operation of the secrets API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    Get,
    List,
    /// Lists the versions of one secret.
    ListVersions,
    /// Writes a new version.
    Set,
    /// Changes attributes and tags of a version.
    Update,
    /// Deletes softly.
    Delete,
    ListDeleted,
    /// Reads about a deleted secret.
    GetDeleted,
    /// Restores a deleted secret.
    Recover,
    /// Deletes for good.
    Purge,
}

impl Operation {
    /// True for operations that change something.
    pub fn is_write(self) -> bool {
        matches!(self, Self::Set | Self::Update | Self::Delete | Self::Recover | Self::Purge)
    }
}

/// What a principal may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permissions(HashSet<Operation>);

impl Permissions {
    /// The role Key Vault Secrets Officer: everything.
    pub fn officer() -> Self {
        use Operation as O;
        Self::only(&[
            O::Get,
            O::List,
            O::ListVersions,
            O::Set,
            O::Update,
            O::Delete,
            O::ListDeleted,
            O::GetDeleted,
            O::Recover,
            O::Purge,
        ])
    }

    /// The role Key Vault Secrets User: reading.
    pub fn user() -> Self {
        Self::only(&[Operation::Get, Operation::List, Operation::ListVersions])
    }

    /// These operations and no others.
    pub fn only(operations: &[Operation]) -> Self {
        Self(operations.iter().copied().collect())
    }

    /// The same without some operations.
    #[must_use]
    pub fn without(mut self, operations: &[Operation]) -> Self {
        self.0.retain(|operation| !operations.contains(operation));
        self
    }
}

/// How to start the vault.
pub struct KeyVaultOptions {
    /// Where to listen; a free loopback port if not given.
    pub bind: Option<Bind>,
    /// The base URL under which clients reach it, if that is not where it listens.
    pub public_url: Option<String>,
    /// The Entra tenant whose tokens it takes.
    pub tenant_id: String,
    /// Further DNS names for the server's certificate.
    pub names: Vec<String>,
    /// Whether the vault refuses to purge deleted secrets.
    pub purge_protection: bool,
    /// How long deleting and recovering go on behind the scenes; at once by default.
    pub transition: Duration,
}

impl Default for KeyVaultOptions {
    fn default() -> Self {
        Self {
            bind: None,
            public_url: None,
            tenant_id: principals::ZAVA_TENANT_ID.to_owned(),
            names: Vec::new(),
            purge_protection: false,
            transition: Duration::ZERO,
        }
    }
}

/// A running vault. Dropping it ends the server.
pub struct KeyVault {
    server: ServerHandle,
    shared: Arc<Shared>,
}

struct Shared {
    url: String,
    tenant_id: String,
    verifier: Verifier,
    state: Mutex<State>,
}

struct State {
    store: Store,
    allowed: HashMap<String, Permissions>,
    faults: Faults,
    calls: BTreeMap<Operation, u64>,
    challenges: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is complete before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeyVault {
    /// Starts an empty vault that nobody may use yet and that trusts tokens of `entra`.
    pub async fn start(authority: &Authority, entra: &Entra, options: KeyVaultOptions) -> Result<Self, Error> {
        let KeyVaultOptions { bind, public_url, tenant_id, names, purge_protection, transition } = options;
        let listener = match bind {
            Some(Bind::Listener(listener)) => listener,
            Some(Bind::Address(address)) => std::net::TcpListener::bind(address)?,
            None => http::bind_loopback()?,
        };
        let url = match public_url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("https://{}", listener.local_addr()?),
        };
        let state = State {
            store: Store::new(&url, purge_protection, transition),
            allowed: HashMap::new(),
            faults: Faults::default(),
            calls: BTreeMap::new(),
            challenges: 0,
        };
        let verifier = entra.verifier();
        let shared = Arc::new(Shared { url, tenant_id, verifier, state: Mutex::new(state) });
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let tls = authority.server_config(&names)?;
        let server = http::serve(listener, Some(tls), routes::router(Arc::clone(&shared))).await?;
        Ok(Self { server, shared })
    }

    /// The vault's base URL, without a trailing slash.
    pub fn url(&self) -> &str {
        &self.shared.url
    }

    /// The server, for cutting it off.
    pub fn server(&self) -> &ServerHandle {
        &self.server
    }

    /// Lets the service principal or user with this object ID do these things, and no others any more.
    pub fn allow(&self, object_id: &str, permissions: Permissions) {
        self.shared.lock().allowed.insert(object_id.to_owned(), permissions);
    }

    /// Takes every permission from a principal.
    pub fn forbid(&self, object_id: &str) {
        self.shared.lock().allowed.remove(object_id);
    }

    /// How often an operation was asked for by somebody with a valid token, faults and refusals included.
    pub fn calls(&self, operation: Operation) -> u64 {
        self.shared.lock().calls.get(&operation).copied().unwrap_or(0)
    }

    /// How often anything that writes was asked for.
    pub fn writes(&self) -> u64 {
        self.shared.lock().calls.iter().filter(|(operation, _)| operation.is_write()).map(|(_, count)| count).sum()
    }

    /// How often a request without a valid token was answered with a challenge.
    pub fn challenges(&self) -> u64 {
        self.shared.lock().challenges
    }

    /// Sets every counter to zero.
    pub fn reset_calls(&self) {
        let mut state = self.shared.lock();
        state.calls.clear();
        state.challenges = 0;
    }

    /// Adds a fault. Rules are tried in the order in which they were added.
    pub fn inject(&self, rule: FaultRule) {
        self.shared.lock().faults.add(rule);
    }

    pub fn clear_faults(&self) {
        self.shared.lock().faults = Faults::default();
    }

    /// Names of secrets that are not deleted, in order.
    pub fn names(&self) -> Vec<String> {
        self.shared.lock().store.names(false)
    }

    /// Names of deleted secrets that can be recovered, in order.
    pub fn deleted_names(&self) -> Vec<String> {
        self.shared.lock().store.names(true)
    }

    /// The latest version of a secret, disabled or not, unless the secret is deleted.
    pub fn secret(&self, name: &str) -> Option<SecretVersion> {
        self.versions(name).pop()
    }

    /// The versions of a secret, oldest first; none if it is deleted.
    pub fn versions(&self, name: &str) -> Vec<SecretVersion> {
        self.shared.lock().store.versions(name)
    }

    /// Writes a version past the API: as somebody with another tool would.
    pub fn put(&self, name: &str, value: &str, tags: &[(&str, &str)]) {
        let tags = tags.iter().map(|(name, value)| (String::from(*name), String::from(*value))).collect();
        self.shared.lock().store.put(name, value, tags);
    }

    /// Changes the latest version of a secret in place, past the API. False if there is none.
    pub fn edit(&self, name: &str, change: impl FnOnce(&mut SecretVersion)) -> bool {
        self.shared.lock().store.latest_mut(name).map(change).is_some()
    }

    pub async fn shutdown(self) {
        self.server.shutdown().await;
    }
}
