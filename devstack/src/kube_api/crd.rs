//! CustomResourceDefinitions: checked, established at once, and turned into served kinds.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{
    builtin,
    resource::{ALL_VERBS, Column, Resource},
    schema::{Additional, RuleCost, Schema, SchemaError},
    status::{FieldError, FieldErrorKind},
    write::now,
};

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn strings(object: &Value, pointer: &str) -> Vec<String> {
    list(object, pointer).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Defaults of names, and the status that the establishing controller would write.
pub fn admit(crd: &mut Value, old: Option<&Value>) {
    let kind = text(crd, "/spec/names/kind").to_owned();
    if let Some(names) = crd.pointer_mut("/spec/names").and_then(Value::as_object_mut) {
        names.entry("singular").or_insert_with(|| json!(kind.to_lowercase()));
        names.entry("listKind").or_insert_with(|| json!(format!("{kind}List")));
    }
    if let Some(spec) = crd.get_mut("spec").and_then(Value::as_object_mut) {
        spec.entry("conversion").or_insert_with(|| json!({"strategy": "None"}));
    }
    let stored: Vec<Value> = list(crd, "/spec/versions")
        .iter()
        .filter(|v| v.get("storage") == Some(&Value::Bool(true)))
        .filter_map(|v| v.get("name").cloned())
        .collect();
    let conditions = match old.and_then(|o| o.pointer("/status/conditions")) {
        Some(conditions) => conditions.clone(),
        None => json!([
            {"type": "NamesAccepted", "status": "True", "lastTransitionTime": now(), "reason": "NoConflicts", "message": "no conflicts found"},
            {"type": "Established", "status": "True", "lastTransitionTime": now(), "reason": "InitialNamesAccepted", "message": "the initial names have been accepted"},
        ]),
    };
    crd["status"] = json!({
        "acceptedNames": crd.pointer("/spec/names").cloned().unwrap_or_else(|| json!({})),
        "conditions": conditions,
        "storedVersions": stored,
    });
}

/// Marks a definition that waits for its objects to go.
pub fn set_terminating(crd: &mut Value) {
    let condition = json!({
        "type": "Terminating", "status": "True", "lastTransitionTime": now(),
        "reason": "InstanceDeletionInProgress", "message": "CustomResource deletion is in progress",
    });
    if let Some(conditions) = crd.pointer_mut("/status/conditions").and_then(Value::as_array_mut) {
        conditions.push(condition);
    }
}

/// The rules of `apiextensions.k8s.io/v1` that matter to authors of a definition.
pub fn validate(crd: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let name = text(crd, "/metadata/name");
    let wanted = format!("{}.{}", text(crd, "/spec/names/plural"), text(crd, "/spec/group"));
    if name != wanted {
        errors.push(FieldError::invalid("metadata.name", json!(name), "must be spec.names.plural+\".\"+spec.group"));
    }
    for (pointer, path) in
        [("/spec/group", "spec.group"), ("/spec/scope", "spec.scope"), ("/spec/names/kind", "spec.names.kind")]
    {
        if text(crd, pointer).is_empty() {
            errors.push(FieldError::required(path, ""));
        }
        if let Some(old) = old
            && pointer != "/spec/names/kind"
            && text(old, pointer) != text(crd, pointer)
        {
            errors.push(FieldError::invalid(path, json!(text(crd, pointer)), "field is immutable"));
        }
    }
    let versions = list(crd, "/spec/versions");
    let storage = versions.iter().filter(|v| v.get("storage") == Some(&Value::Bool(true))).count();
    if storage != 1 {
        errors.push(FieldError::invalid(
            "spec.versions",
            json!(versions),
            "must have exactly one version marked as storage version",
        ));
    }
    for (version, path) in versions.iter().zip(schema_paths(versions)) {
        match version.pointer("/schema/openAPIV3Schema") {
            None => errors.push(FieldError::required(path, "schemas are required")),
            Some(raw) => check_schema(raw, &path, &mut errors),
        }
    }
    errors
}

/// What the server warns of when a definition is new or changed: formats that it does not check.
pub fn warnings(crd: &Value, old: Option<&Value>) -> Vec<String> {
    let mut formats = std::collections::BTreeSet::new();
    for version in list(crd, "/spec/versions") {
        if let Some(raw) = version.pointer("/schema/openAPIV3Schema") {
            unknown_formats(raw, &mut formats);
        }
    }
    let spec = |object: &Value| object.get("spec").cloned();
    if old.is_some_and(|old| spec(old) == spec(crd)) {
        return Vec::new();
    }
    formats.into_iter().map(|format| format!("unrecognized format {format:?}")).collect()
}

fn unknown_formats(raw: &Value, found: &mut std::collections::BTreeSet<String>) {
    match raw {
        Value::Object(node) => {
            if let Some(format) = node.get("format").and_then(Value::as_str)
                && !super::schema::knows_format(format)
            {
                found.insert(format.to_owned());
            }
            for (name, child) in node {
                match (name.as_str(), child) {
                    ("properties", Value::Object(properties)) => {
                        properties.values().for_each(|child| unknown_formats(child, found));
                    }
                    ("items" | "additionalProperties" | "not" | "allOf" | "anyOf" | "oneOf", child) => {
                        unknown_formats(child, found);
                    }
                    _ => {}
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|child| unknown_formats(child, found)),
        _ => {}
    }
}

/// Where errors say that the schemas of the versions stand: one schema for all is named once.
fn schema_paths(versions: &[Value]) -> Vec<String> {
    let schemas: Vec<_> = versions.iter().map(|v| v.pointer("/schema/openAPIV3Schema")).collect();
    if schemas.first().is_some_and(Option::is_some) && schemas.windows(2).all(|pair| pair[0] == pair[1]) {
        return vec!["spec.validation.openAPIV3Schema".into()];
    }
    (0..versions.len()).map(|index| format!("spec.versions[{index}].schema.openAPIV3Schema")).collect()
}

/// What the rules of a definition are estimated to cost, as a real server estimates it when the definition is applied.
pub fn rule_costs(crd: &Value) -> Result<Vec<RuleCost>, SchemaError> {
    let versions = list(crd, "/spec/versions");
    let mut costs = Vec::new();
    for (version, path) in versions.iter().zip(schema_paths(versions)) {
        let raw = version.pointer("/schema/openAPIV3Schema").cloned().unwrap_or_default();
        costs.extend(super::schema::costs(&Schema::compile(&raw, &path)?, &path));
    }
    Ok(costs)
}

fn check_schema(raw: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let schema = match Schema::compile(raw, path) {
        Ok(schema) => schema,
        Err(SchemaError { path, why, value }) => {
            errors.push(FieldError::invalid(path, value, why));
            return;
        }
    };
    if text(raw, "/type") != "object" {
        errors.push(FieldError::invalid(
            format!("{path}.type"),
            json!(text(raw, "/type")),
            "must be object at the root",
        ));
    }
    check_structural(raw, path, errors);
    errors.extend(super::schema::check_rules(&schema, path));
    check_defaults(&schema, path, errors);
}

/// Every node names its type, and list types are complete.
fn check_structural(raw: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(node) = raw.as_object() else { return };
    let flag = |name: &str| node.get(name) == Some(&Value::Bool(true));
    let open = flag("x-kubernetes-int-or-string") || flag("x-kubernetes-preserve-unknown-fields");
    if !node.contains_key("type") && !open {
        errors.push(FieldError::required(format!("{path}.type"), "must not be empty for specified object fields"));
    }
    if node.contains_key("properties") && node.contains_key("additionalProperties") {
        errors.push(FieldError::forbidden(
            format!("{path}.additionalProperties"),
            "additionalProperties and properties are mutual exclusive",
        ));
    }
    if node.get("type") == Some(&json!("array")) && !node.contains_key("items") {
        errors.push(FieldError::required(format!("{path}.items"), "must be specified"));
    }
    if node.get("x-kubernetes-list-type") == Some(&json!("map")) {
        let items = node.get("items").cloned().unwrap_or_default();
        let required = strings(&items, "/required");
        for key in strings(raw, "/x-kubernetes-list-map-keys") {
            let defaulted = items.pointer(&format!("/properties/{key}/default")).is_some();
            if !required.contains(&key) && !defaulted {
                let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
                errors.push(FieldError::required(format!("{path}.items.properties[{key}].default"), detail));
            }
        }
    }
    if let Some(properties) = node.get("properties").and_then(Value::as_object) {
        for (name, child) in properties {
            // The server owns metadata; only names may be constrained.
            if !(path.ends_with("openAPIV3Schema") && name == "metadata") {
                check_structural(child, &format!("{path}.properties[{name}]"), errors);
            }
        }
    }
    if let Some(items) = node.get("items") {
        check_structural(items, &format!("{path}.items"), errors);
    }
    if let Some(values) = node.get("additionalProperties").filter(|v| v.is_object()) {
        check_structural(values, &format!("{path}.additionalProperties"), errors);
    }
}

/// Defaults must themselves be valid.
fn check_defaults(schema: &Schema, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(default) = &schema.default {
        let mut value = default.clone();
        super::schema::apply_defaults(&mut value, schema, true);
        for error in super::schema::validate(&value, None, schema, false) {
            if error.kind != FieldErrorKind::Invalid || !error.path.is_empty() {
                errors.push(FieldError {
                    path: format!("{path}.default{}{}", if error.path.is_empty() { "" } else { "." }, error.path),
                    ..error
                });
            }
        }
    }
    for (name, child) in &schema.properties {
        check_defaults(child, &format!("{path}.properties[{name}]"), errors);
    }
    if let Some(items) = &schema.items {
        check_defaults(items, &format!("{path}.items"), errors);
    }
    if let Additional::Schema(values) = &schema.additional {
        check_defaults(values, &format!("{path}.additionalProperties"), errors);
    }
}

/// The kinds that a definition serves.
pub fn resources(crd: &Value) -> Result<Vec<Resource>, SchemaError> {
    let name = text(crd, "/metadata/name").to_owned();
    let served = list(crd, "/spec/versions").iter().filter(|v| v.get("served") == Some(&Value::Bool(true)));
    served.map(|version| resource(crd, version, &name)).collect()
}

fn resource(crd: &Value, version: &Value, name: &str) -> Result<Resource, SchemaError> {
    let raw = version.pointer("/schema/openAPIV3Schema").cloned().unwrap_or_else(|| json!({"type": "object"}));
    let mut schema = Schema::compile(&raw, "openAPIV3Schema")?;
    // The server's own fields are part of every schema.
    for field in ["apiVersion", "kind"] {
        let plain = Schema { kind: Some(super::schema::Type::String), ..Schema::default() };
        schema.properties.insert(field.into(), Arc::new(plain));
    }
    let constraints = schema.properties.get("metadata").cloned();
    let metadata = builtin::object_meta_schema(constraints.as_deref());
    schema.properties.insert("metadata".into(), metadata);
    let group = text(crd, "/spec/group").to_owned();
    let plural = text(crd, "/spec/names/plural").to_owned();
    Ok(Resource {
        version: text(version, "/name").to_owned(),
        singular: text(crd, "/spec/names/singular").to_owned(),
        kind: text(crd, "/spec/names/kind").to_owned(),
        list_kind: text(crd, "/spec/names/listKind").to_owned(),
        short_names: strings(crd, "/spec/names/shortNames"),
        categories: strings(crd, "/spec/names/categories"),
        namespaced: text(crd, "/spec/scope") == "Namespaced",
        has_status: version.pointer("/subresources/status").is_some(),
        verbs: ALL_VERBS,
        schema: Arc::new(schema),
        openapi: raw,
        columns: columns(version),
        crd: Some(name.to_owned()),
        table: format!("{plural}.{group}").into(),
        group,
        plural,
    })
}

fn columns(version: &Value) -> Vec<Column> {
    let declared = list(version, "/additionalPrinterColumns");
    if declared.is_empty() {
        return vec![Column {
            name: "Age".into(),
            kind: "date".into(),
            format: String::new(),
            description: String::new(),
            priority: 0,
            json_path: ".metadata.creationTimestamp".into(),
        }];
    }
    declared
        .iter()
        .map(|column| Column {
            name: text(column, "/name").to_owned(),
            kind: text(column, "/type").to_owned(),
            format: text(column, "/format").to_owned(),
            description: text(column, "/description").to_owned(),
            priority: column.get("priority").and_then(Value::as_i64).unwrap_or_default(),
            json_path: text(column, "/jsonPath").to_owned(),
        })
        .collect()
}

/// The published schema of a custom kind: as declared, with the server's own fields.
pub fn published(resource: &Resource, object_meta: &Value) -> Value {
    let mut schema = resource.openapi.clone();
    if !schema.get("properties").is_some_and(Value::is_object) {
        schema["properties"] = Value::Object(Map::new());
    }
    schema["properties"]["apiVersion"] = json!({"type": "string", "description": builtin::API_VERSION});
    schema["properties"]["kind"] = json!({"type": "string", "description": builtin::KIND});
    schema["properties"]["metadata"] = object_meta.clone();
    schema
}
