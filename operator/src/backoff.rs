//! Waits between tries.

use std::time::Duration;

use rand::Rng;

/// Longest wait that a backend may ask for.
pub const LONGEST_ASKED: Duration = Duration::from_secs(3600);

/// The wait, longer or shorter by up to a tenth, so that many tenants do not return at once.
pub fn spread(wait: Duration) -> Duration {
    wait.mul_f64(rand::rng().random_range(0.9..=1.1))
}
