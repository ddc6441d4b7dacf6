//! What a deleted object's `deletionPolicy` asks for before its finalizer is removed. The tenant's data stays in any
//! case.

use serde_json::Value;
use storefence_tenancy::{
    RetailTenant, RetailTenantSpec, TenantId,
    credentials::{Slot, context_secret_name, database_secret_name, login_role_name},
    resource::{DeletionPolicy, Mode},
};

use super::failure::Failure;
use crate::{backends::Backends, database::Database, reason::Reason, vault::Vault};

/// What to do with a deleted object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Wait: the object is suspended, so nothing may be touched, and removing the finalizer would leave its access
    /// behind.
    Hold,
    /// Release it and leave everything as it is.
    Leave,
    /// End access and keep roles, secrets and rows.
    Revoke,
    /// End access, then remove roles, secrets and the fence's rows.
    Delete,
}

impl Ending {
    /// The ending that a spec asks for.
    #[must_use]
    pub const fn of(spec: &RetailTenantSpec) -> Self {
        Self::decide(spec.suspend, spec.mode, spec.deletion_policy)
    }

    /// The same for an object that cannot be read as a whole: fields that cannot be read count as absent.
    #[must_use]
    pub fn of_unreadable(object: &Value) -> Self {
        let field = |name: &str| object["spec"][name].clone();
        Self::decide(
            field("suspend") == Value::Bool(true),
            serde_json::from_value(field("mode")).unwrap_or_default(),
            serde_json::from_value(field("deletionPolicy")).unwrap_or_default(),
        )
    }

    const fn decide(suspend: bool, mode: Mode, policy: DeletionPolicy) -> Self {
        match (suspend, mode, policy) {
            (true, ..) => Self::Hold,
            // Mode Observe makes nothing, so there is nothing to take away.
            (_, Mode::Observe, _) | (_, _, DeletionPolicy::Retain) => Self::Leave,
            (_, _, DeletionPolicy::Revoke) => Self::Revoke,
            (_, _, DeletionPolicy::Delete) => Self::Delete,
        }
    }
}

/// Ends what the object owns as `ending` says, and nothing that belongs to others. Idempotent. Tries database and vault
/// both, so that the status names every side that stands in the way.
///
/// # Errors
/// The finalizer must stay.
pub async fn finalize(backends: &Backends, tenant: &RetailTenant, ending: Ending) -> Result<(), Vec<Failure>> {
    let uid = tenant.metadata.uid.as_deref().unwrap_or_default();
    match ending {
        Ending::Hold => return Ok(()),
        Ending::Leave => {
            if let Ok(database) = backends.database(&tenant.spec.database_ref.name) {
                retained(&database, uid).await;
            }
            return Ok(());
        }
        Ending::Revoke | Ending::Delete => {}
    }
    let Ok(tenant_id) = tenant.spec.tenant_id.parse::<TenantId>() else {
        // An object with such a tenantId was never more than InvalidSpec.
        return Ok(());
    };
    // A backend that is not configured holds nothing of a tenant that was never served.
    let served = tenant.status.as_ref().is_some_and(|status| status.credentials.is_some());
    let mut failures = Vec::new();
    match backends.database(&tenant.spec.database_ref.name) {
        Ok(database) => failures.extend(end_access(&database, &tenant_id, uid, ending).await.err()),
        Err(error) => failures.extend(Some(Failure::from(error)).filter(|_| served)),
    }
    failures = failures.into_iter().map(or_retain).collect();
    match backends.vault(&tenant.spec.key_vault_ref.name) {
        Ok(vault) => {
            let kids = kids(recorded(tenant), ending);
            failures.extend(end_secrets(&vault, &tenant_id, uid, &kids, ending).await.err().map(or_retain));
        }
        Err(error) => failures.extend(Some(Failure::from(error)).filter(|_| served).map(or_retain)),
    }
    if failures.is_empty() { Ok(()) } else { Err(failures) }
}

/// Marks a released tenant, so that its access is kept. A database that cannot be reached does not hold the object
/// back: it may be gone.
async fn retained(database: &Database, uid: &str) {
    if database.is_migrated()
        && let Err(error) = database.mark_retained(uid).await
    {
        tracing::warn!(
            uid,
            "the tenant could not be marked as let go, and counts as one without a RetailTenant: {error}"
        );
    }
}

/// A backend that cannot be reached may be gone for good: then only a person can end the wait, and the message says
/// how.
fn or_retain(failure: Failure) -> Failure {
    match failure.reason() {
        Reason::DatabaseUnreachable
        | Reason::DatabaseReadOnly
        | Reason::DatabaseNotConfigured
        | Reason::AdministratorUnknown
        | Reason::InsufficientPrivileges
        | Reason::MigrationFailed
        | Reason::KeyVaultUnreachable
        | Reason::KeyVaultForbidden
        | Reason::KeyVaultNotConfigured => Failure::Finalizing(Box::new(failure)),
        _ => failure,
    }
}

