//! What a tenant should look like in database and vault, computed from its spec and the credentials in its status.

use std::{collections::BTreeMap, time::Duration};

use storefence_tenancy::{
    TenantId, TenantRules,
    credentials::{Slot, context_secret_name, database_secret_name, login_role_name},
    resource::Credentials,
    rules::StoreEntry,
};
use uuid::Uuid;

use super::rotation::{Pairs, Step};
use crate::roles::{creator_role_name, role_comment};

/// Key id of a new tenant's first context key.
const FIRST_KID: u32 = 1;

/// Longest idle time in an open transaction. The gateway's transactions last one round trip.
const IDLE_IN_TRANSACTION: &str = "30s";
/// Temporary files of one session. Set on the role, because a limit of the whole server would break index builds.
const TEMP_FILE_LIMIT: &str = "1GB";
/// Memory of one sort or hash. Hostile SQL can raise it: the server's own memory limit matters as well.
const WORK_MEM: &str = "16MB";
/// The statements are short: compiling them costs more than running them.
const JIT: &str = "off";
/// Sessions of one login where the spec names no limit: several gateway replicas, each with a pool.
pub const CONNECTION_LIMIT: i32 = 100;

/// The desired state of one tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    pub tenant_id: TenantId,
    /// UID of the `RetailTenant`.
    pub owner_uid: String,
    pub display_name: String,
    /// Stores by id.
    pub stores: BTreeMap<Uuid, StoreNames>,
    /// The role that creates the logins, where the administrator may act as it.
    pub creator: String,
    /// Login roles by slot: always both.
    pub roles: BTreeMap<Slot, DesiredRole>,
    /// Context keys that the database accepts: key id to name of the secret.
    pub keys: BTreeMap<u32, String>,
    /// Ends of the keys that have one, in Unix seconds.
    pub key_ends: BTreeMap<u32, i64>,
    /// The slot that the gateway uses.
    pub active_slot: Slot,
    /// The key id that the gateway signs with.
    pub active_kid: u32,
    /// Whether existing roles and secrets may be taken over.
    pub adopt: bool,
    /// Names of unused secrets that the next rotation will write. Empty unless the tenant is being taken over.
    pub leftovers: Vec<String>,
}

/// The names of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreNames {
    /// Unique in the tenant.
    pub name: String,
    pub display_name: String,
}

impl From<&StoreEntry> for StoreNames {
    fn from(store: &StoreEntry) -> Self {
        Self { name: store.name.to_string(), display_name: store.display_name.to_string() }
    }
}

/// One login role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredRole {
    /// Name in PostgreSQL.
    pub name: String,
    /// Whether it may log in, and has a password and a secret.
    pub login: bool,
    /// Key Vault secret with its URI.
    pub secret: String,
    /// Role settings by parameter.
    pub settings: BTreeMap<String, String>,
    /// `CONNECTION LIMIT`; none where whatever the role has stays.
    pub connection_limit: Option<i32>,
}

/// Settings that not every administrator may give to a role: set where the database permits it.
pub const PRIVILEGED_SETTINGS: [&str; 1] = ["temp_file_limit"];

/// What `Desired` is computed from.
pub struct Input<'a> {
    /// The compiled spec.
    pub rules: &'a TenantRules,
    /// `spec.displayName`.
    pub display_name: Option<&'a str>,
    /// `spec.gateway.statementTimeout`.
    pub statement_timeout: Duration,
    /// `spec.gateway.connectionLimit`.
    pub connection_limit: Option<u32>,
    /// `metadata.uid`.
    pub owner_uid: &'a str,
    /// `spec.adoptionPolicy` is `Adopt`.
    pub adopt: bool,
    /// `status.credentials`.
    pub credentials: Option<&'a Credentials>,
    /// The rotation's step.
    pub step: &'a Step,
    /// The database's salt of role names.
    pub role_salt: &'a [u8],
}

impl Desired {
    /// Computes the desired state.
    #[must_use]
    pub fn compute(input: &Input<'_>) -> Self {
        let Input {
            rules,
            display_name,
            statement_timeout,
            connection_limit,
            owner_uid,
            adopt,
            credentials,
            step,
            role_salt,
        } = input;
        let tenant_id = rules.tenant_id().clone();
        let active_slot = credentials.map_or(Slot::A, |credentials| credentials.active_slot);
        let active_kid = credentials.map_or(FIRST_KID, |credentials| credentials.active_kid);
        let first = || Pairs { slots: vec![active_slot], kids: vec![(active_kid, None)] };
        let pairs = credentials.map_or_else(first, |credentials| Pairs::at(step, credentials));
        let role = |slot: Slot| DesiredRole {
            name: login_role_name(role_salt, &tenant_id, slot),
            login: pairs.slots.contains(&slot),
            secret: database_secret_name(&tenant_id, slot),
            settings: settings(*statement_timeout),
            // The schema's maximum fits.
            connection_limit: connection_limit.and_then(|limit| i32::try_from(limit).ok()),
        };
        Self {
            owner_uid: (*owner_uid).to_owned(),
            display_name: display_name.map_or_else(|| tenant_id.to_string(), str::to_owned),
            stores: rules.stores().iter().map(|(id, store)| (*id, StoreNames::from(store))).collect(),
            creator: creator_role_name(&tenant_id),
            roles: Slot::ALL.into_iter().map(|slot| (slot, role(slot))).collect(),
            keys: pairs.kids.iter().map(|(kid, _)| (*kid, context_secret_name(&tenant_id, *kid))).collect(),
            key_ends: pairs.kids.iter().filter_map(|(kid, end)| Some((*kid, (*end)?.as_second()))).collect(),
            active_slot,
            active_kid,
            adopt: *adopt,
            leftovers: Vec::new(),
            tenant_id,
        }
    }

    /// The comment that marks a role as this object's.
    #[must_use]
    pub fn role_comment(&self) -> String {
        role_comment(&self.owner_uid)
    }

    /// Names of all secrets that a pass reads.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        let logins = self.roles.values().filter(|role| role.login).map(|role| role.secret.as_str());
        logins.chain(self.keys.values().map(String::as_str)).chain(self.leftovers.iter().map(String::as_str))
    }

    /// The same tenant without some stores.
    #[must_use]
    pub fn without(mut self, stores: &[(Uuid, String)]) -> Self {
        self.stores.retain(|id, _| !stores.iter().any(|(without, _)| without == id));
        self
    }
}

fn settings(statement_timeout: Duration) -> BTreeMap<String, String> {
    let timeout = format!("{}ms", statement_timeout.as_millis());
    [
        ("statement_timeout", timeout.as_str()),
        ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION),
        ("temp_file_limit", TEMP_FILE_LIMIT),
        ("work_mem", WORK_MEM),
        ("jit", JIT),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect()
}
