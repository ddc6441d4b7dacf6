//! Whose business a login is that was given too much: its tenant's passes', and everybody's where there are none.

mod harness;

use std::time::Duration;

use harness::{World, condition_of, poll, spec, stays, store};
use serde_json::{Value, json};
use storefence_devstack::postgres::AdminKind;

async fn apply(world: &World, name: &str, number: u64, change: Value) {
    let mut spec = spec(name, &[("Seattle", store(number, 1))]);
    for (field, value) in change.as_object().unwrap() {
        spec[field] = value.clone();
    }
    world.apply("retail", name, spec).await;
}

/// Waits until the fence is reported to differ, with this text.
async fn told(world: &World, words: &[&str]) {
    let tenant = world.condition("retail", "zava", "PolicyVerified", "False", "FenceDeviation").await;
    let message = &condition_of(&tenant, "PolicyVerified").unwrap().message;
    assert!(words.iter().all(|word| message.contains(word)), "{words:?}: {message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_no_pass_looks_at_is_told_to_all_tenants_of_its_database() {
    let world = World::with(18, AdminKind::Superuser).await;
    let operator = world.operator_with(&["--resync", "200ms"]).await;
    apply(&world, "zava", 1, json!({})).await;
    apply(&world, "contoso", 2, json!({"deletionPolicy": "Retain"})).await;
    apply(&world, "fabrikam", 3, json!({"deletionPolicy": "Revoke"})).await;
    for name in ["zava", "contoso", "fabrikam"] {
        world.ready("retail", name).await;
    }
    let login = world.login("contoso").await;

    // Looked after: its own pass reports or repairs it, and no other tenant is affected.
    apply(&world, "contoso", 2, json!({"deletionPolicy": "Retain", "mode": "Observe"})).await;
    world.ready("retail", "contoso").await;
    world.execute(&format!("ALTER ROLE {login} BYPASSRLS")).await;
    world.condition("retail", "contoso", "Drifted", "True", "DriftDetected").await;
    // Longer than the fence's look may be old.
    stays(Duration::from_secs(11), async || {
        condition_of(&world.get("retail", "zava").await.unwrap(), "PolicyVerified").map(|found| found.status.clone())
    })
    .await;
    world.ready("retail", "zava").await;

    // Suspended: nobody looks at it any more.
    apply(&world, "contoso", 2, json!({"deletionPolicy": "Retain", "suspend": true})).await;
    told(&world, &[&format!("login {login}"), "BYPASSRLS"]).await;
    apply(&world, "contoso", 2, json!({"deletionPolicy": "Retain"})).await;
    world.ready("retail", "contoso").await;
    world.ready("retail", "zava").await;

    // Let go.
    world.delete("retail", "contoso").await;
    world.gone("retail", "contoso").await;
    world.execute(&format!("GRANT pg_read_all_data TO {login}")).await;
    told(&world, &[&format!("membership of {login} in pg_read_all_data")]).await;
    world.execute(&format!("REVOKE pg_read_all_data FROM {login}")).await;
    world.ready("retail", "zava").await;

    // What lets nobody in is no danger: neither a login that lacks what it needs, nor one that was revoked.
    world.execute(&format!("REVOKE fence_login FROM {login}")).await;
    let revoked = world.login("fabrikam").await;
    world.delete("retail", "fabrikam").await;
    world.gone("retail", "fabrikam").await;
    world.execute(&format!("DROP ROLE {revoked}")).await;
    stays(Duration::from_secs(11), async || {
        condition_of(&world.get("retail", "zava").await.unwrap(), "PolicyVerified").map(|found| found.status.clone())
    })
    .await;
    world.ready("retail", "zava").await;
    drop(operator);
}

/// An object's name says nothing about whose it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_named_like_a_login_is_told_like_any_other() {
    let world = World::start().await;
    let _operator = world.operator_with(&["--resync", "200ms"]).await;
    apply(&world, "zava", 1, json!({"mode": "Enforce"})).await;
    world.ready("retail", "zava").await;
    apply(&world, "zava", 1, json!({"mode": "Observe"})).await;
    world.ready("retail", "zava").await;
    let policy = "sf_0123456789ab_a";
    world.execute(&format!("CREATE POLICY {policy} ON retail.orders FOR SELECT TO PUBLIC USING (true)")).await;
    told(&world, &[policy]).await;
    // Who enforces takes it away.
    apply(&world, "zava", 1, json!({"mode": "Enforce"})).await;
    world.ready("retail", "zava").await;
    let gone = poll(async || {
        let count = format!("SELECT count(*) FROM pg_policy WHERE polname = '{policy}'");
        (world.text(&count).await == "0").then_some(())
    });
    assert!(gone.await.is_some());
}
