//! Each tool error has one code, the same on the wire, in the metrics and in the audit log.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use storefence_devstack::entra::{TokenRequest, principals::ZAVA_TENANT_ID};

use crate::{
    Tests, identity_keys as keys,
    world::{World, ZAVA, denied, until},
};

pub fn tests(tests: &mut Tests) {
    tests.add("each_code_is_one_word_in_metrics_and_audit", codes);
    tests.add("a_forbidden_tool_is_refused_in_words_and_recorded", forbidden);
}

/// A sale in the first days of the year, with an amount that is not a number.
const UNREADABLE: &str = "SET ROLE retail_loader;
    WITH tenant AS (SELECT tenant_key FROM retail.tenants WHERE tenant_id = 'zava'),
    category AS (INSERT INTO retail.categories (tenant_key, category_name) SELECT tenant_key, 'FENCES' FROM tenant RETURNING category_id, tenant_key),
    kind AS (INSERT INTO retail.product_types (tenant_key, category_id, type_name) SELECT tenant_key, category_id, 'PICKETS' FROM category RETURNING type_id, category_id, tenant_key),
    product AS (INSERT INTO retail.products (tenant_key, sku, product_name, category_id, type_id, cost, base_price)
        SELECT tenant_key, 'ZV-1', 'Picket', category_id, type_id, 1, 2 FROM kind RETURNING product_id)
    INSERT INTO retail.order_items (order_id, store_id, product_id, quantity, unit_price, discount_percent, discount_amount, total_amount)
        SELECT o.order_id, o.store_id, p.product_id, 1, 2, 0, 0, 'NaN'
          FROM product p CROSS JOIN retail.orders o JOIN retail.stores s USING (store_id) WHERE s.store_name = 'Seattle' AND o.order_date < '2026-01-04'";
const GONE: &str = "RESET ROLE; TRUNCATE retail.order_items, retail.inventory, retail.products, retail.product_types, retail.categories CASCADE";

async fn codes(world: Arc<World>) -> Result<()> {
    let file = world.path("audit-codes.jsonl");
    let path = file.display().to_string();
    let gateway = world.another_gateway("codes", &["--audit-file", &path]).await?;
    let client = world.client_of(&gateway, "seattle-manager")?;
    let query = |sql: &str| ("execute_sales_query", json!({"postgresql_query": sql}));
    let performance = |arguments: Value| ("get_store_performance", arguments);
    let superuser = world.superuser().await?;
    superuser.batch_execute(UNREADABLE).await?;
    let mut provoked = Vec::new();
    for ((tool, arguments), code) in [
        (query("DROP TABLE orders"), "VALIDATION_ERROR"),
        (query("SELECT nope FROM orders"), "DATABASE_ERROR"),
        (query("SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000) b"), "QUERY_TIMEOUT"),
        (performance(json!({"store": "Redmond"})), "AUTHORIZATION_ERROR"),
        (performance(json!({"from": "2026-01-01", "to": "2026-01-10"})), "MCP_ERROR"),
        (("semantic_search_products", json!({"query_description": "glue"})), "UNAVAILABLE"),
    ] {
        let answer = client.call_tool(tool, arguments).await?;
        provoked.push((tool, code, answer));
    }
    superuser.batch_execute(GONE).await?;
    for (_, code, answer) in &provoked {
        ensure!(answer.structured()["code"] == *code, "{code}: {}", answer.message);
    }

    let limits = ZAVA.object()["spec"]["gateway"].clone();
    world.patch_spec("zava", json!({"gateway": {"requestsPerMinute": 1}})).await?;
    let limited = until("a call is refused", Duration::from_secs(20), || async {
        Ok(client.call_tool("list_stores", json!({})).await?.structured()["code"] == "RATE_LIMITED")
    })
    .await;
    world.patch_spec("zava", json!({"gateway": {"requestsPerMinute": null}})).await?;
    world.limits(&ZAVA, "seattle-manager", Some(limits)).await?;
    limited?;

    let mut expected: Vec<_> = provoked.iter().map(|(tool, code, _)| (*tool, *code)).collect();
    expected.push(("list_stores", "RATE_LIMITED"));
    let text = std::fs::read_to_string(&file)?;
    let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    for (tool, code) in expected {
        let name = format!("mcp_tool_errors_total{{code=\"{code}\",gen_ai_tool_name=\"{tool}\"}}");
        let counted = world.metric(&gateway, &name).await?;
        ensure!((counted - 1.0).abs() < 0.5, "{tool} {code}: counted {counted} times");
        let written = lines.iter().filter(|line| line["tool"] == tool && line["outcome"] == code).count();
        ensure!(written == 1, "{tool} {code}: {written} lines in {text}");
    }
    Ok(())
}

