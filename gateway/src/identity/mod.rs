//! Authentication: a bearer token becomes a [`Principal`], or a [`Reject`] that only the log shows.
//!
//! Every check is explicit, and no setting turns one off.

pub mod authority;
pub mod challenge;
pub mod fingerprint;
pub mod json;
pub mod jwks;
pub mod token;
pub mod verify;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use moka::sync::Cache;
use prometheus::IntCounter;
use storefence_tenancy::Claims;
use uuid::Uuid;

use self::{
    authority::Authority,
    fingerprint::{Fingerprint, Fingerprints},
    jwks::KeyStore,
};
use crate::metrics::Metrics;

/// The default number of verified tokens that are remembered; one takes a few KiB.
pub const REMEMBERED: u32 = 10_000;
/// How long an unused one is remembered.
const IDLE: Duration = Duration::from_secs(3600);

/// Why a token is not accepted. The caller learns only that it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// No `Authorization` header.
    #[error("no token")]
    Missing,
    /// More than one header, or not `Bearer` and a token.
    #[error("the Authorization header is not one Bearer token")]
    Header,
    /// Longer than any Entra token.
    #[error("the token is too long")]
    TooLong,
    /// Not three segments.
    #[error("the token has not three segments")]
    Segments,
    /// Not canonical base64url.
    #[error("a segment is not canonical base64url")]
    Base64,
    /// Not an object, or with a duplicate name.
    #[error("header or payload is not an object with unique names")]
    Json,
    /// An algorithm other than RS256.
    #[error("the algorithm is not RS256")]
    Algorithm,
    /// `typ` is not that of an access token.
    #[error("typ is not JWT")]
    Type,
    /// A header field that is not allowed.
    #[error("a header field is not allowed")]
    HeaderField,
    /// No usable `kid`.
    #[error("kid is missing or not plain")]
    KeyId,
    /// `tid` is missing, not a GUID, or that of personal accounts.
    #[error("tid is not a directory")]
    Tenant,
    /// `ver` is neither 1.0 nor 2.0.
    #[error("ver is neither 1.0 nor 2.0")]
    Version,
    /// `iss` is not that of `tid` and `ver`.
    #[error("iss does not match tid and ver")]
    Issuer,
    /// No tenant names this directory.
    #[error("no tenant is of this directory")]
    Directory,
    /// The key id is not published.
    #[error("the key is unknown")]
    UnknownKey,
    /// The key is published for another issuer.
    #[error("the key is another issuer's")]
    KeyIssuer,
    /// The signature is wrong.
    #[error("the signature is wrong")]
    Signature,
    /// `aud` is not one of ours.
    #[error("aud is not ours")]
    Audience,
    /// `exp` is missing or not a whole number.
    #[error("exp is missing or malformed")]
    Expiry,
    /// Past `exp`.
    #[error("the token has expired")]
    Expired,
    /// `nbf` is not a whole number.
    #[error("nbf is malformed")]
    NotBefore,
    /// Before `nbf`.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// An ID token, or one whose claims have the wrong types.
    #[error("this is not an access token for an API")]
    NotAnAccessToken,
}

impl Reject {
    /// The label for metrics and logs.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Header => "header",
            Self::TooLong => "too_long",
            Self::Segments => "segments",
            Self::Base64 => "base64",
            Self::Json => "json",
            Self::Algorithm => "algorithm",
            Self::Type => "type",
            Self::HeaderField => "header_field",
            Self::KeyId => "key_id",
            Self::Tenant => "tenant",
            Self::Version => "version",
            Self::Issuer => "issuer",
            Self::Directory => "directory",
            Self::UnknownKey => "unknown_key",
            Self::KeyIssuer => "key_issuer",
            Self::Signature => "signature",
            Self::Audience => "audience",
            Self::Expiry => "expiry",
            Self::Expired => "expired",
            Self::NotBefore => "not_before",
            Self::NotYetValid => "not_yet_valid",
            Self::NotAnAccessToken => "not_an_access_token",
        }
    }
}

