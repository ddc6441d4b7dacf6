//! Faults that tests inject, and counters that tests read.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use super::{auth::Access, status::ApiError, write::Cluster};

/// Which requests are meant; what is not set matches everything.
#[derive(Debug, Clone, Default)]
pub struct Match {
    verb: Option<String>,
    resource: Option<String>,
    name: Option<String>,
    user: Option<String>,
}

impl Match {
    /// Matches every request.
    pub fn any() -> Self {
        Self::default()
    }

    /// A verb: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    #[must_use]
    pub fn verb(mut self, verb: &str) -> Self {
        self.verb = Some(verb.into());
        self
    }

    /// A resource: `secrets`, `retailtenants/status`.
    #[must_use]
    pub fn resource(mut self, resource: &str) -> Self {
        self.resource = Some(resource.into());
        self
    }

    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.into());
        self
    }

    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.user = Some(user.into());
        self
    }

    fn fits(&self, access: &Access, user: &str) -> bool {
        let is = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|w| w == found);
        is(&self.verb, &access.verb)
            && is(&self.resource, &access.full_resource())
            && is(&self.name, &access.name)
            && is(&self.user, user)
    }
}

#[derive(Debug)]
struct Failing {
    what: Match,
    left: u32,
    error: ApiError,
}

#[derive(Debug, Default)]
struct State {
    failing: Vec<Failing>,
    delays: Vec<(Match, Duration)>,
}

/// Makes the server misbehave. All clones act on the same server.
#[derive(Debug, Clone)]
pub struct Faults {
    state: Arc<Mutex<State>>,
    cluster: Arc<Cluster>,
    watches: Arc<watch::Sender<u64>>,
}

impl Faults {
    pub(super) fn new(cluster: Arc<Cluster>) -> Self {
        Self { state: Arc::default(), cluster, watches: Arc::new(watch::Sender::new(0)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next `count` matching requests are answered with a status: 409, 410, 429, 500, 503 or any other.
    pub fn fail_next(&self, what: Match, count: u32, code: u16) {
        self.fail(what, count, standard_error(code));
    }

    /// The next `count` matching requests are answered 429 with `Retry-After`.
    pub fn throttle_next(&self, what: Match, count: u32, retry_after_seconds: u64) {
        let mut error = standard_error(429);
        error.retry_after = Some(retry_after_seconds);
        self.fail(what, count, error);
    }

    fn fail(&self, what: Match, count: u32, error: ApiError) {
        self.lock().failing.push(Failing { what, left: count, error });
    }

    /// Matching requests wait before they are executed, until `clear`.
    pub fn delay(&self, what: Match, by: Duration) {
        self.lock().delays.push((what, by));
    }

    /// Takes back every failure and delay.
    pub fn clear(&self) {
        *self.lock() = State::default();
    }

    /// Ends every open watch, as a lost connection would.
    pub fn drop_watches(&self) {
        self.watches.send_modify(|n| *n += 1);
    }

    /// Forgets all history: every open watch ends in a 410, and so does one that starts at an older version.
    pub fn compact_history(&self) {
        self.cluster.store.compact();
    }

    pub(super) fn watch_generation(&self) -> watch::Receiver<u64> {
        self.watches.subscribe()
    }

    pub(super) async fn apply(&self, access: &Access, user: &str) -> Result<(), ApiError> {
        let (delay, error) = {
            let mut state = self.lock();
            let delay = state.delays.iter().filter(|(what, _)| what.fits(access, user)).map(|(_, by)| *by).max();
            let position = state.failing.iter().position(|f| f.left > 0 && f.what.fits(access, user));
            let error = position.map(|i| {
                state.failing[i].left -= 1;
                state.failing[i].error.clone()
            });
            state.failing.retain(|f| f.left > 0);
            (delay, error)
        };
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        error.map_or(Ok(()), Err)
    }
}

fn standard_error(code: u16) -> ApiError {
    let (reason, message) = match code {
        403 => ("Forbidden", "forbidden by an injected fault"),
        404 => ("NotFound", "the server could not find the requested resource"),
        409 => (
            "Conflict",
            "Operation cannot be fulfilled: the object has been modified; please apply your changes to the latest version and try again",
        ),
        410 => ("Expired", "too old resource version"),
        429 => ("TooManyRequests", "the server has received too many requests and has asked us to try again later"),
        500 => {
            ("InternalError", "an error on the server (\"injected fault\") has prevented the request from succeeding")
        }
        503 => ("ServiceUnavailable", "the server is currently unable to handle the request"),
        504 => ("Timeout", "the server was unable to return a response in the time allotted"),
        _ => ("", "injected fault"),
    };
    ApiError::new(code, reason, message)
}

/// Counts by verb, resource and user.
pub type Counts = BTreeMap<(String, String, String), u64>;

/// How often what was asked, by whom. All clones read the same server.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    counts: Arc<Mutex<Counts>>,
}

impl Counters {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self, access: &Access, user: &str) {
        *self.lock().entry((access.verb.clone(), access.full_resource(), user.to_owned())).or_default() += 1;
    }

    /// Requests of a verb for a resource (`secrets`, `retailtenants/status`), by all users.
    pub fn get(&self, verb: &str, resource: &str) -> u64 {
        self.lock().iter().filter(|((v, r, _), _)| v == verb && r == resource).map(|(_, n)| n).sum()
    }

    /// Requests that write (create, update, patch, delete), of one user or of all. Writes of leases are left out:
    /// leader election renews them whether or not there is work.
    pub fn writes(&self, user: Option<&str>) -> u64 {
        const WRITES: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];
        self.lock()
            .iter()
            .filter(|((verb, resource, who), _)| {
                WRITES.contains(&verb.as_str())
                    && resource != "leases"
                    && !resource.starts_with("self")
                    && user.is_none_or(|u| u == who)
            })
            .map(|(_, n)| n)
            .sum()
    }

    /// Every count, by verb, resource and user.
    pub fn all(&self) -> Counts {
        self.lock().clone()
    }

    /// Starts again from nothing.
    pub fn reset(&self) {
        self.lock().clear();
    }
}
