//! Two processes: what happens when the one that leads dies, or stands still and comes back.

mod harness;

use std::time::{Duration, Instant};

use harness::{Operator, World, poll, spec, stays, store};
use storefence_devstack::{
    key_vault::{Effect, FaultRule, Operation},
    postgres::AdminKind,
    process::Signal,
};

const LEADER: &str = "storefence_operator_leader";

async fn leads(operator: &Operator) {
    let leads = poll(async || (operator.metric(LEADER).await == 1.0).then_some(()));
    assert!(leads.await.is_some(), "{}", operator.log());
}

async fn apply(world: &World, name: &str, number: u64) {
    world.apply("retail", name, spec(name, &[("Seattle", store(number, 1))])).await;
}

/// With the lease's own default duration, from the leader's death to the next tenant's Ready.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_leader_is_replaced_within_twenty_seconds() {
    let world = World::start().await;
    let first = world.operator_with(&["--leader-elect"]).await;
    leads(&first).await;
    let second = world.operator_with(&["--leader-elect"]).await;
    apply(&world, "zava", 1).await;
    world.ready("retail", "zava").await;
    first.kill();
    let killed = Instant::now();
    apply(&world, "contoso", 2).await;
    world.ready("retail", "contoso").await;
    assert!(killed.elapsed() < Duration::from_secs(20), "{:?}\n{}", killed.elapsed(), second.log());
    assert_eq!(second.metric(LEADER).await, 1.0);
}

/// A database that is added to the configuration is migrated by the one that leads, and not by the one that stands by,
/// which reads the configuration too.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_database_is_migrated_by_the_leader_alone() {
    let world = World::start().await;
    let flags = ["--leader-elect", "--lease-duration", "90s"];
    let mut first = world.operator_with(&flags).await;
    leads(&first).await;
    let second = world.operator_with(&flags).await;
    let archive = world.cluster.create_database("archive", AdminKind::CreateRole).await.unwrap();
    // The leader is still for a moment, so that only the other one could.
    first.child.signal(Signal::Stop);
    let config = std::fs::read_to_string(world.directory.path().join("config.yaml")).unwrap();
    let (url, ca) = (&archive.admin_tls_url, world.cluster.ca_file().display());
    let entry = format!("databases:\n- name: archive\n  adminUrl: {url}\n  caFile: {ca}\n- name: retail");
    world.write("config.yaml", &config.replace("databases:\n- name: retail", &entry));
    let read = poll(async || second.log().contains("configuration reloaded").then_some(()));
    assert!(read.await.is_some(), "{}", second.log());
    let migrated = async || {
        let client = world.cluster.connect("archive").await.unwrap();
        let schema = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'fence')";
        client.query_one(schema, &[]).await.unwrap().get::<_, bool>(0)
    };
    stays(Duration::from_secs(2), &migrated).await;
    assert!(!migrated().await, "{}", second.log());

    first.child.signal(Signal::Cont);
    let done = poll(async || migrated().await.then_some(()));
    assert!(done.await.is_some(), "{}", first.log());
    assert_eq!(second.metric(LEADER).await, 0.0);
    assert!(!second.log().contains("migrated"), "{}", second.log());
}