/// What a token must match to be accepted.
#[derive(Clone, Debug)]
pub struct TokenSettings {
    /// Values of `aud` that mean this gateway.
    pub audiences: Vec<String>,
    /// Scopes as clients ask for them.
    pub scopes: Vec<String>,
    pub authority: Authority,
}

impl TokenSettings {
    /// The values of which `scp` must hold one: the part of a fully qualified scope after the last slash.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        self.scopes.iter().map(|scope| scope.rsplit('/').next().unwrap_or(scope).to_owned()).collect()
    }
}

/// A verified token.
#[derive(Debug)]
pub struct Principal {
    pub claims: Claims,
    token: Fingerprint,
    expires: u64,
    generation: u64,
}

/// The identity of a principal, independent of its tokens: its directory (`tid`) and its object there (`oid`).
pub type PrincipalId = (Uuid, Uuid);

impl Principal {
    /// The principal's identity.
    #[must_use]
    pub const fn id(&self) -> PrincipalId {
        (self.claims.tid, self.claims.oid)
    }

    /// The fingerprint by which this process knows the token.
    #[must_use]
    pub const fn token(&self) -> &Fingerprint {
        &self.token
    }

    /// `exp` of the token, in Unix seconds.
    #[must_use]
    pub const fn expires(&self) -> u64 {
        self.expires
    }
}

fn cache(most: u32) -> Cache<Fingerprint, Arc<Principal>> {
    Cache::builder().max_capacity(most.into()).time_to_idle(IDLE).build()
}

/// Verifies tokens and remembers the verified ones.
pub struct Identity {
    authority: Authority,
    audiences: Vec<String>,
    keys: Arc<KeyStore>,
    fingerprints: Fingerprints,
    cache: Cache<Fingerprint, Arc<Principal>>,
    hits: IntCounter,
    misses: IntCounter,
}

impl Identity {
    /// Verifies with these keys.
    #[must_use]
    pub fn new(settings: &TokenSettings, keys: Arc<KeyStore>, metrics: &Metrics) -> Self {
        // Looking up a counter by its labels costs as much as looking up the token.
        let outcome = |name: &str| metrics.token_cache.with_label_values(&[name]);
        Self {
            authority: settings.authority.clone(),
            audiences: settings.audiences.clone(),
            keys,
            fingerprints: Fingerprints::default(),
            cache: cache(REMEMBERED),
            hits: outcome("hit"),
            misses: outcome("miss"),
        }
    }

    /// With another number of remembered tokens than [`REMEMBERED`].
    #[must_use]
    pub fn remembering(mut self, most: u32) -> Self {
        self.cache = cache(most);
        self
    }

