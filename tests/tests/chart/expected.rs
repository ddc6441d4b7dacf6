//! What a platform team expects to find in a chart, one check for each: the list of what must not be lost.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    objects::of_kind,
    render::{available, chart, merge, objects, values},
};

const PARTS: [&str; 2] = ["storefence-operator", "storefence-gateway"];

fn named<'a>(objects: &'a [Value], kind: &'a str, name: &str) -> &'a Value {
    of_kind(objects, kind)
        .find(|object| object["metadata"]["name"] == name)
        .unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn names(objects: &[Value], kind: &str) -> BTreeSet<String> {
    of_kind(objects, kind).map(|object| object["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn production_has_what_a_platform_team_looks_for() {
    if !available() {
        return;
    }
    let objects = objects(&values("production"));
    let parts: BTreeSet<String> = PARTS.map(str::to_owned).into();
    for kind in ["Deployment", "ServiceAccount", "PodDisruptionBudget"] {
        assert_eq!(names(&objects, kind), parts, "{kind}");
    }
    assert!(names(&objects, "NetworkPolicy").is_superset(&parts));
    for kind in
        ["Service", "Ingress", "HorizontalPodAutoscaler", "ServiceMonitor", "PodMonitor", "PrometheusRule", "Role"]
    {
        assert!(of_kind(&objects, kind).next().is_some(), "no {kind}");
    }
    let dashboards: BTreeSet<String> = of_kind(&objects, "ConfigMap")
        .filter(|map| map["metadata"]["labels"]["grafana_dashboard"] == "1")
        .flat_map(|map| map["data"].as_object().unwrap().keys().cloned())
        .collect();
    assert_eq!(dashboards.len(), 4, "{dashboards:?}");
    let hook = of_kind(&objects, "Pod").find(|pod| pod["metadata"]["annotations"]["helm.sh/hook"] == "test");
    // `helm test --logs` asks for the log after the test has ended: the pod must still be there.
    let policy = &hook.expect("no helm test")["metadata"]["annotations"]["helm.sh/hook-delete-policy"];
    assert_eq!(*policy, "before-hook-creation");
    assert!(chart().join("crds/retailtenant.yaml").exists() && chart().join("templates/NOTES.txt").exists());
}

#[test]
fn pods_prove_who_they_are_by_workload_identity() {
    if !available() {
        return;
    }
    let production = values("production");
    let objects = objects(&production);
    for (part, key) in PARTS.into_iter().zip(["operator", "gateway"]) {
        let account = named(&objects, "ServiceAccount", part);
        let client = &account["metadata"]["annotations"]["azure.workload.identity/client-id"];
        assert_eq!(*client, production[key]["clientId"], "{part}");
        let template = &named(&objects, "Deployment", part)["spec"]["template"];
        assert_eq!(template["metadata"]["labels"]["azure.workload.identity/use"], "true", "{part}");
        assert_eq!(template["spec"]["serviceAccountName"], part);
    }
}

/// An ingress that terminates TLS speaks HTTP to its backend by default.
#[test]
fn an_ingress_speaks_tls_to_a_gateway_that_does() {
    if !available() {
        return;
    }
    let key = "nginx.ingress.kubernetes.io/backend-protocol";
    let annotations = |more: Value| {
        let objects = objects(&merge(&values("production"), &more));
        of_kind(&objects, "Ingress").next().unwrap()["metadata"]["annotations"].clone()
    };
    assert_eq!(annotations(json!({}))[key], "HTTPS");
    let own = annotations(json!({"gateway": {"ingress": {"annotations": {key: "GRPCS", "other": "kept"}}}}));
    assert_eq!(own, json!({key: "GRPCS", "other": "kept"}));
    assert_eq!(annotations(json!({"gateway": {"tls": {"secretName": ""}}})), Value::Null);
}

#[test]
fn pods_are_spread_and_have_their_priority() {
    if !available() {
        return;
    }
    let objects = objects(&values("production"));
    for part in PARTS {
        let pod = &named(&objects, "Deployment", part)["spec"]["template"]["spec"];
        assert_eq!(pod["priorityClassName"], "business-critical", "{part}");
        let constraints = pod["topologySpreadConstraints"].as_array().unwrap();
        let over: BTreeSet<&str> =
            constraints.iter().map(|constraint| constraint["topologyKey"].as_str().unwrap()).collect();
        assert_eq!(over, ["kubernetes.io/hostname", "topology.kubernetes.io/zone"].into(), "{part}");
    }
}

/// Default deny: whoever is selected by a policy of both types gets and sends nothing that the policy does not name.
#[test]
fn every_pod_that_stays_is_behind_a_policy_whose_egress_names_ports() {
    if !available() {
        return;
    }
    for set in ["minimal", "production", "devstack"] {
        let objects = objects(&values(set));
        for pod in of_kind(&objects, "Deployment").chain(of_kind(&objects, "Job")) {
            let labels = &pod["spec"]["template"]["metadata"]["labels"];
            let selects = |policy: &&Value| {
                let selector = policy["spec"]["podSelector"]["matchLabels"].as_object().unwrap();
                selector.iter().all(|(key, value)| labels[key] == *value)
            };
            let policies: Vec<&Value> = of_kind(&objects, "NetworkPolicy").filter(selects).collect();
            let [policy] = policies[..] else {
                panic!("{set}: {}: {} policies", pod["metadata"]["name"], policies.len())
            };
            assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]), "{set}");
            for rule in policy["spec"]["egress"].as_array().into_iter().flatten() {
                let ports = rule["ports"].as_array().is_some_and(|ports| !ports.is_empty());
                assert!(ports, "{set}: {} lets everything out: {rule}", policy["metadata"]["name"]);
            }
        }
    }
}

#[test]
fn the_alerts_that_were_asked_for_are_there() {
    if !available() {
        return;
    }
    let objects = objects(&values("production"));
    let rule = of_kind(&objects, "PrometheusRule").next().unwrap();
    let groups = rule["spec"]["groups"].as_array().unwrap().iter();
    let alerts: BTreeSet<&str> =
        groups.flat_map(|group| group["rules"].as_array().unwrap()).filter_map(|rule| rule["alert"].as_str()).collect();
    for (what, alert) in [
        ("fence deviation", "StorefenceFenceDeviation"),
        ("tenant not ready", "StorefenceTenantNotReady"),
        ("rotation overdue", "StorefenceRotationOverdue"),
        ("authentication failures", "StorefenceAuthFailures"),
        ("errors", "StorefenceErrors"),
        ("95th percentile", "StorefenceSlow"),
        ("pool saturation", "StorefencePoolSaturated"),
        ("vault throttled", "StorefenceKeyVaultThrottled"),
        ("leader missing", "StorefenceLeaderMissing"),
    ] {
        assert!(alerts.contains(alert), "{what}: {alert}");
    }
}
