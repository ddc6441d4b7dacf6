//! The tenants that are served, from RetailTenants in the Kubernetes API or in a directory.

pub mod directory;
pub mod limits;
pub mod registry;
pub mod source;
pub mod watch;

use std::sync::Arc;

use storefence_tenancy::{
    TenantId, TenantRules,
    credentials::{Slot, context_secret_name, database_secret_name},
    resource::Credentials,
};

use self::limits::{Limits, Quotas};

/// The secrets in force. If the value changes, they have to be read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialsInForce {
    /// Login slot.
    pub slot: Slot,
    /// Version of its secret, if the status names it.
    pub slot_version: Option<Box<str>>,
    /// Key id.
    pub kid: u32,
    /// Version of its secret, if the status names it.
    pub key_version: Option<Box<str>>,
}

impl From<&Credentials> for CredentialsInForce {
    fn from(credentials: &Credentials) -> Self {
        let Credentials { active_slot, active_kid, slots, context_keys } = credentials;
        let slot = slots.iter().find(|slot| slot.slot == *active_slot);
        let key = context_keys.iter().find(|key| key.kid == *active_kid);
        Self {
            slot: *active_slot,
            slot_version: slot.map(|slot| slot.secret_version.as_str().into()),
            kid: *active_kid,
            key_version: key.map(|key| key.secret_version.as_str().into()),
        }
    }
}

/// A tenant as the gateway serves it.
#[derive(Clone, Debug, PartialEq)]
pub struct Tenant {
    /// Stores and principal rules.
    pub rules: Arc<TenantRules>,
    pub limits: Limits,
    /// Quotas: calls per minute and concurrent calls.
    pub quotas: Quotas,
    pub display_name: Arc<str>,
    /// Name of the database connection, for its trust roots.
    pub database: Arc<str>,
    /// Name of the vault that holds the secrets.
    pub vault: Arc<str>,
    /// Secrets in force.
    pub credentials: CredentialsInForce,
}

impl Tenant {
    #[must_use]
    pub fn id(&self) -> &TenantId {
        self.rules.tenant_id()
    }

    /// Name of the secret with the login's URI.
    #[must_use]
    pub fn database_secret(&self) -> String {
        database_secret_name(self.id(), self.credentials.slot)
    }

    /// Name of the secret with the context key.
    #[must_use]
    pub fn context_secret(&self) -> String {
        context_secret_name(self.id(), self.credentials.kid)
    }
}
