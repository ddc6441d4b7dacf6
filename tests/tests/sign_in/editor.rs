//! `.vscode/mcp.json` and docs/vscode.md against the running stack.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use storefence_devstack::{
    entra::principals,
    mcp_client::{McpClient, Revision},
};
use storefence_tests::Shared;

/// <https://code.visualstudio.com/docs/copilot/reference/mcp-configuration>, as far as the file uses it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    servers: BTreeMap<String, Server>,
    inputs: Vec<Input>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Server {
    #[serde(rename = "type")]
    kind: String,
    url: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    #[serde(rename = "type")]
    kind: String,
    id: String,
    description: String,
    default: Option<String>,
    #[serde(default)]
    password: bool,
}

fn root(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn file() -> Result<File> {
    Ok(serde_json::from_str(&fs::read_to_string(root(".vscode/mcp.json"))?)?)
}

/// A text with VS Code's inputs filled in.
fn filled(text: &str, inputs: &BTreeMap<String, String>) -> Result<String> {
    let filled =
        inputs.iter().fold(text.to_owned(), |text, (id, value)| text.replace(&format!("${{input:{id}}}"), value));
    ensure!(!filled.contains("${"), "nothing fills {filled}");
    Ok(filled)
}

/// The endpoint of the server that needs no pasted token.
pub fn oauth_endpoint(gateway_url: &str) -> Result<String> {
    let file = file()?;
    let server = file.servers.values().find(|server| server.headers.is_empty()).context("no server without a token")?;
    filled(&server.url, &BTreeMap::from([("gateway".to_owned(), gateway_url.to_owned())]))
}

/// Each server of the file answers as the principal in its name, with a token got as its input's description says.
pub async fn servers(shared: &Shared) -> Result<()> {
    let file = file()?;
    let mut inputs = BTreeMap::new();
    let mut who = BTreeMap::new();
    for input in &file.inputs {
        ensure!(input.kind == "promptString", "{}", input.id);
        if input.id == "gateway" {
            let default = input.default.as_deref().context("the gateway has no default")?;
            ensure!(
                shared.stack.facts().gateway_url.starts_with(default.trim_end_matches(char::is_numeric)),
                "{default}"
            );
            inputs.insert(input.id.clone(), shared.stack.facts().gateway_url.clone());
            continue;
        }
        ensure!(input.password && input.default.is_none(), "{} is shown while it is typed", input.id);
        let name = input.description.rsplit(' ').next().unwrap_or_default();
        ensure!(input.description.contains("cargo xtask token"), "{}", input.description);
        inputs.insert(input.id.clone(), shared.token(name, json!({}))?);
        who.insert(input.id.clone(), principals::find(name).context("no such principal")?);
    }
    let mut used = Vec::new();
    for (name, server) in &file.servers {
        ensure!(server.kind == "http", "{name}");
        let url = filled(&server.url, &inputs)?;
        let Some(header) = server.headers.get("Authorization") else {
            // This client signs in: the answer to its first request says where.
            let answer =
                McpClient::new(shared.stack.http().clone(), url, None, Revision::V2025_11_25).initialize().await?;
            ensure!(answer.status == 401 && answer.headers.contains_key("www-authenticate"), "{name}: {answer:?}");
            used.push("sign-in".to_owned());
            continue;
        };
        let token = filled(header, &inputs)?;
        let token = token.strip_prefix("Bearer ").context("not a bearer token")?.to_owned();
        let id =
            who.keys().find(|id| header.contains(&format!("${{input:{id}}}"))).context("no input for the token")?;
        let client = McpClient::new(shared.stack.http().clone(), url, Some(token), Revision::V2025_11_25);
        let answer = client.call_tool("list_stores", json!({})).await?;
        let stores: Vec<&str> = answer.structured()["stores"]
            .as_array()
            .with_context(|| format!("{name}: {}", answer.message))?
            .iter()
            .filter_map(|store| store["name"].as_str())
            .collect();
        if who[id].stores == principals::ALL_STORES {
            ensure!(stores.len() == 8, "{name}: {stores:?}");
        } else {
            ensure!(stores == who[id].stores, "{name}: {stores:?}");
        }
        used.push(who[id].name.to_owned());
    }
    used.sort_unstable();
    ensure!(used == ["head-office", "online-manager", "redmond-manager", "seattle-manager", "sign-in"], "{used:?}");
    ensure!(inputs.keys().all(|id| id == "gateway" || who.contains_key(id)));
    Ok(())
}

/// The page names every tool that an analyst sees, and its questions can be asked.
pub async fn page(shared: &Shared) -> Result<()> {
    let text = fs::read_to_string(root("docs/vscode.md"))?;
    let client = shared.client("head-office", Revision::V2026_07_28)?;
    let listed = client.send("tools/list", json!({})).await?;
    let tools: Vec<&str> = listed.result()["tools"]
        .as_array()
        .context("no tools")?
        .iter()
        .filter_map(|tool| tool["name"].as_str())
        .collect();
    for tool in &tools {
        ensure!(text.contains(&format!("`{tool}`")), "docs/vscode.md does not name {tool}");
    }
    let questions: Vec<Value> = text
        .split("```json\n")
        .skip(1)
        .filter_map(|rest| serde_json::from_str(rest.split("```").next()?).ok())
        .filter(|block: &Value| block["name"].is_string())
        .collect();
    ensure!(questions.len() == 5, "{} questions", questions.len());
    for question in questions {
        let name = question["name"].as_str().context("a call names its tool")?;
        ensure!(tools.contains(&name), "{name} is no tool of a head office");
        for person in ["head-office", "seattle-manager"] {
            let client = shared.client(person, Revision::V2026_07_28)?;
            let answer = client.call_tool(name, question["arguments"].clone()).await?;
            ensure!(answer.status.is_success() && !answer.is_tool_error(), "{person}: {question}: {}", answer.message);
            let rows = &answer.structured()["rows"];
            ensure!(
                rows.is_null() || rows.as_array().is_some_and(|rows| !rows.is_empty()),
                "{person}: {question}: no row"
            );
        }
    }
    // What the page says to do is there to be done.
    for command in ["cargo xtask up", "cargo xtask token", "cargo xtask status"] {
        ensure!(text.contains(command), "{command}");
    }
    Ok(())
}
