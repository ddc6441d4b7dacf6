//! Takes a tenant's access away, and its logins and rows of the fence if they are to go too. Rows of `retail` stay.

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use storefence_tenancy::TenantId;

use super::{
    Database, DatabaseError, TenantLock,
    sql::{ident, literal},
};
use crate::reconcile::desired::role_comment;

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
        self.may_write()?;
        let connection = lock.connection()?;
        self.within("revoke", revoke(connection, tenant, owner_uid, roles)).await
    }

    /// Removes the logins and the fence's rows of the tenant that `owner_uid` owns, all or none; rows of `retail` stay.
    /// To be called when access has ended. Can be repeated.
    ///
    /// # Errors
    /// [`DatabaseError::DependentObjects`] while a login owns something, or has been given something, anywhere.
    pub async fn remove(
        &self,
        lock: &mut TenantLock,
        tenant: &TenantId,
        owner_uid: &str,
        roles: &[String],
    ) -> Result<(), DatabaseError> {
        self.may_write()?;
        let connection = lock.connection()?;
        self.within("revoke", remove(connection, tenant, owner_uid, roles)).await
    }

    /// Ends the sessions of a login that may log in no longer. Can be repeated.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn end_sessions(&self, lock: &mut TenantLock, role: &str) -> Result<(), DatabaseError> {
        self.may_write()?;
        let connection = lock.connection()?;
        self.within("revoke", end_sessions(connection, role)).await
    }

    /// The tenant that a UID owns, for an object whose spec cannot be read.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn tenant_of(&self, owner_uid: &str) -> Result<Option<TenantId>, DatabaseError> {
        let mut connection = self.acquire().await?;
        let query = sqlx::query_scalar::<_, String>("SELECT tenant_id FROM fence.tenants WHERE owner_uid = $1");
        let found = self.within("observe", query.bind(owner_uid).fetch_optional(&mut *connection)).await?;
        Ok(found.and_then(|text| text.parse().ok()))
    }
}

async fn revoke(
    connection: &mut PgConnection,
    tenant: &TenantId,
    owner_uid: &str,
    roles: &[String],
) -> Result<(), sqlx::Error> {
    let marked = marked(connection, owner_uid, roles).await?;
    let mut transaction = connection.begin().await?;
    let mut batch = String::new();
    for (role, can_login) in &marked {
        if *can_login {
            batch.push_str(&format!("ALTER ROLE {} NOLOGIN PASSWORD NULL;\n", ident(role)));
        }
    }
    let row = own_row(tenant, owner_uid);
    batch.push_str(&format!(
        "DELETE FROM fence.context_keys WHERE tenant_key = (SELECT tenant_key FROM fence.tenants WHERE {row});\n\
         UPDATE fence.tenants SET enabled = false WHERE {row} AND enabled;\n"
    ));
    // Audited: quoted by `ident` and `literal`.
    sqlx::raw_sql(AssertSqlSafe(batch)).execute(&mut *transaction).await?;
    transaction.commit().await?;

    // After the commit: a session that connects before it would otherwise outlive this.
    for (role, _) in &marked {
        end_sessions(connection, role).await?;
    }
    Ok(())
}

async fn remove(
    connection: &mut PgConnection,
    tenant: &TenantId,
    owner_uid: &str,
    roles: &[String],
) -> Result<(), sqlx::Error> {
    let mut batch = String::new();
    for (role, _) in marked(connection, owner_uid, roles).await? {
        batch.push_str(&format!("DROP ROLE {};\n", ident(&role)));
    }
    // Stores, logins and keys go with it.
    batch.push_str(&format!("DELETE FROM fence.tenants WHERE {};\n", own_row(tenant, owner_uid)));
    let mut transaction = connection.begin().await?;
    // Audited: quoted by `ident` and `literal`.
    sqlx::raw_sql(AssertSqlSafe(batch)).execute(&mut *transaction).await?;
    transaction.commit().await
}

fn own_row(tenant: &TenantId, owner_uid: &str) -> String {
    format!("tenant_id = {} AND owner_uid = {}", literal(tenant.as_str()), literal(owner_uid))
}

/// Those of the roles that carry the object's mark, and whether they may log in.
async fn marked(
    connection: &mut PgConnection,
    owner_uid: &str,
    roles: &[String],
) -> Result<Vec<(String, bool)>, sqlx::Error> {
    sqlx::query_as(
        "SELECT rolname::text, rolcanlogin FROM pg_roles \
          WHERE rolname = ANY ($1) AND shobj_description(oid, 'pg_authid') = $2 ORDER BY rolname",
    )
    .bind(roles)
    .bind(role_comment(owner_uid))
    .fetch_all(connection)
    .await
}

/// Ends the sessions of a login. Who is not superuser may do so only as a member that inherits. Who made the role, the
/// administrator or its creator of logins, has ADMIN on it and makes itself one for the moment.
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
    // The administrator's ADMIN by way of a creator is none that it can grant by.
    let creator: Option<String> = sqlx::query_scalar(
        "SELECT c.rolname::text FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles c ON c.oid = m.member \
          WHERE r.rolname = $1 AND m.admin_option AND c.rolname <> current_user AND pg_has_role(c.oid, 'SET') LIMIT 1",
    )
    .bind(role)
    .fetch_optional(&mut *connection)
    .await?;
    let mut transaction = connection.begin().await?;
    let name = ident(role);
    if let (false, Some(creator)) = (allowed, creator) {
        let act = format!("SET LOCAL ROLE {}", ident(&creator));
        sqlx::raw_sql(AssertSqlSafe(act)).execute(&mut *transaction).await?;
    }
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
