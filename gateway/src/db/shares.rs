//! Shares: what one principal has of a tenant's connections.
//!
//! Turns begin when statements have run long. Until then a principal's own statements must not take every processor of a
//! small server either. With a share of one they run one after the other; of two, two run side by side, or one that has a
//! parallel worker.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::lease::locked;
use crate::identity::PrincipalId;

/// How much of the processors a statement may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// One.
    Serial,
    /// Parallel workers' beside its own.
    Parallel,
}

/// The shares of one tenant's principals that have a connection or wait for one.
pub struct Shares {
    each: u32,
    taken: Mutex<HashMap<PrincipalId, Arc<Semaphore>>>,
}

impl Shares {
    /// `each`: so many statements of one principal at a time, or one with parallel workers.
    pub fn new(each: u32) -> Self {
        Self { each, taken: Mutex::default() }
    }

    /// Waits, without end, until a part of this principal's share is free. What may have workers has them, and all of the
    /// share, where nothing else of the principal is at work; otherwise it is as heavy as others.
    pub async fn take(&self, principal: PrincipalId, weight: Weight) -> Option<(OwnedSemaphorePermit, Weight)> {
        let share = self.of(principal);
        if weight == Weight::Parallel
            && let Ok(all) = share.clone().try_acquire_many_owned(self.each)
        {
            return Some((all, Weight::Parallel));
        }
        Some((share.acquire_owned().await.ok()?, Weight::Serial))
    }

    fn of(&self, principal: PrincipalId) -> Arc<Semaphore> {
        let mut taken = locked(&self.taken);
        if let Some(share) = taken.get(&principal) {
            return share.clone();
        }
        // Those that nobody holds a part of, and nobody waits for, are whole.
        taken.retain(|_, share| Arc::strong_count(share) > 1);
        taken.entry(principal).or_insert_with(|| Arc::new(Semaphore::new(self.each as usize))).clone()
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

    async fn soon(shares: &Shares, principal: PrincipalId, weight: Weight) -> Option<(OwnedSemaphorePermit, Weight)> {
        tokio::time::timeout(Duration::from_millis(50), shares.take(principal, weight)).await.ok().flatten()
    }

    #[tokio::test]
    async fn a_principal_has_so_many_and_another_its_own() {
        let shares = Shares::new(2);
        let first = soon(&shares, who(1), Weight::Serial).await;
        let _second = soon(&shares, who(1), Weight::Serial).await.unwrap();
        assert!(soon(&shares, who(1), Weight::Serial).await.is_none(), "a third");
        assert!(soon(&shares, who(2), Weight::Parallel).await.is_some(), "another principal");
        drop(first);
        assert!(soon(&shares, who(1), Weight::Serial).await.is_some());
    }

    #[tokio::test]
    async fn a_statement_has_workers_where_the_share_is_whole() {
        let shares = Shares::new(3);
        let alone = soon(&shares, who(1), Weight::Parallel).await.unwrap();
        assert_eq!(alone.1, Weight::Parallel);
        assert!(soon(&shares, who(1), Weight::Serial).await.is_none(), "beside workers");
        drop(alone);
        let _first = soon(&shares, who(1), Weight::Serial).await.unwrap();
        let beside = soon(&shares, who(1), Weight::Parallel).await.unwrap();
        assert_eq!(beside.1, Weight::Serial);
        assert!(soon(&shares, who(1), Weight::Serial).await.is_some(), "two of three were taken");
    }

    #[tokio::test]
    async fn whose_share_is_whole_is_forgotten() {
        let shares = Shares::new(2);
        let kept = shares.take(who(0), Weight::Serial).await;
        for number in 1..1_000 {
            drop(shares.take(who(number), Weight::Serial).await);
        }
        assert_eq!(locked(&shares.taken).len(), 2, "the first, which is not whole, and the last");
        drop(kept);
    }
}
