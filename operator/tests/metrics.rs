//! What the admin port reports: every metric that the document names, with its labels, moving with what happens, and no
//! label that names a tenant.

mod harness;

use std::{collections::BTreeSet, path::Path};

use harness::{Operator, World, poll, spec, store};
use storefence_devstack::{key_vault::Permissions, reference};

/// Name and labels of each metric in docs/reference/metrics.md.
fn documented() -> Vec<(String, BTreeSet<String>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/metrics.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, table) = text.split_once("<!-- reference: metrics of storefence-operator -->").unwrap();
    let (table, _) = table.split_once("<!-- end of reference -->").unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let labels = cells[2].split(", ").map(|label| label.trim_matches('`').to_owned());
        (cells[0].trim_matches('`').to_owned(), labels.filter(|label| !label.is_empty()).collect())
    })
    .collect()
}

async fn apply(world: &World, name: &str, number: u64) {
    world.apply("retail", name, spec(name, &[("Seattle", store(number, 1))])).await;
}

async fn becomes(operator: &Operator, metric: &str, expected: f64) {
    let found = poll(async || (operator.metric(metric).await == expected).then_some(()));
    assert!(found.await.is_some(), "{metric}: {}\n{}", operator.metric(metric).await, operator.log());
}

async fn passes(operator: &Operator, metric: &str, more_than: f64) {
    let found = poll(async || (operator.metric(metric).await > more_than).then_some(()));
    assert!(found.await.is_some(), "{metric}: {}\n{}", operator.metric(metric).await, operator.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_documented_metric_is_there_and_moves() {
    let world = World::start().await;
    let operator = world.operator_with(&["--resync", "300ms"]).await;
    apply(&world, "zava", 1).await;
    apply(&world, "contoso", 2).await;
    world.ready("retail", "zava").await;
    world.ready("retail", "contoso").await;
    let ready = "storefence_operator_tenants{condition=\"Ready\",reason=\"Reconciled\",status=\"true\"}";
    becomes(&operator, ready, 2.0).await;

    let scrape = operator.get("/metrics").await.unwrap().1;
    let families = reference::families(&scrape);
    let documented = documented();
    assert!(documented.len() > 15, "{documented:?}");
    for (name, labels) in &documented {
        let family = families.get(name).unwrap_or_else(|| panic!("{name} is documented and not there"));
        assert_eq!(&family.labels, labels, "{name}");
    }
    let names: BTreeSet<&String> = documented.iter().map(|(name, _)| name).collect();
    let more: Vec<_> = families.keys().filter(|name| !names.contains(name)).collect();
    assert!(more.is_empty(), "not documented: {more:?}");
    for word in ["zava", "contoso", "Seattle"] {
        assert!(!scrape.contains(word), "no label per tenant: {word}");
    }

    for metric in [
        "storefence_operator_reconcile_total{reason=\"Reconciled\"}",
        "storefence_operator_reconcile_duration_seconds_count{outcome=\"ok\"}",
        "storefence_operator_database_calls_total{operation=\"apply\",outcome=\"ok\"}",
        "storefence_operator_database_calls_total{operation=\"migrate\",outcome=\"ok\"}",
        "storefence_operator_database_calls_total{operation=\"probe\",outcome=\"ok\"}",
        "storefence_operator_database_call_duration_seconds_count{operation=\"observe\"}",
        "storefence_operator_key_vault_calls_total{operation=\"set\",outcome=\"ok\"}",
        "storefence_operator_key_vault_call_duration_seconds_count{operation=\"get\"}",
        "storefence_operator_steps_total{backend=\"database\"}",
        "storefence_operator_kubernetes_writes_total{object=\"status\"}",
        "process_resident_memory_bytes",
    ] {
        assert!(operator.metric(metric).await > 0.0, "{metric}");
    }
    assert_eq!(operator.metric("storefence_operator_leader").await, 1.0);
    passes(&operator, "storefence_operator_rotation_age_seconds", 0.0).await;

    // Drift, found and repaired.
    let found = "storefence_operator_drift_total{outcome=\"found\"}";
    assert_eq!(operator.metric(found).await, 0.0);
    world.execute("DELETE FROM fence.tenant_stores WHERE store_id = '00000000-0000-0001-0000-000000000001'").await;
    passes(&operator, found, 0.0).await;
    passes(&operator, "storefence_operator_drift_total{outcome=\"mended\"}", 0.0).await;

    // A vault that refuses: by outcome, by reason, by condition; the circuit is for those that do not answer.
    world.vault.allow(&world.app.object_id, Permissions::only(&[]));
    passes(&operator, "storefence_operator_key_vault_calls_total{operation=\"get\",outcome=\"forbidden\"}", 0.0).await;
    passes(&operator, "storefence_operator_reconcile_total{reason=\"KeyVaultForbidden\"}", 0.0).await;
    let refused =
        "storefence_operator_tenants{condition=\"SecretsReady\",reason=\"KeyVaultForbidden\",status=\"false\"}";
    becomes(&operator, refused, 2.0).await;
    let circuit = "storefence_operator_circuit_open{backend=\"key_vault\",name=\"main\"}";
    assert_eq!(operator.metric(circuit).await, 0.0);
    world.vault.server().set_down(true);
    becomes(&operator, circuit, 1.0).await;
    world.vault.server().set_down(false);
    world.vault.allow(&world.app.object_id, Permissions::officer());
    becomes(&operator, circuit, 0.0).await;
    becomes(&operator, ready, 2.0).await;
}

/// More tenants are due than may be worked on at a time.
#[tokio::test(flavor = "multi_thread")]
async fn the_queue_has_a_length() {
    let world = World::start().await;
    let operator = world.operator_with(&["--concurrency", "2"]).await;
    apply(&world, "first", 99).await;
    world.ready("retail", "first").await;
    world.cluster.proxy().set_silent(true);
    for number in 1..=7 {
        apply(&world, &format!("tenant-{number}"), number).await;
    }
    let depth = "storefence_operator_queue_depth";
    let full = poll(async || (operator.metric(depth).await == 5.0).then_some(()));
    assert!(full.await.is_some(), "{}", operator.metric(depth).await);
    assert_eq!(operator.metric("storefence_operator_reconciles_running").await, 2.0);
    world.cluster.proxy().set_silent(false);
    becomes(&operator, depth, 0.0).await;
}
