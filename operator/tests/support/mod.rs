//! A throw-away database with the fence in it, and tenants made by SQL exactly as the operator makes them.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod flight;
pub mod oracle;

use std::{future::Future, str::FromStr};

use sqlx::postgres::PgConnectOptions;
use storefence_devstack::postgres::{AdminKind, Binaries, Cluster, ClusterOptions, Database, SslMode};
use storefence_operator::migrate;
use storefence_tenancy::{
    TenantId,
    credentials::{ContextKey, Slot, login_role_name},
    scope::StoreSet,
};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

/// Every server and administrator that Storefence supports.
pub const WORLDS: [(u32, AdminKind); 4] =
    [(18, AdminKind::Superuser), (18, AdminKind::CreateRole), (16, AdminKind::Superuser), (16, AdminKind::CreateRole)];

/// Password of every login: they live as long as a test.
const PASSWORD: &str = "only-for-this-test";

/// One cluster with one migrated database.
pub struct World {
    pub cluster: Cluster,
    pub database: Database,
    pub admin: Client,
    pub label: String,
}

/// A tenant as the operator leaves it, with some rows of data.
pub struct Tenant {
    pub id: TenantId,
    pub tenant_key: i32,
    pub key: ContextKey,
    pub kid: u32,
    /// Names of the two login roles.
    pub logins: [String; 2],
    /// Identifier and name of each store.
    pub stores: Vec<(Uuid, String)>,
}

/// Runs a test in a world of its own, on a runtime of its own.
pub fn in_world<F, Fut>((version, kind): (u32, AdminKind), test: F)
where
    F: FnOnce(World) -> Fut,
    Fut: Future<Output = ()>,
{
    runtime().block_on(async {
        let world = World::start(version, kind).await;
        test(world).await;
    });
}

/// A runtime with two threads, so that a deadline can pass while a statement runs.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Connects; the connection lives as long as the client.
pub async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// How sqlx connects to a URL.
pub fn options(url: &str) -> PgConnectOptions {
    PgConnectOptions::from_str(url).unwrap()
}

impl World {
    pub async fn start(version: u32, kind: AdminKind) -> Self {
        let world = Self::unmigrated(version, kind).await;
        migrate::run(&options(&world.database.admin_url)).await.unwrap();
        world
    }

    pub async fn unmigrated(version: u32, kind: AdminKind) -> Self {
        let binaries = tokio::task::spawn_blocking(move || Binaries::find(Some(version))).await.unwrap().unwrap();
        // a lock table that a statement can fill within its time
        let settings = vec![("max_locks_per_transaction".to_owned(), "16".to_owned())];
        let cluster =
            Cluster::start(ClusterOptions { binaries: Some(binaries), settings, ..ClusterOptions::default() })
                .await
                .unwrap();
        let database = cluster.create_database("retail", kind).await.unwrap();
        let admin = connect(&database.admin_url).await.unwrap();
        // What an administrator that is no superuser needs for the logins' limit of temporary files.
        let superuser = cluster.connect(&database.name).await.unwrap();
        let grant = format!("GRANT SET ON PARAMETER temp_file_limit TO {}", database.admin);
        superuser.batch_execute(&grant).await.unwrap();
        Self { cluster, database, admin, label: format!("PostgreSQL {version}, {kind:?} administrator") }
    }

    /// A connection as superuser, whoever the administrator is.
    pub async fn superuser(&self) -> Client {
        self.cluster.connect(&self.database.name).await.unwrap()
    }

    /// What the operator does for a new tenant, and a few rows for each of its stores.
    pub async fn provision(&self, id: &str, stores: usize) -> Tenant {
        let id: TenantId = id.parse().unwrap();
        let key = ContextKey::new(rand::random());
        let salt: Vec<u8> = self
            .admin
            .query_one("SELECT value FROM fence.settings WHERE name = 'role_salt'", &[])
            .await
            .unwrap()
            .get(0);
        let logins = Slot::ALL.map(|slot| login_role_name(&salt, &id, slot));
        for login in &logins {
            self.admin
                .batch_execute(&format!(
                    "CREATE ROLE {login} LOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS \
                     CONNECTION LIMIT 50 PASSWORD '{PASSWORD}'; \
                     ALTER ROLE {login} SET search_path = retail, public; \
                     ALTER ROLE {login} SET statement_timeout = '5s'; \
                     ALTER ROLE {login} SET temp_file_limit = '1GB'; \
                     GRANT fence_login TO {login} WITH INHERIT TRUE, SET FALSE, ADMIN FALSE"
                ))
                .await
                .unwrap();
        }
        let name = id.as_str();
        self.admin
            .execute("INSERT INTO retail.tenants (tenant_id, display_name) VALUES ($1, $1)", &[&name])
            .await
            .unwrap();
        let tenant_key: i32 = self
            .admin
            .query_one(
                "INSERT INTO fence.tenants (tenant_key, tenant_id, owner_uid) \
                 SELECT tenant_key, tenant_id, 'uid of ' || tenant_id FROM retail.tenants WHERE tenant_id = $1 RETURNING tenant_key",
                &[&name],
            )
            .await
            .unwrap()
            .get(0);
        for (login, slot) in logins.iter().zip(Slot::ALL) {
            self.admin
                .execute(
                    "INSERT INTO fence.logins (login, tenant_key, slot) VALUES ($1, $2, $3)",
                    &[login, &tenant_key, &slot.as_str()],
                )
                .await
                .unwrap();
        }
        let mut tenant = Tenant { id, tenant_key, key, kid: 1, logins, stores: Vec::new() };
        self.add_key(&tenant, 1, &tenant.key).await;
        for number in 1..=stores {
            let store = (Uuid::new_v4(), format!("Zq-{}-{number}", tenant.id));
            self.admin
                .execute(
                    "WITH s AS (INSERT INTO retail.stores (store_id, tenant_key, store_name) VALUES ($1, $2, $3)) \
                     INSERT INTO fence.tenant_stores (store_id, tenant_key, store_name) VALUES ($1, $2, $3)",
                    &[&store.0, &tenant_key, &store.1],
                )
                .await
                .unwrap();
            tenant.stores.push(store);
        }
        tenant
    }

