//! The `RetailTenant` custom resource, `retail.storefence.dev/v1alpha1`.
//!
//! The schema and its CEL rules are the first check; every message is written for the person at `kubectl apply`.
//!
//! A real API server estimates what a rule costs from the schema's maxima, and counts it when it runs. A definition whose
//! estimate is over budget is refused, and so is an object whose rules run over it. So each rule stays below half of the
//! budget at the largest object that the schema admits; what does not fit in there has a limit in the rule itself, and
//! [`TenantRules::compile`](crate::TenantRules::compile) checks all of it.

mod limits;
mod policy;
mod schema;
mod status;
mod tools;

use std::{fmt, time::Duration};

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use limits::{GatewayLimits, Rotation};
pub use policy::{AdoptionPolicy, DeletionPolicy, Mode};
pub use schema::crd;
pub use status::{
    ContextKeyVersion, Credentials, DRIFT_HISTORY_MAX, DriftOutcome, DriftRecord, LastRotation, LoginSlot,
    RetailTenantStatus, RotationInProgress,
};
pub use tools::ToolName;

/// API group.
pub const GROUP: &str = "retail.storefence.dev";
/// Finalizer that lets the operator clean up before an object goes.
pub const FINALIZER: &str = "retail.storefence.dev/fence";
/// Annotation that asks for new credentials at once: any new value.
pub const ROTATE_ANNOTATION: &str = "retail.storefence.dev/rotate";
/// Most stores of one tenant.
pub const STORES_MAX: usize = 500;
/// Most principal rules of one tenant.
pub const PRINCIPALS_MAX: usize = 64;
/// Most bytes of all names in `spec.principals[].stores` together. An object has to fit into the 1.5 MiB that etcd takes in
/// one request, with the server's own records of who set which field.
pub const RULES_BYTES_MAX: usize = 600_000;
/// Most bytes of the stores' names and display names together, for the same reason.
pub const STORES_BYTES_MAX: usize = 150_000;
/// Longest name of a store, in characters.
pub const STORE_NAME_MAX: usize = 63;
/// Shortest `rotation.period`: each rotation leaves a version of two secrets in the Key Vault for good.
pub const ROTATION_PERIOD_MIN: Duration = Duration::from_secs(3600);
/// Longest `gateway.statementTimeout`.
pub const STATEMENT_TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Longest `gateway.cacheTtl`.
pub const CACHE_TTL_MAX: Duration = Duration::from_secs(3600);

/// Claims that a rule may not name, with what to use instead. The first five are changeable or reusable (Microsoft:
/// "never use these for authorization"); the rest have fields of their own that know their pitfalls.
pub const UNTRUSTED_CLAIMS: [(&str, &str); 9] = [
    ("upn", "it can be changed or reused; use entraUser with the object ID"),
    ("unique_name", "it can be changed or reused; use entraUser with the object ID"),
    ("preferred_username", "it can be changed or reused; use entraUser with the object ID"),
    ("email", "it can be changed or reused; use entraUser with the object ID"),
    ("name", "it can be changed or reused; use entraUser with the object ID"),
    ("groups", "use entraGroup, which knows about groups overage"),
    ("roles", "use appRole"),
    ("oid", "use entraUser"),
    ("scp", "every caller has it"),
];

const GUID: &str = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$";
/// Letters, digits and combining marks of every script; no space at either end. RE2 and `regex` read it alike.
const NAME: &str = r"^[\p{L}\p{N}]([\p{L}\p{N}\p{M} ._&'-]{0,61}[\p{L}\p{N}\p{M}._&'-])?$";
const DNS_LABEL: &str = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";
const CLAIM_NAME: &str = r"^[A-Za-z_][A-Za-z0-9_.:/-]{0,127}$";

/// One retail chain: its stores, who answers for which of them, and where its data and secrets are.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "retail.storefence.dev",
    version = "v1alpha1",
    kind = "RetailTenant",
    namespaced,
    shortname = "rt",
    category = "storefence",
    status = "RetailTenantStatus",
    derive = "PartialEq",
    doc = "One retail chain: its stores, who answers for which of them, and where its data and secrets are.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        description = "Whether the tenant is served",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Stores", type_ = "integer", json_path = ".status.stores"),
    printcolumn(name = "Principals", type_ = "integer", json_path = ".status.principals"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        description = "Why the tenant is or is not ready",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
// Pairs of stores: `in` costs one, `==` the length of both texts.
#[x_kube(validation = Rule::new("self.stores.size() > 150 || self.stores.all(s, self.stores.exists_one(t, s.id in [t.id]))")
    .message("spec.stores: two stores have the same id"))]
