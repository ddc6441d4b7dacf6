//! Ten rotations under load: no call fails.

use std::{
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
    stack::StackOptions,
};
use storefence_tenancy::{RetailTenant, resource::ROTATE_ANNOTATION};
use storefence_tests::{Shared, answered, wait_until};
use tokio::{sync::Mutex, task::JoinSet, time::MissedTickBehavior};

const ROTATIONS: u32 = 10;
/// Between two calls, whether or not the last one is answered: 200 a second.
const PAUSE: Duration = Duration::from_millis(5);
const SQL: &str = "SELECT store_name FROM stores ORDER BY store_name";
const PATIENCE: Duration = Duration::from_secs(60);

/// Calls and those that failed, with the moment.
#[derive(Default)]
struct Tally {
    calls: usize,
    failures: Vec<String>,
    longest: Duration,
}

/// Calls at a fixed rate until told to stop, round the principals.
async fn load(
    clients: Vec<(McpClient, usize)>,
    stop: tokio::sync::oneshot::Receiver<()>,
    begun: Instant,
) -> Result<Tally> {
    let tally = Arc::new(Mutex::new(Tally::default()));
    let mut calls = JoinSet::new();
    let mut ticks = tokio::time::interval(PAUSE);
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

#[tokio::test(flavor = "multi_thread")]
async fn ten_rotations_under_load_fail_no_call() -> Result<()> {
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

    let begun = Instant::now();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let loading = tokio::spawn(load(clients, stopped, begun));
    let tenants = Api::<RetailTenant>::default_namespaced(shared.stack.kube().clone());
    let mut kids = Vec::new();
    for rotation in 1..=ROTATIONS {
        let value = rotation.to_string();
        let patch = json!({"metadata": {"annotations": {ROTATE_ANNOTATION: value}}});
        tenants.patch("zava", &PatchParams::default(), &Patch::Merge(patch)).await?;
        let settled = async || {
            let status = tenants.get("zava").await?.status.context("no status")?;
            let credentials = status.credentials.context("no credentials")?;
            let handled = status.last_rotation.and_then(|last| last.annotation);
            Ok(handled.as_deref() == Some(&value)
                && (credentials.slots.len(), credentials.context_keys.len()) == (1, 1))
        };
        let took = wait_until(&format!("rotation {rotation}"), PATIENCE, settled).await?;
        println!("rotation {rotation}: {took:?}");
        let status = tenants.get("zava").await?.status.context("no status")?;
        kids.push(status.credentials.context("no credentials")?.active_kid);
    }
    stop.send(()).ok().context("the load has ended by itself")?;
    let Tally { calls, failures, longest } = loading.await??;
    let seconds = begun.elapsed().as_secs_f64();
    #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = calls as f64 / seconds;
    println!("{calls} calls in {seconds:.1} s ({rate:.0} a second), longest {longest:?}");
    ensure!(
        failures.is_empty(),
        "{} of {calls} calls failed:\n{}",
        failures.len(),
        failures[..failures.len().min(20)].join("\n")
    );
    ensure!(kids == (2..=ROTATIONS + 1).collect::<Vec<_>>(), "{kids:?}");
    ensure!(rate > 150.0, "{rate} calls a second are no load");
    shared.stop().await;
    Ok(())
}
