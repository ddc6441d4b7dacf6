//! Signing keys, for each directory: refreshed in the background (hourly by default), kept through an outage of the
//! authority, and fetched for an unknown key id at most once in five minutes.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use futures::StreamExt;
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde::Deserialize;
use tokio::{sync::Notify, time::Instant};
use uuid::Uuid;

use super::{Reject, authority::Authority, token::Unverified, verify::Issuer};
use crate::metrics::Metrics;

/// The default interval between fetches of a directory's keys while fetches succeed. Entra rolls keys over weeks.
pub const REFRESH: Duration = Duration::from_secs(3600);
/// The shortest interval between fetches for unknown key ids.
const UNKNOWN_KEY_PAUSE: Duration = Duration::from_secs(300);
/// First and longest pause after a failed background fetch.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));
/// Timeout of a fetch.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Largest answer and most keys that are read.
const ANSWER_MAX: usize = 512 * 1024;
const KEYS_MAX: usize = 100;

/// Why keys could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No answer within the timeout.
    #[error("the authority did not answer: {0}")]
    Unreachable(#[source] reqwest::Error),
    /// An answer other than 200.
    #[error("the authority answered {0}")]
    Status(u16),
    /// Not a key set, too large, or without a usable key.
    #[error("the authority's answer is not a usable key set")]
    Unusable,
}

impl FetchError {
    /// The label for metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Status(_) => "status",
            Self::Unusable => "unusable",
        }
    }
}

/// The keys of all directories that some tenant names.
pub struct KeyStore {
    authority: Authority,
    http: reqwest::Client,
    metrics: Arc<Metrics>,
    refresh: Duration,
    sets: RwLock<HashMap<Uuid, Arc<KeySet>>>,
    generation: AtomicU64,
    ready: AtomicBool,
    wake: Notify,
}

