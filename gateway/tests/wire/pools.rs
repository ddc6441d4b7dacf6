//! Connections to the database: how many, how long, and what happens if none is available.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use storefence_devstack::mcp_client::McpClient;
use storefence_tenancy::credentials::{Slot, database_secret_name};
use tokio::net::TcpListener;

use crate::{
    Tests,
    stuck::run as ask,
    world::{CONTOSO, Gateway, World, ZAVA, free_port, until},
};

pub fn tests(tests: &mut Tests) {
    tests.add("connections_are_opened_on_first_use_and_closed_when_idle", idle);
    tests.add("one_connection_for_all_serves_tenants_in_turn", budget);
    tests.add("a_tenant_whose_database_refuses_touches_no_other", refusing);
    tests.add("a_tenant_whose_database_hangs_fails_fast_and_touches_no_other", hanging);
    tests.add("a_vault_that_hangs_fails_fast_and_a_rotation_waits_for_it", vault_hangs);
}

const COUNT: &str = "SELECT count(*) FROM retail.orders";

/// Waits until a tenant whose database or vault is down fails without waiting, while another one is served.
async fn fails_at_once(away: &McpClient, served: &McpClient, limit: Duration) -> Result<()> {
    let quick = async || {
        let begun = Instant::now();
        let answer = ask(away, COUNT).await?;
        ensure!(answer["code"] == "UNAVAILABLE", "{answer}");
        is_served(served, 15).await?;
        Ok(begun.elapsed() < Duration::from_millis(700))
    };
    until("calls fail at once", limit, quick).await
}

async fn is_served(client: &McpClient, orders: i64) -> Result<()> {
    let answer = ask(client, COUNT).await?;
    ensure!(answer["rows"] == json!([[orders]]), "{answer}");
    Ok(())
}

async fn connections(world: &World, gateway: &Gateway, state: &str) -> Result<f64> {
    world.metric(gateway, &format!("storefence_database_connections{{state=\"{state}\"}}")).await
}

async fn idle(world: Arc<World>) -> Result<()> {
    let gateway = world.another_gateway("idle", &["--pool-idle", "2"]).await?;
    let open = async || connections(&world, &gateway, "open").await;
    let (zava, contoso) =
        (world.client_of(&gateway, "head-office")?, world.client_of(&gateway, "contoso-head-office")?);
    zava.call_tool("get_current_utc_date", json!({})).await?;
    ensure!(open().await? == 0.0, "a connection that nobody needed");
    is_served(&zava, 15).await?;
    ensure!(open().await? == 1.0, "{} connections for one call", open().await?);
    is_served(&contoso, 6).await?;
    is_served(&zava, 15).await?;
    ensure!(open().await? <= 2.0, "{} connections for one call at a time of two tenants", open().await?);
    until("unused connections are closed", Duration::from_secs(30), async || Ok(open().await? == 0.0)).await?;
    is_served(&zava, 15).await
}

/// The only connection belongs to one tenant while another one waits for it.
async fn budget(world: Arc<World>) -> Result<()> {
    let gateway = world.another_gateway("budget", &["--pool-total", "1", "--pool-per-tenant", "1"]).await?;
    let (zava, contoso) =
        (world.client_of(&gateway, "head-office")?, world.client_of(&gateway, "contoso-head-office")?);
    for _ in 0..5 {
        is_served(&zava, 15).await?;
        is_served(&contoso, 6).await?;
        ensure!(connections(&world, &gateway, "open").await? <= 1.0, "more than one connection");
    }
    // While one uses it, the other waits, and gets the connection when it is returned.
    world.limits(&CONTOSO, "contoso-head-office", Some(json!({"statementTimeout": "6s"}))).await?;
    world.limits(&ZAVA, "head-office", Some(json!({"statementTimeout": "6s"}))).await?;
    let slow = "SELECT 1 + 0 * count(*) FROM generate_series(1, 6000000) g";
    for _ in 0..3 {
        let calling = tokio::spawn({
            let zava = zava.clone();
            async move { ask(&zava, slow).await }
        });
        until("the first is at work", Duration::from_secs(5), async || {
            Ok(connections(&world, &gateway, "in_use").await? > 0.0 || calling.is_finished())
        })
        .await?;
        is_served(&contoso, 6).await?;
        let first = calling.await??;
        ensure!(first["rows"] == json!([[1]]), "{first}");
    }
    // Several calls of each: nobody is refused as long as connections are returned.
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..3 {
        for (client, orders) in [(&zava, 15), (&contoso, 6)] {
            let client = client.clone();
            callers.spawn(async move {
                for _ in 0..10 {
                    is_served(&client, orders).await?;
                }
                anyhow::Ok(())
            });
        }
    }
    while let Some(done) = callers.join_next().await {
        done??;
    }
    ensure!(connections(&world, &gateway, "open").await? <= 1.0, "more than one connection");
    for (tenant, principal) in [(&CONTOSO, "contoso-head-office"), (&ZAVA, "head-office")] {
        world.limits(tenant, principal, None).await?;
    }
    Ok(())
}

