//! Takes the database's steps: one transaction, most of it in one round trip.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use storefence_tenancy::credentials::{ContextKey, Slot};

use super::{Database, DatabaseError, TenantLock, sql};
use crate::{
    credentials::Password,
    reconcile::{action::DatabaseAction, desired::Desired},
};

/// The values that the vault holds, for the steps that need them.
#[derive(Default)]
pub struct Material {
    /// Passwords by slot.
    pub passwords: BTreeMap<Slot, Password>,
    /// Context keys by key id.
    pub keys: BTreeMap<u32, ContextKey>,
}

impl Database {
    /// Takes the steps, all or none.
    ///
    /// # Errors
    /// [`DatabaseError`]; nothing has changed then.
    pub async fn apply(
        &self,
        lock: &mut TenantLock,
        desired: &Desired,
        actions: &[DatabaseAction],
        material: &Material,
    ) -> Result<(), DatabaseError> {
        if actions.is_empty() {
            return Ok(());
        }
        self.within("apply", execute(lock.connection()?, desired, actions, material)).await
    }
}

async fn execute(
    connection: &mut PgConnection,
    desired: &Desired,
    actions: &[DatabaseAction],
    material: &Material,
) -> Result<(), sqlx::Error> {
    // A slot without a password gets a verifier that no password fits.
    let verifier = |slot: Slot| material.passwords.get(&slot).map(Password::verifier).unwrap_or_default();
    let mut transaction = connection.begin().await?;
    let mut batch = String::new();
    for action in actions {
        batch.push_str(&sql::statement(desired, action, &verifier));
        batch.push_str(";\n");
        if let DatabaseAction::SetContextKey { kid, .. } = action
            && let Some(key) = material.keys.get(kid)
        {
            flush(&mut transaction, &mut batch).await?;
            copy_key(&mut transaction, desired, *kid, key).await?;
        }
    }
    flush(&mut transaction, &mut batch).await?;
    transaction.commit().await
}

async fn copy_key(
    connection: &mut PgConnection,
    desired: &Desired,
    kid: u32,
    key: &ContextKey,
) -> Result<(), sqlx::Error> {
    let tenant_key: i32 = sqlx::query_scalar("SELECT tenant_key FROM fence.tenants WHERE tenant_id = $1")
        .bind(desired.tenant_id.as_str())
        .fetch_one(&mut *connection)
        .await?;
    let mut copy = connection.copy_in_raw(sql::COPY_KEY).await?;
    copy.send(sql::copy_row(tenant_key, kid, key).as_bytes()).await?;
    copy.finish().await?;
    Ok(())
}

async fn flush(connection: &mut PgConnection, batch: &mut String) -> Result<(), sqlx::Error> {
    if !batch.is_empty() {
        // Audited: every name and text in it went through `sql::ident` or `sql::literal`.
        sqlx::raw_sql(AssertSqlSafe(std::mem::take(batch))).execute(connection).await?;
    }
    Ok(())
}
