//! rmcp's client.

use anyhow::{Context, Result};
use rmcp::{
    model::{CallToolRequestParams, CallToolResult, ClientConfig, ProtocolVersion, ReadResourceRequestParams},
    service::{ClientLifecycleMode, Peer, RoleClient, serve_client_with_lifecycle},
    transport::{StreamableHttpClientTransport, streamable_http_client::StreamableHttpClientTransportConfig},
};
use serde_json::{Map, json};
use storefence_tests::Shared;

use super::{BAD, GOOD, Seen, url};

pub async fn both_revisions(shared: &Shared) -> Result<()> {
    let newer = ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] };
    for (lifecycle, version) in [(newer, "2026-07-28"), (ClientLifecycleMode::Initialize, "2025-11-25")] {
        seen(shared, lifecycle).await?.check(shared, version).await?;
    }
    Ok(())
}

async fn seen(shared: &Shared, lifecycle: ClientLifecycleMode) -> Result<Seen> {
    let token = shared.token("seattle-manager", json!({}))?;
    let config = StreamableHttpClientTransportConfig::with_uri(url(shared)).auth_header(token);
    let transport = StreamableHttpClientTransport::from_config(config);
    let client = serve_client_with_lifecycle(ClientConfig::default(), transport, lifecycle).await?;
    let version = client.peer_info().context("no peer")?.protocol_version.to_string();
    let tools = client.list_all_tools().await?.into_iter().map(|tool| tool.name.into_owned()).collect();
    let good = call(&client, GOOD).await?;
    let bad = call(&client, BAD).await?;
    let prompts = client.list_all_prompts().await?.into_iter().map(|prompt| prompt.name).collect();
    let read = client.read_resource(ReadResourceRequestParams::new("storefence://schema/orders")).await?;
    let seen = Seen {
        version,
        tools,
        rows: good.structured_content.context("no structured content")?["rows"].clone(),
        good_is_error: good.is_error.unwrap_or_default(),
        bad_is_error: bad.is_error.unwrap_or_default(),
        bad: bad.structured_content.context("no structured error")?,
        prompts,
        resource: serde_json::to_string(&read.contents)?,
    };
    client.cancel().await?;
    Ok(seen)
}

async fn call(client: &Peer<RoleClient>, sql: &str) -> Result<CallToolResult> {
    let arguments = Map::from_iter([("postgresql_query".to_owned(), json!(sql))]);
    Ok(client.call_tool(CallToolRequestParams::new("execute_sales_query").with_arguments(arguments)).await?)
}
