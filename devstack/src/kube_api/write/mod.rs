//! Writes: create, update, patch, apply. Each reads, decides and commits with compare-and-swap, as often as needed.

mod admit;
mod delete;
mod metadata;

use std::sync::Arc;

use serde_json::{Map, Value, json};

pub use self::delete::{DeleteOptions, Deleted};
use super::{
    apply::{self, Manager},
    patch,
    resource::{Registry, Resource},
    schema,
    status::{ApiError, FieldError, FieldErrorKind},
    store::{Commit, Store},
};

/// Objects and kinds: the whole state behind the server.
#[derive(Debug, Default)]
pub struct Cluster {
    pub store: Store,
    pub registry: Registry,
}

/// What a request is about.
#[derive(Debug, Clone)]
pub struct Target {
    pub resource: Arc<Resource>,
    /// Empty for cluster-scoped kinds.
    pub namespace: String,
    /// Empty for POST.
    pub name: String,
    pub endpoint: Endpoint,
}

/// Which view of an object is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// The object, without its status if that is served apart.
    Main,
    /// `/status`
    Status,
}

/// `fieldValidation`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// Unknown fields are dropped.
    Ignore,
    /// Unknown fields are dropped, with a warning.
    #[default]
    Warn,
    /// Unknown fields are an error.
    Strict,
}

/// The options of a write.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// `dryRun=All`
    pub dry_run: bool,
    /// `fieldManager`, or the user agent's first word.
    pub manager: String,
    /// `fieldValidation`
    pub validation: FieldValidation,
    /// `force` of an apply.
    pub force: bool,
    /// Fields that occur twice in the body.
    pub duplicates: Vec<String>,
    /// Whether the body is a patch, and not an object.
    pub patch: bool,
}

/// The result of a write.
#[derive(Debug)]
pub struct Written {
    /// The object as stored.
    pub object: Arc<Value>,
    /// Whether it is new.
    pub created: bool,
    /// Warnings for the client.
    pub warnings: Vec<String>,
}

/// The body of a patch.
#[derive(Debug)]
pub enum Patch {
    /// `application/json-patch+json`
    Json(Value),
    /// `application/merge-patch+json`
    Merge(Value),
    /// `application/strategic-merge-patch+json`
    Strategic(Value),
}

pub(super) fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A text field of an object's metadata.
pub(super) fn meta<'a>(object: &'a Value, name: &str) -> &'a str {
    object.get("metadata").and_then(|m| m.get(name)).and_then(Value::as_str).unwrap_or_default()
}

impl Target {
    fn key(&self) -> (String, String) {
        (self.namespace.clone(), self.name.clone())
    }

    fn manager(&self, options: &WriteOptions) -> Manager {
        let subresource = if self.endpoint == Endpoint::Status { "status" } else { "" };
        Manager { name: options.manager.clone(), subresource: subresource.into() }
    }
}

/// How a new state came about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Write,
    Apply,
}

impl Cluster {
    pub fn get(&self, target: &Target) -> Result<Arc<Value>, ApiError> {
        self.store
            .get(&target.resource.table, &target.key())
            .ok_or_else(|| ApiError::not_found(&target.resource, &target.name))
    }

    /// Answers a POST.
    pub fn create(&self, target: &Target, body: Value, options: &WriteOptions) -> Result<Written, ApiError> {
        let mut target = target.clone();
        let mut object = metadata::decode(body, &target)?;
        metadata::name_for_create(&mut object, &mut target);
        self.create_object(&target, object, options, Origin::Write)
    }

    fn create_object(
        &self,
        target: &Target,
        object: Value,
        options: &WriteOptions,
        origin: Origin,
    ) -> Result<Written, ApiError> {
        let resource = &target.resource;
        if resource.namespaced {
            self.check_namespace(target)?;
        }
        if !meta(&object, "resourceVersion").is_empty() {
            return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
        }
        let mut warnings = Vec::new();
        let object = self.finish(target, object, None, options, origin, &mut warnings)?;
        let object = if options.dry_run {
            match self.store.get(&resource.table, &target.key()) {
                Some(_) => return Err(ApiError::already_exists(resource, &target.name)),
                None => Arc::new(object),
            }
        } else {
            let committed = self.store.commit(&resource.table, target.key(), Commit::Create(object));
            let object = committed.map_err(|_| ApiError::already_exists(resource, &target.name))?;
            self.after_write(resource, &object);
            object
        };
        Ok(Written { object, created: true, warnings })
    }

    /// Answers a PUT.
    pub fn update(&self, target: &Target, body: Value, options: &WriteOptions) -> Result<Written, ApiError> {
        let object = metadata::decode(body, target)?;
        metadata::check_name(&object, target)?;
        self.change(target, options, Origin::Write, |_| {
            metadata::check_version(&object, target)?;
            Ok(object.clone())
        })
    }

