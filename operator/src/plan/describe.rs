//! Steps as text for events, conditions and `status.driftHistory`, in the form `object: what is done about it`. Never
//! with the value of a secret.

use super::{
    action::{DatabaseAction, SecretAction},
    state::Attributes,
};

impl SecretAction {
    /// Name of the secret.
    #[must_use]
    pub fn subject(&self) -> &str {
        match self {
            Self::Recover { name }
            | Self::WriteLogin { name, .. }
            | Self::WriteContextKey { name, .. }
            | Self::Retire { name, .. }
            | Self::Tag { name } => name,
        }
    }

    /// The step as text.
    #[must_use]
    pub fn describe(&self) -> String {
        let step = match self {
            Self::Recover { .. } => "recover it from deletion",
            Self::WriteLogin { .. } => "write it with a new password",
            Self::WriteContextKey { .. } => "write it with a new key",
            Self::Retire { .. } => "tag it and disable it",
            Self::Tag { .. } => "tag it",
        };
        format!("secret {}: {step}", self.subject())
    }
}

impl DatabaseAction {
    /// The role that the step changes, if it changes one.
    #[must_use]
    pub fn role(&self) -> Option<&str> {
        match self {
            Self::CreateRole { role, .. }
            | Self::AlterRole { role, .. }
            | Self::CommentRole { role }
            | Self::SetRoleSetting { role, .. }
            | Self::ResetRoleSetting { role, .. }
            | Self::ResetDatabaseSettings { role, .. }
            | Self::RevokeMembership { role, .. }
            | Self::RevokeMember { role, .. }
            | Self::RevokeGrant { role, .. }
            | Self::GrantLoginGroup { role }
            | Self::SetPassword { role, .. }
            | Self::ForgetPassword { role } => Some(role),
            _ => None,
        }
    }

    /// The step as text.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::InsertTenant { .. } => "retail.tenants: add the tenant's row".to_owned(),
            Self::RenameTenant { display_name } => format!("retail.tenants: set display_name to '{display_name}'"),
            Self::InsertFence => "fence.tenants: add the tenant's row".to_owned(),
            Self::ClaimFence | Self::AdoptFence { .. } => "fence.tenants: set owner_uid to this object's".to_owned(),
            Self::EnableFence => "fence.tenants: set enabled".to_owned(),
            Self::VacateRetailStore { id, name } => format!("retail.stores {id}: rename it to '{name}'"),
            Self::InsertRetailStore { id, name, .. } => format!("retail.stores {id}: add store '{name}'"),
            Self::RenameRetailStore { id, name, .. } => format!("retail.stores {id}: set the names of '{name}'"),
            Self::RemoveFenceStore { id } => format!("fence.tenant_stores {id}: remove it"),
            Self::InsertFenceStore { id, name } => format!("fence.tenant_stores {id}: add store '{name}'"),
            Self::VacateFenceStore { id, name } | Self::RenameFenceStore { id, name } => {
                format!("fence.tenant_stores {id}: rename it to '{name}'")
            }
            Self::RemoveLogin { role } => format!("fence.logins {role}: remove it"),
            Self::InsertLogin { role, slot } => format!("fence.logins {role}: add it as slot {slot}"),
            Self::SetContextKey { kid, secret } => format!("fence.context_keys {kid}: set it from secret {secret}"),
            Self::SetKeyEnd { kid, not_after: None } => format!("fence.context_keys {kid}: take its end away"),
            Self::SetKeyEnd { kid, not_after: Some(_) } => format!("fence.context_keys {kid}: set its end"),
            Self::RemoveContextKey { kid } => format!("fence.context_keys {kid}: remove it"),
            _ => format!("role {}: {}", self.role().unwrap_or_default(), self.on_role()),
        }
    }

    fn on_role(&self) -> String {
        match self {
            Self::CreateRole { .. } => "create it".to_owned(),
            Self::AlterRole { from, to, connection_limit, .. } => {
                let mut options: Vec<String> = from.changes_to(to).into_iter().map(str::to_owned).collect();
                options.extend(connection_limit.map(|limit| format!("CONNECTION LIMIT {limit}")));
                format!("set {}", options.join(" "))
            }
            Self::CommentRole { .. } => "set the comment that marks its owner".to_owned(),
            Self::SetRoleSetting { name, value, .. } => format!("set {name} to {value}"),
            Self::ResetRoleSetting { name, .. } => format!("reset {name}"),
            Self::ResetDatabaseSettings { database, .. } => format!("reset its settings in database {database}"),
            Self::RevokeMembership { membership, .. } => format!("revoke its membership in {}", membership.group),
            Self::RevokeMember { member, .. } => format!("revoke the membership of {}", member.name),
            Self::RevokeGrant { grant, .. } => format!("revoke {grant}"),
            Self::GrantLoginGroup { .. } => "make it a member of fence_login".to_owned(),
            Self::SetPassword { .. } => "set the password that Key Vault holds".to_owned(),
            Self::ForgetPassword { .. } => "take its password away".to_owned(),
            // The others are not about roles.
            _ => String::new(),
        }
    }
}

impl Attributes {
    /// The options of `ALTER ROLE` that lead from `self` to `to`.
    #[must_use]
    pub fn changes_to(&self, to: &Self) -> Vec<&'static str> {
        let pairs = [
            (self.login, to.login, "LOGIN", "NOLOGIN"),
            (self.inherit, to.inherit, "INHERIT", "NOINHERIT"),
            (self.superuser, to.superuser, "SUPERUSER", "NOSUPERUSER"),
            (self.createdb, to.createdb, "CREATEDB", "NOCREATEDB"),
            (self.createrole, to.createrole, "CREATEROLE", "NOCREATEROLE"),
            (self.replication, to.replication, "REPLICATION", "NOREPLICATION"),
            (self.bypassrls, to.bypassrls, "BYPASSRLS", "NOBYPASSRLS"),
            (self.expires, to.expires, "VALID UNTIL", "VALID UNTIL 'infinity'"),
        ];
        pairs
            .into_iter()
            .filter(|(now, then, ..)| now != then)
            .map(|(_, then, on, off)| if then { on } else { off })
            .collect()
    }
}
