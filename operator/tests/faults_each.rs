//! Every failure of a backend at every place: each costs its tenant some time and nothing else.

mod harness;

use std::time::{Duration, Instant};

use harness::{OPERATOR, World, condition_of, poll, spec, store};
use storefence_devstack::{
    key_vault::{Effect, FaultRule, Operation},
    kube_api::Match,
};

async fn apply(world: &World, name: &str, number: u64) {
    world.apply("retail", name, spec(name, &[("Seattle", store(number, 1))])).await;
}

/// A session that holds what the operator needs, as a long migration or a dump would.
async fn hold(world: &World, lock: &str) -> tokio_postgres::Client {
    let session = world.sql().await;
    session.batch_execute(&format!("BEGIN; {lock}")).await.unwrap();
    session
}

#[tokio::test(flavor = "multi_thread")]
async fn each_failure_of_the_vault_at_each_call_passes_by() {
    let world = World::start().await;
    let operator = world.operator().await;
    let effects = [
        Effect::Status(401, "Unauthorized".into()),
        Effect::Status(403, "Forbidden".into()),
        Effect::Status(409, "Conflict".into()),
        Effect::Throttle(1),
        Effect::Status(500, "InternalServerError".into()),
        Effect::Hang,
        Effect::HalfResponse,
    ];
    let mut tenants = Vec::new();
    for (i, effect) in effects.into_iter().enumerate() {
        for operation in [Operation::Get, Operation::GetDeleted, Operation::Set] {
            let name = format!("t{i}-{}", format!("{operation:?}").to_lowercase());
            let secret = if i % 2 == 0 { format!("sf-{name}-db-a") } else { format!("sf-{name}-context-1") };
            world.vault.inject(FaultRule::new(effect.clone()).on(operation).secret(&secret));
            tenants.push(name);
        }
    }
    for (name, number) in tenants.iter().zip(1..) {
        apply(&world, name, number).await;
    }
    for name in &tenants {
        world.ready("retail", name).await;
        world.log_in(name).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let calls = "storefence_operator_key_vault_calls_total";
    for (operation, outcome) in
        [("get", "forbidden"), ("get", "throttled"), ("set", "unavailable"), ("set", "refused"), ("get_deleted", "ok")]
    {
        let metric = format!("{calls}{{operation=\"{operation}\",outcome=\"{outcome}\"}}");
        assert!(operator.metric(&metric).await >= 1.0, "{metric}");
    }
    let keys = world.text("SELECT count(*) FROM fence.context_keys").await;
    assert_eq!(keys, tenants.len().to_string(), "each tenant has one key, whatever was written twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_killed_again_and_again_leave_nothing_half_done() {
    let world = World::start().await;
    let operator = world.operator().await;
    let killer = world.sql().await;
    let names: Vec<String> = (0..6).map(|number| format!("tenant-{number}")).collect();
    let started = Instant::now();
    let mut killed = 0_i64;
    for (name, number) in names.iter().zip(1..) {
        apply(&world, name, number).await;
    }
    while started.elapsed() < Duration::from_secs(3) {
        let kill =
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'storefence%'";
        killed += killer.query_one(kill, &[]).await.unwrap().get::<_, i64>(0);
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    assert!(killed > 10, "{killed}");
    for name in &names {
        world.ready("retail", name).await;
        world.log_in(name).await.unwrap_or_else(|error| panic!("{name}: {error}\n{}", operator.log()));
    }
    let rows = "SELECT (SELECT count(*) FROM fence.tenants) || ' ' || (SELECT count(*) FROM fence.logins) || ' ' \
                || (SELECT count(*) FROM fence.context_keys)";
    assert_eq!(world.text(rows).await, "6 12 6");
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    let free = poll(async || (world.text(locks).await == "0").then_some(()));
    assert!(free.await.is_some(), "the locks of killed sessions are gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_free_connection_is_told_and_awaited() {
    let world = World::start().await;
    let limit = |limit: i32| format!("ALTER ROLE {} CONNECTION LIMIT {limit}", world.database.admin);
    world.execute(&limit(0)).await;
    let operator = world.operator().await;
    apply(&world, "zava", 1).await;
    let zava = world.condition("retail", "zava", "Ready", "False", "DatabaseUnreachable").await;
    let message = &condition_of(&zava, "DatabaseReady").unwrap().message;
    assert!(message.contains("too many connections"), "{message}");
    world.execute(&limit(-1)).await;
    world.ready("retail", "zava").await;

    world.execute(&limit(0)).await;
    world.cluster.proxy().cut_connections();
    apply(&world, "contoso", 2).await;
    let contoso = world.condition("retail", "contoso", "Ready", "False", "DatabaseUnreachable").await;
    let message = &condition_of(&contoso, "DatabaseReady").unwrap().message;
    assert!(message.contains("connections"), "{message}");
    world.execute(&limit(-1)).await;
    world.ready("retail", "contoso").await;
    assert!(
        operator
            .metric("storefence_operator_database_calls_total{operation=\"connect\",outcome=\"unavailable\"}")
            .await
            > 0.0
    );
}

/// Not the tenant's advisory lock, but one of PostgreSQL's own, on reading and on writing.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_of_another_session_is_awaited_without_a_condition() {
    let world = World::start().await;
    let operator = world.operator().await;
    apply(&world, "first", 9).await;
    world.ready("retail", "first").await;
    for (name, number, lock) in [
        ("zava", 1, "LOCK TABLE fence.tenants IN ACCESS EXCLUSIVE MODE"),
        ("contoso", 2, "LOCK TABLE fence.tenant_stores IN SHARE MODE"),
    ] {
        let contended = "storefence_operator_reconcile_total{reason=\"LockContention\"}";
        let before = operator.metric(contended).await;
        let session = hold(&world, lock).await;
        apply(&world, name, number).await;
        let waits = poll(async || (operator.metric(contended).await > before).then_some(()));
        assert!(waits.await.is_some(), "{lock}: {}", operator.log());
        assert_eq!(world.get("retail", name).await.unwrap().status, None, "{lock}");
        session.batch_execute("ROLLBACK").await.unwrap();
        world.ready("retail", name).await;
        world.expect_events("retail", name, &["Reconciled"]).await;
    }
    let circuit = "storefence_operator_circuit_open{backend=\"database\",name=\"retail\"}";
    assert_eq!(operator.metric(circuit).await, 0.0, "a server that answers is not away");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_hangs_or_throttles_delays_one_tenant_and_no_other() {
    let world = World::start().await;
    if !world.is_stand_in("an_api_that_hangs_or_throttles_delays_one_tenant_and_no_other") {
        return;
    }
    let operator = world.operator().await;
    let faults = world.api.faults();
    let status = |name: &str| Match::any().user(OPERATOR).verb("patch").resource("retailtenants/status").name(name);
    faults.delay(status("zava"), Duration::from_secs(60));
    faults.throttle_next(status("contoso"), 1, 2);
    let throttled = Instant::now();
    apply(&world, "zava", 1).await;
    apply(&world, "contoso", 2).await;
    apply(&world, "third", 3).await;
    world.ready("retail", "third").await;
    world.ready("retail", "contoso").await;
    assert!(throttled.elapsed() >= Duration::from_secs(2), "Retry-After is kept: {:?}", throttled.elapsed());
    let failed = "storefence_operator_reconcile_total{reason=\"KubernetesError\"}";
    let told = poll(async || (operator.metric(failed).await >= 2.0).then_some(()));
    assert!(told.await.is_some(), "a call without an answer ends: {}", operator.log());
    assert!(operator.log().contains("no answer within 3000 ms"), "{}", operator.log());
    faults.clear();
    world.ready("retail", "zava").await;

    // A watch that cannot be resumed begins with a list, and nothing that came meanwhile is lost.
    for code in [410, 500, 429] {
        faults.fail_next(Match::any().user(OPERATOR).verb("watch"), 2, code);
        faults.drop_watches();
        let name = format!("after-{code}");
        apply(&world, &name, u64::from(code)).await;
        world.ready("retail", &name).await;
    }
    faults.compact_history();
    faults.fail_next(Match::any().user(OPERATOR).verb("list"), 1, 500);
    apply(&world, "last", 1000).await;
    world.ready("retail", "last").await;
}
