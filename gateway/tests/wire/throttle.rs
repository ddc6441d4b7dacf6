//! Principals with long-running statements are throttled; nobody else is.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use storefence_devstack::mcp_client::McpClient;
use storefence_tenancy::credentials::Slot;
use tokio::task::JoinSet;

use crate::{
    Tests,
    concurrency::{ENDLESS, REPORT},
    stuck::run,
    world::{World, ZAVA},
};

pub fn tests(tests: &mut Tests) {
    tests.add("who_used_up_the_time_for_long_statements_has_one_at_a_time", turns);
}

/// The observed effect of four endless statements at a time.
#[derive(Debug, Default)]
struct Attack {
    answers: Vec<Value>,
    /// The most of them that were active on the server at a time.
    most: usize,
    /// How many of the active ones used the entry point that may have workers.
    reports: usize,
    /// Longest wait of a caller of the same tenant, and of one of another.
    waited: Duration,
}

async fn turns(world: Arc<World>) -> Result<()> {
    world.limits(&ZAVA, "head-office", Some(json!({"statementTimeout": "3s"}))).await?;
    let gateway = world.another_gateway("turns", &["--pool-per-principal", "8"]).await?;
    let (attacker, colleague) =
        (world.client_of(&gateway, "head-office")?, world.client_of(&gateway, "seattle-manager")?);
    let neighbour = world.client_of(&gateway, "contoso-head-office")?;
    let database = world.superuser().await?;
    let login = world.login_name(&ZAVA, Slot::A).await?;
    let at_work = async || -> Result<Vec<String>> {
        // The others' statements end sooner.
        let sql = "SELECT query FROM pg_stat_activity WHERE usename = $1 AND state = 'active'
            AND clock_timestamp() - query_start > interval '500 ms'";
        Ok(database.query(sql, &[&login]).await?.iter().map(|row| row.get(0)).collect())
    };
    let attack = async || -> Result<Attack> {
        let (mut attack, mut calls) = (Attack::default(), JoinSet::new());
        for _ in 0..4 {
            let attacker = attacker.clone();
            calls.spawn(async move { run(&attacker, REPORT).await });
        }
        while attack.answers.len() < 4 {
            let found = at_work().await?;
            attack.most = attack.most.max(found.len());
            attack.reports += found.iter().filter(|query| query.contains("run_report")).count();
            for client in [&colleague, &neighbour] {
                let begun = Instant::now();
                let answer = run(client, "SELECT 1").await?;
                ensure!(answer["rows"] == json!([[1]]), "a bystander: {answer}");
                attack.waited = attack.waited.max(begun.elapsed());
            }
            while let Some(answer) = calls.try_join_next() {
                attack.answers.push(answer??);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(attack)
    };
    let outcome = async |outcome: &str| {
        let series = format!("storefence_long_statement_turns_total{{outcome=\"{outcome}\"}}");
        world.metric(&gateway, &series).await
    };

    // Three seconds each time, not counting the colleague's connection: the time for long statements is used up.
    // Statements that run side by side count once.
    for _ in 0..4 {
        let first = run_at_once(&attacker, ENDLESS, 3).await?;
        ensure!(first.iter().all(|answer| answer["code"] == "QUERY_TIMEOUT"), "{first:?}");
    }
    ensure!(outcome("taken").await? == 0.0, "a turn before the time is used up");
    run(&attacker, REPORT).await?;

    let second = attack().await?;
    ensure!(second.most == 1, "not one at a time: {second:?}");
    ensure!(second.reports == 0, "with workers of its own: {second:?}");
    let refused: Vec<_> = second.answers.iter().filter(|answer| answer["code"] == "RATE_LIMITED").collect();
    ensure!(!refused.is_empty() && second.answers.len() > refused.len(), "{second:?}");
    for answer in refused {
        let message = answer["message"].as_str().unwrap_or_default();
        ensure!(message.contains("run one after the other"), "{answer}");
        ensure!(answer["retryAfterSeconds"].as_u64().is_some_and(|seconds| seconds > 0), "{answer}");
    }
    ensure!(outcome("taken").await? >= 1.0 && outcome("refused").await? >= 1.0, "not counted");
    println!("the others waited {:?} at most", second.waited);

    // Its short statements wait only for its own long ones.
    let answer = run(&attacker, "SELECT count(*) FROM retail.orders").await?;
    ensure!(answer["rows"] == json!([[15]]), "{answer}");
    world.limits(&ZAVA, "head-office", None).await
}

async fn run_at_once(client: &McpClient, sql: &'static str, number: usize) -> Result<Vec<Value>> {
    let mut calls = JoinSet::new();
    for _ in 0..number {
        let client = client.clone();
        calls.spawn(async move { run(&client, sql).await });
    }
    calls.join_all().await.into_iter().collect()
}
