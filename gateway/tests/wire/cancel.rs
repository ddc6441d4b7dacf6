//! When nobody waits for an answer any more, the statement ends on the server: in both revisions and over both versions
//! of HTTP.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use storefence_devstack::mcp_client::{McpClient, Revision};
use tokio_postgres::Client;

use crate::{
    Tests,
    operations::{ACTIVE, SLOW},
    world::{World, ZAVA, until},
};

/// The time limit for each cancel, from the client's signal to the statement's end. Far below the statement's own
/// duration of many seconds.
const SOON: Duration = Duration::from_secs(2);
/// The documented limit.
const PROMISED: Duration = Duration::from_millis(200);
/// Attempts of each kind. Their median has to meet the documented limit, so that one attempt delayed by a busy machine
/// does not count.
const TRIES: usize = 3;

pub fn tests(tests: &mut Tests) {
    tests.add("a_client_that_goes_away_cancels_at_the_server", disconnect);
    tests.add("a_cancel_that_the_server_forgets_comes_again_in_time", forgotten);
    tests.add("notifications_cancelled_ends_the_statement_and_nobody_elses", cancelled);
    tests.add("resources_and_completions_are_cancelled_as_tools_are", other_methods);
}

/// The time from the client's signal to the statement's end, by kind of cancel.
#[derive(Default)]
struct Times(BTreeMap<String, Vec<Duration>>);

impl Times {
    /// Waits for the end of a statement that was just given up.
    async fn until_ended(&mut self, way: String, gone: Instant, database: &Client) -> Result<()> {
        until("the statement has ended", SOON, || async { Ok(!active(database).await?) })
            .await
            .with_context(|| way.clone())?;
        self.0.entry(way).or_default().push(gone.elapsed());
        Ok(())
    }

    /// In time for every kind, and through the gateway's cancel: the server itself would notice a closed socket only
    /// after a second.
    async fn promised(mut self, world: &World, cancels: f64) -> Result<()> {
        for (way, times) in &mut self.0 {
            times.sort_unstable();
            let median = times[times.len() / 2];
            println!("{way}: {times:?}, median {median:?}");
            ensure!(times.len() >= TRIES && median <= PROMISED, "{way}: {times:?}");
        }
        let statements: usize = self.0.values().map(Vec::len).sum();
        let sent = self::cancels(world).await? - cancels;
        ensure!(sent >= statements as f64, "{sent} cancels for {statements} statements");
        Ok(())
    }
}

async fn active(database: &Client) -> Result<bool> {
    Ok(database.query_one(ACTIVE, &[]).await?.get::<_, i64>(0) > 0)
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

async fn cancels(world: &World) -> Result<f64> {
    world.metric(&world.gateway, "storefence_cancels_total{cause=\"disconnect\"}").await
}

/// The notification that cancels a request, in the form of the client's revision.
async fn cancel(client: &McpClient, id: u32) -> Result<()> {
    let request = client.request("notifications/cancelled", json!({}));
    let built = request.try_clone().and_then(|request| request.build().ok()).context("a request")?;
    let mut body: Value = serde_json::from_slice(built.body().and_then(|body| body.as_bytes()).context("a body")?)?;
    body.as_object_mut().context("an object")?.remove("id");
    body["params"]["requestId"] = json!(id);
    let answer = client.read(request.json(&body)).await?;
    ensure!(answer.status == 202, "{}: {}", answer.status, answer.message);
    Ok(())
}

fn kind(streaming: bool) -> &'static str {
    if streaming { "an event stream" } else { "one document" }
}

async fn disconnect(world: Arc<World>) -> Result<()> {
    world.limits(&ZAVA, "head-office", Some(json!({"statementTimeout": "30s"}))).await?;
    let database = world.superuser().await?;
    let (mut times, before) = (Times::default(), cancels(&world).await?);
    for streaming in [false, true].repeat(TRIES) {
        for (name, client) in clients(&world, "head-office")? {
            // Opens the connection first, so that the active query is the statement.
            world.rows("head-office", "SELECT 1").await?;
            let request = slow(&client, SLOW, streaming.then(|| json!("p")))?;
            let (reached, reaches) = tokio::sync::oneshot::channel();
            let calling = tokio::spawn(async move {
                let mut response = request.send().await?;
                let first = response.chunk().await?;
                let _ = reached.send(first);
                response.chunk().await.map(|_| ())
            });
            until("the statement runs", Duration::from_secs(5), || active(&database)).await?;
            if streaming {
                let first = tokio::time::timeout(Duration::from_secs(5), reaches).await??.context("no event")?;
                ensure!(String::from_utf8_lossy(&first).contains("notifications/progress"), "{name}: {first:?}");
            }
            let gone = Instant::now();
            calling.abort();
            times.until_ended(format!("disconnect, {name}, {}", kind(streaming)), gone, &database).await?;
        }
    }
    times.promised(&world, before).await?;
    world.limits(&ZAVA, "head-office", None).await?;
    ensure!(world.rows("head-office", "SELECT count(*) FROM retail.orders").await? == json!([[15]]));
    Ok(())
}

