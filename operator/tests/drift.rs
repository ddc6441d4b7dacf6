//! Differences between spec and backends: repaired, reported or left alone as the spec says; reported once; and no write where
//! nothing differs, in any mode.

mod harness;

use std::time::Duration;

use harness::{OPERATOR, Operator, World, condition_of, poll, spec, stays, store};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use storefence_devstack::key_vault::SecretVersion;
use storefence_operator::migrate::MIGRATIONS;
use storefence_tenancy::{
    RetailTenant,
    resource::{DriftOutcome, DriftRecord, ROTATE_ANNOTATION},
};

const RESYNC: [&str; 2] = ["--resync", "200ms"];

fn zava(change: &Value) -> Value {
    let mut spec = spec("zava", &[("Seattle", store(1, 1))]);
    spec["gateway"] = json!({"connectionLimit": 30});
    for (field, value) in change.as_object().unwrap() {
        spec[field] = value.clone();
    }
    spec
}

async fn apply(world: &World, change: Value) {
    world.apply("retail", "zava", zava(&change)).await;
}

async fn tenant(world: &World) -> RetailTenant {
    world.get("retail", "zava").await.unwrap()
}

fn history(tenant: &RetailTenant) -> &[DriftRecord] {
    &tenant.status.as_ref().unwrap().drift_history
}

/// Waits until the newest record of the history has this change.
async fn recorded(world: &World, outcome: DriftOutcome, change: &str) -> RetailTenant {
    let found = poll(async || {
        let tenant = tenant(world).await;
        let newest = tenant.status.as_ref()?.drift_history.first()?;
        let told = newest.outcome == outcome && newest.changes.iter().any(|told| told.contains(change));
        told.then_some(tenant)
    });
    let found = found.await;
    found.unwrap_or_else(|| panic!("no {outcome:?} of '{change}'"))
}

async fn passes(operator: &Operator, more: f64) {
    let name = "storefence_operator_reconcile_total{reason=\"Reconciled\"}";
    let wanted = operator.metric(name).await + more;
    let passed = poll(async || (operator.metric(name).await >= wanted).then_some(()));
    assert!(passed.await.is_some(), "{}", operator.log());
}

/// Everything that can be changed by hand, each with the reason that reports it.
async fn spoil(world: &World) -> Vec<(String, &'static str)> {
    let login = world.login("zava").await;
    // Who made the login: the administrator, or its creator of logins.
    let maker = "SELECT grantor::regrole::text FROM pg_auth_members WHERE member = $1::text::regrole";
    let maker: String = world.sql().await.query_one(maker, &[&login]).await.unwrap().get(0);
    vec![
        (format!("ALTER ROLE {login} CREATEDB"), "set NOCREATEDB"),
        (format!("ALTER ROLE {login} SET search_path = evil"), "reset search_path"),
        (format!("ALTER ROLE {login} NOLOGIN"), "set LOGIN"),
        (format!("ALTER ROLE {login} PASSWORD 'changed'"), "set the password"),
        (format!("ALTER ROLE {login} CONNECTION LIMIT 0"), "CONNECTION LIMIT 30"),
        (format!("REVOKE fence_login FROM {login} GRANTED BY {maker}"), "member of fence_login"),
        (
            format!("CREATE ROLE mallory; SET ROLE {maker}; GRANT {login} TO mallory; RESET ROLE"),
            "revoke the membership of mallory",
        ),
        (format!("GRANT SELECT ON retail.orders TO {login}"), "revoke ALL ON TABLE retail.orders"),
        (format!("GRANT USAGE ON SCHEMA fence TO {login}"), "revoke ALL ON SCHEMA fence"),
        ("DELETE FROM fence.tenant_stores".to_owned(), "add store 'Seattle'"),
        ("UPDATE fence.tenants SET enabled = false".to_owned(), "set enabled"),
        ("DELETE FROM fence.logins".to_owned(), "add it as slot a"),
        ("UPDATE fence.context_keys SET not_after = now()".to_owned(), "take its end away"),
        ("DELETE FROM fence.context_keys".to_owned(), "set it from secret sf-zava-context-1"),
    ]
}