    /// Verifies a token. `accepts` says whether some tenant belongs to a directory. It is evaluated on each call, so
    /// that removing a tenant removes its directory.
    ///
    /// # Errors
    /// [`Reject`].
    pub async fn verify(&self, token: &str, accepts: impl Fn(Uuid) -> bool) -> Result<Arc<Principal>, Reject> {
        let fingerprint = self.fingerprints.of(token);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let generation = self.keys.generation();
        if let Some(known) = self.cache.get(&fingerprint) {
            if known.generation == generation && now < known.expires && accepts(known.claims.tid) {
                self.hits.inc();
                return Ok(known);
            }
            self.cache.invalidate(&fingerprint);
        }
        self.misses.inc();
        let mut unverified = token::parse(token)?;
        let issuer = verify::issuer(&unverified.claims, &self.authority)?;
        if !accepts(issuer.tid) {
            return Err(Reject::Directory);
        }
        let verified = verify::check(std::mem::take(&mut unverified.claims), &self.audiences, now)?;
        // `generation` was read before the verification: a key withdrawn meanwhile must not leave a fresh entry behind.
        self.keys.verify(&unverified, &issuer).await?;
        let (claims, expires) = (verified.claims, verified.expires);
        let principal = Arc::new(Principal { claims, token: fingerprint, expires, generation });
        self.cache.insert(fingerprint, principal.clone());
        Ok(principal)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use serde_json::{Map, json};
    use storefence_devstack::{
        entra::{Entra, EntraOptions, TokenRequest, principals},
        tls,
    };
    use storefence_tenancy::Claims;
    use uuid::Uuid;

    use super::{Identity, Principal, Reject, TokenSettings, authority::Authority, cache, jwks::KeyStore};
    use crate::metrics::Metrics;

    #[test]
    fn verified_tokens_are_remembered_within_bounds() {
        let payload = json!({"tid": uuid::Uuid::nil(), "oid": uuid::Uuid::nil(), "scp": "Retail.Query", "ver": "2.0"});
        let payload: Map<_, _> = payload.as_object().cloned().unwrap_or_default();
        let claims = Claims::from_payload(payload).expect("claims");
        let most = 1000;
        let cache = cache(most);
        for n in 0..2 * u64::from(most) {
            let mut token = [0; 16];
            token[..8].copy_from_slice(&n.to_le_bytes());
            cache
                .insert(token, Arc::new(Principal { claims: claims.clone(), token, expires: u64::MAX, generation: 0 }));
        }
        cache.run_pending_tasks();
        assert!(cache.entry_count() <= most.into(), "{}", cache.entry_count());
    }

    /// No token with an unknown key arrives here: the hourly refresh alone brings the new key, and invalidates a
    /// remembered token of the old one.
    #[tokio::test]
    async fn keys_are_fetched_every_hour_and_a_withdrawn_one_takes_its_tokens_along() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let directory = tempfile::tempdir().expect("a directory");
        let ca = tls::Authority::new().expect("an authority");
        ca.write_pem(&directory.path().join("ca.pem")).expect("written");
        let entra = Entra::start(&ca, EntraOptions::default()).await.expect("started");
        let tid: Uuid = principals::ZAVA_TENANT_ID.parse().expect("a GUID");
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let http = storefence_runtime::client(Some(&directory.path().join("ca.pem")), Duration::from_secs(5));
        let authority = Authority::new(&entra.url().parse().expect("a URL"), None);
        let keys = Arc::new(KeyStore::new(authority.clone(), http.expect("a client"), metrics.clone()));
        let audiences = vec![principals::AUDIENCE.to_owned()];
        let settings = TokenSettings { audiences, scopes: Vec::new(), authority };
        let identity = Identity::new(&settings, keys.clone(), &metrics);
        let fetched = |count: u64| metrics.jwks_fetches.with_label_values(&["refresh", "ok"]).get() >= count;
        let issue = || entra.issue(&TokenRequest::user(principals::ZAVA_TENANT_ID)).expect("a token");
        keys.keep(&[tid]);
        let background = tokio::spawn({
            let keys = keys.clone();
            async move { keys.keep_fresh().await }
        });
        let waited = async |count: u64| {
            // By the machine's clock: the runtime's clock stands still below unless it is advanced.
            while !fetched(count) {
                tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(5))).await.expect("slept");
            }
        };
        waited(1).await;
        let old = issue();
        assert!(identity.verify(&old, |_| true).await.is_ok());
        entra.rotate_keys().expect("rotated");
        entra.retire_old_keys();
        assert!(identity.verify(&old, |_| true).await.is_ok(), "nothing has been fetched yet");
        // The runtime must not advance its clock during a fetch: a blocking task prevents that.
        tokio::time::pause();
        let (held, release) = std::sync::mpsc::channel::<()>();
        let holding = tokio::task::spawn_blocking(move || release.recv().is_ok());
        tokio::time::advance(Duration::from_secs(3590)).await;
        assert!(!fetched(2), "before the hour is over");
        tokio::time::advance(Duration::from_secs(20)).await;
        waited(2).await;
        assert_eq!(identity.verify(&old, |_| true).await.err(), Some(Reject::UnknownKey));
        assert!(identity.verify(&issue(), |_| true).await.is_ok(), "a token of the new key");
        background.abort();
        drop(held);
        let _ = holding.await;
    }
}
