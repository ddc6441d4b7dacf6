//! The status of a `RetailTenant`: what the operator writes and the gateway reads.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::credentials::Slot;

/// What the operator last found and did.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetailTenantStatus {
    /// `metadata.generation` that the status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// What holds now. `Ready`: the tenant is served as the spec asks. `DatabaseReady`: logins, rows and context keys are
    /// in place. `SecretsReady`: the credentials are in Key Vault and work. `PolicyVerified`: the database's fence is as
    /// shipped; where it is False, the gateway serves nobody from it. `Drifted`: something differs from the spec and is
    /// not repaired. `Suspended`: the operator does nothing, because `spec.suspend` is set. `reason` is one word of a closed
    /// list, `message` says what to do next.
    #[serde(default)]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// Stores behind the fence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stores: Option<i32>,

    /// Principal rules in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principals: Option<i32>,

    /// The credentials that the gateway uses. Absent until the tenant has been Ready once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,

    /// The rotation that is under way. Recorded before its first step, so that whoever comes after a crash goes on with
    /// it; gone with the step to the new credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<RotationInProgress>,

    /// The last step to new credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_rotation: Option<LastRotation>,

    /// The last ten times that something was found other than the operator left it, or was taken over; the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub drift_history: Vec<DriftRecord>,
}

/// Most entries of `status.driftHistory`.
pub const DRIFT_HISTORY_MAX: usize = 10;

/// Something that was found other than it should be.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DriftRecord {
    /// When it was found.
    pub time: Time,
    /// What came of it.
    pub outcome: DriftOutcome,
    /// What was found, each as `object: what is done about it`. Values of secrets do not stand here.
    #[schemars(length(max = 20), inner(length(max = 256)))]
    pub changes: Vec<String>,
}

/// What came of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum DriftOutcome {
    /// It was repaired.
    Mended,
    /// It was reported only, because of `mode: Observe`.
    Reported,
    /// It could not be repaired; the condition `Ready` says why.
    Failed,
    /// A role, a secret or the tenant's rows were taken over, because of `adoptionPolicy: Adopt`.
    Adopted,
}

/// Where a rotation under way leads.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RotationInProgress {
    /// The login slot that takes over.
    pub slot: Slot,
    /// The key id that takes over.
    #[schemars(range(min = 1, max = 999_999))]
    pub kid: u32,
    /// Value of the annotation that asked for it; absent where the credentials' age did and there was no annotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub annotation: Option<String>,
    /// When it began.
    pub started_at: Time,
}

/// A rotation that has led to new credentials.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastRotation {
    /// Value of the annotation `retail.storefence.dev/rotate` that is handled; another one asks for a new rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub annotation: Option<String>,
    /// When the new credentials came into force.
    pub time: Time,
}

/// Which credentials are in force; the values are in Key Vault.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// The login slot in use.
    pub active_slot: Slot,

    /// Key id that new contexts are signed with.
    #[schemars(range(min = 1, max = 999_999))]
    pub active_kid: u32,

    /// Login slots that have a secret.
    #[serde(default)]
    #[schemars(length(max = 2), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["slot"]))]
    pub slots: Vec<LoginSlot>,

    /// Context keys that the database accepts.
    #[serde(default)]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["kid"]))]
    pub context_keys: Vec<ContextKeyVersion>,
}

/// One login slot.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoginSlot {
    /// `a` or `b`.
    pub slot: Slot,
    /// PostgreSQL role.
    #[schemars(length(max = 63))]
    pub login: String,
    /// Key Vault secret.
    #[schemars(length(max = 127))]
    pub secret_name: String,
    /// Its version.
    #[schemars(length(max = 127))]
    pub secret_version: String,
    /// When the password was set.
    pub set_at: Time,
    /// When the slot is disabled, because the other one has taken over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retires_at: Option<Time>,
}

/// One context key.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContextKeyVersion {
    /// Key id.
    #[schemars(range(min = 1, max = 999_999))]
    pub kid: u32,
    /// Key Vault secret.
    #[schemars(length(max = 127))]
    pub secret_name: String,
    /// Its version.
    #[schemars(length(max = 127))]
    pub secret_version: String,
    /// When it was made.
    pub created_at: Time,
    /// Until when the database accepts it, because another one has taken over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Time>,
}
