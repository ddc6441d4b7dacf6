//! Why a pass over a tenant did not end well, and what happens next.
//!
//! [`Reason`] is the closed list: the same word is the condition's reason, the event's reason and the metric's label.

use std::time::Duration;

use storefence_tenancy::rules::SpecProblem;

use crate::{database::DatabaseError, migrate::MigrateError};

/// The closed list of reasons of conditions, events and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// All is as the spec asks.
    Reconciled,
    /// New credentials take over, or the former ones still work.
    RotationInProgress,
    /// Something was changed behind the operator's back, or is not as the spec asks and only observed.
    DriftDetected,
    /// The same, and it was mended.
    DriftMended,
    /// Roles, secrets or rows that were there already were taken over.
    Adopted,
    /// `spec.suspend` is set.
    Suspended,
    /// Not yet looked at, because something before it failed.
    Pending,
    /// The spec cannot be used.
    InvalidSpec,
    /// Another `RetailTenant` has the tenantId.
    ConflictingTenant,
    /// Another tenant has the store.
    ConflictingStore,
    /// A role, or the tenant's row, belongs to somebody else.
    RoleExistsNotAdopted,
    /// The administrator may not do what is needed.
    InsufficientPrivileges,
    /// The configuration has no database of that name.
    DatabaseNotConfigured,
    /// The database's administrator stands in a Key Vault and cannot be read there.
    AdministratorUnknown,
    /// The database cannot be reached, or is not taking work.
    DatabaseUnreachable,
    /// The database answers and takes no writes.
    DatabaseReadOnly,
    /// The database answered with an error.
    DatabaseError,
    /// The migrations do not fit the database.
    MigrationFailed,
    /// The configuration has no Key Vault of that name.
    KeyVaultNotConfigured,
    /// The Key Vault cannot be reached, or is not taking work.
    KeyVaultUnreachable,
    /// The Key Vault refuses the operator.
    KeyVaultForbidden,
    /// The Key Vault asks to slow down.
    KeyVaultThrottled,
    /// The Key Vault answered with an error.
    KeyVaultError,
    /// A secret of that name is deleted but not purged.
    SecretSoftDeleted,
    /// A secret of that name belongs to somebody else.
    SecretNotOwned,
    /// Something depends on a login that is to be dropped.
    DependentObjects,
    /// The tenant's credentials do not do what they should.
    LoginProbeFailed,
    /// The fence itself is not as the migrations made it.
    FenceDeviation,
    /// Another operator works on the tenant.
    LockContention,
    /// The Kubernetes API failed.
    KubernetesError,
    /// A defect of the operator or of its host.
    InternalError,
}

impl Reason {
    /// All of them, for metrics that start at zero.
    pub const ALL: [Self; 31] = [
        Self::Reconciled,
        Self::RotationInProgress,
        Self::DriftDetected,
        Self::DriftMended,
        Self::Adopted,
        Self::Suspended,
        Self::Pending,
        Self::InvalidSpec,
        Self::ConflictingTenant,
        Self::ConflictingStore,
        Self::RoleExistsNotAdopted,
        Self::InsufficientPrivileges,
        Self::DatabaseNotConfigured,
        Self::AdministratorUnknown,
        Self::DatabaseUnreachable,
        Self::DatabaseReadOnly,
        Self::DatabaseError,
        Self::MigrationFailed,
        Self::KeyVaultNotConfigured,
        Self::KeyVaultUnreachable,
        Self::KeyVaultForbidden,
        Self::KeyVaultThrottled,
        Self::KeyVaultError,
        Self::SecretSoftDeleted,
        Self::SecretNotOwned,
        Self::DependentObjects,
        Self::LoginProbeFailed,
        Self::FenceDeviation,
        Self::LockContention,
        Self::KubernetesError,
        Self::InternalError,
    ];

