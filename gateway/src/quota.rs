//! Calls per minute and at a time, per principal and per tenant, in the memory of this replica.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};
use moka::sync::Cache;
use storefence_tenancy::{TenantId, resource::GatewayLimits};
use uuid::Uuid;

use crate::mcp::tools::{Caller, Code, ToolError};

/// Principals and tenants that are remembered, and for how long without a call. A minute's quota is whole again by then.
const REMEMBERED: (u64, Duration) = (100_000, Duration::from_secs(120));
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
        let who = if self.scope == "principal" { "you have made" } else { "your chain has made" };
        let what = if self.kind == "rate" { "too many calls in a minute" } else { "too many calls at once" };
        let error = ToolError::new(Code::RateLimited, format!("{who} {what}; try again in {seconds} s"));
        ToolError { retry_after_seconds: Some(seconds), ..error }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    tenant: TenantId,
    /// `tid` and `oid`; absent for the tenant itself.
    principal: Option<(Uuid, Uuid)>,
}

#[derive(Debug)]
struct Bucket {
    per_minute: Option<NonZeroU32>,
    rate: Option<DefaultDirectRateLimiter>,
    running: AtomicU32,
}

/// A call under way; its end makes room for another.
#[derive(Debug)]
pub struct Permit(#[expect(dead_code, reason = "held for its Drop")] [Running; 2]);

#[derive(Debug)]
struct Running(Arc<Bucket>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Counts the calls of this replica.
pub struct Limiter {
    buckets: Cache<Key, Arc<Bucket>>,
}

impl Default for Limiter {
    fn default() -> Self {
        Self { buckets: Cache::builder().max_capacity(REMEMBERED.0).time_to_idle(REMEMBERED.1).build() }
    }
}

impl Limiter {
    /// Lets a call in, or says when to come back. The quotas are those of this moment: a change in the spec acts on the
    /// next call.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn admit(&self, caller: &Caller) -> Result<Permit, Refusal> {
        let claims = &caller.principal.claims;
        self.admit_as(caller.tenant.id(), (claims.tid, claims.oid), caller.tenant.quotas)
    }

    fn admit_as(&self, tenant: &TenantId, principal: (Uuid, Uuid), quotas: Quotas) -> Result<Permit, Refusal> {
        // The principal first: what its own quota refuses must not use up the others' share of the tenant's.
        let own =
            self.take(Key { tenant: tenant.clone(), principal: Some(principal) }, quotas.principal, "principal")?;
        let all = self.take(Key { tenant: tenant.clone(), principal: None }, quotas.tenant, "tenant")?;
        Ok(Permit([own, all]))
    }

    fn take(&self, key: Key, bounds: Bounds, scope: &'static str) -> Result<Running, Refusal> {
        let new = || Arc::new(Bucket::new(bounds.per_minute));
        let mut bucket = self.buckets.get_with_by_ref(&key, new);
        if bucket.per_minute != bounds.per_minute {
            // Calls under way count on in the bucket they began in: for their length there may be a few more.
            bucket = new();
            self.buckets.insert(key, bucket.clone());
        }
        let running = Running(bucket.clone());
        if bucket.running.fetch_add(1, Ordering::AcqRel) >= bounds.concurrent {
            return Err(Refusal { scope, kind: "concurrency", retry_after: AFTER_BUSY });
        }
        if let Some(rate) = &bucket.rate {
            rate.check().map_err(|not_until| {
                let retry_after = not_until.wait_time_from(DefaultClock::default().now());
                Refusal { scope, kind: "rate", retry_after }
            })?;
        }
        Ok(running)
    }
}

impl Bucket {
    fn new(per_minute: Option<NonZeroU32>) -> Self {
        let rate = per_minute.map(|n| RateLimiter::direct(Quota::per_minute(n)));
        Self { per_minute, rate, running: AtomicU32::new(0) }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use uuid::Uuid;

    use super::{Bounds, Limiter, Quotas};

    fn bounds(per_minute: u32, concurrent: u32) -> Bounds {
        Bounds { per_minute: NonZeroU32::new(per_minute), concurrent }
    }

    #[test]
    fn each_principal_has_its_own_and_all_share_the_tenants() {
        let limiter = Limiter::default();
        let tenant = "zava".parse().expect("id");
        let other = "contoso".parse().expect("id");
        let quotas = Quotas { principal: bounds(3, 10), tenant: bounds(5, 10) };
        let who = |n: u128| (Uuid::nil(), Uuid::from_u128(n));
        for _ in 0..3 {
            limiter.admit_as(&tenant, who(1), quotas).expect("within the quota");
        }
        let refusal = limiter.admit_as(&tenant, who(1), quotas).expect_err("one too many");
        assert_eq!(refusal.labels(), ["principal", "rate"]);
        let told = refusal.told();
        assert!(told.retry_after_seconds.is_some_and(|seconds| (1..=20).contains(&seconds)), "{told:?}");
        for _ in 0..2 {
            limiter.admit_as(&tenant, who(2), quotas).expect("another principal");
        }
        assert_eq!(limiter.admit_as(&tenant, who(3), quotas).expect_err("tenant").labels(), ["tenant", "rate"]);
        limiter.admit_as(&other, who(1), quotas).expect("another tenant");
        // Unlimited from the next call on.
        limiter.admit_as(&tenant, who(1), Quotas { principal: bounds(0, 10), tenant: bounds(0, 10) }).expect("changed");
    }

    #[test]
    fn calls_at_a_time_are_given_back() {
        let limiter = Limiter::default();
        let tenant = "zava".parse().expect("id");
        let quotas = Quotas { principal: bounds(0, 2), tenant: bounds(0, 3) };
        let who = |n: u128| (Uuid::nil(), Uuid::from_u128(n));
        let admit = |n| limiter.admit_as(&tenant, who(n), quotas);
        let (first, _second) = (admit(1).expect("one"), admit(1).expect("two"));
        for _ in 0..3 {
            assert_eq!(admit(1).expect_err("three").labels(), ["principal", "concurrency"]);
        }
        let _third = admit(2).expect("the tenant has room");
        assert_eq!(admit(2).expect_err("no more").labels(), ["tenant", "concurrency"]);
        drop(first);
        admit(1).expect("room again");
    }
}