/// The caller reads that the tool is not theirs; the audit log shows the attempt.
async fn forbidden(world: Arc<World>) -> Result<()> {
    const OID: &str = "66666666-6666-4666-8666-666666666666";
    let before = ZAVA.object()["spec"]["principals"].clone();
    let rule = json!({"name": "figures-only", "role": "StoreManager", "entraUser": OID, "stores": ["Seattle"],
        "tools": ["get_store_performance"]});
    let mut after = before.clone();
    after.as_array_mut().context("rules")?.push(rule);
    let file = world.path("audit-forbidden.jsonl");
    let path = file.display().to_string();
    let gateway = world.another_gateway("forbidden", &["--audit-file", &path]).await?;
    let token = world.entra.issue(&TokenRequest::user(ZAVA_TENANT_ID).claim("oid", json!(OID)))?;
    let client = keys::client(&world, &gateway, token);
    world.patch_spec("zava", json!({"principals": after})).await?;
    until("the rule is in force", Duration::from_secs(5), || async {
        // Calls would be in the audit log.
        let list = client.send("tools/list", json!({})).await?;
        Ok(list.result()["tools"].as_array().is_some_and(|tools| tools.len() > 1))
    })
    .await?;
    let refused = client.call_tool("execute_sales_query", json!({"postgresql_query": "SELECT 1"})).await?;
    denied(&refused)?;
    let unknown = client.call_tool("drop_everything", json!({})).await?;
    ensure!(unknown.message["error"]["message"] == "Unknown tool: drop_everything", "{}", unknown.message);
    let granted = client.call_tool("list_stores", json!({})).await?;
    ensure!(!granted.is_tool_error(), "{}", granted.message);
    world.patch_spec("zava", json!({"principals": before})).await?;

    let text = std::fs::read_to_string(&file)?;
    let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let seen: Vec<_> = lines.iter().map(|line| (&line["tool"], &line["outcome"], &line["rows"])).collect();
    let due = [
        (json!("execute_sales_query"), json!("FORBIDDEN_TOOL"), json!(0)),
        (json!("unknown"), json!("UNKNOWN_TOOL"), json!(0)),
        (json!("list_stores"), json!("ok"), lines.last().context("lines")?["rows"].clone()),
    ];
    ensure!(seen == due.each_ref().map(|(tool, outcome, rows)| (tool, outcome, rows)), "{text}");
    for line in &lines {
        ensure!(line["oid"] == OID && line["tenant"] == "zava" && line["rules"] == json!(["figures-only"]), "{line}");
    }
    ensure!(!text.contains("drop_everything"), "the caller's own word is in the audit log: {text}");
    let metrics = world.http.get(format!("{}/metrics", gateway.admin)).send().await?.text().await?;
    let refusals = "mcp_tool_errors_total{code=\"AUTHORIZATION_ERROR\",gen_ai_tool_name=\"execute_sales_query\"} 1";
    ensure!(metrics.contains(refusals), "{metrics}");
    ensure!(!metrics.contains("FORBIDDEN_TOOL") && !metrics.contains("drop_everything"), "{metrics}");
    Ok(())
}
