//! New credentials, by annotation and by age, with the real binary: the former ones work to the end of the overlap and
//! not beyond, and an operator that is killed anywhere in between goes on where it was.

mod harness;

use std::time::Duration;

use harness::{OPERATOR, World, condition_of, poll, spec, store};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams};
use rand::Rng;
use serde_json::json;
use storefence_devstack::{
    key_vault::{Effect, FaultRule, Operation},
    kube_api::Match,
    postgres::SslMode,
};
use storefence_tenancy::{
    RetailTenant,
    credentials::Slot,
    resource::{Credentials, ROTATE_ANNOTATION},
};

async fn apply(world: &World, period: &str, overlap: &str) {
    let mut spec = spec("zava", &[("Seattle", store(1, 1))]);
    spec["rotation"] = json!({"period": period, "overlap": overlap});
    world.apply("retail", "zava", spec).await;
    world.ready("retail", "zava").await;
}

async fn annotate(world: &World, value: &str) {
    let patch = json!({"metadata": {"annotations": {ROTATE_ANNOTATION: value}}});
    let tenants = world.tenants("retail");
    tenants.patch("zava", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

async fn tenant(world: &World) -> RetailTenant {
    world.get("retail", "zava").await.unwrap()
}

fn credentials(tenant: &RetailTenant) -> Credentials {
    tenant.status.as_ref().unwrap().credentials.clone().unwrap()
}

/// Whether the annotation's value is handled and the former credentials are gone.
fn settled(tenant: &RetailTenant, value: &str) -> bool {
    let last = tenant.status.as_ref().and_then(|status| status.last_rotation.as_ref());
    let credentials = credentials(tenant);
    last.is_some_and(|last| last.annotation.as_deref() == Some(value))
        && (credentials.slots.len(), credentials.context_keys.len()) == (1, 1)
}

/// Connects with a secret's URI, past the TLS proxy.
async fn connect(world: &World, uri: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let url = url::Url::parse(uri).unwrap();
    let direct = world.cluster.url(url.username(), url.password().unwrap(), "retail", SslMode::Disable);
    let (client, connection) = tokio_postgres::connect(&direct, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

fn uri(world: &World, slot: Slot) -> String {
    world.vault.secret(&format!("sf-zava-db-{slot}")).unwrap().value
}

#[tokio::test(flavor = "multi_thread")]
async fn an_annotation_rotates_and_the_old_password_is_refused_after_the_overlap() {
    let world = World::start().await;
    let operator = world.operator().await;
    apply(&world, "720h", "4s").await;
    let old = uri(&world, Slot::A);
    let session = connect(&world, &old).await.unwrap();

    annotate(&world, "one").await;
    let switched = poll(async || Some(tenant(&world).await).filter(|t| credentials(t).active_slot == Slot::B)).await;
    let switched = switched.unwrap_or_else(|| panic!("{}", operator.log()));
    connect(&world, &old).await.expect("the former login works beside the new one");
    let new = uri(&world, Slot::B);
    connect(&world, &new).await.unwrap();
    let both = credentials(&switched);
    assert_eq!((both.active_kid, both.slots.len(), both.context_keys.len()), (2, 2, 2));
    let end = both.slots[0].retires_at.clone().unwrap();
    assert_eq!(both.context_keys[0].not_after.as_ref(), Some(&end));
    assert_eq!(
        end.0.as_second(),
        switched.status.as_ref().unwrap().last_rotation.as_ref().unwrap().time.0.as_second() + 5
    );
    assert_eq!(condition_of(&switched, "SecretsReady").unwrap().reason, "RotationInProgress");
    assert_eq!(condition_of(&switched, "Ready").unwrap().status, "True");
    let ends = "SELECT string_agg(kid || ' ' || coalesce(extract(epoch FROM not_after)::bigint::text, 'open'), ';' ORDER BY kid) FROM fence.context_keys";
    let expected = format!("1 {};2 open", end.0.as_second());
    let told = poll(async || (world.text(ends).await == expected).then_some(()));
    assert!(told.await.is_some(), "{}", world.text(ends).await);

    let done = poll(async || Some(tenant(&world).await).filter(|t| settled(t, "one"))).await;
    let done = done.unwrap_or_else(|| panic!("{}", operator.log()));
    assert!(session.query("SELECT 1", &[]).await.is_err(), "the old session has ended");
    assert!(connect(&world, &old).await.is_err(), "the old password is refused");
    world.execute(&format!("ALTER ROLE {} LOGIN", both.slots[0].login)).await;
    assert!(connect(&world, &old).await.is_err(), "and would be, if the login were let in again");
    connect(&world, &new).await.unwrap();
    for name in ["sf-zava-db-a", "sf-zava-context-1"] {
        assert!(world.vault.versions(name).iter().all(|version| !version.enabled), "{name}");
    }
    assert_eq!(world.text("SELECT string_agg(kid::text, ',') FROM fence.context_keys").await, "2");
    assert_eq!(condition_of(&done, "SecretsReady").unwrap().reason, "Reconciled");
    // A second event of the same words counts in the first one.
    world.expect_events("retail", "zava", &["Reconciled", "RotationInProgress"]).await;
    assert_eq!(operator.metric("storefence_operator_rotations_total{outcome=\"ok\"}").await, 1.0);
    assert_eq!(operator.metric("storefence_operator_rotations_total{outcome=\"error\"}").await, 0.0);
    assert_eq!(operator.metric("storefence_operator_rotation_overdue_seconds").await, 0.0);

    // And back to the first slot, with a password of its own.
    annotate(&world, "two").await;
    let back = poll(async || settled(&tenant(&world).await, "two").then_some(())).await;
    assert!(back.is_some(), "{}", operator.log());
    assert_eq!(credentials(&tenant(&world).await).active_slot, Slot::A);
    assert_ne!(uri(&world, Slot::A), old);
    connect(&world, &uri(&world, Slot::A)).await.unwrap();
    assert!(connect(&world, &old).await.is_err() && connect(&world, &new).await.is_err());
    // What an object leaves behind when it goes holds for the slot in use as well.
    world.delete("retail", "zava").await;
    world.gone("retail", "zava").await;
    for name in world.vault.names() {
        assert!(world.vault.versions(&name).iter().all(|version| !version.enabled), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn age_rotates_without_being_asked() {
    let world = World::start().await;
    let operator = world.operator().await;
    apply(&world, "1h", "1s").await;
    assert!(operator.stop().await.success());
    for kid in [2, 3] {
        grow_older(&world, Duration::from_secs(3601)).await;
        let operator = world.operator().await;
        let rotated = poll(async || {
            let found = credentials(&tenant(&world).await);
            ((found.active_kid, found.slots.len()) == (kid, 1)).then_some(found)
        });
        let rotated = rotated.await.unwrap_or_else(|| panic!("{}", operator.log()));
        assert_eq!(rotated.active_slot, if kid == 2 { Slot::B } else { Slot::A });
        assert_eq!(tenant(&world).await.status.unwrap().last_rotation.unwrap().annotation, None);
        assert_eq!(operator.metric("storefence_operator_rotations_total{outcome=\"ok\"}").await, 1.0);
        assert!(operator.stop().await.success());
    }
}

/// As if the credentials had been made earlier: the status says so, in the operator's own name. No operator may run.
async fn grow_older(world: &World, by: Duration) {
    let mut status = tenant(world).await.status.unwrap();
    let earlier = |time: &mut Time| time.0 -= by;
    status.last_rotation.iter_mut().for_each(|last| earlier(&mut last.time));
    status.credentials.iter_mut().flat_map(|found| &mut found.slots).for_each(|slot| earlier(&mut slot.set_at));
    let body = json!({
        "apiVersion": "retail.storefence.dev/v1alpha1", "kind": "RetailTenant", "metadata": {"name": "zava"}, "status": status,
    });
    let params = PatchParams::apply("storefence-operator").force();
    world.tenants("retail").patch_status("zava", &params, &Patch::Apply(body)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_refuses_holds_the_rotation_and_not_the_tenant() {
    let world = World::start().await;
    let operator = world.operator().await;
    apply(&world, "720h", "1s").await;
    let old = uri(&world, Slot::A);
    world
        .vault
        .inject(FaultRule::new(Effect::Status(503, "ServiceUnavailable".to_owned())).on(Operation::Set).always());
    annotate(&world, "one").await;
    world.condition("retail", "zava", "Ready", "False", "KeyVaultUnreachable").await;
    let failed = "storefence_operator_rotations_total{outcome=\"error\"}";
    assert!(operator.metric(failed).await >= 1.0);
    assert_eq!(credentials(&tenant(&world).await).active_slot, Slot::A);
    connect(&world, &old).await.unwrap();
    world.vault.clear_faults();
    let done = poll(async || settled(&tenant(&world).await, "one").then_some(())).await;
    assert!(done.is_some(), "{}", operator.log());
}

/// What callers rely on at any moment: the login that the status names lets in, its key is accepted, and there are two
/// keys at most. A status that changes during the look says nothing.
async fn check(world: &World) {
    let before = credentials(&tenant(world).await);
    let uri = uri(world, before.active_slot);
    let outcome = connect(world, &uri).await;
    let kids = world
        .text(&format!(
            "SELECT count(*) FILTER (WHERE kid = {} AND (not_after IS NULL OR not_after > now())) || ' of ' || count(*) FROM fence.context_keys",
            before.active_kid
        ))
        .await;
    let after = credentials(&tenant(world).await);
    if (before.active_slot, before.active_kid) == (after.active_slot, after.active_kid) {
        outcome.unwrap_or_else(|error| panic!("slot {}: {error}", before.active_slot));
        assert!(["1 of 1", "1 of 2"].contains(&kids.as_str()), "{kids}");
    }
}

/// SIGKILL wherever the operator happens to be, again and again until the rotation is through.
#[tokio::test(flavor = "multi_thread")]
async fn killed_between_any_two_steps_the_next_one_resumes() {
    let world = World::start().await;
    let first = world.operator().await;
    apply(&world, "720h", "1s").await;
    first.kill();
    // Room to be killed in.
    let slow = Duration::from_millis(15);
    for operation in [Operation::Get, Operation::Set, Operation::Update, Operation::ListVersions] {
        world.vault.inject(FaultRule::new(Effect::Slow(slow)).on(operation).always());
    }
    world.api.faults().delay(Match::any().verb("patch"), slow);
    for value in ["one", "two", "three"] {
        let old = uri(&world, credentials(&tenant(&world).await).active_slot);
        annotate(&world, value).await;
        let mut kills = 0;
        while !settled(&tenant(&world).await, value) {
            let operator = world.operator().await;
            let life = rand::rng().random_range(0..150 + 25 * kills);
            tokio::time::sleep(Duration::from_millis(life)).await;
            operator.kill();
            check(&world).await;
            kills += 1;
            assert!(kills < 60, "{:#?}", tenant(&world).await.status);
        }
        println!("{value}: {kills} kills");
        check(&world).await;
        assert!(connect(&world, &old).await.is_err(), "the old password is refused");
    }
    // Nothing is left over but the pair in force.
    let _operator = world.operator().await;
    world.ready("retail", "zava").await;
    assert_eq!(world.text("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'sf\\_%' AND rolcanlogin").await, "1");
    assert_eq!(in_force(&world).await, enabled(&world));
}

/// The secrets that the status names.
async fn in_force(world: &World) -> Vec<String> {
    let found = credentials(&tenant(world).await);
    let keys = found.context_keys.iter().map(|key| key.secret_name.clone());
    keys.chain(found.slots.iter().map(|slot| slot.secret_name.clone())).collect()
}

/// The secrets that somebody could use.
fn enabled(world: &World) -> Vec<String> {
    let usable = |name: &String| world.vault.secret(name).is_some_and(|secret| secret.enabled);
    world.vault.names().into_iter().filter(usable).collect()
}

/// Where a rotation is: what the status records of it, and whether the end of the overlap has come.
#[derive(Debug, PartialEq)]
struct Phase {
    in_progress: bool,
    active: u32,
    keys: usize,
    over: bool,
}

impl Phase {
    fn of(tenant: &RetailTenant) -> Self {
        let found = credentials(tenant);
        let over =
            |end: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Time| end.0 <= k8s_openapi::jiff::Timestamp::now();
        Self {
            in_progress: tenant.status.as_ref().is_some_and(|status| status.rotation.is_some()),
            active: found.active_kid,
            keys: found.context_keys.len(),
            over: found.context_keys.iter().filter_map(|key| key.not_after.as_ref()).any(over),
        }
    }
}

/// Where an operator was held when it was killed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Held {
    Vault(u64),
    Database,
    Status,
    /// Not at all: the phase came to its end.
    Through,
}

fn calls(world: &World) -> u64 {
    use Operation::{Get, GetDeleted, ListVersions, Set, Update};
    [Get, GetDeleted, ListVersions, Set, Update].map(|operation| world.vault.calls(operation)).iter().sum()
}

/// Starts an operator that is held at the given call to Key Vault, or before that at a write to the database (with
/// `locked`) or at the status, and kills it there.
async fn run_until_held(world: &World, phase: &Phase, at: u64, locked: bool) -> Held {
    const WAITING: &str = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    let lock = world.sql().await;
    if locked {
        // Who reads the keys goes on, who writes them waits.
        lock.batch_execute("BEGIN; LOCK TABLE fence.context_keys IN SHARE ROW EXCLUSIVE MODE").await.unwrap();
    }
    world.vault.clear_faults();
    world.vault.reset_calls();
    world.vault.inject(FaultRule::new(Effect::Hang).after(at).always());
    world.api.counters().reset();
    let status = Match::any().user(OPERATOR).verb("patch").resource("retailtenants/status");
    world.api.faults().delay(status, Duration::from_secs(30));
    // Nothing that is held is given up before it is found.
    let operator = world.operator_with(&["--call-timeout", "120s", "--resync", "300ms"]).await;
    let held = poll(async || {
        if calls(world) > at {
            Some(Held::Vault(at))
        } else if world.api.counters().get("patch", "retailtenants/status") > 0 {
            Some(Held::Status)
        } else if locked && world.text(WAITING).await != "0" {
            Some(Held::Database)
        } else {
            (Phase::of(&tenant(world).await) != *phase).then_some(Held::Through)
        }
    });
    let held = held.await.unwrap_or_else(|| panic!("neither held nor through: {phase:?}\n{}", operator.log()));
    operator.kill();
    // What it was about to do is not done by its sessions either.
    let sessions =
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'storefence%'";
    let ended = poll(async || (world.text(sessions).await == "0").then_some(()));
    assert!(ended.await.is_some(), "sessions of the killed operator are left");
    world.api.faults().clear();
    drop(lock);
    held
}

/// The same with nothing left to chance: in every phase of a rotation the operator is killed at each call to Key Vault in
/// turn, with its transaction waiting, and with the status on its way.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_each_step_in_turn_the_next_one_resumes() {
    let world = World::start().await;
    if !world.is_stand_in("killed_at_each_step_in_turn_the_next_one_resumes") {
        return;
    }
    let first = world.operator().await;
    apply(&world, "720h", "20s").await;
    first.kill();
    let old = uri(&world, Slot::A);
    annotate(&world, "one").await;
    let mut kills = Vec::new();
    while !settled(&tenant(&world).await, "one") {
        let phase = Phase::of(&tenant(&world).await);
        // With the database's part first held and then done.
        for locked in [true, false] {
            let (mut at, mut again) = (0, false);
            loop {
                let held = run_until_held(&world, &phase, at, locked).await;
                kills.push(held);
                check(&world).await;
                if !matches!(held, Held::Vault(_)) {
                    break;
                }
                // What this one wrote the next one need not write: another call then has this number.
                again = !again && world.vault.writes() > 0;
                at += u64::from(!again);
                assert!(at < 40, "{phase:?}: {kills:?}");
            }
            if kills.last() != Some(&Held::Database) {
                break;
            }
        }
        println!("{phase:?}: killed at {kills:?}");
        kills.clear();
        // On to the next phase, and not further.
        world.vault.clear_faults();
        let operator = world.operator_with(&["--resync", "300ms"]).await;
        let next = poll(async || {
            let tenant = tenant(&world).await;
            (Phase::of(&tenant) != phase || settled(&tenant, "one")).then_some(())
        });
        assert!(next.await.is_some(), "{phase:?}\n{}", operator.log());
        operator.kill();
    }
    check(&world).await;
    assert!(connect(&world, &old).await.is_err(), "the old password is refused");
    let _operator = world.operator().await;
    world.ready("retail", "zava").await;
    assert_eq!(in_force(&world).await, enabled(&world), "nothing is left over but the pair in force");
}
