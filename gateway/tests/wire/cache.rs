//! Cached responses: who receives them, and when they become invalid.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use storefence_devstack::{
    entra::{TokenRequest, principals},
    mcp_client::{Answer, McpClient, Revision},
};
use storefence_tenancy::credentials::Slot;

use crate::{
    Tests,
    world::{World, ZAVA, until},
};

const TOOL: &str = "execute_sales_query";
const AGE: &str = "retail.storefence.dev/cacheAgeSeconds";
const ORDERS: &str = "SELECT count(*) AS orders FROM retail.orders";

pub fn tests(tests: &mut Tests) {
    tests.add("answers_are_kept_for_one_scope_and_only_where_asked_for", kept);
    tests.add("callers_at_the_same_time_share_one_statement", single_flight);
    tests.add("nobody_is_served_a_kept_answer_of_former_rights", revoked);
}

async fn ask(client: &McpClient, sql: &str) -> Result<Answer> {
    Ok(client.call_tool(TOOL, json!({"postgresql_query": sql})).await?)
}

/// The reported age of the answer; `None` if it was made for this call.
fn age(answer: &Answer) -> Option<u64> {
    answer.result()["_meta"][AGE].as_u64()
}

async fn statements(world: &World) -> Result<f64> {
    world.metric(&world.gateway, &format!("mcp_queries_total{{query_type=\"{TOOL}\"}}")).await
}

async fn looked_up(world: &World, outcome: &str) -> Result<f64> {
    world.metric(&world.gateway, &format!("storefence_answer_cache_total{{outcome=\"{outcome}\"}}")).await
}

async fn set(world: &World, ttl: Value) -> Result<()> {
    world.patch_spec("zava", json!({"gateway": {"cacheTtl": ttl}})).await
}

/// Repeats a call until the answer is a cached response.
async fn until_kept(client: &McpClient, sql: &str) -> Result<()> {
    until("an answer is kept", Duration::from_secs(3), || async { Ok(age(&ask(client, sql).await?).is_some()) }).await
}

/// Another person matched by the same rule.
fn colleague(world: &World, principal: &str) -> Result<McpClient> {
    let principal = principals::find(principal).context("no such principal")?;
    let request = TokenRequest::principal(principal).claim("oid", json!("33333333-3333-4333-8333-333333333333"));
    Ok(world.client(world.entra.issue(&request)?, "/mcp", Revision::V2026_07_28))
}

