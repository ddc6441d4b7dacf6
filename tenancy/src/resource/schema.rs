//! The CustomResourceDefinition as the API server gets it.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

use super::RetailTenant;

/// Bounds of the API machinery's own `Condition`, which the type that stands for it here does not carry.
const CONDITION: [(&str, u64); 3] = [("message", 32_768), ("reason", 1024), ("type", 316)];

/// The CustomResourceDefinition as it stands in `crds/`.
///
/// Differs from the derived one in three ways. No optional field is `nullable`: a null would count as given in the CEL
/// rules and as absent in Rust; the API server drops or refuses nulls instead. No number has a format that Kubernetes does
/// not know, because the server warns of each. And conditions have the bounds of `metav1.Condition`.
#[must_use]
#[allow(clippy::missing_panics_doc)] // what the derive makes is a CRD, before and after
pub fn crd() -> CustomResourceDefinition {
    let mut crd = serde_json::to_value(RetailTenant::crd()).expect("a CRD is JSON");
    adjust(&mut crd);
    serde_json::from_value(crd).expect("still a CRD")
}

fn adjust(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.get("nullable").is_some_and(Value::is_boolean) {
                map.remove("nullable");
            }
            signed(map);
            if let Some(properties) = map.get_mut("properties").filter(|fields| is_condition(fields)) {
                for (field, bound) in CONDITION {
                    properties[field]["maxLength"] = bound.into();
                }
                properties["status"]["enum"] = json!(["True", "False", "Unknown"]);
            }
            map.values_mut().for_each(adjust);
        }
        Value::Array(items) => items.iter_mut().for_each(adjust),
        _ => {}
    }
}

/// Kubernetes knows `int32` and `int64`; the range is in `minimum` and `maximum`.
fn signed(schema: &mut Map<String, Value>) {
    if schema.get("type").and_then(Value::as_str) != Some("integer") {
        return;
    }
    let format = match schema.get("format").and_then(Value::as_str) {
        Some("uint8" | "uint16" | "uint32") => {
            let max = schema.get("maximum").and_then(Value::as_f64);
            if max.is_some_and(|max| max <= f64::from(i32::MAX)) { "int32" } else { "int64" }
        }
        _ => return,
    };
    schema.insert("format".to_owned(), format.into());
}

fn is_condition(fields: &Value) -> bool {
    ["lastTransitionTime", "message", "reason", "status", "type"].iter().all(|field| fields.get(field).is_some())
}
