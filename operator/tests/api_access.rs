//! What the operator is to the Kubernetes API: who it says it is, and what it says of itself when it is refused.

mod harness;

use std::time::{Duration, Instant};

use harness::{OPERATOR, Operator, World, poll, spec, store};
use k8s_openapi::api::{coordination::v1::Lease, events::v1::Event};
use kube::{
    Api, ResourceExt,
    api::{ListParams, ObjectMeta},
};
use serde_json::json;
use storefence_devstack::kube_api::Match;

/// The operator waits for three deadlines of a call, of three seconds each in these tests.
const LIMIT: Duration = Duration::from_secs(40);

async fn becomes(operator: &Operator, code: u16, said: &str) -> String {
    let begun = Instant::now();
    let mut last = None;
    while begun.elapsed() < LIMIT {
        last = operator.get("/readyz").await;
        if let Some((found, text)) = &last
            && *found == code
            && text.contains(said)
        {
            return text.clone();
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("not {code} with '{said}': {last:?}\n{}", operator.log());
}

/// Its token is taken away: neither the watch that stands nor the lease that it does not hold would show it.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_the_api_refuses_is_not_ready() {
    let world = World::start().await;
    if !world.is_stand_in("an_operator_that_the_api_refuses_is_not_ready") {
        return;
    }
    let leader = world.operator_with(&["--leader-elect"]).await;
    let held = poll(async || (leader.metric("storefence_operator_leader").await == 1.0).then_some(()));
    assert!(held.await.is_some(), "{}", leader.log());
    let standby = world.operator_with(&["--leader-elect"]).await;
    let alone = world.operator().await;
    world.api.faults().fail_next(Match::any().user(OPERATOR), u32::MAX, 401);
    let said = "the Kubernetes API has refused or not answered for";
    for operator in [&standby, &alone] {
        becomes(operator, 503, said).await;
        assert_eq!(operator.get("/healthz").await.map(|(code, _)| code), Some(200), "it lives, and goes on trying");
    }
    world.api.faults().clear();
    for operator in [&standby, &alone] {
        becomes(operator, 200, "ok").await;
    }
}

fn managers(metadata: &ObjectMeta) -> Vec<String> {
    metadata.managed_fields.iter().flatten().filter_map(|entry| entry.manager.clone()).collect()
}

/// Every writer has a name: that of the operator, for all that it writes.
#[tokio::test(flavor = "multi_thread")]
async fn every_write_has_the_operators_name() {
    let world = World::start().await;
    let operator = world.operator_with(&["--leader-elect"]).await;
    world.apply("retail", "zava", spec("zava", &[("Seattle", store(1, 1))])).await;
    let tenant = world.ready("retail", "zava").await;
    assert!(managers(&tenant.metadata).contains(&"storefence-operator".to_owned()), "{:?}", managers(&tenant.metadata));
    world.expect_events("retail", "zava", &["Reconciled"]).await;
    let events = Api::<Event>::namespaced(world.kube.clone(), &world.namespace("retail"));
    let events = events.list(&ListParams::default()).await.unwrap().items;
    let lease = Api::<Lease>::default_namespaced(world.kube.clone()).get("storefence-operator").await.unwrap();
    for (what, metadata) in [("lease", &lease.metadata), ("event", &events[0].metadata)] {
        assert_eq!(managers(metadata), ["storefence-operator"], "{what} {}", json!(metadata));
    }
    assert!(events.iter().all(|event| event.name_any().starts_with("zava")), "{}", operator.log());
}

/// A tenant that only the operator can refuse is refused at once, with rule and store named.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_api_server_cannot_check_the_operator_refuses_at_once() {
    let world = World::start().await;
    let _operator = world.operator().await;
    let names: Vec<String> = (0..500).map(|n| format!("Store {n}")).collect();
    let stores: Vec<_> = names.iter().zip(0..).map(|(name, n)| (name.as_str(), store(1, n))).collect();
    let mut wanted = spec("zava", &stores);
    let rule =
        |n: usize| json!({"name": format!("rule-{n}"), "role": "RegionalManager", "appRole": "x", "stores": names});
    wanted["principals"] = (0..64).map(rule).collect();
    wanted["principals"][63]["stores"][499] = "Store 500".into();
    world.apply("retail", "zava", wanted.clone()).await;
    let applied = Instant::now();
    let refused = world.condition("retail", "zava", "Ready", "False", "InvalidSpec").await;
    let took = applied.elapsed();
    let message = &harness::condition_of(&refused, "Ready").unwrap().message;
    assert!(message.contains("rule 'rule-63' names the store 'Store 500'"), "{message}");
    // A second on a machine of its own; a pass that waits for a resync takes minutes.
    println!("refused after {took:?}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    wanted["principals"][63]["stores"][499] = "Store 499".into();
    world.apply("retail", "zava", wanted).await;
    world.ready("retail", "zava").await;
}
