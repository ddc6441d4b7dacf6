//! The proof of a login: what it must not be or have is named, and a tenant that is changed takes one session of it.

mod harness;

use std::{sync::Arc, time::Duration};

use harness::{World, poll, spec, store};
use storefence_operator::{
    circuit::CircuitPolicy,
    config::Config,
    credentials::password_from_uri,
    database::{
        Database, Limits,
        probe::{Credentials, ProbeError},
    },
    leader::Leadership,
    metrics::Metrics,
};
use storefence_tenancy::{TenantId, credentials::ContextKey};

const LOGINS: &str = "storefence_operator_database_calls_total{operation=\"login\",outcome=\"ok\"}";

fn database(world: &World) -> Database {
    let path = world.write_config(&world.database.admin_tls_url);
    let config = Config::load(&path).unwrap().databases.remove("retail").unwrap().resolve(None).unwrap();
    let limits = Limits {
        concurrency: 1,
        deadline: Duration::from_secs(30),
        fence_age: Duration::ZERO,
        circuit: CircuitPolicy::new(Duration::from_secs(1), Duration::from_secs(1)),
        leadership: Leadership::alone(),
    };
    Database::new("retail", &config, limits, 1, &Arc::new(Metrics::new().unwrap()))
}

/// Each deviation by itself, past the steps of a pass that would repair most of them before.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_is_more_than_it_should_be_is_named() {
    let world = World::start().await;
    let operator = world.operator().await;
    world.apply("retail", "zava", spec("zava", &[("Seattle", store(1, 1))])).await;
    world.ready("retail", "zava").await;
    operator.stop().await;

    let database = database(&world);
    let tenant: TenantId = "zava".parse().unwrap();
    let login = world.login("zava").await;
    let secret = |name: &str| world.vault.secret(name).unwrap().value;
    let password = password_from_uri(database.endpoint(), &login, &secret("sf-zava-db-a")).unwrap();
    let key = ContextKey::from_base64(&secret("sf-zava-context-1")).unwrap();
    let probe = async || {
        let credentials = Credentials { login: &login, password: &password, kid: 1, key: &key };
        let mut lock = database.lock(&tenant).await.unwrap().unwrap();
        let outcome = database.probe(&mut lock, &credentials, &tenant, 1, None).await;
        lock.release().await;
        outcome
    };
    probe().await.unwrap();
    for (statement, undo, words) in [
        ("ALTER ROLE {} SUPERUSER", "ALTER ROLE {} NOSUPERUSER", "is superuser"),
        ("ALTER ROLE {} BYPASSRLS", "ALTER ROLE {} NOBYPASSRLS", "bypasses row-level security"),
        ("ALTER ROLE {} CREATEDB", "ALTER ROLE {} NOCREATEDB", "may create roles, create databases or replicate"),
        ("GRANT pg_monitor TO {}", "REVOKE pg_monitor FROM {}", "is not a member of fence_login alone"),
        ("CREATE SCHEMA own AUTHORIZATION {}", "DROP SCHEMA own", "owns database objects"),
        (
            "GRANT SELECT (store_id) ON retail.orders TO PUBLIC",
            "REVOKE SELECT (store_id) ON retail.orders FROM PUBLIC",
            "can read the tables of schema retail past the fence",
        ),
        (
            "GRANT CREATE ON SCHEMA retail TO PUBLIC",
            "REVOKE CREATE ON SCHEMA retail FROM PUBLIC",
            "can create objects in this database",
        ),
    ] {
        world.execute(&statement.replace("{}", &login)).await;
        match probe().await {
            Err(ProbeError::Deviation { deviation, .. }) => assert_eq!(deviation, words, "{statement}"),
            other => panic!("{statement}: {other:?}"),
        }
        world.execute(&undo.replace("{}", &login)).await;
    }
    probe().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_changed_takes_one_session_of_its_login() {
    let world = World::start().await;
    let operator = world.operator().await;
    world.apply("retail", "zava", spec("zava", &[("Seattle", store(1, 1))])).await;
    world.ready("retail", "zava").await;
    let one_more = async |stores: &[(&str, uuid::Uuid)]| {
        let before = operator.metric(LOGINS).await;
        world.apply("retail", "zava", spec("zava", stores)).await;
        let generation = world.get("retail", "zava").await.unwrap().metadata.generation;
        let seen = poll(async || {
            let tenant = world.get("retail", "zava").await?;
            (tenant.status?.observed_generation == generation).then_some(())
        });
        assert!(seen.await.is_some(), "{}", operator.log());
        world.ready("retail", "zava").await;
        operator.metric(LOGINS).await - before
    };
    let two = [("Seattle", store(1, 1)), ("Redmond", store(1, 2))];
    assert_eq!(one_more(&two).await, 1.0, "{}", operator.log());
    // A login that is changed in the same pass is let in anew: the session of before proves nothing of it.
    world.execute(&format!("ALTER ROLE {} SET work_mem = '1MB'", world.login("zava").await)).await;
    let three = [("Seattle", store(1, 1)), ("Redmond", store(1, 2)), ("Bellevue", store(1, 3))];
    assert_eq!(one_more(&three).await, 2.0, "{}", operator.log());
}
