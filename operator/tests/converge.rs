//! What leads back to the spec when something stands in the way: taking away never waits for giving, a rotation goes on,
//! a taking over is whole, and a status that others wrote is nobody's trap.

mod harness;

use std::time::Duration;

use harness::{Operator, World, condition_of, poll, spec, store};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use storefence_devstack::key_vault::{Effect, FaultRule, Operation};
use storefence_tenancy::{
    RetailTenant,
    credentials::Slot,
    resource::{Credentials, ROTATE_ANNOTATION},
};

const RESYNC: [&str; 2] = ["--resync", "300ms"];

fn zava(stores: u64, change: &Value) -> Value {
    let names: Vec<String> = (1..=stores).map(|number| format!("Store {number}")).collect();
    let stores: Vec<_> = names.iter().zip(1..).map(|(name, number)| (name.as_str(), store(1, number))).collect();
    let mut spec = spec("zava", &stores);
    spec["rotation"] = json!({"period": "720h", "overlap": "1s"});
    for (field, value) in change.as_object().unwrap() {
        spec[field] = value.clone();
    }
    spec
}

async fn annotate(world: &World, value: &str) {
    let patch = json!({"metadata": {"annotations": {ROTATE_ANNOTATION: value}}});
    world.tenants("retail").patch("zava", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

async fn tenant(world: &World) -> RetailTenant {
    world.get("retail", "zava").await.unwrap()
}

fn credentials(tenant: &RetailTenant) -> Credentials {
    tenant.status.as_ref().unwrap().credentials.clone().unwrap()
}

/// Rotates, and waits until the former pair is gone.
async fn rotate(world: &World, operator: &Operator, value: &str) {
    annotate(world, value).await;
    settled(world, operator, value).await;
}

async fn settled(world: &World, operator: &Operator, value: &str) {
    let settled = poll(async || {
        let tenant = tenant(world).await;
        let handled = tenant.status.as_ref()?.last_rotation.as_ref()?.annotation.as_deref() == Some(value);
        let credentials = credentials(&tenant);
        (handled && (credentials.slots.len(), credentials.context_keys.len()) == (1, 1)).then_some(())
    });
    assert!(settled.await.is_some(), "{value}: {:#?}\n{}", tenant(world).await.status, operator.log());
}

const STORES: &str = "SELECT count(*) FROM fence.tenant_stores";

async fn stores_become(world: &World, operator: &Operator, wanted: u64, label: &str) {
    let gone = poll(async || (world.text(STORES).await == wanted.to_string()).then_some(()));
    assert!(gone.await.is_some(), "{label}: {} stores are left\n{}", world.text(STORES).await, operator.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn taking_away_never_waits_for_what_cannot_be_repaired() {
    let world = World::start().await;
    let operator = world.operator_with(&RESYNC).await;
    world.apply("retail", "zava", zava(9, &json!({}))).await;
    world.ready("retail", "zava").await;
    let login = world.login("zava").await;
    world.execute("CREATE ROLE mallory").await;
    // Each is the superuser's to undo: what is done, the reason that names it, and what undoes it.
    let obstacles = [
        (format!("GRANT {login} TO mallory"), "mallory", format!("REVOKE {login} FROM mallory")),
        (format!("ALTER ROLE {login} BYPASSRLS"), "NOBYPASSRLS", format!("ALTER ROLE {login} NOBYPASSRLS")),
        (
            format!("GRANT pg_read_all_stats TO {login}"),
            "pg_read_all_stats",
            format!("REVOKE pg_read_all_stats FROM {login}"),
        ),
        (
            format!("CREATE TABLE public.mine (x int); ALTER TABLE public.mine OWNER TO {login}"),
            "owner of table mine",
            "DROP TABLE public.mine".to_owned(),
        ),
        (
            format!("ALTER ROLE {login} SET log_min_duration_statement = 0"),
            "log_min_duration_statement",
            format!("ALTER ROLE {login} RESET log_min_duration_statement"),
        ),
    ];
    let mut left = 9;
    for (obstacle, word, undo) in &obstacles {
        world.execute(obstacle).await;
        left -= 1;
        world.apply("retail", "zava", zava(left, &json!({}))).await;
        stores_become(&world, &operator, left, obstacle).await;
        let told = poll(async || {
            let tenant = tenant(&world).await;
            let ready = condition_of(&tenant, "Ready")?;
            let drifted = condition_of(&tenant, "Drifted")?;
            (ready.status == "False" && ready.message.contains(word) && drifted.status == "True").then_some(())
        });
        assert!(told.await.is_some(), "{obstacle}: {:#?}", tenant(&world).await.status);
        world.execute(undo).await;
        world.ready("retail", "zava").await;
    }
    // With all of it at once a leaked credential can still be replaced; the grant stays in the way of the former login.
    world.execute(&obstacles[0].0).await;
    rotate(&world, &operator, "one").await;
    let after = tenant(&world).await;
    assert_eq!(credentials(&after).active_slot, Slot::B);
    let message = &condition_of(&after, "Ready").unwrap().message;
    assert!(message.contains("a superuser can: REVOKE"), "{message}");
    let statement = message.split("a superuser can: ").nth(1).unwrap();
    world.execute(statement).await;
    world.ready("retail", "zava").await;

    // Nor for Key Vault.
    world
        .vault
        .inject(FaultRule::new(Effect::Status(503, "ServiceUnavailable".to_owned())).on(Operation::Get).always());
    left -= 1;
    world.apply("retail", "zava", zava(left, &json!({}))).await;
    stores_become(&world, &operator, left, "Key Vault is away").await;
    world.vault.clear_faults();
    world.ready("retail", "zava").await;

    // Nor does the end of a tenant: the superuser has taken its login from whoever made it.
    let login = world.text("SELECT login FROM fence.logins WHERE slot = 'b'").await;
    let maker = "SELECT a.rolname || ' GRANTED BY ' || g.rolname FROM pg_auth_members m JOIN pg_roles a ON a.oid = m.member \
                 JOIN pg_roles g ON g.oid = m.grantor JOIN pg_roles r ON r.oid = m.roleid WHERE m.admin_option AND r.rolname = ";
    let maker = world.text(&format!("{maker}'{login}'")).await;
    world.execute(&format!("REVOKE {login} FROM {maker}")).await;
    world.delete("retail", "zava").await;
    let ended = "SELECT NOT enabled AND NOT EXISTS (SELECT FROM fence.context_keys) FROM fence.tenants";
    let closed = poll(async || (world.text(ended).await == "true").then_some(()));
    assert!(closed.await.is_some(), "{}", operator.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_another_tenant_keeps_nobody_from_the_others() {
    let world = World::start().await;
    let operator = world.operator_with(&RESYNC).await;
    world.apply("retail", "contoso", spec("contoso", &[("Theirs", store(2, 1))])).await;
    world.apply("retail", "zava", zava(3, &json!({}))).await;
    world.ready("retail", "contoso").await;
    world.ready("retail", "zava").await;

    let mut conflicting = zava(2, &json!({}));
    let stores = conflicting["stores"].as_array_mut().unwrap();
    stores.push(json!({"name": "Portland", "id": store(2, 1)}));
    stores.push(json!({"name": "Spokane", "id": store(1, 9)}));
    world.apply("retail", "zava", conflicting).await;
    let tenant = world.condition("retail", "zava", "Ready", "False", "ConflictingStore").await;
    let message = &condition_of(&tenant, "Ready").unwrap().message;
    assert!(message.contains("'Portland'") && message.contains("'contoso'"), "{message}");
    let own = "SELECT string_agg(store_name, ',' ORDER BY store_name) FROM fence.tenant_stores JOIN fence.tenants USING (tenant_key) WHERE tenant_id = ";
    assert_eq!(world.text(&format!("{own}'zava'")).await, "Spokane,Store 1,Store 2");
    assert_eq!(world.text(&format!("{own}'contoso'")).await, "Theirs");
    assert!(tenant.status.as_ref().unwrap().credentials.is_some());
    world.log_in("zava").await.unwrap();
    rotate(&world, &operator, "one").await;
    // Its owner lets go of it: the object stands as applied.
    world.apply("retail", "zava", zava(2, &json!({}))).await;
    world.ready("retail", "zava").await;
}

/// All passes so far, whatever they ended with.
async fn passes(operator: &Operator) -> f64 {
    let text = operator.get("/metrics").await.unwrap().1;
    let lines = text.lines().filter(|line| line.starts_with("storefence_operator_reconcile_total{"));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

async fn status_as(world: &World, manager: &str, status: &Value) {
    let body = json!({"apiVersion": "retail.storefence.dev/v1alpha1", "kind": "RetailTenant",
        "metadata": {"name": "zava"}, "status": status});
    let params = PatchParams::apply(manager).force();
    world.tenants("retail").patch_status("zava", &params, &Patch::Apply(body)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_that_a_backup_tool_or_a_person_wrote_is_made_right() {
    let world = World::start().await;
    let operator = world.operator_with(&["--resync", "1s"]).await;
    world.apply("retail", "zava", zava(1, &json!({}))).await;
    world.ready("retail", "zava").await;
    annotate(&world, "one").await;
    let both = poll(async || Some(tenant(&world).await).filter(|tenant| credentials(tenant).slots.len() == 2)).await;
    let backup = serde_json::to_value(both.unwrap().status.unwrap()).unwrap();
    settled(&world, &operator, "one").await;

    // The moment of the overlap, when two pairs were in order.
    status_as(&world, "velero", &backup).await;
    world.apply("retail", "zava", zava(1, &json!({"adoptionPolicy": "Adopt"}))).await;
    rotate(&world, &operator, "two").await;
    world.ready("retail", "zava").await;
    let (before, began) = (passes(&operator).await, std::time::Instant::now());
    tokio::time::sleep(Duration::from_secs(5)).await;
    let rate = (passes(&operator).await - before) / began.elapsed().as_secs_f64();
    assert!(rate < 2.5, "{rate} passes a second with a look each second\n{}", operator.log());
    let found = credentials(&tenant(&world).await);
    assert_eq!((found.slots.len(), found.context_keys.len()), (1, 1), "{found:#?}");

    // Somebody's editor: fields that are his alone would stay without the others that belong to them.
    let slot = |slot: &str, retires: Value| json!({"slot": slot, "login": "sf_somebody", "secretName": "x", "secretVersion": "y", "setAt": "2026-01-01T00:00:00Z", "retiresAt": retires});
    let time = "2026-01-01T00:00:00Z";
    status_as(
        &world,
        "editor",
        &json!({
            "conditions": [{"type": "Strange", "status": "True", "reason": "Mine", "message": "", "lastTransitionTime": time}],
            "credentials": {"activeSlot": found.active_slot, "activeKid": found.active_kid,
                "slots": [slot("a", json!(time)), slot("b", json!(time))],
                "contextKeys": [{"kid": 77, "secretName": "sf-zava-context-77", "secretVersion": "y", "createdAt": time, "notAfter": time}]},
            "lastRotation": {"annotation": "mine", "time": time},
        }),
    )
    .await;
    rotate(&world, &operator, "three").await;
    let right = poll(async || {
        let tenant = tenant(&world).await;
        let status = tenant.status.as_ref()?;
        let found = credentials(&tenant);
        let ours = status.conditions.iter().all(|condition| condition.type_ != "Strange");
        let kids: Vec<u32> = found.context_keys.iter().map(|key| key.kid).collect();
        (ours && kids == [found.active_kid] && found.slots.len() == 1).then_some(())
    });
    assert!(right.await.is_some(), "{:#?}\n{}", tenant(&world).await.status, operator.log());
    world.ready("retail", "zava").await;
    let uri = world.vault.secret(&format!("sf-zava-db-{}", credentials(&tenant(&world).await).active_slot)).unwrap();
    assert!(uri.enabled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_is_asked_for_in_an_overlap_says_when_it_begins_and_a_shorter_overlap_brings_it_on() {
    let world = World::start().await;
    let operator = world.operator_with(&RESYNC).await;
    let rotation = |overlap: &str| json!({"rotation": {"period": "720h", "overlap": overlap}});
    world.apply("retail", "zava", zava(1, &rotation("24h"))).await;
    world.ready("retail", "zava").await;
    annotate(&world, "one").await;
    let end = poll(async || credentials(&tenant(&world).await).slots.iter().find_map(|slot| slot.retires_at.clone()));
    let end = end.await.unwrap_or_else(|| panic!("{}", operator.log()));
    annotate(&world, "two").await;
    let told = poll(async || {
        let tenant = tenant(&world).await;
        let message = &condition_of(&tenant, "SecretsReady")?.message;
        (message.contains(&end.0.to_string()) && message.contains("asked for since then")).then_some(())
    });
    assert!(told.await.is_some(), "{:#?}", tenant(&world).await.status);
    assert_eq!(credentials(&tenant(&world).await).active_kid, 2);
    world.apply("retail", "zava", zava(1, &rotation("1s"))).await;
    settled(&world, &operator, "two").await;
    assert_eq!(credentials(&tenant(&world).await).active_kid, 3);
}

/// Secrets that would let somebody in.
fn enabled(world: &World) -> Vec<String> {
    let usable = |name: &String| world.vault.versions(name).iter().any(|version| version.enabled);
    world.vault.names().into_iter().filter(usable).collect()
}

/// An object that comes after one that was let go, with `before` done to the first one.
async fn taken_over(overlap: &str, before: Option<&str>, expected: u32) {
    let world = World::start().await;
    let operator = world.operator_with(&RESYNC).await;
    let spec = |adoption: &str| {
        let rotation = json!({"period": "720h", "overlap": overlap});
        zava(1, &json!({"deletionPolicy": "Retain", "adoptionPolicy": adoption, "rotation": rotation}))
    };
    world.apply("retail", "zava", spec("Never")).await;
    world.ready("retail", "zava").await;
    if let Some(value) = before {
        annotate(&world, value).await;
        let switched = poll(async || {
            let found = credentials(&tenant(&world).await);
            (found.active_kid == expected && (overlap != "1s" || found.slots.len() == 1)).then_some(())
        });
        assert!(switched.await.is_some(), "{}", operator.log());
        // Until nothing is left to do of that step.
        world.ready("retail", "zava").await;
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    world.delete("retail", "zava").await;
    world.gone("retail", "zava").await;
    world.apply("retail", "zava", spec("Adopt")).await;
    world.ready("retail", "zava").await;
    let adopted = credentials(&tenant(&world).await);
    assert_eq!(adopted.active_kid, expected, "the pair in force stays");
    let uid = tenant(&world).await.metadata.uid.unwrap();
    let names = enabled(&world);
    assert_eq!(names.len(), 2, "only the pair in force is of any use: {names:?}");
    for name in names {
        assert_eq!(world.vault.secret(&name).unwrap().tags["storefence-uid"], uid, "{name}");
    }
    world.apply("retail", "zava", spec("Never")).await;
    world.ready("retail", "zava").await;
    annotate(&world, "after").await;
    let rotated = poll(async || (credentials(&tenant(&world).await).active_kid == expected + 1).then_some(()));
    assert!(rotated.await.is_some(), "{:#?}\n{}", tenant(&world).await.status, operator.log());
    world.ready("retail", "zava").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_takes_over_takes_over_all_of_it() {
    taken_over("1s", Some("odd"), 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_takes_over_in_an_overlap_takes_over_both_pairs() {
    taken_over("24h", Some("odd"), 2).await;
}

/// A status that is lost, as by a backup tool that restores objects without theirs.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_status_is_lost_keeps_its_pair() {
    let world = World::start().await;
    let operator = world.operator_with(&RESYNC).await;
    world.apply("retail", "zava", zava(1, &json!({}))).await;
    world.ready("retail", "zava").await;
    rotate(&world, &operator, "one").await;
    let secret = world.vault.secret("sf-zava-db-b").unwrap().version;
    let patch = json!([{"op": "remove", "path": "/status"}]);
    let patch = Patch::<()>::Json(serde_json::from_value(patch).unwrap());
    world.tenants("retail").patch_status("zava", &PatchParams::default(), &patch).await.unwrap();
    world.ready("retail", "zava").await;
    let found = credentials(&tenant(&world).await);
    assert_eq!((found.active_slot, found.active_kid), (Slot::B, 2));
    assert_eq!(world.vault.secret("sf-zava-db-b").unwrap().version, secret, "what works is kept");
}
