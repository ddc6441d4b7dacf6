//! Rendered objects: the Kubernetes types, restricted pods, selectors that match, golden files.

use k8s_openapi::{
    Resource,
    api::{
        apps::v1::Deployment,
        autoscaling::v2::HorizontalPodAutoscaler,
        batch::v1::Job,
        core::v1::{ConfigMap, Pod, PodSpec, Service, ServiceAccount},
        networking::v1::{Ingress, NetworkPolicy},
        policy::v1::PodDisruptionBudget,
        rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
    },
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use storefence_devstack::stack;
use storefence_tests::outside::helm::helm;

use crate::{
    readme::generated,
    render::{available, helm_lint, helm_template, lint, objects, parse, read, values},
};

pub const SETS: [&str; 4] = ["minimal", "production", "route", "devstack"];

/// Kinds that the Kubernetes API itself does not have.
const FOREIGN: [&str; 4] = ["ServiceMonitor", "PodMonitor", "PrometheusRule", "HTTPRoute"];

fn kind(object: &Value) -> &str {
    object["kind"].as_str().unwrap_or_default()
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

pub fn of_kind<'a>(objects: &'a [Value], wanted: &'a str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| kind(object) == wanted)
}

/// Reads an object as a type and finds what the type does not know: written again, everything must still be there.
fn check<T: Resource + DeserializeOwned + Serialize>(object: &Value) {
    assert_eq!(object["apiVersion"], T::API_VERSION, "{}", name(object));
    let typed: T =
        serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{} {}: {error}", T::KIND, name(object)));
    let again = serde_json::to_value(&typed).unwrap();
    lost(object, &again, &format!("{} {}", T::KIND, name(object)));
}

fn lost(before: &Value, after: &Value, path: &str) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (key, value) in before {
                match after.get(key) {
                    Some(other) => lost(value, other, &format!("{path}.{key}")),
                    None => panic!("{path}.{key} is no field of this type"),
                }
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            assert_eq!(before.len(), after.len(), "{path}");
            before.iter().zip(after).for_each(|(before, after)| lost(before, after, path));
        }
        _ => assert_eq!(before, after, "{path}"),
    }
}

#[test]
fn every_object_is_of_its_kubernetes_type() {
    if !available() {
        return;
    }
    for set in SETS {
        for object in objects(&values(set)) {
            match kind(&object) {
                "Deployment" => check::<Deployment>(&object),
                "Job" => check::<Job>(&object),
                "HorizontalPodAutoscaler" => check::<HorizontalPodAutoscaler>(&object),
                "ConfigMap" => check::<ConfigMap>(&object),
                "Pod" => check::<Pod>(&object),
                "Service" => check::<Service>(&object),
                "ServiceAccount" => check::<ServiceAccount>(&object),
                "Ingress" => check::<Ingress>(&object),
                "NetworkPolicy" => check::<NetworkPolicy>(&object),
                "PodDisruptionBudget" => check::<PodDisruptionBudget>(&object),
                "ClusterRole" => check::<ClusterRole>(&object),
                "ClusterRoleBinding" => check::<ClusterRoleBinding>(&object),
                "Role" => check::<Role>(&object),
                "RoleBinding" => check::<RoleBinding>(&object),
                other => assert!(FOREIGN.contains(&other), "{other} {}", name(&object)),
            }
        }
    }
}

/// The pods' specs, with a name for messages.
pub fn pods(objects: &[Value]) -> Vec<(String, PodSpec)> {
    let spec = |value: &Value| serde_json::from_value(value.clone()).unwrap();
    of_kind(objects, "Deployment")
        .chain(of_kind(objects, "Job"))
        .map(|object| (name(object).to_owned(), spec(&object["spec"]["template"]["spec"])))
        .chain(of_kind(objects, "Pod").map(|object| (name(object).to_owned(), spec(&object["spec"]))))
        .collect()
}

