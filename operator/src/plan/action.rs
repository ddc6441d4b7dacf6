//! The steps between observed and desired. Values of secrets do not stand in them: they are made, or read from the
//! vault, when a step is taken.

use std::collections::{BTreeMap, BTreeSet};

use storefence_tenancy::credentials::Slot;
use uuid::Uuid;

use super::{
    desired::{Desired, DesiredRole, PRIVILEGED_SETTINGS},
    state::{Attributes, DatabaseState, Member, Membership},
};

/// A step in the vault. These come first: the vault's value is the one that counts, and the database follows it.
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
        /// Whose.
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
    /// Put our tags on a secret that is otherwise right.
    Tag {
        /// The secret.
        name: String,
    },
}

/// A step in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseAction {
    /// New row in `retail.tenants`.
    InsertTenant {
        /// Name for people.
        display_name: String,
    },
    /// New name for people.
    RenameTenant {
        /// Name for people.
        display_name: String,
    },
    /// New row in `fence.tenants`, not enabled yet.
    InsertFence,
    /// The tenant was released; it is ours now.
    ClaimFence,
    /// The tenant's row is another object's, which is not in this cluster; it is ours now.
    AdoptFence {
        /// UID of that object.
        from: String,
    },
    /// Give a store another name, so that its own becomes free.
    VacateRetailStore {
        /// The store.
        id: Uuid,
        /// The placeholder.
        name: String,
    },
    /// Likewise in `fence.tenant_stores`.
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
        /// Name.
        name: String,
        /// Name for people.
        display_name: String,
    },
    /// New names of a store.
    RenameRetailStore {
        /// The store.
        id: Uuid,
        /// Name.
        name: String,
        /// Name for people.
        display_name: String,
    },
    /// The store is no longer behind the fence; its rows stay.
    RemoveFenceStore {
        /// The store.
        id: Uuid,
    },
    /// The store is behind the fence.
    InsertFenceStore {
        /// The store.
        id: Uuid,
        /// Name.
        name: String,
    },
    /// New name of a store behind the fence.
    RenameFenceStore {
        /// The store.
        id: Uuid,
        /// Name.
        name: String,
    },
    /// A new login role, without password and memberships.
    CreateRole {
        /// The role.
        role: String,
        /// Its attributes.
        attributes: Attributes,
        /// `CONNECTION LIMIT`.
        connection_limit: i32,
    },
    /// Change attributes from `from` to `to`; only those that differ stand in the statement, because naming an
    /// attribute asks for the right to change it.
    AlterRole {
        /// The role.
        role: String,
        /// Now.
        from: Attributes,
        /// Wanted.
        to: Attributes,
        /// `CONNECTION LIMIT`, if it differs.
        connection_limit: Option<i32>,
    },
    /// Mark the role as ours.
    CommentRole {
        /// The role.
        role: String,
    },
    /// Set a parameter.
    SetRoleSetting {
        /// The role.
        role: String,
        /// Parameter.
        name: String,
        /// Value.
        value: String,
    },
    /// Forget a parameter.
    ResetRoleSetting {
        /// The role.
        role: String,
        /// Parameter.
        name: String,
    },
    /// Forget all parameters that hold in one database only.
    ResetDatabaseSettings {
        /// The role.
        role: String,
        /// The database.
        database: String,
    },
    /// Take a membership away.
    RevokeMembership {
        /// The role.
        role: String,
        /// The group and who granted it.
        membership: Membership,
    },
    /// Take the role away from a member.
    RevokeMember {
        /// The role.
        role: String,
        /// The member and who granted it.
        member: Member,
    },
    /// Take away what the role was given by name.
    RevokeGrant {
        /// The role.
        role: String,
        /// What stands between `REVOKE` and `FROM`: `ALL ON TABLE retail.orders`.
        grant: String,
    },
    /// Make the role a member of the logins' group.
    GrantLoginGroup {
        /// The role.
        role: String,
    },
    /// Set the password that the vault holds.
    SetPassword {
        /// The role.
        role: String,
        /// Whose.
        slot: Slot,
    },
    /// Take the password away.
    ForgetPassword {
        /// The role.
        role: String,
    },
    /// The row in `fence.logins` speaks for somebody else, or for another slot.
    RemoveLogin {
        /// The role.
        role: String,
    },
    /// New row in `fence.logins`.
    InsertLogin {
        /// The role.
        role: String,
        /// Its slot.
        slot: Slot,
    },
    /// Write the key that the vault holds, without an end.
    SetContextKey {
        /// Key id.
        kid: u32,
        /// The secret.
        secret: String,
    },
    /// Give a key an end, or take it away.
    SetKeyEnd {
        /// Key id.
        kid: u32,
        /// In Unix seconds.
        not_after: Option<i64>,
    },
    /// Remove a key.
    RemoveContextKey {
        /// Key id.
        kid: u32,
    },
    /// Serve calls. Last: whoever is let in finds everything in place.
    EnableFence,
}

/// Everything to do, in order: first the vault, then the database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Steps in the vault.
    pub secrets: Vec<SecretAction>,
    /// Steps in the database, one transaction.
    pub database: Vec<DatabaseAction>,
    /// Roles and secrets that the steps take over, by name. Sessions of these roles are somebody else's.
    pub adopted: BTreeSet<String>,
    /// What depends on a role and no step can take away: the role, and the objects in words.
    pub dependents: BTreeMap<String, Vec<String>>,
    /// Who takes the steps on roles, where it is not the administrator itself.
    pub creator: Option<Creator>,
}

/// A role that made logins and may change them: the administrator acts as it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Creator {
    /// Its name.
    pub role: String,
    /// Its logins, those that the plan makes included.
    pub logins: BTreeSet<String>,
}

impl Creator {
    /// Of a tenant; `None` where the administrator has no creator, or none of the logins is its.
    #[must_use]
    pub fn of(desired: &Desired, database: &DatabaseState) -> Option<Self> {
        let its = |role: &&DesiredRole| database.roles.get(&role.name).is_none_or(|found| found.by_creator);
        let logins: BTreeSet<String> = match database.has_creator {
            true => desired.roles.values().filter(its).map(|role| role.name.clone()).collect(),
            false => BTreeSet::new(),
        };
        (!logins.is_empty()).then(|| Self { role: desired.creator.clone(), logins })
    }

    /// Whether it takes the step. What asks for an attribute or a privilege of one's own stays with the administrator,
    /// who may have it; a grant is taken back by who gave it.
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

    /// Whether a login is made, changed or taken over.
    #[must_use]
    pub fn changes_roles(&self) -> bool {
        !self.adopted.is_empty() || self.database.iter().any(|action| action.role().is_some())
    }
}
