//! The `RetailTenant` custom resource, `retail.storefence.dev/v1alpha1`.
//!
//! The schema and its CEL rules are the first check; every message is written for the person at `kubectl apply`.

mod policy;
mod status;
mod tools;

use std::{fmt, time::Duration};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResource, CustomResourceExt, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use policy::{AdoptionPolicy, DeletionPolicy, Mode};
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
const NAME: &str = r"^[A-Za-z0-9][A-Za-z0-9 ._&'-]{0,62}$";
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
#[x_kube(validation = Rule::new("self.stores.all(s, self.stores.exists_one(t, t.id == s.id))")
    .message("spec.stores: two stores have the same id"))]
#[x_kube(validation = Rule::new("self.principals.all(p, sets.contains(self.stores.map(s, s.name), p.stores))")
    .message("spec.principals[].stores: every entry must be the name of a store in spec.stores"))]
pub struct RetailTenantSpec {
    /// Identifier of the chain, unique in the cluster and unchangeable. It stands in URLs and secret names.
    #[schemars(length(min = 1, max = 40), regex(pattern = "^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("tenantId cannot be changed; delete the RetailTenant and create another"))]
    pub tenant_id: String,

    /// Name of the chain for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200))]
    pub display_name: Option<String>,

    /// Where the chain's people sign in.
    pub entra: Entra,

    /// The database that holds the chain's rows; names a connection in the operator's configuration. Unchangeable.
    #[x_kube(validation = Rule::new("self == oldSelf").message("databaseRef cannot be changed; delete the RetailTenant and create it again"))]
    pub database_ref: ConnectionRef,

    /// The Key Vault that holds the chain's credentials; names a connection in the configuration of operator and
    /// gateway. Unchangeable.
    #[x_kube(validation = Rule::new("self == oldSelf").message("keyVaultRef cannot be changed; delete the RetailTenant and create it again"))]
    pub key_vault_ref: ConnectionRef,

    /// The chain's stores, 1 to 500.
    #[schemars(length(min = 1, max = 500), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub stores: Vec<Store>,

    /// Who sees what: a token gets the union of all rules that match it, and nothing if none does.
    #[serde(default)]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub principals: Vec<PrincipalRule>,

    /// Limits that the gateway keeps for this chain.
    #[serde(default)]
    pub gateway: GatewayLimits,

    /// When credentials are replaced. The annotation `retail.storefence.dev/rotate` with any new value asks for it at
    /// once.
    #[serde(default)]
    pub rotation: Rotation,

    /// What the operator does about differences between this object and what database and Key Vault hold: `Enforce`
    /// mends them, `Observe` only reports them in the condition `Drifted` and in `status.driftHistory`, and writes to
    /// neither.
    #[serde(default)]
    pub mode: Mode,

    /// Stops the operator's work on this chain: nothing is read, written, rotated, or cleaned up at deletion, until it is
    /// `false` again. The gateway goes on serving with what is in force.
    #[serde(default)]
    pub suspend: bool,

    /// What happens to roles and secrets that are there already under the names that this chain needs and are not marked
    /// as this object's: `Never` refuses to touch them, `Adopt` checks them and takes them over.
    #[serde(default)]
    pub adoption_policy: AdoptionPolicy,

    /// What happens when this object is deleted. `Revoke`: logins are disabled, their sessions ended, context keys
    /// removed and secret versions disabled; roles, secrets and the mapping of stores stay. `Retain`: nothing is touched.
    /// `Delete`: as `Revoke`, then the logins are dropped, the secrets deleted and the chain's rows in schema `fence`
    /// removed. The chain's data, all rows of schema `retail`, stays in any case.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// The Microsoft Entra ID side of a chain.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entra {
    /// Directory (tenant) ID whose tokens are accepted, a lower-case GUID.
    #[schemars(length(max = 36), regex(pattern = GUID))]
    #[x_kube(validation = Rule::new("self != '9188040d-6c67-4c5b-b112-36a304b66dad'")
        .message("this is the directory of personal Microsoft accounts; name the chain's own directory"))]
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
    /// Name, unique in the tenant; principal rules and claims refer to it.
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
    /// Sees all stores of the chain.
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
    #[schemars(length(max = 500), inner(length(max = 63)), extend("x-kubernetes-list-type" = "set"))]
    pub stores: Vec<String>,

    /// The tools that the rule grants, of those that read the chain's rows; all of them where absent. A token may use the
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

/// Limits that the gateway keeps for one tenant.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayLimits {
    /// Most rows of an answer; more are cut and `truncated` says so.
    #[serde(default = "default_max_rows")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_rows: u32,

    /// Most bytes of an answer's rows as JSON; more are cut and `truncated` says so.
    #[serde(default = "default_max_result_bytes")]
    #[schemars(range(min = 1024, max = 67_108_864))]
    pub max_result_bytes: u32,

    /// Longest run of one statement, `100ms` to `60s`.
    #[serde(default = "default_statement_timeout")]
    #[schemars(length(max = 16), regex(pattern = "^[0-9]{1,5}(ms|s)$"))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('100ms') && duration(self) <= duration('60s')")
        .message("statementTimeout must be 100ms to 60s"))]
    pub statement_timeout: String,

    /// Most tool calls of one principal in a minute, per gateway replica; unlimited where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests_per_minute: Option<u32>,

    /// Most tool calls of one principal at a time, per gateway replica.
    #[serde(default = "default_concurrent_calls")]
    #[schemars(range(min = 1, max = 10_000))]
    pub concurrent_calls: u32,

    /// Most tool calls of the whole chain in a minute, per gateway replica; unlimited where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub tenant_requests_per_minute: Option<u32>,

    /// Most tool calls of the whole chain at a time, per gateway replica. Fewer statements than that run at once, since
    /// each needs a database connection; the rest wait for one.
    #[serde(default = "default_tenant_concurrent_calls")]
    #[schemars(range(min = 1, max = 100_000))]
    pub tenant_concurrent_calls: u32,

    /// How long an answer may be given again to callers of the same scope, `1s` to `1h`; no answer is kept where absent.
    /// Answers are then up to that old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 24), regex(pattern = "^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,8}s)?$"))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('1h')")
        .message("cacheTtl must be 1s to 1h"))]
    pub cache_ttl: Option<String>,
}

