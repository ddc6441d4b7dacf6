//! Calls per minute and at a time, per principal and per tenant: in the memory of this replica, or counted together with
//! the other replicas in Redis. While Redis is away each replica holds the limits by itself.

mod local;
mod shared;

use std::{num::NonZeroU32, time::Duration};

use storefence_tenancy::{TenantId, resource::GatewayLimits};

use self::{
    local::{Local, Running},
    shared::{Lease, Shared},
};
use crate::{
    identity::PrincipalId,
    redis::Redis,
    tools::{Caller, Code, ToolError},
};

/// When to come back after too many calls at a time: nobody knows how long those will take.
const AFTER_BUSY: Duration = Duration::from_secs(1);

/// The quotas of one tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// Each principal's.
    pub principal: Bounds,
    /// The whole tenant's.
    pub tenant: Bounds,
}

/// What one principal, or all of a tenant together, may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Calls in a minute; absent is unlimited.
    pub per_minute: Option<NonZeroU32>,
    /// Calls at a time.
    pub concurrent: u32,
}

impl From<&GatewayLimits> for Quotas {
    fn from(limits: &GatewayLimits) -> Self {
        // A zero, which the schema refuses, counts as the least that lets anybody in at all.
        let bounds = |per_minute: Option<u32>, concurrent: u32| Bounds {
            per_minute: per_minute.map(|n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN)),
            concurrent: concurrent.max(1),
        };
        Self {
            principal: bounds(limits.requests_per_minute, limits.concurrent_calls),
            tenant: bounds(limits.tenant_requests_per_minute, limits.tenant_concurrent_calls),
        }
    }
}

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

    /// What the caller is told.
    #[must_use]
    pub fn told(&self) -> ToolError {
        // Rounded up: who comes back a moment early is refused again.
        let seconds = self.retry_after.as_millis().div_ceil(1000).max(1);
        let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
        let who = if self.scope == "principal" { "you have made" } else { "your tenant has made" };
        let what = if self.kind == "rate" { "too many calls in a minute" } else { "too many calls at once" };
        let error = ToolError::new(Code::RateLimited, format!("{who} {what}; try again in {seconds} s"));
        ToolError { retry_after_seconds: Some(seconds), ..error }
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