async fn kept(world: Arc<World>) -> Result<()> {
    let (seattle, redmond) = (world.client_as("seattle-manager")?, world.client_as("redmond-manager")?);
    let before = statements(&world).await?;
    for _ in 0..2 {
        ensure!(age(&ask(&seattle, ORDERS).await?).is_none(), "kept without being asked for");
    }
    ensure!(statements(&world).await? - before >= 2.0 && looked_up(&world, "hit").await? < 1.0);

    set(&world, json!("10m")).await?;
    until_kept(&seattle, ORDERS).await?;
    let (ran, hits) = (statements(&world).await?, looked_up(&world, "hit").await?);
    let answer = ask(&seattle, ORDERS).await?;
    ensure!(answer.structured()["rows"] == json!([[7]]) && age(&answer).is_some(), "{}", answer.message);
    let text = answer.result()["content"][0]["text"].as_str().unwrap_or_default();
    ensure!(text.starts_with("orders\n7\n(1 row)\n(from the cache, ") && text.ends_with(" s old)"), "{text}");
    ensure!(answer.structured()["cacheAgeSeconds"].as_u64() == age(&answer), "{}", answer.message);
    ensure!(statements(&world).await? <= ran, "the statement ran again");
    ensure!(looked_up(&world, "hit").await? > hits);
    ensure!(world.metric(&world.gateway, "storefence_answer_cache_bytes").await? > 0.0);

    // Another scope has its own responses, even for the same question.
    for (principal, orders) in [("redmond-manager", 5), ("puget-sound-regional", 12), ("head-office", 15)] {
        let client = world.client_as(principal)?;
        let answer = ask(&client, ORDERS).await?;
        ensure!(answer.structured()["rows"] == json!([[orders]]), "{principal}: {}", answer.message);
        ensure!(age(&answer).is_none(), "{principal}: an answer of another scope");
        ensure!(age(&ask(&client, ORDERS).await?).is_some(), "{principal}: not kept");
    }
    // Another tenant has no cached response yet.
    let contoso = world.client_as("contoso-head-office")?;
    for _ in 0..2 {
        let answer = ask(&contoso, ORDERS).await?;
        ensure!(answer.structured()["rows"] == json!([[6]]) && age(&answer).is_none(), "{}", answer.message);
    }
    // Another principal with the same scope gets the cached response.
    let answer = ask(&colleague(&world, "redmond-manager")?, ORDERS).await?;
    ensure!(answer.structured()["rows"] == json!([[5]]) && age(&answer).is_some(), "{}", answer.message);
    // Other arguments have other responses.
    ensure!(age(&ask(&seattle, "SELECT count(*) AS n FROM retail.orders").await?).is_none());
    // Errors are not cached.
    for _ in 0..2 {
        let ran = statements(&world).await?;
        let answer = ask(&redmond, "SELECT 1 / (count(*) - count(*)) FROM retail.orders").await?;
        ensure!(answer.structured()["sqlstate"] == "22012", "{}", answer.message);
        ensure!(statements(&world).await? > ran, "an error was kept");
    }
    // Statements that depend on the clock or on chance are not cached.
    let moving =
        ["SELECT clock_timestamp() AS at", "SELECT now() AS at", "SELECT random() AS at, count(*) FROM retail.stores"];
    for sql in moving {
        let first = ask(&seattle, sql).await?;
        let second = ask(&seattle, sql).await?;
        ensure!(first.structured()["rows"] != second.structured()["rows"], "{sql}: {}", second.message);
        ensure!(age(&first).is_none() && age(&second).is_none(), "{sql} is kept");
    }
    // Some tools answer from token and clock.
    for tool in ["whoami", "get_current_utc_date", "list_stores"] {
        for _ in 0..2 {
            ensure!(age(&seattle.call_tool(tool, json!({})).await?).is_none(), "{tool} is kept");
        }
    }
    for tool in ["get_multiple_table_schemas", "get_store_performance"] {
        seattle.call_tool(tool, json!({})).await?;
        ensure!(age(&seattle.call_tool(tool, json!({})).await?).is_some(), "{tool} is not kept");
    }

    // For as long as configured.
    set(&world, json!("1s")).await?;
    until("an answer is forgotten", Duration::from_secs(5), || async {
        let first = age(&ask(&seattle, ORDERS).await?);
        ensure!(first.unwrap_or(0) <= 1, "{first:?} seconds old");
        Ok(looked_up(&world, "miss").await? > 0.0 && first.is_none())
    })
    .await?;
    set(&world, Value::Null).await
}

async fn single_flight(world: Arc<World>) -> Result<()> {
    set(&world, json!("10m")).await?;
    let seattle = world.client_as("seattle-manager")?;
    until_kept(&seattle, ORDERS).await?;
    let slow = "SELECT count(*) FROM generate_series(1, 1000) a, generate_series(1, 2000) b, retail.stores";
    let ran = statements(&world).await?;
    let calls = (0..12).map(|_| ask(&seattle, slow));
    for answer in futures::future::join_all(calls).await {
        let answer = answer?;
        ensure!(answer.structured()["rows"] == json!([[2_000_000]]), "{}", answer.message);
    }
    let ran = statements(&world).await? - ran;
    ensure!((ran - 1.0).abs() < 0.5, "{ran} statements");

    // The caller who started the work goes away; the one who waits is answered all the same.
    let slow = slow.replace("1000", "1500");
    let request = seattle.request("tools/call", json!({"name": TOOL, "arguments": {"postgresql_query": slow}}));
    let leaving = tokio::spawn(request.timeout(Duration::from_millis(150)).send());
    tokio::time::sleep(Duration::from_millis(50)).await;
    let answer = ask(&seattle, &slow).await?;
    ensure!(answer.structured()["rows"] == json!([[3_000_000]]), "{}", answer.message);
    let _ = leaving.await;
    set(&world, Value::Null).await
}

