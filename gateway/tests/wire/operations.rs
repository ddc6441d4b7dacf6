//! Operation: changing credentials, clients and servers that go away, start, stop, metrics, logs.

use std::{process::Command, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use storefence_devstack::reference::{self, Document};
use storefence_tenancy::credentials::Slot;

use crate::{
    Tests,
    world::{CONTOSO, Gateway, World, ZAVA, until},
};

pub const ACTIVE: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'storefence-gateway' AND state = 'active'";
/// Longer than the tenant's limit of one second.
pub const SLOW: &str = "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000) b";

pub fn tests(tests: &mut Tests) {
    tests.add("slots_keys_and_passwords_change_without_a_failed_call", rotation);
    tests.add("connections_are_replaced_without_a_failed_call", recycled);
    tests.add("a_vault_that_is_away", vault_away);
    tests.add("a_database_that_is_away_fails_fast_and_comes_back", database_away);
    tests.add("readiness_names_what_is_missing_and_comes_with_it", readiness);
    tests.add("missing_configuration_stops_the_start_with_its_name", configuration);
    tests.add("metrics_have_their_names_and_bounded_labels", metrics);
}

async fn count(world: &World) -> Result<()> {
    ensure!(world.rows("head-office", "SELECT count(*) FROM retail.orders").await? == json!([[15]]));
    Ok(())
}

async fn rotation(world: Arc<World>) -> Result<()> {
    count(&world).await?;
    let sessions = async |slot: Slot| -> Result<i64> {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1";
        let login = world.login_name(&ZAVA, slot).await?;
        Ok(world.superuser().await?.query_one(sql, &[&login]).await?.get(0))
    };
    // Slot and key change in the status, as the operator changes them.
    world.context_key(&ZAVA, 2).await?;
    world.set_credentials("zava", Slot::B, 2).await?;
    until("the other login is used", Duration::from_secs(5), || async {
        count(&world).await?;
        Ok(sessions(Slot::B).await? > 0)
    })
    .await?;
    // A password that changes under the same slot: 28P01, read again, and the caller does not notice.
    world.login(&ZAVA, Slot::B, "hunter2-changed").await?;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'storefence-gateway'";
    let superuser = world.superuser().await?;
    superuser.query(end, &[]).await?;
    count(&world).await?;
    // Connections that the server ends while idle are replaced without a failed call.
    for _ in 0..5 {
        superuser.query(end, &[]).await?;
        count(&world).await?;
    }
    world.set_credentials("zava", Slot::A, 1).await?;
    until("the first login is used", Duration::from_secs(5), || async {
        count(&world).await?;
        Ok(sessions(Slot::A).await? > 0)
    })
    .await
}

async fn vault_away(world: Arc<World>) -> Result<()> {
    count(&world).await?;
    world.vault.server().set_down(true);
    // The secrets already read remain in use, for new connections too.
    let superuser = world.superuser().await?;
    superuser
        .query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'storefence-gateway'",
            &[],
        )
        .await?;
    let served = count(&world).await;
    world.vault.server().set_down(false);
    served
}

async fn database_away(world: Arc<World>) -> Result<()> {
    world.cluster.proxy().set_down(true);
    let mut fast = Duration::MAX;
    for _ in 0..4 {
        let started = std::time::Instant::now();
        let answer = world.query("head-office", "SELECT 1").await?;
        ensure!(answer.structured()["code"] == "UNAVAILABLE", "{}", answer.message);
        fast = fast.min(started.elapsed());
    }
    ensure!(fast < Duration::from_millis(200), "not once fast: {fast:?}");
    world.cluster.proxy().set_down(false);
    until("it serves again", Duration::from_secs(15), || async { Ok(count(&world).await.is_ok()) }).await
}

