//! Statements that do not end when cancelled, or that fail late.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use storefence_devstack::mcp_client::McpClient;
use storefence_tenancy::credentials::Slot;

use crate::{
    Tests,
    world::{World, ZAVA, until},
};

pub fn tests(tests: &mut Tests) {
    tests.add("a_statement_that_cannot_be_cancelled_keeps_its_place_until_it_ends", uncancellable);
    tests.add("a_report_that_fails_late_is_not_given_a_second_deadline", fails_late);
}

/// The answer to a statement, which may be a tool error.
pub async fn run(client: &McpClient, sql: &str) -> Result<Value> {
    let answer = client.call_tool("execute_sales_query", json!({"postgresql_query": sql})).await?;
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.message);
    Ok(answer.structured().clone())
}

/// Searches all of the second text for each letter in vain, in a loop that does not check for interrupts.
fn translate(pairs: u64) -> String {
    format!("SELECT length(translate(repeat('a', {}), repeat('b', 10000), ''))", pairs / 10_000)
}

async fn uncancellable(world: Arc<World>) -> Result<()> {
    world.limits(&ZAVA, "head-office", Some(json!({"statementTimeout": "1s"}))).await?;
    let gateway = world
        .another_gateway("stuck", &["--pool-per-tenant", "2", "--pool-per-principal", "2", "--pool-total", "8"])
        .await?;
    let (attacker, bystander) =
        (world.client_of(&gateway, "head-office")?, world.client_of(&gateway, "contoso-head-office")?);
    let database = world.superuser().await?;
    let login = world.login_name(&ZAVA, Slot::A).await?;
    let working = async || -> Result<i64> {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND state = 'active'";
        Ok(database.query_one(sql, &[&login]).await?.get(0))
    };
    let ending = async || world.metric(&gateway, "storefence_database_connections{state=\"ending\"}").await;
    // Takes about fifteen seconds on this machine when it runs alone.
    let pairs = 400_000_000;
    let measured = Instant::now();
    database.query_one(&translate(pairs), &[]).await?;
    let pairs = pairs * 15_000 / u64::try_from(measured.elapsed().as_millis().max(1))?;
    let sql = translate(pairs);

    let begun = Instant::now();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (client, sql) = (attacker.clone(), sql.clone());
        calls.spawn(async move { run(&client, &sql).await });
    }
    let (mut most, mut answers, mut told) = (0, 0, Vec::new());
    while answers < 8 {
        most = most.max(working().await?);
        let rows = run(&bystander, "SELECT count(*) FROM retail.orders").await?;
        ensure!(rows["rows"] == json!([[6]]), "the other tenant: {rows}");
        while let Some(answer) = calls.try_join_next() {
            let answer = answer??;
            answers += 1;
            told.push(answer["code"].as_str().unwrap_or("none").to_owned());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Once more, one after the other: nobody gets a connection while the first two run.
    for _ in 0..3 {
        told.push(run(&attacker, &sql).await?["code"].as_str().unwrap_or("none").to_owned());
        most = most.max(working().await?);
    }
    let during = begun.elapsed();
    let expected = ["QUERY_TIMEOUT", "QUERY_TIMEOUT"].into_iter().chain(["RATE_LIMITED"; 9]);
    told.sort_unstable();
    ensure!(told.iter().map(String::as_str).eq(expected), "{told:?}");
    ensure!(most == 2, "{most} processes worked for a tenant that may have two, after {during:?}");
    ensure!(working().await? == 2, "they ended before their time, after {during:?}: the test shows nothing");
    ensure!(ending().await? == 2.0, "not counted");
    let recovers = async || Ok(run(&attacker, "SELECT 1").await?["rows"] == json!([[1]]));
    until("the tenant is served again", Duration::from_secs(240), recovers).await?;
    until("both have ended", Duration::from_secs(120), async || Ok(working().await? == 0 && ending().await? == 0.0))
        .await?;
    println!("two processes worked for {:?}", begun.elapsed());
    world.limits(&ZAVA, "head-office", None).await
}

/// The last row has a type without equality: an error without a position, during execution. The statement is repeated
/// through the other entry point, for statements that cannot be a subquery.
async fn fails_late(world: Arc<World>) -> Result<()> {
    world.limits(&ZAVA, "head-office", Some(json!({"statementTimeout": "3s"}))).await?;
    let client = world.client_as("head-office")?;
    let late = |rows: u128| {
        let point = "(SELECT r FROM (SELECT point(1, g)) r)";
        format!(
            "SELECT count(*) FROM generate_series(1, {rows}) g WHERE CASE WHEN g = {rows} THEN {point} = {point} ELSE true END"
        )
    };
    let ask = async |rows| {
        let begun = Instant::now();
        let answer = run(&client, &late(rows)).await?;
        let known = answer["sqlstate"] == "42883" || answer["code"] == "QUERY_TIMEOUT";
        ensure!(known, "{rows} rows: {answer}");
        anyhow::Ok((begun.elapsed(), answer["code"].as_str().unwrap_or_default().to_owned()))
    };
    ask(1).await?;
    // First with time for both attempts; then with so many rows that one attempt takes most of the available time.
    let rows = 400_000;
    let (both, _) = ask(rows).await?;
    let rows = rows * 2600 * 2 / both.as_millis().max(1);
    for rows in [rows, rows * 9 / 10, rows * 8 / 10] {
        let (elapsed, code) = ask(rows).await?;
        println!("{rows} rows: {code} after {elapsed:?}");
        ensure!(elapsed < Duration::from_millis(3900), "{rows} rows: {code} after {elapsed:?}");
    }
    world.limits(&ZAVA, "head-office", None).await
}
