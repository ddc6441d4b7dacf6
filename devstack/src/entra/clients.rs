//! Applications that ask for tokens of their own: the client-credentials grant.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use jsonwebtoken::{Algorithm, Validation};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Error, KeyIssuer, Shared, SigningKey, TokenRequest};

/// The audience that Entra ID demands of federated tokens.
const EXCHANGE_AUDIENCE: &str = "api://AzureADTokenExchange";

/// Lifetime of an application's token in seconds, like Entra ID's.
pub(super) const LIFETIME: i64 = 3599;

/// Resources for which applications get tokens. Any other one is unknown in the tenant.
const RESOURCES: [&str; 4] = [
    "https://vault.azure.net",
    "https://management.azure.com",
    "https://cognitiveservices.azure.com",
    "https://ossrdbms-aad.database.windows.net",
];

/// A registered application with its service principal.
#[derive(Clone, Debug)]
pub struct ClientApp {
    /// The Entra tenant.
    pub tenant_id: String,
    /// The application's client ID.
    pub client_id: String,
    /// The object ID of its service principal: what a vault grants access to.
    pub object_id: String,
    /// The client secret, if it may log in with one.
    pub secret: Option<String>,
    /// The Kubernetes service account (`system:serviceaccount:NAMESPACE:NAME`) that it trusts, if any.
    pub federated_subject: Option<String>,
}

impl ClientApp {
    /// An application with random IDs and a random secret.
    pub fn with_secret(tenant_id: &str) -> Self {
        Self {
            tenant_id: tenant_id.to_owned(),
            client_id: Uuid::new_v4().to_string(),
            object_id: Uuid::new_v4().to_string(),
            secret: Some(crate::random::password()),
            federated_subject: None,
        }
    }

    /// Also trusts a Kubernetes service account.
    #[must_use]
    pub fn federated(mut self, subject: &str) -> Self {
        self.federated_subject = Some(subject.to_owned());
        self
    }
}

#[derive(Default)]
pub(super) struct Clients {
    by_id: HashMap<(String, String), ClientApp>,
    cluster_key: OnceLock<Arc<SigningKey>>,
}

/// An error of the token endpoint: the AADSTS number, the OAuth error and the text.
pub(super) struct Refusal {
    pub(super) number: u32,
    pub(super) error: &'static str,
    pub(super) status: u16,
    pub(super) text: String,
}

pub(super) fn refuse(number: u32, error: &'static str, status: u16, text: impl Into<String>) -> Refusal {
    Refusal { number, error, status, text: text.into() }
}

impl Clients {
    pub(super) fn add(&mut self, client: ClientApp) {
        self.by_id.insert((client.tenant_id.clone(), client.client_id.clone()), client);
    }

    fn cluster_key(&self) -> Result<Arc<SigningKey>, Error> {
        if let Some(key) = self.cluster_key.get() {
            return Ok(Arc::clone(key));
        }
        let key = Arc::new(SigningKey::generate(None, KeyIssuer::Absent)?);
        Ok(Arc::clone(self.cluster_key.get_or_init(|| key)))
    }

    /// The application that a form proves to be.
    fn authenticate(&self, tenant_id: &str, form: &HashMap<String, String>) -> Result<ClientApp, Refusal> {
        let field = |name: &str| form.get(name).map(String::as_str).filter(|value| !value.is_empty());
        let id = field("client_id").ok_or_else(|| {
            refuse(
                900_144,
                "invalid_request",
                400,
                "The request body must contain the following parameter: 'client_id'.",
            )
        })?;
        let client = self.by_id.get(&(tenant_id.to_owned(), id.to_owned())).ok_or_else(|| {
            refuse(
                700_016,
                "unauthorized_client",
                400,
                format!("Application with identifier '{id}' was not found in the directory '{tenant_id}'."),
            )
        })?;
        match (field("client_secret"), field("client_assertion")) {
            (Some(secret), _) if client.secret.as_deref() == Some(secret) => Ok(client.clone()),
            (Some(_), _) => Err(refuse(7_000_215, "invalid_client", 401, "Invalid client secret provided.")),
            (None, Some(assertion)) => match self.subject(assertion) {
                Ok(subject) if client.federated_subject.as_deref() == Some(subject.as_str()) => Ok(client.clone()),
                Ok(subject) => Err(refuse(
                    700_213,
                    "invalid_client",
                    401,
                    format!("No matching federated identity record found for presented assertion subject '{subject}'."),
                )),
                Err(error) => Err(refuse(
                    700_027,
                    "invalid_client",
                    401,
                    format!(
                        "The certificate with identifier used to sign the client assertion is not registered on application: {error}"
                    ),
                )),
            },
            (None, None) => Err(refuse(
                7_000_218,
                "invalid_client",
                401,
                "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.",
            )),
        }
    }

    /// The subject of a service account's token that our cluster key signed.
    fn subject(&self, assertion: &str) -> Result<String, Error> {
        let mut validation = Validation::new(Algorithm::RS256);
        validation.set_audience(&[EXCHANGE_AUDIENCE]);
        let claims: Map<String, Value> =
            jsonwebtoken::decode(assertion, self.cluster_key()?.decoding(), &validation)?.claims;
        Ok(claims.get("sub").and_then(Value::as_str).unwrap_or_default().to_owned())
    }
}

/// A token as the cluster's service-account issuer signs them.
pub(super) fn service_account_token(shared: &Shared, subject: &str) -> Result<String, Error> {
    let key = shared.lock().clients.cluster_key()?;
    let payload = json!({
        "aud": [EXCHANGE_AUDIENCE],
        "iss": "https://kubernetes.default.svc",
        "sub": subject,
        "exp": jiff::Timestamp::now().as_second() + 3600,
    });
    let request = TokenRequest {
        raw_payload: Some(payload.to_string()),
        signing: super::Signing::Key(key),
        ..TokenRequest::user("")
    };
    shared.issue(&request)
}

/// Answers the client-credentials grant with an access token.
pub(super) fn grant(shared: &Shared, tenant_id: &str, form: &HashMap<String, String>) -> Result<String, Refusal> {
    let grant_type = form.get("grant_type").map(String::as_str).unwrap_or_default();
    if grant_type != "client_credentials" {
        let text = format!("The app requested an unsupported grant type '{grant_type}'.");
        return Err(refuse(70_003, "unsupported_grant_type", 400, text));
    }
    let client = shared.lock().clients.authenticate(tenant_id, form)?;
    let scope = form.get("scope").map(String::as_str).unwrap_or_default();
    let Some(resource) = scope.strip_suffix("/.default") else {
        let text = format!(
            "The provided value for the input parameter 'scope' is not valid. The scope '{scope}' does not end in '/.default'."
        );
        return Err(refuse(1_002_012, "invalid_scope", 400, text));
    };
    if !RESOURCES.contains(&resource) {
        let text = format!("The resource principal named {resource} was not found in the tenant named {tenant_id}.");
        return Err(refuse(500_011, "invalid_resource", 400, text));
    }
    // Microsoft's own resources still take v1.0 tokens.
    let request = TokenRequest::application(tenant_id, &client.client_id, &[])
        .claim("oid", json!(client.object_id))
        .claim("sub", json!(client.object_id))
        .claim("aud", json!(resource))
        .claim("upn", Value::Null)
        .v1()
        .expires_in(LIFETIME);
    shared.issue(&request).map_err(|error| refuse(90_033, "temporarily_unavailable", 503, error.to_string()))
}