async fn readiness(world: Arc<World>) -> Result<()> {
    let waits_for = async |name: &str, what: &str| -> Result<Gateway> {
        let gateway = world.waiting_gateway(name).await?;
        until(&format!("it waits for {what}"), Duration::from_secs(20), || async {
            let answer = world.http.get(format!("{}/readyz", gateway.admin)).send().await?;
            Ok(answer.status() == 503 && answer.text().await? == format!("not ready: {what}\n"))
        })
        .await?;
        // It is alive and must not be killed.
        let health = world.http.get(format!("{}/healthz", gateway.admin)).send().await?;
        ensure!(health.status() == 200, "{health:?}");
        Ok(gateway)
    };
    world.kube.set_down(true);
    let gateway = waits_for("no-tenants", "tenants").await;
    world.kube.set_down(false);
    world.ready(&gateway?).await?;

    world.entra.server().set_down(true);
    let gateway = waits_for("no-keys", "signing-keys").await;
    world.entra.server().set_down(false);
    let gateway = gateway?;
    // Keys that could not be fetched are retried with growing pauses.
    until("the keys are there", Duration::from_secs(90), || async {
        Ok(world.http.get(format!("{}/readyz", gateway.admin)).send().await?.status() == 200)
    })
    .await?;
    world.ready(&gateway).await
}

async fn configuration(world: Arc<World>) -> Result<()> {
    let config = world.path("config.yaml");
    let config = config.to_str().context("a path")?;
    let all = [
        ("--config", config, "STOREFENCE_CONFIG"),
        ("--public-url", "http://localhost:1", "STOREFENCE_PUBLIC_URL"),
        ("--audience", "x", "STOREFENCE_AUDIENCE"),
        ("--scope", "api://x/y", "STOREFENCE_SCOPE"),
        ("--azure-tenant-id", "x", "AZURE_TENANT_ID"),
        ("--azure-client-id", "x", "AZURE_CLIENT_ID"),
    ];
    for (missing, _, variable) in all {
        let mut command = Command::new(env!("CARGO_BIN_EXE_storefence-gateway"));
        command.env_clear().env("AZURE_CLIENT_SECRET", "x").args(["run", "--credential", "client-secret"]);
        for (flag, value, _) in all.iter().filter(|(flag, ..)| *flag != missing) {
            command.args([flag, value]);
        }
        let output = command.output()?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(2) && text.contains(missing) && text.contains(variable),
            "{missing}: {output:?}"
        );
        ensure!(!text.contains("panicked"), "{text}");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_storefence-gateway"))
        .env_clear()
        .args(["run", "--public-url", "http://localhost:1", "--audience", "x", "--scope", "x", "--config", config])
        .args(["--authority", "http://localhost:2"])
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(2) && text.contains("STOREFENCE_AUTHORITY"), "{text}");
    let bad = world.path("bad.yaml");
    std::fs::write(&bad, "keyVaults:\n  - name: main\n    uri: https://x\n")?;
    let output = Command::new(env!("CARGO_BIN_EXE_storefence-gateway"))
        .env_clear()
        .args(["run", "--public-url", "http://localhost:1", "--audience", "x", "--scope", "x", "--config"])
        .arg(&bad)
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(2) && text.contains("uri") && text.contains("--config"), "{text}");
    Ok(())
}

