//! Storefence: devstack.
