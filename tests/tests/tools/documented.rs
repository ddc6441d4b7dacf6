//! docs/tools.md: each call in it works, and each answer in it has the shape of the real one. The one that needs a model
//! is called by the suite that has one.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use storefence_devstack::mcp_client::Revision;
use storefence_tests::{
    Shared,
    documented::{document, tool_examples},
};

pub async fn examples(shared: &Shared) -> Result<()> {
    let mut called = tool_examples(shared, "json").await?;
    called.sort();
    called.dedup();
    let list = shared.client("seattle-manager", Revision::V2026_07_28)?.send("tools/list", json!({})).await?;
    let tools = list.result()["tools"].as_array().context("no tools")?;
    let text = document("docs/tools.md")?;
    for tool in tools.iter().filter_map(|tool| tool["name"].as_str()) {
        let elsewhere = tool == "semantic_search_products";
        ensure!(elsewhere || called.iter().any(|name| name == tool), "docs/tools.md has no example of {tool}");
        ensure!(text.contains(&format!("## {tool}")), "docs/tools.md says nothing about {tool}");
    }
    Ok(())
}
