//! Signing people in: the authorization-code flow with PKCE, for public clients and for applications with a secret.
//!
//! `GET /{tid}/oauth2/v2.0/authorize` shows a page with a button for each sample principal, in place of a password.
//! `POST /{tid}/oauth2/v2.0/register` is dynamic client registration (RFC 7591), which the real Entra ID does not have:
//! without it only clients that are known beforehand can sign in. Both stand in RFC 8414 metadata at
//! `/.well-known/oauth-authorization-server/{tid}/v2.0`, which the real one does not serve either.
//!
//! The rest is as strict as Entra ID or stricter: S256 only, exact redirect URIs, codes that are good for one minute and
//! one use, and a `resource` that must fit the scope (AADSTS9010010).
//!
//! In strict mode ([`super::Entra::be_strict`]) what the real one lacks is gone: registration, RFC 8414 metadata, the
//! challenge methods in the OpenID configuration, `iss` in redirects. Any `resource` is then refused, also one that the
//! real one would accept because it fits the scope: a client of that mode must not send it.

mod authorize;
mod base_url;
mod cors;
mod expiring;
mod page;
mod redeem;
mod redirect;
mod registration;
mod scope;

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{Router, routing::get};

pub(super) use base_url::{BaseUrl, plain};
pub(super) use cors::open_to_browsers;
pub(super) use redeem::grant;
pub(super) use registration::register;

use super::{
    Shared,
    clients::{Refusal, refuse},
    principals,
};
use expiring::Expiring;
use redirect::RedirectUri;

/// The Azure CLI's own registration.
const AZURE_CLI: &str = "04b07795-8ddb-461a-bbee-02f9e1bf7b46";

const REQUEST_LIFETIME: Duration = Duration::from_secs(600);
const CODE_LIFETIME: Duration = Duration::from_secs(60);
const REFRESH_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// An application that people sign in to.
#[derive(Clone)]
struct Client {
    id: String,
    /// What it proves itself with at the token endpoint; a public client has none.
    secret: Option<String>,
    name: String,
    redirect_uris: Vec<RedirectUri>,
    /// Whether it asked for refresh tokens when it registered.
    refreshes: bool,
}

/// A request for authorization that was found good.
#[derive(Clone)]
struct AuthorizationRequest {
    /// The path's tenant: a directory, or a name for all of them.
    tid: String,
    client: Client,
    redirect_uri: RedirectUri,
    challenge: String,
    scope: scope::Scope,
    resource: Option<String>,
    state: Option<String>,
    nonce: Option<String>,
}

/// A code, or what is left of one that was used.
struct Code {
    request: AuthorizationRequest,
    principal: &'static principals::Principal,
    /// The refresh tokens that came of it, once it was used.
    family: Option<u64>,
}

struct RefreshToken {
    tid: String,
    client_id: String,
    scope: scope::Scope,
    principal: &'static principals::Principal,
    family: u64,
    used: bool,
}

pub(super) struct SignIn {
    /// Whether it lacks what Entra ID lacks.
    strict: bool,
    clients: HashMap<String, Client>,
    /// What the API is called in scopes: application ID URIs and the client ID.
    resources: Vec<String>,
    requests: Expiring<AuthorizationRequest>,
    codes: Expiring<Code>,
    refresh_tokens: Expiring<RefreshToken>,
    families: u64,
}

impl SignIn {
    pub(super) fn new() -> Self {
        let known = |id: &str, name: &str, uris: &[&str]| Client {
            id: id.to_owned(),
            secret: None,
            name: name.to_owned(),
            redirect_uris: uris.iter().filter_map(|uri| RedirectUri::parse(uri)).collect(),
            refreshes: true,
        };
        let clients = [
            known(
                principals::CLIENT_APPLICATION,
                "Visual Studio Code",
                &[
                    "http://127.0.0.1/",
                    "http://localhost/",
                    "https://vscode.dev/redirect",
                    "https://insiders.vscode.dev/redirect",
                ],
            ),
            known(AZURE_CLI, "Azure CLI", &["http://localhost", "http://localhost/"]),
        ];
        Self {
            strict: false,
            clients: clients.map(|client| (client.id.clone(), client)).into(),
            resources: [principals::APPLICATION_ID_URI, principals::AUDIENCE].map(str::to_owned).into(),
            requests: Expiring::new(REQUEST_LIFETIME),
            codes: Expiring::new(CODE_LIFETIME),
            refresh_tokens: Expiring::new(REFRESH_LIFETIME),
            families: 0,
        }
    }

    pub(super) fn be_strict(&mut self) {
        self.strict = true;
    }

    pub(super) fn is_strict(&self) -> bool {
        self.strict
    }

    /// Registers an application of the "web" platform. The URI that Entra ID would not register is the error.
    pub(super) fn add_web_app(&mut self, id: &str, name: &str, secret: &str, uris: &[&str]) -> Result<(), String> {
        let registered = |uri: &&str| RedirectUri::parse(uri).filter(RedirectUri::is_registrable);
        let redirect_uris = uris
            .iter()
            .map(|uri| registered(uri).ok_or_else(|| (*uri).to_owned()))
            .collect::<Result<Vec<_>, String>>()?;
        let client = Client {
            id: id.to_owned(),
            secret: Some(secret.to_owned()),
            name: name.to_owned(),
            redirect_uris,
            refreshes: true,
        };
        self.clients.insert(client.id.clone(), client);
        Ok(())
    }

    /// Strict mode refuses a `resource`, whatever it names.
    fn refuse_resource(&self, resource: Option<&str>) -> Result<(), Refusal> {
        if self.strict && resource.is_some() {
            let text = "The resource parameter provided in the request doesn't match with the requested scopes.";
            return Err(refuse(9_010_010, "invalid_target", 400, text));
        }
        Ok(())
    }

    pub(super) fn add_resource(&mut self, uri: &str) {
        self.resources.push(uri.to_owned());
    }

    pub(super) fn set_code_lifetime(&mut self, lifetime: Duration) {
        self.codes.set_lifetime(lifetime);
    }
}

/// The pages that people see. They are never open to scripts of other sites.
pub(super) fn pages() -> Router<Arc<Shared>> {
    Router::new().route("/{tid}/oauth2/v2.0/authorize", get(authorize::ask).post(authorize::decide))
}
