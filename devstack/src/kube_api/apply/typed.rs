//! Objects seen through their schema: which fields they hold, how two are merged, what changed between them.

use serde_json::{Map, Value};

use super::fieldset::{FieldSet, field};
use crate::kube_api::schema::{ListType, Schema, Type};

/// How a value is merged and owned.
enum Shape<'a> {
    /// Replaced and owned as a whole.
    Atomic,
    /// Field by field; the flag says whether keys are data (a map) rather than declared names (a struct).
    Fields(Option<&'a Schema>),
    /// A list of scalars.
    Set,
    /// A list of objects told apart by keys.
    Items(&'a Schema, &'a [String]),
}

fn shape<'a>(value: &Value, schema: Option<&'a Schema>) -> Shape<'a> {
    match value {
        Value::Object(_) if schema.is_some_and(|s| s.map_atomic) => Shape::Atomic,
        Value::Object(_) => Shape::Fields(schema),
        Value::Array(_) => match schema.map(|s| &s.list_type) {
            Some(ListType::Set) => Shape::Set,
            Some(ListType::Map(keys)) => match schema {
                Some(schema) => Shape::Items(schema, keys),
                None => Shape::Atomic,
            },
            _ => Shape::Atomic,
        },
        _ => Shape::Atomic,
    }
}

fn child<'a>(schema: Option<&'a Schema>, name: &str) -> Option<&'a Schema> {
    schema.and_then(|s| s.field(name)).map(AsRef::as_ref)
}

fn items(schema: &Schema) -> Option<&Schema> {
    schema.items.as_deref()
}

fn is_map_key(schema: Option<&Schema>, name: &str) -> bool {
    schema.is_none_or(|s| !s.properties.contains_key(name))
}

fn item_element(schema: &Schema, keys: &[String], item: &Value) -> String {
    format!("k:{}", Value::Object(schema.item_key(keys, item).unwrap_or_default()))
}

fn set_element(item: &Value) -> String {
    format!("v:{item}")
}

/// The fields that a value holds.
pub fn fields_of(value: &Value, schema: Option<&Schema>) -> FieldSet {
    let mut set = FieldSet::default();
    match (shape(value, schema), value) {
        (Shape::Fields(schema), Value::Object(map)) => {
            for (name, value) in map {
                let mut below = fields_of(value, child(schema, name));
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                below.member |= empty || is_map_key(schema, name);
                set.children.insert(field(name), below);
            }
        }
        (Shape::Set, Value::Array(list)) => {
            for item in list {
                set.children.insert(set_element(item), FieldSet::leaf());
            }
        }
        (Shape::Items(schema, keys), Value::Array(list)) => {
            for item in list {
                let mut below = fields_of(item, items(schema));
                below.member = true;
                set.children.insert(item_element(schema, keys, item), below);
            }
        }
        _ => set.member = true,
    }
    set
}

/// The fields present in both values that hold something else in `new`.
pub fn modified(old: &Value, new: &Value, schema: Option<&Schema>) -> FieldSet {
    let mut set = FieldSet::default();
    if old == new {
        return set;
    }
    match (shape(new, schema), old, new) {
        (Shape::Fields(schema), Value::Object(old), Value::Object(new)) => {
            for (name, new) in new {
                if let Some(old) = old.get(name) {
                    let below = modified(old, new, child(schema, name));
                    if !below.is_empty() {
                        set.children.insert(field(name), below);
                    }
                }
            }
        }
        // A set's items are either there or not.
        (Shape::Set, Value::Array(_), Value::Array(_)) => {}
        (Shape::Items(schema, keys), Value::Array(old), Value::Array(new)) => {
            let old = index(old, |item| item_element(schema, keys, item));
            for item in new {
                let element = item_element(schema, keys, item);
                if let Some(old) = old.get(&element) {
                    let below = modified(old, item, items(schema));
                    if !below.is_empty() {
                        set.children.insert(element, below);
                    }
                }
            }
        }
        _ => set.member = true,
    }
    set
}

