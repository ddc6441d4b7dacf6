//! When a failed pass is repeated.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rand::Rng;

use crate::{
    backoff::{LONGEST_ASKED, spread},
    reason::Class,
};

/// Bounds of the waits between tries.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// First wait after a transient failure; it doubles with each further one.
    pub base: Duration,
    /// Longest wait; also the wait after a permanent failure.
    pub max: Duration,
}

/// Shortest and longest wait for a lock that another operator holds, as multiples of the base: 10 to 30 s for 5 s.
const CONTENTION: (u32, u32) = (2, 6);

/// Consecutive failures by the object's UID.
pub struct Retries {
    policy: RetryPolicy,
    failures: Mutex<HashMap<String, u32>>,
}

impl Retries {
    pub fn new(policy: RetryPolicy) -> Self {
        Self { policy, failures: Mutex::default() }
    }

    /// Counts a failure and returns the wait before the next try.
    pub fn delay(&self, uid: &str, class: Class) -> Duration {
        let RetryPolicy { base, max } = self.policy;
        match class {
            Class::Transient => {
                let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
                let count = failures.entry(uid.to_owned()).or_default();
                let wait = base.saturating_mul(1 << (*count).min(16)).min(max);
                *count = count.saturating_add(1);
                spread(wait)
            }
            // Never shorter than the backend asked for, and spread, so that not all tenants return at once.
            Class::Throttled(Some(wait)) => wait.min(LONGEST_ASKED).mul_f64(rand::rng().random_range(1.0..=1.1)),
            Class::Throttled(None) => spread(base),
            Class::Permanent => spread(max),
            Class::Contention => {
                let (low, high) = (base * CONTENTION.0, base * CONTENTION.1);
                rand::rng().random_range(low..=high).min(max)
            }
        }
    }

    /// Forgets the failures: a pass succeeded, or the object is gone.
    pub fn forget(&self, uid: &str) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Duration = Duration::from_secs(5);
    const MAX: Duration = Duration::from_secs(300);

    fn retries() -> Retries {
        Retries::new(RetryPolicy { base: BASE, max: MAX })
    }

    fn near(actual: Duration, expected: Duration) -> bool {
        (expected.mul_f64(0.89)..=expected.mul_f64(1.11)).contains(&actual)
    }

    #[test]
    fn transient_failures_back_off_to_the_maximum_and_are_forgotten() {
        let retries = retries();
        for expected in [5, 10, 20, 40, 80, 160, 300, 300] {
            let actual = retries.delay("uid", Class::Transient);
            assert!(near(actual, Duration::from_secs(expected)), "{actual:?} for {expected}");
        }
        assert!(near(retries.delay("other", Class::Transient), BASE));
        retries.forget("uid");
        assert!(near(retries.delay("uid", Class::Transient), BASE));
    }

    #[test]
    fn other_classes_have_waits_of_their_own() {
        let retries = retries();
        for asked in [Duration::from_secs(17), MAX * 2] {
            let wait = retries.delay("uid", Class::Throttled(Some(asked)));
            assert!((asked..=asked.mul_f64(1.11)).contains(&wait), "{wait:?} for {asked:?}");
        }
        assert!(near(retries.delay("uid", Class::Permanent), MAX));
        for _ in 0..50 {
            let wait = retries.delay("uid", Class::Contention);
            assert!((BASE * 2..=BASE * 6).contains(&wait), "{wait:?}");
        }
    }
}
