//! Slow statements: in the log by hash, and in `GET /debug/performance`.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    Tests,
    world::{World, until},
};

pub fn tests(tests: &mut Tests) {
    tests.add("slow_statements_are_logged_by_hash_and_measured", slow);
}

fn sha256(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The log lines about slow statements.
fn told(world: &World, name: &str) -> Result<Vec<Value>> {
    let log = std::fs::read_to_string(world.path(&format!("{name}.log")))?;
    let lines = log.lines().filter(|line| line.contains("slow statement"));
    Ok(lines.filter_map(|line| serde_json::from_str::<Value>(line).ok()).map(|line| line["fields"].clone()).collect())
}

async fn slow(world: Arc<World>) -> Result<()> {
    let name = "performance";
    let gateway = world.another_gateway(name, &["--slow-after", "20"]).await?;
    let client = world.client_of(&gateway, "seattle-manager")?;
    let ask = async |sql: &str| client.call_tool("execute_sales_query", json!({"postgresql_query": sql})).await;
    let shown = async || -> Result<Value> {
        let answer = world.http.get(format!("{}/debug/performance", gateway.admin)).send().await?;
        ensure!(answer.status().is_success(), "{}", answer.status());
        Ok(answer.json().await?)
    };
    let quick = "SELECT count(*) FROM retail.orders -- quick;";
    for _ in 0..20 {
        ask(quick).await?;
    }
    let slow = "SELECT count(*) FROM generate_series(1, 1000) a, generate_series(1, 2000) b, (SELECT 1 FROM retail.orders LIMIT 1) o";
    ask(slow).await?;
    let endless = "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000) b";
    let timeout = ask(endless).await?;
    ensure!(timeout.structured()["code"] == "QUERY_TIMEOUT", "{}", timeout.message);
    let is_told = async |sql: &str| -> Result<()> {
        until("the slow statement is logged", Duration::from_secs(10), || async {
            Ok(told(&world, name)?.iter().any(|line| line["statement_sha256"] == sha256(sql)))
        })
        .await
    };
    is_told(slow).await?;
    is_told(endless).await?;
    let lines = told(&world, name)?;
    for (sql, outcome) in [(slow, "ok"), (endless, "Timeout")] {
        let line = lines.iter().find(|line| line["statement_sha256"] == sha256(sql)).context("not logged")?;
        ensure!(line["outcome"] == outcome && line["tool"] == "execute_sales_query", "{line}");
        ensure!(
            line["elapsed_ms"].as_f64().or_else(|| line["elapsed_ms"].as_str()?.parse().ok()) >= Some(20.0),
            "{line}"
        );
        ensure!(line["correlation_id"].as_str().is_some_and(|id| id.len() == 36), "{line}");
        let plan = line["plan_sha256"].as_str().unwrap_or_default();
        ensure!(plan.len() == 64 && plan.bytes().all(|byte| byte.is_ascii_hexdigit()), "{line}");
    }
    let plan = |lines: &[Value], sql: &str| {
        let line = lines.iter().find(|line| line["statement_sha256"] == sha256(sql));
        line.map(|line| line["plan_sha256"].clone())
    };
    ensure!(plan(&lines, slow) != plan(&lines, endless), "two plans, one hash");

    // The same plan shape has the same hash, whatever the constants.
    let again = slow.replace("1, 1000)", "1, 999)");
    ask(&again).await?;
    is_told(&again).await?;
    let lines = told(&world, name)?;
    ensure!(plan(&lines, slow) == plan(&lines, &again), "{lines:?}");

    let figures = shown().await?;
    ensure!(figures["slowAfterMs"] == 20, "{figures}");
    let tool = figures["tools"].as_array().into_iter().flatten().find(|line| line["tool"] == "execute_sales_query");
    let tool = tool.context("the tool is not there")?;
    ensure!(tool["count"] == 23 && tool["failed"] == 1, "{tool}");
    // On a busy machine a quick statement may have been slow, too.
    let slow_ones = u32::try_from(lines.len())?;
    let share = tool["slowShare"].as_f64().unwrap_or_default();
    ensure!((share - f64::from(slow_ones) / 23.0).abs() < 0.001, "{slow_ones} were logged: {tool}");
    let of = |name: &str| tool[name].as_f64().unwrap_or(-1.0);
    ensure!(of("p50Ms") > 0.0 && of("p50Ms") < 100.0 && of("p50Ms") <= of("p95Ms"), "{tool}");
    ensure!(of("p95Ms") <= of("p99Ms") && of("p99Ms") <= of("maxMs") && of("meanMs") < of("maxMs"), "{tool}");
    let statements = figures["statements"].as_array().context("no statements")?;
    let find = |sql: &str| statements.iter().find(|line| line["statementSha256"] == sha256(sql));
    ensure!(find(quick).context("the quick one")?["count"] == 20, "{figures}");
    let endless = find(endless).context("the endless one")?;
    ensure!(endless["failed"] == 1 && endless["slowShare"] == 1.0 && endless["planSha256"].is_string(), "{endless}");
    ensure!(statements[0]["statementSha256"] == endless["statementSha256"], "the one that took most time comes first");
    let text = figures.to_string();
    ensure!(!text.contains("retail.") && !text.contains("generate_series"), "a statement stands in {text}");
    let counted = world.metric(&gateway, "storefence_slow_statements_total{tool=\"execute_sales_query\"}").await?;
    ensure!((counted - f64::from(slow_ones)).abs() < 0.5, "{counted}");
    // Only the gateway may use the function that returns the plan, not the caller's statement.
    for sql in
        ["SELECT * FROM fence.plan_hash('', 'SELECT 1')", "SELECT fence.plan_hash('', 'SELECT 1') FROM retail.orders"]
    {
        let answer = ask(sql).await?;
        let code = answer.structured()["code"].as_str().unwrap_or_default();
        ensure!(matches!(code, "AUTHORIZATION_ERROR" | "VALIDATION_ERROR"), "{}", answer.message);
    }
    // Not for callers.
    let public = world.http.get(format!("{}/debug/performance", gateway.url)).send().await?;
    ensure!(public.status() == 404 || public.status() == 401, "{}", public.status());
    Ok(())
}
