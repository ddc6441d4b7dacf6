//! Calls per minute and at a time, per principal and per tenant: in the memory of this replica, or counted together with
//! the other replicas in Redis. While Redis is away each replica holds the limits by itself.

mod local;
mod shared;

use std::time::Duration;

use storefence_tenancy::TenantId;

use self::{
    local::{Local, Running},
    shared::{Lease, Shared},
};
use crate::{caller::Caller, identity::PrincipalId, redis::Redis, tenants::limits::Quotas};

/// When to come back after too many calls at a time: nobody knows how long those will take.
const AFTER_BUSY: Duration = Duration::from_secs(1);

/// Which quota was used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    scope: &'static str,
    kind: &'static str,
    retry_after: Duration,
}

impl Refusal {
    /// Labels for the metric: `principal` or `tenant`, `rate` or `concurrency`.
    #[must_use]
    pub const fn labels(&self) -> [&'static str; 2] {
        [self.scope, self.kind]
    }

    /// Seconds after which the call may be made again. Rounded up: a call that comes a moment early is refused again.
    #[must_use]
    pub fn retry_after_seconds(&self) -> u64 {
        let seconds = self.retry_after.as_millis().div_ceil(1000).max(1);
        u64::try_from(seconds).unwrap_or(u64::MAX)
    }
}

/// A call under way; its end makes room for another.
#[derive(Debug)]
#[must_use = "the call is over when this is dropped"]
pub struct Permit {
    _local: [Running; 2],
    _shared: Option<Lease>,
}

/// Lets calls in.
#[derive(Default)]
pub struct Limiter {
    local: Local,
    shared: Option<Shared>,
}

impl Limiter {
    /// Counts with the other replicas that use this Redis; without one, alone.
    #[must_use]
    pub fn new(redis: Option<Redis>) -> Self {
        Self { local: Local::default(), shared: redis.map(Shared::new) }
    }

    /// Lets a call in, or says when to come back. The quotas are those of this moment: a change in the spec acts on the
    /// next call.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn admit(&self, caller: &Caller) -> Result<Permit, Refusal> {
        self.admit_as(caller.tenant.id(), caller.principal.id(), caller.tenant.quotas).await
    }

    async fn admit_as(&self, tenant: &TenantId, principal: PrincipalId, quotas: Quotas) -> Result<Permit, Refusal> {
        if let Some(shared) = &self.shared
            && let Ok(answer) = Box::pin(shared.admit(tenant, principal, quotas)).await
        {
            let lease = Some(answer?);
            // Counted here as well, so that the limits hold from the moment on in which Redis goes away.
            return Ok(Permit { _local: self.local.note(tenant, principal, quotas), _shared: lease });
        }
        Ok(Permit { _local: self.local.admit(tenant, principal, quotas)?, _shared: None })
    }
}