    /// PATCH, other than apply.
    pub fn patch(&self, target: &Target, patch: &Patch, options: &WriteOptions) -> Result<Written, ApiError> {
        self.change(target, options, Origin::Write, |old| {
            let mut new = old.clone();
            match patch {
                Patch::Json(operations) => patch::json_patch(&mut new, operations)?,
                Patch::Merge(changes) => patch::merge(&mut new, changes),
                Patch::Strategic(changes) => patch::strategic(&mut new, changes, Some(&target.resource.schema)),
            }
            let new = metadata::decode(new, target)?;
            metadata::check_name(&new, target)?;
            metadata::check_version(&new, target)?;
            Ok(new)
        })
    }

    /// Server-side apply.
    pub fn apply(&self, target: &Target, body: Value, options: &WriteOptions) -> Result<Written, ApiError> {
        let resource = &target.resource;
        if options.manager.is_empty() {
            let error = FieldError::required("fieldManager", "is required for apply patch");
            return Err(ApiError::invalid_options("PatchOptions", &error));
        }
        let warnings = applied_twice(options)?;
        let named = !meta(&body, "name").is_empty();
        let config = metadata::decode_apply(body, target)?;
        let manager = target.manager(options);
        let ignored: &[&str] = match (target.endpoint, resource.has_status) {
            (Endpoint::Main, true) => &["status"],
            (Endpoint::Main, false) => &[],
            (Endpoint::Status, _) => &["spec"],
        };
        loop {
            let request = apply::Apply { config: config.clone(), manager: &manager, force: options.force, ignored };
            if self.store.get(&resource.table, &target.key()).is_some() {
                let written = self.change(target, options, Origin::Apply, |old| {
                    let request =
                        apply::Apply { config: config.clone(), manager: &manager, force: options.force, ignored };
                    metadata::check_preconditions(&config, old, target)?;
                    let new = apply::apply(old, request, resource, &now())?;
                    // An applied null takes the version away, and with it what the update is checked against.
                    if config.pointer("/metadata/resourceVersion").is_some_and(Value::is_null) {
                        metadata::check_version(&config, target)?;
                    }
                    Ok(new)
                });
                return written.map(|written| written.warned(warnings));
            }
            if target.endpoint == Endpoint::Status {
                return Err(ApiError::not_found(resource, &target.name));
            }
            // The name on the URL does only for what is there.
            if !named {
                return Err(metadata::undeterminable(target));
            }
            if !meta(&config, "uid").is_empty() {
                return Err(ApiError::conflict(
                    resource,
                    &target.name,
                    &format!(
                        "uid mismatch: the provided object specified uid {}, and no existing object was found",
                        meta(&config, "uid")
                    ),
                ));
            }
            if !meta(&config, "resourceVersion").is_empty() {
                return Err(ApiError::not_found(resource, &target.name));
            }
            let mut blank =
                json!({"apiVersion": resource.api_version(), "kind": resource.kind, "metadata": {"name": target.name}});
            if resource.namespaced {
                blank["metadata"]["namespace"] = json!(target.namespace);
            }
            let object = apply::apply(&blank, request, resource, &now())?;
            match self.create_object(target, object, options, Origin::Apply) {
                Err(error) if error.reason == "AlreadyExists" => {}
                other => return other.map(|written| written.warned(warnings)),
            }
        }
    }

    /// Reads, computes and commits until nobody was faster.
    fn change(
        &self,
        target: &Target,
        options: &WriteOptions,
        origin: Origin,
        compute: impl Fn(&Value) -> Result<Value, ApiError>,
    ) -> Result<Written, ApiError> {
        let resource = &target.resource;
        loop {
            let old = self.get(target)?;
            let computed = compute(&old)?;
            metadata::check_preconditions(&computed, &old, target)?;
            let mut warnings = Vec::new();
            let new = self.finish(target, computed, Some(&old), options, origin, &mut warnings)?;
            let gone = !meta(&old, "deletionTimestamp").is_empty()
                && metadata::finalizers(&new).is_empty()
                && !admit::held(resource, &new);
            if !gone && apply::same(&old, &new) {
                return Ok(Written { object: old, created: false, warnings });
            }
            if options.dry_run {
                return Ok(Written { object: Arc::new(new), created: false, warnings });
            }
            let commit = if gone { Commit::Remove(old.clone(), new) } else { Commit::Replace(old.clone(), new) };
            if let Ok(object) = self.store.commit(&resource.table, target.key(), commit) {
                if gone {
                    self.after_removal(resource, &object);
                } else {
                    self.after_write(resource, &object);
                }
                return Ok(Written { object, created: false, warnings });
            }
        }
    }