/// The objects and lists that are new as a whole: who puts one there owns it besides its fields. `structs` includes
/// objects of declared fields, which built-in kinds have from the start.
pub fn containers(old: &Value, new: &Value, schema: Option<&Schema>, structs: bool) -> FieldSet {
    let mut set = FieldSet::default();
    match (shape(new, schema), new) {
        (Shape::Fields(schema), Value::Object(map)) => {
            for (name, value) in map {
                let own = child(schema, name);
                let before = old.get(name).unwrap_or(&Value::Null);
                let mut below = containers(before, value, own, structs);
                let whole = match shape(value, own) {
                    Shape::Atomic => false,
                    // Every object has metadata.
                    Shape::Fields(_) if name == "metadata" => false,
                    Shape::Fields(own) => structs || own.is_none_or(|s| s.properties.is_empty()),
                    Shape::Set | Shape::Items(..) => true,
                };
                below.member |= whole && before.is_null();
                if !below.is_empty() {
                    set.children.insert(field(name), below);
                }
            }
        }
        (Shape::Items(schema, keys), Value::Array(list)) => {
            let nothing = Vec::new();
            let old = index(old.as_array().unwrap_or(&nothing), |item| item_element(schema, keys, item));
            for item in list {
                let element = item_element(schema, keys, item);
                let before = old.get(&element).copied().unwrap_or(&Value::Null);
                let below = containers(before, item, items(schema), structs);
                if !below.is_empty() {
                    set.children.insert(element, below);
                }
            }
        }
        _ => {}
    }
    set
}

fn index(list: &[Value], element: impl Fn(&Value) -> String) -> std::collections::HashMap<String, &Value> {
    list.iter().map(|item| (element(item), item)).collect()
}

/// Lays an applied configuration over a live value.
pub fn merge(live: &Value, applied: &Value, schema: Option<&Schema>) -> Value {
    match (shape(applied, schema), live, applied) {
        (Shape::Fields(schema), Value::Object(live), Value::Object(applied)) => {
            let mut merged = live.clone();
            for (name, value) in applied {
                let value = match live.get(name) {
                    Some(live) => merge(live, value, child(schema, name)),
                    None => value.clone(),
                };
                merged.insert(name.clone(), value);
            }
            Value::Object(merged)
        }
        (Shape::Set, Value::Array(live), Value::Array(applied)) => {
            merge_lists(live, applied, set_element, |_, item| item.clone())
        }
        (Shape::Items(schema, keys), Value::Array(live), Value::Array(applied)) => merge_lists(
            live,
            applied,
            |item| item_element(schema, keys, item),
            |live, item| merge(live, item, items(schema)),
        ),
        _ => applied.clone(),
    }
}

/// The applied list's order wins; items that only the live list has keep their position before their successors.
fn merge_lists(
    live: &[Value],
    applied: &[Value],
    element: impl Fn(&Value) -> String,
    join: impl Fn(&Value, &Value) -> Value,
) -> Value {
    let by_element = index(live, &element);
    let wanted = index(applied, &element);
    let mut merged = Vec::with_capacity(live.len() + applied.len());
    let mut rest = live.iter().peekable();
    for item in applied {
        while let Some(own) = rest.next_if(|own| !wanted.contains_key(&element(own))) {
            merged.push(own.clone());
        }
        let name = element(item);
        rest.next_if(|own| element(own) == name);
        merged.push(by_element.get(&name).map_or_else(|| item.clone(), |live| join(live, item)));
    }
    merged.extend(rest.filter(|own| !wanted.contains_key(&element(own))).cloned());
    Value::Array(merged)
}

/// Removes the given fields, and the containers that this leaves empty.
pub fn remove(value: &mut Value, gone: &FieldSet, kept: &FieldSet, schema: Option<&Schema>) {
    let below = |element: &str, value: &mut Value, schema: Option<&Schema>| -> bool {
        let Some(gone) = gone.children.get(element) else { return true };
        let empty = FieldSet::default();
        let kept = kept.children.get(element).unwrap_or(&empty);
        // A removed item or atomic goes whole, unless others own something inside it.
        if gone.member && kept.is_empty() {
            return false;
        }
        remove(value, gone, kept, schema);
        let emptied = value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty);
        !emptied || kept.member
    };
    match (shape(value, schema), value) {
        (Shape::Fields(schema), Value::Object(map)) => {
            map.retain(|name, value| below(&field(name), value, child(schema, name)));
        }
        (Shape::Set, Value::Array(list)) => list.retain_mut(|item| below(&set_element(&item.clone()), item, None)),
        (Shape::Items(schema, keys), Value::Array(list)) => {
            list.retain_mut(|item| below(&item_element(schema, keys, &item.clone()), item, items(schema)));
        }
        _ => {}
    }
}

