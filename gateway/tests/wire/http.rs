//! Around MCP: Host and Origin, protected-resource metadata, challenges.

use std::sync::Arc;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use storefence_devstack::{entra::principals, mcp_client::Revision};

use crate::{Tests, world::World};

pub fn tests(tests: &mut Tests) {
    tests.add("metadata_documents", metadata);
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
                && header.contains(&metadata),
            "{header}"
        );
    }
    // A good token without the scope: another scope would help, another token would not.
    let principal = principals::find("head-office").expect("known");
    for scp in ["Retail.QueryAll", "retail.query", "User.Read openid"] {
        let request = storefence_devstack::entra::TokenRequest::principal(principal).claim("scp", json!(scp));
        let token = world.entra.issue(&request)?;
        let answer = world.client(token, "/mcp", Revision::V2026_07_28).send("tools/list", json!({})).await?;
        let header = answer.headers["www-authenticate"].to_str()?;
        ensure!(
            answer.status == 403
                && header.contains(r#"error="insufficient_scope""#)
                && header.contains("scope=\"api://"),
            "{scp}: {header}"
        );
    }
    Ok(())
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
