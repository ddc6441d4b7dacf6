//! What database and vault hold of a tenant, as [`diff`](super::diff) compares it. Plain values, read by
//! [`database::observe`](crate::database::observe) and [`vault`](crate::vault).

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use uuid::Uuid;

/// The state of one tenant, with the rows, roles and secrets of others that have its names or ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// What the database holds.
    pub database: DatabaseState,
    /// What the vault holds, by secret name. A name that is missing was not read.
    pub secrets: BTreeMap<String, SecretState>,
    /// Secrets whose tag `managed-by` names somebody else: secret to manager.
    pub managers: BTreeMap<String, String>,
    /// Secrets whose latest version is the one that the status records: the operator wrote it, whatever its tags say.
    pub recorded: BTreeSet<String>,
}

/// The database's side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct DatabaseState {
    /// The row in `retail.tenants`.
    pub tenant: Option<TenantRow>,
    /// The row in `fence.tenants`.
    pub fence: Option<FenceRow>,
    /// Rows of `retail.stores`: the tenant's, and others with an id that the spec names.
    pub retail_stores: BTreeMap<Uuid, RetailStore>,
    /// Rows of `fence.tenant_stores`, likewise.
    pub fence_stores: BTreeMap<Uuid, FenceStore>,
    /// The login roles that exist, by name.
    pub roles: BTreeMap<String, RoleRow>,
    /// Rows of `fence.logins`: the tenant's, and others with one of its role names.
    pub logins: BTreeMap<String, LoginRow>,
    /// Rows of `fence.context_keys`.
    pub keys: BTreeMap<u32, KeyRow>,
    /// Privileged settings that this administrator may give to a role.
    pub may_set: BTreeSet<String>,
    /// Whether the administrator may act as the tenant's creator of logins.
    #[serde(default)]
    pub has_creator: bool,
    /// The salt of role names, in hexadecimal: shows whether this is the database that was migrated.
    #[serde(default)]
    pub salt: Option<String>,
}

/// `retail.tenants`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TenantRow {
    pub display_name: String,
}

/// `fence.tenants`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct FenceRow {
    /// UID of the owner.
    pub owner_uid: String,
    /// Whether calls are served.
    pub enabled: bool,
}

/// `retail.stores`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RetailStore {
    /// Identifier of the tenant.
    pub tenant: String,
    pub name: String,
    pub display_name: String,
}

/// `fence.tenant_stores`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct FenceStore {
    /// Identifier of the tenant.
    pub tenant: String,
    pub name: String,
}

/// A role as `pg_catalog` has it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RoleRow {
    pub attributes: Attributes,
    /// `CONNECTION LIMIT`.
    pub connection_limit: i32,
    pub comment: Option<String>,
    /// Its memberships, one per grantor.
    pub memberships: Vec<Membership>,
    /// `ALTER ROLE … SET`, for all databases.
    pub settings: BTreeMap<String, String>,
    /// Databases with settings for this role; the operator makes none.
    pub database_settings: BTreeSet<String>,
    /// What it owns, or was granted by name. A tenant's login needs nothing but its one membership.
    #[serde(default)]
    pub dependents: Vec<Dependent>,
    /// Roles that may act as it, except the administrator.
    #[serde(default)]
    pub members: Vec<Member>,
    /// Whether the tenant's creator of logins created it, or may change it for another reason.
    #[serde(default)]
    pub by_creator: bool,
    /// Whether the password in the vault works; `None`: not tried.
    #[serde(default)]
    pub password_works: Option<bool>,
}

/// Role attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "PostgreSQL has them as booleans")]
pub struct Attributes {
    /// `LOGIN`.
    pub login: bool,
    /// `INHERIT`.
    pub inherit: bool,
    /// `SUPERUSER`.
    pub superuser: bool,
    /// `CREATEDB`.
    pub createdb: bool,
    /// `CREATEROLE`.
    pub createrole: bool,
    /// `REPLICATION`.
    pub replication: bool,
    /// `BYPASSRLS`.
    pub bypassrls: bool,
    /// `VALID UNTIL` is set, and not to infinity.
    pub expires: bool,
}

impl Attributes {
    /// The attributes of a tenant's login; `login` is whether it may log in.
    #[must_use]
    pub const fn login(login: bool) -> Self {
        Self {
            login,
            // The one membership has INHERIT itself. A role that is granted one day must not be inherited silently.
            inherit: false,
            superuser: false,
            createdb: false,
            createrole: false,
            replication: false,
            bypassrls: false,
            expires: false,
        }
    }

    /// The attributes that only a role which has them may change.
    #[must_use]
    pub const fn privileged(self) -> [bool; 5] {
        [self.superuser, self.createdb, self.createrole, self.replication, self.bypassrls]
    }
}

/// One entry of `pg_auth_members`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Membership {
    pub group: String,
    /// Who granted it.
    pub grantor: String,
    /// `ADMIN`.
    pub admin: bool,
    /// `INHERIT`.
    pub inherit: bool,
    /// `SET`.
    pub set: bool,
}

/// Something that depends on a role.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Dependent {
    /// Description.
    pub what: String,
    /// The text between `REVOKE` and `FROM`, where this administrator can revoke it.
    pub grant: Option<String>,
}

/// A role that is a member of a login, with more than the ADMIN option.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Member {
    /// The member.
    pub name: String,
    /// Who granted it.
    pub grantor: String,
}

/// `fence.logins`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct LoginRow {
    /// Identifier of the tenant.
    pub tenant: String,
    /// `a` or `b`.
    pub slot: String,
}

/// `fence.context_keys`, without the key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct KeyRow {
    /// Hex SHA-256 of both pads.
    pub fingerprint: String,
    /// Its end, in Unix seconds.
    pub not_after: Option<i64>,
}

/// A secret in the vault, without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretState {
    /// No such secret.
    Absent,
    /// Deleted, not purged.
    SoftDeleted {
        /// UID in its tag, if it is tagged as ours.
        owner: Option<String>,
    },
    /// It exists.
    Live {
        /// UID in its tag, if it is tagged as ours.
        owner: Option<String>,
        /// What it holds.
        content: SecretContent,
    },
}

/// What a secret holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretContent {
    /// The URI that the operator would write, with a password of the shape that it generates.
    Login,
    /// A context key: hex SHA-256 of both pads.
    ContextKey {
        /// The fingerprint, comparable with [`KeyRow::fingerprint`].
        fingerprint: String,
    },
    /// A disabled version, which nobody can read.
    Disabled,
    /// Anything else.
    Unusable,
}
