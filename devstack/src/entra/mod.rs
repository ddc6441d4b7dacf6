//! A stand-in for Microsoft Entra ID: OpenID configuration, key sets, tokens for applications, over TLS.
//!
//! The paths, documents and errors are those of `login.microsoftonline.com`. People sign in on a page with a button for
//! each sample principal ([`sign_in`]). What the real authority does only after that, the stand-in also does on request: [`Entra::issue`], or `POST /_standin/token` with
//! `{"tenantId", "principal", "version": 1|2, "claims": {…}, "header": {…}, "expiresIn"}`, answers any token
//! that a test or a developer asks for.

mod clients;
mod keys;
pub mod principals;
mod routes;
mod sign_in;
mod token;

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jsonwebtoken::{Algorithm, Validation};
use serde_json::{Map, Value};

pub use clients::ClientApp;
pub use keys::{KeyIssuer, SigningKey};
pub use token::{Signing, TokenRequest, TokenVersion, with_altered_signature};

use crate::{
    http::{self, Bind, ServerHandle},
    tls::{self, Authority},
};
use clients::Clients;
use keys::KeyRing;
use sign_in::SignIn;
use token::Issuers;

/// What can go wrong in the stand-in.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key or its certificate could not be made.
    #[error("cannot make a signing key: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A key is not usable.
    #[error("signing key: {0}")]
    Key(String),
    /// A token could not be signed or verified.
    #[error("token: {0}")]
    Token(#[from] jsonwebtoken::errors::Error),
    /// The server's certificate could not be made.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// Entra ID would not register this redirect URI.
    #[error("'{0}' cannot be registered as a redirect URI")]
    RedirectUri(String),
    /// The server could not listen.
    #[error("the authority cannot listen: {0}")]
    Listen(#[from] io::Error),
}

/// How to start the authority.
#[derive(Default)]
pub struct EntraOptions {
    /// Where to listen; a free loopback port if not given.
    pub bind: Option<Bind>,
    /// The base URL under which clients reach it, if that is not where it listens.
    pub public_url: Option<String>,
    /// The base of v1.0 issuers, which Entra ID has on another host (sts.windows.net); the base URL if not given.
    pub sts_url: Option<String>,
    /// Further DNS names for the server's certificate.
    pub names: Vec<String>,
    /// Where people may also sign in by plain HTTP, so that no certificate can be in the way; nowhere if not given.
    pub plain_sign_in: Option<PlainSignIn>,
}

/// Signing in without TLS.
#[derive(Default)]
pub struct PlainSignIn {
    /// Where to listen; a free loopback port if not given.
    pub bind: Option<Bind>,
    /// The base URL under which browsers reach it, if that is not where it listens. It answers to no other name.
    pub public_url: Option<String>,
}

/// Which documents a fault concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// OpenID configurations.
    Configuration,
    /// Key sets.
    Keys,
    /// The token endpoint.
    Token,
    /// The sign-in page.
    Authorize,
    /// Dynamic client registration.
    Registration,
}

/// What an endpoint does instead of answering properly.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Answers with this status and an empty body.
    Status(u16),
    /// Answers properly after a while.
    Slow(Duration),
    /// Never answers.
    Hang,
    /// Answers 200 with this content type and body.
    Body(String, String),
}

/// A running authority. Dropping it ends the server.
pub struct Entra {
    server: ServerHandle,
    /// The server for signing in without TLS, and its base URL.
    plain: Option<(ServerHandle, String)>,
    shared: Arc<Shared>,
}

