//! Rotations under load: no call fails, though the database stands still for a moment in the middle of one.

use std::{
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use storefence_devstack::{
    mcp_client::{McpClient, Revision},
    postgres::Cluster,
    stack::StackOptions,
};
use storefence_tenancy::{RetailTenant, resource::ROTATE_ANNOTATION};
use storefence_tests::{Shared, answered, wait_until};
use tokio::{
    sync::{Mutex, oneshot},
    task::JoinSet,
    time::MissedTickBehavior,
};

const ROTATIONS: u32 = 10;
/// Between two calls, whether or not the last one is answered: 200 a second at most.
const PAUSE: Duration = Duration::from_millis(5);
/// Calls that show how many a second this machine can answer, beside whatever else it does.
const TRIALS: u32 = 100;
/// Where the database stands still: what has piled up meanwhile is to be served by a slow machine, too.
const WIDE_PAUSE: Duration = Duration::from_millis(25);
const SQL: &str = "SELECT store_name FROM stores ORDER BY store_name";
const PATIENCE: Duration = Duration::from_secs(60);

/// How long after both logins are there the database stands still: while connections are opened, and with statements on
/// all of them.
const MOMENTS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(700), Duration::from_millis(700)];
/// How long it does, and how soon after that calls are answered as before.
const STILL: Duration = Duration::from_secs(2);
const SETTLED: Duration = Duration::from_secs(5);

/// Calls and those that failed, with the moment.
#[derive(Default)]
struct Tally {
    calls: usize,
    failures: Vec<String>,
    longest: Duration,
    /// When each call began and how long it took.
    taken: Vec<(Duration, Duration)>,
}

impl Tally {
    fn all_answered(&self, connections: &[String]) -> Result<()> {
        let (failed, calls) = (self.failures.len(), self.calls);
        let (some, connections) = (self.failures[..failed.min(20)].join("\n"), connections.join("\n"));
        ensure!(
            failed == 0,
            "{failed} of {calls} calls failed:\n{some}\nthe tenant's connections meanwhile:\n{connections}"
        );
        Ok(())
    }
}

/// Calls at a fixed rate until stopped, one principal after another.
async fn load(
    clients: Vec<(McpClient, usize)>,
    pause: Duration,
    stop: oneshot::Receiver<()>,
    begun: Instant,
) -> Result<Tally> {
    let tally = Arc::new(Mutex::new(Tally::default()));
    let mut calls = JoinSet::new();
    let mut ticks = tokio::time::interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut stop = std::pin::pin!(stop);
    for (client, stores) in clients.iter().cycle() {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = &mut stop => break,
        }
        let (client, stores, tally) = (client.clone(), *stores, Arc::clone(&tally));
        calls.spawn(async move {
            let started = Instant::now();
            let answer = client.call_tool("execute_sales_query", json!({"postgresql_query": SQL})).await;
            let outcome = answer.map_err(anyhow::Error::from).and_then(|answer| answered(&answer));
            let outcome = outcome.and_then(|rows| {
                ensure!(rows.rows.len() == stores, "{} stores instead of {stores}", rows.rows.len());
                Ok(())
            });
            let mut tally = tally.lock().await;
            tally.calls += 1;
            tally.longest = tally.longest.max(started.elapsed());
            tally.taken.push((started.duration_since(begun), started.elapsed()));
            if let Err(error) = outcome {
                let (at, took) = (started.duration_since(begun), started.elapsed());
                tally.failures.push(format!("at {at:?}, after {took:?}: {error:#}"));
            }
        });
        while calls.try_join_next().is_some() {}
    }
    calls.join_all().await;
    Ok(Arc::into_inner(tally).context("a call is still running")?.into_inner())
}

/// A pause at which a third of what this machine can answer is asked of it: calls that wait because the machine is slow would
/// say nothing about rotations.
async fn bearable(clients: &[(McpClient, usize)]) -> Result<Duration> {
    let begun = Instant::now();
    let each = clients.iter().map(async |(client, _)| {
        for _ in 0..TRIALS / 4 {
            answered(&client.call_tool("execute_sales_query", json!({"postgresql_query": SQL})).await?)?;
        }
        anyhow::Ok(())
    });
    futures::future::try_join_all(each).await?;
    Ok(PAUSE.max(begun.elapsed() * 3 / TRIALS))
}