/// The old leader stops in the middle of a pass, with the tenant's lock; the new one works for all others, waits for
/// that one, and the old one ends as soon as it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stood_still_is_fenced_by_the_lock_and_ends() {
    let world = World::start().await;
    let flags = ["--leader-elect", "--lease-duration", "3s", "--call-timeout", "20s"];
    let mut first = world.operator_with(&flags).await;
    leads(&first).await;
    let second = world.operator_with(&flags).await;

    let slow = Effect::Slow(Duration::from_secs(4));
    world.vault.inject(FaultRule::new(slow).on(Operation::Set).secret("sf-zava-db-a"));
    apply(&world, "zava", 1).await;
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    let locked = poll(async || (world.text(locks).await == "1").then_some(()));
    assert!(locked.await.is_some(), "{}", first.log());
    let writing = poll(async || (world.vault.calls(Operation::Set) > 0).then_some(()));
    assert!(writing.await.is_some(), "{}", first.log());
    first.child.signal(Signal::Stop);

    leads(&second).await;
    apply(&world, "contoso", 2).await;
    world.ready("retail", "contoso").await;
    let contended = "storefence_operator_reconcile_total{reason=\"LockContention\"}";
    let fenced = poll(async || (second.metric(contended).await >= 1.0).then_some(()));
    assert!(fenced.await.is_some(), "{}", second.log());
    assert_eq!(world.get("retail", "zava").await.unwrap().status, None, "nobody works on it beside the old leader");
    assert_eq!(world.text("SELECT count(*) FROM fence.tenants WHERE tenant_id = 'zava'").await, "0");

    first.child.signal(Signal::Cont);
    let ended = first.child.wait(Duration::from_secs(10)).await.unwrap();
    let ended = ended.unwrap_or_else(|| panic!("still runs:\n{}", first.log()));
    assert_eq!(ended.code(), Some(1), "{}", first.log());
    assert!(first.log().contains("leadership is lost"), "{}", first.log());
    world.ready("retail", "zava").await;
    world.log_in("zava").await.unwrap();
    assert_eq!(second.metric(LEADER).await, 1.0);
}

/// The old leader stops in the middle of a pass and its session is ended, so that its successor takes the tenant over.
/// When it goes on, it is between two writes: the next one is not made, in no backend.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stood_still_without_its_lock_writes_nothing_more() {
    let world = World::start().await;
    let flags = ["--leader-elect", "--lease-duration", "3s", "--call-timeout", "20s"];
    let mut first = world.operator_with(&flags).await;
    leads(&first).await;
    let second = world.operator_with(&flags).await;

    // Made at once and answered late: the leader stands still with the answer on its way.
    let slow = Effect::Slow(Duration::from_secs(2));
    world.vault.inject(FaultRule::new(slow).on(Operation::Set).secret("sf-zava-db-a"));
    apply(&world, "zava", 1).await;
    let writing = poll(async || (world.vault.calls(Operation::Set) > 0).then_some(()));
    assert!(writing.await.is_some(), "{}", first.log());
    first.child.signal(Signal::Stop);
    let written = poll(async || world.vault.secret("sf-zava-db-a"));
    assert!(written.await.is_some());
    let of_the_first = "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE locktype = 'advisory'";
    assert_eq!(world.text(of_the_first).await, "1");

    leads(&second).await;
    let tenant = world.ready("retail", "zava").await;
    world.expect_events("retail", "zava", &["Reconciled"]).await;
    let writes = world.vault.writes();
    first.child.signal(Signal::Cont);
    let ended = first.child.wait(Duration::from_secs(10)).await.unwrap();
    let ended = ended.unwrap_or_else(|| panic!("still runs:\n{}", first.log()));
    assert_eq!(ended.code(), Some(1), "{}", first.log());
    assert_eq!(world.vault.writes(), writes, "another key beside the successor's:\n{}", first.log());
    assert_eq!(world.vault.versions("sf-zava-context-1").len(), 1);
    let after = world.get("retail", "zava").await.unwrap();
    assert_eq!(after.metadata.resource_version, tenant.metadata.resource_version, "{}", first.log());
    assert_eq!(world.events("retail", "zava").await, ["Reconciled"]);
    world.log_in("zava").await.unwrap();
}

/// A leader that cannot reach the API gives up before its lease runs out, and is a follower when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_the_api_ends_in_time() {
    let world = World::start().await;
    if !world.is_stand_in("a_leader_without_the_api_ends_in_time") {
        return;
    }
    let mut only = world.operator_with(&["--leader-elect", "--lease-duration", "3s"]).await;
    leads(&only).await;
    world.api.set_down(true);
    let lost = Instant::now();
    let ended = only.child.wait(Duration::from_secs(10)).await.unwrap();
    assert!(ended.is_some_and(|status| status.code() == Some(1)), "{}", only.log());
    assert!(lost.elapsed() < Duration::from_millis(3500), "{:?}", lost.elapsed());
    world.api.set_down(false);
    let again = world.operator_with(&["--leader-elect", "--lease-duration", "3s"]).await;
    leads(&again).await;
}
