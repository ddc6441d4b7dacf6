//! Storefence: operator.

pub mod migrate;
pub mod seed;
