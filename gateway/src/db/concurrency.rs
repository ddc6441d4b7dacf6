//! The concurrency limit: how many statements of one principal run at a time.
//!
//! The slow-query throttle applies only after statements have run long. Until then a principal's own statements must not
//! take every processor of a small server either. With a limit of one they run one after the other; with a limit of two,
//! two run side by side, or one with a parallel worker.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::lease::locked;
use crate::identity::PrincipalId;

/// How many processors a statement may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// One.
    Serial,
    /// One, and those of its parallel workers.
    Parallel,
}

/// The limits of one tenant's principals that have a connection or wait for one.
pub struct Concurrency {
    limit: u32,
    permits: Mutex<HashMap<PrincipalId, Arc<Semaphore>>>,
}

impl Concurrency {
    /// Allows `limit` statements of one principal at a time, or one with `limit - 1` parallel workers.
    pub fn new(limit: u32) -> Self {
        Self { limit, permits: Mutex::default() }
    }

    /// Waits for a permit of this principal, without a limit. A parallel statement takes all permits where no other
    /// statement of the principal runs; otherwise it takes one and runs without workers. Returns the weight that it got.
    pub async fn acquire(&self, principal: PrincipalId, weight: Weight) -> Option<(OwnedSemaphorePermit, Weight)> {
        let permits = self.of(principal);
        if weight == Weight::Parallel
            && let Ok(all) = permits.clone().try_acquire_many_owned(self.limit)
        {
            return Some((all, Weight::Parallel));
        }
        Some((permits.acquire_owned().await.ok()?, Weight::Serial))
    }

    fn of(&self, principal: PrincipalId) -> Arc<Semaphore> {
        let mut known = locked(&self.permits);
        if let Some(permits) = known.get(&principal) {
            return permits.clone();
        }
        // A semaphore that nobody else holds has no permit out and no waiter.
        known.retain(|_, permits| Arc::strong_count(permits) > 1);
        known.entry(principal).or_insert_with(|| Arc::new(Semaphore::new(self.limit as usize))).clone()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;

    const fn who(number: u128) -> PrincipalId {
        (Uuid::from_u128(1), Uuid::from_u128(number))
    }

    async fn soon(
        limits: &Concurrency,
        principal: PrincipalId,
        weight: Weight,
    ) -> Option<(OwnedSemaphorePermit, Weight)> {
        tokio::time::timeout(Duration::from_millis(50), limits.acquire(principal, weight)).await.ok().flatten()
    }

    #[tokio::test]
    async fn each_principal_has_its_own_limit() {
        let limits = Concurrency::new(2);
        let first = soon(&limits, who(1), Weight::Serial).await;
        let _second = soon(&limits, who(1), Weight::Serial).await.unwrap();
        assert!(soon(&limits, who(1), Weight::Serial).await.is_none(), "a third");
        assert!(soon(&limits, who(2), Weight::Parallel).await.is_some(), "another principal");
        drop(first);
        assert!(soon(&limits, who(1), Weight::Serial).await.is_some());
    }

    #[tokio::test]
    async fn a_statement_has_workers_where_no_other_of_its_principal_runs() {
        let limits = Concurrency::new(3);
        let alone = soon(&limits, who(1), Weight::Parallel).await.unwrap();
        assert_eq!(alone.1, Weight::Parallel);
        assert!(soon(&limits, who(1), Weight::Serial).await.is_none(), "beside workers");
        drop(alone);
        let _first = soon(&limits, who(1), Weight::Serial).await.unwrap();
        let beside = soon(&limits, who(1), Weight::Parallel).await.unwrap();
        assert_eq!(beside.1, Weight::Serial);
        assert!(soon(&limits, who(1), Weight::Serial).await.is_some(), "two of three were taken");
    }

    #[tokio::test]
    async fn principals_without_statements_are_forgotten() {
        let limits = Concurrency::new(2);
        let kept = limits.acquire(who(0), Weight::Serial).await;
        for number in 1..1_000 {
            drop(limits.acquire(who(number), Weight::Serial).await);
        }
        assert_eq!(locked(&limits.permits).len(), 2, "the first, which holds a permit, and the last");
        drop(kept);
    }
}
