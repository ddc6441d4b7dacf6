//! `apiVersion`, `kind` and `metadata`: what clients may set, what only the server sets, and what must hold.

use std::sync::LazyLock;

use rand::Rng as _;
use regex::Regex;
use serde_json::{Value, json};

use super::{Endpoint, Target, meta, now, set_meta};
use crate::kube_api::{
    resource::Resource,
    status::{ApiError, FieldError},
};

/// Checks `apiVersion` and `kind`, and fills them in.
pub fn decode(mut object: Value, target: &Target) -> Result<Value, ApiError> {
    let resource = &target.resource;
    let Some(map) = object.as_object_mut() else {
        return Err(ApiError::bad_request(format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go value of type struct",
            if object.is_array() { "array" } else { "scalar" }
        )));
    };
    let (version, kind) = (resource.api_version(), resource.kind.as_str());
    for (field, want) in [("apiVersion", version.as_str()), ("kind", kind)] {
        match map.get(field).and_then(Value::as_str) {
            None | Some("") => {
                map.insert(field.into(), json!(want));
            }
            Some(got) if got == want => {}
            Some(_) => {
                let text = |name: &str| map.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
                return Err(ApiError::bad_request(format!(
                    "the API version in the data ({}, Kind={}) does not match the expected API version ({version}, Kind={kind})",
                    text("apiVersion"),
                    text("kind"),
                )));
            }
        }
    }
    let metadata = map.entry("metadata").or_insert_with(|| json!({}));
    if metadata.is_null() {
        *metadata = json!({});
    }
    if !metadata.is_object() {
        return Err(ApiError::bad_request("metadata: Invalid value: must be an object"));
    }
    let namespace = metadata.get("namespace").and_then(Value::as_str).unwrap_or_default().to_owned();
    if resource.namespaced {
        if !namespace.is_empty() && namespace != target.namespace {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        metadata["namespace"] = json!(target.namespace);
    } else if let Some(metadata) = metadata.as_object_mut() {
        metadata.remove("namespace");
    }
    Ok(object)
}

/// The configuration of an apply: it names what it is about and leaves tracking to the server.
pub fn decode_apply(body: Value, target: &Target) -> Result<Value, ApiError> {
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    if version != target.resource.api_version() || kind != target.resource.kind {
        let version = if version.is_empty() { "/" } else { version };
        return Err(ApiError::bad_request(format!("invalid object type: {version}, Kind={kind}")));
    }
    if body.pointer("/metadata/name").is_some_and(Value::is_null) {
        return Err(undeterminable(target));
    }
    // The server adds it below; errors about the configuration name what it says itself.
    let own = body.pointer("/metadata/namespace").cloned();
    let mut object = decode(body, target)?;
    if target.resource.namespaced && own.is_none() {
        drop_meta(&mut object, "namespace");
    }
    if object.pointer("/metadata/managedFields").is_some_and(|m| !m.is_null()) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let name = meta(&object, "name");
    if !name.is_empty() && name != target.name {
        return Err(name_mismatch(name, target));
    }
    set_meta(&mut object, "name", json!(target.name));
    Ok(object)
}

/// 400 where neither the body nor a stored object says the name.
pub fn undeterminable(target: &Target) -> ApiError {
    let message =
        format!("the name of the object ({} based on URL) was undeterminable: name must be provided", target.name);
    ApiError::bad_request(message)
}

/// Whether an update may leave out the version that it is about; the others are checked against it.
pub fn check_version(object: &Value, target: &Target) -> Result<(), ApiError> {
    let resource = &target.resource;
    let demands = resource.crd.is_some() || matches!(resource.kind.as_str(), "Lease" | "CustomResourceDefinition");
    if demands && matches!(meta(object, "resourceVersion"), "" | "0") {
        return Err(ApiError::version_required(resource, &target.name));
    }
    Ok(())
}

fn name_mismatch(name: &str, target: &Target) -> ApiError {
    ApiError::bad_request(format!(
        "the name of the object ({name}) does not match the name on the URL ({})",
        target.name
    ))
}

