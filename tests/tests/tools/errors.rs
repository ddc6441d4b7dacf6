//! What the tools say to wrong arguments, foreign stores, missing names and slow statements.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use storefence_devstack::mcp_client::Revision;
use storefence_tests::Shared;

use super::every_tool::counted;

/// Code and message of a tool error.
async fn refused(shared: &Shared, principal: &str, revision: Revision, tool: &str, arguments: &Value) -> Result<Value> {
    let answer = shared.client(principal, revision)?.call_tool(tool, arguments.clone()).await?;
    ensure!(answer.status == 200 && answer.is_tool_error(), "{tool} {arguments}: {}", answer.message);
    let text = answer.result()["content"][0]["text"].as_str().unwrap_or_default();
    let code = answer.structured()["code"].as_str().context("no code")?;
    ensure!(text.starts_with(code), "{text}");
    Ok(answer.structured().clone())
}

pub async fn arguments(shared: &Shared) -> Result<()> {
    let performance = "get_store_performance";
    let recommendations = "get_product_recommendations";
    let schemas = "get_multiple_table_schemas";
    let cases = [
        ("execute_sales_query", json!({"sql": "SELECT 1"}), ["sql", "postgresql_query"]),
        ("execute_sales_query", json!({"postgresql_query": 7}), ["postgresql_query is 7", "SELECT"]),
        ("execute_sales_query", json!({}), ["postgresql_query is missing", "SELECT"]),
        (performance, json!({"period": "7d", "from": "2026-01-01"}), ["to is missing", "ignored period"]),
        (performance, json!({"time_period": "next week"}), ["time_period is \"next week\"", "YYYY-Qn"]),
        (performance, json!({"time_period": "2099-01"}), ["time_period is \"2099-01\"", "YYYY-MM"]),
        (performance, json!({"time_period": "7d", "from": "2026-01-01"}), ["time_period", "not both"]),
        (performance, json!({"from": "2026-01-01"}), ["to is missing", "belong together"]),
        (performance, json!({"from": "1.1.2026", "to": "2026-01-02"}), ["from is \"1.1.2026\"", "YYYY-MM-DD"]),
        (performance, json!({"store": ["Seattle", "Redmond"]}), ["store is [\"Seattle\"", "string"]),
        (recommendations, json!({}), ["product", "SKU"]),
        (recommendations, json!({"product": "no such thing'; --"}), ["no such thing'; --", "no product"]),
        (recommendations, json!({"product": "a", "kind": "cheap"}), ["kind is \"cheap\"", "bought_together"]),
        (recommendations, json!({"product": "a", "max_results": 51}), ["max_results is 51", "from 1 to 50"]),
        (recommendations, json!({"product": "e"}), ["several products match", "name one of"]),
        (schemas, json!({"table_names": [7]}), ["table_names is [7]", "1 to 20"]),
        (schemas, json!({"table_names": 7}), ["table_names is 7", "array"]),
    ];
    for revision in Revision::ALL {
        for (tool, arguments, words) in &cases {
            let said = refused(shared, "seattle-manager", revision, tool, arguments).await?;
            ensure!(said["code"] == "VALIDATION_ERROR", "{tool} {arguments}: {said}");
            let message = said["message"].as_str().unwrap_or_default();
            ensure!(words.iter().all(|word| message.contains(word)), "{tool} {arguments}: {message}");
        }
    }
    Ok(())
}

pub async fn stores(shared: &Shared) -> Result<()> {
    let redmond = "e7f8a9b0-c1d2-3e4f-5678-90abcdef1234";
    let mut messages = Vec::new();
    for store in ["Redmond", "Atlantis", redmond, "00000000-0000-4000-8000-000000000000", "Contoso Downtown"] {
        let arguments = json!({"store": store});
        let said =
            refused(shared, "seattle-manager", Revision::V2026_07_28, "get_store_performance", &arguments).await?;
        ensure!(said["code"] == "AUTHORIZATION_ERROR", "{store}: {said}");
        let id = said["correlationId"].as_str().context("no correlation id")?;
        let message = said["message"].as_str().unwrap_or_default();
        ensure!(message.contains(id), "{said}");
        messages.push(message.replace(store, "STORE").replace(id, "ID"));
    }
    messages.dedup();
    ensure!(messages.len() == 1, "a store of others can be told from one that does not exist: {messages:?}");
    Ok(())
}