async fn revoked(world: Arc<World>) -> Result<()> {
    set(&world, json!("1h")).await?;
    let (seattle, head) = (world.client_as("seattle-manager")?, world.client_as("head-office")?);
    let within = Duration::from_secs(2);
    let orders =
        async |client: &McpClient| -> Result<Value> { Ok(ask(client, ORDERS).await?.structured()["rows"].clone()) };
    until_kept(&seattle, ORDERS).await?;
    until_kept(&head, ORDERS).await?;

    // A rule grants another store: the old response is no longer hers.
    let rules = ZAVA.object()["spec"]["principals"].clone();
    let mut moved = rules.clone();
    moved[1]["stores"] = json!(["Online"]);
    world.patch_spec("zava", json!({"principals": moved})).await?;
    until("the rule's stores count", within, || async { Ok(orders(&seattle).await? == json!([[3]])) }).await?;
    world.patch_spec("zava", json!({"principals": rules})).await?;
    until("the former rule is back", within, || async { Ok(orders(&seattle).await? == json!([[7]])) }).await?;

    // A store leaves the tenant in the fence's own mapping, which the gateway only sees by querying it.
    let superuser = world.superuser().await?;
    let online = ZAVA.stores[2].1;
    superuser.batch_execute(&format!("DELETE FROM fence.tenant_stores WHERE store_id = '{online}'")).await?;
    until("head office has two stores", within, || async { Ok(orders(&head).await? == json!([[12]])) }).await?;
    superuser.batch_execute(&format!("INSERT INTO fence.tenant_stores VALUES ('{online}', 1, 'Online')")).await?;
    until("head office has three stores", within, || async { Ok(orders(&head).await? == json!([[15]])) }).await?;

    // A policy changes, a table changes: earlier responses are not served again.
    for (change, back) in [
        ("ALTER TABLE retail.orders ADD COLUMN kept_note text", "ALTER TABLE retail.orders DROP COLUMN kept_note"),
        ("REVOKE SELECT ON retail.customers FROM fence_reader", "GRANT SELECT ON retail.customers TO fence_reader"),
        (
            "CREATE POLICY closed ON retail.orders AS RESTRICTIVE FOR SELECT TO fence_reader USING (false)",
            "DROP POLICY closed ON retail.orders",
        ),
    ] {
        let seen = "SELECT count(*) AS customers, (SELECT count(*) FROM retail.orders) AS orders FROM retail.customers";
        ask(&seattle, seen).await?;
        until_kept(&seattle, seen).await?;
        superuser.batch_execute(change).await?;
        let changed = until(change, within, || async { Ok(age(&ask(&seattle, seen).await?).is_none()) }).await;
        let answer = ask(&seattle, seen).await?;
        superuser.batch_execute(back).await?;
        changed?;
        if change.starts_with("REVOKE") {
            ensure!(answer.structured()["code"] == "AUTHORIZATION_ERROR", "{}", answer.message);
        }
        if change.starts_with("CREATE POLICY") {
            ensure!(answer.structured()["rows"] == json!([[1, 0]]), "{}", answer.message);
        }
    }

    // The fence shuts out the tenant's login: the answer is an error and not a cached response.
    until_kept(&head, ORDERS).await?;
    superuser.batch_execute("UPDATE fence.tenants SET enabled = false WHERE tenant_id = 'zava'").await?;
    let shut = until("the tenant is shut out", within, || async {
        Ok(ask(&head, ORDERS).await?.structured()["code"] == "UNAVAILABLE")
    })
    .await;
    superuser.batch_execute("UPDATE fence.tenants SET enabled = true WHERE tenant_id = 'zava'").await?;
    shut?;
    until("the tenant is back", within, || async { Ok(orders(&head).await? == json!([[15]])) }).await?;

    // The context key is rotated: every call runs anew.
    until_kept(&seattle, ORDERS).await?;
    world.context_key(&ZAVA, 9).await?;
    world.set_credentials("zava", Slot::A, 9).await?;
    until("the new key begins afresh", within, || async { Ok(age(&ask(&seattle, ORDERS).await?).is_none()) }).await?;
    until_kept(&seattle, ORDERS).await?;
    world.set_credentials("zava", Slot::A, 1).await?;
    superuser.batch_execute("DELETE FROM fence.context_keys WHERE tenant_key = 1 AND kid = 9").await?;
    set(&world, Value::Null).await
}
