//! Metrics against a known number of calls: exact differences between before and after.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::json;
use storefence_devstack::mcp_client::{Answer, McpClient};

use crate::{
    Tests,
    world::{Gateway, World, ZAVA, until},
};

pub fn tests(tests: &mut Tests) {
    tests.add("rows_bytes_truncations_and_statements_are_counted_exactly", statements);
    tests.add("waiting_for_a_connection_is_measured", waiting);
    tests.add("the_age_of_the_keys_is_the_time_since_they_came", age);
}

const QUERIES: &str = "mcp_queries_total{query_type=\"execute_sales_query\"}";
const CALLS: &str = "mcp_server_operation_duration_seconds_count{error_type=\"\",gen_ai_tool_name=\"execute_sales_query\",mcp_method_name=\"tools/call\"}";
const FAILED_CALLS: &str = "mcp_server_operation_duration_seconds_count{error_type=\"tool_error\",gen_ai_tool_name=\"execute_sales_query\",mcp_method_name=\"tools/call\"}";
const ANSWERED: &str = "mcp_query_duration_seconds_count{outcome=\"ok\"}";
const WAITS: &str = "storefence_pool_wait_seconds_count";
const ACCEPTED: &str = "storefence_token_verifications_total{outcome=\"accepted\",reason=\"\"}";

/// All series of one scrape.
struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    async fn of(world: &World, gateway: &Gateway) -> Result<Self> {
        let text = world.http.get(format!("{}/metrics", gateway.admin)).send().await?.text().await?;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let series = lines.filter_map(|line| line.rsplit_once(' '));
        Ok(Self(series.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()))
    }

    /// The value of a series, or zero if it does not exist yet.
    fn value(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    fn since(&self, before: &Self, name: &str) -> f64 {
        self.value(name) - before.value(name)
    }
}

async fn query(client: &McpClient, sql: &str) -> Result<Answer> {
    Ok(client.call_tool("execute_sales_query", json!({"postgresql_query": sql})).await?)
}

/// Rows as they are sent: `[1],[2]`.
fn sent(rows: impl Iterator<Item = String>) -> f64 {
    rows.map(|row| format!("[{row}]")).collect::<Vec<_>>().join(",").len() as f64
}

