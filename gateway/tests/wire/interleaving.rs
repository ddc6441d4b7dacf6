//! Many principals on few connections, with errors, timeouts and disconnecting clients in between: nobody ever gets
//! another's answer.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use storefence_devstack::mcp_client::{McpClient, Revision};

use crate::{Tests, world::World};

const WORKERS: u64 = 12;
const CALLS: usize = 150;

pub fn tests(tests: &mut Tests) {
    tests.add("no_foreign_row_under_errors_timeouts_and_disconnects", interleaved);
}

/// The rows of each principal: orders per store.
fn expected() -> [(&'static str, Value); 7] {
    [
        ("seattle-manager", json!([["Seattle", 7]])),
        ("redmond-manager", json!([["Redmond", 5]])),
        ("puget-sound-regional", json!([["Redmond", 5], ["Seattle", 7]])),
        ("claim-user", json!([["Redmond", 5], ["Seattle", 7]])),
        ("head-office", json!([["Online", 3], ["Redmond", 5], ["Seattle", 7]])),
        ("contoso-head-office", json!([["Downtown", 2], ["Harbor", 4]])),
        ("contoso-downtown-manager", json!([["Downtown", 2]])),
    ]
}

async fn interleaved(world: Arc<World>) -> Result<()> {
    let gateway = world.another_gateway("interleaving", &["--pool-per-tenant", "2"]).await?;
    let url = format!("{}/mcp", gateway.url);
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..WORKERS {
        let mut clients = Vec::new();
        for (principal, rows) in expected() {
            let token = world.token(principal)?;
            clients.push((
                principal,
                McpClient::new(world.http.clone(), url.clone(), Some(token), Revision::V2026_07_28),
                rows,
            ));
        }
        workers.spawn(async move {
            let mut random = StdRng::seed_from_u64(seed ^ worker);
            let mut answered = 0;
            for _ in 0..CALLS {
                let (principal, client, rows) = &clients[random.random_range(0..clients.len())];
                answered += usize::from(one(principal, client, rows, &mut random).await?);
            }
            anyhow::Ok(answered)
        });
    }
    let mut answered = 0;
    while let Some(done) = workers.join_next().await {
        answered += done?.with_context(|| format!("seed {seed}"))?;
    }
    ensure!(answered > CALLS * 3, "only {answered} answers, seed {seed}");
    ensure!(
        world.metric(&gateway, "storefence_cancels_total{cause=\"disconnect\"}").await? > 0.0,
        "no disconnect reached a flight"
    );
    Ok(())
}

/// One call; true if it returned rows, which have to be the principal's own.
async fn one(principal: &str, client: &McpClient, rows: &Value, random: &mut StdRng) -> Result<bool> {
    // The comment makes each text unique, so that describing is part of the test.
    let mark: u32 = random.random_range(0..20);
    let own = format!(
        "SELECT s.store_name, count(*) FROM retail.orders o JOIN retail.stores s USING (store_id) GROUP BY 1 ORDER BY 1 -- {mark}"
    );
    let (sql, leave) = match random.random_range(0..10) {
        0 => ("SELECT 1/0".to_owned(), None),
        1 => ("SELECT nope FROM retail.orders".to_owned(), None),
        2 => (
            "SELECT count(*) FROM generate_series(1, 3000) a, generate_series(1, 3000) b".to_owned(),
            Some(random.random_range(0..30)),
        ),
        3 => (own, Some(random.random_range(0..5))),
        _ => (own, None),
    };
    let arguments = json!({"name": "execute_sales_query", "arguments": {"postgresql_query": sql}});
    let sending = client.send("tools/call", arguments);
    let answer = match leave {
        Some(millis) => match tokio::time::timeout(Duration::from_millis(millis), sending).await {
            Ok(answer) => answer?,
            Err(_) => return Ok(false),
        },
        None => sending.await?,
    };
    ensure!(answer.status == 200, "{principal}: {} {}", answer.status, answer.message);
    if answer.is_tool_error() {
        let code = answer.structured()["code"].as_str().unwrap_or_default();
        ensure!(matches!(code, "DATABASE_ERROR" | "QUERY_TIMEOUT" | "RATE_LIMITED"), "{principal}: {}", answer.message);
        return Ok(false);
    }
    if sql.starts_with("SELECT s.store_name") {
        ensure!(answer.structured()["rows"] == *rows, "{principal} got {}", answer.structured());
        return Ok(true);
    }
    Ok(false)
}
