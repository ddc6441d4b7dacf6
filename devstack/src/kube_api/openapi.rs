//! `/openapi/v3`: one document per group and version, for `kubectl explain` and for kubectl's choice of patch.

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    builtin,
    crd::published,
    resource::{Registry, Resource},
};

/// `/openapi/v3`
pub fn index(registry: &Registry) -> Value {
    let mut paths = Map::new();
    for resource in registry.all() {
        let path = group_path(&resource);
        if !paths.contains_key(&path) {
            let document = document(registry, &resource.group, &resource.version).unwrap_or_default();
            let hash = Sha256::digest(document.to_string());
            let hash: String = hash.iter().map(|byte| format!("{byte:02X}")).collect();
            let url = format!("/openapi/v3/{path}?hash={hash}");
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
    }
    json!({"paths": paths})
}

fn group_path(resource: &Resource) -> String {
    if resource.group.is_empty() {
        format!("api/{}", resource.version)
    } else {
        format!("apis/{}/{}", resource.group, resource.version)
    }
}

/// `/openapi/v3/apis/GROUP/VERSION`
pub fn document(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let resources: Vec<_> = registry.all().into_iter().filter(|r| r.group == group && r.version == version).collect();
    if resources.is_empty() {
        return None;
    }
    let mut components = Map::new();
    let mut paths = Map::new();
    for resource in &resources {
        let name = component_name(resource);
        if resource.crd.is_some() {
            let meta = json!({"$ref": format!("#/components/schemas/{}", builtin::OBJECT_META), "description": "Standard object's metadata."});
            let mut schema = published(resource, &meta);
            schema["x-kubernetes-group-version-kind"] = json!([gvk(resource)]);
            components.insert(name.clone(), schema);
            include(builtin::OBJECT_META, &mut components);
        } else {
            include(&name, &mut components);
        }
        resource_paths(resource, &name, &mut paths);
    }
    let options = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
    include(options, &mut components);
    if let Some(schema) = components.get_mut(options) {
        let kinds: Vec<Value> = resources
            .iter()
            .map(|r| json!({"group": r.group, "version": r.version, "kind": "DeleteOptions"}))
            .collect();
        schema["x-kubernetes-group-version-kind"] = json!(kinds.first().into_iter().collect::<Vec<_>>());
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": paths,
        "components": {"schemas": components},
    }))
}

fn component_name(resource: &Resource) -> String {
    match builtin::component_of(resource) {
        Some(name) => name.to_owned(),
        None => {
            let mut parts: Vec<&str> = resource.group.split('.').collect();
            parts.reverse();
            format!("{}.{}.{}", parts.join("."), resource.version, resource.kind)
        }
    }
}

/// Adds a component and everything it refers to.
fn include(name: &str, components: &mut Map<String, Value>) {
    if components.contains_key(name) {
        return;
    }
    let Some(schema) = builtin::components().get(name) else { return };
    components.insert(name.to_owned(), schema.clone());
    let mut referred = Vec::new();
    references(schema, &mut referred);
    for name in referred {
        include(&name, components);
    }
}

fn references(node: &Value, found: &mut Vec<String>) {
    match node {
        Value::Object(map) => {
            if let Some(name) = map.get("$ref").and_then(Value::as_str).and_then(|r| r.rsplit('/').next()) {
                found.push(name.to_owned());
            }
            map.values().for_each(|child| references(child, found));
        }
        Value::Array(list) => list.iter().for_each(|child| references(child, found)),
        _ => {}
    }
}

fn gvk(resource: &Resource) -> Value {
    json!({"group": resource.group, "version": resource.version, "kind": resource.kind})
}

fn resource_paths(resource: &Resource, component: &str, paths: &mut Map<String, Value>) {
    let prefix = format!("/{}", group_path(resource));
    let base = if resource.namespaced {
        format!("{prefix}/namespaces/{{namespace}}/{}", resource.plural)
    } else {
        format!("{prefix}/{}", resource.plural)
    };
    let item = format!("{base}/{{name}}");
    let operations = |pairs: &[(&str, &str)]| -> Value {
        let map: Map<String, Value> = pairs
            .iter()
            .map(|(method, action)| ((*method).to_owned(), operation(resource, component, method, action)))
            .collect();
        Value::Object(map)
    };
    if resource.verbs.len() == 1 {
        paths.insert(base, operations(&[("post", "post")]));
        return;
    }
    if resource.namespaced {
        paths.insert(format!("{prefix}/{}", resource.plural), operations(&[("get", "list")]));
    }
    paths.insert(base, operations(&[("get", "list"), ("post", "post"), ("delete", "deletecollection")]));
    let single = [("get", "get"), ("put", "put"), ("patch", "patch"), ("delete", "delete")];
    paths.insert(item.clone(), operations(&single));
    if resource.has_status {
        paths.insert(format!("{item}/status"), operations(&single[..3]));
    }
}

fn operation(resource: &Resource, component: &str, method: &str, action: &str) -> Value {
    let schema = json!({"$ref": format!("#/components/schemas/{component}")});
    let names: &[&str] = match method {
        "post" | "put" => &["dryRun", "fieldManager", "fieldValidation"],
        "patch" => &["dryRun", "fieldManager", "fieldValidation", "force"],
        "delete" => &["dryRun", "gracePeriodSeconds", "propagationPolicy"],
        _ => &["limit", "continue", "labelSelector", "fieldSelector", "resourceVersion", "watch"],
    };
    let parameters: Vec<Value> = names
        .iter()
        .map(|name| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}}))
        .collect();
    let mut operation = json!({
        "parameters": parameters,
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": schema}}}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": gvk(resource),
    });
    // kubectl chooses its patch by these: custom kinds have no strategic merge.
    let content: &[&str] = match (method, resource.crd.is_some()) {
        ("patch", true) => {
            &["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"]
        }
        ("patch", false) => &[
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
            "application/apply-patch+yaml",
        ],
        ("post" | "put", _) => &["*/*"],
        _ => &[],
    };
    if !content.is_empty() {
        let body: Map<String, Value> = content
            .iter()
            .map(|kind| {
                (
                    (*kind).to_owned(),
                    if method == "patch" { json!({"schema": {"type": "object"}}) } else { json!({"schema": schema}) },
                )
            })
            .collect();
        operation["requestBody"] = json!({"content": body, "required": true});
    }
    operation
}
