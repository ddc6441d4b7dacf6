//! A failure as the status shows it: every error type of this crate ends up as one.

use std::fmt;

use crate::reason::{Area, Class, Reason};

/// Why the tenant is not as its spec asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The code for conditions, events and metrics.
    pub reason: Reason,
    /// Which condition it belongs to.
    pub area: Area,
    /// When the pass is repeated.
    pub class: Class,
    /// What is wrong and what to do about it.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
