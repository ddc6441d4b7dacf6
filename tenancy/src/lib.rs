//! Storefence: tenancy.
