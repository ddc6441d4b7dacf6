//! The life of a database connection. It is limited because a backend's caches grow with what it has seen, and because a
//! connection stays with the server that it was opened to, whatever a failover or a load balancer does later.

use std::time::{Duration, Instant};

/// Longest life of connections.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Most time since it was opened.
    pub age: Duration,
    /// Most calls.
    pub calls: u32,
}

/// What is left of one connection's life.
#[derive(Debug)]
pub struct Life {
    until: Instant,
    calls: u32,
}

impl Span {
    /// Begins a life that is shorter by a random part, up to a fifth: connections that were opened together, after a
    /// restart, do not end together.
    #[must_use]
    pub fn begin(self) -> Life {
        self.part(rand::random_range(0.8..1.0))
    }

    fn part(self, part: f64) -> Life {
        let calls = (f64::from(self.calls) * part) as u32;
        Life { until: Instant::now() + self.age.mul_f64(part), calls: calls.max(1) }
    }
}

impl Life {
    /// Counts a call.
    pub const fn spend(&mut self) {
        self.calls = self.calls.saturating_sub(1);
    }

    /// Whether the connection should serve no other call.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.calls == 0 || Instant::now() >= self.until
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Span;

    #[test]
    fn a_life_ends_by_calls_or_age_and_never_later_than_it_should() {
        let span = Span { age: Duration::from_secs(3600), calls: 10 };
        for _ in 0..100 {
            let (mut life, mut calls) = (span.begin(), 0);
            while !life.is_over() {
                life.spend();
                calls += 1;
            }
            assert!((8..=10).contains(&calls), "{calls}");
        }
        assert!(Span { age: Duration::ZERO, calls: 10 }.begin().is_over());
        assert!(!Span { age: Duration::from_secs(1), calls: 1 }.begin().is_over(), "each serves one call at least");
    }
}
