//! The end of a tenant under each deletion policy, what stands in its way, and the tenant of the same name that comes
//! after it.

mod harness;

use harness::{World, condition_of, poll, spec, stays, store};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use std::time::Duration;
use storefence_devstack::{
    key_vault::{Effect, FaultRule, Operation, Permissions},
    postgres::AdminKind,
};
use storefence_tenancy::{RetailTenant, resource::ROTATE_ANNOTATION};

const SECRETS: [&str; 2] = ["sf-zava-context-1", "sf-zava-db-a"];
/// After one rotation.
const ALL_SECRETS: [&str; 4] = ["sf-zava-context-1", "sf-zava-context-2", "sf-zava-db-a", "sf-zava-db-b"];

fn zava(policy: &str) -> Value {
    let mut spec = spec("zava", &[("Seattle", store(1, 1))]);
    spec["deletionPolicy"] = policy.into();
    spec["rotation"] = json!({"period": "720h", "overlap": "1s"});
    spec
}

async fn rotate(world: &World, value: &str) {
    let patch = json!({"metadata": {"annotations": {ROTATE_ANNOTATION: value}}});
    world.tenants("retail").patch("zava", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    let settled = poll(async || {
        let status = world.get("retail", "zava").await?.status?;
        let credentials = status.credentials?;
        let handled = status.last_rotation?.annotation.as_deref() == Some(value);
        (handled && (credentials.slots.len(), credentials.context_keys.len()) == (1, 1)).then_some(())
    });
    assert!(settled.await.is_some(), "{:#?}", world.get("retail", "zava").await);
}

fn message(tenant: &RetailTenant, type_: &str) -> String {
    condition_of(tenant, type_).unwrap().message.clone()
}

const FENCE_ROWS: &str = "SELECT (SELECT count(*) FROM fence.tenants) + (SELECT count(*) FROM fence.tenant_stores) \
                          + (SELECT count(*) FROM fence.logins) + (SELECT count(*) FROM fence.context_keys)";
const ROLES: &str = "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'sf\\_%'";

async fn delete_removes_and_the_same_name_works_again(version: u32, kind: AdminKind) {
    let world = World::with(version, kind).await;
    let operator = world.operator().await;
    world.apply("retail", "zava", zava("Delete")).await;
    world.ready("retail", "zava").await;
    // Secrets of finished rotations are the tenant's too.
    rotate(&world, "one").await;
    let session = world.sql().await;
    world
        .execute(
            "INSERT INTO retail.categories (tenant_key, category_name) SELECT tenant_key, 'Tools' FROM retail.tenants",
        )
        .await;
    let retail = "SELECT (SELECT count(*) FROM retail.tenants) || ' ' || (SELECT count(*) FROM retail.stores) || ' ' || (SELECT count(*) FROM retail.categories)";
    assert_eq!(world.text(retail).await, "1 1 1");
    world.vault.put("sf-zava-context-9", "theirs", &[]);

    world.delete("retail", "zava").await;
    world.gone("retail", "zava").await;
    assert_eq!(world.text(FENCE_ROWS).await, "0");
    assert_eq!(world.text(ROLES).await, "0");
    assert_eq!(world.text(retail).await, "1 1 1", "rows of retail are never removed");
    assert_eq!(world.vault.deleted_names(), ALL_SECRETS);
    assert_eq!(world.vault.names(), ["sf-zava-context-9"], "what is not marked stays");
    drop(session);

    // Again, with the deleted secrets in the way; and the new one's rotation reaches the other slot and the next key.
    world.apply("retail", "zava", zava("Delete")).await;
    let again = world.ready("retail", "zava").await;
    world.log_in("zava").await.unwrap();
    for name in SECRETS {
        assert_eq!(world.vault.secret(name).unwrap().tags["storefence-uid"], again.metadata.uid.clone().unwrap());
    }
    rotate(&world, "two").await;
    let status = world.get("retail", "zava").await.unwrap().status.unwrap();
    assert_eq!(status.credentials.unwrap().active_kid, 2, "{}", operator.log());
    assert!(world.vault.deleted_names().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_removes_all_but_the_data_with_a_createrole_administrator_on_18() {
    delete_removes_and_the_same_name_works_again(18, AdminKind::CreateRole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_removes_all_but_the_data_with_a_superuser_on_16() {
    delete_removes_and_the_same_name_works_again(16, AdminKind::Superuser).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_revoke_the_same_name_works_and_rotates_through_what_the_first_one_left() {
    let world = World::start().await;
    let operator = world.operator().await;
    world.apply("retail", "zava", zava("Revoke")).await;
    world.ready("retail", "zava").await;
    rotate(&world, "one").await;
    world.delete("retail", "zava").await;
    world.gone("retail", "zava").await;
    assert_eq!(world.text(ROLES).await, "2");
    for name in world.vault.names() {
        assert!(world.vault.versions(&name).iter().all(|version| !version.enabled), "{name}");
    }
    world.apply("retail", "zava", zava("Revoke")).await;
    let tenant = world.ready("retail", "zava").await;
    world.log_in("zava").await.unwrap();
    // Slot b and key 2 are the first one's, tagged with its UID, and the fence has forgotten whose that was.
    rotate(&world, "two").await;
    let credentials = world.get("retail", "zava").await.unwrap().status.unwrap().credentials.unwrap();
    assert_eq!(credentials.active_kid, 2, "{}", operator.log());
    let tags = world.vault.secret("sf-zava-db-b").unwrap().tags;
    assert_eq!(tags["storefence-uid"], tenant.metadata.uid.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn retain_touches_nothing() {
    let world = World::start().await;
    let _operator = world.operator().await;
    world.apply("retail", "zava", zava("Retain")).await;
    world.ready("retail", "zava").await;
    let session = world.log_in("zava").await.unwrap();
    let before = world.database_fingerprint().await;
    world.vault.reset_calls();
    world.delete("retail", "zava").await;
    world.gone("retail", "zava").await;
    assert_eq!(world.database_fingerprint().await, before);
    assert_eq!(world.vault.writes(), 0);
    session.query("SELECT 1", &[]).await.unwrap();
    world.log_in("zava").await.unwrap();

    // Nor does it need what it does not touch.
    world
        .apply("retail", "contoso", {
            let mut spec = spec("contoso", &[("Downtown", store(2, 1))]);
            spec["deletionPolicy"] = "Retain".into();
            spec
        })
        .await;
    world.ready("retail", "contoso").await;
    world.cluster.proxy().set_down(true);
    world.vault.forbid(&world.app.object_id);
    world.delete("retail", "contoso").await;
    world.gone("retail", "contoso").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_depend_on_a_login_hold_the_deletion_and_nothing_else() {
    let world = World::start().await;
    let _operator = world.operator().await;
    world.apply("retail", "zava", zava("Delete")).await;
    world.ready("retail", "zava").await;
    let login = world.login("zava").await;
    let session = world.log_in("zava").await.unwrap();
    world.execute(&format!("CREATE TABLE public.mine (x int); ALTER TABLE public.mine OWNER TO {login}")).await;
    world.execute(&format!("CREATE TABLE public.lent (x int); GRANT SELECT ON public.lent TO {login}")).await;

    world.delete("retail", "zava").await;
    let tenant = world.condition("retail", "zava", "Ready", "False", "DependentObjects").await;
    assert_eq!(condition_of(&tenant, "DatabaseReady").unwrap().reason, "DependentObjects");
    let message = message(&tenant, "DatabaseReady");
    for expected in [login.as_str(), "owner of table mine", "privileges for table lent", "REASSIGN OWNED BY"] {
        assert!(message.contains(expected), "{expected}: {message}");
    }
    // Access has ended all the same, and the secrets are gone.
    assert!(session.query("SELECT 1", &[]).await.is_err());
    assert_eq!(world.text("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'sf\\_%' AND rolcanlogin").await, "0");
    assert_eq!(world.vault.deleted_names(), SECRETS);
    assert_eq!(world.text("SELECT enabled FROM fence.tenants").await, "false");
    assert_eq!(world.text(ROLES).await, "2", "all or none");
    let waiting = async || world.get("retail", "zava").await.and_then(|tenant| tenant.metadata.resource_version);
    stays(Duration::from_millis(1500), waiting).await;

    world.execute("DROP TABLE public.mine, public.lent").await;
    world.gone("retail", "zava").await;
    assert_eq!(world.text(FENCE_ROWS).await, "0");
    assert_eq!(world.text(ROLES).await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_forbids_deleting_is_named_with_the_database_and_awaited() {
    let world = World::start().await;
    let _operator = world.operator().await;
    world.apply("retail", "zava", zava("Delete")).await;
    world.ready("retail", "zava").await;
    world.vault.allow(&world.app.object_id, Permissions::officer().without(&[Operation::Delete]));
    world.cluster.proxy().set_down(true);
    world.delete("retail", "zava").await;
    let tenant = world.condition("retail", "zava", "SecretsReady", "False", "KeyVaultForbidden").await;
    assert!(message(&tenant, "SecretsReady").contains("Key Vault Secrets Officer"));
    assert_eq!(condition_of(&tenant, "DatabaseReady").unwrap().reason, "DatabaseUnreachable");
    assert_eq!(condition_of(&tenant, "Ready").unwrap().status, "False");
    world.cluster.proxy().set_down(false);
    let ended = poll(async || (world.text(FENCE_ROWS).await == "0").then_some(()));
    assert!(ended.await.is_some(), "the database does not wait for the vault");
    world.vault.allow(&world.app.object_id, Permissions::officer());
    world.gone("retail", "zava").await;
    assert_eq!(world.vault.deleted_names(), SECRETS);
}

/// Stored before the schema was tightened: the status still names the keys that existed.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_cannot_be_read_leaves_no_key_of_any_rotation_behind() {
    for (policy, left) in [("Delete", vec![]), ("Revoke", vec![ALL_SECRETS])] {
        let world = World::start().await;
        let operator = world.operator().await;
        world.apply("retail", "zava", zava(policy)).await;
        world.ready("retail", "zava").await;
        rotate(&world, "one").await;
        world.loosen().await;
        let unreadable = Patch::Merge(json!({"spec": {"tenantId": 5}}));
        world.objects("retail").patch("zava", &PatchParams::default(), &unreadable).await.unwrap();
        let told = poll(async || {
            let object = world.objects("retail").get("zava").await.ok()?;
            let conditions = object.data["status"]["conditions"].as_array()?.clone();
            conditions.iter().any(|found| found["reason"] == "InvalidSpec").then_some(())
        });
        assert!(told.await.is_some(), "{}", operator.log());
        world.objects("retail").delete("zava", &DeleteParams::default()).await.unwrap();
        let gone = poll(async || world.objects("retail").get_opt("zava").await.unwrap().is_none().then_some(()));
        assert!(gone.await.is_some(), "{}", operator.log());
        assert_eq!(world.vault.names(), left.concat(), "{policy}");
        for name in world.vault.names() {
            assert!(world.vault.versions(&name).iter().all(|version| !version.enabled), "{policy}: {name}");
        }
        assert_eq!(world.text("SELECT count(*) FROM fence.context_keys").await, "0");
    }
}

/// The vault takes its time to delete, and an operator is killed in the middle of it all.
#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_and_a_re_creation_resume_wherever_the_operator_is_killed() {
    let world = World::start().await;
    for operation in [Operation::Get, Operation::Update, Operation::Delete, Operation::Recover, Operation::Set] {
        world.vault.inject(FaultRule::new(Effect::Slow(Duration::from_millis(15))).on(operation).always());
    }
    for round in 0..6_u64 {
        let operator = world.operator().await;
        world.apply("retail", "zava", zava("Delete")).await;
        world.ready("retail", "zava").await;
        world.log_in("zava").await.unwrap();
        world.delete("retail", "zava").await;
        tokio::time::sleep(Duration::from_millis(10 + 30 * round)).await;
        operator.kill();
        let operator = world.operator().await;
        let gone = poll(async || world.get("retail", "zava").await.is_none().then_some(()));
        assert!(gone.await.is_some(), "round {round}:\n{}", operator.log());
        assert_eq!(world.text(FENCE_ROWS).await, "0", "round {round}");
        assert_eq!(world.vault.deleted_names(), SECRETS, "round {round}");
        // And the creation that follows, likewise.
        world.apply("retail", "zava", zava("Delete")).await;
        tokio::time::sleep(Duration::from_millis(20 + 20 * round)).await;
        operator.kill();
    }
    let _operator = world.operator().await;
    world.ready("retail", "zava").await;
    world.log_in("zava").await.unwrap();
}