/// <https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted>, and a read-only root file system.
#[test]
fn pods_are_restricted() {
    if !available() {
        return;
    }
    for set in SETS {
        let pods = pods(&objects(&values(set)));
        // The stand-ins, their database and the sample data beside operator, gateway and test.
        assert_eq!(pods.len(), if set == "devstack" { 6 } else { 3 }, "{set}");
        for (name, pod) in pods {
            let security = pod.security_context.clone().unwrap_or_default();
            assert_eq!(security.run_as_non_root, Some(true), "{name}");
            assert_ne!(security.run_as_user, Some(0), "{name}");
            assert_eq!(
                security.seccomp_profile.map(|profile| profile.type_).as_deref(),
                Some("RuntimeDefault"),
                "{name}"
            );
            for host in [pod.host_network, pod.host_pid, pod.host_ipc] {
                assert_ne!(host, Some(true), "{name}");
            }
            for volume in pod.volumes.iter().flatten() {
                assert!(volume.host_path.is_none(), "{name}: {}", volume.name);
            }
            for container in pod.containers.iter().chain(pod.init_containers.iter().flatten()) {
                let security = container.security_context.clone().unwrap_or_default();
                assert_eq!(security.allow_privilege_escalation, Some(false), "{name}");
                assert_eq!(security.read_only_root_filesystem, Some(true), "{name}");
                assert_ne!(security.privileged, Some(true), "{name}");
                let capabilities = security.capabilities.unwrap_or_default();
                assert_eq!(capabilities.drop.unwrap_or_default(), ["ALL"], "{name}");
                assert!(capabilities.add.unwrap_or_default().is_empty(), "{name}");
                assert!(container.ports.iter().flatten().all(|port| port.host_port.is_none()), "{name}");
                let resources = container.resources.clone().unwrap_or_default();
                assert!(resources.requests.is_some_and(|requests| requests.contains_key("memory")), "{name}");
                assert!(resources.limits.is_some_and(|limits| limits.contains_key("memory")), "{name}");
            }
        }
    }
}

#[test]
fn deployments_are_probed_and_mount_what_they_have() {
    if !available() {
        return;
    }
    for set in SETS {
        let objects = objects(&values(set));
        for (name, pod) in pods(&objects) {
            let volumes: Vec<_> = pod.volumes.iter().flatten().map(|volume| volume.name.as_str()).collect();
            let container = &pod.containers[0];
            let mounts: Vec<_> = container.volume_mounts.iter().flatten().collect();
            for mount in &mounts {
                assert!(volumes.contains(&mount.name.as_str()), "{set}: {name}: no volume {}", mount.name);
                assert!(mount.sub_path.is_none(), "{name}: a single file does not follow changes");
            }
            assert_eq!(volumes.len(), mounts.len(), "{set}: {name}: each volume is mounted once");
            let ports: Vec<_> = container.ports.iter().flatten().filter_map(|port| port.name.as_deref()).collect();
            if name.ends_with("-test") || name.ends_with("-seed") {
                continue;
            }
            for probe in [&container.startup_probe, &container.liveness_probe, &container.readiness_probe] {
                let probe = probe.as_ref().unwrap_or_else(|| panic!("{name}: a probe is missing"));
                let get = probe.http_get.as_ref().map(|get| &get.port);
                let Some(port) = get.or(probe.tcp_socket.as_ref().map(|socket| &socket.port)) else {
                    assert!(name.contains("-devstack") && probe.exec.is_some(), "{name}");
                    continue;
                };
                let port = serde_json::to_value(port).unwrap();
                assert!(ports.contains(&port.as_str().unwrap()), "{name}");
            }
        }
    }
}

fn matches(selector: &Value, labels: &Value) -> bool {
    let selector = selector.as_object().unwrap();
    !selector.is_empty() && selector.iter().all(|(key, value)| labels[key] == *value)
}