pub async fn names(shared: &Shared) -> Result<()> {
    for (sql, sqlstate, near) in [
        ("SELECT o.order_dat FROM retail.orders o", "42703", "orders.order_date"),
        ("SELECT revenue, total_amont FROM retail.order_items", "42703", ""),
        ("SELECT total_amont FROM retail.order_items", "42703", "order_items.total_amount"),
        ("SELECT total_amount FROM retail.orders", "42703", "order_items.total_amount"),
        ("SELECT count(*) FROM retail.order_item", "42P01", "retail.order_items"),
        ("SELECT count(*) FROM custommers", "42P01", "retail.customers"),
        // Zava sells fences: such a name is none of the machinery's.
        ("SELECT fence_revenu FROM retail.order_items", "42703", ""),
        ("SELECT fences.order_dat FROM retail.orders fences", "42703", "orders.order_date"),
    ] {
        let arguments = json!({"postgresql_query": sql});
        let said = refused(shared, "redmond-manager", Revision::V2026_07_28, "execute_sales_query", &arguments).await?;
        ensure!(said["code"] == "DATABASE_ERROR" && said["sqlstate"] == json!(sqlstate), "{sql}: {said}");
        let found = said["suggestions"].as_array().is_some_and(|names| names.first() == Some(&json!(near)));
        ensure!(near.is_empty() || found, "{sql}: {said}");
        let text = said["message"].as_str().unwrap_or_default();
        let tables = sqlstate == "42P01"
            && text.contains("does not exist; the tables are ")
            && text.contains("get_multiple_table_schemas");
        let columns = sqlstate == "42703"
            && text.ends_with("does not exist; get_multiple_table_schemas has the columns of each table");
        ensure!(tables || columns, "{sql}: {said}");
    }
    Ok(())
}

pub async fn timeout(shared: &Shared) -> Result<()> {
    let sql = format!(
        "SELECT count(*) /* {} */ FROM generate_series(1,1000000) a, generate_series(1,1000000) b",
        "x".repeat(120)
    );
    let arguments = json!({"postgresql_query": sql});
    let said = refused(shared, "seattle-manager", Revision::V2026_07_28, "execute_sales_query", &arguments).await?;
    let message = said["message"].as_str().unwrap_or_default();
    ensure!(said["code"] == "QUERY_TIMEOUT" && message.ends_with(&sql[..100]), "{said}");
    Ok(())
}

/// A database answer that the gateway cannot read is the gateway's own error, which reveals nothing of what was read.
pub async fn unreadable(shared: &Shared) -> Result<()> {
    let item = "SELECT i.order_item_id, i.total_amount::text FROM retail.order_items i JOIN retail.orders o USING (store_id, order_id)
                JOIN retail.stores s USING (store_id) JOIN retail.tenants t USING (tenant_key)
                WHERE t.tenant_id = 'zava' AND o.order_date > now() - interval '60 days' LIMIT 1";
    let row = shared.database.query_one(item, &[]).await?;
    let (id, amount) = (row.get::<_, uuid::Uuid>(0), row.get::<_, String>(1));
    let set = "UPDATE retail.order_items SET total_amount = $2::text::numeric WHERE order_item_id = $1";
    shared.database.execute(set, &[&id, &"NaN"]).await?;
    let arguments = json!({"time_period": "90d"});
    let before = counted(shared, "get_store_performance", "MCP_ERROR").await?;
    let said = refused(shared, "head-office", Revision::V2026_07_28, "get_store_performance", &arguments).await;
    shared.database.execute(set, &[&id, &amount]).await?;
    let said = said?;
    ensure!(said["code"] == "MCP_ERROR" && said["sqlstate"].is_null(), "{said}");
    ensure!(!said.to_string().contains("NaN"), "{said}");
    let after = counted(shared, "get_store_performance", "MCP_ERROR").await?;
    ensure!((after - before - 1.0).abs() < 0.5, "MCP_ERROR is not counted");
    Ok(())
}
