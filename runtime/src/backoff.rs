//! Waits between failures.

use std::time::Duration;

/// Waits that double from a first one to a longest one, until something succeeds.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    last: Option<Duration>,
}

/// The wait after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// How long, within a fifth of what is due, so that many clients do not come back in one moment.
    pub length: Duration,
    /// Whether it is longer than the wait before was meant to be: the moment to log.
    pub grew: bool,
}

impl Backoff {
    /// Waits from `first` to `longest`.
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, last: None }
    }

    /// One more failure.
    pub fn failed(&mut self) -> Pause {
        let due = self.last.map_or(self.first, |last| last * 2).min(self.longest);
        let grew = self.last.replace(due).is_none_or(|last| last < due);
        Pause { length: due.mul_f64(rand::random_range(0.8..1.2)), grew }
    }

    /// A success; whether there were failures before it.
    pub const fn succeeded(&mut self) -> bool {
        self.last.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_the_longest_and_start_over_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));
        assert!(!backoff.succeeded());
        for (expected, grew) in [(200, true), (400, true), (800, true), (1600, true), (2000, true), (2000, false)] {
            let pause = backoff.failed();
            let expected = Duration::from_millis(expected);
            assert!(
                (expected.mul_f64(0.79)..expected.mul_f64(1.21)).contains(&pause.length),
                "{pause:?} for {expected:?}"
            );
            assert_eq!(pause.grew, grew, "{expected:?}");
        }
        assert!(backoff.succeeded() && !backoff.succeeded());
        assert!(backoff.failed().length < Duration::from_millis(250));
    }
}
