//! Questions and their answers, compared with SQL run as administrator.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use storefence_devstack::mcp_client::Revision;
use storefence_tests::Shared;

/// Who sees which stores: the principals of `examples/`, by name of store.
pub const REACH: [(&str, &[&str]); 8] = [
    ("head-office", &["Seattle", "Bellevue", "Tacoma", "Spokane", "Everett", "Redmond", "Kirkland", "Online"]),
    ("seattle-manager", &["Seattle"]),
    ("redmond-manager", &["Redmond"]),
    ("online-manager", &["Online"]),
    ("puget-sound-regional", &["Seattle", "Bellevue", "Tacoma", "Everett", "Redmond", "Kirkland"]),
    ("claim-user", &["Seattle", "Redmond"]),
    ("contoso-head-office", &["Downtown", "Harbor", "Airport", "Riverside"]),
    ("contoso-downtown-manager", &["Downtown"]),
];

/// Tables with a store, and the column that names it.
const STORE_TABLES: [(&str, &str); 5] = [
    ("stores", "store_id"),
    ("customers", "primary_store_id"),
    ("orders", "store_id"),
    ("order_items", "store_id"),
    ("inventory", "store_id"),
];

/// Tables whose rows belong to a tenant as a whole.
const TENANT_TABLES: [&str; 5] =
    ["tenants", "categories", "product_types", "products", "product_description_embeddings"];

fn tenant_of(principal: &str) -> &'static str {
    if principal.starts_with("contoso") { "contoso" } else { "zava" }
}

/// The ids of a principal's stores as an SQL list.
pub async fn store_list(shared: &Shared, principal: &str) -> Result<String> {
    let names = REACH.iter().find(|(name, _)| *name == principal).expect("a known principal").1;
    let sql = "SELECT s.store_id::text FROM retail.stores s JOIN retail.tenants t USING (tenant_key)
               WHERE t.tenant_id = $1 AND s.store_name = ANY ($2)";
    let rows = shared.database.query(sql, &[&tenant_of(principal), &names]).await?;
    ensure!(rows.len() == names.len(), "{principal}: {} of {} stores are in the database", rows.len(), names.len());
    Ok(rows.iter().map(|row| format!("'{}'", row.get::<_, String>(0))).collect::<Vec<_>>().join(","))
}

pub async fn counts(shared: &Shared) -> Result<()> {
    for (principal, _) in REACH {
        let stores = store_list(shared, principal).await?;
        for revision in Revision::ALL {
            for (table, column) in STORE_TABLES {
                let seen = shared.count(principal, revision, &format!("SELECT count(*) FROM retail.{table}")).await?;
                let expected =
                    shared.oracle(&format!("SELECT count(*) FROM retail.{table} WHERE {column} IN ({stores})")).await?;
                ensure!(seen == expected, "{principal} {revision:?} {table}: {seen} instead of {expected}");
                ensure!(expected > 0, "{principal} {table}: no sample data");
            }
        }
    }
    Ok(())
}

pub async fn sum(shared: &Shared) -> Result<()> {
    let sql = "SELECT count(*), sum(total_amount) FROM retail.order_items";
    let all = shared.ask("head-office", Revision::V2026_07_28, sql).await?;
    let by_store = "SELECT s.store_name, count(*), sum(i.total_amount) FROM retail.order_items i
                    JOIN retail.stores s USING (store_id) GROUP BY 1 ORDER BY 1";
    let rows = shared.ask("head-office", Revision::V2026_07_28, by_store).await?.rows;
    ensure!(rows.len() == 8, "{} stores sold something", rows.len());
    let orders: i64 = rows.iter().filter_map(|row| row[1].as_i64()).sum();
    ensure!(all.rows[0][0] == json!(orders), "{:?} {orders}", all.rows);
    let seattle = shared.ask("seattle-manager", Revision::V2026_07_28, by_store).await?.rows;
    let in_all = rows.iter().find(|row| row[0] == "Seattle");
    ensure!(seattle.len() == 1 && Some(&seattle[0]) == in_all, "{seattle:?} {in_all:?}");
    Ok(())
}

