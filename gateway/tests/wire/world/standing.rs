//! What a token gives access to: everything that its rules grant, `whoami` alone, or an HTTP status.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use storefence_devstack::mcp_client::{Answer, McpClient};

/// The result that a client sees.
#[derive(Debug, PartialEq)]
pub enum Standing {
    /// It is served by a rule.
    Served,
    /// The token is valid but grants nothing; with the answer of `whoami`.
    Outsider(Value),
    /// Refused before MCP.
    Status(u16),
}

impl Standing {
    pub fn is_outsider(&self) -> bool {
        matches!(self, Self::Outsider(_))
    }

    /// What an outsider reads.
    pub fn said(&self) -> Result<&Value> {
        match self {
            Self::Outsider(said) => Ok(said),
            other => anyhow::bail!("{other:?}"),
        }
    }
}

/// Checks what the token gives access to, and that an outsider gets nothing from any tool.
pub async fn standing(client: &McpClient) -> Result<Standing> {
    let list = client.send("tools/list", json!({})).await?;
    if list.status != 200 {
        return Ok(Standing::Status(list.status.as_u16()));
    }
    let names: Vec<_> = list.result()["tools"].as_array().into_iter().flatten().map(|tool| &tool["name"]).collect();
    if names.len() > 1 {
        return Ok(Standing::Served);
    }
    ensure!(names == [&json!("whoami")], "{}", list.message);
    for (name, arguments) in [
        ("execute_sales_query", json!({"postgresql_query": "SELECT count(*) FROM retail.orders"})),
        ("get_multiple_table_schemas", json!({})),
        ("get_store_performance", json!({})),
        ("list_stores", json!({})),
        ("get_current_utc_date", json!({})),
    ] {
        let answer = client.call_tool(name, arguments).await?;
        denied(&answer).with_context(|| name.to_owned())?;
    }
    for (method, what) in [("prompts/list", "prompts"), ("resources/list", "resources")] {
        let list = client.send(method, json!({})).await?;
        ensure!(list.result()[what] == json!([]), "{}", list.message);
    }
    let uri = "storefence://schema";
    let read = client.read(client.request("resources/read", json!({"uri": uri})).header("mcp-name", uri)).await?;
    ensure!(read.status == 200 && read.message["error"]["code"] == -32602, "{} {}", read.status, read.message);
    let me = client.call_tool("whoami", json!({})).await?;
    ensure!(me.status == 200 && !me.is_tool_error(), "{} {}", me.status, me.message);
    let said = me.structured().clone();
    ensure!(said["tools"] == json!(["whoami"]) && said["stores"] == json!([]) && said["rules"] == json!([]), "{said}");
    ensure!(said["tenantId"].is_null(), "names a tenant: {said}");
    let text = me.result()["content"][0]["text"].as_str().unwrap_or_default();
    ensure!(text.contains(said["message"].as_str().context("a sentence")?), "{text}");
    Ok(Standing::Outsider(said))
}

/// A refusal that the reader sees: HTTP 200, no challenge, `isError`, one sentence with the correlation id, no row.
pub fn denied(answer: &Answer) -> Result<&Value> {
    let message = &answer.message;
    ensure!(answer.status == 200 && !answer.headers.contains_key("www-authenticate"), "{} {message}", answer.status);
    ensure!(answer.is_tool_error(), "{message}");
    let structured = answer.structured();
    ensure!(structured["code"] == "AUTHORIZATION_ERROR" && structured["rows"].is_null(), "{message}");
    let id = structured["correlationId"].as_str().context("a correlation id")?;
    ensure!(answer.headers["x-correlation-id"] == id, "{message}");
    let content = answer.result()["content"].as_array().context("content")?;
    let text = content.first().and_then(|block| block["text"].as_str()).unwrap_or_default();
    ensure!(content.len() == 1 && text.contains(id) && !text.contains('\n'), "{message}");
    Ok(structured)
}
