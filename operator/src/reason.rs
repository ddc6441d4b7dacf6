//! Why a pass ended as it did, and when it is repeated. Depends on nothing else in this crate.
//!
//! [`Reason`] is the closed list: the condition's reason, the event's reason and the metric's label are the same code.

use std::time::Duration;

/// The closed list of reasons of conditions, events and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// All is as the spec asks.
    Reconciled,
    /// New credentials take over, or the former ones still work.
    RotationInProgress,
    /// Something was changed behind the operator's back, or differs from the spec while the mode is Observe.
    DriftDetected,
    /// Such a difference was found and repaired.
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
    /// The database's administrator URL is in a Key Vault and cannot be read there.
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

    /// The reason with this code, as a condition carries it.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == code)
    }

    /// The code.
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

/// Which condition a failure belongs to besides `Ready`.
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
    /// The backend asked for a wait.
    Throttled(Option<Duration>),
    /// Until the spec or the environment changes: slow.
    Permanent,
    /// Somebody else works on it: retry soon, and leave the status alone.
    Contention,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_is_listed_once_and_is_a_kubernetes_reason() {
        let codes: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(codes.len(), Reason::ALL.len());
        assert!(codes.iter().all(|code| code.chars().all(|c| c.is_ascii_alphabetic())));
    }

    #[test]
    fn every_reason_is_documented_with_what_to_do() {
        let page = include_str!("../../docs/reference/conditions.md");
        let rows: BTreeSet<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once("` | ").map(|(code, _)| code))
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