pub async fn foreign(shared: &Shared) -> Result<()> {
    let zava = store_list(shared, "head-office").await?;
    for principal in ["contoso-head-office", "contoso-downtown-manager"] {
        for (table, column) in STORE_TABLES {
            let sql = format!("SELECT count(*) FROM retail.{table} WHERE {column} IN ({zava})");
            ensure!(shared.count(principal, Revision::V2026_07_28, &sql).await? == 0, "{principal} {table}");
        }
        for table in TENANT_TABLES {
            let sql = format!("SELECT count(*) FROM retail.{table}");
            let seen = shared.count(principal, Revision::V2026_07_28, &sql).await?;
            let own = format!("{sql} JOIN retail.tenants t USING (tenant_key) WHERE t.tenant_id = 'contoso'");
            let own = if table == "tenants" { "SELECT 1::bigint".to_owned() } else { own };
            let expected = shared.oracle(&own).await?;
            ensure!(seen == expected, "{principal} {table}: {seen} instead of {expected}");
        }
    }
    Ok(())
}

pub async fn tools(shared: &Shared) -> Result<()> {
    for revision in Revision::ALL {
        let client = shared.client("puget-sound-regional", revision)?;
        let stores = client.call_tool("list_stores", json!({})).await?;
        let mut names: Vec<&str> = stores.structured()["stores"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|store| store["name"].as_str())
            .collect();
        names.sort_unstable();
        ensure!(names == ["Bellevue", "Everett", "Kirkland", "Redmond", "Seattle", "Tacoma"], "{stores:?}");
        let now = client.call_tool("get_current_utc_date", json!({})).await?;
        ensure!(now.status.is_success() && !now.is_tool_error(), "{now:?}");
        let unknown = client.call_tool("drop_everything", json!({})).await?;
        ensure!(unknown.message["error"]["code"] == -32602, "{unknown:?}");
        let list = client.send("tools/list", json!({})).await?;
        let listed: Vec<&str> =
            list.result()["tools"].as_array().into_iter().flatten().filter_map(|tool| tool["name"].as_str()).collect();
        for tool in ["execute_sales_query", "get_current_utc_date", "list_stores"] {
            ensure!(listed.contains(&tool), "{tool} is not in {listed:?}");
        }
    }
    Ok(())
}

pub async fn endpoints(shared: &Shared) -> Result<()> {
    let token = shared.token("seattle-manager", json!({}))?;
    let ask = json!({"postgresql_query": "SELECT count(*) FROM retail.orders"});
    let mut answers = Vec::new();
    for path in ["/mcp", "/zava/mcp"] {
        let client = shared.client_with(Some(token.clone()), path, Revision::V2026_07_28);
        answers.push(client.call_tool("execute_sales_query", ask.clone()).await?.structured()["rows"].clone());
    }
    ensure!(answers[0] == answers[1] && answers[0][0][0].as_i64() > Some(0), "{answers:?}");
    // A tenant of others and one that does not exist look the same.
    let mut refusals = Vec::new();
    for path in ["/contoso/mcp", "/nobody/mcp"] {
        let client = shared.client_with(Some(token.clone()), path, Revision::V2026_07_28);
        let refused = client.call_tool("execute_sales_query", ask.clone()).await?;
        let id = refused.structured()["correlationId"].as_str().context("no correlation id")?;
        refusals.push((refused.is_tool_error(), refused.message.to_string().replace(id, "ID")));
    }
    ensure!(refusals[0].0 && refusals[0] == refusals[1], "{refusals:?}");
    Ok(())
}

pub async fn zero_rows(shared: &Shared) -> Result<()> {
    let sql = "SELECT order_id, order_date AS day, 1 AS n FROM retail.orders WHERE false";
    let answer = shared.ask("seattle-manager", Revision::V2026_07_28, sql).await?;
    ensure!(answer.columns == ["order_id", "day", "n"] && answer.rows.is_empty() && !answer.truncated, "{answer:?}");
    Ok(())
}
