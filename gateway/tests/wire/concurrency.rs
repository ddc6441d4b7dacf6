//! A principal's concurrent statements are limited to a part of the tenant's connections.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::json;
use storefence_tenancy::credentials::Slot;
use tokio::task::JoinSet;

use crate::{
    Tests,
    stuck::run,
    world::{World, ZAVA},
};

pub fn tests(tests: &mut Tests) {
    tests.add("a_principal_has_as_many_statements_at_work_as_its_share_or_one_with_workers", shares);
    tests.add("a_statement_has_as_many_processes_as_a_principal_has_places", workers);
}

/// Never ends, and does not aggregate.
pub const ENDLESS: &str = "SELECT a FROM generate_series(1, 10000) a, generate_series(1, 10000) b, generate_series(1, 10000) c WHERE a + b + c < 0";
/// Aggregates, so that it may have parallel workers; never ends.
pub const REPORT: &str = "SELECT count(*) FROM generate_series(1, 2000000000) a, generate_series(1, 2000000000) b";

async fn shares(world: Arc<World>) -> Result<()> {
    // Longer than the wait for a connection.
    world.limits(&ZAVA, "head-office", Some(json!({"statementTimeout": "8s"}))).await?;
    let database = world.superuser().await?;
    let login = world.login_name(&ZAVA, Slot::A).await?;
    let at_work = async || -> Result<usize> {
        // The colleague's statements end sooner.
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND state = 'active'
            AND clock_timestamp() - query_start > interval '500 ms'";
        Ok(usize::try_from(database.query_one(sql, &[&login]).await?.get::<_, i64>(0))?)
    };
    let cases: [(&[&str], &str, usize); 3] = [
        (&[], ENDLESS, 1),
        (&["--pool-per-principal", "2"], ENDLESS, 2),
        // Both slots are for the workers that it may have.
        (&["--pool-per-principal", "2"], REPORT, 1),
    ];
    for (options, sql, at_once) in cases {
        let gateway = world.another_gateway("shares", options).await?;
        let (attacker, colleague) =
            (world.client_of(&gateway, "head-office")?, world.client_of(&gateway, "seattle-manager")?);
        let mut calls = JoinSet::new();
        for _ in 0..4 {
            let attacker = attacker.clone();
            calls.spawn(async move { run(&attacker, sql).await });
        }
        let (mut answers, mut most) = (Vec::new(), 0);
        while answers.len() < 4 {
            most = most.max(at_work().await?);
            let begun = Instant::now();
            let answer = run(&colleague, "SELECT 1").await?;
            ensure!(
                answer["rows"] == json!([[1]]) && begun.elapsed() < Duration::from_secs(4),
                "a colleague: {answer}"
            );
            while let Some(answer) = calls.try_join_next() {
                answers.push(answer??);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        ensure!(most == at_once, "{most} at work of {sql}");
        let ended = answers.iter().filter(|answer| answer["code"] == "QUERY_TIMEOUT").count();
        ensure!(ended == at_once, "{answers:?}");
        for refused in answers.iter().filter(|answer| answer["code"] != "QUERY_TIMEOUT") {
            ensure!(refused["code"] == "RATE_LIMITED", "{refused}");
            let message = refused["message"].as_str().unwrap_or_default();
            ensure!(message.contains("other statements of yours are still running"), "{refused}");
            ensure!(refused["retryAfterSeconds"].as_u64().is_some_and(|seconds| seconds > 0), "{refused}");
        }
        // All permits are available again.
        let answer = run(&attacker, "SELECT count(*) FROM retail.orders").await?;
        ensure!(answer["rows"] == json!([[15]]), "{answer}");
    }
    world.limits(&ZAVA, "head-office", None).await
}

async fn workers(world: Arc<World>) -> Result<()> {
    let database = world.superuser().await?;
    let login = world.login_name(&ZAVA, Slot::A).await?;
    // The gate keeps callers from reading settings.
    let told = "CREATE FUNCTION views_retail.workers() RETURNS text LANGUAGE sql STABLE AS $$
        SELECT pg_catalog.current_setting('max_parallel_workers_per_gather') $$";
    database.batch_execute(told).await?;
    // Seven of eight slots could go to workers if the login had that many.
    for (places, of_the_login, workers) in [("2", "3", "1"), ("1", "3", "0"), ("8", "3", "3"), ("2", "0", "0")] {
        let set = format!("ALTER ROLE {login} SET max_parallel_workers_per_gather = {of_the_login}");
        database.batch_execute(&set).await?;
        let gateway = world.another_gateway("workers", &["--pool-per-principal", places]).await?;
        let client = world.client_of(&gateway, "head-office")?;
        // More than one call: the connection keeps the settings that it was opened with.
        for _ in 0..3 {
            let answer = run(&client, "SELECT workers()").await?;
            ensure!(answer["rows"] == json!([[workers]]), "{places} places, {of_the_login} of the login: {answer}");
        }
    }
    let undo =
        format!("DROP FUNCTION views_retail.workers(); ALTER ROLE {login} RESET max_parallel_workers_per_gather");
    database.batch_execute(&undo).await?;
    Ok(())
}
