//! Leader election by a Lease, as client-go does it: one of several replicas works, the others stand by.
//!
//! Times in the Lease are for people. A replica takes the leader for gone when the record has not changed for the
//! lease's duration by the replica's own clock, so clocks need not agree. The advisory lock of each tenant stops a
//! leader that is cut off and does not know it yet. [`Leadership`] stops one that was suspended and resumes in the
//! middle of a pass whose lock another replica may hold by now.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use uuid::Uuid;

use crate::kubernetes::{FIELD_MANAGER, in_time};

/// Name of the Lease.
const NAME: &str = "storefence-operator";

/// Whether this process may still write. Asked before each write to the Kubernetes API, a vault or a database: a
/// process that was suspended does not know it, and would resume where it was before it learns that it no longer leads.
#[derive(Clone, Debug, Default)]
pub struct Leadership(Option<Arc<Confirmed>>);

#[derive(Debug)]
struct Confirmed {
    until: Mutex<Option<Instant>>,
    validity: Duration,
}

/// The lease was not renewed in time: another replica may have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease was not renewed in time, so nothing is written: another replica may lead")]
pub struct NotLeading;

impl Leadership {
    /// For a process without other replicas: never lost.
    #[must_use]
    pub fn alone() -> Self {
        Self::default()
    }

    /// For one replica of several: it must be confirmed before it may write.
    #[must_use]
    pub fn elected(duration: Duration) -> Self {
        Self(Some(Arc::new(Confirmed { until: Mutex::default(), validity: validity(duration) })))
    }

    /// Whether a write may go out now.
    ///
    /// # Errors
    /// [`NotLeading`].
    pub fn check(&self) -> Result<(), NotLeading> {
        let Some(confirmed) = &self.0 else { return Ok(()) };
        let until = *confirmed.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.filter(|until| Instant::now() < *until).map(drop).ok_or(NotLeading)
    }

    /// Records a renewal. `asked` is the time before the request was sent.
    fn confirm(&self, asked: Instant) {
        if let Some(confirmed) = &self.0 {
            *confirmed.until.lock().unwrap_or_else(PoisonError::into_inner) = asked.checked_add(confirmed.validity);
        }
    }
}

/// How long a renewal is valid for the leader. The other replicas wait for the whole duration.
fn validity(duration: Duration) -> Duration {
    duration * 2 / 3
}

/// One replica's candidacy.
pub struct Election {
    api: Api<Lease>,
    identity: String,
    duration: Duration,
    leadership: Leadership,
}

/// Another replica's record, and since when it is unchanged.
struct Seen {
    resource_version: Option<String>,
    since: Instant,
}

impl Election {
    /// A candidacy in a namespace. A leader that does not renew for `duration` is replaced.
    #[must_use]
    pub fn new(client: Client, namespace: &str, duration: Duration, leadership: Leadership) -> Self {
        let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "operator".to_owned());
        let identity = format!("{host}_{}", Uuid::new_v4());
        Self { api: Api::namespaced(client, namespace), identity, duration, leadership }
    }

    /// Returns when this replica leads.
    pub async fn acquire(&self) {
        let mut seen = None;
        loop {
            let asked = Instant::now();
            // A request that hangs must not outlast the lease of the silent leader.
            match in_time(self.duration / 2, self.attempt(&mut seen)).await {
                Ok(true) => {
                    self.leadership.confirm(asked);
                    tracing::info!(identity = self.identity, "leading");
                    return;
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "leader election"),
            }
            tokio::time::sleep(self.duration / 8).await;
        }
    }

    /// Renews. Returns when leadership is lost, or was not renewed for two thirds of the lease's duration.
    pub async fn hold(&self) {
        let mut renewed = Instant::now();
        let validity = validity(self.duration);
        loop {
            tokio::time::sleep(self.duration / 5).await;
            let asked = Instant::now();
            let attempt = tokio::time::timeout(validity.saturating_sub(renewed.elapsed()), self.renew()).await;
            match attempt {
                Ok(Ok(true)) => {
                    renewed = asked;
                    self.leadership.confirm(asked);
                }
                Ok(Ok(false)) => {
                    tracing::error!("another replica leads");
                    return;
                }
                Ok(Err(error)) => tracing::warn!(%error, "the lease was not renewed"),
                Err(_) => {}
            }
            if renewed.elapsed() >= validity {
                tracing::error!("the lease could not be renewed in time");
                return;
            }
        }
    }

    /// Gives up leadership, so that another replica need not wait for the lease to run out.
    pub async fn release(&self) {
        let Ok(Some(mut lease)) = self.api.get_opt(NAME).await else { return };
        let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_ref() == Some(&self.identity))
        else {
            return;
        };
        spec.holder_identity = None;
        if let Err(error) = self.api.replace(NAME, &params(), &lease).await {
            tracing::debug!(%error, "the lease was not given back");
        }
    }

    async fn attempt(&self, seen: &mut Option<Seen>) -> Result<bool, kube::Error> {
        let Some(lease) = self.api.get_opt(NAME).await? else {
            let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.record(None)) };
            return won(self.api.create(&params(), &lease).await);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let held = spec.holder_identity.as_ref().is_some_and(|holder| !holder.is_empty() && *holder != self.identity);
        if held {
            let resource_version = lease.metadata.resource_version.clone();
            let known = seen.as_ref().filter(|seen| seen.resource_version == resource_version);
            match known {
                None => {
                    *seen = Some(Seen { resource_version, since: Instant::now() });
                    return Ok(false);
                }
                Some(known) if known.since.elapsed() < self.duration => return Ok(false),
                Some(_) => tracing::info!(silent = spec.holder_identity, "taking over"),
            }
        }
        // With its resourceVersion, the request fails if another replica was faster.
        let lease = Lease { spec: Some(self.record(Some(&spec))), ..lease };
        won(self.api.replace(NAME, &params(), &lease).await)
    }

    async fn renew(&self) -> Result<bool, kube::Error> {
        let Some(lease) = self.api.get_opt(NAME).await? else { return Ok(false) };
        let spec = lease.spec.clone().unwrap_or_default();
        if spec.holder_identity.as_ref() != Some(&self.identity) {
            return Ok(false);
        }
        let lease = Lease { spec: Some(self.record(Some(&spec))), ..lease };
        won(self.api.replace(NAME, &params(), &lease).await)
    }

    fn record(&self, last: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let mine = last.is_some_and(|last| last.holder_identity.as_ref() == Some(&self.identity));
        let transitions = last.and_then(|last| last.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            // Whole seconds, at least one.
            lease_duration_seconds: Some(i32::try_from(self.duration.as_secs().max(1)).unwrap_or(i32::MAX)),
            acquire_time: last
                .filter(|_| mine)
                .and_then(|last| last.acquire_time.clone())
                .or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if mine || last.is_none() { transitions } else { transitions.saturating_add(1) }),
            ..LeaseSpec::default()
        }
    }
}

fn params() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
}

/// Whether the write succeeded. A conflict means that another replica was faster.
fn won(outcome: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match outcome {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_renewal_that_is_young_enough_lets_writes_through() {
        let leadership = Leadership::elected(Duration::from_secs(15));
        assert_eq!(leadership.check(), Err(NotLeading), "not confirmed yet");
        leadership.confirm(Instant::now());
        assert_eq!(leadership.clone().check(), Ok(()));
        let stood_still = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
        leadership.confirm(stood_still);
        assert_eq!(leadership.clone().check(), Err(NotLeading));
        assert_eq!(Leadership::alone().check(), Ok(()));
    }
}
