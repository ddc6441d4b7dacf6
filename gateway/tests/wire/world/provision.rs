//! Does the operator's work by hand: fence rows and logins, secrets, RetailTenant objects with a status.

use anyhow::{Context, Result};
use kube::{
    Api, Client, Config,
    api::{DynamicObject, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::{Value, json};
use storefence_devstack::{
    entra::principals::{
        CONTOSO_DOWNTOWN_OID, CONTOSO_HEAD_OFFICE_GROUP, CONTOSO_TENANT_ID, HEAD_OFFICE_ROLE, PUGET_SOUND_GROUP,
        REDMOND_MANAGERS_GROUP, SEATTLE_MANAGER_OID, ZAVA_TENANT_ID,
    },
    postgres::{Database, SslMode},
};
use storefence_tenancy::{
    TenantId,
    credentials::{ContextKey, Slot, context_secret_name, database_secret_name, login_role_name},
    resource::{RetailTenant, crd},
};

use super::World;

/// A tenant of the tests: identifiers, and orders per store.
pub struct Tenant {
    pub id: &'static str,
    pub directory: &'static str,
    pub stores: &'static [(&'static str, &'static str, i64)],
}

pub const ZAVA: Tenant = Tenant {
    id: "zava",
    directory: ZAVA_TENANT_ID,
    stores: &[
        ("Seattle", "0a000000-0000-4000-8000-000000000001", 7),
        ("Redmond", "0a000000-0000-4000-8000-000000000002", 5),
        ("Online", "0a000000-0000-4000-8000-000000000003", 3),
    ],
};
pub const CONTOSO: Tenant = Tenant {
    id: "contoso",
    directory: CONTOSO_TENANT_ID,
    stores: &[
        ("Downtown", "0c000000-0000-4000-8000-000000000001", 2),
        ("Harbor", "0c000000-0000-4000-8000-000000000002", 4),
    ],
};

impl Tenant {
    pub fn tenant_id(&self) -> TenantId {
        self.id.parse().expect("a tenant id")
    }

    fn principals(&self) -> Value {
        let head_office =
            |selector: &str, value: &str| json!({"name": "head-office", "role": "HeadOffice", selector: value});
        if self.id == "contoso" {
            return json!([
                head_office("entraGroup", CONTOSO_HEAD_OFFICE_GROUP),
                {"name": "downtown", "role": "StoreManager", "entraUser": CONTOSO_DOWNTOWN_OID, "stores": ["Downtown"]},
            ]);
        }
        json!([
            head_office("appRole", HEAD_OFFICE_ROLE),
            {"name": "seattle", "role": "StoreManager", "entraUser": SEATTLE_MANAGER_OID, "stores": ["Seattle"]},
            {"name": "redmond", "role": "StoreManager", "entraGroup": REDMOND_MANAGERS_GROUP, "stores": ["Redmond"]},
            {"name": "puget", "role": "RegionalManager", "entraGroup": PUGET_SOUND_GROUP, "stores": ["Seattle", "Redmond"]},
            {"name": "by-claim", "role": "StoreManager", "storesFromClaim": "extn.storeIds"},
        ])
    }

    /// The object as a platform team would write it.
    pub fn object(&self) -> Value {
        let stores: Vec<_> = self.stores.iter().map(|(name, id, _)| json!({"name": name, "id": id})).collect();
        json!({
            "apiVersion": "retail.storefence.dev/v1alpha1",
            "kind": "RetailTenant",
            "metadata": {"name": self.id, "namespace": "default"},
            "spec": {
                "tenantId": self.id,
                "displayName": format!("The tenant {}", self.id),
                "entra": {"tenantId": self.directory},
                "databaseRef": {"name": "retail"},
                "keyVaultRef": {"name": "main"},
                "stores": stores,
                "principals": self.principals(),
                "gateway": {"maxRows": 50, "maxResultBytes": 65536, "statementTimeout": "1s"},
            },
        })
    }
}

/// Runs a statement list as the administrator.
pub async fn admin(database: &Database, sql: &str) -> Result<()> {
    let (client, connection) = tokio_postgres::connect(&database.admin_url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    client.batch_execute(sql).await.map_err(|error| match error.as_db_error() {
        Some(db) => anyhow::anyhow!("{}: {} ({:?})", db.code().code(), db.message(), db.where_()),
        None => error.into(),
    })
}

/// Applies the migrations in order, one transaction each.
pub async fn migrate(database: &Database) -> Result<()> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations");
    let mut files: Vec<_> = std::fs::read_dir(directory)?.collect::<Result<_, _>>()?;
    files.sort_by_key(std::fs::DirEntry::file_name);
    for file in files {
        let path = file.path();
        if path.extension().is_some_and(|extension| extension == "sql") {
            let sql = format!("BEGIN;\n{}\nCOMMIT;", std::fs::read_to_string(&path)?);
            admin(database, &sql).await.with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl World {
    pub async fn kubernetes(&self) -> Result<Client> {
        let kubeconfig = Kubeconfig::from_yaml(&self.kube.kubeconfig())?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    }

    pub async fn tenants(&self) -> Result<Api<DynamicObject>> {
        Ok(Api::namespaced_with(self.kubernetes().await?, "default", &ApiResource::erase::<RetailTenant>(&())))
    }

    pub async fn install_crd(&self) -> Result<()> {
        let kind = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
        let api: Api<DynamicObject> = Api::all_with(self.kubernetes().await?, &ApiResource::from_gvk(&kind));
        let crd: DynamicObject = serde_json::from_value(serde_json::to_value(crd())?)?;
        api.create(&PostParams::default(), &crd).await?;
        Ok(())
    }

    /// Removes the CEL rules from the CustomResourceDefinition, or restores them.
    pub async fn loosen_crd(&self, loose: bool) -> Result<()> {
        fn without_rules(value: &mut Value) {
            match value {
                Value::Object(members) => {
                    members.remove("x-kubernetes-validations");
                    members.values_mut().for_each(without_rules);
                }
                Value::Array(items) => items.iter_mut().for_each(without_rules),
                _ => {}
            }
        }
        let kind = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
        let api: Api<DynamicObject> = Api::all_with(self.kubernetes().await?, &ApiResource::from_gvk(&kind));
        let mut new = serde_json::to_value(crd())?;
        if loose {
            without_rules(&mut new);
        }
        let name = new["metadata"]["name"].as_str().context("a name")?.to_owned();
        new["metadata"]["resourceVersion"] = json!(api.get(&name).await?.metadata.resource_version);
        api.replace(&name, &PostParams::default(), &serde_json::from_value(new)?).await?;
        Ok(())
    }

    /// Changes an object's spec, as `kubectl apply` would.
    pub async fn patch_spec(&self, name: &str, spec: Value) -> Result<()> {
        self.tenants().await?.patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await?;
        Ok(())
    }

    /// The logins of both slots, with the passwords of the tests.
    async fn logins(&self, tenant: &Tenant) -> Result<()> {
        for slot in Slot::ALL {
            self.login(tenant, slot, &format!("hunter2-{slot}-{}", tenant.id)).await?;
        }
        Ok(())
    }

    /// Sets the credentials in an object's status.
    pub async fn set_credentials(&self, name: &str, slot: Slot, kid: u32) -> Result<()> {
        let status = json!({"status": {"credentials": {"activeSlot": slot, "activeKid": kid}}});
        self.tenants().await?.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await?;
        Ok(())
    }

    /// Makes a tenant servable.
    pub async fn provision(&self, tenant: &Tenant) -> Result<()> {
        let id = tenant.tenant_id();
        let mut sql = format!(
            "SET ROLE retail_loader; INSERT INTO retail.tenants (tenant_id, display_name) VALUES ('{id}', '{id}'); RESET ROLE;\n\
             SET ROLE fence_owner; INSERT INTO fence.tenants (tenant_key, tenant_id, owner_uid) \
             SELECT {}, '{id}', 'uid-{id}'; RESET ROLE;\n",
            self.tenant_key_sql(tenant)
        );
        for (name, store, orders) in tenant.stores {
            let key = self.tenant_key_sql(tenant);
            sql += &format!(
                "SET ROLE fence_owner; INSERT INTO fence.tenant_stores VALUES ('{store}', {key}, '{name}'); RESET ROLE;\n\
                 SET ROLE retail_loader; INSERT INTO retail.stores (store_id, tenant_key, store_name) VALUES ('{store}', {key}, '{name}');\n\
                 INSERT INTO retail.customers (customer_id, primary_store_id, first_name, last_name, email) \
                 VALUES ('{store}', '{store}', 'A', 'Customer', '{name}@example.com');\n\
                 INSERT INTO retail.orders (store_id, customer_id, order_date) \
                 SELECT '{store}', '{store}', timestamptz '2026-01-01' + g * interval '1 day' FROM generate_series(1, {orders}) g; RESET ROLE;\n"
            );
        }
        admin(&self.database, &sql).await?;
        self.logins(tenant).await?;
        self.context_key(tenant, 1).await?;
        let object: DynamicObject = serde_json::from_value(tenant.object())?;
        self.tenants().await?.create(&PostParams::default(), &object).await?;
        self.set_credentials(tenant.id, Slot::A, 1).await
    }

    fn tenant_key_sql(&self, tenant: &Tenant) -> &'static str {
        if tenant.id == "zava" { "1" } else { "2" }
    }

    /// Creates a login slot, or changes its password, and writes the secret.
    pub async fn login(&self, tenant: &Tenant, slot: Slot, password: &str) -> Result<()> {
        let login = self.login_name(tenant, slot).await?;
        let key = self.tenant_key_sql(tenant);
        let sql = format!(
            "DO $do$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{login}') THEN \
             CREATE ROLE {login} LOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS; \
             GRANT fence_login TO {login} WITH INHERIT TRUE, SET FALSE, ADMIN FALSE; END IF; END $do$;\n\
             ALTER ROLE {login} PASSWORD '{password}';\n\
             SET ROLE fence_owner; INSERT INTO fence.logins VALUES ('{login}', {key}, '{slot}') ON CONFLICT DO NOTHING; RESET ROLE;"
        );
        admin(&self.database, &sql).await?;
        let uri = self.cluster.url(&login, password, &self.database.name, SslMode::VerifyFull);
        let uri = uri.split("&sslrootcert").next().unwrap_or_default();
        self.vault.put(&database_secret_name(&tenant.tenant_id(), slot), uri, &[]);
        Ok(())
    }

    pub async fn login_name(&self, tenant: &Tenant, slot: Slot) -> Result<String> {
        let salt: Vec<u8> = self
            .superuser()
            .await?
            .query_one("SELECT value FROM fence.settings WHERE name = 'role_salt'", &[])
            .await?
            .get(0);
        Ok(login_role_name(&salt, &tenant.tenant_id(), slot))
    }

    /// Creates a context key and writes the secret.
    pub async fn context_key(&self, tenant: &Tenant, kid: u32) -> Result<()> {
        let key = ContextKey::new(rand::random());
        let pads = key.pads();
        let sql = format!(
            "SET ROLE fence_owner; INSERT INTO fence.context_keys (tenant_key, kid, ipad, opad) VALUES ({}, {kid}, '\\x{}', '\\x{}')",
            self.tenant_key_sql(tenant),
            hex(&pads.inner),
            hex(&pads.outer)
        );
        admin(&self.database, &sql).await?;
        self.vault.put(&context_secret_name(&tenant.tenant_id(), kid), &key.to_base64(), &[]);
        Ok(())
    }
}
