//! The newest two revisions of MCP, as bytes on the wire.

use std::sync::Arc;

use anyhow::{Result, ensure};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use storefence_devstack::mcp_client::{McpClient, Revision};

use crate::{Tests, world::World};

pub fn tests(tests: &mut Tests) {
    tests.add("initialize_negotiates_the_older_revision", initialize);
    tests.add("discover_and_lists_of_the_newer_revision", discover);
    tests.add("malformed_messages", malformed);
    tests.add("versions_and_headers_of_the_newer_revision", versions);
    tests.add("only_post_and_no_session_is_asked_for", only_post);
    tests.add("unknown_tools_and_methods", unknown);
    tests.add("any_replica_answers_a_client_of_the_older_revision", replicas);
}

fn raw(world: &World, token: &str, version: Option<&str>) -> RequestBuilder {
    let request = world.http.post(format!("{}/mcp", world.gateway.url)).bearer_auth(token);
    let request =
        request.header("accept", "application/json, text/event-stream").header("content-type", "application/json");
    match version {
        Some(version) => request.header("mcp-protocol-version", version),
        None => request,
    }
}

async fn send(request: RequestBuilder, body: impl Into<String>) -> Result<(StatusCode, Value)> {
    let response = request.body(body.into()).send().await?;
    let status = response.status();
    let text = response.text().await?;
    Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
}

async fn initialize(world: Arc<World>) -> Result<()> {
    let token = world.token("head-office")?;
    for (asked, answered) in [
        ("2025-11-25", "2025-11-25"),
        ("2025-06-18", "2025-06-18"),
        ("2025-03-26", "2025-03-26"),
        ("2024-11-05", "2024-11-05"),
        ("1999-01-01", "2025-11-25"),
        ("2099-01-01", "2025-11-25"),
        ("2026-07-28", "2025-11-25"),
    ] {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
            "protocolVersion": asked, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}});
        let response = raw(&world, &token, None).body(body.to_string()).send().await?;
        ensure!(
            response.status() == 200 && response.headers().get("mcp-session-id").is_some_and(|id| id.len() == 47),
            "{asked}: {response:?}"
        );
        let answer: Value = response.json().await?;
        ensure!(answer["result"]["protocolVersion"] == answered, "{asked}: {answer}");
        ensure!(
            answer["result"]["capabilities"]["tools"].is_object()
                && answer["result"]["serverInfo"]["name"] == "storefence-gateway"
        );
        ensure!(answer["result"]["resultType"].is_null(), "a field of the newer revision: {answer}");
    }
    let (status, body) =
        send(raw(&world, &token, Some("2025-11-25")), r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#)
            .await?;
    ensure!(status == 202 && body == json!(""), "{status} {body}");
    let (status, body) =
        send(raw(&world, &token, Some("2025-11-25")), r#"{"jsonrpc":"2.0","id":"x","method":"ping"}"#).await?;
    ensure!(status == 200 && body == json!({"jsonrpc": "2.0", "id": "x", "result": {}}), "{body}");
    // Without a version header, as VS Code: no later than 2025-11-25.
    let (status, body) = send(raw(&world, &token, None), r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#).await?;
    ensure!(status == 200 && body["result"]["tools"].as_array().is_some_and(|tools| tools.len() >= 3), "{body}");
    ensure!(body["result"]["cacheScope"].is_null() && body["result"]["resultType"].is_null(), "{body}");
    Ok(())
}

async fn discover(world: Arc<World>) -> Result<()> {
    let client = world.client_as("head-office")?;
    let discovered = client.send("server/discover", json!({})).await?;
    let result = discovered.result();
    ensure!(discovered.status == 200 && result["resultType"] == "complete", "{result}");
    ensure!(
        result["supportedVersions"] == json!(["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"]),
        "{result}"
    );
    ensure!(result["ttlMs"].is_u64() && result["cacheScope"].is_string(), "{result}");

    let first = client.send("tools/list", json!({})).await?;
    let tools = first.result();
    ensure!(
        tools["cacheScope"] == "private" && tools["ttlMs"].is_u64() && tools["resultType"] == "complete",
        "{tools}"
    );
    let names: Vec<_> =
        tools["tools"].as_array().into_iter().flatten().filter_map(|tool| tool["name"].as_str()).collect();
    let known = [
        "execute_sales_query",
        "get_current_utc_date",
        "get_multiple_table_schemas",
        "get_product_recommendations",
        "get_store_performance",
        "list_stores",
        "semantic_search_products",
        "whoami",
    ];
    ensure!(names == known, "{names:?}");
    for tool in tools["tools"].as_array().into_iter().flatten() {
        ensure!(
            tool["annotations"]["readOnlyHint"] == json!(true) && tool["annotations"]["openWorldHint"] == json!(false),
            "{tool}"
        );
        ensure!(tool["outputSchema"]["type"] == "object" && tool["inputSchema"]["type"] == "object", "{tool}");
        ensure!(tool["description"].as_str().is_some_and(|text| text.len() > 40), "{tool}");
    }
    let again = client.send("tools/list", json!({})).await?;
    ensure!(first.message == again.message, "the list changed between two calls");
    let cursor = client.send("tools/list", json!({"cursor": "x"})).await?;
    ensure!(cursor.message["error"]["code"] == -32602, "{}", cursor.message);
    Ok(())
}

async fn malformed(world: Arc<World>) -> Result<()> {
    let token = world.token("head-office")?;
    for version in ["2025-11-25", "2026-07-28"] {
        for (body, code) in [
            ("{", -32700),
            ("", -32700),
            ("[]", -32600),
            (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1}"#, -32600),
            (r#"{"id":1,"method":"ping"}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[1]}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, -32600),
        ] {
            let (status, answer) = send(raw(&world, &token, Some(version)), body).await?;
            ensure!(
                status == 400 && answer["error"]["code"] == code && answer["jsonrpc"] == "2.0",
                "{version} {body}: {status} {answer}"
            );
        }
    }
    let big = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"x":"{}"}}}}"#, "x".repeat(1024 * 1024));
    let (status, _) = send(raw(&world, &token, Some("2025-11-25")), big).await?;
    ensure!(status == 413, "{status}");
    let text = world
        .http
        .post(format!("{}/mcp", world.gateway.url))
        .bearer_auth(&token)
        .header("content-type", "text/plain")
        .body("{}");
    ensure!(text.send().await?.status() == 415);
    Ok(())
}

