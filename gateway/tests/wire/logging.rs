//! `notifications/message`: on a call's own stream, only for the client that asked for it.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use storefence_devstack::mcp_client::{McpClient, Revision};

use crate::{Tests, world::World};

const LEVEL: &str = "io.modelcontextprotocol/logLevel";

pub fn tests(tests: &mut Tests) {
    tests.add("a_client_is_told_what_it_asked_to_be_told", messages);
}

/// The messages on the stream of one call; a JSON answer has none.
async fn told(client: &McpClient, session: Option<&str>, level: Option<&str>, sql: &str) -> Result<Vec<Value>> {
    let params = json!({"name": "execute_sales_query", "arguments": {"postgresql_query": sql}});
    let mut request = client.request("tools/call", params);
    if let Some(session) = session {
        request = request.header("mcp-session-id", session);
    }
    if let Some(level) = level {
        let built = request.try_clone().and_then(|request| request.build().ok()).context("a request")?;
        let mut body: Value = serde_json::from_slice(built.body().and_then(|body| body.as_bytes()).context("a body")?)?;
        body["params"]["_meta"][LEVEL] = json!(level);
        request = request.json(&body);
    }
    let text = request.send().await?.text().await?;
    ensure!(text.contains("\"result\""), "{text}");
    let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data:")?.trim()).ok());
    Ok(events.filter(|event| event["method"] == "notifications/message").collect())
}

async fn set(client: &McpClient, session: Option<&str>, level: &str) -> Result<Value> {
    let mut request = client.request("logging/setLevel", json!({"level": level}));
    if let Some(session) = session {
        request = request.header("mcp-session-id", session);
    }
    Ok(client.read(request).await?.message)
}

async fn messages(world: Arc<World>) -> Result<()> {
    const GOOD: &str = "SELECT 'not in the message'";
    const BAD: &str = "SELECT no_such_column FROM retail.orders";
    let newer = world.client_as("seattle-manager")?;
    ensure!(told(&newer, None, None, GOOD).await?.is_empty(), "nobody asked");
    let message = &told(&newer, None, Some("info"), GOOD).await?[0];
    ensure!(message["params"]["level"] == "info" && message["params"]["logger"] == "storefence", "{message}");
    let data = &message["params"]["data"];
    ensure!(data["tool"] == "execute_sales_query" && data["outcome"] == "ok" && data["durationMs"].is_u64(), "{data}");
    ensure!(data["correlationId"].as_str().is_some_and(|id| id.len() == 36), "{data}");
    ensure!(!message.to_string().contains("not in the message"), "{message}");
    ensure!(told(&newer, None, Some("warning"), GOOD).await?.is_empty());
    let warned = told(&newer, None, Some("warning"), BAD).await?;
    ensure!(warned.len() == 1 && warned[0]["params"]["level"] == "warning", "{warned:?}");
    ensure!(warned[0]["params"]["data"]["outcome"] == "DATABASE_ERROR", "{warned:?}");
    ensure!(told(&newer, None, Some("error"), BAD).await?.is_empty());
    ensure!(set(&newer, None, "info").await?["error"]["code"] == -32601, "the newer revision has no logging/setLevel");

    let token = world.token("seattle-manager")?;
    let older = world.client(token, "/mcp", Revision::V2025_11_25);
    let answer = older.initialize().await?;
    ensure!(answer.result()["capabilities"]["logging"].is_object(), "{}", answer.message);
    let session = answer.headers.get("mcp-session-id").context("a session id")?.to_str()?.to_owned();
    let session = Some(session.as_str());
    ensure!(told(&older, session, None, BAD).await?.is_empty(), "nobody asked");
    ensure!(set(&older, session, "warning").await?["result"] == json!({}));
    ensure!(told(&older, session, None, GOOD).await?.is_empty());
    ensure!(told(&older, session, None, BAD).await?.len() == 1);
    ensure!(set(&older, session, "debug").await?["result"] == json!({}));
    ensure!(told(&older, session, None, GOOD).await?.len() == 1);
    // Another client of the same token, and another token with the same session id.
    ensure!(told(&older, None, None, GOOD).await?.is_empty());
    let other = world.client(world.token("redmond-manager")?, "/mcp", Revision::V2025_11_25);
    ensure!(told(&other, session, None, GOOD).await?.is_empty());
    ensure!(set(&older, session, "loud").await?["error"]["code"].is_i64(), "there is no such level");
    Ok(())
}