/// The same for an object that cannot be read. Its UID finds the tenant in each database; the readable part of its
/// status names its keys.
///
/// # Errors
/// The finalizer must stay.
pub async fn finalize_unreadable(
    backends: &Backends,
    uid: &str,
    object: &Value,
    ending: Ending,
) -> Result<(), Vec<Failure>> {
    match ending {
        Ending::Hold => return Ok(()),
        Ending::Leave => {
            for (_, database) in backends.databases() {
                retained(database, uid).await;
            }
            return Ok(());
        }
        Ending::Revoke | Ending::Delete => {}
    }
    let kids = kids(recorded_in(&object["status"]), ending);
    let each = async {
        for (_, database) in backends.databases() {
            database.ready().await?;
            let Some(tenant_id) = database.tenant_of(uid).await? else { continue };
            // The vaults first: once the row is gone, nothing connects the UID with the tenant.
            for vault in backends.vaults() {
                end_secrets(vault, &tenant_id, uid, &kids, ending).await?;
            }
            end_access(database, &tenant_id, uid, ending).await?;
        }
        Ok::<_, Failure>(())
    };
    each.await.map_err(|failure| vec![or_retain(failure)])
}

/// Ids of the keys in a status: those in force, and the one that a rotation may have written already.
fn recorded(tenant: &RetailTenant) -> Vec<u32> {
    let status = || tenant.status.iter();
    let credentials = status().flat_map(|status| &status.credentials);
    let keys = credentials.flat_map(|credentials| &credentials.context_keys).map(|key| key.kid);
    keys.chain(status().flat_map(|status| &status.rotation).map(|rotation| rotation.kid)).collect()
}

/// The same for a status that cannot be read as a whole.
fn recorded_in(status: &Value) -> Vec<u32> {
    let keys = status["credentials"]["contextKeys"].as_array().into_iter().flatten();
    let kid = |of: &Value| of["kid"].as_u64().and_then(|kid| u32::try_from(kid).ok());
    keys.chain([&status["rotation"]]).filter_map(kid).collect()
}

/// Ids of the keys whose secrets may be the object's. Finished rotations have disabled theirs; `Delete` also deletes
/// those, so it counts from 1 to the newest.
fn kids(recorded: Vec<u32>, ending: Ending) -> Vec<u32> {
    let newest = recorded.iter().copied().max().unwrap_or(1);
    let mut kids = if ending == Ending::Delete { (1..=newest).collect() } else { recorded };
    kids.push(1);
    kids.sort_unstable();
    kids.dedup();
    kids
}

async fn end_access(database: &Database, tenant_id: &TenantId, uid: &str, ending: Ending) -> Result<(), Failure> {
    let salt = database.ready().await?;
    let roles = Slot::ALL.map(|slot| login_role_name(&salt, tenant_id, slot));
    let Some(mut lock) = database.lock(tenant_id).await? else {
        return Err(Failure::LockContention(tenant_id.to_string()));
    };
    // First in any case: if the removal fails, access has ended all the same.
    let mut outcome = database.revoke(&mut lock, tenant_id, uid, &roles).await;
    if outcome.is_ok() && ending == Ending::Delete {
        outcome = database.remove(&mut lock, tenant_id, uid, &roles).await;
    }
    lock.release().await;
    Ok(outcome?)
}

async fn end_secrets(
    vault: &Vault,
    tenant_id: &TenantId,
    uid: &str,
    kids: &[u32],
    ending: Ending,
) -> Result<(), Failure> {
    let logins = Slot::ALL.map(|slot| database_secret_name(tenant_id, slot));
    for name in kids.iter().map(|kid| context_secret_name(tenant_id, *kid)).chain(logins) {
        // Disabled before it is deleted: one that somebody recovers by hand must not let anybody in.
        vault.disable(&name, uid).await?;
        if ending == Ending::Delete {
            vault.delete(&name, uid).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn suspension_holds_and_observation_leaves_whatever_the_policy_says() {
        for policy in [DeletionPolicy::Revoke, DeletionPolicy::Retain, DeletionPolicy::Delete] {
            assert_eq!(Ending::decide(true, Mode::Enforce, policy), Ending::Hold);
            assert_eq!(Ending::decide(true, Mode::Observe, policy), Ending::Hold);
            assert_eq!(Ending::decide(false, Mode::Observe, policy), Ending::Leave);
        }
        assert_eq!(Ending::decide(false, Mode::Enforce, DeletionPolicy::Retain), Ending::Leave);
    }

    #[test]
    fn an_unreadable_object_still_says_what_it_asks_for() {
        for (spec, expected) in [
            (json!({"tenantId": 5}), Ending::Revoke),
            (json!({"deletionPolicy": "Retain"}), Ending::Leave),
            (json!({"deletionPolicy": "Delete", "suspend": "no"}), Ending::Delete),
            (json!({"deletionPolicy": "Everything", "mode": 1}), Ending::Revoke),
            (json!({"suspend": true}), Ending::Hold),
        ] {
            assert_eq!(Ending::of_unreadable(&json!({"spec": spec})), expected, "{spec}");
        }
        assert_eq!(Ending::of_unreadable(&Value::Null), Ending::Revoke);
    }

    #[test]
    fn a_status_that_is_damaged_still_tells_of_its_keys() {
        let status = json!({
            "credentials": {"contextKeys": [{"kid": 4}, {"kid": "five"}, 6, {"kid": 3, "more": []}]},
            "rotation": {"kid": 5},
        });
        let recorded = recorded_in(&status);
        assert_eq!(recorded, [4, 3, 5]);
        assert_eq!(kids(recorded.clone(), Ending::Revoke), [1, 3, 4, 5]);
        assert_eq!(kids(recorded, Ending::Delete), [1, 2, 3, 4, 5]);
        assert_eq!(kids(recorded_in(&Value::Null), Ending::Delete), [1]);
    }
}
