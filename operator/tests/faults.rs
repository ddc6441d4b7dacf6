//! What the operator does when the database, the vault or the Kubernetes API misbehave, and when it is killed.

mod harness;

use std::time::{Duration, Instant};

use harness::{OPERATOR, World, condition_of, poll, spec, store};
use storefence_devstack::{
    key_vault::{Effect, FaultRule, Operation, Permissions},
    kube_api::Match,
    postgres::SslMode,
};
use storefence_tenancy::RetailTenant;

fn message(tenant: &RetailTenant, type_: &str) -> String {
    condition_of(tenant, type_).unwrap().message.clone()
}

async fn apply(world: &World) {
    world.apply("retail", "zava", spec("zava", &[("Seattle", store(1, 1))])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_is_named_and_awaited() {
    let world = World::start().await;
    world.cluster.proxy().set_down(true);
    let operator = world.operator().await;
    apply(&world).await;
    let tenant = world.condition("retail", "zava", "Ready", "False", "DatabaseUnreachable").await;
    assert_eq!(condition_of(&tenant, "DatabaseReady").unwrap().reason, "DatabaseUnreachable");
    assert_eq!(condition_of(&tenant, "SecretsReady").unwrap().status, "Unknown");
    assert!(message(&tenant, "DatabaseReady").contains("retail"), "{}", message(&tenant, "DatabaseReady"));
    assert_eq!(world.vault.writes(), 0, "nothing half done");

    world.cluster.proxy().set_down(false);
    let back = Instant::now();
    world.ready("retail", "zava").await;
    assert!(back.elapsed() < Duration::from_secs(8), "{:?}\n{}", back.elapsed(), operator.log());
    // Transitions only.
    world.expect_events("retail", "zava", &["DatabaseUnreachable", "Reconciled"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_are_named_when_both_are_away() {
    let world = World::start().await;
    world.cluster.proxy().set_down(true);
    world.vault.server().set_down(true);
    let _operator = world.operator().await;
    apply(&world).await;
    let tenant = world.condition("retail", "zava", "SecretsReady", "False", "KeyVaultUnreachable").await;
    assert_eq!(condition_of(&tenant, "DatabaseReady").unwrap().reason, "DatabaseUnreachable");
    world.cluster.proxy().set_down(false);
    world.condition("retail", "zava", "Ready", "False", "KeyVaultUnreachable").await;
    world.vault.server().set_down(false);
    world.ready("retail", "zava").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_restart_does_not_change_the_status() {
    let mut world = World::start().await;
    let operator = world.operator_with(&["--resync", "200ms"]).await;
    apply(&world).await;
    let ready = world.ready("retail", "zava").await;
    world.cluster.kill().unwrap();
    world.condition("retail", "zava", "Ready", "False", "DatabaseUnreachable").await;
    world.cluster.start_up().await.unwrap();
    let again = world.ready("retail", "zava").await;
    let credentials = |tenant: &RetailTenant| tenant.status.as_ref().unwrap().credentials.clone();
    assert_eq!(credentials(&again), credentials(&ready), "{}", operator.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_refuses_is_named_and_awaited() {
    let world = World::start().await;
    world.vault.allow(&world.app.object_id, Permissions::user());
    let _operator = world.operator().await;
    apply(&world).await;
    let tenant = world.condition("retail", "zava", "SecretsReady", "False", "KeyVaultForbidden").await;
    let text = message(&tenant, "SecretsReady");
    assert!(text.contains("Key Vault Secrets Officer") && text.contains("sf-zava"), "{text}");
    assert_eq!(condition_of(&tenant, "Ready").unwrap().reason, "KeyVaultForbidden");
    assert_eq!(world.text("SELECT count(*) FROM retail.tenants").await, "0", "nothing half done");
    world.vault.allow(&world.app.object_id, Permissions::officer());
    world.ready("retail", "zava").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn throttling_errors_and_broken_answers_of_the_vault_pass_by() {
    let world = World::start().await;
    let operator = world.operator().await;
    for rule in [
        // Two secrets are read at once, and the first failure drops the other call: both meet the throttle.
        FaultRule::new(Effect::Throttle(1)).on(Operation::Get).times(2),
        FaultRule::new(Effect::Status(500, "InternalServerError".into())).on(Operation::Get),
        FaultRule::new(Effect::Status(401, "Unauthorized".into())).on(Operation::Set),
        FaultRule::new(Effect::Status(503, "ServiceUnavailable".into())).on(Operation::Set).secret("sf-zava-context-1"),
        FaultRule::new(Effect::HalfResponse).on(Operation::Set).secret("sf-zava-db-a"),
        FaultRule::new(Effect::HalfResponse).on(Operation::Get).secret("sf-zava-db-a").after(1),
        FaultRule::new(Effect::Hang).on(Operation::Get).after(4),
    ] {
        world.vault.inject(rule);
    }
    apply(&world).await;
    world.ready("retail", "zava").await;
    world.log_in("zava").await.unwrap();
    assert!(
        operator.metric("storefence_operator_key_vault_calls_total{operation=\"get\",outcome=\"throttled\"}").await
            > 0.0
    );
    let text = message(&world.get("retail", "zava").await.unwrap(), "SecretsReady");
    assert!(!text.contains("throttl"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_secret_of_ours_is_recovered_and_renewed() {
    let world = World::start().await;
    let _operator = world.operator_with(&["--resync", "150ms"]).await;
    apply(&world).await;
    world.ready("retail", "zava").await;
    let old = world.vault.secret("sf-zava-db-a").unwrap();
    world.delete_secret("sf-zava-db-a").await;
    let renewed = poll(async || world.vault.secret("sf-zava-db-a").filter(|new| new.value != old.value));
    assert!(renewed.await.is_some());
    let works = poll(async || world.log_in("zava").await.ok().map(drop));
    assert!(works.await.is_some());

    // One that was somebody else's is left in its grave.
    world.vault.put("sf-contoso-db-a", "theirs", &[]);
    world.delete_secret("sf-contoso-db-a").await;
    world.apply("retail", "contoso", spec("contoso", &[("Downtown", store(2, 1))])).await;
    let contoso = world.condition("retail", "contoso", "SecretsReady", "False", "SecretSoftDeleted").await;
    assert!(message(&contoso, "SecretsReady").contains("sf-contoso-db-a"));
    assert_eq!(world.vault.deleted_names(), ["sf-contoso-db-a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_configuration_is_used_without_a_restart() {
    let world = World::start().await;
    let operator = world.operator_with(&["--retry-max", "1h"]).await;
    let mut elsewhere = spec("zava", &[("Seattle", store(1, 1))]);
    elsewhere["databaseRef"]["name"] = "second".into();
    world.apply("retail", "zava", elsewhere).await;
    world.condition("retail", "zava", "Ready", "False", "DatabaseNotConfigured").await;

    let config = std::fs::read_to_string(world.directory.path().join("config.yaml")).unwrap();
    world.write("config.yaml", "databases: [");
    let told = poll(async || operator.log().contains("changed configuration is not used").then_some(()));
    assert!(told.await.is_some(), "{}", operator.log());
    world.write("config.yaml", &config.replace("name: retail", "name: second"));
    world.ready("retail", "zava").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_of_somebody_else_is_not_touched() {
    let world = World::start().await;
    world.vault.put("sf-zava-db-a", "theirs", &[("owner", "somebody")]);
    let _operator = world.operator().await;
    apply(&world).await;
    let tenant = world.condition("retail", "zava", "Ready", "False", "SecretNotOwned").await;
    assert!(message(&tenant, "SecretsReady").contains("sf-zava-db-a"));
    assert_eq!(world.vault.versions("sf-zava-db-a").len(), 1);
    assert_eq!(world.vault.secret("sf-zava-db-a").unwrap().value, "theirs");
    assert_eq!(world.text("SELECT count(*) FROM retail.tenants").await, "0", "nothing half done");
    world.delete("retail", "zava").await;
    world.gone("retail", "zava").await;
    assert!(world.vault.secret("sf-zava-db-a").unwrap().enabled);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_by_hand_is_mended() {
    let world = World::start().await;
    let _operator = world.operator_with(&["--resync", "150ms"]).await;
    apply(&world).await;
    world.ready("retail", "zava").await;
    let login = world.login("zava").await;
    let uid = world.text("SELECT owner_uid FROM fence.tenants").await;
    let mended = async |query: &str, expected: &str| {
        let found = poll(async || (world.text(query).await == expected).then_some(()));
        assert!(found.await.is_some(), "{query}: {}", world.text(query).await);
    };
    let works = async || {
        let found = poll(async || world.log_in("zava").await.ok().map(drop));
        assert!(found.await.is_some(), "the credentials in the vault do not work");
    };

    world.execute(&format!("ALTER ROLE {login} BYPASSRLS CREATEDB; ALTER ROLE {login} SET search_path = evil")).await;
    // A CREATEROLE administrator without BYPASSRLS cannot take it away: it says so, and the tenant is not Ready.
    let tenant = world.condition("retail", "zava", "Ready", "False", "InsufficientPrivileges").await;
    assert!(message(&tenant, "DatabaseReady").contains("BYPASSRLS"), "{}", message(&tenant, "DatabaseReady"));
    world.execute(&format!("ALTER ROLE {login} NOBYPASSRLS")).await;
    world.ready("retail", "zava").await;
    mended(&format!("SELECT rolcreatedb FROM pg_roles WHERE rolname = '{login}'"), "false").await;
    let setting =
        format!("SELECT setconfig::text LIKE '%evil%' FROM pg_db_role_setting WHERE setrole = '{login}'::regrole");
    mended(&setting, "false").await;

    world.execute(&format!("ALTER ROLE {login} PASSWORD 'changed'")).await;
    works().await;
    world.execute(&format!("ALTER ROLE {login} NOLOGIN")).await;
    works().await;
    world.execute(&format!("REVOKE fence_login FROM {login}")).await;
    mended(&format!("SELECT count(*) FROM pg_auth_members WHERE member = '{login}'::regrole"), "1").await;
    world.execute("DELETE FROM fence.tenant_stores").await;
    mended("SELECT count(*) FROM fence.tenant_stores", "1").await;
    world.execute("UPDATE fence.context_keys SET not_after = now()").await;
    mended("SELECT count(*) FROM fence.context_keys WHERE not_after IS NULL", "1").await;
    world.execute("DELETE FROM fence.logins").await;
    mended("SELECT count(*) FROM fence.logins", "2").await;

    let tags = [("managed-by", "storefence"), ("storefence-uid", uid.as_str())];
    world.vault.put("sf-zava-db-a", "nonsense", &tags);
    let renewed = poll(async || (world.vault.secret("sf-zava-db-a")?.value != "nonsense").then_some(()));
    assert!(renewed.await.is_some());
    works().await;
    let key = "SELECT encode(sha256(ipad || opad), 'hex') FROM fence.context_keys";
    let before = world.text(key).await;
    world.vault.put("sf-zava-context-1", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", &tags);
    let followed = poll(async || (world.text(key).await != before).then_some(()));
    assert!(followed.await.is_some(), "the database follows the vault");
    let version = world.vault.secret("sf-zava-context-1").unwrap().version;
    let told = poll(async || {
        let credentials = world.get("retail", "zava").await?.status?.credentials?;
        (credentials.context_keys[0].secret_version == version).then_some(())
    });
    assert!(told.await.is_some(), "the status names the version in force");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_fence_is_told_and_no_tenant_becomes_ready() {
    let world = World::start().await;
    let _operator = world.operator_with(&["--resync", "150ms"]).await;
    apply(&world).await;
    world.ready("retail", "zava").await;
    // Policies and grants are repaired; a function is for a person to look at.
    world.execute("ALTER FUNCTION fence.visible_stores() VOLATILE").await;
    let tenant = world.condition("retail", "zava", "PolicyVerified", "False", "FenceDeviation").await;
    assert!(message(&tenant, "PolicyVerified").contains("visible_stores"), "{}", message(&tenant, "PolicyVerified"));
    assert_eq!(condition_of(&tenant, "Ready").unwrap().reason, "FenceDeviation");
    world.apply("retail", "contoso", spec("contoso", &[("Downtown", store(2, 1))])).await;
    let contoso = world.condition("retail", "contoso", "Ready", "False", "FenceDeviation").await;
    assert_eq!(contoso.status.unwrap().credentials, None, "the gateway does not serve it");
    world.execute("ALTER FUNCTION fence.visible_stores() STABLE").await;
    world.ready("retail", "zava").await;
    world.ready("retail", "contoso").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_held_elsewhere_is_awaited_without_a_word() {
    let world = World::start().await;
    let operator = world.operator().await;
    // The lock of another operator: the same key, another session.
    let other = world.sql().await;
    other.execute("SELECT pg_advisory_lock(hashtextextended('storefence/zava', 0))", &[]).await.unwrap();
    apply(&world).await;
    let contended = "storefence_operator_reconcile_total{reason=\"LockContention\"}";
    let waits = poll(async || (operator.metric(contended).await >= 1.0).then_some(()));
    assert!(waits.await.is_some(), "{}", operator.log());
    assert_eq!(world.get("retail", "zava").await.unwrap().status, None);
    other.execute("SELECT pg_advisory_unlock_all()", &[]).await.unwrap();
    world.ready("retail", "zava").await;
    world.expect_events("retail", "zava", &["Reconciled"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kubernetes_api_may_fail_and_forget() {
    let world = World::start().await;
    let faults = world.api.faults();
    let operator = world.operator().await;
    faults.fail_next(Match::any().user(OPERATOR).verb("patch").resource("retailtenants"), 2, 500);
    faults.fail_next(Match::any().user(OPERATOR).verb("patch").resource("retailtenants/status"), 2, 409);
    faults.fail_next(Match::any().user(OPERATOR).verb("create").resource("events"), 1, 403);
    apply(&world).await;
    world.ready("retail", "zava").await;
    faults.drop_watches();
    faults.compact_history();
    world.apply("retail", "contoso", spec("contoso", &[("Downtown", store(2, 1))])).await;
    world.ready("retail", "contoso").await;
    world.api.set_down(true);
    let held = poll(async || operator.get("/healthz").await.filter(|(code, _)| *code == 200));
    assert!(held.await.is_some());
    world.api.set_down(false);
    world.apply("retail", "third", spec("third", &[("One", store(3, 1))])).await;
    world.ready("retail", "third").await;
}

/// SIGKILL wherever the operator happens to be, many times over: what comes after resumes.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_the_next_one_resumes() {
    let world = World::start().await;
    let slow = Duration::from_millis(25);
    for operation in [Operation::Get, Operation::Set] {
        world.vault.inject(FaultRule::new(Effect::Slow(slow)).on(operation).always());
    }
    world.api.faults().delay(Match::any().verb("patch"), slow);
    for round in 0..8_u64 {
        let name = format!("tenant-{round}");
        let operator = world.operator().await;
        world.apply("retail", &name, spec(&name, &[("Seattle", store(round + 1, 1))])).await;
        tokio::time::sleep(Duration::from_millis(20 + 40 * round)).await;
        operator.kill();
    }
    // And once more in the middle of a deletion.
    let operator = world.operator().await;
    world.delete("retail", "tenant-0").await;
    tokio::time::sleep(Duration::from_millis(40)).await;
    operator.kill();

    let operator = world.operator().await;
    for round in 1..8 {
        let name = format!("tenant-{round}");
        world.ready("retail", &name).await;
        world.log_in(&name).await.unwrap_or_else(|error| panic!("{name}: {error}\n{}", operator.log()));
    }
    world.gone("retail", "tenant-0").await;
    assert_eq!(world.text("SELECT count(*) FROM fence.tenants WHERE enabled").await, "7");
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    let free = poll(async || (world.text(locks).await == "0").then_some(()));
    assert!(free.await.is_some(), "a dead operator's locks end with its sessions");
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_waits_for_the_database_and_says_so() {
    let world = World::start().await;
    let _operator = world.operator().await;
    apply(&world).await;
    world.ready("retail", "zava").await;
    world.cluster.proxy().set_down(true);
    world.delete("retail", "zava").await;
    let tenant = world.condition("retail", "zava", "Ready", "False", "DatabaseUnreachable").await;
    assert!(tenant.metadata.deletion_timestamp.is_some());
    world.cluster.proxy().set_down(false);
    world.gone("retail", "zava").await;
    assert_eq!(world.text("SELECT enabled FROM fence.tenants").await, "false");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_the_configuration_lacks_are_told() {
    let world = World::start().await;
    let _operator = world.operator().await;
    let mut elsewhere = spec("zava", &[("Seattle", store(1, 1))]);
    elsewhere["databaseRef"]["name"] = "elsewhere".into();
    elsewhere["keyVaultRef"]["name"] = "nowhere".into();
    world.apply("retail", "zava", elsewhere).await;
    let tenant = world.condition("retail", "zava", "Ready", "False", "DatabaseNotConfigured").await;
    assert!(message(&tenant, "DatabaseReady").contains("'elsewhere'"));
    assert!(message(&tenant, "SecretsReady").contains("'nowhere'"));
    world.delete("retail", "zava").await;
    world.gone("retail", "zava").await;
}

/// No secret that the run made is in the operator's log, in the server's log, or in the catalogs' statistics.
#[tokio::test(flavor = "multi_thread")]
async fn secrets_stay_out_of_logs() {
    let mut world = World::start().await;
    world.execute("ALTER SYSTEM SET log_statement = 'all'").await;
    world.execute("SELECT pg_reload_conf()").await;
    let operator = world.operator().await;
    apply(&world).await;
    world.ready("retail", "zava").await;
    let uri = world.vault.secret("sf-zava-db-a").unwrap().value;
    let password = url::Url::parse(&uri).unwrap().password().unwrap().to_owned();
    let log = std::fs::read_to_string(operator.child.log_path().unwrap()).unwrap();
    let server = std::fs::read_to_string(world.cluster.log_path()).unwrap();
    assert!(server.contains("ALTER ROLE"), "statements are logged in this test");
    let admin =
        url::Url::parse(&world.cluster.url("x", &world.database.admin_password, "retail", SslMode::Disable)).unwrap();
    for secret in [password.as_str(), admin.password().unwrap(), world.app.secret.as_deref().unwrap()] {
        assert!(!log.contains(secret) && !server.contains(secret));
    }
    let key = world.vault.secret("sf-zava-context-1").unwrap().value;
    assert!(!log.contains(&key) && !server.contains(&key));
    let pads = world.text("SELECT encode(ipad, 'hex') FROM fence.context_keys").await;
    assert!(pads.len() == 128 && !server.contains(&pads), "the fence's form of the key is as good as the key");
    world.cluster.shut_down().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_replicas_works_and_the_other_takes_over() {
    let world = World::start().await;
    let flags = ["--leader-elect", "--lease-duration", "3s"];
    let leader = "storefence_operator_leader";
    let first = world.operator_with(&flags).await;
    let leads = poll(async || (first.metric(leader).await == 1.0).then_some(()));
    assert!(leads.await.is_some(), "{}", first.log());
    let second = world.operator_with(&flags).await;
    apply(&world).await;
    world.ready("retail", "zava").await;
    assert_eq!(second.metric(leader).await, 0.0);
    assert_eq!(second.metric("storefence_operator_reconcile_total{reason=\"Reconciled\"}").await, 0.0);

    // Killed: the lease runs out.
    first.kill();
    let killed = Instant::now();
    world.apply("retail", "contoso", spec("contoso", &[("Downtown", store(2, 1))])).await;
    world.ready("retail", "contoso").await;
    assert!(killed.elapsed() < Duration::from_secs(20), "{:?}", killed.elapsed());
    assert_eq!(second.metric(leader).await, 1.0);

    // Stopped: the lease is given back.
    let third = world.operator_with(&flags).await;
    assert!(second.stop().await.success());
    let leads = poll(async || (third.metric(leader).await == 1.0).then_some(()));
    assert!(leads.await.is_some(), "{}", third.log());
}
