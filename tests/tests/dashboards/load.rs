//! A short load that touches what the dashboards show: good calls, slow ones, wrong ones, refused ones.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use storefence_devstack::{
    entra::principals,
    mcp_client::{McpClient, Revision},
};
use storefence_tests::{Shared, wait_until};

use super::render;

const NEW: Revision = Revision::V2026_07_28;
/// Longer than any tenant's limit.
const SLOW: &str = "SELECT sum(sqrt(a.n * b.n)) FROM generate_series(1, 30000) a (n), generate_series(1, 30000) b (n)";

/// A statement as a sample principal, whatever comes back.
async fn ask(shared: &Shared, principal: &str, sql: &str) -> Result<Value> {
    Ok(shared.query(principal, NEW, sql).await?.message)
}

pub async fn everything(shared: &Shared) -> Result<()> {
    // As it stands, with answers that are kept: the suites' stack keeps none.
    shared.stack.apply(&render::read("examples/zava.yaml")).await?;
    usual(shared).await?;
    wrong(shared).await?;
    strangers(shared).await?;
    abandoned(shared).await?;
    changed(shared).await?;
    // Signed with a key that the gateway has not seen: it fetches the keys once more.
    shared.stack.entra().rotate_keys()?;
    usual(shared).await
}

/// What people do: every principal, several tools, the same question twice.
async fn usual(shared: &Shared) -> Result<()> {
    for principal in principals::all() {
        let client = shared.client(principal.name, NEW)?;
        client.send("tools/list", json!({})).await?;
        for _ in 0..2 {
            for (tool, arguments) in [
                ("whoami", json!({})),
                ("get_store_performance", json!({"time_period": "30d"})),
                ("execute_sales_query", json!({"postgresql_query": "SELECT count(*) FROM retail.orders"})),
                ("execute_sales_query", json!({"postgresql_query": "WITH s AS (SELECT 1 AS one) SELECT * FROM s"})),
            ] {
                let answer = client.call_tool(tool, arguments).await?;
                let fine = !answer.is_tool_error() || answer.structured()["code"] == json!("RATE_LIMITED");
                ensure!(answer.status.is_success() && fine, "{} {tool}: {}", principal.name, answer.message);
            }
        }
    }
    Ok(())
}

/// What is refused, fails, or is cut.
async fn wrong(shared: &Shared) -> Result<()> {
    let many = ask(shared, "head-office", "SELECT * FROM retail.order_items").await?;
    ensure!(many["result"]["structuredContent"]["truncated"] == json!(true), "{many}");
    ask(shared, "head-office", "SELECT nothing FROM retail.orders").await?;
    ask(shared, "head-office", "SELECT pg_advisory_lock(1)").await?;
    ask(shared, "head-office", "SELECT * FROM pg_catalog.pg_class").await?;
    let client = shared.client("head-office", NEW)?;
    client.call_tool("no_such_tool", json!({})).await?;
    client.call_tool("get_store_performance", json!({"time_period": "yesterday-ish"})).await?;
    // Twice: of what happened once there is no rate.
    for principal in ["seattle-manager", "redmond-manager"] {
        let late = ask(shared, principal, SLOW).await?;
        ensure!(late["result"]["structuredContent"]["code"] == json!("QUERY_TIMEOUT"), "{late}");
    }
    Ok(())
}

/// Tokens that are none, and people whom no rule names.
async fn strangers(shared: &Shared) -> Result<()> {
    let nobody = json!({"oid": "00000000-0000-4000-8000-000000000001", "roles": null, "groups": null});
    for token in [
        None,
        Some("nonsense".to_owned()),
        Some(shared.token_expiring("head-office", json!({}), -3600)?),
        Some(shared.token("head-office", json!({"aud": "00000003-0000-0000-c000-000000000000"}))?),
    ] {
        let answer = shared.client_with(token, "/mcp", NEW).send("tools/list", json!({})).await?;
        ensure!(answer.status.is_client_error(), "{}", answer.message);
    }
    let outsider = shared.client_with(Some(shared.token("seattle-manager", nobody)?), "/mcp", NEW);
    let answer = outsider.send("tools/list", json!({})).await?;
    ensure!(answer.result()["tools"].as_array().is_some_and(|tools| tools.len() == 1), "{}", answer.message);
    Ok(())
}

/// A caller who goes away: the statement is cancelled at the server.
async fn abandoned(shared: &Shared) -> Result<()> {
    let http = reqwest::Client::builder().timeout(Duration::from_millis(300)).build()?;
    let url = format!("{}/mcp", shared.stack.facts().gateway_url);
    let client = McpClient::new(http, url, Some(shared.token("online-manager", json!({}))?), NEW);
    ensure!(client.call_tool("execute_sales_query", json!({"postgresql_query": SLOW})).await.is_err(), "it was quick");
    Ok(())
}

/// One tenant gets new credentials at once, and a quota that is soon used up.
async fn changed(shared: &Shared) -> Result<()> {
    let slot = async || -> Result<Value> {
        let tenant = shared.stack.get("default", "contoso").await?;
        Ok(tenant.map_or(Value::Null, |tenant| tenant.data["status"]["credentials"]["activeSlot"].clone()))
    };
    let before = slot().await?;
    let mut tenant: Value = serde_saphyr::from_str(&render::read("examples/contoso.yaml"))?;
    tenant["metadata"]["annotations"] = json!({"retail.storefence.dev/rotate": "now"});
    tenant["spec"]["gateway"]["requestsPerMinute"] = json!(60);
    shared.stack.apply(&tenant.to_string()).await?;
    let other = || async { Ok(slot().await? != before) };
    wait_until("the other login slot", Duration::from_secs(20), other).await?;
    let client = shared.client("contoso-head-office", NEW)?;
    let refused = || async {
        let answer = client.call_tool("get_current_utc_date", json!({})).await?;
        Ok(answer.structured()["code"] == json!("RATE_LIMITED"))
    };
    wait_until("more questions than the quota allows", Duration::from_secs(20), refused).await.map(drop)
}