/// Where the gateway's connections are, twice a second, until stopped.
async fn connections(
    http: reqwest::Client,
    url: String,
    mut stop: oneshot::Receiver<()>,
    begun: Instant,
) -> Vec<String> {
    let mut seen = Vec::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = &mut stop => return seen,
        }
        let Ok(answer) = http.get(&url).send().await else { continue };
        let text = answer.text().await.unwrap_or_default();
        let of = |line: &&str| {
            line.starts_with("storefence_database_connections{")
                || line.starts_with("storefence_long_statement_turns_total{")
        };
        let short = |line: &str| line.split_once("=\"").map_or_else(String::new, |(_, rest)| rest.replace("\"}", ""));
        let states: Vec<String> = text.lines().filter(of).map(short).collect();
        seen.push(format!("{:.1} s: {}", begun.elapsed().as_secs_f64(), states.join(", ")));
    }
}

/// The postmaster and its children; it first, so that it makes no more of them meanwhile.
fn signal_server(postmaster: u32, signal: &str) -> Result<()> {
    let send = |pids: &[String]| -> Result<()> {
        // A child may have ended since.
        Command::new("kill").arg(signal).args(pids).stderr(Stdio::null()).status()?;
        Ok(())
    };
    send(&[postmaster.to_string()])?;
    let children = std::fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children"))?;
    send(&children.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
}

async fn rotating() -> Result<(Shared, Vec<(McpClient, usize)>)> {
    let shared = Shared::start(|options| {
        options.manifests = StackOptions::examples()?;
        for (_, manifest) in &mut options.manifests {
            // The limits of a principal are not what is tested here.
            *manifest =
                manifest.replace("  keyVaultRef:", "  rotation: {period: 720h, overlap: 2s}\n  keyVaultRef:").replace(
                    "    statementTimeout: 5s",
                    "    statementTimeout: 5s\n    concurrentCalls: 1000\n    tenantConcurrentCalls: 4000",
                );
        }
        options.gateway_env.push(("STOREFENCE_POOL_PER_PRINCIPAL".into(), "4".into()));
        Ok(())
    })
    .await?;
    let mut clients = Vec::new();
    for principal in ["head-office", "seattle-manager", "redmond-manager", "puget-sound-regional"] {
        let client = shared.client(principal, Revision::V2026_07_28)?;
        let answer = client.call_tool("execute_sales_query", json!({"postgresql_query": SQL})).await?;
        clients.push((client, answered(&answer)?.rows.len()));
    }
    ensure!(clients[0].1 == 8 && clients[1].1 == 1, "principals see stores of their own");

    Ok((shared, clients))
}

/// Asks for a rotation.
async fn rotate(tenants: &Api<RetailTenant>, value: &str) -> Result<()> {
    let patch = json!({"metadata": {"annotations": {ROTATE_ANNOTATION: value}}});
    tenants.patch("zava", &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// Waits until a rotation is over; gives the key that is in force, and how long it took.
async fn rotated(tenants: &Api<RetailTenant>, value: &str) -> Result<(u32, Duration)> {
    let settled = async || {
        let status = tenants.get("zava").await?.status.context("no status")?;
        let credentials = status.credentials.context("no credentials")?;
        let handled = status.last_rotation.and_then(|last| last.annotation);
        Ok(handled.as_deref() == Some(value) && (credentials.slots.len(), credentials.context_keys.len()) == (1, 1))
    };
    let took = wait_until(&format!("rotation {value}"), PATIENCE, settled).await?;
    let status = tenants.get("zava").await?.status.context("no status")?;
    Ok((status.credentials.context("no credentials")?.active_kid, took))
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_rotations_under_load_fail_no_call() -> Result<()> {
    let (shared, clients) = rotating().await?;
    let pause = bearable(&clients).await?;
    println!("a call each {pause:?}");
    let begun = Instant::now();
    let (stop, stopped) = oneshot::channel();
    let (look_away, looking) = oneshot::channel();
    let loading = tokio::spawn(load(clients, pause, stopped, begun));
    let scrape = format!("{}/metrics", shared.stack.facts().admin_url);
    let looks = tokio::spawn(connections(shared.stack.http().clone(), scrape, looking, begun));
    let tenants = Api::<RetailTenant>::default_namespaced(shared.stack.kube().clone());
    let mut kids = Vec::new();
    for rotation in 1..=ROTATIONS {
        let value = rotation.to_string();
        rotate(&tenants, &value).await?;
        let (kid, took) = rotated(&tenants, &value).await?;
        println!("rotation {rotation}: {took:?}");
        kids.push(kid);
    }
    stop.send(()).ok().context("the load has ended by itself")?;
    let tally = loading.await??;
    let seconds = begun.elapsed().as_secs_f64();
    let _ = look_away.send(());
    #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = tally.calls as f64 / seconds;
    println!("{} calls in {seconds:.1} s ({rate:.0} a second), longest {:?}", tally.calls, tally.longest);
    tally.all_answered(&looks.await?)?;
    ensure!(kids == (2..=ROTATIONS + 1).collect::<Vec<_>>(), "{kids:?}");
    ensure!(rate * pause.as_secs_f64() > 0.75, "{rate} calls a second, not one each {pause:?}");
    shared.stop().await;
    Ok(())
}

/// What was waiting when the database went on is answered, and what comes then finds it as before: nothing is held for
/// what has ended, and nobody is treated as though statements of theirs had run long.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_stands_still_in_a_rotation_costs_no_call() -> Result<()> {
    let (shared, mut clients) = rotating().await?;
    // One principal, so that all that stands still is theirs.
    clients.truncate(1);
    let postmaster = shared.stack.cluster().and_then(Cluster::pid).context("a server of our own")?;
    let begun = Instant::now();
    let (stop, stopped) = oneshot::channel();
    let (look_away, looking) = oneshot::channel();
    let loading = tokio::spawn(load(clients, WIDE_PAUSE, stopped, begun));
    let scrape = format!("{}/metrics", shared.stack.facts().admin_url);
    let looks = tokio::spawn(connections(shared.stack.http().clone(), scrape, looking, begun));
    let tenants = Api::<RetailTenant>::default_namespaced(shared.stack.kube().clone());
    let mut went_on = Vec::new();
    for (rotation, moment) in MOMENTS.into_iter().enumerate() {
        let value = rotation.to_string();
        rotate(&tenants, &value).await?;
        let both = async || {
            let status = tenants.get("zava").await?.status.context("no status")?;
            Ok(status.credentials.context("no credentials")?.slots.len() == 2)
        };
        wait_until("both logins", PATIENCE, both).await?;
        tokio::time::sleep(moment).await;
        signal_server(postmaster, "-STOP")?;
        tokio::time::sleep(STILL).await;
        signal_server(postmaster, "-CONT")?;
        went_on.push(begun.elapsed());
        rotated(&tenants, &value).await?;
        tokio::time::sleep(SETTLED).await;
    }
    stop.send(()).ok().context("the load has ended by itself")?;
    let tally = loading.await??;
    let _ = look_away.send(());
    let looks = looks.await?;
    println!("{} calls, longest {:?}\n{}", tally.calls, tally.longest, looks.join("\n"));
    tally.all_answered(&looks)?;
    let last = looks.last().context("nobody looked")?;
    ensure!(last.ends_with("refused 0, taken 0"), "somebody took turns: {last}");
    let after = *went_on.last().context("it went on")? + SETTLED;
    let late: Vec<_> = tally.taken.iter().filter(|(at, took)| *at > after && *took > Duration::from_secs(1)).collect();
    ensure!(late.is_empty(), "{} calls still wait {SETTLED:?} after the database went on: {late:?}", late.len());
    shared.stop().await;
    Ok(())
}
