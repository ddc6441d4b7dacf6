//! Nobody waits for the answer any more: the statement ends at the server, in both revisions and over both versions of HTTP.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use storefence_devstack::mcp_client::{McpClient, Revision};

use crate::{
    Tests,
    operations::{ACTIVE, SLOW},
    world::{World, ZAVA, until},
};

/// From the client's end to the statement's, for each. Far below the statement's own length of many seconds.
const SOON: Duration = Duration::from_secs(2);
/// The same as it is promised: for most of them, so that one that a busy machine held up does not count.
const PROMISED: Duration = Duration::from_millis(200);

pub fn tests(tests: &mut Tests) {
    tests.add("a_client_that_goes_away_cancels_at_the_server", disconnect);
    tests.add("notifications_cancelled_ends_the_statement_and_nobody_elses", cancelled);
    tests.add("notifications_cancelled_ends_resources_and_completions", other_methods);
}

fn clients(world: &World, principal: &str) -> Result<Vec<(String, McpClient)>> {
    let older = reqwest::Client::builder().http1_only().build()?;
    let newer = reqwest::Client::builder().http2_prior_knowledge().build()?;
    let (url, token) = (format!("{}/mcp", world.gateway.url), world.token(principal)?);
    let all = Revision::ALL.into_iter().flat_map(|revision| {
        [("HTTP/1.1", older.clone()), ("HTTP/2", newer.clone())].map(|(name, http)| {
            let client = McpClient::new(http, url.clone(), Some(token.clone()), revision);
            (format!("{} over {name}", revision.as_str()), client)
        })
    });
    Ok(all.collect())
}

/// The slow statement; with a progress token its answer is an event stream by the time it is cancelled.
pub fn slow(client: &McpClient, sql: &str, progress_token: Option<Value>) -> Result<reqwest::RequestBuilder> {
    let call =
        || client.request("tools/call", json!({"name": "execute_sales_query", "arguments": {"postgresql_query": sql}}));
    let Some(token) = progress_token else { return Ok(call()) };
    let request = call().build()?;
    let mut body: Value = serde_json::from_slice(request.body().and_then(|body| body.as_bytes()).context("a body")?)?;
    body["params"]["_meta"]["progressToken"] = token;
    Ok(call().json(&body))
}

/// In time, and by a cancel of ours: the server would notice a closed socket by itself, after a second.
async fn promised(world: &World, what: &str, mut times: Vec<Duration>, cancels: f64) -> Result<()> {
    times.sort_unstable();
    let median = times[times.len() / 2];
    println!("from {what} to the statement's end: {times:?}, median {median:?}");
    ensure!(median <= PROMISED, "from {what} to the statement's end: {times:?}");
    let sent = self::cancels(world).await? - cancels;
    ensure!(sent >= times.len() as f64, "{sent} cancels for {} statements", times.len());
    Ok(())
}

async fn cancels(world: &World) -> Result<f64> {
    world.metric(&world.gateway, "storefence_cancels_total{cause=\"disconnect\"}").await
}

async fn disconnect(world: Arc<World>) -> Result<()> {
    world.limits(&ZAVA, "head-office", Some(json!({"statementTimeout": "30s"}))).await?;
    let database = world.superuser().await?;
    let active = async || -> Result<bool> { Ok(database.query_one(ACTIVE, &[]).await?.get::<_, i64>(0) > 0) };
    let (mut times, before) = (Vec::new(), cancels(&world).await?);
    for streaming in [false, true] {
        for (name, client) in clients(&world, "head-office")? {
            // A connection is there, so that what is active is the statement and not the opening.
            world.rows("head-office", "SELECT 1").await?;
            let request = slow(&client, SLOW, streaming.then(|| json!("p")))?;
            let (reached, reaches) = tokio::sync::oneshot::channel();
            let calling = tokio::spawn(async move {
                let mut response = request.send().await?;
                let first = response.chunk().await?;
                let _ = reached.send(first);
                response.chunk().await.map(|_| ())
            });
            until("the statement runs", Duration::from_secs(5), || async { active().await }).await?;
            if streaming {
                let first = tokio::time::timeout(Duration::from_secs(5), reaches).await??.context("no event")?;
                ensure!(String::from_utf8_lossy(&first).contains("notifications/progress"), "{name}: {first:?}");
            }
            calling.abort();
            let gone = Instant::now();
            until("the statement has ended", SOON, || async { Ok(!active().await?) })
                .await
                .with_context(|| format!("{name}, streaming: {streaming}"))?;
            times.push(gone.elapsed());
        }
    }
    promised(&world, "disconnect", times, before).await?;
    world.limits(&ZAVA, "head-office", None).await?;
    ensure!(world.rows("head-office", "SELECT count(*) FROM retail.orders").await? == json!([[15]]));
    Ok(())
}