    /// The reason of this word, as it stands in a condition.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }

    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reconciled => "Reconciled",
            Self::RotationInProgress => "RotationInProgress",
            Self::DriftDetected => "DriftDetected",
            Self::DriftMended => "DriftMended",
            Self::Adopted => "Adopted",
            Self::Suspended => "Suspended",
            Self::Pending => "Pending",
            Self::InvalidSpec => "InvalidSpec",
            Self::ConflictingTenant => "ConflictingTenant",
            Self::ConflictingStore => "ConflictingStore",
            Self::RoleExistsNotAdopted => "RoleExistsNotAdopted",
            Self::InsufficientPrivileges => "InsufficientPrivileges",
            Self::DatabaseNotConfigured => "DatabaseNotConfigured",
            Self::AdministratorUnknown => "AdministratorUnknown",
            Self::DatabaseUnreachable => "DatabaseUnreachable",
            Self::DatabaseReadOnly => "DatabaseReadOnly",
            Self::DatabaseError => "DatabaseError",
            Self::MigrationFailed => "MigrationFailed",
            Self::KeyVaultNotConfigured => "KeyVaultNotConfigured",
            Self::KeyVaultUnreachable => "KeyVaultUnreachable",
            Self::KeyVaultForbidden => "KeyVaultForbidden",
            Self::KeyVaultThrottled => "KeyVaultThrottled",
            Self::KeyVaultError => "KeyVaultError",
            Self::SecretSoftDeleted => "SecretSoftDeleted",
            Self::SecretNotOwned => "SecretNotOwned",
            Self::DependentObjects => "DependentObjects",
            Self::LoginProbeFailed => "LoginProbeFailed",
            Self::FenceDeviation => "FenceDeviation",
            Self::LockContention => "LockContention",
            Self::KubernetesError => "KubernetesError",
            Self::InternalError => "InternalError",
        }
    }
}

/// Which condition a failure speaks of besides `Ready`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// The spec, or other tenants: neither database nor vault.
    Spec,
    /// `DatabaseReady`.
    Database,
    /// `SecretsReady`.
    Secrets,
    /// `PolicyVerified`.
    Policy,
    /// The Kubernetes API, another operator, the operator itself: no condition.
    Elsewhere,
}

/// When to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Likely to pass: backoff with jitter.
    Transient,
    /// Told to wait.
    Throttled(Option<Duration>),
    /// Until the spec or the environment changes: slow.
    Permanent,
    /// Somebody else is at it: soon, without a word in the status.
    Contention,
}