impl Entra {
    /// Starts the authority with a certificate from `authority` and one new signing key.
    ///
    /// The sample tenants are known from the start.
    pub async fn start(authority: &Authority, options: EntraOptions) -> Result<Self, Error> {
        let EntraOptions { bind, public_url, sts_url, names, plain_sign_in } = options;
        let listener = listen(bind)?;
        let base = match public_url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("https://{}", listener.local_addr()?),
        };
        let sts = sts_url.map_or_else(|| base.clone(), |url| url.trim_end_matches('/').to_owned());
        let state = State {
            keys: tokio::task::spawn_blocking(KeyRing::new).await.map_err(|error| Error::Key(error.to_string()))??,
            tenants: [principals::ZAVA_TENANT_ID, principals::CONTOSO_TENANT_ID].map(str::to_owned).into(),
            clients: Clients::default(),
            sign_in: SignIn::new(),
            faults: HashMap::new(),
            counts: HashMap::new(),
        };
        let shared = Arc::new(Shared { issuers: Issuers { authority: base, sts }, state: Mutex::new(state) });
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let tls = authority.server_config(&names)?;
        let server = http::serve(listener, Some(tls), routes::router(Arc::clone(&shared))).await?;
        let plain = match plain_sign_in {
            Some(PlainSignIn { bind, public_url }) => {
                let listener = listen(bind)?;
                let base = match public_url {
                    Some(url) => url.trim_end_matches('/').to_owned(),
                    None => format!("http://{}", listener.local_addr()?),
                };
                let router = sign_in::plain(Arc::clone(&shared), &base);
                Some((http::serve(listener, None, router).await?, base))
            }
            None => None,
        };
        Ok(Self { server, plain, shared })
    }

    /// The base URL: what products call the authority host, without a trailing slash.
    pub fn url(&self) -> &str {
        &self.shared.issuers.authority
    }

    /// The base URL of signing in by plain HTTP, if that was asked for.
    pub fn sign_in_url(&self) -> Option<String> {
        self.plain.as_ref().map(|(_, url)| url.clone())
    }

    /// The server, for cutting it off.
    pub fn server(&self) -> &ServerHandle {
        &self.server
    }

    /// The `iss` of a tenant's tokens.
    pub fn issuer(&self, tenant_id: &str, version: TokenVersion) -> String {
        self.shared.issuers.issuer(tenant_id, version)
    }

    /// Makes a tenant known. Unknown ones have no configuration and no keys.
    pub fn add_tenant(&self, tenant_id: &str) {
        self.shared.lock().tenants.insert(tenant_id.to_owned());
    }

    /// Registers an application that may ask for tokens of its own, and its tenant.
    pub fn add_client(&self, client: ClientApp) {
        let mut state = self.shared.lock();
        state.tenants.insert(client.tenant_id.clone());
        state.clients.add(client);
    }

    /// From now on lacks what Entra ID lacks: registration, RFC 8414 metadata, `iss` in redirects; refuses any `resource`.
    pub fn be_strict(&self) {
        self.shared.lock().sign_in.be_strict();
    }

    /// Registers an application with a secret that people sign in to, as of the "web" platform.
    pub fn add_web_app(&self, client_id: &str, name: &str, secret: &str, redirect_uris: &[&str]) -> Result<(), Error> {
        self.shared.lock().sign_in.add_web_app(client_id, name, secret, redirect_uris).map_err(Error::RedirectUri)
    }

    /// Gives the API one more application ID URI, such as the URL of its gateway, by which clients may ask for its scope.
    pub fn add_resource(&self, uri: &str) {
        self.shared.lock().sign_in.add_resource(uri);
    }

    /// Sets how long codes of the sign-in page are good, from now on; a minute unless set.
    pub fn set_code_lifetime(&self, lifetime: Duration) {
        self.shared.lock().sign_in.set_code_lifetime(lifetime);
    }

    /// Issues a token.
    pub fn issue(&self, request: &TokenRequest) -> Result<String, Error> {
        self.shared.issue(request)
    }

    /// A service account's token as Kubernetes would project it, for the federated login of an application.
    pub fn service_account_token(&self, subject: &str) -> Result<String, Error> {
        clients::service_account_token(&self.shared, subject)
    }

    /// Publishes a new key and signs with it from now on; the old ones stay published.
    pub fn rotate_keys(&self) -> Result<Arc<SigningKey>, Error> {
        self.shared.lock().keys.rotate()
    }

    /// Stops publishing every key but the newest shared one.
    pub fn retire_old_keys(&self) {
        self.shared.lock().keys.retire_old();
    }

    /// Publishes a key for one tenant alone, which signs that tenant's tokens from now on.
    pub fn add_tenant_key(&self, tenant_id: &str, key: Arc<SigningKey>) {
        self.shared.lock().keys.add_own(tenant_id, key);
    }

    /// Stops publishing a tenant's own keys.
    pub fn remove_tenant_keys(&self, tenant_id: &str) {
        self.shared.lock().keys.remove_own(tenant_id);
    }

    /// The key that signs for a tenant.
    pub fn current_key(&self, tenant_id: &str) -> Result<Arc<SigningKey>, Error> {
        self.shared.lock().keys.current(tenant_id)
    }

    /// Sets or ends a fault of one endpoint.
    pub fn set_fault(&self, endpoint: Endpoint, fault: Option<Fault>) {
        let mut state = self.shared.lock();
        match fault {
            Some(fault) => state.faults.insert(endpoint, fault),
            None => state.faults.remove(&endpoint),
        };
    }

    /// How often an endpoint was asked for a tenant, faults included.
    pub fn requests(&self, endpoint: Endpoint, tenant_id: &str) -> u64 {
        self.shared.lock().counts.get(&(endpoint, tenant_id.to_owned())).copied().unwrap_or(0)
    }

    /// How often a tenant's key set was asked for.
    pub fn key_fetches(&self, tenant_id: &str) -> u64 {
        self.requests(Endpoint::Keys, tenant_id)
    }

    /// A view for resource servers in the same process that check tokens of this authority.
    pub fn verifier(&self) -> Verifier {
        Verifier(Arc::clone(&self.shared))
    }

    /// Ends the server.
    pub async fn shutdown(self) {
        self.server.shutdown().await;
        if let Some((plain, _)) = self.plain {
            plain.shutdown().await;
        }
    }
}

