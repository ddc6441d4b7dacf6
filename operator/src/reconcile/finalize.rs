//! What happens before a deleted object may go: access ends, data and mapping stay.

use storefence_tenancy::{
    RetailTenant, TenantId,
    credentials::{Slot, context_secret_name, database_secret_name, login_role_name},
};

use crate::{backends::Backends, database::Database, errors::Failure, vault::Vault};

/// Revokes what the object owns, and nothing of anybody else's. Can be repeated.
///
/// # Errors
/// The finalizer must stay then.
pub async fn finalize(backends: &Backends, tenant: &RetailTenant) -> Result<(), Failure> {
    let uid = tenant.metadata.uid.as_deref().unwrap_or_default();
    let Ok(tenant_id) = tenant.spec.tenant_id.parse::<TenantId>() else {
        // Such an object has never been more than InvalidSpec.
        return Ok(());
    };
    let credentials = tenant.status.as_ref().and_then(|status| status.credentials.as_ref());
    match backends.database(&tenant.spec.database_ref.name) {
        Ok(database) => revoke(&database, &tenant_id, uid).await?,
        // It cannot have been served from a database that is not configured, unless the status says so.
        Err(failure) if credentials.is_some() => return Err(failure),
        Err(_) => {}
    }
    match backends.vault(&tenant.spec.key_vault_ref.name) {
        Ok(vault) => {
            let mut kids = vec![1];
            for key in credentials.map(|credentials| credentials.context_keys.as_slice()).unwrap_or_default() {
                kids.push(key.kid);
            }
            // A rotation may have got as far as the new key's secret.
            kids.extend(tenant.status.iter().flat_map(|status| &status.rotation).map(|rotation| rotation.kid));
            disable(&vault, &tenant_id, uid, &kids).await
        }
        Err(failure) if credentials.is_some() => Err(failure),
        Err(_) => Ok(()),
    }
}

/// The same for an object that cannot be read: its UID tells in which database it owns what.
///
/// # Errors
/// The finalizer must stay then.
pub async fn finalize_unreadable(backends: &Backends, uid: &str) -> Result<(), Failure> {
    for (_, database) in backends.databases() {
        database.ready().await?;
        let Some(tenant_id) = database.tenant_of(uid).await? else { continue };
        revoke(database, &tenant_id, uid).await?;
        for vault in backends.vaults() {
            disable(vault, &tenant_id, uid, &[1]).await?;
        }
    }
    Ok(())
}

async fn revoke(database: &Database, tenant_id: &TenantId, uid: &str) -> Result<(), Failure> {
    let salt = database.ready().await?;
    let roles = Slot::ALL.map(|slot| login_role_name(&salt, tenant_id, slot));
    let Some(mut lock) = database.lock(tenant_id).await? else {
        return Err(Failure::LockContention(tenant_id.to_string()));
    };
    let outcome = database.revoke(&mut lock, tenant_id, uid, &roles).await;
    lock.release().await;
    Ok(outcome?)
}

async fn disable(vault: &Vault, tenant_id: &TenantId, uid: &str, kids: &[u32]) -> Result<(), Failure> {
    let logins = Slot::ALL.map(|slot| database_secret_name(tenant_id, slot));
    let mut names: Vec<String> = kids.iter().map(|kid| context_secret_name(tenant_id, *kid)).chain(logins).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        vault.disable(&name, uid).await?;
    }
    Ok(())
}
