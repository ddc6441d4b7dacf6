//! Around MCP: Host and Origin, protected-resource metadata, challenges.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use storefence_devstack::{
    entra::{TokenRequest, principals},
    mcp_client::{Answer, Revision},
    process::Spawn,
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    Tests,
    world::{World, free_port, standing, until},
};

pub fn tests(tests: &mut Tests) {
    tests.add("metadata_documents", metadata);
    tests.add("metadata_of_a_sovereign_authority", sovereign);
    tests.add("challenges", challenges);
    tests.add("host_and_origin_are_checked", hosts);
    tests.add("http2_and_keep_alive", http2);
    tests.add("a_target_of_another_host_is_refused", targets);
    tests.add("a_refused_body_is_answered_while_it_is_still_sent", refused_bodies);
    tests.add("pages_of_allowed_origins_may_ask_and_read", cors);
}

async fn metadata(world: Arc<World>) -> Result<()> {
    let get = async |path: &str| -> Result<(u16, Value)> {
        let response =
            world.http.get(format!("{}/.well-known/oauth-protected-resource{path}", world.gateway.url)).send().await?;
        Ok((response.status().as_u16(), response.json().await?))
    };
    let (status, root) = get("").await?;
    ensure!(status == 200 && root["resource"] == format!("{}/mcp", world.gateway.url), "{root}");
    ensure!(
        root["scopes_supported"] == json!(["api://storefence/Retail.Query"])
            && root["bearer_methods_supported"] == json!(["header"])
    );
    ensure!(root["authorization_servers"].as_array().is_some_and(|servers| !servers.is_empty()), "{root}");
    ensure!(get("/mcp").await? == (200, root));
    let (_, known) = get("/zava/mcp").await?;
    let (_, unknown) = get("/nobody/mcp").await?;
    ensure!(known["resource"] == format!("{}/zava/mcp", world.gateway.url));
    let text = known.to_string().replace("/zava/", "/nobody/");
    ensure!(
        serde_json::from_str::<Value>(&text)? == unknown,
        "an unknown tenant's document differs: {known} {unknown}"
    );
    Ok(())
}

/// A sovereign cloud, whose keys cannot be fetched here; what clients are answered follows from the configuration.
async fn sovereign(world: Arc<World>) -> Result<()> {
    let (port, admin) = (free_port()?, free_port()?);
    let url = format!("http://127.0.0.1:{port}");
    let gateway = Spawn::new(env!("CARGO_BIN_EXE_storefence-gateway"))
        .args(["run", "--listen", &format!("127.0.0.1:{port}"), "--admin-listen", &format!("127.0.0.1:{admin}")])
        .args(["--public-url", &url, "--audience", principals::AUDIENCE, "--scope", "Retail.Query"])
        .args(["--log-format", "json", "--config"])
        .arg(world.path("config.yaml"))
        .args(["--authority", "https://login.microsoftonline.us", "--credential", "client-secret"])
        .args(["--azure-tenant-id", principals::ZAVA_TENANT_ID, "--azure-client-id", principals::AUDIENCE, "--tenants"])
        .arg(world.path("nobody"))
        .env("AZURE_CLIENT_SECRET", "unused")
        .log(world.path("sovereign.log"));
    std::fs::create_dir_all(world.path("nobody"))?;
    let _gateway = gateway.start()?;
    let document = format!("{url}/.well-known/oauth-protected-resource/mcp");
    let get = async || -> Result<Value> { Ok(world.http.get(&document).send().await?.json().await?) };
    until("it answers", Duration::from_secs(20), || async { Ok(get().await.is_ok()) }).await?;
    let document = get().await?;
    let servers = json!(["https://login.microsoftonline.us/organizations/v2.0"]);
    ensure!(document["authorization_servers"] == servers, "{document}");
    Ok(())
}

