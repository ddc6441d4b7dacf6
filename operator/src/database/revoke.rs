//! Takes a tenant's access away, and its logins and rows of the fence if they are to go too. Rows of `retail` stay.

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use storefence_tenancy::TenantId;

use super::{Database, DatabaseError, TenantLock};
use crate::{
    quote::{ident, literal},
    roles::role_comment,
};

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

    /// Closes logins that carry an object's mark under other names than these: of a database that is no more, whose salt
    /// made their names. They are dropped, unless something depends on them.
    ///
    /// # Errors
    /// [`DatabaseError`] when they cannot be looked for; one that cannot be closed is reported in the log.
    pub async fn retire_former(
        &self,
        lock: &mut TenantLock,
        owner_uid: &str,
        names: &[&str],
    ) -> Result<(), DatabaseError> {
        self.may_write()?;
        let connection = lock.connection()?;
        let former = sqlx::query_as::<_, (String, bool)>(
            "SELECT r.rolname::text, r.rolcanlogin FROM pg_shdescription d JOIN pg_roles r ON r.oid = d.objoid \
              WHERE d.classoid = 'pg_authid'::regclass AND d.description = $1 AND NOT r.rolname::text = ANY ($2) ORDER BY 1",
        )
        .bind(role_comment(owner_uid))
        .bind(names);
        let former = self.within("observe", former.fetch_all(&mut *connection)).await?;
        for login in former {
            let name = login.0.clone();
            let closing = async {
                close_logins(connection, std::slice::from_ref(&login)).await?;
                let drop_role = format!("DROP ROLE {}", ident(&login.0));
                // Audited: quoted by `ident`.
                match sqlx::raw_sql(AssertSqlSafe(drop_role)).execute(&mut *connection).await {
                    Err(sqlx::Error::Database(error)) if error.code().as_deref() != Some("2BP01") => {
                        Err(sqlx::Error::Database(error))
                    }
                    Err(sqlx::Error::Database(_)) | Ok(_) => Ok(()),
                    Err(error) => Err(error),
                }
            };
            match self.within("revoke", closing).await {
                Ok(()) => tracing::info!(database = self.place(), login = name, "a former login is closed"),
                Err(error) => {
                    tracing::warn!(database = self.place(), login = name, "a former login stays open: {error}")
                }
            }
        }
        Ok(())
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
    // The rows first, and by themselves: they are ours in any case, and without them no call is answered, whatever becomes of
    // the roles.
    let row = own_row(tenant, owner_uid);
    let rows = format!(
        "DELETE FROM fence.context_keys WHERE tenant_key = (SELECT tenant_key FROM fence.tenants WHERE {row});\n\
         UPDATE fence.tenants SET enabled = false WHERE {row} AND enabled;\n"
    );
    // Audited: quoted by `literal`. One message, so one transaction.
    sqlx::raw_sql(AssertSqlSafe(rows)).execute(&mut *connection).await?;
    close_logins(connection, &marked).await
}

/// Takes LOGIN, password and sessions from each of the roles; one that cannot be changed keeps no other from it.
async fn close_logins(connection: &mut PgConnection, roles: &[(String, bool)]) -> Result<(), sqlx::Error> {
    let mut outcome = Ok(());
    for (role, _) in roles.iter().filter(|(_, can_login)| *can_login) {
        let alter = format!("ALTER ROLE {} NOLOGIN PASSWORD NULL", ident(role));
        // Audited: quoted by `ident`.
        outcome = outcome.and(sqlx::raw_sql(AssertSqlSafe(alter)).execute(&mut *connection).await.map(drop));
    }
    // After the commit: a session that connects before it would otherwise outlive this.
    for (role, _) in roles {
        outcome = outcome.and(end_sessions(connection, role).await);
    }
    outcome
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
