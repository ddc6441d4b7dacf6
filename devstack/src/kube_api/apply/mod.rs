//! Server-side apply and the field management behind every write.
//!
//! Field sets, merging and conflicts follow `sigs.k8s.io/structured-merge-diff`. Not implemented: conversion
//! between API versions, and the `kubectl-client-side-apply` migration of old annotations.

mod fieldset;
mod typed;

use serde_json::{Map, Value, json};

use self::fieldset::FieldSet;
use super::{resource::Resource, status::ApiError};

/// Who writes: the identity of one entry of `managedFields`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manager {
    /// The field manager's name.
    pub name: String,
    /// `status`, or empty.
    pub subresource: String,
}

/// The time that a write is stamped with.
pub type Stamp = String;

#[derive(Debug, Clone)]
struct Entry {
    manager: Manager,
    apply: bool,
    version: String,
    time: Option<String>,
    fields: FieldSet,
}

impl Entry {
    fn parse(raw: &Value) -> Self {
        let text = |name: &str| raw.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        Self {
            manager: Manager { name: text("manager"), subresource: text("subresource") },
            apply: text("operation") == "Apply",
            version: text("apiVersion"),
            time: raw.get("time").and_then(Value::as_str).map(str::to_owned),
            fields: FieldSet::parse(raw.get("fieldsV1").unwrap_or(&Value::Null)),
        }
    }

    fn to_value(&self) -> Value {
        let mut map = Map::new();
        map.insert("manager".into(), json!(self.manager.name));
        map.insert("operation".into(), json!(if self.apply { "Apply" } else { "Update" }));
        map.insert("apiVersion".into(), json!(self.version));
        if let Some(time) = &self.time {
            map.insert("time".into(), json!(time));
        }
        map.insert("fieldsType".into(), json!("FieldsV1"));
        map.insert("fieldsV1".into(), self.fields.to_fields());
        if !self.manager.subresource.is_empty() {
            map.insert("subresource".into(), json!(self.manager.subresource));
        }
        Value::Object(map)
    }

    fn is(&self, manager: &Manager, apply: bool, version: &str) -> bool {
        self.manager == *manager && self.apply == apply && self.version == version
    }
}

fn entries(object: &Value) -> Vec<Entry> {
    let list = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    list.map(|list| list.iter().map(Entry::parse).collect()).unwrap_or_default()
}

fn store(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.fields.is_empty());
    // Appliers first, then by time and name, as the server sorts them.
    entries.sort_by(|a, b| {
        (!a.apply, &a.time, &a.manager.name, &a.version, &a.manager.subresource).cmp(&(
            !b.apply,
            &b.time,
            &b.manager.name,
            &b.version,
            &b.manager.subresource,
        ))
    });
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    if entries.is_empty() {
        metadata.remove("managedFields");
    } else {
        metadata.insert("managedFields".into(), entries.iter().map(Entry::to_value).collect());
    }
}

/// Metadata that nobody owns.
const UNOWNED: [&str; 12] = [
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
    "generateName",
    "clusterName",
];

/// The part of an object that managers own.
fn owned(object: &Value) -> Value {
    let mut copy = object.clone();
    if let Some(map) = copy.as_object_mut() {
        map.remove("apiVersion");
        map.remove("kind");
        if let Some(metadata) = map.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.retain(|key, _| !UNOWNED.contains(&key.as_str()));
            if metadata.is_empty() {
                map.remove("metadata");
            }
        }
    }
    copy
}

struct Change {
    added: FieldSet,
    removed: FieldSet,
    modified: FieldSet,
}

fn compare(old: &Value, new: &Value, resource: &Resource) -> Change {
    let (old, new) = (owned(old), owned(new));
    let schema = Some(&*resource.schema);
    let (before, after) = (typed::fields_of(&old, schema), typed::fields_of(&new, schema));
    Change {
        added: after.difference(&before),
        removed: before.difference(&after),
        modified: typed::modified(&old, &new, schema),
    }
}

/// Records an ordinary write (POST, PUT, patch): the manager takes what it changed, the others lose it.
pub fn track_update(old: Option<&Value>, new: &mut Value, resource: &Resource, manager: &Manager, now: &Stamp) {
    let empty = json!({});
    let before = old.unwrap_or(&empty);
    // A client may set the list to nothing to reset tracking; otherwise the stored list counts.
    let reset = new
        .pointer("/metadata/managedFields")
        .and_then(Value::as_array)
        .is_some_and(|list| list.is_empty() || (list.len() == 1 && list[0].as_object().is_some_and(Map::is_empty)));
    let mut list = if reset { Vec::new() } else { entries(before) };
    let change = compare(before, new, resource);
    let mut taken = change.modified;
    taken.extend(&change.added);
    taken.extend(&typed::containers(&owned(before), &owned(new), Some(&resource.schema), resource.crd.is_some()));
    let version = resource.api_version();
    for entry in &mut list {
        if !entry.is(manager, false, &version) {
            entry.fields = entry.fields.difference(&taken);
        }
        entry.fields = entry.fields.difference(&change.removed);
    }
    if !taken.is_empty() {
        let position = list.iter().position(|entry| entry.is(manager, false, &version)).unwrap_or(list.len());
        if position == list.len() {
            list.push(Entry {
                manager: manager.clone(),
                apply: false,
                version,
                time: None,
                fields: FieldSet::default(),
            });
        }
        let entry = &mut list[position];
        entry.fields.extend(&taken);
        entry.time = Some(now.clone());
    }
    store(new, list);
}

