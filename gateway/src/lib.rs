//! Storefence: gateway.
