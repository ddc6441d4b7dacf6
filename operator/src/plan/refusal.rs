//! Why no step of a plan may be taken: one of the tenant's names or ids belongs to somebody else.

use uuid::Uuid;

use super::{desired::Desired, problem::Problem};
use crate::reason::{Area, Class, Reason};

/// What belongs to somebody else, and the way out.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
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
    /// A role with our name is not marked as ours.
    #[error(
        "role {role} exists and is not marked as this RetailTenant's: it is not touched; drop or rename it, or set \
         spec.adoptionPolicy to Adopt to take it over"
    )]
    RoleNotAdopted { role: String },
    /// A role with our name has more rights than a tenant's login may have.
    #[error(
        "role {role} cannot be adopted: {problem}; take that away from it, or drop or rename it: it is not touched"
    )]
    RoleNotAdoptable {
        role: String,
        /// What it is.
        problem: String,
    },
    /// A secret with our name is not tagged as ours.
    #[error(
        "Key Vault secret {secret} exists and is not tagged as this RetailTenant's: it is not touched; delete or rename it, \
         or set spec.adoptionPolicy to Adopt to take it over"
    )]
    SecretNotOwned { secret: String },
    /// A secret with our name is managed by another tool, which would overwrite ours.
    #[error(
        "Key Vault secret {secret} cannot be adopted: its tag managed-by says '{manager}'; make that let go of it and \
         remove the tag: it is not touched"
    )]
    SecretManaged {
        secret: String,
        /// Whose it is.
        manager: String,
    },
    /// A secret with our name is deleted, and was not ours.
    #[error(
        "Key Vault secret {secret} is deleted but not purged, and was not a RetailTenant's; purge it, or set \
         spec.adoptionPolicy to Adopt to recover it and take it over"
    )]
    SecretSoftDeleted { secret: String },
}

impl Refusal {
    /// The spec names a store that another tenant has.
    #[must_use]
    pub fn conflicting_store(desired: &Desired, id: Uuid, owner: String) -> Self {
        let name = desired.stores.get(&id).map(|store| store.name.clone()).unwrap_or_default();
        Self::ConflictingStore { name, store: id.to_string(), owner }
    }

    /// The code for conditions, events and metrics.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::ConflictingStore { .. } => Reason::ConflictingStore,
            Self::TenantNotAdopted { .. } | Self::RoleNotAdopted { .. } | Self::RoleNotAdoptable { .. } => {
                Reason::RoleExistsNotAdopted
            }
            Self::SecretNotOwned { .. } | Self::SecretManaged { .. } => Reason::SecretNotOwned,
            Self::SecretSoftDeleted { .. } => Reason::SecretSoftDeleted,
        }
    }

    /// Which condition it belongs to.
    #[must_use]
    pub const fn area(&self) -> Area {
        match self {
            Self::ConflictingStore { .. }
            | Self::TenantNotAdopted { .. }
            | Self::RoleNotAdopted { .. }
            | Self::RoleNotAdoptable { .. } => Area::Database,
            Self::SecretNotOwned { .. } | Self::SecretManaged { .. } | Self::SecretSoftDeleted { .. } => Area::Secrets,
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        // Only a person can settle whose it is.
        let (reason, area, class) = (refusal.reason(), refusal.area(), Class::Permanent);
        Self { reason, area, class, message: refusal.to_string() }
    }
}
