//! Signing keys, as the authority publishes them.

use std::{collections::HashMap, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, jwk::AlgorithmParameters, jwk::Jwk};
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_RSA_SHA256};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Error;

/// The `issuer` member of a published key: for which issuers Entra ID signs with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KeyIssuer {
    /// `{authority}/{tenantid}/v2.0` with the placeholder, as for keys that serve every tenant.
    #[default]
    Template,
    /// `{authority}/TID/v2.0` for one tenant.
    Tenant(String),
    /// Any other text.
    Literal(String),
    /// No such member.
    Absent,
}

/// An RSA key of 2048 bits with a certificate around its public half.
pub struct SigningKey {
    kid: String,
    issuer: KeyIssuer,
    modulus: String,
    exponent: String,
    certificate: Vec<u8>,
    public_pem: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// Makes a key. The key ID is a thumbprint, like Entra's, unless one is given.
    pub fn generate(kid: Option<&str>, issuer: KeyIssuer) -> Result<Self, Error> {
        let pair = KeyPair::generate_for(&PKCS_RSA_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "accounts.accesscontrol.windows.net");
        let certificate = params.self_signed(&pair)?.der().to_vec();
        let encoding = EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes())?;
        let AlgorithmParameters::RSA(public) = Jwk::from_encoding_key(&encoding, Algorithm::RS256)?.algorithm else {
            return Err(Error::Key(String::from("an RSA key without RSA parameters")));
        };
        let decoding = DecodingKey::from_rsa_components(&public.n, &public.e)?;
        let thumbprint = URL_SAFE_NO_PAD.encode(&Sha256::digest(&certificate)[..20]);
        Ok(Self {
            kid: kid.map_or(thumbprint, str::to_owned),
            issuer,
            modulus: public.n,
            exponent: public.e,
            certificate,
            public_pem: pair.public_key_pem(),
            encoding,
            decoding,
        })
    }

    /// The key ID.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The public key in PEM: what an attacker would use as an HMAC secret.
    pub fn public_pem(&self) -> &str {
        &self.public_pem
    }

    /// The certificate in base64, as in `x5c`.
    pub fn x5c(&self) -> String {
        STANDARD.encode(&self.certificate)
    }

    /// The JWK without the members that only a key set has.
    pub fn jwk(&self) -> Value {
        json!({
            "kty": "RSA",
            "use": "sig",
            "kid": self.kid,
            "x5t": self.kid,
            "n": self.modulus,
            "e": self.exponent,
            "x5c": [self.x5c()],
        })
    }

    /// The JWK as the v2.0 key set shows it.
    pub(super) fn published(&self, authority: &str) -> Value {
        let mut jwk = self.jwk();
        let issuer = match &self.issuer {
            KeyIssuer::Template => format!("{authority}/{{tenantid}}/v2.0"),
            KeyIssuer::Tenant(tid) => format!("{authority}/{tid}/v2.0"),
            KeyIssuer::Literal(text) => text.clone(),
            KeyIssuer::Absent => return jwk,
        };
        jwk["issuer"] = json!(issuer);
        jwk
    }

    pub(super) fn sign(&self, message: &[u8], algorithm: Algorithm) -> Result<String, Error> {
        Ok(jsonwebtoken::crypto::sign(message, &self.encoding, algorithm)?)
    }

    pub(super) fn decoding(&self) -> &DecodingKey {
        &self.decoding
    }
}

/// What is published: keys for every tenant, and keys of single tenants.
pub(super) struct KeyRing {
    shared: Vec<Arc<SigningKey>>,
    own: HashMap<String, Vec<Arc<SigningKey>>>,
}

impl KeyRing {
    pub(super) fn new() -> Result<Self, Error> {
        Ok(Self { shared: vec![Arc::new(SigningKey::generate(None, KeyIssuer::Template)?)], own: HashMap::new() })
    }

    /// The keys that a tenant's key set shows; the last shared one signs.
    pub(super) fn published(&self, tid: &str) -> Vec<Arc<SigningKey>> {
        self.shared.iter().chain(self.own.get(tid).into_iter().flatten()).cloned().collect()
    }

    /// The key that signs for a tenant: its own newest, otherwise the newest shared one.
    pub(super) fn current(&self, tid: &str) -> Result<Arc<SigningKey>, Error> {
        let own = self.own.get(tid).and_then(|keys| keys.last());
        own.or(self.shared.last()).cloned().ok_or_else(|| Error::Key(String::from("every key was retired")))
    }

    pub(super) fn rotate(&mut self) -> Result<Arc<SigningKey>, Error> {
        let key = Arc::new(SigningKey::generate(None, KeyIssuer::Template)?);
        self.shared.push(Arc::clone(&key));
        Ok(key)
    }

    pub(super) fn retire_old(&mut self) {
        let old = self.shared.len().saturating_sub(1);
        self.shared.drain(..old);
    }

    pub(super) fn add_own(&mut self, tid: &str, key: Arc<SigningKey>) {
        self.own.entry(tid.to_owned()).or_default().push(key);
    }

    pub(super) fn remove_own(&mut self, tid: &str) {
        self.own.remove(tid);
    }
}
