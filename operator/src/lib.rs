//! Storefence: operator.

pub mod migrate;
