//! Random tenants with stores, principals and rows.

use std::time::Duration;

use anyhow::{Context, Result};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Map, Value, json};
use storefence_tests::{Shared, wait_until};
use uuid::Uuid;

const TENANTS: usize = 5;

/// A tenant as it was applied.
pub struct Tenant {
    pub id: String,
    pub directory: Uuid,
    pub key: i32,
    pub stores: Vec<(String, Uuid)>,
    pub principals: Vec<Value>,
}

impl Tenant {
    /// Ids of the stores that the token may see, read off the words of the specification; empty: no access.
    ///
    /// This is the oracle: it shares no code with the product.
    pub fn visible(&self, claims: &Map<String, Value>) -> Vec<Uuid> {
        if claims["tid"] != json!(self.directory) {
            return Vec::new();
        }
        let list = |name: &str| claims.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
        let seen = |(name, id): &(String, Uuid)| {
            self.principals.iter().any(|rule| {
                if let Some(claim) = rule["storesFromClaim"].as_str() {
                    return list(claim).iter().any(|value| value == name || *value == json!(id));
                }
                let matches = rule["entraUser"] == claims["oid"]
                    || list("groups").contains(&rule["entraGroup"])
                    || list("roles").contains(&rule["appRole"])
                    || rule["claim"]["name"]
                        .as_str()
                        .is_some_and(|name| claims.get(name) == Some(&rule["claim"]["value"]));
                let stores = rule["stores"].as_array().cloned().unwrap_or_default();
                matches && (rule["role"] == "HeadOffice" || stores.contains(&json!(name)))
            })
        };
        self.stores.iter().filter(|store| seen(store)).map(|(_, id)| *id).collect()
    }
}

fn uuid(rng: &mut StdRng) -> Uuid {
    uuid::Builder::from_random_bytes(rng.random()).into_uuid()
}

/// One of few identities, so that rules and tokens meet.
fn identity(rng: &mut StdRng) -> Uuid {
    Uuid::from_u128(0x5eed_0000_0000_4000_8000_0000_0000_0000 + u128::from(rng.random_range(0..6u8)))
}

/// Makes the tenants, waits until they are Ready, and fills their tables.
pub async fn make(shared: &Shared, seed: u64) -> Result<Vec<Tenant>> {
    let mut rng = StdRng::seed_from_u64(seed);
    // Two tenants share a directory: a token may then match in both, each with its own rules.
    let directories: Vec<Uuid> = (0..TENANTS - 1).map(|_| uuid(&mut rng)).collect();
    let mut tenants = Vec::new();
    for n in 0..TENANTS {
        let stores: Vec<_> = (0..rng.random_range(2..6)).map(|s| (format!("Store {s}"), uuid(&mut rng))).collect();
        let principals = (0..rng.random_range(2..7)).map(|p| principal(&mut rng, p, &stores)).collect();
        let directory = directories[n.min(directories.len() - 1)];
        tenants.push(Tenant { id: format!("tenant-{n}"), directory, key: 0, stores, principals });
    }
    for tenant in &tenants {
        shared.stack.apply(&manifest(tenant).to_string()).await?;
    }
    for tenant in &mut tenants {
        wait_until("the tenant is Ready", Duration::from_secs(60), || async {
            let ready = shared.stack.condition("default", &tenant.id, "Ready").await?;
            Ok(ready.is_some_and(|ready| ready["status"] == "True"))
        })
        .await?;
        let sql = "SELECT tenant_key FROM retail.tenants WHERE tenant_id = $1";
        tenant.key = shared.database.query_one(sql, &[&tenant.id]).await?.get(0);
        fill(shared, tenant, &mut rng).await.with_context(|| format!("filling {}", tenant.id))?;
    }
    Ok(tenants)
}

fn manifest(tenant: &Tenant) -> Value {
    let stores: Vec<Value> = tenant.stores.iter().map(|(name, id)| json!({"name": name, "id": id})).collect();
    json!({
        "apiVersion": "retail.storefence.dev/v1alpha1", "kind": "RetailTenant", "metadata": {"name": tenant.id},
        "spec": {
            "tenantId": tenant.id, "entra": {"tenantId": tenant.directory},
            "databaseRef": {"name": "retail"}, "keyVaultRef": {"name": "main"},
            "stores": stores, "principals": tenant.principals,
            "gateway": {"maxRows": 100_000, "maxResultBytes": 67_108_864, "statementTimeout": "2s"},
        },
    })
}

fn principal(rng: &mut StdRng, n: usize, stores: &[(String, Uuid)]) -> Value {
    let mut rule = json!({"name": format!("p{n}"), "role": "RegionalManager"});
    match rng.random_range(0..5) {
        0 => rule["entraUser"] = json!(identity(rng)),
        1 => rule["entraGroup"] = json!(identity(rng)),
        2 => rule["appRole"] = json!(format!("Role.{}", rng.random_range(0..4))),
        3 => rule["claim"] = json!({"name": "department", "value": format!("d{}", rng.random_range(0..4))}),
        _ => {
            rule["storesFromClaim"] = json!("extn.storeIds");
            return rule;
        }
    }
    if rng.random_ratio(1, 5) {
        rule["role"] = json!("HeadOffice");
    } else {
        let n = rng.random_range(1..=stores.len());
        rule["stores"] = stores.choose_multiple(rng, n).map(|(name, _)| json!(name)).collect();
    }
    rule
}

