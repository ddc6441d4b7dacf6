//! The log: what stays out of it in both formats, and filters by module.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use storefence_devstack::{entra::with_altered_signature, mcp_client::Revision};

use crate::{Tests, identity_keys::ask, world::World};

pub fn tests(tests: &mut Tests) {
    tests.add("secrets_and_tokens_stay_out_of_the_log", kept_out);
    tests.add("what_is_logged_is_chosen_by_module", log_levels);
    tests.add("the_text_form_of_the_log_is_text_and_holds_no_secret", text);
}

/// What no log may contain: signatures of tokens, statements, and secrets from the vault.
fn secrets(world: &World, token: &str) -> Result<Vec<String>> {
    let mut secrets = vec![token.rsplit('.').next().unwrap_or("?").to_owned(), "a_statement_that_must_not".to_owned()];
    secrets.extend(world.credentials().secret.clone());
    for name in world.vault.names() {
        let value = world.vault.secret(&name).context("a secret")?.value;
        secrets.push(value.split('@').next().and_then(|text| text.rsplit(':').next()).unwrap_or(&value).to_owned());
    }
    Ok(secrets)
}

async fn kept_out(world: Arc<World>) -> Result<()> {
    let token = world.token("head-office")?;
    let marker = "SELECT 'a_statement_that_must_not_be_logged' AS x";
    let client = world.client(token.clone(), "/mcp", Revision::V2026_07_28);
    client.call_tool("execute_sales_query", json!({"postgresql_query": marker})).await?;
    client.call_tool("execute_sales_query", json!({"postgresql_query": format!("{marker}, nope")})).await?;
    let secrets = secrets(&world, &token)?;
    let mut looked_at = 0;
    for entry in std::fs::read_dir(world.directory.path())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let log = std::fs::read_to_string(&path)?;
            looked_at += log.len();
            for secret in &secrets {
                ensure!(!log.contains(secret.as_str()), "{} holds {secret}", path.display());
            }
            // Every line is a JSON object; the last line of a running gateway may be incomplete.
            let whole = &log[..log.rfind('\n').map_or(0, |at| at + 1)];
            for line in whole.lines() {
                let entry: Value = serde_json::from_str(line).with_context(|| format!("{}: {line}", path.display()))?;
                let has = |field: &str| entry[field].is_string();
                let of_the_log = has("timestamp") && has("level") && has("target");
                ensure!(of_the_log || is_audit(&entry), "{}: {line}", path.display());
            }
        }
    }
    ensure!(looked_at > 1000, "no log was looked at");
    Ok(())
}

/// Audit lines go to standard output, which the tests write into the same file.
fn is_audit(line: &Value) -> bool {
    line["sequence"].is_u64() && line["hash"].is_string()
}

async fn log_levels(world: Arc<World>) -> Result<()> {
    let chosen = "off,storefence_gateway=warn,storefence_gateway::server=info,storefence_gateway::tools=debug";
    let gateway = world.gateway_with_environment("levels", &[], &[("RUST_LOG", chosen)]).await?;
    let client = world.client_of(&gateway, "head-office")?;
    client.call_tool("execute_sales_query", json!({"postgresql_query": "SELECT no_such_column"})).await?;
    let log = gateway.child.log_text();
    let mut seen = std::collections::BTreeSet::new();
    for line in log.lines() {
        let entry: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        if is_audit(&entry) {
            continue;
        }
        let field = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        seen.insert((field("target"), field("level")));
    }
    let of = |module: &str, level: &str| {
        seen.iter().any(|(target, seen)| target.starts_with(&format!("storefence_gateway::{module}")) && seen == level)
    };
    ensure!(of("server", "INFO") && of("tools", "DEBUG"), "{seen:?}");
    ensure!(!of("server", "DEBUG"), "{seen:?}");
    for (target, level) in &seen {
        let louder =
            ["storefence_gateway::server", "storefence_gateway::tools"].iter().any(|of| target.starts_with(of));
        let expected =
            target.starts_with("storefence_gateway") && (louder || matches!(level.as_str(), "WARN" | "ERROR"));
        ensure!(expected, "{level} of {target} was not asked for");
    }
    Ok(())
}

/// The format for people, at the most verbose level.
async fn text(world: Arc<World>) -> Result<()> {
    let audit = world.path("audit-of-text.jsonl").display().to_string();
    let args = ["--log-format", "text", "--audit-file", &audit];
    let gateway = world.gateway_with_environment("text-form", &args, &[("RUST_LOG", "trace,rustls=debug")]).await?;
    let token = world.token("head-office")?;
    let client = world.client_of(&gateway, "head-office")?;
    let marker = "SELECT 'a_statement_that_must_not_be_logged' AS x";
    let query = async |sql: &str| client.call_tool("execute_sales_query", json!({"postgresql_query": sql})).await;
    for (sql, fails) in [(marker.to_owned(), false), (format!("{marker}, nope"), true), (format!("{marker};;x"), true)]
    {
        let answer = query(&sql).await?;
        ensure!(answer.is_tool_error() == fails, "{sql}: {}", answer.message);
    }
    ensure!(ask(&world, &gateway, token.clone()).await? == 200);
    ensure!(ask(&world, &gateway, with_altered_signature(&token)).await? == 401);
    let log = gateway.child.log_text();
    let begun = |line: &str| {
        let (time, rest) = line.split_once(' ').unwrap_or((line, ""));
        let level = rest.split_whitespace().next().unwrap_or_default();
        time.parse::<jiff::Timestamp>().is_ok() && ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"].contains(&level)
    };
    let whole = &log[..log.rfind('\n').map_or(0, |at| at + 1)];
    for line in whole.lines() {
        ensure!(begun(line), "not time and level first: {line}");
        ensure!(serde_json::from_str::<Value>(line).is_err(), "JSON: {line}");
    }
    // A file is not a terminal: colour codes would break up the words that people search for.
    ensure!(!log.contains('\u{1b}'), "escape sequences in the log");
    for words in [" INFO storefence_gateway::", "tool error", "code=\"DATABASE_ERROR\"", "reason=\"signature\""] {
        ensure!(log.contains(words), "{words} is not in {:?}", gateway.child.log_path());
    }
    for secret in secrets(&world, &token)? {
        ensure!(!log.contains(&secret), "the log holds {secret}");
    }
    let last = with_altered_signature(&token);
    ensure!(!log.contains(last.rsplit('.').next().context("a signature")?), "the log holds a refused token");
    Ok(())
}
