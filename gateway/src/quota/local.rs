//! The quota counters of this replica.

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
use storefence_tenancy::TenantId;

use super::{AFTER_BUSY, Refusal};
use crate::{
    identity::PrincipalId,
    tenants::limits::{Bounds, Quotas},
};

/// How many principals and tenants are remembered, and for how long without a call. By then a minute's quota is full
/// again.
const REMEMBERED: (u64, Duration) = (100_000, Duration::from_secs(120));

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    tenant: TenantId,
    /// `tid` and `oid`; absent for the tenant itself.
    principal: Option<PrincipalId>,
}

#[derive(Debug)]
struct Bucket {
    per_minute: Option<NonZeroU32>,
    rate: Option<DefaultDirectRateLimiter>,
    /// Calls that were counted and then refused by another quota: as many later calls are free.
    returned: AtomicU32,
    running: AtomicU32,
}

/// A call in progress.
#[derive(Debug)]
pub struct Running(Arc<Bucket>);

impl Running {
    fn new(bucket: Arc<Bucket>) -> Self {
        bucket.running.fetch_add(1, Ordering::AcqRel);
        Self(bucket)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Counts the calls of this replica.
pub struct Local {
    buckets: Cache<Key, Arc<Bucket>>,
}

impl Default for Local {
    fn default() -> Self {
        Self { buckets: Cache::builder().max_capacity(REMEMBERED.0).time_to_idle(REMEMBERED.1).build() }
    }
}

impl Local {
    /// Accepts a call.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn admit(&self, tenant: &TenantId, principal: PrincipalId, quotas: Quotas) -> Result<[Running; 2], Refusal> {
        let [own, all] = keys(tenant, principal);
        // The principal first: calls that its own quota refuses must not use up the tenant's quota for others.
        let own = self.take(own, quotas.principal, "principal")?;
        // And calls that the tenant's quota refuses must not use up the principal's.
        let all = self.take(all, quotas.tenant, "tenant").inspect_err(|_| own.0.give_back())?;
        Ok([own, all])
    }

    /// Counts a call that was accepted by the shared quota.
    pub fn note(&self, tenant: &TenantId, principal: PrincipalId, quotas: Quotas) -> [Running; 2] {
        let [own, all] = keys(tenant, principal);
        [(own, quotas.principal), (all, quotas.tenant)].map(|(key, bounds)| {
            let bucket = self.bucket(key, bounds);
            if let Some(rate) = &bucket.rate {
                let _ = rate.check();
            }
            Running::new(bucket)
        })
    }

    fn bucket(&self, key: Key, bounds: Bounds) -> Arc<Bucket> {
        let new = || Arc::new(Bucket::new(bounds.per_minute));
        let mut bucket = self.buckets.get_with_by_ref(&key, new);
        if bucket.per_minute != bounds.per_minute {
            // Calls in progress stay in the bucket in which they began: until they end, a few more may run.
            bucket = new();
            self.buckets.insert(key, bucket.clone());
        }
        bucket
    }

    fn take(&self, key: Key, bounds: Bounds, scope: &'static str) -> Result<Running, Refusal> {
        let bucket = self.bucket(key, bounds);
        let running = Running(bucket.clone());
        if bucket.running.fetch_add(1, Ordering::AcqRel) >= bounds.concurrent {
            return Err(Refusal { scope, kind: "concurrency", retry_after: AFTER_BUSY });
        }
        if let Some(rate) = &bucket.rate
            && !bucket.has_returned()
        {
            rate.check().map_err(|not_until| {
                let retry_after = not_until.wait_time_from(DefaultClock::default().now());
                Refusal { scope, kind: "rate", retry_after }
            })?;
        }
        Ok(running)
    }
}

fn keys(tenant: &TenantId, principal: PrincipalId) -> [Key; 2] {
    [Some(principal), None].map(|principal| Key { tenant: tenant.clone(), principal })
}

impl Bucket {
    fn new(per_minute: Option<NonZeroU32>) -> Self {
        let rate = per_minute.map(|n| RateLimiter::direct(Quota::per_minute(n)));
        Self { per_minute, rate, returned: AtomicU32::new(0), running: AtomicU32::new(0) }
    }

    /// Refunds a call that was counted.
    fn give_back(&self) {
        self.returned.fetch_add(1, Ordering::AcqRel);
    }

