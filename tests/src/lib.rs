//! Storefence: tests.
