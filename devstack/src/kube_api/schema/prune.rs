//! Unknown fields are found and dropped, missing ones filled with their defaults.

use serde_json::Value;

use super::{Additional, Schema};

/// Drops fields that the schema does not know, and lists their paths in `unknown`.
pub fn prune(value: &mut Value, schema: &Schema, path: &str, unknown: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if schema.properties.is_empty() && schema.keeps_unknown() && !schema.embedded {
                return;
            }
            map.retain(|key, child| {
                let at = join(path, key);
                if let Some(field) = schema.field(key) {
                    prune(child, field, &at, unknown);
                    return true;
                }
                if schema.keeps_unknown()
                    || (schema.embedded && matches!(key.as_str(), "apiVersion" | "kind" | "metadata"))
                {
                    return true;
                }
                unknown.push(at);
                false
            });
        }
        Value::Array(items) => {
            if let Some(schema) = &schema.items {
                for (index, item) in items.iter_mut().enumerate() {
                    prune(item, schema, &format!("{path}[{index}]"), unknown);
                }
            }
        }
        _ => {}
    }
}

/// Fills in defaults. A null of a field that is not nullable counts as absent and goes (`drop_nulls`), but for those that
/// an apply has put there: they are left for validation to refuse.
pub fn apply_defaults(value: &mut Value, schema: &Schema, drop_nulls: bool) {
    match value {
        Value::Object(map) => {
            if drop_nulls {
                map.retain(|name, child| !child.is_null() || schema.field(name).is_none_or(|field| field.nullable));
            }
            for (name, field) in &schema.properties {
                if let Some(default) = &field.default
                    && !map.contains_key(name)
                {
                    map.insert(name.clone(), default.clone());
                }
                if let Some(child) = map.get_mut(name) {
                    apply_defaults(child, field, drop_nulls);
                }
            }
            if let Additional::Schema(field) = &schema.additional {
                for (name, child) in map.iter_mut() {
                    if !schema.properties.contains_key(name) {
                        apply_defaults(child, field, drop_nulls);
                    }
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = &schema.items {
                for item in items {
                    apply_defaults(item, schema, drop_nulls);
                }
            }
        }
        _ => {}
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
