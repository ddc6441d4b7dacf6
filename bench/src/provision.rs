//! Tenants in a database, by SQL and many at a time: what the operator leaves there, without the operator.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use storefence_devstack::{
    postgres::{AdminKind, Cluster, Database, SslMode},
    process::Spawn,
};
use storefence_tenancy::credentials::ContextKey;
use tokio_postgres::Client;

use crate::{flight::Tenant, world};

/// Logins are made in transactions of this many tenants: each takes locks.
const BATCH: usize = 500;
const PASSWORD: &str = "only-for-this-run";

/// A server with a migrated database of its own.
pub struct Fenced {
    /// The server.
    pub cluster: Cluster,
    pub database: Database,
    /// A superuser in it.
    pub admin: Client,
    key: ContextKey,
}

impl Fenced {
    /// Starts a server and migrates a database in it with the operator's binary.
    pub async fn start(directory: &Path) -> Result<Self> {
        let cluster = world::cluster().await?;
        let database = cluster.create_database("retail", AdminKind::CreateRole).await?;
        let name = format!("migrate-{}", cluster.port());
        let config = directory.join(format!("{name}.yaml"));
        std::fs::write(
            &config,
            json!({"databases": [{"name": "retail", "adminUrl": database.admin_url}], "keyVaults": []}).to_string(),
        )?;
        let operator = std::env::current_exe()?.with_file_name("storefence-operator");
        let spawn = Spawn::new(operator).arg("migrate").arg("--config").arg(&config).env_clear();
        let mut child = spawn.log(directory.join(format!("{name}.log"))).start()?;
        let status = child.wait(Duration::from_secs(60)).await?;
        ensure!(status.is_some_and(|status| status.success()), "migrate: {}", child.log_tail(10));
        let admin = cluster.connect("retail").await?;
        Ok(Self { cluster, database, admin, key: ContextKey::new(rand::random()) })
    }

    /// Makes tenants `t-00001` and so on, with this many stores each.
    pub async fn provision(&self, tenants: usize, stores: usize) -> Result<()> {
        let pads = self.key.pads();
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let (inner, outer) = (hex(&pads.inner), hex(&pads.outer));
        let rows = format!(
            "INSERT INTO retail.tenants (tenant_id, display_name) SELECT 't-' || lpad(g::text, 5, '0'), 'Tenant ' || g FROM generate_series(1, {tenants}) g;
             INSERT INTO fence.tenants (tenant_key, tenant_id, owner_uid) SELECT tenant_key, tenant_id, 'uid-' || tenant_id FROM retail.tenants;
             INSERT INTO retail.stores (store_id, tenant_key, store_name) SELECT md5(tenant_key || '-' || s)::uuid, tenant_key, 'Store ' || s FROM retail.tenants, generate_series(1, {stores}) s;
             INSERT INTO fence.tenant_stores (store_id, tenant_key, store_name) SELECT store_id, tenant_key, store_name FROM retail.stores;
             INSERT INTO fence.logins (login, tenant_key, slot) SELECT 'sf_' || left(md5(tenant_id), 12) || '_' || slot, tenant_key, slot FROM retail.tenants, unnest(ARRAY['a', 'b']) slot;
             INSERT INTO fence.context_keys (tenant_key, kid, ipad, opad) SELECT tenant_key, 1, '\\x{inner}', '\\x{outer}' FROM retail.tenants;"
        );
        self.admin.batch_execute(&rows).await.context("rows")?;
        for from in (0..tenants).step_by(BATCH) {
            let logins = format!(
                "DO $do$ DECLARE l name; BEGIN
                 FOR l IN SELECT login FROM fence.logins WHERE tenant_key > {from} AND tenant_key <= {from} + {BATCH} LOOP
                     EXECUTE format('CREATE ROLE %I LOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 50', l);
                     EXECUTE format('ALTER ROLE %I SET search_path = retail, public', l);
                     EXECUTE format('ALTER ROLE %I SET statement_timeout = ''30s''', l);
                     EXECUTE format('GRANT fence_login TO %I WITH INHERIT TRUE, SET FALSE, ADMIN FALSE', l);
                 END LOOP; END $do$"
            );
            self.admin.batch_execute(&logins).await.context("logins")?;
        }
        self.admin.batch_execute("VACUUM ANALYZE").await?;
        Ok(())
    }

    /// What it takes to make calls of a tenant.
    pub async fn tenant(&self, number: usize) -> Result<Tenant> {
        let id = format!("t-{number:05}");
        let login: String = self
            .admin
            .query_one("SELECT login::text FROM fence.logins JOIN fence.tenants USING (tenant_key) WHERE tenant_id = $1 AND slot = 'a'", &[&id])
            .await?
            .get(0);
        // Only those that are used get one: hashing a password takes longer than all the rest.
        self.admin.batch_execute(&format!("ALTER ROLE {login} PASSWORD '{PASSWORD}'")).await?;
        let url = self.cluster.url(&login, PASSWORD, &self.database.name, SslMode::Disable);
        Ok(Tenant { id: id.parse()?, url, key: Arc::new(self.key.clone()), kid: 1 })
    }

    /// Number of a tenant in the database.
    pub async fn key_of(&self, number: usize) -> Result<i32> {
        let id = format!("t-{number:05}");
        Ok(self.admin.query_one("SELECT tenant_key FROM retail.tenants WHERE tenant_id = $1", &[&id]).await?.get(0))
    }

    /// Ends the server.
    pub async fn stop(self) -> Result<()> {
        drop(self.admin);
        Ok(self.cluster.stop().await?)
    }
}
