//! Names of the roles that the operator makes and looks for, and the comment that marks whose they are.

use sha2::{Digest as _, Sha256};
use storefence_tenancy::TenantId;

/// The group that every login is a member of, and the only one.
pub const LOGIN_GROUP: &str = "fence_login";

/// Roles that create logins in the administrator's place (migration 0012), each for a part of the tenants.
const CREATORS: u8 = 64;
const CREATOR_PREFIX: &str = "fence_creator_";

/// The role that creates a tenant's logins. It follows from the tenantId alone, so that it is found again.
#[must_use]
pub fn creator_role_name(tenant_id: &TenantId) -> String {
    let number = Sha256::digest(tenant_id.as_str())[0] % CREATORS;
    format!("{CREATOR_PREFIX}{number:02}")
}

/// Whether a role is one of those that create logins.
#[must_use]
pub fn is_creator(role: &str) -> bool {
    role.strip_prefix(CREATOR_PREFIX)
        .is_some_and(|number| number.len() == 2 && number.parse::<u8>().is_ok_and(|number| number < CREATORS))
}

const COMMENT_PREFIX: &str = "storefence RetailTenant ";

/// The comment that marks a role as belonging to the object with this UID.
#[must_use]
pub fn role_comment(owner_uid: &str) -> String {
    format!("{COMMENT_PREFIX}{owner_uid}")
}

/// The UID in a role's comment.
#[must_use]
pub fn comment_owner(comment: &str) -> Option<&str> {
    comment.strip_prefix(COMMENT_PREFIX)
}
