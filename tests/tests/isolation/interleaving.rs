//! 20 principals of 3 tenants, 10,000 calls over 4 connections per tenant, with errors, timeouts, cancels and disconnects mixed in:
//! not one foreign row, and every answer complete.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use storefence_devstack::mcp_client::{Answer, McpClient, Revision};
use storefence_tests::answered;
use uuid::Uuid;

use super::{World, data};

const PRINCIPALS: usize = 20;
const TENANTS: usize = 3;
/// How many calls an ordinary run has.
pub const CALLS: u64 = 10_000;
const AT_ONCE: usize = 24;

/// Every row says whose it is, in all tables at once.
const ALL_TABLES: &str = "SELECT store_id, count(*) FROM (
    SELECT store_id FROM stores UNION ALL SELECT store_id FROM orders UNION ALL SELECT store_id FROM order_items
    UNION ALL SELECT store_id FROM inventory UNION ALL SELECT primary_store_id FROM customers) t GROUP BY 1";

struct Caller {
    client: McpClient,
    expected: BTreeMap<String, i64>,
}

impl Caller {
    /// As a client that follows the advice of an error: whose statements ran long, by a timeout or two or on a slow machine, has them
    /// run one after the other, and may be sent away to come again.
    async fn ask(&self, sql: &str) -> Result<Answer> {
        for _ in 0..10 {
            let answer = self.client.call_tool("execute_sales_query", json!({"postgresql_query": sql})).await?;
            let told = answer.structured();
            let later = told["retryAfterSeconds"].as_u64().filter(|_| answer.is_tool_error());
            let turns =
                told["message"].as_str().is_some_and(|message| message.contains("they run one after the other"));
            let Some(seconds) = later.filter(|_| turns) else { return Ok(answer) };
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }
        bail!("sent away ten times: {sql}")
    }
}

#[derive(Default)]
struct Tally {
    answered: AtomicU64,
    errors: AtomicU64,
    timeouts: AtomicU64,
    cancels: AtomicU64,
    disconnects: AtomicU64,
}

pub async fn run(world: &World, calls: u64) -> Result<()> {
    let callers = callers(world).await?;
    let tally = Tally::default();
    stream::iter(0..calls)
        .map(|call| {
            let (callers, tally) = (&callers, &tally);
            async move { one(world, callers, tally, call).await.with_context(|| format!("seed {} call {call}", world.seed)) }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    super::whole(world).await?;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "{} answered, {} errors, {} timeouts, {} cancels, {} disconnects",
        count(&tally.answered),
        count(&tally.errors),
        count(&tally.timeouts),
        count(&tally.cancels),
        count(&tally.disconnects)
    );
    let each = [&tally.errors, &tally.timeouts, &tally.cancels, &tally.disconnects];
    ensure!(count(&tally.answered) > calls * 8 / 10 && each.iter().all(|kind| count(kind) > 0), "off mix");
    Ok(())
}

/// 20 callers with a scope in one of the first three tenants, and what each must see.
async fn callers(world: &World) -> Result<Vec<Caller>> {
    let mut rng = StdRng::seed_from_u64(world.seed);
    let counts: BTreeMap<String, i64> = world
        .shared
        .database
        .query(
            "SELECT store_id::text, count(*) FROM (
                SELECT store_id FROM retail.stores UNION ALL SELECT store_id FROM retail.orders
                UNION ALL SELECT store_id FROM retail.order_items UNION ALL SELECT store_id FROM retail.inventory
                UNION ALL SELECT primary_store_id FROM retail.customers) t GROUP BY 1",
            &[],
        )
        .await?
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    let mut callers = Vec::new();
    let mut tenants = BTreeSet::new();
    for attempt in 0.. {
        let tenant = &world.tenants[attempt % TENANTS];
        let claims = data::claims(&mut rng, &world.tenants, tenant);
        let visible = tenant.visible(&claims);
        if visible.is_empty() {
            ensure!(attempt < 10_000, "the rules let nobody in");
            continue;
        }
        let directory = Uuid::parse_str(claims["tid"].as_str().context("tid")?)?;
        let token = world.shared.stack.issue(&directory.to_string(), claims, 3600)?;
        let client = world.shared.client_with(Some(token), &format!("/{}/mcp", tenant.id), Revision::V2026_07_28);
        let expected = visible.iter().map(|id| (id.to_string(), counts[&id.to_string()])).collect();
        tenants.insert(&tenant.id);
        callers.push(Caller { client, expected });
        if callers.len() == PRINCIPALS {
            break;
        }
    }
    ensure!(tenants.len() == TENANTS, "callers of {} tenants", tenants.len());
    Ok(callers)
}

async fn one(world: &World, callers: &[Caller], tally: &Tally, call: u64) -> Result<()> {
    let mut rng = StdRng::seed_from_u64(world.seed.rotate_left(17) ^ call);
    let caller = &callers[rng.random_range(0..callers.len())];
    let ask = |sql: &'static str| caller.ask(sql);
    match rng.random_range(0..1000) {
        0..60 => {
            let answer = ask("SELECT 1 / (count(*) - count(*)) FROM orders").await?;
            ensure!(answer.is_tool_error() && answer.structured()["code"] == "DATABASE_ERROR", "{answer:?}");
            tally.errors.fetch_add(1, Ordering::Relaxed);
        }
        60..63 => {
            let answer =
                ask("SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b").await?;
            ensure!(answer.is_tool_error() && answer.structured()["code"] == "QUERY_TIMEOUT", "{answer:?}");
            tally.timeouts.fetch_add(1, Ordering::Relaxed);
        }
        63..70 => {
            // Cancelled while the server works on it: the gateway must stop it there before the connection serves again.
            let patience = Duration::from_millis(rng.random_range(20..100));
            let slow = ask("SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b");
            ensure!(tokio::time::timeout(patience, slow).await.is_err(), "answered too soon");
            tally.cancels.fetch_add(1, Ordering::Relaxed);
        }
        70..120 => {
            // The client goes away in the middle of the call; whatever was under way must not show in another's answer.
            let patience = Duration::from_micros(rng.random_range(100..4000));
            let _ = tokio::time::timeout(patience, ask(ALL_TABLES)).await;
            tally.disconnects.fetch_add(1, Ordering::Relaxed);
        }
        _ => {
            let answer = ask(ALL_TABLES).await?;
            let rows = answered(&answer)?.rows;
            let seen: BTreeMap<String, i64> = rows
                .iter()
                .map(|row| match row.as_slice() {
                    [Value::String(id), Value::Number(n)] => Ok((id.clone(), n.as_i64().context("a count")?)),
                    other => bail!("unexpected row {other:?}"),
                })
                .collect::<Result<_>>()?;
            ensure!(seen == caller.expected, "sees {seen:?}, may see {:?}", caller.expected);
            tally.answered.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}
