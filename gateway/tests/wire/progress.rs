//! `notifications/progress` on calls that take over a second.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rmcp::{
    ClientHandler, RoleClient,
    model::{CallToolRequestParams, JsonObject, ProgressNotificationParam, ProtocolVersion},
    service::{ClientLifecycleMode, ClientServiceExt, NotificationContext},
    transport::{StreamableHttpClientTransport, streamable_http_client::StreamableHttpClientTransportConfig},
};
use serde_json::{Value, json};
use storefence_devstack::mcp_client::Revision;

use crate::{
    Tests,
    cancel::slow,
    world::{World, ZAVA},
};

/// Waits for the holder of the lock. A value of type json keeps its line breaks, which an event must not contain.
const WAITING: &str = "SELECT count(*), min('{\"a\":\n\"b\\n\"}')::json AS j FROM retail.orders";

pub fn tests(tests: &mut Tests) {
    tests.add("calls_over_a_second_report_progress_where_it_is_asked_for", raw);
    tests.add("rmcps_client_gets_progress_in_both_revisions", rmcps);
}

/// Locks the table for a while, so that statements on it take that long on any machine.
async fn hold(world: &World, time: Duration) -> Result<tokio::task::JoinHandle<Result<()>>> {
    let superuser = world.superuser().await?;
    superuser.batch_execute("BEGIN; LOCK TABLE retail.orders IN ACCESS EXCLUSIVE MODE").await?;
    Ok(tokio::spawn(async move {
        tokio::time::sleep(time).await;
        Ok(superuser.batch_execute("ROLLBACK").await?)
    }))
}

fn events(body: &str) -> Result<Vec<Value>> {
    let data =
        body.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim).filter(|data| !data.is_empty());
    data.map(|data| serde_json::from_str(data).with_context(|| format!("an event that is no JSON: {data}"))).collect()
}

async fn raw(world: Arc<World>) -> Result<()> {
    world.limits(&ZAVA, "head-office", Some(json!({"statementTimeout": "30s"}))).await?;
    for revision in Revision::ALL {
        let client = world.client(world.token("head-office")?, "/mcp", revision);
        for token in [json!("a-token"), json!(41)] {
            let held = hold(&world, Duration::from_millis(2600)).await?;
            let started = Instant::now();
            let response = slow(&client, WAITING, Some(token.clone()))?.send().await?;
            ensure!(started.elapsed() > Duration::from_millis(900), "progress after {:?} already", started.elapsed());
            ensure!(response.status() == 200, "{response:?}");
            let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
            ensure!(header("content-type").starts_with("text/event-stream"), "{response:?}");
            ensure!(header("x-accel-buffering") == "no" && !header("x-correlation-id").is_empty(), "{response:?}");
            let body = response.text().await?;
            held.await??;
            let mut events = events(&body)?;
            let answer = events.pop().context("no event")?;
            ensure!(
                answer["id"] == 1 && answer["result"]["structuredContent"]["rows"] == json!([[15, {"a": "b\n"}]]),
                "{answer}"
            );
            ensure!((1..=5).contains(&events.len()), "{revision:?}: {body}");
            let mut last = 0.0;
            for event in events {
                let params = &event["params"];
                ensure!(event["method"] == "notifications/progress" && params["progressToken"] == token, "{event}");
                let progress = params["progress"].as_f64().context("a number")?;
                ensure!(progress > last, "{progress} after {last}");
                ensure!(params["message"].as_str().is_some_and(|text| text.starts_with("running for ")), "{event}");
                last = progress;
            }
        }
        // Not requested, or not needed: one JSON document.
        for (token, time) in [(None, 1500), (Some(json!("t")), 0)] {
            let held = hold(&world, Duration::from_millis(time)).await?;
            let response = slow(&client, WAITING, token)?.send().await?;
            held.await??;
            ensure!(response.headers()["content-type"] == "application/json", "{response:?}");
            ensure!(response.json::<Value>().await?["result"]["isError"] == json!(false));
        }
    }
    world.limits(&ZAVA, "head-office", None).await
}

#[derive(Clone, Default)]
struct Client(Arc<Mutex<Vec<f64>>>);

impl ClientHandler for Client {
    async fn on_progress(&self, params: ProgressNotificationParam, _: NotificationContext<RoleClient>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(params.progress);
    }
}

async fn rmcps(world: Arc<World>) -> Result<()> {
    world.limits(&ZAVA, "head-office", Some(json!({"statementTimeout": "30s"}))).await?;
    for lifecycle in [
        ClientLifecycleMode::Initialize,
        ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] },
    ] {
        let url = format!("{}/mcp", world.gateway.url);
        let config = StreamableHttpClientTransportConfig::with_uri(url).auth_header(world.token("head-office")?);
        let transport = StreamableHttpClientTransport::with_client(world.http.clone(), config);
        let handler = Client::default();
        let client = handler.clone().serve_with_lifecycle(transport, lifecycle).await?;
        let held = hold(&world, Duration::from_millis(2600)).await?;
        let mut arguments = JsonObject::new();
        arguments.insert("postgresql_query".to_owned(), json!(WAITING));
        let result =
            client.call_tool(CallToolRequestParams::new("execute_sales_query").with_arguments(arguments)).await?;
        held.await??;
        ensure!(result.is_error == Some(false), "{result:?}");
        ensure!(result.structured_content.is_some_and(|content| content["rows"] == json!([[15, {"a": "b\n"}]])));
        let seen = handler.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ensure!(!seen.is_empty() && seen.is_sorted(), "{seen:?}");
        client.cancel().await?;
    }
    world.limits(&ZAVA, "head-office", None).await
}
