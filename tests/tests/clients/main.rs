//! Real clients: rmcp's, the official Python SDK and the official TypeScript SDK each connect with a token, list, call,
//! read a resource and get an error that a program can read. The scripts are in `tests/clients/`.

mod rust;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use storefence_tests::{
    Shared, Suite,
    outside::{node, python},
    skip,
};

/// A statement that counts, and one that cannot be answered; the scripts have them too.
const GOOD: &str = "SELECT count(*) AS n FROM orders";
const BAD: &str = "SELECT nope FROM orders";

/// What a client saw.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Seen {
    version: String,
    tools: Vec<String>,
    rows: Value,
    good_is_error: bool,
    bad_is_error: bool,
    bad: Value,
    prompts: Vec<String>,
    resource: String,
}

impl Seen {
    /// The same for every client: the rows of its stores, and the error in its parts.
    async fn check(&self, shared: &Shared, version: &str) -> Result<()> {
        let expected = shared
            .oracle(
                "SELECT count(*) FROM retail.orders JOIN retail.stores USING (store_id) WHERE store_name = 'Seattle'",
            )
            .await?;
        ensure!(self.version == version, "{self:?}");
        ensure!(self.tools.len() >= 8 && self.tools.iter().any(|tool| tool == "execute_sales_query"), "{self:?}");
        ensure!(!self.good_is_error && self.rows == json!([[expected]]), "{expected} orders, but {}", self.rows);
        ensure!(self.bad_is_error && self.bad["code"] == "DATABASE_ERROR", "{}", self.bad);
        ensure!(self.bad["sqlstate"] == "42703" && self.bad["message"].is_string(), "{}", self.bad);
        ensure!(self.prompts.iter().any(|prompt| prompt == "top_products"), "{:?}", self.prompts);
        ensure!(self.resource.contains("order_date"), "{}", self.resource);
        Ok(())
    }
}

fn url(shared: &Shared) -> String {
    format!("{}/mcp", shared.stack.facts().gateway_url)
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

/// Runs a script with a token and reads the line that it prints.
async fn run(shared: &Shared, mut command: Command) -> Result<Seen> {
    command.env("TOKEN", shared.token("seattle-manager", json!({}))?).env("NO_PROXY", "*");
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{}: {out}{err}", output.status);
    serde_json::from_str(out.lines().last().context("it printed nothing")?).with_context(|| out.into_owned())
}

async fn python_sdk(shared: Arc<Shared>) -> Result<()> {
    let Some(python) = tokio::task::spawn_blocking(|| python::environment(&["mcp==2.3.0"])).await?? else {
        return skip("no Python SDK");
    };
    for (mode, version) in [("auto", "2026-07-28"), ("legacy", "2025-11-25")] {
        let mut command = python.command(script("python_sdk.py"));
        command.args([&url(&shared), mode]);
        run(&shared, command).await?.check(&shared, version).await.context(mode)?;
    }
    Ok(())
}

async fn typescript_sdk(shared: Arc<Shared>) -> Result<()> {
    let packages = [("@modelcontextprotocol/sdk", "1.32.2")];
    let Some(project) = tokio::task::spawn_blocking(move || node::project(&packages)).await?? else {
        return skip("no TypeScript SDK");
    };
    // A module looks for packages from where it stands.
    let copy = project.directory().join("typescript_sdk.mjs");
    fs::copy(script("typescript_sdk.mjs"), &copy)?;
    let mut command = project.command(&copy);
    command.arg(url(&shared));
    run(&shared, command).await?.check(&shared, "2025-11-25").await
}

fn main() -> ExitCode {
    let suite = Suite::new(Shared::with_examples).expect("the stack starts");
    suite
        .test("rmcp_in_both_revisions", |s| async move { rust::both_revisions(&s).await })
        .test("the_python_sdk_in_both_revisions", python_sdk)
        .test("the_typescript_sdk", typescript_sdk)
        .run(Shared::stop)
}