#[derive(Default)]
struct KeySet {
    keys: ArcSwap<HashMap<String, Key>>,
    state: Mutex<State>,
    fetching: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct State {
    tried: bool,
    fetched_at: Option<Instant>,
    due: Option<Instant>,
    failures: u32,
    unknown_key_fetch: Option<Instant>,
}

struct Key {
    modulus: String,
    exponent: String,
    issuer: String,
    decoding: DecodingKey,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    alg: Option<String>,
    kid: Option<String>,
    n: Option<String>,
    e: Option<String>,
    issuer: Option<String>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl KeyStore {
    #[must_use]
    pub fn new(authority: Authority, http: reqwest::Client, metrics: Arc<Metrics>) -> Self {
        let sets = RwLock::default();
        let (generation, ready, wake) = (AtomicU64::new(0), AtomicBool::new(false), Notify::new());
        Self { authority, http, metrics, refresh: REFRESH, sets, generation, ready, wake }
    }

    /// With another interval between background fetches than [`REFRESH`]. The limit on fetches for unknown key ids
    /// stays.
    #[must_use]
    pub const fn refreshed_every(mut self, pause: Duration) -> Self {
        self.refresh = pause;
        self
    }

    /// Changes whenever a key appears, disappears or changes. A cached verification is valid only for its generation.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Sets the directories whose keys are kept. The keys of others are dropped.
    pub fn keep(&self, directories: &[Uuid]) {
        let mut sets = self.sets.write().unwrap_or_else(PoisonError::into_inner);
        sets.retain(|tid, _| directories.contains(tid));
        for tid in directories {
            sets.entry(*tid).or_default();
        }
        drop(sets);
        self.wake.notify_one();
    }

    /// Whether each of these directories has been tried once, and at least one has keys if there are any directories:
    /// an unavailable directory must not hold back the others. Once true it stays true. Otherwise a tenant of a new
    /// directory would take every replica out of service at the same moment, until its keys have been fetched.
    #[must_use]
    pub fn is_ready(&self, directories: &[Uuid]) -> bool {
        let ready = self.ready.load(Ordering::Acquire) || self.has_keys(directories);
        if ready {
            self.ready.store(true, Ordering::Release);
        }
        ready
    }

    fn has_keys(&self, directories: &[Uuid]) -> bool {
        let sets = self.sets.read().unwrap_or_else(PoisonError::into_inner);
        let tried = directories.iter().all(|tid| sets.get(tid).is_some_and(|set| locked(&set.state).tried));
        tried && (directories.is_empty() || sets.values().any(|set| !set.keys.load().is_empty()))
    }

    /// Age of the oldest key set, for metrics.
    #[must_use]
    pub fn oldest(&self) -> Option<Duration> {
        let sets = self.sets.read().unwrap_or_else(PoisonError::into_inner);
        sets.values().filter_map(|set| locked(&set.state).fetched_at).map(|at| at.elapsed()).max()
    }

    /// Checks a token's signature with the key that its issuer published under its key id.
    ///
    /// # Errors
    /// [`Reject`] for a key that is unknown or belongs to another issuer, and for a wrong signature.
    pub async fn verify(self: &Arc<Self>, token: &Unverified<'_>, issuer: &Issuer) -> Result<(), Reject> {
        let set = self.sets.read().unwrap_or_else(PoisonError::into_inner).get(&issuer.tid).cloned();
        let set = set.ok_or(Reject::Directory)?;
        if let Some(checked) = self.try_verify(&set, token, issuer) {
            return checked;
        }
        self.fetch_for_unknown_key(issuer.tid, &set, &token.kid).await;
        self.try_verify(&set, token, issuer).unwrap_or(Err(Reject::UnknownKey))
    }

    fn try_verify(&self, set: &KeySet, token: &Unverified<'_>, issuer: &Issuer) -> Option<Result<(), Reject>> {
        let keys = set.keys.load();
        let key = keys.get(&token.kid)?;
        let of_key = key.issuer.replace("{tenantid}", &issuer.tid.hyphenated().to_string());
        // Keys are published with the issuer of version 2.0 tokens and sign both versions.
        if of_key != issuer.iss && of_key != self.authority.v2_issuer(issuer.tid) {
            return Some(Err(Reject::KeyIssuer));
        }
        let valid = crypto::verify(token.signature, token.signed.as_bytes(), &key.decoding, Algorithm::RS256);
        Some(if matches!(valid, Ok(true)) { Ok(()) } else { Err(Reject::Signature) })
    }

    async fn fetch_for_unknown_key(self: &Arc<Self>, tid: Uuid, set: &Arc<KeySet>, kid: &str) {
        let paused = |state: &State| state.unknown_key_fetch.is_some_and(|at| at.elapsed() < UNKNOWN_KEY_PAUSE);
        // Requests that arrive during a fetch for their key wait for it; later ones do not even queue.
        if paused(&locked(&set.state)) && set.fetching.try_lock().is_ok() {
            return;
        }
        let single_flight = set.fetching.clone().lock_owned().await;
        if set.keys.load().contains_key(kid) {
            return;
        }
        {
            let mut state = locked(&set.state);
            if paused(&state) {
                return;
            }
            state.unknown_key_fetch = Some(Instant::now());
        }
        // Runs in a task of its own, which outlives this request. Otherwise anyone could send a token with an unknown
        // key and hang up, and the only fetch within five minutes would be lost for callers whose key is new.
        let (store, set) = (self.clone(), set.clone());
        let fetch = tokio::spawn(async move {
            let _single_flight = single_flight;
            store.refresh(tid, &set, "unknown_key").await;
        });
        // The task ends otherwise only with the process.
        let _ = fetch.await;
    }

    /// Fetches what is due, forever.
    pub async fn keep_fresh(&self) {
        loop {
            let sets: Vec<_> = {
                let sets = self.sets.read().unwrap_or_else(PoisonError::into_inner);
                sets.iter().map(|(tid, set)| (*tid, set.clone())).collect()
            };
            let due = sets.iter().filter(|(_, set)| locked(&set.state).due.is_none_or(|due| due <= Instant::now()));
            futures::stream::iter(due)
                .for_each_concurrent(8, |(tid, set)| async move {
                    let _single_flight = set.fetching.lock().await;
                    self.refresh(*tid, set, "refresh").await;
                })
                .await;
            let next = sets.iter().filter_map(|(_, set)| locked(&set.state).due).min();
            let pause = next.map_or(self.refresh, |due| due.saturating_duration_since(Instant::now()));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    async fn refresh(&self, tid: Uuid, set: &KeySet, cause: &'static str) {
        let answer = self.fetch(tid).await;
        let outcome = answer.as_ref().map_or_else(FetchError::reason, |_| "ok");
        self.metrics.jwks_fetches.with_label_values(&[cause, outcome]).inc();
        let mut state = locked(&set.state);
        state.tried = true;
        match answer {
            Ok(keys) => {
                state.failures = 0;
                state.fetched_at = Some(Instant::now());
                state.due = Some(Instant::now() + self.refresh);
                drop(state);
                if !same(&set.keys.load(), &keys) {
                    tracing::info!(directory = %tid, keys = keys.len(), cause, "signing keys changed");
                    set.keys.store(Arc::new(keys));
                    self.generation.fetch_add(1, Ordering::AcqRel);
                }
            }
            Err(error) => {
                let pause = RETRY.0.saturating_mul(1 << state.failures.min(8)).min(RETRY.1);
                state.failures += 1;
                state.due = Some(Instant::now() + pause);
                drop(state);
                // The background task may sleep for a long time, and no request may fetch in the next five minutes.
                self.wake.notify_one();
                tracing::warn!(directory = %tid, %error, cause, "signing keys could not be fetched; the last good ones stay");
            }
        }
    }

    /// Fetches the keys of a directory, discards them, and returns their number.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn try_fetch(&self, tid: Uuid) -> Result<usize, FetchError> {
        self.fetch(tid).await.map(|keys| keys.len())
    }

    async fn fetch(&self, tid: Uuid) -> Result<HashMap<String, Key>, FetchError> {
        let request = self.http.get(self.authority.keys_url(tid)).timeout(TIMEOUT);
        let mut response = request.send().await.map_err(|error| FetchError::Unreachable(error.without_url()))?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(FetchError::Status(response.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| FetchError::Unreachable(error.without_url()))? {
            if body.len() + chunk.len() > ANSWER_MAX {
                return Err(FetchError::Unusable);
            }
            body.extend_from_slice(&chunk);
        }
        let document: Document = serde_json::from_slice(&body).map_err(|_| FetchError::Unusable)?;
        let keys: HashMap<_, _> = document.keys.into_iter().take(KEYS_MAX).filter_map(usable).collect();
        if keys.is_empty() { Err(FetchError::Unusable) } else { Ok(keys) }
    }
}

/// An RSA key for RS256 signatures that names its issuer.
fn usable(jwk: Jwk) -> Option<(String, Key)> {
    let is = |field: &Option<String>, expected: &str| field.as_deref().is_none_or(|text| text == expected);
    if jwk.kty.as_deref() != Some("RSA") || !is(&jwk.usage, "sig") || !is(&jwk.alg, "RS256") {
        return None;
    }
    let (modulus, exponent) = (jwk.n?, jwk.e?);
    let decoding = DecodingKey::from_rsa_components(&modulus, &exponent).ok()?;
    Some((jwk.kid?, Key { modulus, exponent, issuer: jwk.issuer?, decoding }))
}

fn same(old: &HashMap<String, Key>, new: &HashMap<String, Key>) -> bool {
    old.len() == new.len()
        && old.iter().all(|(kid, a)| {
            new.get(kid).is_some_and(|b| a.modulus == b.modulus && a.exponent == b.exponent && a.issuer == b.issuer)
        })
}