/// What keeps an applied configuration from being read as the schema says: fields that it does not know, values of
/// another type, items that cannot be told apart.
pub fn mistyped(value: &Value, schema: &Schema, path: &str) -> Option<String> {
    if let Some(problem) = wrong_type(value, schema) {
        return Some(format!("{path}: {problem}"));
    }
    match value {
        Value::Object(map) => map.iter().find_map(|(name, value)| {
            let path = format!("{path}.{name}");
            match schema.field(name) {
                Some(field) => mistyped(value, field, &path),
                None if schema.keeps_unknown() || schema.embedded || schema.kind.is_none() => None,
                None => Some(format!("{path}: field not declared in schema")),
            }
        }),
        Value::Array(list) => {
            let items = schema.items.as_ref()?;
            list.iter().enumerate().find_map(|(i, item)| {
                if let ListType::Map(keys) = &schema.list_type
                    && schema.item_key(keys, item).is_none()
                {
                    return Some(format!(
                        "{path}: element {i}: associative list with keys has an element that omits all key fields {} \
                         (and doesn't have default values for any key fields)",
                        serde_json::to_string(keys).unwrap_or_default()
                    ));
                }
                if list[..i].iter().any(|earlier| same_item(schema, earlier, item)) {
                    return Some(format!("{path}: duplicate entries for key {}", shown_key(schema, item)));
                }
                mistyped(item, items, path)
            })
        }
        _ => None,
    }
}

fn wrong_type(value: &Value, schema: &Schema) -> Option<String> {
    if value.is_null() || schema.int_or_string {
        return None;
    }
    let shown = || match value {
        Value::String(text) => format!("&{{{text}}}"),
        Value::Array(list) if list.is_empty() => "&{[]}".into(),
        other => format!("&{{{other}}}"),
    };
    match schema.kind? {
        Type::Object if !value.is_object() => Some(format!("expected map, got {}", shown())),
        Type::Array if !value.is_array() => Some(format!("expected list, got {}", shown())),
        Type::Integer | Type::Number if !value.is_number() => {
            let found = match value {
                Value::String(_) => "string",
                Value::Bool(_) => "bool",
                Value::Array(_) => "list",
                _ => "map",
            };
            Some(format!("expected numeric (int or float), got {found}"))
        }
        Type::String if !value.is_string() => {
            Some(format!("expected string, got &value.valueUnstructured{{Value:{value}}}"))
        }
        Type::Boolean if !value.is_boolean() => {
            Some(format!("expected boolean, got &value.valueUnstructured{{Value:{value}}}"))
        }
        _ => None,
    }
}

fn same_item(schema: &Schema, a: &Value, b: &Value) -> bool {
    match &schema.list_type {
        ListType::Atomic => false,
        ListType::Set => a == b,
        ListType::Map(keys) => schema.item_key(keys, a) == schema.item_key(keys, b),
    }
}

fn shown_key(schema: &Schema, item: &Value) -> String {
    let ListType::Map(keys) = &schema.list_type else { return format!("[={item}]") };
    let key = schema.item_key(keys, item).unwrap_or_default();
    let parts: Vec<String> = key.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("[{}]", parts.join(","))
}

/// Drops nulls of objects and lists: such a null says the same as an absent field. That of a scalar is a value.
pub fn drop_nulls(value: &mut Value, schema: Option<&Schema>) {
    match value {
        Value::Object(map) => {
            map.retain(|name, value| {
                let schema = child(schema, name);
                drop_nulls(value, schema);
                let whole = |s: &Schema| !s.nullable && matches!(s.kind, Some(Type::Object | Type::Array) | None);
                !value.is_null() || schema.is_some_and(|s| !whole(s))
            });
        }
        Value::Array(list) => {
            let schema = schema.and_then(|s| s.items.as_deref());
            list.iter_mut().for_each(|item| drop_nulls(item, schema));
        }
        _ => {}
    }
}
