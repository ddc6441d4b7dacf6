//! Why a pass over a tenant failed: the errors of all backends, folded into one type at the edge that writes the status.

use std::{sync::Arc, time::Duration};

use storefence_tenancy::rules::SpecProblem;

use crate::{
    backends::BackendError,
    credentials::NoRandomness,
    database::{DatabaseError, apply::Unapplied, probe::ProbeError},
    migrate::MigrateError,
    plan::{problem::Problem, refusal::Refusal},
    reason::{Area, Class, Reason},
    vault::VaultError,
    verify::Deviation,
};

/// What ended a pass.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The spec does not compile.
    #[error("{}; correct the RetailTenant and apply it again", join(.0))]
    InvalidSpec(Vec<SpecProblem>),
    /// The stored object cannot be parsed.
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
    /// The object is deleted while it is suspended.
    #[error(
        "the object is to be deleted and spec.suspend is true: set it to false, and the deletion goes on by itself"
    )]
    SuspendedDeletion,
    /// A login owns something, or was given something that the administrator cannot take away.
    #[error(
        "login {role} has more than a tenant's login may have: {what}; in each database concerned, give away what it owns \
         (REASSIGN OWNED BY {role} TO …) and take back what it was given (DROP OWNED BY {role})"
    )]
    LoginDependents {
        /// The login.
        role: String,
        /// The objects.
        what: String,
    },
    /// Something belongs to somebody else.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No such database or Key Vault, or nobody knows how to connect to it.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The database, as administrator.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// A step that the database refused, while the others were taken.
    #[error(transparent)]
    Unapplied(#[from] Unapplied),
    /// A deleted object waits for a backend that may be gone for good.
    #[error(
        "{0}; the object stays until its access is ended there: if that is gone for good, set spec.deletionPolicy to Retain, \
         and the deletion goes on by itself"
    )]
    Finalizing(Box<Failure>),
    #[error(transparent)]
    KeyVault(#[from] VaultError),
    /// The login does not do what it should.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The fence is not as the migrations made it.
    #[error("{}; run storefence-operator verify for all of it", summary(.0))]
    Fence(Arc<[Deviation]>),
    /// The Kubernetes API.
    #[error("Kubernetes API: {0}")]
    Kubernetes(#[from] kube::Error),
    /// Another operator holds the tenant's lock.
    #[error("another operator works on tenant '{0}'")]
    LockContention(String),
    /// The operating system gave no random numbers.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
}

impl Failure {
    /// The code for conditions, events and metrics.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::InvalidSpec(_) | Self::Malformed(_) => Reason::InvalidSpec,
            Self::ConflictingTenant { .. } => Reason::ConflictingTenant,
            Self::Refused(refusal) => refusal.reason(),
            Self::LoginDependents { .. } => Reason::DependentObjects,
            Self::SuspendedDeletion => Reason::Suspended,
            Self::Backend(error) => error.reason(),
            Self::Database(error) | Self::Unapplied(Unapplied { source: error, .. }) => error.reason(),
            Self::Finalizing(failure) => failure.reason(),
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
            Self::Refused(refusal) => refusal.area(),
            Self::Backend(error) => error.area(),
            Self::LoginDependents { .. } | Self::Database(_) | Self::Unapplied(_) | Self::Probe(_) => Area::Database,
            Self::Finalizing(failure) => failure.area(),
            Self::KeyVault(_) => Area::Secrets,
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
            // The lock is a reader's, who will be done one day.
            Self::Database(DatabaseError::Migration { source: MigrateError::Locked(_), .. }) => Class::Transient,
            Self::Kubernetes(kube::Error::Api(status)) => match status.code {
                429 => {
                    let seconds = status.details.as_ref().map(|details| details.retry_after_seconds);
                    Class::Throttled(seconds.filter(|seconds| *seconds > 0).map(|s| Duration::from_secs(s.into())))
                }
                // People change RBAC: not within seconds.
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

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let (reason, area, class) = (failure.reason(), failure.area(), failure.class());
        Self { reason, area, class, message: failure.to_string() }
    }
}

/// The first deviations: a condition's message has no room for all.
fn summary(deviations: &[Deviation]) -> String {
    let shown: Vec<String> = deviations.iter().take(3).map(ToString::to_string).collect();
    format!("the fence has {} deviation(s): {}", deviations.len(), shown.join(" | "))
}

/// The first problems: a large spec can have tens of thousands. `storefence-operator validate` lists them all.
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
    use super::*;

    #[test]
    fn a_failure_becomes_what_the_status_shows() {
        let of = |failure: Failure| {
            let Problem { reason, area, class, message } = failure.into();
            ((reason, area, class), message)
        };
        let (kind, message) = of(Failure::SuspendedDeletion);
        assert_eq!(kind, (Reason::Suspended, Area::Spec, Class::Permanent));
        assert!(message.contains("spec.suspend"), "{message}");
        let (kind, _) = of(Failure::LockContention("zava".to_owned()));
        assert_eq!(kind, (Reason::LockContention, Area::Elsewhere, Class::Contention));
        let missing = || BackendError::KeyVaultNotConfigured("main".to_owned());
        let (kind, message) = of(missing().into());
        assert_eq!(kind, (Reason::KeyVaultNotConfigured, Area::Secrets, Class::Permanent));
        let (waiting, longer) = of(Failure::Finalizing(Box::new(missing().into())));
        assert_eq!(waiting, kind);
        assert!(longer.starts_with(&message), "{longer}");
        let away = DatabaseError::Unreachable { place: "db:5432/retail".to_owned(), problem: "timeout".to_owned() };
        assert_eq!(of(away.into()).0, (Reason::DatabaseUnreachable, Area::Database, Class::Transient));
    }
}
