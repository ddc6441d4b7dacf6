//! Errors as the API server words them: a `Status` body, its HTTP code, and the causes that kubectl prints.

use serde_json::{Map, Value, json};

use super::resource::Resource;

/// A failed request. `to_status` gives the body, `code` the HTTP status.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub code: u16,
    /// Machine-readable reason (`NotFound`, `Conflict`, …); empty for none.
    pub reason: &'static str,
    /// What a person reads.
    pub message: String,
    /// The `details` of the Status, if any.
    pub details: Option<Value>,
    /// Seconds for the `Retry-After` header.
    pub retry_after: Option<u64>,
}

impl ApiError {
    /// An error without details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None, retry_after: None }
    }

    fn about(mut self, resource: &Resource, name: &str) -> Self {
        self.details = Some(details(&resource.group, &resource.plural, name));
        self
    }

    /// 404 for an object.
    pub fn not_found(resource: &Resource, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} \"{name}\" not found", resource.group_resource())).about(resource, name)
    }

    /// 409 for a name that is taken.
    pub fn already_exists(resource: &Resource, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} \"{name}\" already exists", resource.group_resource()))
            .about(resource, name)
    }

    /// 409 for a stale resourceVersion.
    pub fn modified(resource: &Resource, name: &str) -> Self {
        Self::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 409 with its reason as text.
    pub fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", resource.group_resource());
        Self::new(409, "Conflict", message).about(resource, name)
    }

    /// 403 with its reason as text.
    pub fn forbidden(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!("{} \"{name}\" is forbidden: {why}", resource.group_resource());
        Self::new(403, "Forbidden", message).about(resource, name)
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 410: the version asked for is compacted.
    pub fn expired(asked: u64, oldest: u64) -> Self {
        Self::new(410, "Expired", format!("too old resource version: {asked} ({oldest})"))
    }

    /// 410: a continue token that has outlived its list.
    pub fn continue_expired() -> Self {
        Self::new(
            410,
            "Expired",
            "The provided continue parameter is too old to display a consistent list result. You can start a new \
             list without the continue parameter, or use the continue token in this response to retrieve the \
             remainder of the results. Continuing with the provided token results in an inconsistent list - objects \
             that were created, modified, or deleted between the time the first chunk was returned and now may show \
             up in the list.",
        )
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 404 for a path that nobody serves.
    pub fn no_such_path() -> Self {
        let mut error = Self::new(404, "NotFound", "the server could not find the requested resource");
        error.details = Some(json!({}));
        error
    }

    /// 404 for a resource that is not served. Groups of definitions, and unknown ones, have no `Status` for it.
    pub fn unserved(group: &str) -> Self {
        let built_in = group.is_empty() || group.ends_with(".k8s.io") || matches!(group, "apps" | "batch" | "policy");
        if built_in { Self::no_such_path() } else { Self::new(404, "", "404 page not found\n") }
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        let mut error =
            Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource");
        error.details = Some(json!({}));
        error
    }

    /// 415, with the media types that would do.
    pub fn unsupported_media_type(accepted: &str) -> Self {
        let message =
            format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 406: nothing that the client accepts can be served.
    pub fn not_acceptable() -> Self {
        let message = "only the following media types are accepted: application/json, application/yaml, \
                       application/vnd.kubernetes.protobuf";
        Self::new(406, "NotAcceptable", message)
    }

    /// 422 for a parameter of the request.
    pub fn invalid_options(options: &str, error: &FieldError) -> Self {
        let mut invalid = Self::new(422, "Invalid", format!("{options}.meta.k8s.io \"\" is invalid: {error}"));
        let mut about = details("meta.k8s.io", options, "");
        about["causes"] = json!([error.to_cause()]);
        invalid.details = Some(about);
        invalid
    }

    /// 422 for a write that names no version where the kind demands one.
    pub fn version_required(resource: &Resource, name: &str) -> Self {
        let error = FieldError::invalid("metadata.resourceVersion", json!(0), "must be specified for an update");
        let message = format!("{} {name:?} is invalid: {error}", resource.group_resource());
        let mut invalid = Self::new(422, "Invalid", message);
        let mut about = details(&resource.group, &resource.plural, name);
        about["causes"] = json!([error.to_cause()]);
        invalid.details = Some(about);
        invalid
    }

    /// 422 with the fields at fault.
    pub fn invalid(resource: &Resource, name: &str, errors: &[FieldError]) -> Self {
        let mut texts: Vec<String> = Vec::new();
        for error in errors {
            let text = error.to_string();
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        let all = if texts.len() == 1 { texts[0].clone() } else { format!("[{}]", texts.join(", ")) };
        let kind = if resource.group.is_empty() {
            resource.kind.clone()
        } else {
            format!("{}.{}", resource.kind, resource.group)
        };
        let mut error = Self::new(422, "Invalid", format!("{kind} \"{name}\" is invalid: {all}"));
        let mut about = details(&resource.group, &resource.kind, name);
        about["causes"] = errors.iter().map(FieldError::to_cause).collect();
        error.details = Some(about);
        error
    }

    /// The `Status` body.
    pub fn to_status(&self) -> Value {
        let mut status = Map::new();
        status.insert("kind".into(), json!("Status"));
        status.insert("apiVersion".into(), json!("v1"));
        status.insert("metadata".into(), json!({}));
        status.insert("status".into(), json!("Failure"));
        status.insert("message".into(), json!(self.message));
        if !self.reason.is_empty() {
            status.insert("reason".into(), json!(self.reason));
        }
        let mut about = self.details.clone();
        if let Some(seconds) = self.retry_after {
            about.get_or_insert_with(|| json!({}))["retryAfterSeconds"] = json!(seconds);
        }
        if let Some(about) = about {
            status.insert("details".into(), about);
        }
        status.insert("code".into(), json!(self.code));
        Value::Object(status)
    }
}

/// `details` of a Status: empty fields are left out, as Go's `omitempty` does.
pub fn details(group: &str, kind: &str, name: &str) -> Value {
    let mut map = Map::new();
    for (key, value) in [("name", name), ("group", group), ("kind", kind)] {
        if !value.is_empty() {
            map.insert(key.into(), json!(value));
        }
    }
    Value::Object(map)
}

/// What is wrong with one field (`k8s.io/apimachinery/pkg/util/validation/field`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldErrorKind {
    Required,
    /// A value that breaks a rule.
    Invalid,
    /// A value of the wrong type.
    TypeInvalid,
    /// A value outside an enumeration.
    NotSupported,
    /// A value that may occur once only.
    Duplicate,
    /// A value that may not be set.
    Forbidden,
    /// A string that is too long.
    TooLong,
    /// A list or map with too many entries.
    TooMany,
}

impl FieldErrorKind {
    fn cause(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Duplicate => "Duplicate value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
        }
    }

    fn shows_value(self) -> bool {
        !matches!(self, Self::Required | Self::Forbidden | Self::TooLong)
    }

    /// Whether CEL rules are skipped once this error is found.
    pub fn blocks_rules(self) -> bool {
        matches!(self, Self::Required | Self::TypeInvalid | Self::NotSupported | Self::TooLong | Self::TooMany)
    }
}

/// One field that does not validate.
#[derive(Debug, Clone)]
pub struct FieldError {
    /// The kind of error.
    pub kind: FieldErrorKind,
    /// `spec.stores[0].id`; empty for errors that real servers report without a path.
    pub path: String,
    pub value: Value,
    /// The sentence after the value; may be empty.
    pub detail: String,
    /// Whether the value is left out of the text.
    pub value_omitted: bool,
}

impl FieldError {
    /// An error with all its parts.
    pub fn new(kind: FieldErrorKind, path: impl Into<String>, value: Value, detail: impl Into<String>) -> Self {
        Self { kind, path: path.into(), value, detail: detail.into(), value_omitted: false }
    }

    /// `Required value`.
    pub fn required(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Required, path, Value::Null, detail)
    }

    /// `Invalid value: …`.
    pub fn invalid(path: impl Into<String>, value: Value, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Invalid, path, value, detail)
    }

    /// `Forbidden: …`.
    pub fn forbidden(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Forbidden, path, Value::Null, detail)
    }

    /// The error without its value.
    #[must_use]
    pub fn without_value(self) -> Self {
        Self { value_omitted: true, ..self }
    }

    fn to_cause(&self) -> Value {
        json!({"reason": self.kind.cause(), "message": self.body(), "field": self.path_text()})
    }

    fn path_text(&self) -> &str {
        if self.path.is_empty() { "<nil>" } else { &self.path }
    }

    fn body(&self) -> String {
        let mut text = self.kind.text().to_owned();
        if self.kind.shows_value() && !self.value_omitted {
            // serde_json quotes strings as Go's %q does, up to control characters.
            text.push_str(&format!(": {}", self.value));
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path_text(), self.body())
    }
}
