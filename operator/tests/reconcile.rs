//! A tenant from `kubectl apply` to Ready, its changes and its end, with the real binary.

mod harness;

use harness::{OPERATOR, World, condition_of, poll, spec, stays, store};
use std::time::Duration;
use storefence_devstack::postgres::AdminKind;

async fn becomes_ready(version: u32, kind: AdminKind) {
    let world = World::with(version, kind).await;
    let operator = world.operator().await;
    world.apply("retail", "zava", spec("zava", &[("Seattle", store(1, 1)), ("Redmond", store(1, 2))])).await;
    let tenant = world.ready("retail", "zava").await;

    let status = tenant.status.as_ref().unwrap();
    assert_eq!((status.stores, status.principals), (Some(2), Some(1)));
    for type_ in ["Ready", "DatabaseReady", "SecretsReady", "PolicyVerified"] {
        let condition = condition_of(&tenant, type_).unwrap();
        assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("True", "Reconciled"), "{type_}");
        assert_eq!(condition.observed_generation, Some(1));
    }
    let credentials = status.credentials.as_ref().unwrap();
    let login = world.login("zava").await;
    assert_eq!(credentials.slots[0].login, login);
    assert_eq!(credentials.slots[0].secret_name, "sf-zava-db-a");
    assert_eq!(credentials.slots[0].secret_version, world.vault.secret("sf-zava-db-a").unwrap().version);
    assert_eq!(credentials.context_keys[0].secret_version, world.vault.secret("sf-zava-context-1").unwrap().version);

    let uid = tenant.metadata.uid.clone().unwrap();
    for name in ["sf-zava-db-a", "sf-zava-context-1"] {
        let tags = world.vault.secret(name).unwrap().tags;
        assert_eq!(tags["managed-by"], "storefence");
        assert_eq!(tags["storefence-uid"], uid);
    }
    assert_eq!(world.vault.names(), ["sf-zava-context-1", "sf-zava-db-a"]);
    let uri = world.vault.secret("sf-zava-db-a").unwrap().value;
    assert!(uri.ends_with("?sslmode=verify-full"), "the tenant connects as safely as the administrator");

    let roles = "SELECT string_agg(concat_ws(' ', right(rolname, 1), rolcanlogin, rolsuper, rolinherit, rolcreaterole, \
                 rolbypassrls, rolreplication, shobj_description(oid, 'pg_authid')), ';' ORDER BY rolname) \
                 FROM pg_roles WHERE rolname LIKE 'sf\\_%'";
    let mark = format!("storefence RetailTenant {uid}");
    assert_eq!(world.text(roles).await, format!("a t f f f f f {mark};b f f f f f f {mark}"));
    let memberships = "SELECT string_agg(DISTINCT concat_ws(' ', roleid::regrole, inherit_option, set_option, admin_option), ';') \
                       FROM pg_auth_members WHERE member::regrole::text LIKE 'sf\\_%'";
    assert_eq!(world.text(memberships).await, "fence_login t f f");
    let settings =
        world.text(&format!("SELECT setconfig FROM pg_db_role_setting WHERE setrole = '{login}'::regrole")).await;
    assert!(settings.contains("statement_timeout=5000ms") && settings.contains("idle_in_transaction"), "{settings}");
    let superuser = kind == AdminKind::Superuser;
    assert_eq!(settings.contains("temp_file_limit"), superuser, "set where it may be: {settings}");
    let stores = "SELECT string_agg(s.store_name || ' ' || f.store_name || ' ' || f.store_id, ';' ORDER BY f.store_id) \
                  FROM fence.tenant_stores f JOIN retail.stores s USING (store_id)";
    assert_eq!(world.text(stores).await, format!("Seattle Seattle {};Redmond Redmond {}", store(1, 1), store(1, 2)));
    assert_eq!(world.text("SELECT display_name FROM retail.tenants").await, "The zava tenant");
    world.expect_events("retail", "zava", &["Reconciled"]).await;

    let verify = std::process::Command::new(env!("CARGO_BIN_EXE_storefence-operator"))
        .args(["verify", "--database", "retail", "--config"])
        .arg(world.directory.path().join("config.yaml"))
        .output()
        .unwrap();
    assert!(verify.status.success(), "{}", String::from_utf8_lossy(&verify.stdout));
    assert!(operator.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_becomes_ready_with_a_createrole_administrator_on_18() {
    becomes_ready(18, AdminKind::CreateRole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_becomes_ready_with_a_superuser_on_16() {
    becomes_ready(16, AdminKind::Superuser).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_tenant_is_not_written_to() {
    let world = World::start().await;
    let first = world.operator().await;
    world.apply("retail", "zava", spec("zava", &[("Seattle", store(1, 1))])).await;
    world.ready("retail", "zava").await;
    assert!(first.stop().await.success());

    let before = world.database_fingerprint().await;
    let status = world.get("retail", "zava").await.unwrap();
    world.vault.reset_calls();
    world.api.counters().reset();
    // A new process looks at every tenant, and this one does so again and again.
    let operator = world.operator_with(&["--resync", "100ms"]).await;
    let passes = poll(async || {
        (operator.metric("storefence_operator_reconcile_total{reason=\"Reconciled\"}").await >= 5.0).then_some(())
    });
    assert!(passes.await.is_some(), "{}", operator.log());
    assert_eq!(world.vault.writes(), 0);
    assert_eq!(world.api.counters().writes(Some(OPERATOR)), 0, "{:?}", world.api.counters().all());
    assert_eq!(world.database_fingerprint().await, before);
    assert_eq!(world.get("retail", "zava").await.unwrap(), status);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_spec_changes_rows_and_settings() {
    let world = World::start().await;
    let _operator = world.operator().await;
    world.apply("retail", "zava", spec("zava", &[("Seattle", store(1, 1)), ("Redmond", store(1, 2))])).await;
    world.ready("retail", "zava").await;
    let secret = world.vault.secret("sf-zava-db-a");

    // One store goes, its name moves to a new one; a rename; a timeout.
    let mut changed = spec("zava", &[("Seattle", store(1, 3)), ("Redmond Town Center", store(1, 2))]);
    changed["gateway"] = serde_json::json!({"statementTimeout": "250ms"});
    changed["displayName"] = "Zava DIY".into();
    world.apply("retail", "zava", changed).await;
    let tenant = world.ready("retail", "zava").await;
    assert_eq!(tenant.status.unwrap().stores, Some(2));
    let fenced = "SELECT string_agg(store_name, ';' ORDER BY store_id) FROM fence.tenant_stores";
    assert_eq!(world.text(fenced).await, "Redmond Town Center;Seattle");
    let kept = format!("SELECT store_name FROM retail.stores WHERE store_id = '{}'", store(1, 1));
    assert_eq!(world.text(&kept).await, format!("Seattle~{}", store(1, 1)), "rows of retail are never removed");
    let login = world.login("zava").await;
    let settings =
        world.text(&format!("SELECT setconfig FROM pg_db_role_setting WHERE setrole = '{login}'::regrole")).await;
    assert!(settings.contains("statement_timeout=250ms"), "{settings}");
    assert_eq!(world.text("SELECT display_name FROM retail.tenants").await, "Zava DIY");
    assert_eq!(world.vault.secret("sf-zava-db-a"), secret, "credentials stay");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_claimant_waits_and_goes_on_when_the_first_goes() {
    let world = World::start().await;
    let _operator = world.operator().await;
    world.apply("retail", "zava", spec("zava", &[("Seattle", store(1, 1))])).await;
    world.ready("retail", "zava").await;
    let before = world.database_fingerprint().await;
    world.apply("other", "copy", spec("zava", &[("Tacoma", store(1, 9))])).await;
    let copy = world.condition("other", "copy", "Ready", "False", "ConflictingTenant").await;
    let message = &condition_of(&copy, "Ready").unwrap().message;
    assert!(message.contains("retail/zava"), "{message}");
    assert_eq!(copy.status.unwrap().credentials, None);
    assert_eq!(world.database_fingerprint().await, before, "nothing half done");
    assert!(condition_of(&world.get("retail", "zava").await.unwrap(), "Ready").unwrap().status == "True");

    // The loser's end touches nothing of the owner's.
    world.delete("other", "copy").await;
    world.gone("other", "copy").await;
    assert_eq!(world.database_fingerprint().await, before);
    world.log_in("zava").await.unwrap();

    world.apply("other", "copy", spec("zava", &[("Tacoma", store(1, 9))])).await;
    world.condition("other", "copy", "Ready", "False", "ConflictingTenant").await;
    world.delete("retail", "zava").await;
    world.gone("retail", "zava").await;
    let copy = world.ready("other", "copy").await;
    assert_eq!(world.text("SELECT owner_uid FROM fence.tenants").await, copy.metadata.uid.unwrap());
    assert_eq!(world.text("SELECT string_agg(store_name, ';') FROM fence.tenant_stores").await, "Tacoma");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_another_tenant_is_refused() {
    let world = World::start().await;
    let _operator = world.operator().await;
    world.apply("retail", "zava", spec("zava", &[("Seattle", store(1, 1))])).await;
    world.ready("retail", "zava").await;
    world.apply("retail", "contoso", spec("contoso", &[("Downtown", store(1, 1))])).await;
    let contoso = world.condition("retail", "contoso", "Ready", "False", "ConflictingStore").await;
    let message = &condition_of(&contoso, "DatabaseReady").unwrap().message;
    assert!(message.contains("zava") && message.contains(&store(1, 1).to_string()), "{message}");
    assert_eq!(world.text("SELECT count(*) FROM retail.tenants").await, "1", "nothing half done");
    world.apply("retail", "contoso", spec("contoso", &[("Downtown", store(2, 1))])).await;
    world.ready("retail", "contoso").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_revokes_and_re_creation_gives_new_credentials() {
    let world = World::start().await;
    let _operator = world.operator().await;
    world.apply("retail", "zava", spec("zava", &[("Seattle", store(1, 1))])).await;
    world.ready("retail", "zava").await;
    let old = world.vault.secret("sf-zava-db-a").unwrap();
    let session = world.log_in("zava").await.unwrap();

    world.delete("retail", "zava").await;
    world.gone("retail", "zava").await;
    assert!(session.query("SELECT 1", &[]).await.is_err(), "the session has ended");
    assert!(world.log_in("zava").await.is_err(), "the login is disabled");
    assert_eq!(world.text("SELECT enabled FROM fence.tenants").await, "false");
    assert_eq!(world.text("SELECT count(*) FROM fence.context_keys").await, "0");
    assert_eq!(world.text("SELECT count(*) FROM fence.tenant_stores").await, "1", "the mapping stays");
    assert_eq!(world.text("SELECT count(*) FROM retail.stores").await, "1", "the data stays");
    for name in ["sf-zava-db-a", "sf-zava-context-1"] {
        assert!(world.vault.versions(name).iter().all(|version| !version.enabled), "{name}");
    }

    world.apply("retail", "zava", spec("zava", &[("Seattle", store(1, 1))])).await;
    let tenant = world.ready("retail", "zava").await;
    let new = world.vault.secret("sf-zava-db-a").unwrap();
    assert_ne!(new.value, old.value);
    assert_eq!(new.tags["storefence-uid"], tenant.metadata.uid.unwrap());
    world.log_in("zava").await.unwrap();
    assert_eq!(world.text("SELECT count(*) FROM retail.tenants").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_object_does_not_stop_the_others() {
    let world = World::start().await;
    let _operator = world.operator().await;
    world.loosen().await;
    let broken = serde_json::json!({
        "apiVersion": "retail.storefence.dev/v1alpha1", "kind": "RetailTenant",
        "metadata": {"name": "broken"}, "spec": {"tenantId": 5},
    });
    let objects = world.objects("retail");
    let params = kube::api::PatchParams::apply("test").force();
    objects.patch("broken", &params, &kube::api::Patch::Apply(broken)).await.unwrap();

    world.apply("retail", "zava", spec("zava", &[("Seattle", store(1, 1))])).await;
    world.ready("retail", "zava").await;
    let reason = poll(async || {
        let object = objects.get("broken").await.ok()?;
        let ready = object.data["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == "Ready")?.clone();
        Some(ready["reason"].as_str()?.to_owned())
    });
    assert_eq!(reason.await.as_deref(), Some("InvalidSpec"));
    objects.delete("broken", &kube::api::DeleteParams::default()).await.unwrap();
    let gone = poll(async || objects.get_opt("broken").await.unwrap().is_none().then_some(()));
    assert!(gone.await.is_some());
    stays(Duration::from_millis(300), async || world.text("SELECT count(*) FROM fence.tenants").await).await;
}

/// As `STOREFENCE_TEST_KUBECONFIG=… cargo test` does, with the stand-in as a cluster that is there; nothing stays in it.
#[tokio::test(flavor = "multi_thread")]
async fn these_tests_pass_on_a_cluster_that_a_kubeconfig_names() {
    const VARIABLE: &str = "STOREFENCE_TEST_KUBECONFIG";
    if std::env::var_os(VARIABLE).is_some() {
        return;
    }
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let authority = storefence_devstack::tls::Authority::new().unwrap();
    let options = storefence_devstack::kube_api::KubeApiOptions::new(&authority);
    let cluster = storefence_devstack::kube_api::KubeApi::start(options).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let kubeconfig = directory.path().join("kubeconfig");
    std::fs::write(&kubeconfig, cluster.kubeconfig()).unwrap();
    let mut tests = std::process::Command::new(std::env::current_exe().unwrap());
    tests.args(["changed_spec", "second_claimant", "deletion_revokes"]).env(VARIABLE, &kubeconfig);
    let output = tokio::task::spawn_blocking(move || tests.output().unwrap()).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("3 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(cluster.counters().get("patch", "retailtenants/status") > 3, "{:?}", cluster.counters().all());
    let client = harness::client(&cluster.kubeconfig()).await;
    let tenants = kube::Api::<storefence_tenancy::RetailTenant>::all(client);
    assert_eq!(tenants.list(&kube::api::ListParams::default()).await.unwrap().items, []);
}
