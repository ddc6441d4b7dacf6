//! Roles, secrets and rows that were there before the tenant: never touched, or checked and taken over.

mod harness;

use harness::{World, condition_of, poll, spec, store};
use serde_json::Value;
use storefence_tenancy::{
    RetailTenant,
    credentials::{Slot, login_role_name},
    resource::DriftOutcome,
};

fn zava(adoption: &str) -> Value {
    let mut spec = spec("zava", &[("Seattle", store(1, 1))]);
    spec["adoptionPolicy"] = adoption.into();
    spec
}

fn message(tenant: &RetailTenant, type_: &str) -> String {
    condition_of(tenant, type_).unwrap().message.clone()
}

/// Names that the tenant's logins will have.
async fn names(world: &World) -> [String; 2] {
    assert_eq!(world.run(&["migrate"]).0, Some(0));
    let salt =
        world.sql().await.query_one("SELECT value FROM fence.settings WHERE name = 'role_salt'", &[]).await.unwrap();
    let salt: Vec<u8> = salt.get(0);
    Slot::ALL.map(|slot| login_role_name(&salt, &"zava".parse().unwrap(), slot))
}

/// A role that the administrator may change, as a migration from other tools would leave it.
async fn strange_role(world: &World, name: &str) {
    let admin = world.database.admin.clone();
    world
        .execute(&format!(
            "CREATE ROLE {name} LOGIN CREATEDB PASSWORD 'known to somebody'; GRANT {name} TO {admin} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE"
        ))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_not_ours_is_refused_and_with_adopt_taken_over() {
    let world = World::start().await;
    let [login, _] = names(&world).await;
    strange_role(&world, &login).await;
    let session =
        world.cluster.url(&login, "known to somebody", "retail", storefence_devstack::postgres::SslMode::Disable);
    let _operator = world.operator().await;
    world.apply("retail", "zava", zava("Never")).await;
    let refused = world.condition("retail", "zava", "Ready", "False", "RoleExistsNotAdopted").await;
    assert!(message(&refused, "DatabaseReady").contains("adoptionPolicy"), "{}", message(&refused, "DatabaseReady"));
    let untouched = format!(
        "SELECT rolcreatedb AND rolcanlogin AND shobj_description(oid, 'pg_authid') IS NULL FROM pg_roles WHERE rolname = '{login}'"
    );
    assert_eq!(world.text(&untouched).await, "true");
    assert_eq!(world.text("SELECT count(*) FROM fence.tenants").await, "0", "nothing half done");
    assert!(world.vault.names().is_empty());

    world.apply("retail", "zava", zava("Adopt")).await;
    let tenant = world.ready("retail", "zava").await;
    world.log_in("zava").await.unwrap();
    assert!(tokio_postgres::connect(&session, tokio_postgres::NoTls).await.is_err(), "the old password is of no use");
    assert_eq!(world.text(&untouched).await, "false");
    let records = tenant.status.as_ref().unwrap().drift_history.clone();
    let adopted: Vec<_> = records.iter().filter(|record| record.outcome == DriftOutcome::Adopted).collect();
    assert_eq!(adopted.len(), 1, "{records:?}");
    for expected in ["NOCREATEDB", "set the comment", "set the password"] {
        assert!(adopted[0].changes.iter().any(|change| change.contains(expected)), "{expected}: {adopted:?}");
    }
    let events = poll(async || world.events("retail", "zava").await.contains(&"Adopted".to_owned()).then_some(()));
    assert!(events.await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_more_than_a_login_is_not_adopted() {
    let world = World::start().await;
    let [login, _] = names(&world).await;
    strange_role(&world, &login).await;
    let _operator = world.operator().await;
    let refusals = [
        ("ALTER ROLE {} SUPERUSER", "ALTER ROLE {} NOSUPERUSER", "it is superuser"),
        (
            "CREATE TABLE public.mine (x int); ALTER TABLE public.mine OWNER TO {}",
            "DROP TABLE public.mine",
            "owner of table mine",
        ),
        (
            "GRANT SELECT ON retail.orders TO {}",
            "REVOKE SELECT ON retail.orders FROM {}",
            "privileges for table retail.orders",
        ),
        ("CREATE ROLE mallory; GRANT {} TO mallory", "DROP ROLE mallory", "mallory is a member of it"),
    ];
    world.execute(&refusals[0].0.replace("{}", &login)).await;
    world.apply("retail", "zava", zava("Adopt")).await;
    for (n, (_, undo, word)) in refusals.iter().enumerate() {
        let told = poll(async || {
            let tenant = world.get("retail", "zava").await?;
            let condition = condition_of(&tenant, "DatabaseReady")?;
            (condition.reason == "RoleExistsNotAdopted" && condition.message.contains(word)).then_some(())
        });
        assert!(told.await.is_some(), "{word}: {:#?}", world.get("retail", "zava").await.unwrap().status);
        assert_eq!(world.text(&format!("SELECT rolcreatedb FROM pg_roles WHERE rolname = '{login}'")).await, "true");
        // The next reason is there before this one is gone.
        if let Some((next, ..)) = refusals.get(n + 1) {
            world.execute(&next.replace("{}", &login)).await;
        }
        world.execute(&undo.replace("{}", &login)).await;
    }
    world.ready("retail", "zava").await;
    world.log_in("zava").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_that_are_not_ours_are_refused_and_with_adopt_overwritten() {
    let world = World::start().await;
    world.vault.put("sf-zava-db-a", "theirs", &[("owner", "somebody")]);
    world.vault.put("sf-zava-context-1", "theirs", &[]);
    world.delete_secret("sf-zava-context-1").await;
    let _operator = world.operator().await;
    world.apply("retail", "zava", zava("Never")).await;
    let refused = world.condition("retail", "zava", "Ready", "False", "SecretNotOwned").await;
    assert!(message(&refused, "SecretsReady").contains("adoptionPolicy"));
    assert_eq!(world.vault.versions("sf-zava-db-a").len(), 1);

    world.vault.edit("sf-zava-db-a", |version| drop(version.tags.insert("managed-by".into(), "terraform".into())));
    world.apply("retail", "zava", zava("Adopt")).await;
    let managed = poll(async || {
        let tenant = world.get("retail", "zava").await?;
        message(&tenant, "SecretsReady").contains("terraform").then_some(())
    });
    assert!(managed.await.is_some(), "what something else keeps is not fought over");
    assert_eq!(world.vault.versions("sf-zava-db-a").len(), 1);

    world.vault.edit("sf-zava-db-a", |version| drop(version.tags.remove("managed-by")));
    let tenant = world.ready("retail", "zava").await;
    let uid = tenant.metadata.uid.clone().unwrap();
    for name in ["sf-zava-db-a", "sf-zava-context-1"] {
        let secret = world.vault.secret(name).unwrap();
        assert_eq!(secret.tags["storefence-uid"], uid);
        assert_ne!(secret.value, "theirs");
    }
    let records = tenant.status.unwrap().drift_history;
    let changes: Vec<String> = records.into_iter().flat_map(|record| record.changes).collect();
    for expected in ["secret sf-zava-db-a: write it", "secret sf-zava-context-1: recover it"] {
        assert!(changes.iter().any(|change| change.contains(expected)), "{expected}: {changes:?}");
    }
    world.log_in("zava").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_retained_tenant_left_is_taken_over_by_one_of_the_same_name() {
    let world = World::start().await;
    let operator = world.operator().await;
    let mut first = zava("Never");
    first["deletionPolicy"] = "Retain".into();
    world.apply("retail", "zava", first).await;
    world.ready("retail", "zava").await;
    world.log_in("zava").await.unwrap();
    let password = world.vault.secret("sf-zava-db-a").unwrap().value;
    world.delete("retail", "zava").await;
    world.gone("retail", "zava").await;

    world.apply("retail", "zava", zava("Never")).await;
    let refused = world.condition("retail", "zava", "Ready", "False", "RoleExistsNotAdopted").await;
    assert!(message(&refused, "DatabaseReady").contains("adoptionPolicy to Adopt"), "another cluster might serve it");
    let document = serde_json::json!({"apiVersion": "retail.storefence.dev/v1alpha1", "kind": "RetailTenant",
        "metadata": {"name": "zava", "namespace": world.namespace("retail")}, "spec": zava("Adopt")});
    let file = world.write("tenant.yaml", &document.to_string());
    let (code, stdout, stderr) = world.run(&["plan", "--file", file.to_str().unwrap()]);
    assert!(code == Some(2) && stdout.contains("takes over sf-zava-db-a"), "{stdout}{stderr}");

    world.apply("retail", "zava", zava("Adopt")).await;
    let tenant = world.ready("retail", "zava").await;
    world.log_in("zava").await.unwrap_or_else(|error| panic!("{error}\n{}", operator.log()));
    assert_eq!(world.vault.secret("sf-zava-db-a").unwrap().value, password, "what works is kept");
    let uid = tenant.metadata.uid.unwrap();
    assert_eq!(world.text("SELECT owner_uid FROM fence.tenants").await, uid);
    assert_eq!(world.vault.secret("sf-zava-db-a").unwrap().tags["storefence-uid"], uid);
    let marks = "SELECT count(DISTINCT shobj_description(oid, 'pg_authid')) FROM pg_roles WHERE rolname LIKE 'sf\\_%'";
    assert_eq!(world.text(marks).await, "1");
}
