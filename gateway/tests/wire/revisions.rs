//! Each revision of MCP in the form that its own clients use, batches, and requests that deviate from the
//! specification.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use storefence_devstack::{
    entra::{TokenRequest, principals::ZAVA_TENANT_ID},
    mcp_client::Revision,
};

use crate::{
    Tests,
    world::{World, denied},
};

pub fn tests(tests: &mut Tests) {
    tests.add("each_revision_agrees_to_itself_and_holds_only_what_it_knows", each);
    tests.add("a_session_id_says_what_was_agreed", sessions);
    tests.add("a_header_that_contradicts_the_handshake_does_no_harm", contradictions);
    tests.add("batches_where_the_revision_has_them", batches);
    tests.add("requests_that_are_not_by_the_book_are_understood", liberal);
    tests.add("outsiders_connect_and_read_why_in_every_revision", outsiders);
}

const LEGACY: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];
const SQL: &str = "SELECT count(*) AS n FROM retail.orders";

fn post(world: &World, token: &str, path: &str) -> RequestBuilder {
    let request = world.http.post(format!("{}{path}", world.gateway.url)).bearer_auth(token);
    request.header("content-type", "application/json")
}

/// As an SDK sends it.
fn message(world: &World, token: &str, headers: &[(&str, &str)], body: &Value) -> RequestBuilder {
    let request = post(world, token, "/mcp").header("accept", "application/json, text/event-stream");
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(body.to_string())
}

async fn read(request: RequestBuilder) -> Result<(u16, Value)> {
    let response = request.send().await?;
    let (status, text) = (response.status().as_u16(), response.text().await?);
    Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
}

