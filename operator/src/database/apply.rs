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
    plan::{
        action::{DatabaseAction, Plan},
        desired::Desired,
        stages::{Stages, stages, takes_from_a_role},
    },
};

/// A step that the database refused, while the others were taken.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}{remedy}")]
pub struct Unapplied {
    /// The step as text.
    pub step: String,
    /// PostgreSQL's message.
    pub source: DatabaseError,
    /// Who can take it, and by which statement; empty where that is not known.
    pub remedy: String,
}

const BEGIN: &str = "BEGIN;\n";

/// The values that the vault holds, for the steps that need them.
#[derive(Default)]
pub struct Material {
    pub passwords: BTreeMap<Slot, Password>,
    /// Context keys by key id.
    pub keys: BTreeMap<u32, ContextKey>,
}

impl Database {
    /// Takes the steps, all or none. Where that fails and the tenant is served already (`partly`), each part of them by
    /// itself, beginning with what takes away; gives what the database refused.
    ///
    /// # Errors
    /// [`DatabaseError`]; nothing has changed then, unless parts were asked for.
    pub async fn apply(
        &self,
        lock: &mut TenantLock,
        desired: &Desired,
        plan: &Plan,
        material: &Material,
        partly: bool,
    ) -> Result<Vec<Unapplied>, DatabaseError> {
        match self.apply_all(lock, desired, plan, material).await {
            Ok(()) => return Ok(Vec::new()),
            Err(error) if !partly || !error.is_of_a_statement() => return Err(error),
            Err(_) => {}
        }
        let Stages { parts, last } = stages(plan);
        let mut refused = Vec::new();
        for part in parts {
            match self.apply_all(lock, desired, &part, material).await {
                Ok(()) => {}
                Err(source) if source.is_of_a_statement() => refused.push(unapplied(desired, &part, source)),
                Err(error) => return Err(error),
            }
        }
        if let Some(last) = last.filter(|_| refused.is_empty()) {
            self.apply_all(lock, desired, &last, material).await?;
        }
        Ok(refused)
    }

    async fn apply_all(
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

/// What could not be done, as text: who may do it, and by which statement, for a step that takes something away: the
/// others have values of the vault in them, or are the operator's again once those are out of the way.
fn unapplied(desired: &Desired, part: &Plan, source: DatabaseError) -> Unapplied {
    let words: Vec<String> = part.database.iter().map(DatabaseAction::describe).collect();
    let remedy = match part.database.as_slice() {
        [action] if takes_from_a_role(action) => {
            let alone = Plan { database: vec![action.clone()], ..Plan::default() };
            let statements = sql::statements(desired, &alone, &|_| String::new());
            let text: Vec<&str> = statements.iter().map(|statement| statement.text.as_str()).collect();
            format!("; a superuser can: {}", text.join("; "))
        }
        _ => String::new(),
    };
    Unapplied { step: words.join("; "), source, remedy }
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
