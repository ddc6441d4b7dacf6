//! Shutdown: not ready, calls in progress finish, the rest is cancelled on the server, exit code 0.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use storefence_devstack::process::Signal;
use tokio::task::JoinHandle;

use crate::{
    Tests,
    operations::{ACTIVE, SLOW},
    world::{Gateway, World, ZAVA, until},
};

pub fn tests(tests: &mut Tests) {
    tests.add("sigterm_drains_and_exits_zero", drained);
    tests.add("what_outlives_the_drain_is_cancelled_at_the_server", cut_off);
}

/// Starts a statement that does not end without a cancel.
async fn calling(world: &World, gateway: &Gateway) -> Result<JoinHandle<Result<Value>>> {
    let client = world.client_of(gateway, "head-office")?;
    let call = json!({"name": "execute_sales_query", "arguments": {"postgresql_query": SLOW}});
    let calling = tokio::spawn(async move { Ok(client.send("tools/call", call).await?.message) });
    let database = world.superuser().await?;
    until("the statement runs", Duration::from_secs(5), || async {
        Ok(database.query_one(ACTIVE, &[]).await?.get::<_, i64>(0) > 0)
    })
    .await?;
    Ok(calling)
}

async fn exits_with_zero(gateway: &mut Gateway) -> Result<()> {
    let status = gateway.child.wait(Duration::from_secs(20)).await?.context("it did not end")?;
    ensure!(status.code() == Some(0), "{status}");
    Ok(())
}

/// Checks readiness as a load balancer does, on a port that must still answer in order to report "not ready".
async fn drained(world: Arc<World>) -> Result<()> {
    // Long enough to be observed during the drain, and ended by the tenant's own limit.
    world.limits(&ZAVA, "head-office", Some(json!({"statementTimeout": "4s"}))).await?;
    let mut gateway = world.another_gateway("drain", &["--drain", "20"]).await?;
    let calling = calling(&world, &gateway).await?;
    let ready = async || -> Result<(u16, String)> {
        let answer = world.http.get(format!("{}/readyz", gateway.admin)).send().await.context("no answer at all")?;
        Ok((answer.status().as_u16(), answer.text().await?))
    };
    ensure!(ready().await?.0 == 200, "not ready before the signal");
    gateway.child.signal(Signal::Term);
    until("not ready", Duration::from_secs(2), || async { Ok(ready().await?.0 == 503) }).await?;
    let mut told = 0;
    let started = std::time::Instant::now();
    while started.elapsed() < Duration::from_secs(2) {
        let (status, text) = ready().await.context("while a call is under way")?;
        ensure!(status == 503 && text == "not ready: draining\n", "{status} {text}");
        ensure!(!calling.is_finished(), "the call was over before the drain could be looked at");
        told += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    ensure!(told >= 3, "asked {told} times");
    let answer = calling.await??;
    let code = &answer["result"]["structuredContent"]["code"];
    ensure!(code == "QUERY_TIMEOUT", "the call under way was not finished: {answer}");
    exits_with_zero(&mut gateway).await?;
    world.limits(&ZAVA, "head-office", None).await
}

async fn cut_off(world: Arc<World>) -> Result<()> {
    world.limits(&ZAVA, "head-office", Some(json!({"statementTimeout": "30s"}))).await?;
    let mut gateway = world.another_gateway("cut", &["--drain", "1"]).await?;
    let calling = calling(&world, &gateway).await?;
    gateway.child.signal(Signal::Term);
    exits_with_zero(&mut gateway).await?;
    // Cancelled, rather than ended later when the server notices the closed socket.
    let database = world.superuser().await?;
    ensure!(database.query_one(ACTIVE, &[]).await?.get::<_, i64>(0) == 0, "the gateway has ended before the statement");
    let _ = calling.await;
    world.limits(&ZAVA, "head-office", None).await
}