fn request(id: u32, method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

fn call(id: u32, name: &str, arguments: &Value) -> Value {
    request(id, "tools/call", &json!({"name": name, "arguments": arguments}))
}

async fn initialize(world: &World, token: &str, version: &str) -> Result<(String, Value)> {
    let info = json!({"name": "test", "version": "1"});
    let body = request(0, "initialize", &json!({"protocolVersion": version, "capabilities": {}, "clientInfo": info}));
    let response = message(world, token, &[], &body).send().await?;
    ensure!(response.status() == 200, "{version}: {}", response.status());
    let id = response.headers().get("mcp-session-id").context("a session id")?.to_str()?.to_owned();
    Ok((id, response.json::<Value>().await?["result"].clone()))
}

/// The fields of an object.
fn names(value: &Value) -> Vec<&str> {
    value.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect()
}

async fn each(world: Arc<World>) -> Result<()> {
    let token = world.token("seattle-manager")?;
    for version in LEGACY {
        let (session, agreed) = initialize(&world, &token, version).await?;
        ensure!(agreed["protocolVersion"] == version, "{version}: {agreed}");
        ensure!(agreed["instructions"].is_string() && agreed["capabilities"]["tools"].is_object(), "{agreed}");
        ensure!(agreed["serverInfo"]["title"].is_string() == (version >= "2025-06-18"), "{version}: {agreed}");
        ensure!(agreed["capabilities"]["completions"].is_object() == (version >= "2025-03-26"), "{version}: {agreed}");
        let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        // The header came with 2025-06-18; a client that does not send it is known by its session.
        for headers in [&[("mcp-protocol-version", version)][..], &[("mcp-session-id", session.as_str())]] {
            let ask = async |body: Value| -> Result<Value> {
                let (status, answer) = read(message(&world, &token, headers, &body)).await?;
                ensure!(status == 200, "{version}: {status} {answer}");
                Ok(answer)
            };
            let (status, answer) = read(message(&world, &token, headers, &initialized)).await?;
            ensure!(status == 202 && answer == "", "{version}: {status} {answer}");
            ensure!(ask(request(1, "ping", &json!({}))).await?["result"] == json!({}), "{version}");
            let list = ask(request(2, "tools/list", &json!({}))).await?;
            let tools = list["result"]["tools"].as_array().context("tools")?;
            ensure!(
                tools.len() >= 8 && names(&list["result"]) == ["tools"],
                "{version}: {}",
                names(&list["result"]).join(" ")
            );
            let due: &[&str] = match version {
                "2024-11-05" => &["description", "inputSchema", "name"],
                "2025-03-26" => &["annotations", "description", "inputSchema", "name"],
                _ => &["annotations", "description", "inputSchema", "name", "outputSchema", "title"],
            };
            for tool in tools {
                let mut names = names(tool);
                names.sort_unstable();
                ensure!(names == due, "{version}: {names:?}");
            }
            let answer = ask(call(3, "execute_sales_query", &json!({"postgresql_query": SQL}))).await?;
            let result = &answer["result"];
            ensure!(result["content"] == json!([{"type": "text", "text": "n\n7\n(1 row)"}]), "{version}: {answer}");
            let structured = version >= "2025-06-18";
            ensure!(result["isError"] == json!(false) && result["resultType"].is_null(), "{version}: {answer}");
            ensure!(result.get("structuredContent").is_some() == structured, "{version}: {answer}");
            ensure!(!structured || result["structuredContent"]["rows"] == json!([[7]]), "{version}: {answer}");
            let answer =
                ask(call(4, "execute_sales_query", &json!({"postgresql_query": "SELECT nope FROM orders"}))).await?;
            let result = &answer["result"];
            ensure!(result["isError"] == json!(true), "{version}: {answer}");
            ensure!(
                result["content"][0]["text"].as_str().is_some_and(|text| text.contains("42703")),
                "{version}: {answer}"
            );
            ensure!(result.get("structuredContent").is_some() == structured, "{version}: {answer}");
            let answer = ask(call(5, "drop_tables", &json!({}))).await?;
            ensure!(answer["error"]["code"] == -32602, "{version}: {answer}");
            for (method, what) in [
                ("prompts/list", "prompts"),
                ("resources/list", "resources"),
                ("resources/templates/list", "resourceTemplates"),
            ] {
                let list = ask(request(6, method, &json!({}))).await?;
                let items = list["result"][what].as_array().context("items")?;
                let titled = items.iter().filter(|item| item["title"].is_string()).count();
                ensure!(titled == if structured { items.len() } else { 0 }, "{version}: {list}");
                ensure!(!items.is_empty() && list["result"].get("ttlMs").is_none(), "{version}: {list}");
            }
            let read = ask(request(7, "resources/read", &json!({"uri": "storefence://schema/orders"}))).await?;
            ensure!(read["result"]["contents"][0]["text"].is_string(), "{version}: {read}");
            let unknown = ask(request(8, "resources/read", &json!({"uri": "storefence://no-such"}))).await?;
            ensure!(unknown["error"]["code"] == -32002, "{version}: {unknown}");
            ensure!(ask(request(9, "no/such", &json!({}))).await?["error"]["code"] == -32601, "{version}");
            ensure!(ask(request(10, "logging/setLevel", &json!({"level": "error"}))).await?["result"] == json!({}));
        }
    }
    Ok(())
}

async fn sessions(world: Arc<World>) -> Result<()> {
    let token = world.token("seattle-manager")?;
    let list = request(1, "tools/list", &json!({}));
    let ask = async |headers: &[(&str, &str)]| -> Result<Value> {
        let (status, answer) = read(message(&world, &token, headers, &list)).await?;
        ensure!(status == 200, "{status} {answer}");
        Ok(answer["result"]["tools"][0].clone())
    };
    let (old, _) = initialize(&world, &token, "2024-11-05").await?;
    ensure!(ask(&[("mcp-session-id", &old)]).await?["outputSchema"].is_null());
    // The header takes precedence, and a foreign session id is ignored.
    ensure!(
        ask(&[("mcp-session-id", &old), ("mcp-protocol-version", "2025-11-25")]).await?["outputSchema"].is_object()
    );
    for foreign in ["x", "3f8a1c6e-52d9-4e7b-a1f0-6c2b9d84e735", "1999-01-01.x"] {
        ensure!(ask(&[("mcp-session-id", foreign)]).await?["outputSchema"].is_object(), "{foreign}");
    }
    ensure!(ask(&[]).await?["outputSchema"].is_object(), "who says nothing may be VS Code");
    Ok(())
}

async fn contradictions(world: Arc<World>) -> Result<()> {
    let token = world.token("seattle-manager")?;
    let info = json!({"name": "test", "version": "1"});
    for header in ["2025-11-25", "2024-11-05", "2026-07-28", "2099-01-01"] {
        let params = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": info});
        let body = request(0, "initialize", &params);
        let (status, answer) = read(message(&world, &token, &[("mcp-protocol-version", header)], &body)).await?;
        ensure!(status == 200 && answer["result"]["protocolVersion"] == "2025-06-18", "{header}: {status} {answer}");
    }
    // Like Claude Code: an older revision was agreed to, and a request names the newest.
    let (session, _) = initialize(&world, &token, "2025-03-26").await?;
    let headers = [("mcp-session-id", session.as_str()), ("mcp-protocol-version", "2025-11-25")];
    let body = call(1, "list_stores", &json!({}));
    let (status, answer) = read(message(&world, &token, &headers, &body)).await?;
    ensure!(status == 200 && answer["result"]["isError"] == json!(false), "{status} {answer}");
    Ok(())
}

async fn batches(world: Arc<World>) -> Result<()> {
    let file = world.path("audit-batches.jsonl");
    let gateway = world.another_gateway("batches", &["--audit-file", &file.display().to_string()]).await?;
    let token = world.token("seattle-manager")?;
    let ask = async |headers: &[(&str, &str)], body: &Value| -> Result<(u16, Value)> {
        let request = world.http.post(format!("{}/mcp", gateway.url)).bearer_auth(&token);
        let request = request.header("content-type", "application/json");
        let request = request.header("accept", "application/json, text/event-stream");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        read(request.body(body.to_string())).await
    };
    let older = [("mcp-protocol-version", "2025-03-26")];
    let notification = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    let mut bad = call(2, "execute_sales_query", &json!({"postgresql_query": "SELECT nope FROM orders"}));
    // Nobody reads progress out of an array.
    bad["params"]["_meta"] = json!({"progressToken": 1});
    let members = json!([
        call(1, "execute_sales_query", &json!({"postgresql_query": SQL})),
        notification,
        bad,
        {"jsonrpc": "2.0", "id": 3, "method": "no/such"},
        7,
        request(4, "ping", &Value::Null),
    ]);
    for headers in [&older[..], &[]] {
        let (status, answer) = ask(headers, &members).await?;
        let answers = answer.as_array().with_context(|| format!("{status} {answer}"))?;
        let of = |id: u32| answers.iter().find(|answer| answer["id"] == id).unwrap_or(&Value::Null);
        ensure!(status == 200 && answers.len() == 5, "{status} {answer}");
        ensure!(of(1)["result"]["content"][0]["text"] == "n\n7\n(1 row)", "{answer}");
        // Fields are removed for each message according to the revision.
        ensure!(of(1)["result"].get("structuredContent").is_none() != headers.is_empty(), "{answer}");
        ensure!(of(2)["result"]["isError"] == json!(true), "{answer}");
        ensure!(of(3)["error"]["code"] == -32601 && of(4)["result"] == json!({}), "{answer}");
        ensure!(answers.iter().any(|answer| answer["error"]["code"] == -32600 && answer["id"].is_null()), "{answer}");
    }
    // Each message has its own audit record, under its own id.
    let text = std::fs::read_to_string(&file)?;
    let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let mut ids: Vec<_> = lines.iter().map(|line| line["correlationId"].to_string()).collect();
    ids.sort_unstable();
    ids.dedup();
    ensure!(lines.len() == 4 && ids.len() == 4, "{text}");
    let (status, answer) = ask(&older, &json!([notification, notification])).await?;
    ensure!(status == 202 && answer == "", "{status} {answer}");
    let handshake = request(1, "initialize", &json!({"protocolVersion": "2025-03-26", "capabilities": {}}));
    let ping = request(1, "ping", &json!({}));
    for body in [json!([]), json!([ping, handshake]), Value::Array(vec![ping.clone(); 21])] {
        let (status, answer) = ask(&older, &body).await?;
        ensure!(status == 400 && answer["error"]["code"] == -32600, "{status} {answer}");
    }
    for version in ["2024-11-05", "2025-06-18", "2025-11-25", "2026-07-28"] {
        let (status, answer) = ask(&[("mcp-protocol-version", version)], &json!([ping])).await?;
        ensure!(status == 400 && answer["error"]["code"] == -32600, "{version}: {status} {answer}");
    }
    // The quota counts calls, not HTTP requests.
    let calls: Vec<Value> = (0..20).map(|id| call(id, "list_stores", &json!({}))).collect();
    let (status, answer) = ask(&older, &Value::Array(calls)).await?;
    ensure!(status == 200 && answer.as_array().is_some_and(|answers| answers.len() == 20), "{status} {answer}");
    Ok(())
}

async fn liberal(world: Arc<World>) -> Result<()> {
    let token = world.token("seattle-manager")?;
    let good = call(1, "list_stores", &json!({})).to_string();
    for accept in [Some("*/*"), Some("application/json"), Some("text/event-stream, application/json"), Some(""), None] {
        let mut request = post(&world, &token, "/mcp").body(good.clone());
        if let Some(accept) = accept {
            request = request.header("accept", accept);
        }
        let response = request.send().await?;
        ensure!(response.status() == 200, "{accept:?}: {}", response.status());
        ensure!(response.headers()["content-type"] == "application/json", "{accept:?}");
        ensure!(response.json::<Value>().await?["result"]["isError"] == json!(false), "{accept:?}");
    }
    // A client that does not accept event streams gets none, whatever else it asks for.
    let mut slow = call(
        1,
        "execute_sales_query",
        &json!({"postgresql_query":
        "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000) b"}),
    );
    slow["params"]["_meta"] = json!({"progressToken": 1});
    let sent = post(&world, &token, "/mcp").header("accept", "application/json").body(slow.to_string());
    let response = sent.send().await?;
    ensure!(response.headers()["content-type"] == "application/json", "{response:?}");
    ensure!(response.json::<Value>().await?["result"]["structuredContent"]["code"] == "QUERY_TIMEOUT");

    for path in ["/mcp/", "/zava/mcp", "/zava/mcp/"] {
        let (status, answer) = read(post(&world, &token, path).body(good.clone())).await?;
        ensure!(status == 200 && answer["result"]["isError"] == json!(false), "{path}: {status} {answer}");
        let document = format!("{}/.well-known/oauth-protected-resource{path}", world.gateway.url);
        let document: Value = world.http.get(document).send().await?.json().await?;
        let resource = format!("{}{}", world.gateway.url, path.trim_end_matches('/'));
        ensure!(document["resource"] == resource, "{path}: {document}");
    }
    let (status, answer) = read(post(&world, &token, "/mcp").body(request_null("tools/list"))).await?;
    ensure!(status == 200 && answer["result"]["tools"].is_array(), "{status} {answer}");
    let (status, answer) = read(post(&world, &token, "/mcp").body(request_null("ping"))).await?;
    ensure!(status == 200 && answer["result"] == json!({}), "{status} {answer}");
    for arguments in [json!([]), json!(null), json!(""), json!("{}")] {
        let (status, answer) =
            read(post(&world, &token, "/mcp").body(call(1, "list_stores", &arguments).to_string())).await?;
        ensure!(status == 200 && answer["result"]["isError"] == json!(false), "{arguments}: {status} {answer}");
    }
    let written = call(1, "execute_sales_query", &json!(json!({"postgresql_query": SQL}).to_string()));
    let (_, answer) = read(post(&world, &token, "/mcp").body(written.to_string())).await?;
    ensure!(answer["result"]["structuredContent"]["rows"] == json!([[7]]), "{answer}");
    for (method, params) in [
        ("tools/call", json!({"name": "list_stores", "arguments": [1]})),
        ("tools/call", json!({"name": "list_stores", "arguments": 7})),
        ("tools/call", json!({"name": 7})),
        ("tools/call", json!({})),
        ("prompts/get", json!({})),
        ("resources/read", json!({"uri": []})),
        ("completion/complete", json!({"ref": {}})),
        ("logging/setLevel", json!({"level": "loud"})),
    ] {
        let (status, answer) = read(post(&world, &token, "/mcp").body(request(1, method, &params).to_string())).await?;
        ensure!(status == 200 && answer["error"]["code"] == -32602, "{method} {params}: {status} {answer}");
    }
    for coding in ["gzip", "deflate", "br"] {
        let response = post(&world, &token, "/mcp").header("content-encoding", coding).body("x").send().await?;
        ensure!(response.status() == 415 && response.headers()["accept-encoding"] == "identity", "{response:?}");
    }
    let response = post(&world, &token, "/mcp").header("content-encoding", "identity").body(good).send().await?;
    ensure!(response.status() == 200, "{response:?}");
    Ok(())
}

fn request_null(method: &str) -> String {
    request(1, method, &Value::Null).to_string()
}

/// A caller whom no rule matches connects in each revision, and reads why: in the instructions, from `whoami`, from any
/// other tool.
async fn outsiders(world: Arc<World>) -> Result<()> {
    let token = world.entra.issue(&TokenRequest::user(ZAVA_TENANT_ID).group_overage())?;
    for version in LEGACY {
        let (_, agreed) = initialize(&world, &token, version).await?;
        ensure!(agreed["protocolVersion"] == version, "{agreed}");
        let instructions = agreed["instructions"].as_str().context("instructions")?;
        for word in ["No rule", "roles", "groups", "app role", "correlation ID", "whoami"] {
            ensure!(instructions.contains(word), "{version}: {word} is not in {instructions}");
        }
        let headers = [("mcp-protocol-version", version)];
        let (_, list) = read(message(&world, &token, &headers, &request(1, "tools/list", &json!({})))).await?;
        let tools = list["result"]["tools"].as_array().context("tools")?;
        ensure!(tools.len() == 1 && tools[0]["name"] == "whoami", "{version}: {list}");
        let (_, me) = read(message(&world, &token, &headers, &call(2, "whoami", &json!({})))).await?;
        let text = me["result"]["content"][0]["text"].as_str().context("a text")?;
        ensure!(me["result"]["isError"] == json!(false) && text.contains("app role"), "{version}: {me}");
        let ask = call(3, "execute_sales_query", &json!({"postgresql_query": SQL}));
        let (status, refused) = read(message(&world, &token, &headers, &ask)).await?;
        let text = refused["result"]["content"][0]["text"].as_str().context("a text")?;
        ensure!(status == 200 && refused["result"]["isError"] == json!(true), "{version}: {refused}");
        ensure!(text.starts_with("AUTHORIZATION_ERROR: No rule") && text.contains("app role"), "{version}: {text}");
        ensure!(refused["result"].get("structuredContent").is_some() == (version >= "2025-06-18"), "{version}");
    }
    let client = world.client(token, "/mcp", Revision::V2026_07_28);
    let discovered = client.send("server/discover", json!({})).await?;
    ensure!(discovered.status == 200, "{}", discovered.message);
    ensure!(discovered.result()["instructions"].as_str().is_some_and(|text| text.contains("app role")));
    // Another store's rows: the same kind of answer, whether that store exists or not.
    let seattle = world.client_as("seattle-manager")?;
    let mut told = Vec::new();
    for store in ["Redmond", "Atlantis"] {
        let answer = seattle.call_tool("get_store_performance", json!({"store": store})).await?;
        let structured = denied(&answer)?;
        let (id, message) = (structured["correlationId"].as_str(), structured["message"].as_str());
        told.push(message.context("a message")?.replace(id.context("an id")?, "ID").replace(store, "STORE"));
    }
    ensure!(told[0] == told[1], "{told:?}");
    Ok(())
}