async fn cancelled(world: Arc<World>) -> Result<()> {
    world.limits(&ZAVA, "seattle-manager", Some(json!({"statementTimeout": "30s"}))).await?;
    let database = world.superuser().await?;
    let active = async || -> Result<bool> { Ok(database.query_one(ACTIVE, &[]).await?.get::<_, i64>(0) > 0) };
    let cancel = async |client: &McpClient, id: u32| -> Result<()> {
        let notification = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {
            "requestId": id, "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}}});
        let mut older = notification.clone();
        older["params"].as_object_mut().context("an object")?.remove("_meta");
        let request = client.request("notifications/cancelled", json!({}));
        let newer = request.try_clone().and_then(|request| request.build().ok()).context("a request")?;
        let newer = newer.headers().contains_key("mcp-method");
        let answer = client.read(request.json(if newer { &notification } else { &older })).await?;
        ensure!(answer.status == 202, "{}: {}", answer.status, answer.message);
        Ok(())
    };
    let (mut times, before) = (Vec::new(), cancels(&world).await?);
    for streaming in [false, true] {
        for ((name, client), (_, other)) in
            clients(&world, "seattle-manager")?.into_iter().zip(clients(&world, "redmond-manager")?)
        {
            world.rows("head-office", "SELECT 1").await?;
            let calling = slow(&client, SLOW, streaming.then(|| json!(7)))?;
            let caller = client.clone();
            let calling = tokio::spawn(async move { caller.read(calling).await });
            until("the statement runs", Duration::from_secs(5), || async { active().await }).await?;
            if streaming {
                // By now the answer has begun.
                tokio::time::sleep(Duration::from_millis(1300)).await;
            }
            // The same id of another client, and another id of the same one.
            cancel(&other, 1).await?;
            cancel(&client, 2).await?;
            ensure!(active().await? && !calling.is_finished(), "{name}: somebody else cancelled it");
            cancel(&client, 1).await?;
            let gone = Instant::now();
            until("the statement has ended", SOON, || async { Ok(!active().await?) })
                .await
                .with_context(|| format!("{name}, streaming: {streaming}"))?;
            times.push(gone.elapsed());
            let answer = calling.await??;
            ensure!(answer.result().is_null(), "{name}: a cancelled call has a result: {}", answer.message);
        }
    }
    promised(&world, "notifications/cancelled", times, before).await?;
    world.limits(&ZAVA, "seattle-manager", None).await?;
    ensure!(world.rows("head-office", "SELECT count(*) FROM retail.orders").await? == json!([[15]]));
    Ok(())
}

/// What else asks the database. A table that is locked holds the statements up.
async fn other_methods(world: Arc<World>) -> Result<()> {
    world.limits(&ZAVA, "seattle-manager", Some(json!({"statementTimeout": "30s"}))).await?;
    let (mut locking, database) = (world.superuser().await?, world.superuser().await?);
    let active = async || -> Result<bool> { Ok(database.query_one(ACTIVE, &[]).await?.get::<_, i64>(0) > 0) };
    let complete =
        json!({"ref": {"type": "ref/prompt", "name": "top_products"}, "argument": {"name": "category", "value": ""}});
    for (name, client) in clients(&world, "seattle-manager")? {
        for (method, params) in
            [("resources/read", json!({"uri": "storefence://schema"})), ("completion/complete", complete.clone())]
        {
            let lock = locking.transaction().await?;
            lock.batch_execute("LOCK TABLE retail.categories IN ACCESS EXCLUSIVE MODE").await?;
            let mut calling = client.request(method, params.clone());
            if let Some(uri) = params["uri"].as_str() {
                calling = calling.header("mcp-name", uri);
            }
            let caller = client.clone();
            let calling = tokio::spawn(async move { caller.read(calling).await });
            until("the statement waits", Duration::from_secs(5), || async { active().await })
                .await
                .with_context(|| format!("{name}: {method}"))?;
            let cancel = client.request("notifications/cancelled", json!({}));
            let built = cancel.try_clone().and_then(|request| request.build().ok()).context("a request")?;
            let mut body: Value =
                serde_json::from_slice(built.body().and_then(|body| body.as_bytes()).context("a body")?)?;
            body.as_object_mut().context("an object")?.remove("id");
            body["params"]["requestId"] = json!(1);
            let answer = client.read(cancel.json(&body)).await?;
            ensure!(answer.status == 202, "{name}: {} {}", answer.status, answer.message);
            until("the statement has ended", SOON, || async { Ok(!active().await?) })
                .await
                .with_context(|| format!("{name}: {method}"))?;
            let answer = calling.await??;
            ensure!(answer.result().is_null(), "{name}: a cancelled {method} has a result: {}", answer.message);
            lock.rollback().await?;
        }
    }
    world.limits(&ZAVA, "seattle-manager", None).await
}