/// The tenant's limits are 50 rows and 65,536 bytes.
async fn statements(world: Arc<World>) -> Result<()> {
    let gateway = world.another_gateway("counters", &[]).await?;
    let client = world.client_of(&gateway, "head-office")?;
    // The first call reads secrets and opens a connection.
    query(&client, "SELECT 1").await?;
    let numbers = |most: u32| sent((1..=most).map(|n| n.to_string()));
    let long = format!("\"{}\"", "x".repeat(30_000));
    let all = |more: &[(&'static str, f64)]| {
        let mut due = BTreeMap::from([
            ("storefence_rows_total", 0.0),
            ("storefence_row_bytes_total", 0.0),
            ("storefence_truncations_total", 0.0),
            (QUERIES, 1.0),
            (CALLS, 1.0),
            (FAILED_CALLS, 0.0),
            (ANSWERED, 1.0),
            (WAITS, 1.0),
            (ACCEPTED, 1.0),
        ]);
        due.extend(more.iter().copied());
        due
    };
    let rows = |count: f64, bytes: f64, cut: f64| {
        all(&[
            ("storefence_rows_total", count),
            ("storefence_row_bytes_total", bytes),
            ("storefence_truncations_total", cut),
        ])
    };
    let failed =
        |more: &[(&'static str, f64)]| all(&[&[(CALLS, 0.0), (FAILED_CALLS, 1.0), (ANSWERED, 0.0)][..], more].concat());
    for (sql, due) in [
        ("SELECT g FROM generate_series(1, 7) g", rows(7.0, numbers(7), 0.0)),
        ("SELECT g FROM generate_series(1, 50) g", rows(50.0, numbers(50), 0.0)),
        ("SELECT g FROM generate_series(1, 51) g", rows(50.0, numbers(50), 1.0)),
        (
            "SELECT repeat('x', 30000) FROM generate_series(1, 10)",
            rows(2.0, sent([long.clone(), long.clone()].into_iter()), 1.0),
        ),
        ("SELECT store_name FROM retail.stores WHERE false", rows(0.0, 0.0, 0.0)),
        (
            "SELECT 1/(count(*) - count(*)) FROM retail.orders",
            failed(&[("mcp_query_duration_seconds_count{outcome=\"Statement\"}", 1.0)]),
        ),
        (
            // Answered by the gate: no query reaches the database.
            "DROP TABLE retail.orders",
            failed(&[
                (QUERIES, 0.0),
                (WAITS, 0.0),
                ("storefence_gate_refusals_total{reason=\"NotASelect\"}", 1.0),
                ("mcp_tool_errors_total{code=\"VALIDATION_ERROR\",gen_ai_tool_name=\"execute_sales_query\"}", 1.0),
            ]),
        ),
    ] {
        let before = Scrape::of(&world, &gateway).await?;
        let answer = query(&client, sql).await?;
        let after = Scrape::of(&world, &gateway).await?;
        let seen: BTreeMap<_, _> = due.keys().map(|name| (*name, after.since(&before, name))).collect();
        ensure!(seen == due, "{sql}: {seen:#?}, and due are {due:#?}; {}", answer.message["result"]["isError"]);
    }
    Ok(())
}

/// One connection with a statement that waits for a lock: later calls wait for the connection, or for the statement if
/// they come from the same principal.
async fn waiting(world: Arc<World>) -> Result<()> {
    const HELD: Duration = Duration::from_millis(800);
    const OWN: &str = "storefence_principal_wait_seconds";
    const POOL: &str = "storefence_pool_wait_seconds";
    world.limits(&ZAVA, "head-office", Some(json!({"statementTimeout": "20s"}))).await?;
    let gateway = world.another_gateway("pool-wait", &["--pool-per-tenant", "1"]).await?;
    let client = world.client_of(&gateway, "head-office")?;
    query(&client, "SELECT 1").await?;
    let mut locking = world.superuser().await?;
    let connections = |scrape: &Scrape| {
        ["open", "idle", "in_use"]
            .map(|state| scrape.value(&format!("storefence_database_connections{{state=\"{state}\"}}")))
    };
    for (next, long, short) in [("seattle-manager", POOL, OWN), ("head-office", OWN, POOL)] {
        let before = Scrape::of(&world, &gateway).await?;
        ensure!(connections(&before) == [1.0, 1.0, 0.0], "{:?}", connections(&before));
        let lock = locking.transaction().await?;
        lock.batch_execute("LOCK TABLE retail.categories IN ACCESS EXCLUSIVE MODE").await?;
        let mut calls = Vec::new();
        for (caller, sql) in
            [(client.clone(), "SELECT count(*) FROM retail.categories"), (world.client_of(&gateway, next)?, "SELECT 1")]
        {
            calls.push(tokio::spawn(async move { query(&caller, sql).await }));
            let under_way = calls.len() as f64;
            until("the call is under way", Duration::from_secs(10), || async {
                let now = Scrape::of(&world, &gateway).await?;
                Ok(now.value("storefence_requests_in_flight") == under_way && connections(&now) == [1.0, 0.0, 1.0])
            })
            .await?;
        }
        tokio::time::sleep(HELD).await;
        lock.rollback().await?;
        for call in calls {
            let answer = call.await??;
            ensure!(answer.status == 200 && !answer.is_tool_error(), "{}", answer.message);
        }
        let after = Scrape::of(&world, &gateway).await?;
        let of = |wait: &str, part: &str| after.since(&before, &format!("{wait}_{part}"));
        for (wait, at_once) in [(long, 1.0), (short, 2.0)] {
            ensure!(of(wait, "count") == 2.0, "{} waits in {wait}", of(wait, "count"));
            let found = of(wait, "bucket{le=\"0.5\"}");
            ensure!(found == at_once, "{found} of two waits in {wait} were short, with {next}");
        }
        let waited = of(long, "sum");
        ensure!(waited >= 0.5, "{waited} s in all in {long}, of which one had {HELD:?}");
        ensure!(connections(&after) == [1.0, 1.0, 0.0], "{:?}", connections(&after));
    }
    world.limits(&ZAVA, "head-office", None).await
}

async fn age(world: Arc<World>) -> Result<()> {
    const AGE: &str = "storefence_jwks_age_seconds";
    const FETCHES: &str = "storefence_jwks_fetches_total{cause=\"refresh\",outcome=\"ok\"}";
    let started = Instant::now();
    let gateway = world.another_gateway("key-age", &[]).await?;
    let first = Scrape::of(&world, &gateway).await?;
    let first_at = Instant::now();
    let value = first.value(AGE);
    ensure!(value > 0.0 && value <= started.elapsed().as_secs_f64(), "{value} s after {:?}", started.elapsed());
    ensure!(first.value(FETCHES) == 2.0, "{} fetches for two directories", first.value(FETCHES));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let waited = first_at.elapsed().as_secs_f64();
    let second = Scrape::of(&world, &gateway).await?;
    let aged = second.since(&first, AGE);
    // The scrapes run at different moments.
    ensure!(aged >= waited - 0.001 && aged <= started.elapsed().as_secs_f64(), "{aged} s older after {waited} s");
    ensure!(second.value("storefence_tenants{state=\"served\"}") == 2.0);
    ensure!(second.since(&first, FETCHES) == 0.0, "fetched before the hour is over");
    Ok(())
}
