//! What the operator may do about a tenant: repair or observe, adopt or not, and what a deletion means.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operator does about differences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// Differences are repaired.
    #[default]
    Enforce,
    /// Differences are reported; neither database nor Key Vault is written to.
    Observe,
}

/// What happens to roles and secrets of our names that are not marked as ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum AdoptionPolicy {
    /// They are not touched; the tenant is not Ready.
    #[default]
    Never,
    /// They are taken over, with new passwords and keys, unless they are more than a tenant's login or secret may be.
    Adopt,
}

/// What happens when the object is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// Access ends: logins are disabled, their sessions ended, context keys removed, secret versions disabled. Roles,
    /// secrets and the mapping of stores stay.
    #[default]
    Revoke,
    /// Nothing is touched: the credentials stay valid. An object of the same tenantId takes them over with
    /// `adoptionPolicy: Adopt`.
    Retain,
    /// Access ends, then the logins are dropped, the secrets deleted (in Key Vault they can be recovered for a while),
    /// and the tenant's rows in schema `fence` removed.
    Delete,
}
