//! Ranges of sizes and costs that do not overflow.

use std::ops::Add;

/// A range, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub min: u64,
    pub max: u64,
}

/// Characters, items or entries.
pub type Size = Range;
/// Units of cost.
pub type Cost = Range;

/// Where nothing is known.
pub const UNKNOWN: Range = Range { min: 0, max: u64::MAX };

impl Range {
    pub const ZERO: Self = Self::fixed(0);

    pub const fn fixed(n: u64) -> Self {
        Self { min: n, max: n }
    }

    pub fn union(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }

    pub fn times(self, other: Self) -> Self {
        Self { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    /// Rounded up.
    pub fn times_factor(self, factor: f64) -> Self {
        Self { min: by_factor(self.min, factor), max: by_factor(self.max, factor) }
    }
}

impl Add for Range {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }
}

/// `n` times `factor`, rounded up.
pub fn by_factor(n: u64, factor: f64) -> u64 {
    // A float beyond the largest integer becomes the largest one.
    (n as f64 * factor).ceil() as u64
}
