//! Storefence: operator.
