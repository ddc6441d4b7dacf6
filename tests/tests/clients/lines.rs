//! Each line of the SDKs that assistants are built with, most of them older than this server: it connects, lists, calls, reads
//! an error, and reads what a rule refuses.

use std::{fs, sync::Arc};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::json;
use storefence_tests::{
    Shared,
    outside::{node, python},
    skip,
};

use super::{run, script, url};

/// What a call came to.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    is_error: bool,
    text: String,
}

/// What somebody saw whom no rule lets in.
#[derive(Debug, Deserialize)]
struct Outside {
    instructions: Option<String>,
    tools: Vec<String>,
    /// Of a tool that is not listed; a client that offers only what is listed has no answer.
    refused: Option<Told>,
    whoami: Told,
}

/// What a client saw.
#[derive(Debug, Deserialize)]
struct Line {
    version: String,
    tools: Vec<String>,
    good: Told,
    bad: Told,
    denied: Told,
    outsider: Outside,
}

impl Line {
    async fn check(&self, shared: &Shared, version: &str) -> Result<()> {
        let sql = "SELECT count(*) FROM retail.orders JOIN retail.stores USING (store_id) WHERE store_name = 'Seattle'";
        let expected = shared.oracle(sql).await?;
        ensure!(version.is_empty() || self.version == version, "{self:?}");
        ensure!(self.tools.len() >= 8 && self.tools.iter().any(|tool| tool == "execute_sales_query"), "{self:?}");
        ensure!(!self.good.is_error && self.good.text == format!("n\n{expected}\n(1 row)"), "{expected}: {self:?}");
        ensure!(self.bad.is_error && self.bad.text.contains("DATABASE_ERROR"), "{self:?}");
        ensure!(self.denied.is_error && self.denied.text.contains("none of yours"), "{self:?}");
        ensure!(self.denied.text.contains("correlation ID"), "{self:?}");
        let Outside { instructions, tools, refused, whoami } = &self.outsider;
        ensure!(tools == &["whoami"], "{self:?}");
        let refuses = |told: &Told| told.is_error && told.text.contains("No rule grants your account access");
        ensure!(refused.as_ref().is_none_or(refuses), "{self:?}");
        ensure!(!whoami.is_error && whoami.text.contains("ask your platform team"), "{self:?}");
        ensure!(instructions.as_ref().is_none_or(|text| text.contains("ask your platform team")), "{self:?}");
        Ok(())
    }
}

/// The Python SDK: its version, what else it needs, the script and its argument, the revision that is agreed to.
const PYTHON: [(&[&str], &str, Option<&str>, &str); 5] = [
    // Its models do not load with a later pydantic.
    (&["mcp==1.8.1", "pydantic==2.11.10"], "python_v1.py", None, "2024-11-05"),
    (&["mcp==1.12.4", "pydantic==2.11.10"], "python_v1.py", None, "2025-06-18"),
    (&["mcp==1.30.0"], "python_v1.py", None, "2025-11-25"),
    (&["mcp==2.3.0"], "python_v2.py", Some("mcp"), "2026-07-28"),
    (&["fastmcp==4.2.3"], "python_v2.py", Some("fastmcp"), ""),
];

/// The TypeScript SDK likewise.
const TYPESCRIPT: [(&str, &str, &str, &str); 4] = [
    ("@modelcontextprotocol/sdk", "1.10.0", "1", "2024-11-05"),
    ("@modelcontextprotocol/sdk", "1.17.5", "1", "2025-06-18"),
    ("@modelcontextprotocol/sdk", "1.32.2", "1", "2025-11-25"),
    ("@modelcontextprotocol/client", "2.4.0", "2", "2025-11-25"),
];

/// Agent frameworks on PyPI: what is installed, and the name that `frameworks.py` knows.
const PYTHON_FRAMEWORKS: [(&[&str], &str); 4] = [
    (&["langchain-mcp-adapters==0.3.2"], "langchain"),
    (&["llama-index-tools-mcp==0.6.0"], "llama_index"),
    (&["openai-agents==0.24.0"], "openai_agents"),
    (&["google-genai==3.6.1", "mcp==1.30.0"], "google_genai"),
];

/// Clients on npm: what is installed, and the name that `frameworks.mjs` knows.
const NODE_FRAMEWORKS: [(&[(&str, &str)], &str); 3] = [
    (&[("@ai-sdk/mcp", "2.0.99")], "ai-sdk"),
    (&[("@modelcontextprotocol/inspector", "2.12.0")], "inspector"),
    (&[("mcp-remote", "0.15.1"), ("@modelcontextprotocol/sdk", "1.32.2")], "mcp-remote"),
];

fn outsider(shared: &Shared) -> Result<String> {
    let stranger = json!({"oid": "99999999-9999-4999-8999-999999999999", "groups": [], "roles": null});
    shared.token("seattle-manager", stranger)
}

pub async fn python(shared: Arc<Shared>) -> Result<()> {
    for (requirements, name, argument, version) in PYTHON {
        let Some(python) = tokio::task::spawn_blocking(move || python::environment(requirements)).await?? else {
            return skip(requirements[0]);
        };
        let mut command = python.command(script(name));
        command.arg(url(&shared)).args(argument).env("OUTSIDER", outsider(&shared)?);
        let line: Line = run(&shared, command).await.with_context(|| requirements[0].to_owned())?;
        line.check(&shared, version).await.with_context(|| requirements[0].to_owned())?;
    }
    Ok(())
}

pub async fn typescript(shared: Arc<Shared>) -> Result<()> {
    for (package, release, major, version) in TYPESCRIPT {
        let Some(project) = tokio::task::spawn_blocking(move || node::project(&[(package, release)])).await?? else {
            return skip(package);
        };
        // A module looks for packages from where it stands.
        let copy = project.directory().join("typescript_lines.mjs");
        fs::copy(script("typescript_lines.mjs"), &copy)?;
        let mut command = project.command(&copy);
        command.args([&url(&shared), major]).env("OUTSIDER", outsider(&shared)?);
        let line: Line = run(&shared, command).await.with_context(|| format!("{package} {release}"))?;
        line.check(&shared, version).await.with_context(|| format!("{package} {release}"))?;
    }
    Ok(())
}

pub async fn python_frameworks(shared: Arc<Shared>) -> Result<()> {
    for (requirements, name) in PYTHON_FRAMEWORKS {
        let Some(python) = tokio::task::spawn_blocking(move || python::environment(requirements)).await?? else {
            return skip(requirements[0]);
        };
        let mut command = python.command(script("frameworks.py"));
        command.args([name, &url(&shared)]).env("OUTSIDER", outsider(&shared)?);
        let line: Line = run(&shared, command).await.with_context(|| requirements[0].to_owned())?;
        line.check(&shared, "").await.with_context(|| requirements[0].to_owned())?;
    }
    Ok(())
}

pub async fn node_frameworks(shared: Arc<Shared>) -> Result<()> {
    for (packages, name) in NODE_FRAMEWORKS {
        let Some(project) = tokio::task::spawn_blocking(move || node::project(packages)).await?? else {
            return skip(name);
        };
        // A module looks for packages from where it stands.
        let copy = project.directory().join("frameworks.mjs");
        fs::copy(script("frameworks.mjs"), &copy)?;
        let mut command = project.command(&copy);
        command.args([name, &url(&shared)]).env("OUTSIDER", outsider(&shared)?);
        let line: Line = run(&shared, command).await.with_context(|| name.to_owned())?;
        line.check(&shared, "").await.with_context(|| name.to_owned())?;
    }
    Ok(())
}