/// Takes the name from the body, or makes one from `generateName`.
pub fn name_for_create(object: &mut Value, target: &mut Target) {
    let base = meta(object, "generateName").to_owned();
    if meta(object, "name").is_empty() && !base.is_empty() {
        const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
        let mut random = rand::rng();
        let suffix: String = (0..5).map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())])).collect();
        let base: String = base.chars().take(58).collect();
        set_meta(object, "name", json!(format!("{base}{suffix}")));
    }
    target.name = meta(object, "name").to_owned();
}

/// The name in a body must be that of the path.
pub fn check_name(object: &Value, target: &Target) -> Result<(), ApiError> {
    match meta(object, "name") {
        name if name == target.name => Ok(()),
        "" => Err(undeterminable(target)),
        name => Err(name_mismatch(name, target)),
    }
}

/// `resourceVersion` and `uid`, where given, must be those of the stored object.
pub fn check_preconditions(new: &Value, old: &Value, target: &Target) -> Result<(), ApiError> {
    let version = meta(new, "resourceVersion");
    if !version.is_empty() && version.parse::<u64>().is_err() {
        return Err(ApiError::new(500, "", format!("strconv.ParseUint: parsing {version:?}: invalid syntax")));
    }
    if !version.is_empty() && version != "0" && version != meta(old, "resourceVersion") {
        return Err(ApiError::modified(&target.resource, &target.name));
    }
    let (uid, stored) = (meta(new, "uid"), meta(old, "uid"));
    if !uid.is_empty() && uid != stored {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {stored}");
        return Err(ApiError::conflict(&target.resource, &target.name, &why));
    }
    Ok(())
}

/// The main endpoint does not touch `status`, and `/status` touches nothing else.
pub fn separate(new: &mut Value, old: Option<&Value>, target: &Target) {
    match (target.endpoint, old) {
        (Endpoint::Status, Some(old)) => {
            let status = new.get("status").cloned();
            let managed = new.pointer("/metadata/managedFields").cloned();
            *new = old.clone();
            put(new, "status", status);
            match managed {
                Some(managed) => set_meta(new, "managedFields", managed),
                None => drop_meta(new, "managedFields"),
            }
        }
        (_, old) if target.resource.has_status => put(new, "status", old.and_then(|o| o.get("status")).cloned()),
        _ => {}
    }
}

fn put(object: &mut Value, name: &str, value: Option<Value>) {
    let Some(map) = object.as_object_mut() else { return };
    match value {
        Some(value) => {
            map.insert(name.into(), value);
        }
        None => {
            map.remove(name);
        }
    }
}

fn drop_meta(object: &mut Value, name: &str) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove(name);
    }
}

/// Metadata that only the server decides.
pub fn system_fields(new: &mut Value, old: Option<&Value>, target: &Target) {
    const SERVER: [&str; 6] =
        ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion", "selfLink"];
    set_meta(new, "name", json!(target.name));
    for field in SERVER {
        match old.and_then(|o| o.pointer(&format!("/metadata/{field}"))) {
            Some(value) => set_meta(new, field, value.clone()),
            None => drop_meta(new, field),
        }
    }
    if old.is_none() {
        set_meta(new, "uid", json!(uuid::Uuid::new_v4().to_string()));
        set_meta(new, "creationTimestamp", json!(now()));
    }
    // Go's omitempty: empty maps and lists do not exist.
    if let Some(metadata) = new.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|_, value| match value {
            Value::Null => false,
            Value::Object(map) => !map.is_empty(),
            Value::Array(list) => !list.is_empty(),
            Value::String(text) => !text.is_empty(),
            _ => true,
        });
    }
}

/// `metadata.generation` counts changes of what is asked for, not of metadata or status.
pub fn generation(new: &mut Value, old: Option<&Value>, resource: &Resource) {
    if !resource.has_generation() {
        drop_meta(new, "generation");
        return;
    }
    let Some(old) = old else {
        set_meta(new, "generation", json!(1));
        return;
    };
    let before = old.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(1);
    let asked = |object: &Value| {
        let mut copy = object.clone();
        put(&mut copy, "metadata", None);
        if resource.has_status {
            put(&mut copy, "status", None);
        }
        copy
    };
    let generation = if asked(old) == asked(new) { before } else { before + 1 };
    set_meta(new, "generation", json!(generation));
}

