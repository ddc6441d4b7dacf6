//! Validation of a value against a structural schema, worded as the API server words it.
//!
//! On update, a subtree that did not change is not validated again ("ratcheting"): an object that was
//! stored under an older, looser schema can still be changed elsewhere.

use std::collections::{HashMap, HashSet};

use serde_json::{Number, Value};

use super::{Additional, ListType, Schema, Type, formats};
use crate::kube_api::status::{FieldError, FieldErrorKind as Kind};

/// Validates schema, list types and CEL rules. `old` is the stored object on update.
///
/// `blocked` says that the object has been found invalid already, so that rules are not evaluated.
pub fn validate(value: &Value, old: Option<&Value>, schema: &Schema, blocked: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check(value, old, schema, "", &mut errors);
    check_lists(value, old, schema, "", &mut errors);
    if blocked || errors.iter().any(|e| e.kind.blocks_rules()) {
        if super::cel::has_rules(schema) {
            errors.push(FieldError::invalid(
                "",
                Value::Null,
                "some validation rules were not checked because the object was invalid; correct the existing errors \
                 to complete validation",
            ));
        }
    } else {
        super::cel::evaluate(value, old, schema, &mut errors);
    }
    errors
}

/// The part of an old object that belongs to a field.
pub(super) fn old_field<'a>(old: Option<&'a Value>, name: &str) -> Option<&'a Value> {
    old.and_then(|o| o.get(name))
}

/// The items of an old list, to be found by the items of the new one: only map lists can tell theirs apart.
pub(super) struct OldItems<'a> {
    by_key: HashMap<String, &'a Value>,
}

impl<'a> OldItems<'a> {
    pub(super) fn new(old: Option<&'a Value>, schema: &Schema) -> Self {
        let mut by_key = HashMap::new();
        if let (ListType::Map(keys), Some(items)) = (&schema.list_type, old.and_then(Value::as_array)) {
            for item in items {
                if let Some(key) = schema.item_key(keys, item) {
                    by_key.insert(Value::Object(key).to_string(), item);
                }
            }
        }
        Self { by_key }
    }

    pub(super) fn get(&self, schema: &Schema, item: &Value) -> Option<&'a Value> {
        if self.by_key.is_empty() {
            return None;
        }
        let ListType::Map(keys) = &schema.list_type else { return None };
        let key = schema.item_key(keys, item)?;
        self.by_key.get(&Value::Object(key).to_string()).copied()
    }
}

fn check(value: &Value, old: Option<&Value>, schema: &Schema, path: &str, errors: &mut Vec<FieldError>) {
    if old == Some(value) {
        return;
    }
    if value.is_null() && schema.nullable {
        return;
    }
    if !check_type(value, schema, path, errors) {
        return;
    }
    if let Some(allowed) = &schema.allowed
        && !allowed.contains(value)
    {
        let names: Vec<String> =
            allowed.iter().map(|v| format!("{:?}", v.as_str().map_or_else(|| v.to_string(), str::to_owned))).collect();
        let detail = format!("supported values: {}", names.join(", "));
        errors.push(FieldError::new(Kind::NotSupported, path, value.clone(), detail));
    }
    match value {
        Value::String(text) => check_string(text, schema, path, errors),
        Value::Number(number) => check_number(number, schema, path, errors),
        Value::Array(items) => {
            check_count(items.len(), schema.size, "items", path, value, errors);
            if schema.unique_items && items.iter().enumerate().any(|(i, v)| items[..i].contains(v)) {
                errors.push(FieldError::invalid(
                    path,
                    value.clone(),
                    format!("{} shouldn't contain duplicates", body(path)),
                ));
            }
            if let Some(item_schema) = &schema.items {
                let old = OldItems::new(old, schema);
                for (index, item) in items.iter().enumerate() {
                    check(item, old.get(schema, item), item_schema, &format!("{path}[{index}]"), errors);
                }
            }
        }
        Value::Object(map) => {
            check_count(map.len(), schema.entries, "properties", path, value, errors);
            for name in &schema.required {
                if !map.contains_key(name) {
                    errors.push(FieldError::required(join(path, name), ""));
                }
            }
            for (name, child) in map {
                if let Some(field) = schema.properties.get(name) {
                    check(child, old_field(old, name), field, &join(path, name), errors);
                } else if let Additional::Schema(field) = &schema.additional {
                    check(child, old_field(old, name), field, &join(path, name), errors);
                }
            }
        }
        Value::Bool(_) | Value::Null => {}
    }
    check_combinations(value, schema, path, errors);
}

fn check_type(value: &Value, schema: &Schema, path: &str, errors: &mut Vec<FieldError>) -> bool {
    let wanted = if schema.int_or_string {
        if value.is_string() || integer(value) {
            return true;
        }
        "integer,string"
    } else {
        let Some(kind) = schema.kind else { return true };
        let fits = match kind {
            Type::Object => value.is_object(),
            Type::Array => value.is_array(),
            Type::String => value.is_string(),
            Type::Integer => integer(value),
            Type::Number => value.is_number(),
            Type::Boolean => value.is_boolean(),
        };
        if fits {
            return true;
        }
        kind.name()
    };
    let actual = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) if integer(value) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let detail = format!("{} must be of type {wanted}: \"{actual}\"", body(path));
    errors.push(FieldError::new(Kind::TypeInvalid, path, Value::String(actual.into()), detail));
    false
}

fn integer(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|f| f.fract() == 0.0)
}

