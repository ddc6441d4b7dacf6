//! Tokens with every claim, header and signature that a test can think of.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{
    Error,
    keys::SigningKey,
    principals::{APPLICATION_ID_URI, AUDIENCE, CLIENT_APPLICATION, Principal, SCOPE},
};

const LIFETIME: i64 = 3600;

/// The two token formats of Entra ID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenVersion {
    /// `ver` 1.0, issuer sts.windows.net.
    V1,
    /// `ver` 2.0, issuer login.microsoftonline.com.
    #[default]
    V2,
}

/// How a token is signed.
#[derive(Clone, Debug, Default)]
pub enum Signing {
    /// RS256 with the key that the authority currently signs with.
    #[default]
    Current,
    /// RS256 with another key, published or not; its key ID goes to the header.
    Key(Arc<SigningKey>),
    /// The current key with another algorithm, genuinely applied (RS384, RS512, PS256, …).
    Algorithm(Algorithm),
    /// HMAC with any secret; the header says HS256.
    Hmac(Vec<u8>),
    /// HMAC keyed by the PEM of the current public key: the classic confusion of algorithms.
    HmacWithPublicKey,
    /// An empty signature; the header says `none`.
    None,
}

/// A token to issue. Everything that is not set comes out as Entra ID would have it.
#[derive(Clone, Debug)]
pub struct TokenRequest {
    /// The Entra tenant: `tid` and part of the issuer.
    pub tenant_id: String,
    /// The format.
    pub version: TokenVersion,
    /// Claims to add or replace; null removes one.
    pub claims: Map<String, Value>,
    /// Header members to add or replace; null removes one.
    pub header: Map<String, Value>,
    /// Seconds until `exp`, counted from now; negative for an expired token.
    pub expires_in: i64,
    /// The signature.
    pub signing: Signing,
    /// The payload, byte for byte, instead of one made of claims: for duplicate members and bad JSON.
    pub raw_payload: Option<String>,
}

impl TokenRequest {
    /// A user's token for the retail API, without any claim that a rule could match but its random object ID.
    pub fn user(tenant_id: &str) -> Self {
        Self {
            tenant_id: tenant_id.to_owned(),
            version: TokenVersion::V2,
            claims: Map::new(),
            header: Map::new(),
            expires_in: LIFETIME,
            signing: Signing::Current,
            raw_payload: None,
        }
    }

    /// The token of a sample principal.
    pub fn principal(principal: &Principal) -> Self {
        Self { claims: principal.claims(), ..Self::user(principal.tenant_id) }
    }

    /// An application's own token: no user, no scope.
    pub fn application(tenant_id: &str, application: &str, roles: &[&str]) -> Self {
        let object = Uuid::new_v4().to_string();
        let mut request = Self::user(tenant_id)
            .claim("scp", Value::Null)
            .claim("name", Value::Null)
            .claim("preferred_username", Value::Null)
            .claim("idtyp", json!("app"))
            .claim("azp", json!(application))
            .claim("oid", json!(object))
            .claim("sub", json!(object));
        if !roles.is_empty() {
            request = request.claim("roles", json!(roles));
        }
        request
    }

    /// An ID token that happens to carry the API's audience.
    pub fn id_token(tenant_id: &str) -> Self {
        Self::user(tenant_id)
            .claim("scp", Value::Null)
            .claim("azp", Value::Null)
            .claim("azpacr", Value::Null)
            .claim("nonce", json!(Uuid::new_v4().simple().to_string()))
    }

    /// The v1.0 format.
    #[must_use]
    pub fn v1(mut self) -> Self {
        self.version = TokenVersion::V1;
        // v1.0 names the client by another claim.
        for (v2, v1) in [("azp", "appid"), ("azpacr", "appidacr")] {
            if let Some(value) = self.claims.remove(v2) {
                self.claims.insert(v1.to_owned(), value);
            }
        }
        self
    }

    /// Sets a claim; null removes it.
    #[must_use]
    pub fn claim(mut self, name: &str, value: Value) -> Self {
        self.claims.insert(name.to_owned(), value);
        self
    }

    /// Sets a header member; null removes it.
    #[must_use]
    pub fn header(mut self, name: &str, value: Value) -> Self {
        self.header.insert(name.to_owned(), value);
        self
    }

    /// Sets how the token is signed.
    #[must_use]
    pub fn signing(mut self, signing: Signing) -> Self {
        self.signing = signing;
        self
    }

    /// Sets the lifetime in seconds.
    #[must_use]
    pub fn expires_in(mut self, seconds: i64) -> Self {
        self.expires_in = seconds;
        self
    }

    /// What Entra ID sends for a user in more than 200 groups: a pointer instead of the groups.
    #[must_use]
    pub fn group_overage(self) -> Self {
        let user = self.claims.get("oid").and_then(Value::as_str).unwrap_or("unknown").to_owned();
        let endpoint = format!("https://graph.windows.net/{}/users/{user}/getMemberObjects", self.tenant_id);
        self.claim("groups", Value::Null)
            .claim("_claim_names", json!({"groups": "src1"}))
            .claim("_claim_sources", json!({"src1": {"endpoint": endpoint}}))
    }
}

