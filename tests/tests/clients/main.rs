//! Real clients: rmcp's, the official Python SDK and the official TypeScript SDK each connect with a token, list, call,
//! read a resource and get an error that a program can read. The scripts are in `tests/clients/`. What each tool answers fits
//! what it declares, by validators that are not ours.

mod lines;
mod rust;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use storefence_devstack::stack::StackOptions;
use storefence_tests::{
    Shared, Suite,
    outside::{node, python},
    skip,
};

/// A statement that counts, and one that cannot be answered; the scripts have them too.
const GOOD: &str = "SELECT count(*) AS n FROM orders";
const BAD: &str = "SELECT nope FROM orders";

/// A call of every tool that works, and one that does not, as the manager of Seattle.
fn calls() -> Value {
    let call = |name: &str, is_error: bool, arguments: Value| json!({"name": name, "arguments": arguments, "isError": is_error});
    // What a framework adds to every call.
    let more = || json!({"sessionId": "x", "action": "sendMessage"});
    json!([
        call(
            "execute_sales_query",
            false,
            json!({"postgresql_query": "SELECT store_name, NULL AS n, 'NaN'::numeric FROM stores"})
        ),
        call("execute_sales_query", true, json!({"postgresql_query": BAD})),
        call("get_multiple_table_schemas", false, json!({})),
        call("get_multiple_table_schemas", true, json!({"table_names": ["order"]})),
        call(
            "semantic_search_products",
            false,
            json!({"query_description": "waterproof electrical connectors", "mode": "hybrid"})
        ),
        call("semantic_search_products", true, json!({"max_rows": 5})),
        call("get_product_recommendations", false, json!({"product": "Rubber Mallet"})),
        call("get_product_recommendations", false, json!({"product": "Rubber Mallet", "kind": "bought_together"})),
        call("get_product_recommendations", false, json!({"kind": "trending", "max_results": 3.0})),
        call("get_product_recommendations", true, json!({"product": "no such product"})),
        call("get_store_performance", false, json!({"time_period": "ytd"})),
        // Long before the first order: nothing to compare, and no share of nothing.
        call("get_store_performance", false, json!({"time_period": "1999-01"})),
        call("get_store_performance", true, json!({"store": "Redmond"})),
        call("list_stores", false, json!({})),
        call("list_stores", false, more()),
        call("get_current_utc_date", false, json!({})),
        call("get_current_utc_date", false, more()),
        call("whoami", false, json!({})),
        call("whoami", false, more()),
    ])
}

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
async fn run<T: DeserializeOwned>(shared: &Shared, mut command: Command) -> Result<T> {
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
        run::<Seen>(&shared, command).await?.check(&shared, version).await.context(mode)?;
    }
    Ok(())
}

async fn output_schemas(shared: Arc<Shared>) -> Result<()> {
    let Some(python) = tokio::task::spawn_blocking(|| python::environment(&["mcp==2.3.0"])).await?? else {
        return skip("no Python SDK");
    };
    let mut command = python.command(script("output_schemas.py"));
    command.args([&url(&shared), &calls().to_string()]);
    let wrong: Vec<String> = run(&shared, command).await?;
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
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
    command.args([&url(&shared), &calls().to_string()]);
    run::<Seen>(&shared, command).await?.check(&shared, "2025-11-25").await
}

fn main() -> ExitCode {
    let suite = Suite::new(|| {
        Shared::start(|options| {
            options.manifests = StackOptions::examples()?;
            options.model = true;
            Ok(())
        })
    });
    suite
        .test("rmcp_in_both_revisions", |s| async move { rust::both_revisions(&s).await })
        .test("the_python_sdk_in_both_revisions", python_sdk)
        .test("the_typescript_sdk", typescript_sdk)
        .test("each_line_of_the_python_sdk_and_fastmcp", lines::python)
        .test("each_line_of_the_typescript_sdk", lines::typescript)
        .test("the_agent_frameworks_on_pypi", lines::python_frameworks)
        .test("the_clients_on_npm", lines::node_frameworks)
        .test("answers_and_errors_fit_the_output_schemas", output_schemas)
        .run(Shared::stop)
}
