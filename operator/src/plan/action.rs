//! The steps from the observed to the desired state. They hold no secret values: those are made, or read from the
//! vault, when a step is taken.

use std::collections::{BTreeMap, BTreeSet};

use storefence_tenancy::credentials::Slot;
use uuid::Uuid;

use super::{
    desired::{Desired, DesiredRole, PRIVILEGED_SETTINGS},
    state::{Attributes, DatabaseState, Member, Membership},
};

/// A step in the vault. These come first: the database follows the vault's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretAction {
    /// Recover a deleted secret, so that its name can be written.
    Recover {
        /// The secret.
        name: String,
    },
    /// Make a password and write the login's URI.
    WriteLogin {
        /// The secret.
        name: String,
        /// Slot of the login.
        slot: Slot,
    },
    /// Make a context key and write it.
    WriteContextKey {
        /// The secret.
        name: String,
        /// Key id.
        kid: u32,
    },
    /// Put our tags on a secret that is not in use, and disable it.
    Retire {
        /// The secret.
        name: String,
        /// UID in its tag, if it was tagged as a RetailTenant's.
        owner: Option<String>,
    },
    /// Put our tags on a secret whose value is right.
    Tag {
        /// The secret.
        name: String,
    },
}

/// A step in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseAction {
    /// New row in `retail.tenants`.
    InsertTenant { display_name: String },
    /// New display name.
    RenameTenant { display_name: String },
    /// New row in `fence.tenants`, not enabled yet.
    InsertFence,
    /// Take over a tenant that was released.
    ClaimFence,
    /// Take over a tenant whose owner is not in this cluster.
    AdoptFence {
        /// UID of that object.
        from: String,
    },
    /// Give a store a placeholder name, so that another store can have its name.
    VacateRetailStore {
        /// The store.
        id: Uuid,
        /// The placeholder.
        name: String,
    },
    /// The same in `fence.tenant_stores`.
    VacateFenceStore {
        /// The store.
        id: Uuid,
        /// The placeholder.
        name: String,
    },
    /// New row in `retail.stores`.
    InsertRetailStore {
        /// The store.
        id: Uuid,
        name: String,
        display_name: String,
    },
    /// New names of a store.
    RenameRetailStore {
        /// The store.
        id: Uuid,
        name: String,
        display_name: String,
    },
    /// Take the store out of the fence; its rows stay.
    RemoveFenceStore {
        /// The store.
        id: Uuid,
    },
    /// Put the store behind the fence.
    InsertFenceStore {
        /// The store.
        id: Uuid,
        name: String,
    },
    /// New name of a store behind the fence.
    RenameFenceStore {
        /// The store.
        id: Uuid,
        name: String,
    },
    /// A new login role, without password and memberships.
    CreateRole {
        role: String,
        attributes: Attributes,
        /// `CONNECTION LIMIT`.
        connection_limit: i32,
    },
    /// Change attributes from `from` to `to`. The statement names only those that differ, because PostgreSQL asks for
    /// the right to change every attribute that is named.
    AlterRole {
        role: String,
        /// The attributes now.
        from: Attributes,
        /// The desired attributes.
        to: Attributes,
        /// `CONNECTION LIMIT`, if it differs.
        connection_limit: Option<i32>,
    },
    /// Mark the role as ours.
    CommentRole { role: String },
    /// Set a parameter.
    SetRoleSetting {
        role: String,
        /// Parameter.
        name: String,
        value: String,
    },
    /// Reset a parameter.
    ResetRoleSetting {
        role: String,
        /// Parameter.
        name: String,
    },
    /// Reset all parameters that are set for one database only.
    ResetDatabaseSettings { role: String, database: String },
    /// Revoke a membership of the role.
    RevokeMembership {
        role: String,
        /// The group and who granted it.
        membership: Membership,
    },
    /// Revoke the role from a member.
    RevokeMember {
        role: String,
        /// The member and who granted it.
        member: Member,
    },
    /// Revoke a privilege that was granted to the role by name.
    RevokeGrant {
        role: String,
        /// The text between `REVOKE` and `FROM`: `ALL ON TABLE retail.orders`.
        grant: String,
    },
    /// Make the role a member of the logins' group.
    GrantLoginGroup { role: String },
    /// Set the password that the vault holds.
    SetPassword {
        role: String,
        /// Slot of the login.
        slot: Slot,
    },
    /// Remove the password.
    ForgetPassword { role: String },
    /// Remove a row of `fence.logins` that is for another tenant or slot.
    RemoveLogin { role: String },
    /// New row in `fence.logins`.
    InsertLogin { role: String, slot: Slot },
    /// Write the key that the vault holds, without an end.
    SetContextKey {
        /// Key id.
        kid: u32,
        secret: String,
    },
    /// Set or remove the end of a key.
    SetKeyEnd {
        /// Key id.
        kid: u32,
        /// In Unix seconds.
        not_after: Option<i64>,
    },
    RemoveContextKey {
        /// Key id.
        kid: u32,
    },
    /// Serve calls. Last: a caller that is let in finds everything in place.
    EnableFence,
}