#[test]
fn selectors_and_references_lead_to_their_objects() {
    if !available() {
        return;
    }
    for set in SETS {
        let objects = objects(&values(set));
        let selected = |selector: &Value| -> Vec<&str> {
            of_kind(&objects, "Deployment")
                .chain(of_kind(&objects, "Job"))
                .filter(|deployment| matches(selector, &deployment["spec"]["template"]["metadata"]["labels"]))
                .map(name)
                .collect()
        };
        let has = |wanted_kind: &str, wanted: &str| of_kind(&objects, wanted_kind).any(|object| name(object) == wanted);
        let port_of = |service: &Value, port: &str| {
            service["spec"]["ports"].as_array().unwrap().iter().any(|found| found["name"] == port)
        };
        for object in &objects {
            let what = format!("{set}: {} {}", kind(object), name(object));
            let spec = &object["spec"];
            match kind(object) {
                "Deployment" => {
                    assert_eq!(selected(&spec["selector"]["matchLabels"]), [name(object)], "{what}");
                    let constraints = spec["template"]["spec"]["topologySpreadConstraints"].as_array();
                    for constraint in constraints.into_iter().flatten() {
                        let selector = &constraint["labelSelector"]["matchLabels"];
                        assert_eq!(selected(selector), [name(object)], "{what}");
                    }
                    assert_eq!(constraints.is_none(), name(object).contains("-devstack"), "{what}: one replica each");
                    let account = spec["template"]["spec"]["serviceAccountName"].as_str().unwrap();
                    assert!(
                        has("ServiceAccount", account) || ["existing", "default"].contains(&account),
                        "{what}: {account}"
                    );
                }
                "Service" => {
                    let [deployment] = selected(&spec["selector"])[..] else { panic!("{what}") };
                    let (_, pod) = pods(&objects).into_iter().find(|(name, _)| name == deployment).unwrap();
                    for port in spec["ports"].as_array().unwrap() {
                        let target = port["targetPort"].as_str();
                        let mut ports = pod.containers[0].ports.iter().flatten();
                        assert!(ports.any(|port| port.name.as_deref() == target), "{what}: {port}");
                    }
                }
                "PodDisruptionBudget" | "PodMonitor" => {
                    let [deployment] = selected(&spec["selector"]["matchLabels"])[..] else { panic!("{what}") };
                    assert_eq!(deployment, name(object), "{what}");
                }
                "NetworkPolicy" => {
                    assert_eq!(selected(&spec["podSelector"]["matchLabels"]), [name(object)], "{what}");
                    assert_eq!(spec["policyTypes"], json!(["Ingress", "Egress"]), "{what}");
                }
                "HorizontalPodAutoscaler" => {
                    assert!(has("Deployment", spec["scaleTargetRef"]["name"].as_str().unwrap()), "{what}");
                    let deployment = of_kind(&objects, "Deployment").find(|found| name(found) == name(object)).unwrap();
                    assert!(deployment["spec"]["replicas"].is_null(), "{what}: both set the number of replicas");
                }
                "ServiceMonitor" => {
                    let selector = &spec["selector"]["matchLabels"];
                    let services: Vec<_> = of_kind(&objects, "Service")
                        .filter(|found| matches(selector, &found["metadata"]["labels"]))
                        .collect();
                    let [service] = services[..] else { panic!("{what}") };
                    for endpoint in spec["endpoints"].as_array().unwrap() {
                        assert!(port_of(service, endpoint["port"].as_str().unwrap()), "{what}");
                    }
                }
                "Ingress" => {
                    let backend = &spec["rules"][0]["http"]["paths"][0]["backend"]["service"];
                    let service =
                        of_kind(&objects, "Service").find(|found| found["metadata"]["name"] == backend["name"]);
                    assert!(port_of(service.unwrap(), backend["port"]["name"].as_str().unwrap()), "{what}");
                    assert_eq!(spec["rules"][0]["host"], "mcp.zava.example", "{what}");
                }
                "HTTPRoute" => {
                    let backend = &spec["rules"][0]["backendRefs"][0];
                    let service =
                        of_kind(&objects, "Service").find(|found| found["metadata"]["name"] == backend["name"]);
                    assert_eq!(service.unwrap()["spec"]["ports"][0]["port"], backend["port"], "{what}");
                    assert_eq!(spec["hostnames"], json!(["mcp.zava.example"]), "{what}");
                }
                "ClusterRoleBinding" | "RoleBinding" => {
                    let role = &object["roleRef"];
                    assert!(has(role["kind"].as_str().unwrap(), role["name"].as_str().unwrap()), "{what}");
                    let account = object["subjects"][0]["name"].as_str().unwrap();
                    assert!(has("ServiceAccount", account) || account == "existing", "{what}");
                }
                _ => {}
            }
            if !kind(object).starts_with("Cluster") {
                assert_eq!(object["metadata"]["namespace"], crate::render::NAMESPACE, "{what}");
            }
        }
    }
}

