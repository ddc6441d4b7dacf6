//! Quotas of calls per minute and of concurrent calls, per principal and per tenant: in the memory of this replica, or
//! counted together with the other replicas in Redis. While Redis is unavailable, each replica enforces the limits
//! alone.

mod local;
mod shared;

use std::time::Duration;

use storefence_tenancy::TenantId;

use self::{
    local::{Local, Running},
    shared::{Lease, Shared},
};
use crate::{caller::Caller, identity::PrincipalId, redis::Redis, tenants::limits::Quotas};

/// When to retry after too many concurrent calls: the duration of the others is unknown.
const AFTER_BUSY: Duration = Duration::from_secs(1);

/// The quota that was exceeded.
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

    /// Seconds after which the call may be repeated. Rounded up: a call that comes a moment early is refused again.
    #[must_use]
    pub fn retry_after_seconds(&self) -> u64 {
        let seconds = self.retry_after.as_millis().div_ceil(1000).max(1);
        u64::try_from(seconds).unwrap_or(u64::MAX)
    }
}

/// A call in progress; dropping it frees its slot.
#[derive(Debug)]
#[must_use = "the call is over when this is dropped"]
pub struct Permit {
    _local: [Running; 2],
    _shared: Option<Lease>,
}

/// Accepts or refuses calls.
#[derive(Default)]
pub struct Limiter {
    local: Local,
    shared: Option<Shared>,
}

impl Limiter {
    /// Counts with the other replicas that use this Redis, or alone without one.
    #[must_use]
    pub fn new(redis: Option<Redis>) -> Self {
        Self { local: Local::default(), shared: redis.map(Shared::new) }
    }

    /// Accepts a call, or returns when to retry. The quotas are the current ones: a change in the spec applies to the
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
            // Counted here as well, so that the limits hold as soon as Redis becomes unavailable.
            return Ok(Permit { _local: self.local.note(tenant, principal, quotas), _shared: lease });
        }
        Ok(Permit { _local: self.local.admit(tenant, principal, quotas)?, _shared: None })
    }
}