async fn metrics(world: Arc<World>) -> Result<()> {
    count(&world).await?;
    world.query("head-office", "SELECT pg_sleep(1)").await?;
    let text = world.http.get(format!("{}/metrics", world.gateway.admin)).send().await?.text().await?;
    for name in [
        "mcp_server_operation_duration_seconds_bucket{error_type=\"\",gen_ai_tool_name=\"execute_sales_query\",mcp_method_name=\"tools/call\",le=\"0.01\"}",
        "mcp_queries_total{query_type=\"execute_sales_query\"}",
        "mcp_query_duration_seconds_count{outcome=\"ok\"}",
        "storefence_token_verifications_total{outcome=\"accepted\",reason=\"\"}",
        "storefence_token_cache_total{outcome=\"hit\"}",
        "storefence_gate_refusals_total{reason=\"ForbiddenName\"}",
        "storefence_database_connections{state=\"open\"}",
        "storefence_tenants{state=\"served\"} 2",
        "storefence_jwks_age_seconds",
        "storefence_rows_total",
        "mcp_server_operation_duration_seconds_count{error_type=\"\",gen_ai_tool_name=\"\",mcp_method_name=\"initialize\"}",
    ] {
        ensure!(text.contains(name), "{name} is not in\n{text}");
    }
    // Exactly the buckets of the MCP conventions.
    let series = "mcp_server_operation_duration_seconds_bucket{error_type=\"\",gen_ai_tool_name=\"execute_sales_query\",mcp_method_name=\"tools/call\",le=\"";
    let buckets: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix(series)?.split_once('"').map(|(bucket, _)| bucket)).collect();
    let conventions =
        ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1", "2", "5", "10", "30", "60", "120", "300", "+Inf"];
    ensure!(buckets == conventions, "{buckets:?}");
    // After the work of all earlier tests, the documented metrics and the exposed ones are the same.
    let families = reference::families(&text);
    for (name, family) in &families {
        ensure!(!family.help.is_empty() && !family.kind.is_empty(), "{name} has no HELP or no TYPE");
    }
    Document::new(env!("CARGO_MANIFEST_DIR"), "docs/reference/metrics.md")
        .lists("metrics of storefence-gateway", &families.into_keys().collect());
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    ensure!(series < 1500, "{series} series after a few hundred calls: some label is not bounded");
    for value in [ZAVA.id, CONTOSO.id, "Seattle", "seattle-manager"] {
        ensure!(!text.contains(&format!("\"{value}\"")), "a label holds {value}");
    }
    Ok(())
}

/// Connections are replaced every few calls and every second, under a load of several callers.
async fn recycled(world: Arc<World>) -> Result<()> {
    let args = ["--pool-max-calls", "7", "--pool-max-age", "2", "--pool-per-tenant", "3"];
    let gateway = world.another_gateway("recycled", &args).await?;
    let event = async |event: &str| {
        world.metric(&gateway, &format!("storefence_database_connection_events_total{{event=\"{event}\"}}")).await
    };
    let started = std::time::Instant::now();
    let mut callers = tokio::task::JoinSet::new();
    for principal in ["head-office", "seattle-manager", "contoso-head-office", "head-office"] {
        let client = world.client_of(&gateway, principal)?;
        callers.spawn(async move {
            let mut calls = 0_u32;
            while started.elapsed() < Duration::from_secs(3) || calls < 100 {
                let sql = json!({"postgresql_query": "SELECT count(*) FROM retail.orders"});
                let answer = client.call_tool("execute_sales_query", sql).await?;
                ensure!(answer.status == 200 && !answer.is_tool_error(), "call {calls}: {}", answer.message);
                calls += 1;
            }
            Ok(calls)
        });
    }
    let mut calls = 0;
    while let Some(done) = callers.join_next().await {
        calls += done??;
    }
    let replaced = event("recycled").await?;
    // Between 5 and 7 calls each.
    ensure!(replaced >= f64::from(calls) / 7.0 - 8.0, "{replaced} connections were replaced in {calls} calls");
    ensure!(event("opened").await? >= replaced, "more were replaced than opened");
    let cancels = world.metric(&gateway, "storefence_cancels_total{cause=\"broken\"}").await?;
    ensure!(cancels == 0.0, "{cancels} connections broke");
    // A connection lives two seconds at most, used or not.
    until("unused ones end, too", Duration::from_secs(30), || async {
        Ok(world.metric(&gateway, "storefence_database_connections{state=\"open\"}").await? == 0.0)
    })
    .await?;
    for state in ["idle", "in_use"] {
        let name = format!("storefence_database_connections{{state=\"{state}\"}}");
        ensure!(world.metric(&gateway, &name).await? == 0.0, "{name} does not count down");
    }
    Ok(())
}