    /// A context key as the fence stores it.
    pub async fn add_key(&self, tenant: &Tenant, kid: i32, key: &ContextKey) {
        let pads = key.pads();
        self.admin
            .execute(
                "INSERT INTO fence.context_keys (tenant_key, kid, ipad, opad) VALUES ($1, $2, $3, $4)",
                &[&tenant.tenant_key, &kid, &pads.inner.as_slice(), &pads.outer.as_slice()],
            )
            .await
            .unwrap();
    }

    /// Rows for all stores and tenants so far: those of different stores lie side by side, as in a real table.
    pub async fn fill(&self) {
        self.admin
            .batch_execute(
                "INSERT INTO retail.categories (tenant_key, category_name) \
                     SELECT tenant_key, 'category of Zq-' || tenant_id FROM retail.tenants; \
                 INSERT INTO retail.product_types (tenant_key, category_id, type_name) \
                     SELECT tenant_key, category_id, 'type ' || category_name FROM retail.categories; \
                 INSERT INTO retail.products (tenant_key, sku, product_name, category_id, type_id, cost, base_price, product_description) \
                     SELECT tenant_key, 'sku-' || g, category_name || ' product ' || g, category_id, type_id, g, g * 2, 'about ' || type_name \
                       FROM retail.categories JOIN retail.product_types USING (tenant_key, category_id), generate_series(1, 8) g; \
                 INSERT INTO retail.product_description_embeddings (tenant_key, product_id, description_embedding, model, content_hash) \
                     SELECT tenant_key, product_id, array_fill((row_number() OVER ())::real, ARRAY[1536])::vector, 'm', md5(product_name) FROM retail.products; \
                 INSERT INTO retail.customers (primary_store_id, first_name, last_name, email, created_at) \
                     SELECT store_id, 'First' || g, store_name, 'c' || g || '@' || store_name || '.example', '2026-01-01Z' \
                       FROM generate_series(1, 12) g, retail.stores; \
                 INSERT INTO retail.orders (store_id, customer_id, order_date) \
                     SELECT primary_store_id, customer_id, '2026-01-01Z'::timestamptz + g * interval '1 day' FROM generate_series(1, 3) g, retail.customers; \
                 INSERT INTO retail.order_items (order_id, store_id, product_id, quantity, unit_price, total_amount) \
                     SELECT order_id, store_id, product_id, 1 + length(sku) % 3, base_price, base_price * (1 + length(sku) % 3) \
                       FROM retail.orders JOIN retail.stores USING (store_id) JOIN retail.products USING (tenant_key) WHERE sku < 'sku-4'; \
                 INSERT INTO retail.inventory (store_id, product_id, stock_level) \
                     SELECT store_id, product_id, 7 FROM retail.stores JOIN retail.products USING (tenant_key)",
            )
            .await
            .unwrap();
        self.superuser().await.batch_execute("ANALYZE").await.unwrap();
    }
}

impl Tenant {
    /// The first `count` stores as a scope.
    pub fn first(&self, count: usize) -> StoreSet {
        StoreSet::Some(self.stores.iter().take(count).map(|store| store.0).collect())
    }

    /// How the tenant's login of slot a connects.
    pub fn url(&self, world: &World) -> String {
        self.url_of(world, 0)
    }

    /// How one of its logins connects.
    pub fn url_of(&self, world: &World, slot: usize) -> String {
        world.cluster.url(&self.logins[slot], PASSWORD, &world.database.name, SslMode::Disable)
    }
}