/// What an apply request asks for.
pub struct Apply<'a> {
    /// The configuration as sent.
    pub config: Value,
    pub manager: &'a Manager,
    /// Whether conflicts are taken over.
    pub force: bool,
    /// Root fields that this endpoint ignores (`status` on the main resource, and the reverse).
    pub ignored: &'a [&'a str],
}

/// Applies a configuration over the live object (`{apiVersion, kind, metadata}` when it is to be created).
pub fn apply(live: &Value, request: Apply<'_>, resource: &Resource, now: &Stamp) -> Result<Value, ApiError> {
    let schema = &*resource.schema;
    let mut config = request.config;
    typed::drop_nulls(&mut config, Some(schema));
    // Empty where the configuration does not name it.
    let namespace = config.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Some(problem) = typed::mistyped(&config, schema, "") {
        let name = live.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let at = format!("{namespace}/{name}");
        let kind = format!("{}, Kind={}", resource.api_version(), resource.kind);
        return Err(ApiError::new(500, "", format!("failed to create typed patch object ({at}; {kind}): {problem}")));
    }
    if let Some(map) = config.as_object_mut() {
        map.retain(|key, _| !request.ignored.contains(&key.as_str()));
    }
    let mut merged = typed::merge(live, &config, Some(schema));
    let mut set = typed::fields_of(&owned(&config), Some(schema));
    set.retain_root(|key| !request.ignored.contains(&key));

    let version = resource.api_version();
    let mut list = entries(live);
    let position = list.iter().position(|entry| entry.manager == *request.manager && entry.apply);
    let last = position.map(|i| list[i].fields.clone()).unwrap_or_default();

    // Fields applied last time, left out now and owned by nobody else, go.
    let mut kept = set.clone();
    for (index, entry) in list.iter().enumerate() {
        if Some(index) != position {
            kept.extend(&entry.fields);
        }
    }
    let gone = last.difference(&kept);
    if !gone.is_empty() {
        typed::remove(&mut merged, &gone, &kept, Some(schema));
    }

    let change = compare(live, &merged, resource);
    let mut touched = change.modified;
    touched.extend(&change.added);
    let mut conflicts = Vec::new();
    for (index, entry) in list.iter_mut().enumerate() {
        if Some(index) == position {
            continue;
        }
        let overlap = entry.fields.intersection(&touched);
        if !overlap.is_empty() {
            conflicts.push((entry.manager.clone(), entry.apply, entry.version.clone(), overlap.clone()));
            entry.fields = entry.fields.difference(&overlap);
        }
        entry.fields = entry.fields.difference(&change.removed);
    }
    if !conflicts.is_empty() && !request.force {
        return Err(conflict(&conflicts));
    }
    let same = last == set && position.is_some_and(|i| list[i].version == version);
    match position {
        Some(i) => {
            list[i].fields = set;
            list[i].version = version;
            if !same {
                list[i].time = Some(now.clone());
            }
        }
        None => list.push(Entry {
            manager: request.manager.clone(),
            apply: true,
            version,
            time: Some(now.clone()),
            fields: set,
        }),
    }
    store(&mut merged, list);
    Ok(merged)
}

type Conflict = (Manager, bool, String, FieldSet);

fn conflict(conflicts: &[Conflict]) -> ApiError {
    let mut causes = Vec::new();
    let mut messages = Vec::new();
    for (manager, apply, version, fields) in conflicts {
        let mut who = format!("{:?}", manager.name);
        if !manager.subresource.is_empty() {
            who.push_str(&format!(" with subresource {:?}", manager.subresource));
        }
        // Updaters are identified by name and version, appliers by name alone.
        if !apply {
            who.push_str(&format!(" using {version}"));
        }
        let paths = fields.paths();
        for path in &paths {
            causes.push(
                json!({"reason": "FieldManagerConflict", "message": format!("conflict with {who}"), "field": path}),
            );
        }
        messages.push((who, paths));
    }
    let message = match messages.as_slice() {
        [(who, paths)] if paths.len() == 1 => {
            format!("Apply failed with 1 conflict: conflict with {who}: {}", paths[0])
        }
        _ => {
            let parts: Vec<String> = messages
                .iter()
                .map(|(who, paths)| format!("conflicts with {who}:\n- {}", paths.join("\n- ")))
                .collect();
            format!("Apply failed with {} conflicts: {}", causes.len(), parts.join("\n"))
        }
    };
    let mut error = ApiError::new(409, "Conflict", message);
    error.details = Some(json!({"causes": causes}));
    error
}

/// Equal but for the time stamps of `managedFields`: such a write changes nothing.
pub fn same(old: &Value, new: &Value) -> bool {
    let strip = |object: &Value| {
        let mut copy = object.clone();
        if let Some(list) = copy.pointer_mut("/metadata/managedFields").and_then(Value::as_array_mut) {
            for entry in list.iter_mut().filter_map(Value::as_object_mut) {
                entry.remove("time");
            }
            // Order follows the times, so it is no difference either.
            list.sort_by_key(ToString::to_string);
        }
        copy
    };
    old == new || strip(old) == strip(new)
}

#[cfg(test)]
mod tests;
