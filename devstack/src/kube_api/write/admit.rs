//! What single kinds need beyond their schema: defaults that real servers fill in, and rules of their own.

use base64::Engine as _;
use serde_json::{Map, Value, json};

use super::{Cluster, Target, meta};
use crate::kube_api::{
    crd,
    resource::Resource,
    status::{ApiError, FieldError},
};

impl Cluster {
    /// New objects need a namespace that exists and is not on its way out.
    pub(super) fn check_namespace(&self, target: &Target) -> Result<(), ApiError> {
        let key = (String::new(), target.namespace.clone());
        let Some(namespace) = self.store.get("namespaces", &key) else {
            let mut error = ApiError::new(404, "NotFound", format!("namespaces {:?} not found", target.namespace));
            error.details = Some(json!({"name": target.namespace, "kind": "namespaces"}));
            return Err(error);
        };
        if meta(&namespace, "deletionTimestamp").is_empty() {
            return Ok(());
        }
        let why =
            format!("unable to create new content in namespace {} because it is being terminated", target.namespace);
        let mut error = ApiError::forbidden(&target.resource, &target.name, &why);
        if let Some(details) = &mut error.details {
            details["causes"] = json!([{
                "reason": "NamespaceTerminating",
                "message": format!("namespace {} is being terminated", target.namespace),
                "field": "metadata.namespace",
            }]);
        }
        Err(error)
    }
}

/// Whether something other than `metadata.finalizers` keeps an object alive.
pub fn held(resource: &Resource, object: &Value) -> bool {
    resource.is("", "Namespace")
        && object.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|list| !list.is_empty())
}

/// Fills in what the kind's own controller or defaulting code would.
pub fn admit(cluster: &Cluster, new: &mut Value, old: Option<&Value>, target: &Target) -> Result<(), ApiError> {
    let resource = &target.resource;
    if resource.crd.is_some() {
        return Ok(());
    }
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("", "Namespace") => namespace(new, old),
        ("", "Secret") => secret(new),
        ("", "Service") => service(cluster, new, old),
        ("", "Pod") if old.is_none() => new["status"] = json!({"phase": "Pending", "qosClass": "BestEffort"}),
        ("apps", "Deployment") => deployment(new),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => crd::admit(new, old),
        _ => {}
    }
    Ok(())
}

/// Rules of built-in kinds that no schema states.
pub fn validate(new: &Value, old: Option<&Value>, resource: &Resource) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if resource.crd.is_some() {
        return errors;
    }
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("", "Secret" | "ConfigMap") => {
            if let Some(old) = old {
                immutable(new, old, &mut errors);
            }
            for field in ["data", "binaryData"] {
                check_keys(new, field, &mut errors);
            }
        }
        ("apps", "Deployment") => {
            let selector = new.pointer("/spec/selector");
            if let Some(old) = old
                && old.pointer("/spec/selector") != selector
            {
                errors.push(FieldError::invalid(
                    "spec.selector",
                    selector.cloned().unwrap_or_default(),
                    "field is immutable",
                ));
            }
            let labels = new.pointer("/spec/template/metadata/labels").cloned().unwrap_or_else(|| json!({}));
            let wanted = new.pointer("/spec/selector/matchLabels").and_then(Value::as_object);
            if wanted.is_some_and(|w| w.iter().any(|(key, value)| labels.get(key) != Some(value))) {
                let detail = "`selector` does not match template `labels`";
                errors.push(FieldError::invalid("spec.template.metadata.labels", labels, detail));
            }
        }
        ("coordination.k8s.io", "Lease") => {
            if let Some(seconds) = new.pointer("/spec/leaseDurationSeconds").and_then(Value::as_i64)
                && seconds <= 0
            {
                errors.push(FieldError::invalid("spec.leaseDurationSeconds", json!(seconds), "must be greater than 0"));
            }
        }
        ("apiextensions.k8s.io", "CustomResourceDefinition") => errors.extend(crd::validate(new, old)),
        _ => {}
    }
    errors
}

