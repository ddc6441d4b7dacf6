//! Waits between tries.

use std::time::Duration;

use rand::Rng;

/// Longest wait that a backend may ask for.
pub const LONGEST_ASKED: Duration = Duration::from_secs(3600);

/// A wait within a tenth of the given one, so that many tenants do not return in one moment.
pub fn spread(wait: Duration) -> Duration {
    wait.mul_f64(rand::rng().random_range(0.9..=1.1))
}