/// Contoso's login at another address, on a gateway that has not read a secret yet.
async fn elsewhere(world: &World, name: &str, port: u16) -> Result<Gateway> {
    let secret = database_secret_name(&CONTOSO.tenant_id(), Slot::A);
    world.vault.put(&secret, &format!("postgresql://u:hunter2@127.0.0.1:{port}/retail?sslmode=disable"), &[]);
    world.another_gateway(name, &[]).await
}

async fn home(world: &World) -> Result<()> {
    world.login(&CONTOSO, Slot::A, "hunter2-a-contoso").await
}

async fn refusing(world: Arc<World>) -> Result<()> {
    let gateway = elsewhere(&world, "refusing", free_port()?).await?;
    let (zava, contoso) =
        (world.client_of(&gateway, "head-office")?, world.client_of(&gateway, "contoso-head-office")?);
    let mut fast = Duration::MAX;
    for _ in 0..6 {
        let begun = Instant::now();
        let answer = ask(&contoso, COUNT).await?;
        fast = fast.min(begun.elapsed());
        ensure!(answer["code"] == "UNAVAILABLE", "{answer}");
        is_served(&zava, 15).await?;
    }
    ensure!(fast < Duration::from_millis(500), "not once fast: {fast:?}");
    home(&world).await
}

async fn hanging(world: Arc<World>) -> Result<()> {
    // Connections are accepted, but nothing is sent.
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let port = silent.local_addr()?.port();
    let accepting = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = silent.accept().await {
            held.push(stream);
        }
    });
    let gateway = elsewhere(&world, "hanging", port).await?;
    let (zava, contoso) =
        (world.client_of(&gateway, "head-office")?, world.client_of(&gateway, "contoso-head-office")?);
    // More calls than the tenant may have connections, each with a timeout of a second and a half: none fails as busy.
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let contoso = contoso.clone();
        calls.spawn(async move { ask(&contoso, COUNT).await });
    }
    while let Some(answer) = calls.join_next().await {
        let answer = answer??;
        ensure!(answer["code"] == "UNAVAILABLE", "{answer}");
        is_served(&zava, 15).await?;
    }
    // After the five seconds that opening may take, nobody waits any more.
    fails_at_once(&contoso, &zava, Duration::from_secs(30)).await?;
    accepting.abort();
    home(&world).await
}

async fn vault_hangs(world: Arc<World>) -> Result<()> {
    use storefence_devstack::key_vault::{Effect, FaultRule, Operation};
    let reads = async |gateway: &Gateway, outcome: &str| {
        world.metric(gateway, &format!("storefence_secret_reads_total{{outcome=\"{outcome}\"}}")).await
    };
    // Read on first use, and once.
    let gateway = world.another_gateway("vault", &[]).await?;
    let (zava, contoso) =
        (world.client_of(&gateway, "head-office")?, world.client_of(&gateway, "contoso-head-office")?);
    ensure!(reads(&gateway, "ok").await? == 0.0, "secrets are read before anybody needs them");
    for _ in 0..5 {
        is_served(&zava, 15).await?;
    }
    ensure!(reads(&gateway, "ok").await? == 2.0, "a login and a key: {}", reads(&gateway, "ok").await?);

    // A rotation while the vault does not answer: the secrets already read remain in use, for new connections too.
    world.vault.inject(FaultRule::new(Effect::Hang).on(Operation::Get).always());
    let logins = [world.login_name(&ZAVA, Slot::A).await?, world.login_name(&ZAVA, Slot::B).await?];
    world.set_credentials("zava", Slot::B, 1).await?;
    for round in 0..8 {
        is_served(&zava, 15).await.with_context(|| format!("while the vault hangs, call {round}"))?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Callers without a secret fail, soon without waiting; the others are served.
    fails_at_once(&contoso, &zava, Duration::from_secs(60)).await?;
    ensure!(reads(&gateway, "error").await? >= 1.0, "no failure is counted");
    world.vault.clear_faults();
    until("contoso is served", Duration::from_secs(30), async || Ok(is_served(&contoso, 6).await.is_ok())).await?;
    let database = world.superuser().await?;
    let used = async |login: &String| -> Result<i64> {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1";
        Ok(database.query_one(sql, &[login]).await?.get(0))
    };
    until("the new login is used", Duration::from_secs(30), async || {
        is_served(&zava, 15).await?;
        Ok(used(&logins[1]).await? > 0)
    })
    .await?;
    world.set_credentials("zava", Slot::A, 1).await?;
    until("the first login is used", Duration::from_secs(30), async || {
        is_served(&zava, 15).await?;
        is_served(&world.client_as("head-office")?, 15).await?;
        Ok(used(&logins[0]).await? > 0)
    })
    .await
}