/// Everything to do, in order: first the vault, then the database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Steps in the vault.
    pub secrets: Vec<SecretAction>,
    /// Steps in the database, one transaction.
    pub database: Vec<DatabaseAction>,
    /// Names of roles and secrets that the steps take over. Open sessions of these roles belong to somebody else.
    pub adopted: BTreeSet<String>,
    /// What depends on a role and no step can take away: role to descriptions.
    pub dependents: BTreeMap<String, Vec<String>>,
    /// The role that takes the steps on logins, where that is not the administrator.
    pub creator: Option<Creator>,
}

/// A role that creates logins and may change those it created. The administrator acts as it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Creator {
    /// Its name.
    pub role: String,
    /// Its logins, including those that the plan creates.
    pub logins: BTreeSet<String>,
}

impl Creator {
    /// The creator of a tenant's logins; `None` where the administrator may not act as it, or it created none of them.
    #[must_use]
    pub fn of(desired: &Desired, database: &DatabaseState) -> Option<Self> {
        let its = |role: &&DesiredRole| database.roles.get(&role.name).is_none_or(|found| found.by_creator);
        let logins: BTreeSet<String> = match database.has_creator {
            true => desired.roles.values().filter(its).map(|role| role.name.clone()).collect(),
            false => BTreeSet::new(),
        };
        (!logins.is_empty()).then(|| Self { role: desired.creator.clone(), logins })
    }

    /// Whether it takes the step. Steps that need an attribute or privilege of their own stay with the administrator,
    /// who may have it; a grant is revoked by its grantor.
    #[must_use]
    pub fn takes(&self, action: &DatabaseAction) -> bool {
        let own = match action {
            DatabaseAction::CreateRole { .. }
            | DatabaseAction::CommentRole { .. }
            | DatabaseAction::ResetDatabaseSettings { .. }
            | DatabaseAction::GrantLoginGroup { .. }
            | DatabaseAction::SetPassword { .. }
            | DatabaseAction::ForgetPassword { .. } => true,
            DatabaseAction::AlterRole { from, to, .. } => from.privileged() == to.privileged(),
            DatabaseAction::SetRoleSetting { name, .. } | DatabaseAction::ResetRoleSetting { name, .. } => {
                !PRIVILEGED_SETTINGS.contains(&name.as_str())
            }
            DatabaseAction::RevokeMembership { membership: Membership { grantor, .. }, .. }
            | DatabaseAction::RevokeMember { member: Member { grantor, .. }, .. } => *grantor == self.role,
            _ => false,
        };
        own && action.role().is_some_and(|role| self.logins.contains(role))
    }
}

impl Plan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.secrets.is_empty() && self.database.is_empty() && self.dependents.is_empty()
    }

    /// Whether a login is created, changed or taken over.
    #[must_use]
    pub fn changes_roles(&self) -> bool {
        !self.adopted.is_empty() || self.database.iter().any(|action| action.role().is_some())
    }
}
