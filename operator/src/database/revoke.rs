//! Takes a tenant's access away and keeps its rows.

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use storefence_tenancy::TenantId;

use super::{
    Database, DatabaseError, TenantLock,
    sql::{ident, literal},
};
use crate::reconcile::desired::{comment_owner, role_comment};

impl Database {
    /// Revokes the tenant that `owner_uid` owns: calls refused, logins without LOGIN, sessions ended, context keys
    /// removed. Rows and the mapping of stores stay. Touches nothing of another owner's. Can be repeated.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn revoke(
        &self,
        lock: &mut TenantLock,
        tenant: &TenantId,
        owner_uid: &str,
        roles: &[String],
    ) -> Result<(), DatabaseError> {
        let connection = lock.connection()?;
        self.within(revoke(connection, tenant, owner_uid, roles)).await
    }

    /// Ends the sessions of a login that may log in no longer. Can be repeated.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn end_sessions(&self, lock: &mut TenantLock, role: &str) -> Result<(), DatabaseError> {
        let connection = lock.connection()?;
        self.within(end_sessions(connection, role)).await
    }

    /// The tenant that a UID owns, for an object whose spec cannot be read.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn tenant_of(&self, owner_uid: &str) -> Result<Option<TenantId>, DatabaseError> {
        let mut connection = self.acquire().await?;
        let query = sqlx::query_scalar::<_, String>("SELECT tenant_id FROM fence.tenants WHERE owner_uid = $1");
        let found = self.within(query.bind(owner_uid).fetch_optional(&mut *connection)).await?;
        Ok(found.and_then(|text| text.parse().ok()))
    }
}

async fn revoke(
    connection: &mut PgConnection,
    tenant: &TenantId,
    owner_uid: &str,
    roles: &[String],
) -> Result<(), sqlx::Error> {
    let owned: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM fence.tenants WHERE tenant_id = $1 AND owner_uid = $2)")
            .bind(tenant.as_str())
            .bind(owner_uid)
            .fetch_one(&mut *connection)
            .await?;
    if !owned {
        return Ok(());
    }
    let found: Vec<(String, Option<String>, bool)> = sqlx::query_as(
        "SELECT rolname::text, shobj_description(oid, 'pg_authid'), rolcanlogin FROM pg_roles WHERE rolname = ANY ($1)",
    )
    .bind(roles)
    .fetch_all(&mut *connection)
    .await?;
    let own = |comment: &Option<String>| comment.as_deref().and_then(comment_owner) == Some(owner_uid);
    let marked: Vec<&(String, Option<String>, bool)> = found.iter().filter(|(_, comment, _)| own(comment)).collect();
    debug_assert!(marked.iter().all(|(_, comment, _)| comment.as_deref() == Some(role_comment(owner_uid).as_str())));

    let mut transaction = connection.begin().await?;
    let mut batch = String::new();
    for (role, _, can_login) in &marked {
        if *can_login {
            batch.push_str(&format!("ALTER ROLE {} NOLOGIN PASSWORD NULL;\n", ident(role)));
        }
    }
    let tenant = literal(tenant.as_str());
    batch.push_str(&format!(
        "DELETE FROM fence.context_keys WHERE tenant_key = (SELECT tenant_key FROM fence.tenants WHERE tenant_id = {tenant});\n\
         UPDATE fence.tenants SET enabled = false WHERE tenant_id = {tenant} AND enabled;\n"
    ));
    // Audited: quoted by `ident` and `literal`.
    sqlx::raw_sql(AssertSqlSafe(batch)).execute(&mut *transaction).await?;
    transaction.commit().await?;

    // After the commit: a session that connects before it would otherwise outlive this.
    for (role, _, _) in &marked {
        end_sessions(connection, role).await?;
    }
    Ok(())
}

/// Ends the sessions of a login. An administrator that is not superuser may do so only as a member that inherits; it
/// has ADMIN on the roles it made, so it makes itself one for the moment.
async fn end_sessions(connection: &mut PgConnection, role: &str) -> Result<(), sqlx::Error> {
    let any: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE usename = $1)")
        .bind(role)
        .fetch_one(&mut *connection)
        .await?;
    if !any {
        return Ok(());
    }
    let allowed: bool = sqlx::query_scalar(
        "SELECT rolsuper OR pg_has_role('pg_signal_backend', 'USAGE') OR pg_has_role($1, 'USAGE') \
           FROM pg_roles WHERE rolname = current_user",
    )
    .bind(role)
    .fetch_one(&mut *connection)
    .await?;
    let mut transaction = connection.begin().await?;
    let name = ident(role);
    if !allowed {
        let grant = format!("GRANT {name} TO CURRENT_USER WITH INHERIT TRUE, SET FALSE");
        sqlx::raw_sql(AssertSqlSafe(grant)).execute(&mut *transaction).await?;
    }
    sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1")
        .bind(role)
        .execute(&mut *transaction)
        .await?;
    if !allowed {
        let revoke = format!("REVOKE {name} FROM CURRENT_USER GRANTED BY CURRENT_USER");
        sqlx::raw_sql(AssertSqlSafe(revoke)).execute(&mut *transaction).await?;
    }
    transaction.commit().await
}
