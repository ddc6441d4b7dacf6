//! The administrator's view: the same statement over rows chosen by plain WHERE clauses.

use anyhow::{Context, Result};
use serde_json::Value;
use storefence_devstack::mcp_client::Revision;
use storefence_tests::Shared;

/// Three roles, with the stores that the examples give them; none means all of Zava's.
pub const ROLES: [(&str, &[&str]); 3] = [
    ("seattle-manager", &["Seattle"]),
    ("puget-sound-regional", &["Seattle", "Bellevue", "Tacoma", "Everett", "Redmond", "Kirkland"]),
    ("head-office", &[]),
];

/// Zava's rows of these stores under the tables' own names.
fn tables(stores: &[&str]) -> String {
    let list: Vec<_> = stores.iter().map(|store| format!("'{store}'")).collect();
    let named = if list.is_empty() { "true".to_owned() } else { format!("store_name IN ({})", list.join(",")) };
    let tenant = "(SELECT tenant_key FROM retail.tenants WHERE tenant_id = 'zava')";
    let mine = "(SELECT store_id FROM stores)";
    format!(
        "WITH stores AS (SELECT * FROM retail.stores WHERE tenant_key = {tenant} AND {named}),
            categories AS (SELECT * FROM retail.categories WHERE tenant_key = {tenant}),
            product_types AS (SELECT * FROM retail.product_types WHERE tenant_key = {tenant}),
            products AS (SELECT * FROM retail.products WHERE tenant_key = {tenant}),
            customers AS (SELECT * FROM retail.customers WHERE primary_store_id IN {mine}),
            orders AS (SELECT * FROM retail.orders WHERE store_id IN {mine}),
            order_items AS (SELECT * FROM retail.order_items WHERE store_id IN {mine}),
            inventory AS (SELECT * FROM retail.inventory WHERE store_id IN {mine})"
    )
}

/// Rows of a statement as objects, over the rows of these stores.
pub async fn rows(shared: &Shared, stores: &[&str], sql: &str) -> Result<Vec<Value>> {
    let sql = format!("{} SELECT coalesce(json_agg(q), '[]')::text FROM ({sql}) q", tables(stores));
    let text: String = shared.database.query_one(&sql, &[]).await.with_context(|| sql.clone())?.get(0);
    Ok(serde_json::from_str(&text)?)
}

/// The one row of a statement.
pub async fn row(shared: &Shared, stores: &[&str], sql: &str) -> Result<Value> {
    rows(shared, stores, sql).await?.into_iter().next().context("no row")
}

/// `structuredContent` of a tool's answer.
pub async fn call(shared: &Shared, principal: &str, tool: &str, arguments: Value) -> Result<Value> {
    let answer = shared.client(principal, Revision::V2026_07_28)?.call_tool(tool, arguments).await?;
    anyhow::ensure!(answer.status.is_success() && !answer.is_tool_error(), "{principal} {tool}: {}", answer.message);
    Ok(answer.structured().clone())
}

/// Two numbers that are the same but for rounding to cents.
pub fn near(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => (a - b).abs() < 0.011,
        _ => a == b,
    }
}
