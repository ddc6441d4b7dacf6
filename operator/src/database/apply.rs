//! Takes the database's steps: one transaction, most of it in one round trip.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, PgConnection, Row as _, postgres::PgRow};
use storefence_tenancy::credentials::{ContextKey, Slot};

use super::{
    Database, DatabaseError, TenantLock,
    sql::{self, Statement},
};
use crate::{
    credentials::Password,
    reconcile::{action::Plan, desired::Desired},
};

const BEGIN: &str = "BEGIN;\n";

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
        plan: &Plan,
        material: &Material,
    ) -> Result<(), DatabaseError> {
        if plan.database.is_empty() {
            return Ok(());
        }
        self.may_write()?;
        // A slot without a password gets a verifier that no password fits.
        let verifier = |slot: Slot| material.passwords.get(&slot).map(Password::verifier).unwrap_or_default();
        let statements = sql::statements(desired, plan, &verifier);
        let call = async {
            // Whatever cuts this short leaves a transaction open: the session then ends with the pass.
            lock.in_doubt = true;
            let connection = lock.connection()?;
            if let Err(error) = execute(connection, desired, &statements, material).await {
                lock.in_doubt = sqlx::raw_sql("ROLLBACK").execute(connection).await.is_err();
                return Err(self.error(error));
            }
            lock.in_doubt = false;
            Ok(())
        };
        self.guarded("apply", call).await
    }
}

/// What locks nothing that tenants share comes first, in as few round trips as keys allow. What does, the group of all
/// logins, goes out in one message with the COMMIT: passes over other tenants wait for as long as it is held, so no
/// round trip, and no waiting for a processor on this side, may lie in between.
async fn execute(
    connection: &mut PgConnection,
    desired: &Desired,
    statements: &[Statement],
    material: &Material,
) -> Result<(), sqlx::Error> {
    let first_shared = statements.iter().position(|statement| statement.shared);
    let mut batch = BEGIN.to_owned();
    for (at, Statement { text, key, .. }) in statements.iter().enumerate() {
        if Some(at) == first_shared && !batch.is_empty() && batch != BEGIN {
            run(connection, &mut batch).await?;
        }
        batch.push_str(text);
        batch.push_str(";\n");
        if let Some((kid, key)) = key.and_then(|kid| Some((kid, material.keys.get(&kid)?))) {
            // A new tenant's number is known only now: asked for in the same message.
            batch.push_str(&format!("SELECT {}", sql::tenant_key(desired)));
            let rows = run(connection, &mut batch).await?;
            let tenant_key = rows.last().ok_or(sqlx::Error::RowNotFound)?.try_get(0)?;
            copy_key(connection, tenant_key, kid, key).await?;
        }
    }
    batch.push_str("COMMIT");
    run(connection, &mut batch).await.map(drop)
}

async fn run(connection: &mut PgConnection, batch: &mut String) -> Result<Vec<PgRow>, sqlx::Error> {
    // Audited: every name and text in it went through `sql::ident` or `sql::literal`.
    sqlx::raw_sql(AssertSqlSafe(std::mem::take(batch))).fetch_all(connection).await
}

async fn copy_key(
    connection: &mut PgConnection,
    tenant_key: i32,
    kid: u32,
    key: &ContextKey,
) -> Result<(), sqlx::Error> {
    let mut copy = connection.copy_in_raw(sql::COPY_KEY).await?;
    copy.send(sql::copy_row(tenant_key, kid, key).as_bytes()).await?;
    copy.finish().await?;
    Ok(())
}