async fn versions(world: Arc<World>) -> Result<()> {
    let client = world.client_as("head-office")?;
    let list = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/list", "params": {}});
    let unsupported = client.request("tools/list", json!({})).header("x-none", "");
    drop(unsupported);
    let token = world.token("head-office")?;
    for version in ["2024-11-04", "x", "2099-01-01"] {
        let (status, answer) = send(raw(&world, &token, Some(version)), list.to_string()).await?;
        ensure!(
            status == 400 && answer["error"]["code"] == -32022 && answer["id"] == 7,
            "{version}: {status} {answer}"
        );
        ensure!(
            answer["error"]["data"]
                == json!({"supported": ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"], "requested": version}),
            "{answer}"
        );
    }
    let meta = |version: &str, capabilities: bool| {
        let mut meta = json!({"io.modelcontextprotocol/protocolVersion": version});
        if capabilities {
            meta["io.modelcontextprotocol/clientCapabilities"] = json!({});
        }
        json!({"jsonrpc": "2.0", "id": 7, "method": "tools/list", "params": {"_meta": meta}}).to_string()
    };
    let newer = || raw(&world, &token, Some("2026-07-28"));
    for (name, request, body, status, code) in [
        ("no _meta", newer().header("mcp-method", "tools/list"), list.to_string(), 400, -32602),
        ("no capabilities", newer().header("mcp-method", "tools/list"), meta("2026-07-28", false), 400, -32602),
        ("no Mcp-Method", newer(), meta("2026-07-28", true), 400, -32020),
        ("another Mcp-Method", newer().header("mcp-method", "tools/call"), meta("2026-07-28", true), 400, -32020),
        ("another version in _meta", newer().header("mcp-method", "tools/list"), meta("2025-11-25", true), 400, -32020),
        (
            "an unknown version in _meta",
            newer().header("mcp-method", "tools/list"),
            meta("2099-01-01", true),
            400,
            -32020,
        ),
        (
            "an unknown version in both",
            raw(&world, &token, Some("2099-01-01")).header("mcp-method", "tools/list"),
            meta("2099-01-01", true),
            400,
            -32022,
        ),
    ] {
        let (got, answer) = send(request, body).await?;
        ensure!(got == status && answer["error"]["code"] == code, "{name}: {got} {answer}");
    }
    let call = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "list_stores", "arguments": {}, "_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}}});
    let encoded = newer().header("mcp-method", "tools/call").header("mcp-name", "=?base64?bGlzdF9zdG9yZXM=?=");
    let (status, answer) = send(encoded, call.to_string()).await?;
    ensure!(status == 200 && answer["result"]["isError"] == json!(false), "an encoded Mcp-Name: {status} {answer}");
    for name in [None, Some("get_current_utc_date")] {
        let request = newer().header("mcp-method", "tools/call");
        let request = match name {
            Some(name) => request.header("mcp-name", name),
            None => request,
        };
        let (status, answer) = send(request, call.to_string()).await?;
        ensure!(status == 400 && answer["error"]["code"] == -32020, "Mcp-Name {name:?}: {status} {answer}");
    }
    // An older client may send Mcp-Method too; the version decides.
    let (status, _) =
        send(raw(&world, &token, Some("2025-11-25")).header("mcp-method", "tools/list"), list.to_string()).await?;
    ensure!(status == 200);
    Ok(())
}

async fn only_post(world: Arc<World>) -> Result<()> {
    let token = world.token("head-office")?;
    for method in [Method::GET, Method::DELETE, Method::PUT] {
        let request = world.http.request(method.clone(), format!("{}/mcp", world.gateway.url)).bearer_auth(&token);
        let response = request.header("accept", "text/event-stream").send().await?;
        ensure!(response.status() == 405 && response.headers()["allow"] == "POST", "{method}: {response:?}");
    }
    // A client's own session id changes nothing.
    let client = world.client(token, "/mcp", Revision::V2025_11_25);
    let answer = client.read(client.request("tools/list", json!({})).header("mcp-session-id", "x")).await?;
    ensure!(answer.status == 200 && !answer.headers.contains_key("mcp-session-id"));
    Ok(())
}

async fn unknown(world: Arc<World>) -> Result<()> {
    for revision in Revision::ALL {
        let client = world.client(world.token("head-office")?, "/mcp", revision);
        let answer = client.send("tools/call", json!({"name": "drop_tables", "arguments": {}})).await?;
        ensure!(answer.message["error"]["code"] == -32602, "{revision:?}: {}", answer.message);
        let answer = client.send("no/such", json!({})).await?;
        let status = if revision == Revision::V2026_07_28 { 404 } else { 200 };
        ensure!(
            answer.status == status && answer.message["error"]["code"] == -32601,
            "{revision:?}: {} {}",
            answer.status,
            answer.message
        );
    }
    let removed = world.client_as("head-office")?.send("ping", json!({})).await?;
    ensure!(removed.status == 404 && removed.message["error"]["code"] == -32601, "{}", removed.message);
    Ok(())
}

/// A handshake with one replica and calls to another, as behind a load balancer without session affinity.
async fn replicas(world: Arc<World>) -> Result<()> {
    let second = world.another_gateway("replica", &[]).await?;
    let token = world.token("seattle-manager")?;
    let here = world.client(token.clone(), "/mcp", Revision::V2025_11_25);
    let url = format!("{}/mcp", second.url);
    let there = McpClient::new(world.http.clone(), url, Some(token), Revision::V2025_11_25);
    let answer = here.initialize().await?;
    ensure!(answer.result()["protocolVersion"] == "2025-11-25", "{}", answer.message);
    let sql = json!({"postgresql_query": "SELECT count(*) FROM retail.orders"});
    for client in [&there, &here, &there] {
        let listed = client.send("tools/list", json!({})).await?;
        ensure!(listed.result()["tools"].as_array().is_some_and(|tools| tools.len() >= 3), "{}", listed.message);
        let rows = client.call_tool("execute_sales_query", sql.clone()).await?;
        ensure!(rows.structured()["rows"] == json!([[7]]), "{}", rows.message);
    }
    Ok(())
}
