//! Tenants of a database that no `RetailTenant` stands for: a restored backup brings back those that were deleted since.
//!
//! Who finds one marks it in the database; who knows its object takes the mark away. So several operators may share a
//! database, and a mark that has grown old says that nobody has claimed the tenant for so long. Then its access ends, as
//! at a deletion with `Revoke`. A tenant that was let go with `Retain` is marked as such and left alone.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sqlx::PgConnection;
use storefence_tenancy::TenantId;

use super::{Database, DatabaseError};

/// Marks stand in `fence.settings`, one for each UID.
const UNCLAIMED: &str = "unclaimed/";
const RETAINED: &str = "retained/";
/// Set once a database was looked at: what was unclaimed before that may have been let go by a release without marks.
const LOOKED: &str = "unclaimed-looked-at";

const FIND: &str = r"
SELECT t.tenant_id, t.owner_uid, t.enabled,
       (SELECT convert_from(s.value, 'UTF8')::bigint FROM fence.settings s WHERE s.name = $2 || t.owner_uid) AS since,
       (SELECT coalesce(array_agg(l.login::text ORDER BY l.login), '{}') FROM fence.logins l WHERE l.tenant_key = t.tenant_key) AS logins,
       EXISTS (SELECT FROM fence.settings s WHERE s.name = $4) AS looked
  FROM fence.tenants t
 WHERE NOT t.owner_uid = ANY ($1) AND NOT EXISTS (SELECT FROM fence.settings s WHERE s.name = $3 || t.owner_uid)
 ORDER BY t.tenant_id";

/// A tenant that no `RetailTenant` stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unclaimed {
    pub tenant_id: String,
    /// UID of the object that it belonged to.
    pub owner_uid: String,
    /// Whether its calls are answered.
    pub enabled: bool,
    /// Since when it is known, in Unix seconds.
    pub since: i64,
}

type Row = (String, String, bool, Option<i64>, Vec<String>, bool);

impl Database {
    /// Looks for tenants whose object is not among `claimed`, and ends the access of those that have been so for longer
    /// than `grace`, if `may_close`; gives all of them. Whether any tenant is claimed comes with it.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn close_unclaimed(
        &self,
        claimed: &BTreeSet<String>,
        grace: Duration,
        may_close: bool,
    ) -> Result<Vec<Unclaimed>, DatabaseError> {
        self.may_write()?;
        let claimed: Vec<&str> = claimed.iter().map(String::as_str).collect();
        let mut connection = self.acquire().await?;
        let rows = sqlx::query_as::<_, Row>(FIND).bind(&claimed).bind(UNCLAIMED).bind(RETAINED).bind(LOOKED);
        let rows = self.within("observe", rows.fetch_all(&mut *connection)).await?;
        self.within("observe", take_marks_away(&mut connection, &claimed)).await?;
        let looked = match rows.first() {
            Some(row) => row.5,
            None => self.within("observe", has_mark(&mut connection, LOOKED)).await?,
        };
        if !looked {
            for (tenant, uid, ..) in rows.iter().filter(|row| row.2) {
                tracing::warn!(
                    database = self.place(),
                    tenant,
                    uid,
                    "has no RetailTenant and counts as let go with Retain"
                );
                self.within("observe", mark(&mut connection, &format!("{RETAINED}{uid}"), "")).await?;
            }
            self.within("observe", mark(&mut connection, LOOKED, "")).await?;
            return Ok(Vec::new());
        }
        let now = now();
        let mut found = Vec::new();
        for (tenant_id, owner_uid, mut enabled, since, logins, _) in rows {
            // What is closed and was never marked was deleted in order.
            let Some(since) = since.or_else(|| enabled.then_some(now)) else { continue };
            if since == now {
                tracing::warn!(
                    database = self.place(),
                    tenant = tenant_id,
                    uid = owner_uid,
                    "has no RetailTenant: a restored backup brings deleted tenants back"
                );
                self.within("observe", mark(&mut connection, &format!("{UNCLAIMED}{owner_uid}"), &now.to_string()))
                    .await?;
            }
            let age = Duration::from_secs(u64::try_from(now - since).unwrap_or(0));
            if enabled && may_close && age >= grace && self.close_one(&tenant_id, &owner_uid, &logins).await? {
                tracing::warn!(
                    database = self.place(),
                    tenant = tenant_id,
                    uid = owner_uid,
                    "its access is ended: no RetailTenant has claimed it"
                );
                enabled = false;
            }
            found.push(Unclaimed { tenant_id, owner_uid, enabled, since });
        }
        Ok(found)
    }

    async fn close_one(&self, tenant_id: &str, owner_uid: &str, logins: &[String]) -> Result<bool, DatabaseError> {
        let Ok(tenant) = tenant_id.parse::<TenantId>() else { return Ok(false) };
        let Some(mut lock) = self.lock(&tenant).await? else { return Ok(false) };
        let outcome = self.revoke(&mut lock, &tenant, owner_uid, logins).await;
        lock.release().await;
        outcome.map(|()| true)
    }

    /// Marks a tenant as one that is let go and keeps its access.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn mark_retained(&self, owner_uid: &str) -> Result<(), DatabaseError> {
        self.may_write()?;
        let mut connection = self.acquire().await?;
        self.within("revoke", mark(&mut connection, &format!("{RETAINED}{owner_uid}"), "")).await
    }
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

async fn mark(connection: &mut PgConnection, name: &str, value: &str) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO fence.settings (name, value) VALUES ($1, convert_to($2, 'UTF8')) ON CONFLICT (name) DO NOTHING",
    )
    .bind(name)
    .bind(value)
    .execute(connection)
    .await
    .map(drop)
}

async fn has_mark(connection: &mut PgConnection, name: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM fence.settings WHERE name = $1)")
        .bind(name)
        .fetch_one(connection)
        .await
}

/// Of tenants that are claimed, and of those that are gone or another object's.
async fn take_marks_away(connection: &mut PgConnection, claimed: &[&str]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "DELETE FROM fence.settings s WHERE starts_with(s.name, $1) \
            AND (substr(s.name, length($1) + 1) = ANY ($2) \
                 OR NOT EXISTS (SELECT FROM fence.tenants t WHERE t.owner_uid = substr(s.name, length($1) + 1)))",
    )
    .bind(UNCLAIMED)
    .bind(claimed)
    .execute(connection)
    .await
    .map(drop)
}

/// The tenants that are marked, for whoever compares the database alone.
///
/// # Errors
/// The server's.
pub async fn marked(connection: &mut PgConnection) -> Result<Vec<Unclaimed>, sqlx::Error> {
    let rows: Vec<(String, String, bool, i64)> = sqlx::query_as(
        "SELECT t.tenant_id, t.owner_uid, t.enabled, convert_from(s.value, 'UTF8')::bigint \
           FROM fence.tenants t JOIN fence.settings s ON s.name = $1 || t.owner_uid ORDER BY 1",
    )
    .bind(UNCLAIMED)
    .fetch_all(connection)
    .await?;
    let unclaimed = |(tenant_id, owner_uid, enabled, since)| Unclaimed { tenant_id, owner_uid, enabled, since };
    Ok(rows.into_iter().map(unclaimed).collect())
}
