//! JSON patch (RFC 6902), JSON merge patch (RFC 7386) and strategic merge patch.

use serde_json::{Map, Value};

use super::{
    schema::{ListType, Schema},
    status::ApiError,
};

/// Lays a merge patch over a value: null removes, objects merge, everything else replaces.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(map) = target.as_object_mut() else { return };
    for (name, value) in patch {
        if value.is_null() {
            map.remove(name);
        } else {
            merge(map.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Lays a strategic merge patch over a value: as a merge patch, but map lists are merged by key and sets are
/// united, with the `$patch`, `$deleteFromPrimitiveList`, `$setElementOrder` and `$retainKeys` directives.
pub fn strategic(target: &mut Value, patch: &Value, schema: Option<&Schema>) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    match patch.get("$patch").and_then(Value::as_str) {
        Some("replace") => {
            let mut own = patch.clone();
            own.remove("$patch");
            *target = Value::Object(own);
            return;
        }
        Some("delete") => {
            *target = Value::Object(Map::new());
            return;
        }
        _ => {}
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(map) = target.as_object_mut() else { return };
    if let Some(keep) = patch.get("$retainKeys").and_then(Value::as_array) {
        map.retain(|name, _| keep.iter().any(|k| k.as_str() == Some(name)));
    }
    for (name, value) in patch {
        if let Some(list) = name.strip_prefix("$deleteFromPrimitiveList/") {
            if let (Some(own), Some(gone)) = (map.get_mut(list).and_then(Value::as_array_mut), value.as_array()) {
                own.retain(|item| !gone.contains(item));
            }
            continue;
        }
        if name.starts_with('$') {
            continue;
        }
        if value.is_null() {
            map.remove(name);
            continue;
        }
        let field = schema.and_then(|s| s.field(name)).map(AsRef::as_ref);
        let slot = map.entry(name.clone()).or_insert(Value::Null);
        match (value, field.map(|f| &f.list_type)) {
            (Value::Array(items), Some(ListType::Map(keys))) => strategic_list(slot, items, keys, field),
            (Value::Array(items), Some(ListType::Set)) => {
                let mut own = slot.as_array().cloned().unwrap_or_default();
                own.extend(items.iter().filter(|item| !own.contains(item)).cloned().collect::<Vec<_>>());
                *slot = Value::Array(own);
            }
            _ => strategic(slot, value, field),
        }
    }
}

fn strategic_list(slot: &mut Value, items: &[Value], keys: &[String], schema: Option<&Schema>) {
    let mut own = slot.as_array().cloned().unwrap_or_default();
    // Strategic merge knows one merge key; the schema's further keys have defaults.
    let key = keys.first().map_or("name", String::as_str);
    let item_schema = schema.and_then(|s| s.items.as_deref());
    if items.iter().any(|item| item.get("$patch").and_then(Value::as_str) == Some("replace")) {
        own.clear();
    }
    for item in items {
        match item.get("$patch").and_then(Value::as_str) {
            Some("replace") => continue,
            Some("delete") => {
                own.retain(|existing| existing.get(key) != item.get(key));
                continue;
            }
            _ => {}
        }
        match own.iter_mut().find(|existing| existing.get(key).is_some() && existing.get(key) == item.get(key)) {
            Some(existing) => strategic(existing, item, item_schema),
            None => own.push(item.clone()),
        }
    }
    *slot = Value::Array(own);
}

/// Applies a JSON patch.
///
/// Two habits of real servers are kept: `test` of an absent path against null passes (kube's finalizer relies on
/// it), and a patch that does not fit is 422 `Invalid`, not 400.
pub fn json_patch(target: &mut Value, patch: &Value) -> Result<(), ApiError> {
    let Some(operations) = patch.as_array() else {
        return Err(ApiError::bad_request(
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp",
        ));
    };
    if operations.len() > 10_000 {
        let message = format!("The allowed maximum operations in a JSON patch is 10000, got {}", operations.len());
        return Err(ApiError::new(413, "RequestEntityTooLarge", message));
    }
    for operation in operations {
        // The server keeps to itself which operation it was, and why.
        json_operation(target, operation).map_err(|_| {
            ApiError::new(422, "Invalid", "the server rejected our request due to an error in our request")
        })?;
    }
    Ok(())
}

fn json_operation(target: &mut Value, operation: &Value) -> Result<(), String> {
    let text = |name: &str| operation.get(name).and_then(Value::as_str);
    let path = text("path").ok_or("missing path")?;
    let value = || operation.get("value").cloned().unwrap_or(Value::Null);
    match text("op").unwrap_or_default() {
        "add" => add(target, path, value()),
        "remove" => take(target, path).map(|_| ()),
        "replace" => {
            let missing = || format!("replace operation does not apply: doc is missing key: {path}: missing value");
            *target.pointer_mut(path).ok_or_else(missing)? = value();
            Ok(())
        }
        "move" => {
            let moved = take(target, text("from").ok_or("missing from")?)?;
            add(target, path, moved)
        }
        "copy" => {
            let from = text("from").ok_or("missing from")?;
            let copied = target
                .pointer(from)
                .cloned()
                .ok_or_else(|| format!("copy operation does not apply: doc is missing from path: {from}"))?;
            add(target, path, copied)
        }
        "test" => match target.pointer(path) {
            Some(found) if *found == value() => Ok(()),
            None if value().is_null() => Ok(()),
            _ => Err(format!("testing value {path} failed: test failed")),
        },
        other => Err(format!("unexpected kind: {other}")),
    }
}

fn split(path: &str) -> Result<(&str, String), String> {
    let (parent, last) = path.rsplit_once('/').ok_or_else(|| format!("invalid path {path:?}"))?;
    Ok((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn add(target: &mut Value, path: &str, value: Value) -> Result<(), String> {
    if path.is_empty() {
        *target = value;
        return Ok(());
    }
    let (parent, last) = split(path)?;
    let missing = || format!("add operation does not apply: doc is missing path: {path:?}: missing value");
    match target.pointer_mut(parent).ok_or_else(missing)? {
        Value::Object(map) => {
            map.insert(last, value);
            Ok(())
        }
        Value::Array(list) if last == "-" => {
            list.push(value);
            Ok(())
        }
        Value::Array(list) => {
            let index = last.parse::<usize>().ok().filter(|i| *i <= list.len()).ok_or_else(missing)?;
            list.insert(index, value);
            Ok(())
        }
        _ => Err(missing()),
    }
}

fn take(target: &mut Value, path: &str) -> Result<Value, String> {
    let (parent, last) = split(path)?;
    let missing = || format!("remove operation does not apply: doc is missing path: {path:?}: missing value");
    match target.pointer_mut(parent).ok_or_else(missing)? {
        Value::Object(map) => map.remove(&last).ok_or_else(missing),
        Value::Array(list) => {
            let index = last.parse::<usize>().ok().filter(|i| *i < list.len()).ok_or_else(missing)?;
            Ok(list.remove(index))
        }
        _ => Err(missing()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{json_patch, merge, strategic};
    use crate::kube_api::schema::Schema;

    #[test]
    fn finalizers_can_be_added_to_an_object_without_any() {
        let mut object = json!({"metadata": {"name": "a"}});
        let patch = json!([
            {"op": "test", "path": "/metadata/finalizers", "value": null},
            {"op": "add", "path": "/metadata/finalizers", "value": ["x"]},
        ]);
        json_patch(&mut object, &patch).expect("absent equals null");
        assert_eq!(object["metadata"]["finalizers"], json!(["x"]));
        let error = json_patch(&mut object, &patch).expect_err("no longer null");
        assert_eq!((error.code, error.reason), (422, "Invalid"));
        json_patch(&mut object, &json!([{"op": "remove", "path": "/metadata/finalizers/0"}])).expect("remove");
        assert_eq!(object["metadata"]["finalizers"], json!([]));
    }

    #[test]
    fn merge_patch_removes_by_null() {
        let mut object = json!({"a": {"b": 1, "c": 2}, "l": [1]});
        merge(&mut object, &json!({"a": {"b": null, "d": 3}, "l": [2, 3]}));
        assert_eq!(object, json!({"a": {"c": 2, "d": 3}, "l": [2, 3]}));
    }

    #[test]
    fn strategic_patch_merges_lists_by_key() {
        let schema = Schema::compile(
            &json!({"type": "object", "properties": {"c": {"type": "array", "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"], "items": {"type": "object", "properties": {"name": {"type": "string"}}}}}}),
            "s",
        )
        .expect("schema");
        let mut object = json!({"c": [{"name": "a", "v": 1}, {"name": "b", "v": 2}]});
        strategic(
            &mut object,
            &json!({"c": [{"name": "b", "v": 3}, {"name": "a", "$patch": "delete"}, {"name": "d"}]}),
            Some(&schema),
        );
        assert_eq!(object, json!({"c": [{"name": "b", "v": 3}, {"name": "d"}]}));
    }
}
