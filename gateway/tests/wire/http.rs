//! Around MCP: Host and Origin, protected-resource metadata, challenges.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use storefence_devstack::{
    entra::{TokenRequest, principals},
    mcp_client::{Answer, Revision},
    process::Spawn,
};

use crate::{
    Tests,
    world::{World, free_port, until},
};

pub fn tests(tests: &mut Tests) {
    tests.add("metadata_documents", metadata);
    tests.add("metadata_of_a_sovereign_authority", sovereign);
    tests.add("challenges", challenges);
    tests.add("host_and_origin_are_checked", hosts);
    tests.add("http2_and_keep_alive", http2);
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

/// Not even its keys can be had here; what clients are told follows from the configuration.
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
    // A good token without the scope: another scope would help, another token would not.
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
    // A token that no rule names: the log says what the answer says, and why.
    let nobody = world.entra.issue(&TokenRequest::user(principals::ZAVA_TENANT_ID))?;
    let answer = world.client(nobody, "/mcp", Revision::V2026_07_28).send("tools/list", json!({})).await?;
    forbidden(&world, &answer)?;
    let line = logged(&world, &answer.message)?;
    ensure!(line["fields"]["reasons"] == "[\"NoRule\"]", "{line}");
    let looked_at: Vec<_> =
        answer.message["claims"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    ensure!(!looked_at.is_empty() && line["fields"]["looked_at"] == looked_at.join(", "), "{line}");
    Ok(())
}

/// 403 with all that a client needs to ask for another scope.
fn forbidden(world: &World, answer: &Answer) -> Result<()> {
    let header = answer.headers["www-authenticate"].to_str()?;
    let metadata = format!("{}/.well-known/oauth-protected-resource/mcp", world.gateway.url);
    let due = format!(
        r#"Bearer error="insufficient_scope", resource_metadata="{metadata}", scope="api://storefence/Retail.Query""#
    );
    ensure!(answer.status == 403 && header == due, "{}: {header}", answer.status);
    Ok(())
}

/// The log line that a 403 names.
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