async fn challenges(world: Arc<World>) -> Result<()> {
    for (path, metadata) in [("/mcp", "/mcp"), ("/zava/mcp", "/zava/mcp"), ("/nobody/mcp", "/nobody/mcp")] {
        let metadata =
            format!(r#"resource_metadata="{}/.well-known/oauth-protected-resource{metadata}""#, world.gateway.url);
        let scope = r#"scope="api://storefence/Retail.Query""#;
        let none = world.client(None, path, Revision::V2026_07_28).send("tools/list", json!({})).await?;
        let header = none.headers["www-authenticate"].to_str()?;
        ensure!(none.status == 401 && header == format!("Bearer {metadata}, {scope}"), "{header}");
        let wrong = world.client("a.b.c".to_owned(), path, Revision::V2026_07_28).send("tools/list", json!({})).await?;
        let header = wrong.headers["www-authenticate"].to_str()?;
        ensure!(
            wrong.status == 401
                && header.starts_with(r#"Bearer error="invalid_token", "#)
                && header.contains(&metadata)
                && header.contains(scope),
            "{header}"
        );
    }
    // A valid token without the scope: another scope would help, another token would not.
    let principal = principals::find("head-office").expect("known");
    for scp in ["Retail.QueryAll", "retail.query", "User.Read openid"] {
        let request = TokenRequest::principal(principal).claim("scp", json!(scp));
        let token = world.entra.issue(&request)?;
        let answer = world.client(token, "/mcp", Revision::V2026_07_28).send("tools/list", json!({})).await?;
        forbidden(&world, &answer)?;
        let body = &answer.message;
        ensure!(body["error"] == "insufficient_scope" && body["claims"] == json!(["scp"]), "{scp}: {body}");
        let line = logged(&world, body)?;
        ensure!(line["fields"]["looked_at"] == "scp", "{line}");
    }
    // A token that no rule matches: the log gives the same reason as the answer, and the details.
    let nobody = world.entra.issue(&TokenRequest::user(principals::ZAVA_TENANT_ID))?;
    let found = standing(&world.client(nobody, "/mcp", Revision::V2026_07_28)).await?;
    let said = found.said()?;
    let line = logged(&world, said)?;
    ensure!(line["fields"]["reasons"] == "[\"NoRule\"]", "{line}");
    let looked_at: Vec<_> = said["claims"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    ensure!(!looked_at.is_empty() && line["fields"]["looked_at"] == looked_at.join(", "), "{line}");
    Ok(())
}

/// 403 with everything that a client needs to request another scope.
fn forbidden(world: &World, answer: &Answer) -> Result<()> {
    let header = answer.headers["www-authenticate"].to_str()?;
    let metadata = format!("{}/.well-known/oauth-protected-resource/mcp", world.gateway.url);
    let due = format!(
        r#"Bearer error="insufficient_scope", resource_metadata="{metadata}", scope="api://storefence/Retail.Query""#
    );
    ensure!(answer.status == 403 && header == due, "{}: {header}", answer.status);
    Ok(())
}

/// The log line that a 403 refers to.
fn logged(world: &World, body: &Value) -> Result<Value> {
    let id = body["correlationId"].as_str().context("an id")?;
    let log = std::fs::read_to_string(world.path("gateway.log"))?;
    let line = log.lines().find(|line| line.contains(id)).context("the log does not know the id")?;
    Ok(serde_json::from_str(line)?)
}

async fn hosts(world: Arc<World>) -> Result<()> {
    let token = world.token("head-office")?;
    let client = world.client(token, "/mcp", Revision::V2026_07_28);
    for (header, value, status) in [
        ("host", "evil.example", 403),
        ("origin", "https://evil.example", 403),
        ("origin", "null", 403),
        ("origin", "http://localhost:6274", 200),
        ("host", "localhost", 200),
    ] {
        let answer = client.read(client.request("tools/list", json!({})).header(header, value)).await?;
        ensure!(answer.status == status, "{header}: {value}: {}", answer.status);
    }
    let document = world
        .http
        .get(format!("{}/.well-known/oauth-protected-resource", world.gateway.url))
        .header("host", "evil.example");
    ensure!(document.send().await?.status() == 403);
    Ok(())
}

async fn http2(world: Arc<World>) -> Result<()> {
    let token = world.token("head-office")?;
    let http = reqwest::Client::builder().http2_prior_knowledge().build()?;
    let url = format!("{}/mcp", world.gateway.url);
    let client = storefence_devstack::mcp_client::McpClient::new(http, url, Some(token), Revision::V2026_07_28);
    for _ in 0..3 {
        let answer = client.call_tool("list_stores", json!({})).await?;
        ensure!(answer.status == 200 && !answer.is_tool_error(), "{}", answer.message);
    }
    Ok(())
}

/// Sends raw bytes and reads the answer to its end, or to the end of its headers.
async fn bytes(world: &World, head: String, body: Vec<u8>) -> Result<String> {
    let address = world.gateway.url.strip_prefix("http://").context("plain HTTP")?.to_owned();
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    stream.write_all(head.as_bytes()).await?;
    // Sends everything before reading, like clients that read the answer last.
    for part in body.chunks(64 * 1024) {
        stream.write_all(part).await.context("a broken pipe")?;
    }
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    while !answer.windows(4).any(|four| four == b"\r\n\r\n") {
        let read = stream.read(&mut buffer).await.context("a reset")?;
        ensure!(read > 0, "closed without an answer");
        answer.extend_from_slice(&buffer[..read]);
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

async fn targets(world: Arc<World>) -> Result<()> {
    let (token, own) = (world.token("head-office")?, world.gateway.url.clone());
    let host = own.strip_prefix("http://").context("plain HTTP")?;
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).to_string();
    let ask = async |target: &str, host: &str| {
        let head = format!(
            "POST {target} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        bytes(&world, head, body.clone().into_bytes()).await
    };
    for (target, host, status) in [
        ("/mcp".to_owned(), host, "200"),
        (format!("{own}/mcp"), host, "200"),
        ("http://evil.example/mcp".to_owned(), host, "403"),
        ("http://localhost:1/mcp".to_owned(), host, "403"),
        (format!("{own}/mcp"), "evil.example", "403"),
        (format!("{own}/mcp"), "localhost", "403"),
    ] {
        let answer = ask(&target, host).await?;
        ensure!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{target} {host}: {answer}");
    }
    Ok(())
}

async fn refused_bodies(world: Arc<World>) -> Result<()> {
    let token = world.token("head-office")?;
    let host = world.gateway.url.strip_prefix("http://").context("plain HTTP")?;
    let large = vec![b' '; 8 * 1024 * 1024];
    for (what, path, authorization, kind, status) in [
        ("too large", "/mcp", format!("Bearer {token}"), "application/json", "413"),
        ("without a good token", "/mcp", "Bearer x".to_owned(), "application/json", "401"),
        ("not JSON", "/mcp", format!("Bearer {token}"), "text/plain", "415"),
        ("nowhere", "/nowhere", format!("Bearer {token}"), "application/json", "404"),
    ] {
        for announced in [true, false] {
            let (length, body) = match announced {
                true => (format!("Content-Length: {}", large.len()), large.clone()),
                false => {
                    let mut chunked = format!("{:x}\r\n", large.len()).into_bytes();
                    chunked.extend_from_slice(&large);
                    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
                    ("Transfer-Encoding: chunked".to_owned(), chunked)
                }
            };
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: {authorization}\r\nContent-Type: {kind}\r\n{length}\r\n\r\n"
            );
            let answer = bytes(&world, head, body).await.with_context(|| what.to_owned())?;
            ensure!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {answer}");
        }
    }
    Ok(())
}

async fn cors(world: Arc<World>) -> Result<()> {
    const ORIGIN: &str = "http://localhost:6274";
    let token = world.token("head-office")?;
    let documents = "/.well-known/oauth-protected-resource/mcp";
    for path in ["/mcp", "/zava/mcp", documents] {
        // A preflight carries no token.
        let preflight = world.http.request(reqwest::Method::OPTIONS, format!("{}{path}", world.gateway.url));
        let preflight = preflight
            .header("origin", ORIGIN)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,content-type,mcp-protocol-version,mcp-session-id");
        let answer = preflight.send().await?;
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        ensure!(answer.status() == 200 && header("access-control-allow-origin") == ORIGIN, "{path}: {answer:?}");
        for name in
            ["authorization", "content-type", "accept", "mcp-protocol-version", "mcp-session-id", "last-event-id"]
        {
            ensure!(header("access-control-allow-headers").split(',').any(|own| own.trim() == name), "{path}: {name}");
        }
        ensure!(header("access-control-allow-methods").contains("POST"), "{path}: {answer:?}");
        ensure!(header("access-control-allow-credentials").is_empty(), "{path}: {answer:?}");
    }
    let client = world.client(token, "/mcp", Revision::V2026_07_28);
    let nobody = world.client(None, "/mcp", Revision::V2026_07_28);
    for (client, status) in [(&client, 200), (&nobody, 401)] {
        let answer = client.read(client.request("tools/list", json!({})).header("origin", ORIGIN)).await?;
        ensure!(answer.status == status && answer.headers["access-control-allow-origin"] == ORIGIN, "{answer:?}");
        let exposed = answer.headers["access-control-expose-headers"].to_str()?;
        for name in ["mcp-session-id", "mcp-protocol-version", "www-authenticate", "retry-after", "x-correlation-id"] {
            ensure!(exposed.split(',').any(|own| own.trim() == name), "{name} is not in {exposed}");
        }
        // Without allowed origins, no origin is allowed.
        let answer = client.send("tools/list", json!({})).await?;
        ensure!(!answer.headers.contains_key("access-control-allow-origin"), "{answer:?}");
    }
    let foreign = world.http.request(reqwest::Method::OPTIONS, format!("{}/mcp", world.gateway.url));
    let foreign = foreign.header("origin", "https://evil.example").header("access-control-request-method", "POST");
    let answer = foreign.send().await?;
    ensure!(answer.status() == 403 && !answer.headers().contains_key("access-control-allow-origin"), "{answer:?}");
    Ok(())
}