fn listen(bind: Option<Bind>) -> Result<std::net::TcpListener, Error> {
    Ok(match bind {
        Some(Bind::Listener(listener)) => listener,
        Some(Bind::Address(address)) => std::net::TcpListener::bind(address)?,
        None => http::bind_loopback()?,
    })
}

/// Checks tokens as a resource server would: published key, RS256, issuer, audience, times.
#[derive(Clone)]
pub struct Verifier(Arc<Shared>);

impl Verifier {
    /// The base URL of the authority.
    pub fn url(&self) -> &str {
        &self.0.issuers.authority
    }

    /// The claims of a valid token for `audience`, or why it is not valid.
    pub fn verify(&self, token: &str, audience: &str) -> Result<Map<String, Value>, Error> {
        let header = jsonwebtoken::decode_header(token)?;
        let unverified: Map<String, Value> = jsonwebtoken::dangerous::insecure_decode_claims(token)?;
        let tid = unverified.get("tid").and_then(Value::as_str).unwrap_or_default();
        let published = self.0.lock().keys.published(tid);
        let key = published
            .iter()
            .find(|key| Some(key.kid()) == header.kid.as_deref())
            .ok_or_else(|| Error::Key(String::from("the token's key is not published")))?;
        let mut validation = Validation::new(Algorithm::RS256);
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["exp", "nbf", "aud", "iss"]);
        validation.set_audience(&[audience]);
        validation.set_issuer(&[TokenVersion::V1, TokenVersion::V2].map(|version| self.0.issuers.issuer(tid, version)));
        Ok(jsonwebtoken::decode::<Map<String, Value>>(token, key.decoding(), &validation)?.claims)
    }
}

struct State {
    keys: KeyRing,
    tenants: HashSet<String>,
    clients: Clients,
    sign_in: SignIn,
    faults: HashMap<Endpoint, Fault>,
    counts: HashMap<(Endpoint, String), u64>,
}

struct Shared {
    issuers: Issuers,
    state: Mutex<State>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in a handler leaves the state as consistent as it was: every change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn issue(&self, request: &TokenRequest) -> Result<String, Error> {
        let current = self.lock().keys.current(&request.tenant_id)?;
        token::issue(request, &self.issuers, &current)
    }
}