/// A world with a tenant that is Ready, and an operator that looks for drift all the time.
async fn ready() -> (World, Operator) {
    let world = World::start().await;
    let operator = world.operator_with(&RESYNC).await;
    apply(&world, json!({})).await;
    world.ready("retail", "zava").await;
    (world, operator)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_by_hand_is_mended_and_told() {
    let (world, operator) = ready().await;
    assert_eq!(condition_of(&tenant(&world).await, "Drifted").unwrap().status, "False");
    let spoils = spoil(&world).await;
    let count = spoils.len();
    assert!(count > 10);
    for (statement, change) in spoils {
        world.execute(&statement).await;
        let told = recorded(&world, DriftOutcome::Mended, change).await;
        let drifted = condition_of(&told, "Drifted").unwrap();
        assert_eq!((drifted.status.as_str(), drifted.reason.as_str()), ("False", "DriftMended"), "{statement}");
        assert!(drifted.message.contains("mended at"), "{}", drifted.message);
    }
    let (found, mended) =
        ("storefence_operator_drift_total{outcome=\"found\"}", "storefence_operator_drift_total{outcome=\"mended\"}");
    assert!(operator.metric(found).await >= count as f64);
    assert_eq!(operator.metric(mended).await, operator.metric(found).await);

    // In the vault: the tag, the value, the version.
    let uid = tenant(&world).await.metadata.uid.unwrap();
    let tags = [("managed-by", "storefence"), ("storefence-uid", uid.as_str())];
    let value = world.vault.secret("sf-zava-db-a").unwrap().value;
    let lose: fn(&mut SecretVersion) = |version| version.tags.clear();
    let change: fn(&mut SecretVersion) =
        |version| drop(version.tags.insert("storefence-uid".to_owned(), "somebody's".to_owned()));
    for (secret, tamper) in [("sf-zava-db-a", lose), ("sf-zava-context-1", change)] {
        world.vault.edit(secret, tamper);
        recorded(&world, DriftOutcome::Mended, &format!("secret {secret}: tag it")).await;
        assert_eq!(world.vault.secret(secret).unwrap().tags["storefence-uid"], uid);
    }
    assert_eq!(world.vault.secret("sf-zava-db-a").unwrap().value, value, "the password stays");
    world.vault.put("sf-zava-db-a", "nonsense", &tags);
    recorded(&world, DriftOutcome::Mended, "secret sf-zava-db-a: write it with a new password").await;
    world.vault.edit("sf-zava-context-1", |version| version.enabled = false);
    recorded(&world, DriftOutcome::Mended, "secret sf-zava-context-1: write it with a new key").await;
    world.delete_secret("sf-zava-db-a").await;
    recorded(&world, DriftOutcome::Mended, "secret sf-zava-db-a: recover it from deletion").await;
    let works = poll(async || world.log_in("zava").await.ok().map(drop));
    assert!(works.await.is_some(), "{}", operator.log());

    let history = history(&tenant(&world).await).to_vec();
    assert_eq!(history.len(), 10, "the last ten");
    assert!(history.windows(2).all(|pair| pair[0].time.0 >= pair[1].time.0), "the newest first");
    let events = world.events("retail", "zava").await;
    assert!(events.contains(&"DriftMended".to_owned()), "{events:?}");
    // What was repaired remains readable, and nothing more is written.
    quiet(&world, &operator).await;
}

/// Several passes, and no write anywhere.
async fn quiet(world: &World, operator: &Operator) {
    passes(operator, 2.0).await;
    let before = world.database_fingerprint().await;
    let object = tenant(world).await;
    world.vault.reset_calls();
    world.api.counters().reset();
    passes(operator, 4.0).await;
    assert_eq!(world.vault.writes(), 0);
    assert_eq!(world.api.counters().writes(Some(OPERATOR)), 0, "{:?}", world.api.counters().all());
    assert_eq!(world.database_fingerprint().await, before);
    assert_eq!(tenant(world).await, object);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_spec_and_a_rotation_are_no_drift() {
    let world = World::start().await;
    let operator = world.operator_with(&RESYNC).await;
    let rotation = json!({"period": "720h", "overlap": "1s"});
    apply(&world, json!({"rotation": rotation})).await;
    world.ready("retail", "zava").await;
    let mut changed =
        zava(&json!({"rotation": rotation, "displayName": "Zava DIY", "gateway": {"statementTimeout": "250ms"}}));
    changed["stores"] = json!([{"name": "Redmond", "id": store(1, 2)}, {"name": "Seattle", "id": store(1, 3)}]);
    world.apply("retail", "zava", changed).await;
    world.ready("retail", "zava").await;
    let patch = json!({"metadata": {"annotations": {ROTATE_ANNOTATION: "now"}}});
    world.tenants("retail").patch("zava", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    let settled = poll(async || {
        let credentials = tenant(&world).await.status?.credentials?;
        (credentials.active_kid == 2 && credentials.slots.len() == 1).then_some(())
    });
    assert!(settled.await.is_some(), "{}", operator.log());
    passes(&operator, 3.0).await;
    let after = tenant(&world).await;
    assert_eq!(history(&after), []);
    assert_eq!(condition_of(&after, "Drifted").unwrap().reason, "Reconciled");
    assert_eq!(operator.metric("storefence_operator_drift_total{outcome=\"found\"}").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn observe_reports_everything_and_writes_nothing() {
    let (world, operator) = ready().await;
    apply(&world, json!({"mode": "Observe"})).await;
    world.condition("retail", "zava", "Drifted", "False", "Reconciled").await;
    world.ready("retail", "zava").await;
    quiet(&world, &operator).await;

    let login = world.login("zava").await;
    for (statement, change) in spoil(&world).await {
        world.execute(&statement).await;
        // A password that does not work says nothing about one of a login that may not log in.
        if !change.contains("password") && !change.contains("end away") {
            recorded(&world, DriftOutcome::Reported, change).await;
        }
    }
    // Grants on the fence's own objects concern every tenant: with them, Ready reports PolicyVerified.
    world
        .execute(&format!("REVOKE SELECT ON retail.orders FROM {login}; REVOKE USAGE ON SCHEMA fence FROM {login}"))
        .await;
    world.vault.edit("sf-zava-db-a", |version| version.value = "nonsense".to_owned());
    recorded(&world, DriftOutcome::Reported, "secret sf-zava-db-a: write it").await;
    let drifted = world.condition("retail", "zava", "Drifted", "True", "DriftDetected").await;
    assert!(condition_of(&drifted, "Drifted").unwrap().message.contains("differences"));
    for type_ in ["Ready", "DatabaseReady", "SecretsReady"] {
        let condition = condition_of(&drifted, type_).unwrap();
        assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "DriftDetected"), "{type_}");
        assert!(condition.message.contains("mode"), "{}", condition.message);
    }
    assert!(drifted.status.as_ref().unwrap().credentials.is_some(), "the gateway goes on serving");
    assert_eq!(world.vault.writes(), 0);
    quiet(&world, &operator).await;
    let events = world.events("retail", "zava").await;
    assert!(events.contains(&"DriftDetected".to_owned()) && !events.contains(&"DriftMended".to_owned()), "{events:?}");

    // plan says the same, and that it stays undone.
    let document = json!({"apiVersion": "retail.storefence.dev/v1alpha1", "kind": "RetailTenant",
        "metadata": {"name": "zava", "namespace": world.namespace("retail")}, "spec": zava(&json!({"mode": "Observe"}))});
    let file = world.write("tenant.yaml", &document.to_string());
    let (code, stdout, stderr) = world.run(&["plan", "--file", file.to_str().unwrap()]);
    assert_eq!(code, Some(2), "{stderr}");
    for expected in ["mode Observe", "NOCREATEDB", "FROM mallory GRANTED BY", "secret sf-zava-db-a: write it"] {
        assert!(stdout.contains(expected), "{expected}: {stdout}");
    }

    // Neither a rotation that is due nor a changed spec makes it write.
    let before = world.database_fingerprint().await;
    let patch = json!({"metadata": {"annotations": {ROTATE_ANNOTATION: "now"}}});
    world.tenants("retail").patch("zava", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    apply(&world, json!({"mode": "Observe", "displayName": "Other"})).await;
    recorded(&world, DriftOutcome::Reported, "set display_name to 'Other'").await;
    assert_eq!(world.database_fingerprint().await, before);
    assert_eq!(world.vault.writes(), 0);

    apply(&world, json!({"mode": "Enforce"})).await;
    world.ready("retail", "zava").await;
    let told = recorded(&world, DriftOutcome::Mended, "NOCREATEDB").await;
    assert_eq!(condition_of(&told, "Drifted").unwrap().reason, "DriftMended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_tenant_that_is_only_observed_says_what_it_would_take() {
    let world = World::start().await;
    let operator = world.operator_with(&RESYNC).await;
    // The operator migrates its databases before any tenant comes.
    let migrated = poll(async || {
        let client = world.sql().await;
        let applied = client.query_one("SELECT count(*) FROM fence.schema_history WHERE success", &[]).await.ok()?;
        (applied.get::<_, i64>(0) == MIGRATIONS.len() as i64).then_some(())
    });
    assert!(migrated.await.is_some());
    let before = world.database_fingerprint().await;
    apply(&world, json!({"mode": "Observe"})).await;
    let tenant = world.condition("retail", "zava", "Drifted", "True", "DriftDetected").await;
    let message = &condition_of(&tenant, "Drifted").unwrap().message;
    assert!(message.contains("sf-zava-db-a"), "{message}");
    assert_eq!(tenant.status.unwrap().credentials, None);
    passes(&operator, 3.0).await;
    assert_eq!(world.database_fingerprint().await, before);
    assert_eq!(world.vault.writes(), 0);
    // Nothing was made, so nothing is taken away.
    world.delete("retail", "zava").await;
    world.gone("retail", "zava").await;
    assert_eq!(world.database_fingerprint().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_mended_is_named_with_what_to_do() {
    let world = World::start().await;
    let _operator = world.operator_with(&RESYNC).await;
    apply(&world, json!({})).await;
    world.ready("retail", "zava").await;
    let login = world.login("zava").await;
    world
        .execute(&format!(
            "CREATE TABLE public.mine (x int); ALTER TABLE public.mine OWNER TO {login}; ALTER ROLE {login} CREATEDB"
        ))
        .await;
    let stuck = world.condition("retail", "zava", "Ready", "False", "DependentObjects").await;
    let message = &condition_of(&stuck, "DatabaseReady").unwrap().message;
    assert!(message.contains("owner of table mine") && message.contains("REASSIGN OWNED BY"), "{message}");
    assert_eq!(condition_of(&stuck, "Drifted").unwrap().status, "True");
    let outcomes: Vec<_> = history(&stuck).iter().map(|record| record.outcome).collect();
    assert!(outcomes.contains(&DriftOutcome::Mended) && outcomes.contains(&DriftOutcome::Failed), "{outcomes:?}");
    let records = history(&tenant(&world).await).len();
    stays(Duration::from_secs(1), async || history(&tenant(&world).await).len()).await;
    assert_eq!(history(&tenant(&world).await).len(), records, "told once, however often it is found");
    world.execute("DROP TABLE public.mine").await;
    world.ready("retail", "zava").await;
    world.condition("retail", "zava", "Drifted", "False", "Reconciled").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_tenant_is_left_alone_until_it_is_resumed() {
    let (world, operator) = ready().await;
    let login = world.login("zava").await;
    apply(&world, json!({"suspend": true})).await;
    let suspended = world.condition("retail", "zava", "Suspended", "True", "Suspended").await;
    assert_eq!(condition_of(&suspended, "Ready").unwrap().status, "True", "it is served as before");
    assert!(suspended.status.as_ref().unwrap().credentials.is_some());

    world.execute(&format!("ALTER ROLE {login} CREATEDB")).await;
    apply(&world, json!({"suspend": true, "displayName": "Other"})).await;
    let before = world.database_fingerprint().await;
    world.vault.reset_calls();
    // Not even by an operator that starts over and looks at everything.
    assert!(operator.stop().await.success());
    let operator = world.operator_with(&RESYNC).await;
    stays(Duration::from_millis(1500), async || tenant(&world).await.metadata.resource_version).await;
    assert_eq!(world.database_fingerprint().await, before);
    let calls = [storefence_devstack::key_vault::Operation::Get, storefence_devstack::key_vault::Operation::Set];
    assert!(calls.iter().all(|operation| world.vault.calls(*operation) == 0));

    // A deletion waits as well, and says why.
    world.delete("retail", "zava").await;
    let held = world.condition("retail", "zava", "Ready", "False", "Suspended").await;
    assert!(condition_of(&held, "Ready").unwrap().message.contains("spec.suspend"));
    assert_eq!(condition_of(&held, "Suspended").unwrap().status, "True");
    assert_eq!(world.database_fingerprint().await, before);
    apply(&world, json!({"suspend": false})).await;
    world.gone("retail", "zava").await;
    assert_eq!(world.text("SELECT enabled FROM fence.tenants").await, "false");

    // From the beginning: nothing is made, not even a finalizer.
    world
        .apply("retail", "contoso", {
            let mut spec = spec("contoso", &[("Downtown", store(2, 1))]);
            spec["suspend"] = true.into();
            spec
        })
        .await;
    let contoso = world.condition("retail", "contoso", "Suspended", "True", "Suspended").await;
    assert_eq!(condition_of(&contoso, "Ready").unwrap().status, "Unknown");
    assert_eq!(contoso.metadata.finalizers, None);
    world.delete("retail", "contoso").await;
    world.gone("retail", "contoso").await;
    world.apply("retail", "contoso", spec("contoso", &[("Downtown", store(2, 1))])).await;
    world.ready("retail", "contoso").await;
    drop(operator);
}

#[tokio::test(flavor = "multi_thread")]
async fn resumed_it_mends_what_happened_meanwhile() {
    let (world, operator) = ready().await;
    let login = world.login("zava").await;
    apply(&world, json!({"suspend": true})).await;
    world.condition("retail", "zava", "Suspended", "True", "Suspended").await;
    world.execute(&format!("ALTER ROLE {login} CREATEDB")).await;
    apply(&world, json!({"suspend": false})).await;
    recorded(&world, DriftOutcome::Mended, "NOCREATEDB").await;
    let resumed = world.ready("retail", "zava").await;
    assert_eq!(condition_of(&resumed, "Suspended").unwrap().status, "False");
    quiet(&world, &operator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fence_is_named_where_it_differs_and_where_more_is_asked_of_it() {
    let world = World::start().await;
    let config = std::fs::read_to_string(world.directory.path().join("config.yaml")).unwrap();
    // A level that only a superuser can bring about: the fence holds, and what is missing is reported.
    world.write("config.yaml", &config.replace("  adminUrl:", "  hardening: strict\n  adminUrl:"));
    let operator = world.operator_with(&RESYNC).await;
    apply(&world, json!({})).await;
    let verified = world.condition("retail", "zava", "PolicyVerified", "True", "Reconciled").await;
    let message = condition_of(&verified, "PolicyVerified").unwrap().message.clone();
    assert!(message.contains("MISSING") && message.contains("built-in function"), "{message}");
    world.ready("retail", "zava").await;
    quiet(&world, &operator).await;

    // Functions are for a person to look at.
    world.execute("ALTER FUNCTION fence.visible_stores() VOLATILE").await;
    let damaged = world.condition("retail", "zava", "PolicyVerified", "False", "FenceDeviation").await;
    let drifted = condition_of(&damaged, "Drifted").unwrap();
    assert!(drifted.status == "True" && drifted.message.contains("visible_stores"), "{}", drifted.message);
    assert_eq!(history(&damaged)[0].outcome, DriftOutcome::Failed);
    world.execute("ALTER FUNCTION fence.visible_stores() STABLE").await;
    world.ready("retail", "zava").await;
    world.condition("retail", "zava", "Drifted", "False", "Reconciled").await;
}

/// Policies, grants and row-level security, which all tenants of a database share.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_policy_or_grant_is_mended_and_told_and_only_told_by_who_observes() {
    let (world, operator) = ready().await;
    let fence = "SELECT string_agg(concat_ws(' ', c.relname, c.relrowsecurity, c.relforcerowsecurity, (SELECT string_agg(a::text, ',' ORDER BY a::text) FROM unnest(c.relacl) a), p.polname, pg_get_expr(p.polqual, p.polrelid)), ';' ORDER BY c.relname, p.polname) \
                 FROM pg_class c LEFT JOIN pg_policy p ON p.polrelid = c.oid WHERE c.relnamespace = 'retail'::regnamespace AND c.relkind = 'r'";
    let whole = world.text(fence).await;
    let spoils = [
        ("DROP POLICY fence_read ON retail.orders", "policy fence_read on retail.orders: CREATE POLICY"),
        ("ALTER POLICY fence_read ON retail.orders USING (true)", "policy fence_read on retail.orders: DROP POLICY"),
        ("CREATE POLICY open ON retail.stores FOR SELECT USING (true)", "policy open on retail.stores: DROP POLICY"),
        ("ALTER TABLE retail.orders NO FORCE ROW LEVEL SECURITY", "ALTER TABLE retail.orders FORCE ROW"),
        ("ALTER TABLE retail.orders DISABLE ROW LEVEL SECURITY", "ALTER TABLE retail.orders ENABLE ROW"),
        (
            "GRANT SELECT ON retail.orders TO PUBLIC",
            "table retail.orders: REVOKE SELECT ON TABLE retail.orders FROM PUBLIC",
        ),
        ("GRANT TRUNCATE ON retail.orders TO fence_reader", "table retail.orders: REVOKE TRUNCATE"),
        ("REVOKE SELECT ON retail.orders FROM fence_reader", "table retail.orders: GRANT SELECT"),
        ("GRANT CREATE ON SCHEMA retail TO PUBLIC", "schema retail: REVOKE CREATE"),
        (
            "GRANT EXECUTE ON FUNCTION fence.visible_stores() TO PUBLIC",
            "REVOKE EXECUTE ON FUNCTION fence.visible_stores",
        ),
    ];
    for (statement, change) in spoils {
        world.execute(statement).await;
        let told = recorded(&world, DriftOutcome::Mended, change).await;
        assert_eq!(condition_of(&told, "Drifted").unwrap().reason, "DriftMended", "{statement}");
        assert_eq!(world.text(fence).await, whole, "{statement}");
    }
    world.ready("retail", "zava").await;
    quiet(&world, &operator).await;

    // A name that would need quotes is not put into a statement.
    world.execute("CREATE POLICY \"x; DROP TABLE y\" ON retail.stores FOR SELECT USING (true)").await;
    world.condition("retail", "zava", "PolicyVerified", "False", "FenceDeviation").await;
    world.execute("DROP POLICY \"x; DROP TABLE y\" ON retail.stores").await;
    world.ready("retail", "zava").await;

    apply(&world, json!({"mode": "Observe"})).await;
    world.condition("retail", "zava", "Drifted", "False", "Reconciled").await;
    world.execute("DROP POLICY fence_read ON retail.orders").await;
    let told = recorded(&world, DriftOutcome::Reported, "policy fence_read on retail.orders: found none").await;
    assert_eq!(condition_of(&told, "PolicyVerified").unwrap().status, "False", "the gateway serves nobody");
    stays(Duration::from_secs(1), async || {
        world.text("SELECT count(*) FROM pg_policy WHERE polname = 'fence_read'").await
    })
    .await;
}

async fn connection_limit(world: &World) -> i32 {
    let login = world.login("zava").await;
    let limit = "SELECT rolconnlimit FROM pg_roles WHERE rolname = $1";
    world.sql().await.query_one(limit, &[&login]).await.unwrap().get(0)
}

/// PostgreSQL's limit is a remedy for administrators: what they set stays unless the spec names a limit, and a login whose
/// sessions are all in use is no broken one.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_limit_stays_as_it_was_set_and_may_be_reached() {
    let (world, operator) = ready().await;
    assert_eq!(connection_limit(&world).await, 30);
    let login = world.login("zava").await;
    apply(&world, json!({"gateway": {"connectionLimit": 3}})).await;
    let changed = poll(async || (connection_limit(&world).await == 3).then_some(()));
    assert!(changed.await.is_some(), "{}", operator.log());

    // Without the field a limit that is set by hand is nobody's business.
    apply(&world, json!({"gateway": {}})).await;
    passes(&operator, 2.0).await;
    assert_eq!(connection_limit(&world).await, 3, "the last one stays");
    world.execute(&format!("ALTER ROLE {login} CONNECTION LIMIT 2")).await;
    passes(&operator, 2.0).await;
    assert_eq!(connection_limit(&world).await, 2);
    assert_eq!(history(&tenant(&world).await), [], "no change of a limit was drift");

    // All of them in use, as by gateways: still Ready, after passes that found no session left.
    let held = [world.log_in("zava").await.unwrap(), world.log_in("zava").await.unwrap()];
    assert!(world.log_in("zava").await.is_err());
    passes(&operator, 2.0).await;
    let zava = tenant(&world).await;
    let ready = condition_of(&zava, "Ready").unwrap();
    assert_eq!(ready.status, "True", "{}", ready.message);
    drop(held);

    // None may log in, and none is in: that is a fault, and the message names the limit.
    world.execute(&format!("ALTER ROLE {login} CONNECTION LIMIT 0")).await;
    let named = poll(async || {
        let zava = tenant(&world).await;
        let ready = condition_of(&zava, "Ready")?;
        (ready.status == "False" && ready.message.contains("CONNECTION LIMIT")).then_some(())
    });
    assert!(named.await.is_some(), "{:?}", condition_of(&tenant(&world).await, "Ready"));
    apply(&world, json!({"gateway": {"connectionLimit": 30}})).await;
    world.ready("retail", "zava").await;
}
