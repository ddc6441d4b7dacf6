//! One database, one vault or the API in trouble: the others' tenants do not notice, and nobody has to restart anything.

mod harness;

use std::time::{Duration, Instant};

use harness::{World, poll, spec, store};
use storefence_devstack::{
    key_vault::{Effect, FaultRule, KeyVault, KeyVaultOptions, Permissions},
    postgres::{AdminKind, Cluster, ClusterOptions, Database},
};

/// A second server beside the world's.
struct Second {
    cluster: Cluster,
    database: Database,
}

impl Second {
    async fn start(world: &World) -> Self {
        let options = ClusterOptions { binaries: Some(world.cluster.binaries().clone()), ..ClusterOptions::default() };
        let cluster = Cluster::start(options).await.unwrap();
        let database = cluster.create_database("second", AdminKind::CreateRole).await.unwrap();
        Self { cluster, database }
    }

    fn entry(&self) -> String {
        let (url, ca) = (&self.database.admin_tls_url, self.cluster.ca_file().display());
        format!("databases:\n- name: second\n  adminUrl: {url}\n  caFile: {ca}\n- name: retail")
    }
}

async fn apply_many(world: &World, database: &str, prefix: &str, numbers: std::ops::Range<u64>) -> Vec<String> {
    apply_with(world, ("databaseRef", database), prefix, numbers).await
}

/// Tenants with another database or Key Vault than the world's.
async fn apply_with(
    world: &World,
    (field, backend): (&str, &str),
    prefix: &str,
    numbers: std::ops::Range<u64>,
) -> Vec<String> {
    let mut names = Vec::new();
    for number in numbers {
        let name = format!("{prefix}-{number}");
        let mut spec = spec(&name, &[("Seattle", store(number + 1, 1))]);
        spec[field]["name"] = backend.into();
        world.apply("retail", &name, spec).await;
        names.push(name);
    }
    names
}

async fn all_ready(world: &World, names: &[String]) -> Duration {
    let started = Instant::now();
    for name in names {
        world.ready("retail", name).await;
    }
    started.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_never_answers_delays_nobody_elses_tenants() {
    let world = World::start().await;
    let second = Second::start(&world).await;
    let config = std::fs::read_to_string(world.directory.path().join("config.yaml")).unwrap();
    world.write("config.yaml", &config.replace("databases:\n- name: retail", &second.entry()));
    let timeout = Duration::from_secs(6);
    let operator = world.operator_with(&["--call-timeout", "6s", "--retry-max", "1h", "--resync", "1h"]).await;
    let first = apply_many(&world, "retail", "before", 0..1).await;
    all_ready(&world, &first).await;
    let quiet = apply_many(&world, "second", "quiet", 100..106).await;
    let quiet = all_ready(&world, &quiet).await;

    world.cluster.proxy().set_silent(true);
    // More than the passes at a time, so that they fill every place that there is.
    let stuck = apply_many(&world, "retail", "stuck", 10..22).await;
    let others = apply_many(&world, "second", "other", 200..206).await;
    let others = all_ready(&world, &others).await;
    assert!(others < timeout / 2 + quiet, "{others:?}, without the trouble {quiet:?}\n{}", operator.log());

    let circuit = "storefence_operator_circuit_open{backend=\"database\",name=\"retail\"}";
    let open = poll(async || (operator.metric(circuit).await == 1.0).then_some(()));
    assert!(open.await.is_some(), "{}", operator.log());
    let told = world.condition("retail", "stuck-13", "Ready", "False", "DatabaseUnreachable").await;
    let message = &harness::condition_of(&told, "Ready").unwrap().message;
    assert!(message.contains("cannot be reached"), "{message}");
    assert_eq!(operator.metric(&circuit.replace("retail", "second")).await, 0.0);

    // It closes by itself, and wakes those whose own next look is an hour away.
    world.cluster.proxy().set_silent(false);
    all_ready(&world, &stuck).await;
    assert_eq!(operator.metric(circuit).await, 0.0);
    let told = poll(async || operator.log().contains("calls go through again").then_some(()));
    assert!(told.await.is_some(), "{}", operator.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_never_answers_delays_nobody_elses_tenants() {
    let world = World::start().await;
    let second = KeyVault::start(&world.authority, &world.entra, KeyVaultOptions::default()).await.unwrap();
    second.allow(&world.app.object_id, Permissions::officer());
    let config = std::fs::read_to_string(world.directory.path().join("config.yaml")).unwrap();
    world.write("config.yaml", &format!("{config}- name: second\n  url: {}\n", second.url()));
    let timeout = Duration::from_secs(6);
    let operator = world.operator_with(&["--call-timeout", "6s", "--retry-max", "1h", "--resync", "1h"]).await;
    let first = apply_with(&world, ("keyVaultRef", "main"), "before", 0..1).await;
    all_ready(&world, &first).await;
    let quiet = apply_with(&world, ("keyVaultRef", "second"), "quiet", 100..106).await;
    let quiet = all_ready(&world, &quiet).await;
    assert!(second.names().contains(&"sf-quiet-103-db-a".to_owned()), "{:?}", second.names());
    assert!(world.vault.names().iter().all(|name| !name.contains("quiet")), "each in its own vault");

    world.vault.inject(FaultRule::new(Effect::Hang).always());
    // More than the passes at a time, so that they fill every place that there is; and they share the database.
    let stuck = apply_with(&world, ("keyVaultRef", "main"), "stuck", 10..22).await;
    let others = apply_with(&world, ("keyVaultRef", "second"), "other", 200..206).await;
    let others = all_ready(&world, &others).await;
    assert!(others < timeout / 2 + quiet, "{others:?}, without the trouble {quiet:?}\n{}", operator.log());

    let circuit = "storefence_operator_circuit_open{backend=\"key_vault\",name=\"main\"}";
    let open = poll(async || (operator.metric(circuit).await == 1.0).then_some(()));
    assert!(open.await.is_some(), "{}", operator.log());
    let told = world.condition("retail", "stuck-13", "SecretsReady", "False", "KeyVaultUnreachable").await;
    assert_eq!(harness::condition_of(&told, "Ready").unwrap().reason, "KeyVaultUnreachable");
    assert_eq!(operator.metric(&circuit.replace("main", "second")).await, 0.0);

    // It closes by itself, and wakes those whose own next look is an hour away.
    world.vault.clear_faults();
    all_ready(&world, &stuck).await;
    assert_eq!(operator.metric(circuit).await, 0.0);
}