/// The finalizers of an object.
pub fn finalizers(object: &Value) -> Vec<&str> {
    let list = object.pointer("/metadata/finalizers").and_then(Value::as_array);
    list.map(|list| list.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

fn pattern(text: &str) -> Regex {
    Regex::new(text).unwrap_or_else(|error| unreachable!("constant pattern {text}: {error}"))
}

static LABEL: LazyLock<Regex> = LazyLock::new(|| pattern("^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"));
static SUBDOMAIN: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"));
static LABEL_VALUE: LazyLock<Regex> = LazyLock::new(|| pattern("^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"));
static QUALIFIED: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]$"));

/// Names, labels, annotations and finalizers.
pub fn validate(new: &Value, old: Option<&Value>, resource: &Resource, warnings: &mut Vec<String>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if old.is_none() {
        check_object_name(meta(new, "name"), resource, &mut errors);
    }
    let map = |name: &str| new.pointer(&format!("/metadata/{name}")).and_then(Value::as_object);
    if let Some(labels) = map("labels") {
        for (key, value) in labels {
            check_qualified("metadata.labels", key, &mut errors);
            let text = value.as_str().unwrap_or_default();
            if !LABEL_VALUE.is_match(text) || text.len() > 63 {
                errors.push(FieldError::invalid(
                    "metadata.labels",
                    json!(text),
                    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
                     start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used \
                     for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
                ));
            }
        }
    }
    if let Some(annotations) = map("annotations") {
        for key in annotations.keys() {
            check_qualified("metadata.annotations", &key.to_lowercase(), &mut errors);
        }
        let size: usize = annotations.iter().map(|(k, v)| k.len() + v.as_str().map_or(0, str::len)).sum();
        if size > 256 * 1024 {
            let detail = "may not be more than 262144 bytes";
            errors.push(FieldError::new(
                crate::kube_api::status::FieldErrorKind::TooLong,
                "metadata.annotations",
                Value::Null,
                detail,
            ));
        }
    }
    for (index, finalizer) in finalizers(new).iter().enumerate() {
        let standard = ["orphan", "foregroundDeletion", "kubernetes"].contains(finalizer);
        if !standard && !finalizer.contains('/') && QUALIFIED.is_match(finalizer) && resource.crd.is_some() {
            warnings.push(format!(
                "metadata.finalizers: {finalizer:?}: prefer a domain-qualified finalizer name to avoid accidental conflicts \
                 with other finalizer writers"
            ));
        } else if !standard && (!finalizer.contains('/') || !QUALIFIED.is_match(finalizer)) {
            errors.push(FieldError::invalid(
                format!("metadata.finalizers[{index}]"),
                json!(finalizer),
                "name is neither a standard finalizer name nor is it fully qualified",
            ));
        }
    }
    if let Some(old) = old.filter(|o| !meta(o, "deletionTimestamp").is_empty()) {
        let before = finalizers(old);
        let added: Vec<String> =
            finalizers(new).iter().filter(|f| !before.contains(f)).map(|f| format!("{f:?}")).collect();
        if !added.is_empty() {
            errors.push(FieldError::forbidden(
                "metadata.finalizers",
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    added.join(", ")
                ),
            ));
        }
    }
    errors
}

fn check_object_name(name: &str, resource: &Resource, errors: &mut Vec<FieldError>) {
    if name.is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
        return;
    }
    if resource.group == "rbac.authorization.k8s.io" {
        return;
    }
    let label = matches!(resource.kind.as_str(), "Namespace" | "Service") && resource.group.is_empty();
    let (fits, max) = if label { (LABEL.is_match(name), 63) } else { (SUBDOMAIN.is_match(name), 253) };
    if !fits {
        let detail = if label {
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with \
             an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
        } else {
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and \
             end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
        };
        errors.push(FieldError::invalid("metadata.name", json!(name), detail));
    }
    if name.len() > max {
        errors.push(FieldError::invalid(
            "metadata.name",
            json!(name),
            format!("must be no more than {max} characters"),
        ));
    }
}

fn check_qualified(path: &str, key: &str, errors: &mut Vec<FieldError>) {
    if !QUALIFIED.is_match(key) {
        errors.push(FieldError::invalid(
            path,
            json!(key),
            "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
             character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
             '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
        ));
    }
}