    /// Everything between what the client sent and what is stored.
    fn finish(
        &self,
        target: &Target,
        mut new: Value,
        old: Option<&Arc<Value>>,
        options: &WriteOptions,
        origin: Origin,
        warnings: &mut Vec<String>,
    ) -> Result<Value, ApiError> {
        let resource = &target.resource;
        let old = old.map(AsRef::as_ref);
        let mut unknown = Vec::new();
        schema::prune(&mut new, &resource.schema, "", &mut unknown);
        if old.is_none() || origin == Origin::Write {
            report_unknown(target, &new, &unknown, options, warnings)?;
        }
        metadata::separate(&mut new, old, target);
        metadata::system_fields(&mut new, old, target);
        schema::apply_defaults(&mut new, &resource.schema, origin == Origin::Write);
        admit::admit(self, &mut new, old, target)?;
        if resource.is("apiextensions.k8s.io", "CustomResourceDefinition") {
            warnings.extend(super::crd::warnings(&new, old));
        }

        let mut errors = metadata::validate(&new, old, resource, warnings);
        let unnamed = errors.iter().any(|e| e.kind == FieldErrorKind::Required);
        errors.extend(schema::validate(&new, old, &resource.schema, unnamed));
        errors.extend(admit::validate(&new, old, resource));
        if resource.crd.is_none()
            && let Some(error) = errors.iter().find(|e| e.kind == FieldErrorKind::TypeInvalid)
        {
            return Err(ApiError::bad_request(format!(
                "{kind} in version {version:?} cannot be handled as a {kind}: json: cannot unmarshal {} into Go struct field {kind}.{}",
                error.value.as_str().unwrap_or_default(),
                error.path,
                kind = resource.kind,
                version = resource.version,
            )));
        }
        if !errors.is_empty() {
            return Err(ApiError::invalid(resource, &target.name, &errors));
        }
        metadata::generation(&mut new, old, resource);
        if origin == Origin::Write {
            apply::track_update(old, &mut new, resource, &target.manager(options), &now());
        }
        Ok(new)
    }
}

impl Written {
    fn warned(mut self, warnings: Vec<String>) -> Self {
        self.warnings.splice(0..0, warnings);
        self
    }
}

/// Fields that occur twice in an applied configuration: it is read as YAML, also where it is JSON.
fn applied_twice(options: &WriteOptions) -> Result<Vec<String>, ApiError> {
    let problems: Vec<String> = options
        .duplicates
        .iter()
        .map(|path| format!("line 1: key {:?} already set in map", path.rsplit('.').next().unwrap_or(path)))
        .collect();
    match options.validation {
        FieldValidation::Strict if !problems.is_empty() => Err(ApiError::bad_request(format!(
            "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  {}",
            problems.join("\n  ")
        ))),
        FieldValidation::Warn => Ok(problems),
        _ => Ok(Vec::new()),
    }
}

fn report_unknown(
    target: &Target,
    object: &Value,
    unknown: &[String],
    options: &WriteOptions,
    warnings: &mut Vec<String>,
) -> Result<(), ApiError> {
    let resource = &target.resource;
    let mut problems: Vec<String> = options.duplicates.iter().map(|path| format!("duplicate field {path:?}")).collect();
    problems.extend(unknown.iter().map(|path| format!("unknown field {path:?}")));
    match options.validation {
        FieldValidation::Ignore => Ok(()),
        _ if problems.is_empty() => Ok(()),
        FieldValidation::Warn => {
            warnings.extend(problems);
            Ok(())
        }
        // What a patch has led to is judged as a value of the patch, whose kind nobody has named.
        FieldValidation::Strict if options.patch && resource.crd.is_some() => {
            let why = format!("strict decoding error: {}", problems.join(", "));
            let error = FieldError::invalid("patch", Value::String(object.to_string()), why);
            let mut invalid = ApiError::new(422, "Invalid", format!(" \"\" is invalid: {error}"));
            invalid.details = Some(json!({"causes": [{
                "reason": "FieldValueInvalid",
                "message": error.to_string().trim_start_matches("patch: "),
                "field": "patch",
            }]}));
            Err(invalid)
        }
        FieldValidation::Strict => Err(ApiError::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {kind}: strict decoding error: {}",
            problems.join(", "),
            kind = resource.kind,
            version = resource.version,
        ))),
    }
}

/// Sets a field of an object's metadata.
pub(super) fn set_meta(object: &mut Value, name: &str, value: Value) {
    if !object.get("metadata").is_some_and(Value::is_object) {
        object["metadata"] = Value::Object(Map::new());
    }
    object["metadata"][name] = value;
}
