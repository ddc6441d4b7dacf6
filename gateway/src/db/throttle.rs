//! The slow-query throttle: principals whose statements ran long lately run them one after the other.
//!
//! A tenant has few connections, but more than a small server has processors. Statements that never end, one on each
//! connection, would leave no processor to other tenants. Which statements run long is known only after they ran, so the
//! throttle remembers principals: each has an allowance of seconds, which long statements use up and which refills with
//! time. A principal that has used its allowance up is throttled: it shares one of the tenant's connections with the other
//! throttled principals, and its statements have no parallel workers. All others keep their connections.
//!
//! Time during which several statements of a principal ran counts once. A server that stalls for two seconds holds all of
//! them up; counted one by one, four statements would use up the allowance.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::lease::locked;
use crate::identity::PrincipalId;

/// Statements up to this long cost nothing.
const LONG: Duration = Duration::from_secs(1);
/// Seconds of long statements that a principal may run before it is throttled.
const ALLOWANCE: f64 = 10.0;
/// Most seconds that are remembered, so that throttling ends: ten minutes after the last long statement.
const MOST: f64 = ALLOWANCE + 600.0 * REFILL;
/// Seconds of allowance that come back in a second. A principal that runs one long statement after the other uses more,
/// and loses nothing by being throttled, for its statements never run side by side.
const REFILL: f64 = 1.0 / 8.0;

/// One tenant's principals that ran long statements lately, and the permits that they share.
pub struct Throttle {
    permits: Arc<Semaphore>,
    used: Mutex<HashMap<PrincipalId, Used>>,
}

/// The used part of an allowance, at a time.
#[derive(Clone, Copy)]
struct Used {
    seconds: f64,
    at: Instant,
    /// The time before this has been counted.
    counted: Instant,
}

impl Used {
    /// The seconds that have not come back by `now`.
    fn at(self, now: Instant) -> f64 {
        let refilled = now.saturating_duration_since(self.at).as_secs_f64() * REFILL;
        (self.seconds - refilled).max(0.0)
    }
}

impl Throttle {
    /// Lets throttled principals run `permits` statements at a time.
    pub fn new(permits: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(permits)), used: Mutex::default() }
    }

    /// Whether this principal is throttled.
    pub fn applies(&self, principal: PrincipalId, now: Instant) -> bool {
        locked(&self.used).get(&principal).is_some_and(|used| used.at(now) >= ALLOWANCE)
    }

    /// Waits for a permit, without a limit.
    pub async fn acquire(&self) -> Option<OwnedSemaphorePermit> {
        self.permits.clone().acquire_owned().await.ok()
    }

    /// Charges a statement that ran from `began` to `now`. Principals with a whole allowance are forgotten, so the memory is
    /// bounded by the number of connections on which long statements can have run within ten minutes.
    pub fn charge(&self, principal: PrincipalId, began: Instant, now: Instant) {
        if now.saturating_duration_since(began) <= LONG {
            return;
        }
        let mut used = locked(&self.used);
        used.retain(|_, used| used.at(now) > 0.0);
        let (before, counted) = used.get(&principal).map_or((0.0, began), |used| (used.at(now), used.counted));
        let seconds = before + now.saturating_duration_since(began.max(counted)).as_secs_f64();
        used.insert(principal, Used { seconds: seconds.min(MOST), at: now, counted: now });
    }

    /// Whether any principal's allowance is not whole.
    pub fn has_charges(&self, now: Instant) -> bool {
        locked(&self.used).values().any(|used| used.at(now) > 0.0)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const fn who(number: u128) -> PrincipalId {
        (Uuid::from_u128(1), Uuid::from_u128(number))
    }

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn long_statements_use_an_allowance_up_and_time_refills_it() {
        let (throttle, start) = (Throttle::new(1), Instant::now());
        let (half, end) = (start + seconds(6), start + seconds(12));
        throttle.charge(who(1), start, half);
        assert!(!throttle.applies(who(1), half), "within the allowance");
        throttle.charge(who(1), half, end);
        assert!(throttle.applies(who(1), end), "6 - 6/8 + 6");
        assert!(!throttle.applies(who(2), end), "another principal's own");
        assert!(throttle.applies(who(1), end + seconds(9)), "11.25 - 9/8");
        assert!(!throttle.applies(who(1), end + seconds(11)), "11.25 - 11/8");
        assert!(throttle.has_charges(end + seconds(89)));
        assert!(!throttle.has_charges(end + seconds(91)), "all of it");
    }

    /// Four statements of one principal, on a server that stalls three times for two and a half seconds.
    #[test]
    fn time_in_which_several_statements_ran_counts_once() {
        let (throttle, mut now) = (Throttle::new(1), Instant::now());
        for _ in 0..3 {
            let began = now;
            now += Duration::from_millis(2_500);
            (0..4).for_each(|_| throttle.charge(who(1), began, now));
            assert!(!throttle.applies(who(1), now), "the server stalled, not the principal");
        }
        throttle.charge(who(1), now, now + seconds(5));
        assert!(throttle.applies(who(1), now + seconds(5)), "7.5 and 5, less what came back");
    }

    #[test]
    fn short_statements_cost_nothing_however_many() {
        let (throttle, start) = (Throttle::new(1), Instant::now());
        (0..10_000).for_each(|_| throttle.charge(who(1), start, start + LONG));
        assert!(!throttle.applies(who(1), start));
        assert!(!throttle.has_charges(start));
    }

    #[test]
    fn throttling_ends_and_the_memory_is_bounded() {
        let (throttle, start) = (Throttle::new(1), Instant::now());
        let end = start + seconds(30 * 100);
        (0..100).for_each(|n| throttle.charge(who(1), start + seconds(30 * n), start + seconds(30 * (n + 1))));
        assert!(throttle.applies(who(1), end + seconds(599)));
        assert!(!throttle.applies(who(1), end + seconds(601)));
        (0..100).for_each(|number| throttle.charge(who(number), end, end + seconds(2)));
        throttle.charge(who(100), end + seconds(17), end + seconds(19));
        assert_eq!(locked(&throttle.used).len(), 2, "the first, which used much, and the last");
    }

    #[tokio::test]
    async fn permits_bound_the_statements_at_a_time() {
        let throttle = Throttle::new(1);
        let first = throttle.acquire().await;
        assert!(tokio::time::timeout(Duration::from_millis(50), throttle.acquire()).await.is_err());
        drop(first);
        assert!(tokio::time::timeout(Duration::from_secs(5), throttle.acquire()).await.is_ok());
    }
}