/// What ended a pass.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The spec does not compile.
    #[error("{}; correct the RetailTenant and apply it again", join(.0))]
    InvalidSpec(Vec<SpecProblem>),
    /// The stored object does not even parse.
    #[error("the stored object cannot be read: {0}; apply it again with the current schema")]
    Malformed(String),
    /// Another `RetailTenant` has the tenantId.
    #[error(
        "tenantId '{tenant_id}' belongs to RetailTenant {owner}; choose another tenantId, or delete that one first: \
         this one then goes on by itself"
    )]
    ConflictingTenant {
        /// The identifier.
        tenant_id: String,
        /// `namespace/name` of the owner.
        owner: String,
    },
    /// Another tenant has the store.
    #[error(
        "store '{name}' has the id {store}, which belongs to tenant '{owner}' in this database; give the store an id of its \
         own: until then the tenant is served without it"
    )]
    ConflictingStore {
        /// Its name in the spec.
        name: String,
        /// The store's UUID.
        store: String,
        /// The other tenant's identifier.
        owner: String,
    },
    /// The tenant's rows are held by an object that is not in this cluster.
    #[error(
        "the database says that tenantId '{tenant_id}' belongs to the RetailTenant with UID {uid}, which is not in this \
         cluster; if no other cluster serves it, set spec.adoptionPolicy to Adopt to take it over"
    )]
    TenantNotAdopted {
        /// The identifier.
        tenant_id: String,
        /// The recorded owner.
        uid: String,
    },
    /// The object is deleted while the operator may touch nothing of it.
    #[error(
        "the object is to be deleted and spec.suspend is true: set it to false, and the deletion goes on by itself"
    )]
    SuspendedDeletion,
    /// A role of our name carries somebody else's mark.
    #[error(
        "role {role} exists and is not marked as this RetailTenant's: it is not touched; drop or rename it, or set \
         spec.adoptionPolicy to Adopt to take it over"
    )]
    RoleNotAdopted {
        /// The role.
        role: String,
    },
    /// A role of our name is more than a tenant's login may be.
    #[error(
        "role {role} cannot be adopted: {problem}; take that away from it, or drop or rename it: it is not touched"
    )]
    RoleNotAdoptable {
        /// The role.
        role: String,
        /// What it is.
        problem: String,
    },
    /// A login owns something, or was given something that the administrator cannot take away.
    #[error(
        "login {role} has more than a tenant's login may have: {what}; in each database concerned, give away what it owns \
         (REASSIGN OWNED BY {role} TO …) and take back what it was given (DROP OWNED BY {role})"
    )]
    LoginDependents {
        /// The login.
        role: String,
        /// The objects, in words.
        what: String,
    },
    /// A secret of our name carries somebody else's mark.
    #[error(
        "Key Vault secret {secret} exists and is not tagged as this RetailTenant's: it is not touched; delete or rename it, \
         or set spec.adoptionPolicy to Adopt to take it over"
    )]
    SecretNotOwned {
        /// The secret.
        secret: String,
    },
    /// A secret of our name is kept by something else, which would fight over it.
    #[error(
        "Key Vault secret {secret} cannot be adopted: its tag managed-by says '{manager}'; make that let go of it and \
         remove the tag: it is not touched"
    )]
    SecretManaged {
        /// The secret.
        secret: String,
        /// Whose it is.
        manager: String,
    },
    /// A secret of our name is deleted, and not ours to recover.
    #[error(
        "Key Vault secret {secret} is deleted but not purged, and was not a RetailTenant's; purge it, or set \
         spec.adoptionPolicy to Adopt to recover it and take it over"
    )]
    SecretSoftDeleted {
        /// The secret.
        secret: String,
    },
    /// No such database in the configuration.
    #[error("databaseRef '{0}' is not in the operator's configuration; add it under databases")]
    DatabaseNotConfigured(String),
    /// No such Key Vault in the configuration.
    #[error("keyVaultRef '{0}' is not in the operator's configuration; add it under keyVaults")]
    KeyVaultNotConfigured(String),
    /// The database, as administrator.
    #[error(transparent)]
    Database(#[from] crate::database::DatabaseError),
    /// A step that the database refused, while the others were taken.
    #[error("{step}: {source}{remedy}")]
    Unapplied {
        /// The step in words.
        step: String,
        /// PostgreSQL's words.
        source: crate::database::DatabaseError,
        /// Who can take it, and by which statement; empty where that is not known.
        remedy: String,
    },
    /// What a deleted object waits for is away, and may be gone for good.
    #[error(
        "{0}; the object stays until its access is ended there: if that is gone for good, set spec.deletionPolicy to Retain, \
         and the deletion goes on by itself"
    )]
    Finalizing(Box<Failure>),
    /// Nobody knows how to connect as the database's administrator.
    #[error(transparent)]
    Administrator(#[from] std::sync::Arc<crate::config::AdministratorError>),
    /// The Key Vault.
    #[error(transparent)]
    KeyVault(#[from] crate::vault::VaultError),
    /// The login does not do what it should.
    #[error(transparent)]
    Probe(#[from] crate::credentials::probe::ProbeError),
    /// The fence is not as the migrations made it.
    #[error("{}; run storefence-operator verify for all of it", summary(.0))]
    Fence(std::sync::Arc<[crate::verify::Deviation]>),
    /// The Kubernetes API.
    #[error("Kubernetes API: {0}")]
    Kubernetes(#[from] kube::Error),
    /// Somebody else holds the tenant's lock.
    #[error("another operator works on tenant '{0}'")]
    LockContention(String),
    /// No random numbers.
    #[error(transparent)]
    Randomness(#[from] crate::credentials::NoRandomness),
}

impl Failure {
    /// The step that was refused, in words.
    #[must_use]
    pub fn step(&self) -> Option<&str> {
        match self {
            Self::Unapplied { step, .. } => Some(step),
            _ => None,
        }
    }

    /// Another tenant has a store of the spec.
    #[must_use]
    pub fn conflicting_store(desired: &crate::reconcile::desired::Desired, id: uuid::Uuid, owner: String) -> Self {
        let name = desired.stores.get(&id).map(|store| store.name.clone()).unwrap_or_default();
        Self::ConflictingStore { name, store: id.to_string(), owner }
    }

    /// The word for conditions, events and metrics.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::InvalidSpec(_) | Self::Malformed(_) => Reason::InvalidSpec,
            Self::ConflictingTenant { .. } => Reason::ConflictingTenant,
            Self::ConflictingStore { .. } => Reason::ConflictingStore,
            Self::TenantNotAdopted { .. } | Self::RoleNotAdopted { .. } | Self::RoleNotAdoptable { .. } => {
                Reason::RoleExistsNotAdopted
            }
            Self::LoginDependents { .. } => Reason::DependentObjects,
            Self::SuspendedDeletion => Reason::Suspended,
            Self::SecretNotOwned { .. } | Self::SecretManaged { .. } => Reason::SecretNotOwned,
            Self::SecretSoftDeleted { .. } => Reason::SecretSoftDeleted,
            Self::DatabaseNotConfigured(_) => Reason::DatabaseNotConfigured,
            Self::KeyVaultNotConfigured(_) => Reason::KeyVaultNotConfigured,
            Self::Database(error) | Self::Unapplied { source: error, .. } => error.reason(),
            Self::Finalizing(failure) => failure.reason(),
            Self::Administrator(_) => Reason::AdministratorUnknown,
            Self::KeyVault(error) => error.reason(),
            Self::Probe(error) => error.reason(),
            Self::Fence(_) => Reason::FenceDeviation,
            Self::Kubernetes(_) => Reason::KubernetesError,
            Self::LockContention(_) => Reason::LockContention,
            Self::Randomness(_) => Reason::InternalError,
        }
    }

    /// Which condition it belongs to.
    #[must_use]
    pub fn area(&self) -> Area {
        match self {
            Self::InvalidSpec(_) | Self::Malformed(_) | Self::ConflictingTenant { .. } | Self::SuspendedDeletion => {
                Area::Spec
            }
            Self::ConflictingStore { .. }
            | Self::TenantNotAdopted { .. }
            | Self::RoleNotAdopted { .. }
            | Self::RoleNotAdoptable { .. }
            | Self::LoginDependents { .. }
            | Self::DatabaseNotConfigured(_)
            | Self::Database(_)
            | Self::Unapplied { .. }
            | Self::Administrator(_)
            | Self::Probe(_) => Area::Database,
            Self::Finalizing(failure) => failure.area(),
            Self::SecretNotOwned { .. }
            | Self::SecretManaged { .. }
            | Self::SecretSoftDeleted { .. }
            | Self::KeyVaultNotConfigured(_)
            | Self::KeyVault(_) => Area::Secrets,
            Self::Fence(_) => Area::Policy,
            Self::Kubernetes(_) | Self::LockContention(_) | Self::Randomness(_) => Area::Elsewhere,
        }
    }

    /// When to try again.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::KeyVault(error) => error.class(),
            Self::LockContention(_) => Class::Contention,
            Self::Finalizing(failure) => failure.class(),
            // Somebody reads, and will have read one day.
            Self::Database(DatabaseError::Migration { source: MigrateError::Locked(_), .. }) => Class::Transient,
            Self::Kubernetes(kube::Error::Api(status)) => match status.code {
                429 => {
                    let seconds = status.details.as_ref().map(|details| details.retry_after_seconds);
                    Class::Throttled(seconds.filter(|seconds| *seconds > 0).map(|s| Duration::from_secs(s.into())))
                }
                // RBAC is changed by people.
                401 | 403 => Class::Permanent,
                _ => Class::Transient,
            },
            _ => match self.reason() {
                Reason::LockContention => Class::Contention,
                Reason::DatabaseUnreachable
                | Reason::DatabaseReadOnly
                | Reason::AdministratorUnknown
                | Reason::DatabaseError
                | Reason::DependentObjects
                | Reason::LoginProbeFailed
                | Reason::FenceDeviation
                | Reason::KubernetesError
                | Reason::InternalError => Class::Transient,
                _ => Class::Permanent,
            },
        }
    }
}

/// The first deviations; a condition's message is not the place for all of them.
fn summary(deviations: &[crate::verify::Deviation]) -> String {
    let shown: Vec<String> = deviations.iter().take(3).map(ToString::to_string).collect();
    format!("the fence has {} deviation(s): {}", deviations.len(), shown.join(" | "))
}

/// The first problems: a large spec can have tens of thousands, and `storefence-operator validate` lists all of them.
fn join(problems: &[SpecProblem]) -> String {
    const SHOWN: usize = 8;
    let shown = problems.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join("; ");
    match problems.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_is_listed_once_and_is_a_kubernetes_reason() {
        let words: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
        assert!(words.iter().all(|word| word.chars().all(|c| c.is_ascii_alphabetic())));
    }

    #[test]
    fn every_reason_is_documented_with_what_to_do() {
        let page = include_str!("../../docs/reference/conditions.md");
        let rows: BTreeSet<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once("` | ").map(|(word, _)| word))
            .collect();
        for reason in Reason::ALL {
            assert!(
                rows.contains(reason.as_str()),
                "docs/reference/conditions.md does not explain {}",
                reason.as_str()
            );
        }
    }
}