/// Claims of a random caller of the tenant's directory (rarely another).
pub fn claims(rng: &mut StdRng, tenants: &[Tenant], tenant: &Tenant) -> Map<String, Value> {
    let directory =
        if rng.random_ratio(1, 20) { tenants.choose(rng).expect("tenants").directory } else { tenant.directory };
    let names = ["Store 0", "Store 1", "store 1", "*", "Store 9", ""];
    let mut stores: Vec<Value> = (0..rng.random_range(0..3)).map(|_| json!(names.choose(rng))).collect();
    stores.extend(rng.random_ratio(1, 3).then(|| json!(tenant.stores.choose(rng).expect("stores").1)));
    let Value::Object(mut claims) = json!({
        "tid": directory, "oid": identity(rng), "scp": "Retail.Query",
        "groups": (0..rng.random_range(0..3)).map(|_| json!(identity(rng))).collect::<Vec<_>>(),
        "roles": (0..rng.random_range(0..2)).map(|_| format!("Role.{}", rng.random_range(0..4))).collect::<Vec<_>>(),
        "department": format!("d{}", rng.random_range(0..6)),
        "extn.storeIds": stores,
    }) else {
        unreachable!("an object")
    };
    // Most callers meet a rule; what else they carry decides how much more they see.
    if rng.random_ratio(9, 10) {
        let rule = tenant.principals.choose(rng).expect("principals");
        for (claim, wanted) in [("oid", &rule["entraUser"]), ("department", &rule["claim"]["value"])] {
            if !wanted.is_null() {
                claims[claim] = wanted.clone();
            }
        }
        for (claim, wanted) in [("groups", &rule["entraGroup"]), ("roles", &rule["appRole"])] {
            claims[claim].as_array_mut().expect("an array").extend((!wanted.is_null()).then(|| wanted.clone()));
        }
    }
    claims
}

/// Rows in every table, few enough that joins of everything with everything stay small.
async fn fill(shared: &Shared, tenant: &Tenant, rng: &mut StdRng) -> Result<()> {
    let key = tenant.key;
    let mut sql = String::from("BEGIN;");
    let mut products = Vec::new();
    for c in 0..2 {
        let (category, kind) = (uuid(rng), uuid(rng));
        sql += &format!(
            "INSERT INTO retail.categories (category_id, tenant_key, category_name) VALUES ('{category}', {key}, 'C{c}');"
        );
        sql += &format!(
            "INSERT INTO retail.product_types (type_id, tenant_key, category_id, type_name) VALUES ('{kind}', {key}, '{category}', 'T{c}');"
        );
        for p in 0..3 {
            let (id, price) = (uuid(rng), rng.random_range(1..100));
            sql += &format!(
                "INSERT INTO retail.products (product_id, tenant_key, sku, product_name, category_id, type_id, cost, base_price)
                 VALUES ('{id}', {key}, 'SKU-{c}-{p}', 'Product {c} {p}', '{category}', '{kind}', {price}, {price} * 2);"
            );
            sql += &format!(
                "INSERT INTO retail.product_description_embeddings (product_id, tenant_key, description_embedding, model, content_hash)
                 VALUES ('{id}', {key}, array_fill({price}::real, ARRAY[1536])::vector, 'm{c}', md5('{id}'));"
            );
            products.push(id);
        }
    }
    for (name, store) in &tenant.stores {
        for product in &products {
            let stock = rng.random_range(0..50);
            sql += &format!(
                "INSERT INTO retail.inventory (store_id, product_id, stock_level) VALUES ('{store}', '{product}', {stock});"
            );
        }
        for c in 0..rng.random_range(2..5) {
            let customer = uuid(rng);
            sql += &format!(
                "INSERT INTO retail.customers (customer_id, primary_store_id, first_name, last_name, email)
                 VALUES ('{customer}', '{store}', 'F{c}', '{name}', 'c{c}@{}.example');",
                tenant.id
            );
            for _ in 0..rng.random_range(0..5) {
                let (order, day) = (uuid(rng), rng.random_range(0..400));
                sql += &format!(
                    "INSERT INTO retail.orders (order_id, store_id, customer_id, order_date)
                     VALUES ('{order}', '{store}', '{customer}', timestamptz '2025-01-01Z' + {day} * interval '1 day');"
                );
                for _ in 0..rng.random_range(1..4) {
                    let (item, product) = (uuid(rng), products.choose(rng).expect("products"));
                    let (quantity, price) = (rng.random_range(1..9), rng.random_range(1..100));
                    sql += &format!(
                        "INSERT INTO retail.order_items (order_item_id, order_id, store_id, product_id, quantity, unit_price, total_amount)
                         VALUES ('{item}', '{order}', '{store}', '{product}', {quantity}, {price}, {quantity} * {price});"
                    );
                }
            }
        }
    }
    sql += "COMMIT;";
    shared.database.batch_execute(&sql).await?;
    Ok(())
}