/// The server ignores a cancel that arrives between two statements of one call, so the gateway has to repeat it in
/// time. Here the network loses the cancel.
async fn forgotten(world: Arc<World>) -> Result<()> {
    world.limits(&ZAVA, "head-office", Some(json!({"statementTimeout": "30s"}))).await?;
    let (database, proxy) = (world.superuser().await?, world.cluster.proxy());
    let (mut times, before) = (Times::default(), cancels(&world).await?);
    for _ in 0..TRIES {
        for (name, client) in clients(&world, "head-office")? {
            world.rows("head-office", "SELECT 1").await?;
            let request = slow(&client, SLOW, None)?;
            let calling = tokio::spawn(async move { request.send().await.map(|_| ()) });
            until("the statement runs", Duration::from_secs(5), || active(&database)).await?;
            proxy.lose_cancels(1);
            let gone = Instant::now();
            calling.abort();
            let ended = times.until_ended(format!("a forgotten cancel, {name}"), gone, &database).await;
            let left = proxy.cancels_to_lose();
            proxy.lose_cancels(0);
            ended?;
            ensure!(left == 0, "{name}: the statement ended without a cancel");
        }
    }
    times.promised(&world, before).await?;
    world.limits(&ZAVA, "head-office", None).await
}

async fn cancelled(world: Arc<World>) -> Result<()> {
    world.limits(&ZAVA, "seattle-manager", Some(json!({"statementTimeout": "30s"}))).await?;
    let database = world.superuser().await?;
    let (mut times, before) = (Times::default(), cancels(&world).await?);
    for streaming in [false, true].repeat(TRIES) {
        for ((name, client), (_, other)) in
            clients(&world, "seattle-manager")?.into_iter().zip(clients(&world, "redmond-manager")?)
        {
            world.rows("head-office", "SELECT 1").await?;
            let calling = slow(&client, SLOW, streaming.then(|| json!(7)))?;
            let caller = client.clone();
            let calling = tokio::spawn(async move { caller.read(calling).await });
            until("the statement runs", Duration::from_secs(5), || active(&database)).await?;
            if streaming {
                // By now the answer has begun.
                tokio::time::sleep(Duration::from_millis(1300)).await;
            }
            // The same id from another client, and another id from the same client.
            cancel(&other, 1).await?;
            cancel(&client, 2).await?;
            ensure!(active(&database).await? && !calling.is_finished(), "{name}: somebody else cancelled it");
            let gone = Instant::now();
            cancel(&client, 1).await?;
            times.until_ended(format!("notifications/cancelled, {name}, {}", kind(streaming)), gone, &database).await?;
            let answer = calling.await??;
            ensure!(answer.result().is_null(), "{name}: a cancelled call has a result: {}", answer.message);
        }
    }
    times.promised(&world, before).await?;
    world.limits(&ZAVA, "seattle-manager", None).await?;
    ensure!(world.rows("head-office", "SELECT count(*) FROM retail.orders").await? == json!([[15]]));
    Ok(())
}

/// All combinations of both lists.
fn pairs<'a, A, B>(these: &'a [A], those: &'a [B]) -> Vec<(&'a A, &'a B)> {
    these.iter().flat_map(|this| those.iter().map(move |that| (this, that))).collect()
}

/// Other requests that query the database. A locked table holds the statements up.
async fn other_methods(world: Arc<World>) -> Result<()> {
    world.limits(&ZAVA, "seattle-manager", Some(json!({"statementTimeout": "30s"}))).await?;
    let (mut locking, database) = (world.superuser().await?, world.superuser().await?);
    let complete =
        json!({"ref": {"type": "ref/prompt", "name": "top_products"}, "argument": {"name": "category", "value": ""}});
    let methods = [("resources/read", json!({"uri": "storefence://schema"})), ("completion/complete", complete)];
    let each = clients(&world, "seattle-manager")?;
    let (mut times, before) = (Times::default(), cancels(&world).await?);
    for notify in [false, true].repeat(TRIES) {
        for ((name, client), (method, params)) in pairs(&each, &methods) {
            let way = format!("{}, {name}, {method}", if notify { "notifications/cancelled" } else { "disconnect" });
            // As above; and before the lock, which it might wait for.
            world.rows("head-office", "SELECT 1").await?;
            let lock = locking.transaction().await?;
            lock.batch_execute("LOCK TABLE retail.categories IN ACCESS EXCLUSIVE MODE").await?;
            let mut calling = client.request(method, params.clone());
            if let Some(uri) = params["uri"].as_str() {
                calling = calling.header("mcp-name", uri);
            }
            let caller = client.clone();
            let calling = tokio::spawn(async move { caller.read(calling).await });
            until("the statement waits", Duration::from_secs(5), || active(&database))
                .await
                .with_context(|| way.clone())?;
            let gone = Instant::now();
            if notify {
                cancel(client, 1).await?;
            } else {
                calling.abort();
            }
            times.until_ended(way.clone(), gone, &database).await?;
            match calling.await {
                Ok(answer) => ensure!(answer?.result().is_null(), "{way}: a cancelled request has a result"),
                Err(gone) => ensure!(!notify && gone.is_cancelled(), "{way}: {gone}"),
            }
            lock.rollback().await?;
        }
    }
    times.promised(&world, before).await?;
    world.limits(&ZAVA, "seattle-manager", None).await
}