// The first 20 names of each rule: the server estimates with what a list may hold, and 64 rules may each name 500 of 500
// stores, which is beyond any budget.
#[x_kube(validation = Rule::new("self.stores.size() * self.principals.size() > 10000 || self.principals.all(p, sets.contains(self.stores.map(s, s.name), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19].filter(i, i < p.stores.size()).map(i, p.stores[i])))")
    .message("spec.principals[].stores: every entry must be the name of a store in spec.stores"))]
#[x_kube(validation = Rule::new("self.principals.map(p, bytes(p.stores.join('')).size()).sum() <= 600000")
    .message("spec.principals[].stores: all names together must have at most 600000 bytes, so that etcd can hold the object; give rules for the whole tenant the role HeadOffice, or shorten the stores' names"))]
#[x_kube(validation = Rule::new("self.stores.map(s, bytes(s.name).size() + (has(s.displayName) ? bytes(s.displayName).size() : 0)).sum() <= 150000")
    .message("spec.stores: names and display names together must have at most 150000 bytes, so that etcd can hold the object"))]
pub struct RetailTenantSpec {
    /// Identifier of the tenant, unique in the cluster and unchangeable. It stands in URLs and secret names.
    #[schemars(length(min = 1, max = 40), regex(pattern = "^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("tenantId cannot be changed; delete the RetailTenant and create another"))]
    pub tenant_id: String,

    /// Name of the tenant for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200))]
    pub display_name: Option<String>,

    /// Where the tenant's people sign in.
    pub entra: Entra,

    /// The database that holds the tenant's rows; names a connection in the operator's configuration. Unchangeable.
    #[x_kube(validation = Rule::new("self == oldSelf").message("databaseRef cannot be changed; delete the RetailTenant and create it again"))]
    pub database_ref: ConnectionRef,

    /// The Key Vault that holds the tenant's credentials; names a connection in the configuration of operator and
    /// gateway. Unchangeable.
    #[x_kube(validation = Rule::new("self == oldSelf").message("keyVaultRef cannot be changed; delete the RetailTenant and create it again"))]
    pub key_vault_ref: ConnectionRef,

    /// The tenant's stores, 1 to 500.
    #[schemars(length(min = 1, max = 500), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub stores: Vec<Store>,

    /// Who sees what: a token gets the union of all rules that match it, and nothing if none does.
    #[serde(default)]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub principals: Vec<PrincipalRule>,

    /// Limits that the gateway keeps for this tenant.
    #[serde(default)]
    pub gateway: GatewayLimits,

    /// When credentials are replaced. The annotation `retail.storefence.dev/rotate` with any new value asks for it at
    /// once.
    #[serde(default)]
    pub rotation: Rotation,

    /// What the operator does about differences between this object and what database and Key Vault hold: `Enforce`
    /// repairs them, `Observe` only reports them in the condition `Drifted` and in `status.driftHistory`, and writes to
    /// neither.
    #[serde(default)]
    pub mode: Mode,

    /// Stops the operator's work on this tenant: nothing is read, written, rotated, or cleaned up at deletion, until it is
    /// `false` again. The gateway goes on serving with what is in force.
    #[serde(default)]
    pub suspend: bool,

    /// What happens to roles and secrets that are there already under the names that this tenant needs and are not marked
    /// as this object's: `Never` refuses to touch them, `Adopt` checks them and takes them over.
    #[serde(default)]
    pub adoption_policy: AdoptionPolicy,

    /// What happens when this object is deleted. `Revoke`: logins are disabled, their sessions ended, context keys
    /// removed and secret versions disabled; roles, secrets and the mapping of stores stay. `Retain`: nothing is touched.
    /// `Delete`: as `Revoke`, then the logins are dropped, the secrets deleted and the tenant's rows in schema `fence`
    /// removed. The tenant's data, all rows of schema `retail`, stays in any case.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// The Microsoft Entra ID side of a tenant.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entra {
    /// Directory (tenant) ID whose tokens are accepted, a lower-case GUID.
    #[schemars(length(max = 36), regex(pattern = GUID))]
    #[x_kube(validation = Rule::new("self != '9188040d-6c67-4c5b-b112-36a304b66dad'")
        .message("this is the directory of personal Microsoft accounts; name the tenant's own directory"))]
    pub tenant_id: String,
}

/// The name of a connection in the configuration of operator and gateway.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionRef {
    /// Name as it stands in the configuration.
    #[schemars(length(min = 1, max = 63), regex(pattern = DNS_LABEL))]
    pub name: String,
}