impl Default for GatewayLimits {
    fn default() -> Self {
        Self {
            max_rows: default_max_rows(),
            max_result_bytes: default_max_result_bytes(),
            statement_timeout: default_statement_timeout(),
            requests_per_minute: None,
            concurrent_calls: default_concurrent_calls(),
            tenant_requests_per_minute: None,
            tenant_concurrent_calls: default_tenant_concurrent_calls(),
            cache_ttl: None,
        }
    }
}

const fn default_concurrent_calls() -> u32 {
    64
}

const fn default_tenant_concurrent_calls() -> u32 {
    256
}

const fn default_max_rows() -> u32 {
    500
}

const fn default_max_result_bytes() -> u32 {
    1_048_576
}

fn default_statement_timeout() -> String {
    "5s".to_owned()
}

impl GatewayLimits {
    /// `statementTimeout` as a duration. A text that the schema would refuse counts as the default, 5 s, and never as
    /// more than [`STATEMENT_TIMEOUT_MAX`].
    #[must_use]
    pub fn timeout(&self) -> Duration {
        let text = self.statement_timeout.as_str();
        let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        let parsed = match (digits.parse::<u64>(), unit) {
            (Ok(n), "ms") => Duration::from_millis(n),
            (Ok(n), "s") => Duration::from_secs(n),
            _ => Duration::from_secs(5),
        };
        parsed.clamp(Duration::from_millis(100), STATEMENT_TIMEOUT_MAX)
    }

    /// `cacheTtl`; a text that the schema would refuse counts as absent.
    #[must_use]
    pub fn cache_ttl(&self) -> Option<Duration> {
        self.cache_ttl.as_deref().and_then(hours_minutes_seconds).filter(|ttl| *ttl <= CACHE_TTL_MAX)
    }
}

/// When the credentials of one tenant are replaced.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.overlap) >= duration('1s') && duration(self.overlap) < duration(self.period)")
    .message("rotation: overlap must be at least 1s and shorter than period"))]
pub struct Rotation {
    /// Age at which credentials are replaced, in hours, minutes and seconds: `720h`, `36h30m`.
    #[serde(default = "default_rotation_period")]
    #[schemars(length(min = 2, max = 24), regex(pattern = "^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,8}s)?$"))]
    pub period: String,

    /// How long the former credentials stay valid beside the new ones, for calls that began with them.
    #[serde(default = "default_rotation_overlap")]
    #[schemars(length(min = 2, max = 24), regex(pattern = "^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,8}s)?$"))]
    pub overlap: String,
}

fn default_rotation_period() -> String {
    "720h".to_owned()
}

fn default_rotation_overlap() -> String {
    "24h".to_owned()
}

impl Default for Rotation {
    fn default() -> Self {
        Self { period: default_rotation_period(), overlap: default_rotation_overlap() }
    }
}

impl Rotation {
    /// `period`; a text that the schema would refuse counts as the default.
    #[must_use]
    pub fn period(&self) -> Duration {
        hours_minutes_seconds(&self.period).unwrap_or(Duration::from_secs(720 * 3600))
    }

    /// `overlap`; a text that the schema would refuse counts as the default.
    #[must_use]
    pub fn overlap(&self) -> Duration {
        hours_minutes_seconds(&self.overlap).unwrap_or(Duration::from_secs(24 * 3600))
    }
}

/// Reads the hours, minutes and seconds of Go's durations, each at most once and in this order; not zero.
fn hours_minutes_seconds(text: &str) -> Option<Duration> {
    let (mut rest, mut total) = (text, 0_u64);
    for (unit, seconds) in [('h', 3600), ('m', 60), ('s', 1)] {
        if let Some((digits, after)) = rest.split_once(unit) {
            if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
                return None;
            }
            total = total.checked_add(digits.parse::<u64>().ok()?.checked_mul(seconds)?)?;
            rest = after;
        }
    }
    (rest.is_empty() && total > 0).then(|| Duration::from_secs(total))
}

/// The CustomResourceDefinition as it stands in `crds/`.
///
/// Differs from the derived one in that no optional field is `nullable`: a null would count as given in the CEL rules
/// and as absent in Rust. The API server drops or refuses nulls instead.
#[must_use]
#[allow(clippy::missing_panics_doc)] // what the derive makes is a CRD, with or without `nullable`
pub fn crd() -> CustomResourceDefinition {
    let mut crd = serde_json::to_value(RetailTenant::crd()).expect("a CRD is JSON");
    strip_nullable(&mut crd);
    serde_json::from_value(crd).expect("still a CRD")
}

fn strip_nullable(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.get("nullable").is_some_and(Value::is_boolean) {
                map.remove("nullable");
            }
            map.values_mut().for_each(strip_nullable);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nullable),
        _ => {}
    }
}