#[test]
fn nobody_may_read_secrets_and_the_gateway_writes_nothing() {
    if !available() {
        return;
    }
    let objects = objects(&values("production"));
    for object in of_kind(&objects, "ClusterRole").chain(of_kind(&objects, "Role")) {
        for rule in object["rules"].as_array().unwrap() {
            let words = |key: &str| rule[key].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
            let (groups, resources, verbs): (Vec<&str>, Vec<&str>, Vec<&str>) =
                (words("apiGroups"), words("resources"), words("verbs"));
            assert!(![&groups, &resources, &verbs].iter().any(|words| words.contains(&"*")), "{rule}");
            assert!(!resources.contains(&"secrets") && !verbs.contains(&"delete"), "{rule}");
            if name(object).ends_with("-gateway") {
                assert!(verbs.iter().all(|verb| ["get", "list", "watch"].contains(verb)), "{rule}");
            }
        }
    }
    let accounts: Vec<_> = of_kind(&objects, "ServiceAccount").collect();
    assert_eq!(accounts.len(), 2);
    for account in accounts {
        assert!(account["metadata"]["annotations"]["azure.workload.identity/client-id"].is_string());
    }
    for deployment in of_kind(&objects, "Deployment") {
        let labels = &deployment["spec"]["template"]["metadata"]["labels"];
        assert_eq!(labels["azure.workload.identity/use"], "true");
    }
}

/// The stack, and with it every end-to-end test, runs with the chart's rights and no others.
#[test]
fn the_stack_has_the_charts_rights() {
    if !available() {
        return;
    }
    let objects = objects(&values("minimal"));
    for (part, stack) in [("operator", stack::operator_rules()), ("gateway", stack::gateway_rules())] {
        let roles = of_kind(&objects, "ClusterRole").chain(of_kind(&objects, "Role"));
        let chart: Vec<Value> = roles
            .filter(|role| role["metadata"]["labels"]["app.kubernetes.io/component"] == part)
            .flat_map(|role| role["rules"].as_array().unwrap().clone())
            .map(|rule| json!([rule["apiGroups"], rule["resources"], rule["verbs"]]))
            .collect();
        let stack: Vec<Value> = stack.iter().map(|rule| json!([rule.api_groups, rule.resources, rule.verbs])).collect();
        assert_eq!(chart, stack, "{part}");
    }
}

/// The operator alone gets to see an administrator's URI.
#[test]
fn the_gateway_mounts_no_administrators_secret() {
    if !available() {
        return;
    }
    let objects = objects(&values("production"));
    for (name, pod) in pods(&objects) {
        let text = serde_json::to_string(&pod).unwrap();
        assert_eq!(text.contains("administrator"), name.ends_with("-operator"), "{name}");
    }
    for config in of_kind(&objects, "ConfigMap").filter(|object| name(object).ends_with("-gateway")) {
        assert!(!config.to_string().contains("admin"), "{config}");
    }
}

/// What a review sees of a change: all objects, sorted, without the dashboards' contents.
fn golden(mut objects: Vec<Value>) -> String {
    objects.sort_by_key(|object| (kind(object).to_owned(), name(object).to_owned()));
    let mut text = String::new();
    for mut object in objects {
        if name(&object).contains("-dashboard-") {
            object["data"] = Value::from("see charts/storefence/dashboards");
        }
        text.push_str("---\n");
        text.push_str(serde_saphyr::to_string(&object).unwrap().trim_end());
        text.push('\n');
    }
    text
}

#[test]
fn golden_files_are_as_rendered() {
    if !available() {
        return;
    }
    for set in SETS {
        generated(&format!("tests/chart/golden/{set}.yaml"), &golden(objects(&values(set))));
    }
}

#[test]
fn helm_lints_the_chart() {
    if !available() {
        return;
    }
    for set in SETS {
        let problems: Vec<_> = lint(&values(set)).unwrap().into_iter().filter(|(severity, _)| *severity > 1).collect();
        assert!(problems.is_empty(), "{set}: {problems:?}");
    }
}

/// Helm itself, of both major versions, renders the same and lints the chart.
#[test]
fn helm_3_and_helm_4_render_the_same() {
    for major in [3, 4] {
        let Some(helm) = helm(major).unwrap_or_else(|error| panic!("{error:#}")) else { continue };
        for set in SETS {
            let rendered = helm_template(&helm, &values(set)).unwrap_or_else(|error| panic!("{set}: {error}"));
            assert_eq!(
                golden(parse(&rendered)),
                read(&format!("tests/chart/golden/{set}.yaml")),
                "Helm {major}: {set}"
            );
            helm_lint(&helm, &values(set)).unwrap_or_else(|error| panic!("Helm {major}: {set}: {error}"));
        }
    }
}
