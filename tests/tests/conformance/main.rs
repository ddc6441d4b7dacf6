//! The official conformance suite (npm `@modelcontextprotocol/conformance`) against a running gateway, once for each
//! revision of the protocol. `tests/conformance/` names the checks that need what only the suite's own server has; any
//! other failure, and any of those that passes, fails the test.
//!
//! `STOREFENCE_CONFORMANCE_URL` (with `/mcp`) and `STOREFENCE_CONFORMANCE_TOKEN_FILE` name a gateway that runs already;
//! without them a stack is started. Both are options of `cargo xtask conformance`.

mod proxy;

use std::{env, fs, path::Path, process::ExitCode, sync::Arc};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use storefence_tests::{
    Shared, Suite,
    outside::node::{self, NodeProject},
    skip,
};

const PACKAGE: (&str, &str) = ("@modelcontextprotocol/conformance", "0.2.0-alpha.12");
const PROGRAM: &str = "node_modules/@modelcontextprotocol/conformance/dist/index.js";

/// The suite and a gateway; nothing where the suite cannot be had.
struct Conformance(Option<Parts>);

struct Parts {
    suite: NodeProject,
    proxy: proxy::HeaderProxy,
    stack: Option<Shared>,
}

async fn start() -> Result<Conformance> {
    let Some(suite) = tokio::task::spawn_blocking(|| node::project(&[PACKAGE])).await?? else {
        return Ok(Conformance(None));
    };
    let (url, token, stack) = match env::var("STOREFENCE_CONFORMANCE_URL") {
        Ok(url) => {
            let file = env::var("STOREFENCE_CONFORMANCE_TOKEN_FILE")
                .context("STOREFENCE_CONFORMANCE_TOKEN_FILE names the token")?;
            let token = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
            (url, token.trim().to_owned(), None)
        }
        Err(_) => {
            let stack = Shared::with_examples().await?;
            let token = stack.token("head-office", json!({}))?;
            (format!("{}/mcp", stack.stack.facts().gateway_url), token, Some(stack))
        }
    };
    let proxy = proxy::HeaderProxy::start(&url, token).await?;
    Ok(Conformance(Some(Parts { suite, proxy, stack })))
}

async fn stop(conformance: Conformance) {
    if let Some(stack) = conformance.0.and_then(|parts| parts.stack) {
        stack.stop().await;
    }
}

/// `pass` is how many scenarios end without a failed check, so that one which is no longer run is noticed.
async fn revision(conformance: Arc<Conformance>, revision: &'static str, pass: usize) -> Result<()> {
    let Some(Parts { suite, proxy, .. }) = &conformance.0 else { return skip("no Node.js or no suite") };
    let results = tempfile::tempdir()?;
    let mut command = suite.command(PROGRAM);
    command
        .args(["server", "--url", &proxy.url(), "--requirements", revision, "--expected-failures"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("conformance/{revision}.yaml")))
        .arg("--output-dir")
        .arg(results.path())
        // No traffic leaves the machine for a proxy of the caller's, and no colours into a log.
        .env("NO_PROXY", "*")
        .env("NO_COLOR", "1");
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let summary = said.find("=== SUMMARY ===").map_or(said.as_str(), |at| &said[at..]);
    ensure!(output.status.success(), "{revision}: {}\n{summary}", output.status);
    let passed = summary.lines().filter(|line| line.starts_with('✓')).count();
    ensure!(passed == pass, "{revision}: {passed} scenarios passed and not {pass}:\n{summary}");
    println!("{revision}: {}", summary.lines().find(|line| line.starts_with("Total")).unwrap_or("no total"));
    Ok(())
}

fn main() -> ExitCode {
    let suite = Suite::new(start);
    suite
        .test("the_official_suite_for_2025_11_25", |c| revision(c, "2025-11-25", 10))
        .test("the_official_suite_for_2026_07_28", |c| revision(c, "2026-07-28", 13))
        .run(stop)
}