fn check_string(text: &str, schema: &Schema, path: &str, errors: &mut Vec<FieldError>) {
    let shown = || Value::String(text.to_owned());
    let length = text.chars().count() as u64;
    if let Some(min) = schema.length.0
        && length < min
    {
        errors.push(FieldError::invalid(path, shown(), format!("{} should be at least {min} chars long", body(path))));
    }
    if let Some(max) = schema.length.1
        && length > max
    {
        errors.push(FieldError::new(Kind::TooLong, path, shown(), format!("may not be more than {max} bytes")));
    }
    if let Some(pattern) = &schema.pattern
        && !pattern.is_match(text)
    {
        errors.push(FieldError::invalid(path, shown(), format!("{} should match '{pattern}'", body(path))));
    }
    if let Some(format) = &schema.format
        && !formats::matches(format, text)
    {
        let detail = format!("{} must be of type {format}: {:?}", body(path), text);
        errors.push(FieldError::invalid(path, shown(), detail));
    }
}

fn check_number(number: &Number, schema: &Schema, path: &str, errors: &mut Vec<FieldError>) {
    let Some(n) = number.as_f64() else { return };
    let shown = || Value::Number(number.clone());
    if let Some((min, exclusive)) = schema.minimum
        && (n < min || (exclusive && n <= min))
    {
        let than = if exclusive { "greater than" } else { "greater than or equal to" };
        errors.push(FieldError::invalid(path, shown(), format!("{} should be {than} {min}", body(path))));
    }
    if let Some((max, exclusive)) = schema.maximum
        && (n > max || (exclusive && n >= max))
    {
        let than = if exclusive { "less than" } else { "less than or equal to" };
        errors.push(FieldError::invalid(path, shown(), format!("{} should be {than} {max}", body(path))));
    }
    if let Some(step) = schema.multiple_of
        && (n / step).fract() != 0.0
    {
        errors.push(FieldError::invalid(path, shown(), format!("{} should be a multiple of {step}", body(path))));
    }
    let limits = match schema.format.as_deref() {
        Some("int32") => Some((f64::from(i32::MIN), f64::from(i32::MAX))),
        _ => None,
    };
    if limits.is_some_and(|(low, high)| n < low || n > high) {
        // The server reports this one without a field path.
        let why = format!("Checked value must be of type integer with format int32 in {path}");
        errors.push(FieldError::invalid("", Value::String(String::new()), why));
    }
}

fn check_count(
    count: usize,
    (min, max): (Option<u64>, Option<u64>),
    what: &str,
    path: &str,
    value: &Value,
    errors: &mut Vec<FieldError>,
) {
    if let Some(min) = min
        && (count as u64) < min
    {
        errors.push(FieldError::invalid(
            path,
            value.clone(),
            format!("{} should have at least {min} {what}", body(path)),
        ));
    }
    if let Some(max) = max
        && count as u64 > max
    {
        let detail = format!("must have at most {max} items");
        errors.push(FieldError::new(Kind::TooMany, path, Value::from(count), detail));
    }
}

fn check_combinations(value: &Value, schema: &Schema, path: &str, errors: &mut Vec<FieldError>) {
    let passes = |s: &Schema| {
        let mut found = Vec::new();
        check(value, None, s, path, &mut found);
        found.is_empty()
    };
    for branch in &schema.all_of {
        check(value, None, branch, path, errors);
    }
    // The server reports these without a field path.
    let mut complain = |text: String| errors.push(FieldError::invalid("", Value::String(String::new()), text));
    if !schema.any_of.is_empty() && !schema.any_of.iter().any(|s| passes(s)) {
        complain(format!("{path:?} must validate at least one schema (anyOf)"));
    }
    if !schema.one_of.is_empty() {
        match schema.one_of.iter().filter(|s| passes(s)).count() {
            1 => {}
            0 => complain(format!("{path:?} must validate one and only one schema (oneOf). Found none valid")),
            n => complain(format!(
                "{path:?} must validate one and only one schema (oneOf). Found {n} valid alternatives"
            )),
        }
    }
    if schema.not.as_ref().is_some_and(|s| passes(s)) {
        complain(format!("{path:?} must not validate the schema (not)"));
    }
}

/// Duplicates in sets and map lists.
fn check_lists(value: &Value, old: Option<&Value>, schema: &Schema, path: &str, errors: &mut Vec<FieldError>) {
    if old == Some(value) {
        return;
    }
    match value {
        Value::Object(map) => {
            for (name, child) in map {
                if let Some(field) = schema.field(name) {
                    check_lists(child, old_field(old, name), field, &join(path, name), errors);
                }
            }
        }
        Value::Array(items) => {
            let mut seen = HashSet::new();
            let old = OldItems::new(old, schema);
            for (index, item) in items.iter().enumerate() {
                let identity = match &schema.list_type {
                    ListType::Atomic => None,
                    ListType::Set => Some(item.clone()),
                    ListType::Map(keys) => schema.item_key(keys, item).map(Value::Object),
                };
                if let Some(identity) = identity
                    && !seen.insert(identity.to_string())
                {
                    errors.push(FieldError::new(Kind::Duplicate, format!("{path}[{index}]"), identity, ""));
                }
                if let Some(item_schema) = &schema.items {
                    check_lists(item, old.get(schema, item), item_schema, &format!("{path}[{index}]"), errors);
                }
            }
        }
        _ => {}
    }
}

pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn body(path: &str) -> String {
    format!("{path} in body")
}