fn namespace(new: &mut Value, old: Option<&Value>) {
    let name = meta(new, "name").to_owned();
    new["metadata"]["labels"]["kubernetes.io/metadata.name"] = json!(name);
    if let Some(old) = old {
        new["spec"] = old["spec"].clone();
        new["status"] = old["status"].clone();
    } else {
        new["spec"] = json!({"finalizers": ["kubernetes"]});
        new["status"] = json!({"phase": "Active"});
    }
}

fn secret(new: &mut Value) {
    let Some(map) = new.as_object_mut() else { return };
    if let Some(Value::Object(text)) = map.remove("stringData") {
        let data = map.entry("data").or_insert_with(|| Value::Object(Map::new()));
        for (key, value) in text {
            let encoded = base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or_default());
            data[key] = json!(encoded);
        }
    }
    if map.get("type").and_then(Value::as_str).is_none_or(str::is_empty) {
        map.insert("type".into(), json!("Opaque"));
    }
}

fn immutable(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    if new["kind"] == "Secret" && new.get("type") != old.get("type") {
        errors.push(FieldError::invalid("type", new["type"].clone(), "field is immutable"));
    }
    if old.get("immutable") != Some(&Value::Bool(true)) {
        return;
    }
    if new.get("immutable") != Some(&Value::Bool(true)) {
        errors.push(FieldError::forbidden("immutable", "field is immutable when `immutable` is set"));
    }
    for field in ["data", "binaryData"] {
        if new.get(field) != old.get(field) {
            errors.push(FieldError::forbidden(field, "field is immutable when `immutable` is set"));
        }
    }
}

fn check_keys(object: &Value, field: &str, errors: &mut Vec<FieldError>) {
    let Some(map) = object.get(field).and_then(Value::as_object) else { return };
    for key in map.keys() {
        let fits = !key.is_empty()
            && key.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
            && key != "."
            && key != "..";
        if !fits {
            errors.push(FieldError::invalid(
                format!("{field}[{key}]"),
                json!(key),
                "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or \
                 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
            ));
        }
    }
}

fn default(object: &mut Value, name: &str, value: Value) {
    if let Some(map) = object.as_object_mut() {
        map.entry(name).or_insert(value);
    }
}

fn service(cluster: &Cluster, new: &mut Value, old: Option<&Value>) {
    default(new, "spec", json!({}));
    default(new, "status", json!({"loadBalancer": {}}));
    let spec = &mut new["spec"];
    default(spec, "type", json!("ClusterIP"));
    default(spec, "sessionAffinity", json!("None"));
    default(spec, "internalTrafficPolicy", json!("Cluster"));
    if let Some(ports) = spec.get_mut("ports").and_then(Value::as_array_mut) {
        for port in ports {
            let number = port["port"].clone();
            default(port, "protocol", json!("TCP"));
            default(port, "targetPort", number);
        }
    }
    if spec["type"] == "ExternalName" {
        return;
    }
    for (name, value) in [("ipFamilies", json!(["IPv4"])), ("ipFamilyPolicy", json!("SingleStack"))] {
        default(spec, name, value);
    }
    if spec.get("clusterIP").and_then(Value::as_str).is_none_or(str::is_empty) {
        let ip = match old.and_then(|o| o.pointer("/spec/clusterIP")) {
            Some(ip) => ip.clone(),
            None => {
                let n = cluster.store.version() % 65_000 + 10;
                json!(format!("10.96.{}.{}", n / 250, n % 250 + 1))
            }
        };
        spec["clusterIP"] = ip;
    }
    spec["clusterIPs"] = json!([spec["clusterIP"]]);
}

fn deployment(new: &mut Value) {
    let Some(spec) = new.get_mut("spec") else { return };
    default(spec, "replicas", json!(1));
    default(spec, "revisionHistoryLimit", json!(10));
    default(spec, "progressDeadlineSeconds", json!(600));
    default(
        spec,
        "strategy",
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}),
    );
}