    /// Uses a refunded call, if there is one.
    fn has_returned(&self) -> bool {
        self.returned.fetch_update(Ordering::AcqRel, Ordering::Acquire, |calls| calls.checked_sub(1)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use uuid::Uuid;

    use super::{Bounds, Local, Quotas};

    fn bounds(per_minute: u32, concurrent: u32) -> Bounds {
        Bounds { per_minute: NonZeroU32::new(per_minute), concurrent }
    }

    #[test]
    fn each_principal_has_its_own_and_all_share_the_tenants() {
        let limiter = Local::default();
        let tenant = "zava".parse().expect("id");
        let other = "contoso".parse().expect("id");
        let quotas = Quotas { principal: bounds(3, 10), tenant: bounds(5, 10) };
        let who = |n: u128| (Uuid::nil(), Uuid::from_u128(n));
        for _ in 0..3 {
            limiter.admit(&tenant, who(1), quotas).expect("within the quota");
        }
        let refusal = limiter.admit(&tenant, who(1), quotas).expect_err("one too many");
        assert_eq!(refusal.labels(), ["principal", "rate"]);
        assert!((1..=20).contains(&refusal.retry_after_seconds()), "{refusal:?}");
        for _ in 0..2 {
            limiter.admit(&tenant, who(2), quotas).expect("another principal");
        }
        assert_eq!(limiter.admit(&tenant, who(3), quotas).expect_err("tenant").labels(), ["tenant", "rate"]);
        limiter.admit(&other, who(1), quotas).expect("another tenant");
        // Unlimited from the next call on.
        limiter.admit(&tenant, who(1), Quotas { principal: bounds(0, 10), tenant: bounds(0, 10) }).expect("changed");
    }

    #[test]
    fn what_the_tenant_refuses_does_not_use_up_the_principals_own() {
        let limiter = Local::default();
        let tenant = "zava".parse().expect("id");
        let who = |n: u128| (Uuid::nil(), Uuid::from_u128(n));
        let narrow = Quotas { principal: bounds(3, 10), tenant: bounds(1, 10) };
        limiter.admit(&tenant, who(1), narrow).expect("the tenant's only one");
        for _ in 0..20 {
            assert_eq!(limiter.admit(&tenant, who(2), narrow).expect_err("used up").labels(), ["tenant", "rate"]);
        }
        let full = Quotas { principal: bounds(3, 10), tenant: bounds(0, 1) };
        let running = limiter.admit(&tenant, who(1), full).expect("the only one at a time");
        for _ in 0..20 {
            assert_eq!(limiter.admit(&tenant, who(2), full).expect_err("busy").labels(), ["tenant", "concurrency"]);
        }
        drop(running);
        let wide = Quotas { principal: bounds(3, 10), tenant: bounds(0, 10) };
        for _ in 0..3 {
            limiter.admit(&tenant, who(2), wide).expect("its own three");
        }
        assert_eq!(limiter.admit(&tenant, who(2), wide).expect_err("four").labels(), ["principal", "rate"]);
    }

    #[test]
    fn calls_at_a_time_are_given_back() {
        let limiter = Local::default();
        let tenant = "zava".parse().expect("id");
        let quotas = Quotas { principal: bounds(0, 2), tenant: bounds(0, 3) };
        let who = |n: u128| (Uuid::nil(), Uuid::from_u128(n));
        let admit = |n| limiter.admit(&tenant, who(n), quotas);
        let (first, _second) = (admit(1).expect("one"), admit(1).expect("two"));
        for _ in 0..3 {
            assert_eq!(admit(1).expect_err("three").labels(), ["principal", "concurrency"]);
        }
        let _third = admit(2).expect("the tenant has room");
        assert_eq!(admit(2).expect_err("no more").labels(), ["tenant", "concurrency"]);
        drop(first);
        admit(1).expect("room again");
    }

    #[test]
    fn calls_let_in_elsewhere_count_and_are_never_refused() {
        let limiter = Local::default();
        let tenant = "zava".parse().expect("id");
        let quotas = Quotas { principal: bounds(2, 2), tenant: bounds(0, 9) };
        let who = (Uuid::nil(), Uuid::nil());
        let noted: Vec<_> = (0..4).map(|_| limiter.note(&tenant, who, quotas)).collect();
        assert_eq!(limiter.admit(&tenant, who, quotas).expect_err("full").labels(), ["principal", "concurrency"]);
        drop(noted);
        assert_eq!(limiter.admit(&tenant, who, quotas).expect_err("used up").labels(), ["principal", "rate"]);
    }
}