/// One shop.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Store {
    /// Name, unique in the tenant, of letters and digits of any script, spaces, `.`, `_`, `&`, `'` and `-`. Principal rules and
    /// claims refer to it. Names are compared in Unicode's form NFC, and two that look alike are refused.
    #[schemars(length(min = 1, max = 63), regex(pattern = NAME))]
    #[x_kube(validation = Rule::new("!self.matches('^[0-9A-Fa-f]{8}-([0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}$')")
        .message("a store's name must not be a UUID"))]
    pub name: String,

    /// The `store_id` of its rows, a lower-case UUID, unique in the database.
    #[schemars(length(max = 36), regex(pattern = GUID))]
    pub id: String,

    /// Name for people; the name where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200))]
    pub display_name: Option<String>,
}

/// Access level. The order is the order of reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Role {
    /// Answers for one or a few stores.
    StoreManager,
    /// Answers for a list of stores.
    RegionalManager,
    /// Sees all stores of the tenant.
    HeadOffice,
}

impl Role {
    /// The role as it stands in YAML.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::StoreManager => "StoreManager",
            Self::RegionalManager => "RegionalManager",
            Self::HeadOffice => "HeadOffice",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which token claim grants which role and stores.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.entraGroup), has(self.entraUser), has(self.entraApplication), has(self.appRole), has(self.claim), has(self.storesFromClaim)].filter(x, x).size() == 1")
    .message("exactly one of entraGroup, entraUser, entraApplication, appRole, claim and storesFromClaim is expected"))]
#[x_kube(validation = Rule::new("self.role != 'HeadOffice' || (self.stores.size() == 0 && !has(self.storesFromClaim))")
    .message("HeadOffice sees all stores: remove stores and storesFromClaim, or choose RegionalManager"))]
#[x_kube(validation = Rule::new("!has(self.storesFromClaim) || self.stores.size() == 0")
    .message("storesFromClaim names the stores: remove stores"))]
#[x_kube(validation = Rule::new("self.role == 'HeadOffice' || has(self.storesFromClaim) || self.stores.size() > 0")
    .message("StoreManager and RegionalManager need at least one entry in stores, or storesFromClaim"))]
pub struct PrincipalRule {
    /// Name of the rule, unique in the tenant; it stands in audit records.
    #[schemars(length(min = 1, max = 63), regex(pattern = DNS_LABEL))]
    pub name: String,

    /// Access level.
    pub role: Role,

    /// Object ID of an Entra group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 36), regex(pattern = GUID))]
    pub entra_group: Option<String>,

    /// Object ID (`oid`) of a user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 36), regex(pattern = GUID))]
    pub entra_user: Option<String>,

    /// Client ID of an application that calls for itself, without a user. Such app-only tokens match rules of this kind
    /// and no other, and tokens of users never match them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 36), regex(pattern = GUID))]
    pub entra_application: Option<String>,

    /// Value of an app role in the API's registration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 120))]
    pub app_role: Option<String>,

    /// A claim that is this value, or an array that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<ClaimMatch>,

    /// A claim that lists store names or IDs of this tenant, matched exactly; others grant nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = CLAIM_NAME))]
    #[x_kube(validation = Rule::new("!(self in ['upn', 'unique_name', 'preferred_username', 'email', 'name', 'groups', 'roles', 'oid', 'scp'])")
        .message("this claim cannot grant access: it can be changed or reused, or has a field of its own (entraUser, entraGroup, appRole)"))]
    pub stores_from_claim: Option<String>,

    /// Names of stores in `spec.stores`. Empty for `HeadOffice` and with `storesFromClaim`.
    #[serde(default)]
    // Atomic: as a set, the server would keep each name once more in `managedFields`.
    #[schemars(length(max = 500), inner(length(min = 1, max = 63)), extend("x-kubernetes-list-type" = "atomic"))]
    pub stores: Vec<String>,

    /// The tools that the rule grants, of those that read the tenant's rows; all of them where absent. A token may use the
    /// tools of all rules that match it, each over all of its stores. `whoami`, `list_stores` and `get_current_utc_date`
    /// are everybody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<ToolName>>", length(min = 1, max = 5), extend("x-kubernetes-list-type" = "set"))]
    pub tools: Option<Vec<String>>,
}

/// A claim and the value it must have.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimMatch {
    /// Name of the claim, taken literally.
    #[schemars(length(min = 1, max = 128), regex(pattern = CLAIM_NAME))]
    #[x_kube(validation = Rule::new("!(self in ['upn', 'unique_name', 'preferred_username', 'email', 'name', 'groups', 'roles', 'oid', 'scp'])")
        .message("this claim cannot grant access: it can be changed or reused, or has a field of its own (entraUser, entraGroup, appRole)"))]
    pub name: String,

    /// The exact value.
    #[schemars(length(min = 1, max = 256))]
    pub value: String,
}
