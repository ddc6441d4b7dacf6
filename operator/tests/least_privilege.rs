//! The rights that docs/database.md and docs/reference/rights.md name are enough, and no more than enough.

mod harness;

use std::{collections::BTreeSet, path::Path};

use harness::{OPERATOR, World, operator_rules, poll, spec, store};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use storefence_devstack::{
    key_vault::{Operation, Permissions},
    postgres::{AdminKind, SslMode},
};
use storefence_tenancy::resource::ROTATE_ANNOTATION;

/// The statements below a heading of docs/database.md.
fn documented_statements(heading: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/database.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, rest) = text.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no heading {heading}"));
    let (_, block) = rest.split_once("```sql\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    let lines = block.lines().filter(|line| !line.starts_with("--") && !line.is_empty());
    lines.map(str::to_owned).collect()
}

/// What the operator asks of a vault: the data actions of the table in docs/reference/rights.md.
const VAULT_OPERATIONS: [Operation; 7] = [
    Operation::Get,
    Operation::ListVersions,
    Operation::Set,
    Operation::Update,
    Operation::GetDeleted,
    Operation::Recover,
    Operation::Delete,
];

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_rights_are_enough_for_a_tenants_whole_life() {
    let world = World::with(18, AdminKind::CreateRole).await;
    // The administrator of the document, in the place of the one that the world came with.
    let postgres = world.cluster.connect("postgres").await.unwrap();
    let statements = documented_statements("The administrator's rights");
    assert_eq!(statements.len(), 3, "{statements:?}");
    for statement in &statements[..2] {
        let statement = statement.replace("retail OWNER", "least OWNER");
        postgres.batch_execute(&statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
    world.cluster.connect("least").await.unwrap().batch_execute(&statements[2]).await.unwrap();
    let url = world.cluster.url("storefence_admin", "change-me", "least", SslMode::VerifyFull);
    world.write_config(&url);
    world.vault.allow(&world.app.object_id, Permissions::only(&VAULT_OPERATIONS));

    let flags = ["--leader-elect", "--lease-duration", "3s", "--resync", "300ms"];
    let operator = world.operator_with(&flags).await;
    let mut wanted = spec("zava", &[("Seattle", store(1, 1))]);
    wanted["rotation"] = json!({"period": "720h", "overlap": "1s"});
    world.apply("retail", "zava", wanted.clone()).await;
    world.ready("retail", "zava").await;
    let patch = json!({"metadata": {"annotations": {ROTATE_ANNOTATION: "now"}}});
    world.tenants("retail").patch("zava", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    let rotated = poll(async || {
        let status = world.get("retail", "zava").await?.status?;
        let done = status.last_rotation.as_ref()?.annotation.as_deref() == Some("now");
        (done && status.credentials?.slots.len() == 1).then_some(())
    });
    assert!(rotated.await.is_some(), "{}", operator.log());
    wanted["deletionPolicy"] = "Delete".into();
    world.apply("retail", "zava", wanted).await;
    world.ready("retail", "zava").await;
    world.delete("retail", "zava").await;
    world.gone("retail", "zava").await;
    assert!(operator.stop().await.success());

    if !world.is_stand_in("whether each right is used") {
        return;
    }
    // Nothing that the chart allows is never used: what is not needed must not be given.
    let used: BTreeSet<(String, String)> = world
        .api
        .counters()
        .all()
        .into_keys()
        .filter(|(_, _, user)| user == OPERATOR)
        .map(|(verb, resource, _)| (verb, resource))
        .collect();
    for rule in operator_rules() {
        for (verb, resource) in rule.verbs.iter().flat_map(|verb| rule.resources.iter().map(move |r| (verb, r))) {
            // A second event of the same words is counted in the first one: with a patch, which this life may not need.
            let rare = (verb.as_str(), resource.as_str()) == ("patch", "events");
            assert!(
                rare || used.contains(&(verb.clone(), resource.clone())),
                "{verb} {resource} is allowed and not used"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_api_denies_is_told() {
    let mut rules = operator_rules();
    rules.retain(|rule| !rule.resources.contains(&"retailtenants/status".to_owned()));
    let world = World::with_rules(18, AdminKind::CreateRole, rules).await;
    if !world.is_stand_in("what_the_api_denies_is_told") {
        return;
    }
    let operator = world.operator().await;
    world.apply("retail", "zava", spec("zava", &[("Seattle", store(1, 1))])).await;
    let failed = "storefence_operator_reconcile_total{reason=\"KubernetesError\"}";
    let told = poll(async || (operator.metric(failed).await >= 1.0).then_some(()));
    assert!(told.await.is_some(), "{}", operator.log());
    assert!(operator.log().contains("retailtenants/status"), "the log names the right: {}", operator.log());
    assert_eq!(world.get("retail", "zava").await.unwrap().status, None);
}