/// The bases of the two issuers, without a trailing slash.
#[derive(Clone, Debug)]
pub(super) struct Issuers {
    pub(super) authority: String,
    pub(super) sts: String,
}

impl Issuers {
    pub(super) fn issuer(&self, tenant_id: &str, version: TokenVersion) -> String {
        match version {
            TokenVersion::V1 => format!("{}/{tenant_id}/", self.sts),
            TokenVersion::V2 => format!("{}/{tenant_id}/v2.0", self.authority),
        }
    }
}

/// Builds and signs the token.
pub(super) fn issue(request: &TokenRequest, issuers: &Issuers, current: &SigningKey) -> Result<String, Error> {
    let payload = match &request.raw_payload {
        Some(raw) => raw.clone(),
        None => Value::Object(claims(request, issuers)).to_string(),
    };
    let (algorithm, kid) = match &request.signing {
        Signing::Current => (json!("RS256"), current.kid()),
        Signing::Key(key) => (json!("RS256"), key.kid()),
        Signing::Algorithm(algorithm) => (json!(algorithm), current.kid()),
        Signing::Hmac(_) | Signing::HmacWithPublicKey => (json!("HS256"), current.kid()),
        Signing::None => (json!("none"), current.kid()),
    };
    let mut header = Map::new();
    header.insert(String::from("typ"), json!("JWT"));
    header.insert(String::from("alg"), algorithm);
    if request.version == TokenVersion::V1 {
        header.insert(String::from("x5t"), json!(kid));
    }
    header.insert(String::from("kid"), json!(kid));
    merge(&mut header, &request.header);

    let message = format!("{}.{}", encode(&Value::Object(header).to_string()), encode(&payload));
    let hmac = |secret: &[u8]| {
        jsonwebtoken::crypto::sign(message.as_bytes(), &EncodingKey::from_secret(secret), Algorithm::HS256)
    };
    let signature = match &request.signing {
        Signing::Current => current.sign(message.as_bytes(), Algorithm::RS256)?,
        Signing::Key(key) => key.sign(message.as_bytes(), Algorithm::RS256)?,
        Signing::Algorithm(algorithm) => current.sign(message.as_bytes(), *algorithm)?,
        Signing::Hmac(secret) => hmac(secret)?,
        Signing::HmacWithPublicKey => hmac(current.public_pem().as_bytes())?,
        Signing::None => String::new(),
    };
    Ok(format!("{message}.{signature}"))
}

fn claims(request: &TokenRequest, issuers: &Issuers) -> Map<String, Value> {
    let now = jiff::Timestamp::now().as_second();
    let mut claims = Map::new();
    let mut set = |name: &str, value: Value| claims.insert(name.to_owned(), value);
    let (v1, tid) = (request.version == TokenVersion::V1, request.tenant_id.as_str());
    let oid =
        request.claims.get("oid").and_then(Value::as_str).map_or_else(|| Uuid::new_v4().to_string(), str::to_owned);
    set("aud", json!(if v1 { APPLICATION_ID_URI } else { AUDIENCE }));
    set("iss", json!(issuers.issuer(tid, request.version)));
    // Entra ID dates tokens back by five minutes, and never to after their own end.
    let issued = (now - 300).min(now + request.expires_in - 1);
    set("iat", json!(issued));
    set("nbf", json!(issued));
    set("exp", json!(now + request.expires_in));
    set(if v1 { "appid" } else { "azp" }, json!(CLIENT_APPLICATION));
    set(if v1 { "appidacr" } else { "azpacr" }, json!("0"));
    set("name", json!("Sample User"));
    set(if v1 { "upn" } else { "preferred_username" }, json!("user@example.com"));
    set("scp", json!(SCOPE));
    // Pairwise: another value per user and application, and never the object ID.
    set("sub", json!(encode(&format!("{oid}{AUDIENCE}"))[..43]));
    set("oid", json!(oid));
    set("tid", json!(tid));
    set("uti", json!(Uuid::new_v4().simple().to_string()[..22]));
    set("rh", json!("1.AAAA."));
    set("aio", json!(Uuid::new_v4().simple().to_string()));
    set("ver", json!(if v1 { "1.0" } else { "2.0" }));
    merge(&mut claims, &request.claims);
    claims
}

fn merge(target: &mut Map<String, Value>, changes: &Map<String, Value>) {
    for (name, value) in changes {
        if value.is_null() {
            target.remove(name);
        } else {
            target.insert(name.clone(), value.clone());
        }
    }
}

fn encode(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// The token with one bit of its signature changed.
pub fn with_altered_signature(token: &str) -> String {
    let (message, signature) = token.rsplit_once('.').unwrap_or((token, ""));
    let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap_or_default();
    if let Some(byte) = bytes.first_mut() {
        *byte ^= 1;
    }
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(bytes))
}
