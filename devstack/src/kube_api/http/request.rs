//! What a request asks for, read from its method, path and query.

use std::collections::HashMap;

use http::{HeaderMap, Method, header};

use crate::kube_api::{
    auth::Access,
    status::{ApiError, FieldError, FieldErrorKind},
    table::Include,
    write::{FieldValidation, WriteOptions},
};

/// A request for a resource.
#[derive(Debug)]
pub struct ResourceRequest {
    /// Verb, group, resource, namespace, name.
    pub access: Access,
    pub version: String,
    pub query: Query,
}

/// Query parameters, the last of each name.
#[derive(Debug, Default)]
pub struct Query(HashMap<String, String>);

impl Query {
    /// Parses a query string.
    pub fn parse(query: Option<&str>) -> Self {
        let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        Self(pairs.map(|(k, v)| (k.into_owned(), v.into_owned())).collect())
    }

    /// A parameter that is not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// `true` or `1`.
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some("true" | "1" | "t"))
    }

    pub fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| {
            let error = format!("Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax");
            ApiError::bad_request(format!("{name}: {error}"))
        })
    }

    /// The options of a write.
    ///
    /// `options` is what errors call them: `CreateOptions`, `UpdateOptions`, `PatchOptions`.
    pub fn write_options(&self, headers: &HeaderMap, options: &str) -> Result<WriteOptions, ApiError> {
        let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let validation = match self.get("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Ignore") => FieldValidation::Ignore,
            Some("Strict") => FieldValidation::Strict,
            Some(other) => {
                let supported = r#"supported values: "", "Ignore", "Strict", "Warn""#;
                let error = FieldError::new(FieldErrorKind::NotSupported, "fieldValidation", other.into(), supported);
                return Err(ApiError::invalid_options(options, &error));
            }
        };
        let manager = self.get("fieldManager").unwrap_or_else(|| agent.split('/').next().unwrap_or_default());
        Ok(WriteOptions {
            dry_run: self.get("dryRun") == Some("All"),
            manager: manager.to_owned(),
            validation,
            force: self.flag("force"),
            duplicates: Vec::new(),
            patch: false,
        })
    }
}

/// Reads `/api/v1/…` and `/apis/GROUP/VERSION/…`; none for every other path.
pub fn parse(method: &Method, path: &str, query: Option<&str>) -> Option<ResourceRequest> {
    let decoded: Vec<String> = path.trim_matches('/').split('/').map(percent_decode).collect();
    let parts: Vec<&str> = decoded.iter().map(String::as_str).collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
        ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
        _ => return None,
    };
    // `/namespaces/x` is the namespace itself; `/namespaces/x/secrets` is in it.
    let (namespace, rest) = match rest {
        ["namespaces", _, "status" | "finalize"] => ("", rest),
        ["namespaces", namespace, inner @ ..] if !inner.is_empty() => (*namespace, inner),
        _ => ("", rest),
    };
    let (resource, name, subresource) = match rest {
        [resource] => (*resource, "", ""),
        [resource, name] => (*resource, *name, ""),
        [resource, name, subresource] => (*resource, *name, *subresource),
        _ => return None,
    };
    let query = Query::parse(query);
    let single = !name.is_empty();
    let verb = match *method {
        Method::GET | Method::HEAD if query.flag("watch") && !single => "watch",
        Method::GET | Method::HEAD if single => "get",
        Method::GET | Method::HEAD => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if single => "delete",
        Method::DELETE => "deletecollection",
        _ => return None,
    };
    Some(ResourceRequest {
        access: Access {
            verb: verb.into(),
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
        },
        version: version.into(),
        query,
    })
}

fn percent_decode(part: &str) -> String {
    // A query value decodes the same escapes, but for the plus sign.
    let escaped = part.replace('+', "%2B");
    url::form_urlencoded::parse(escaped.as_bytes()).next().map_or_else(String::new, |(key, _)| key.into_owned())
}

/// The form in which objects are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// As they are.
    Object,
    /// `as=PartialObjectMetadata`
    Metadata,
    /// `as=Table`
    Table(Include),
}

impl View {
    /// Chosen by `Accept` and `includeObject`.
    ///
    /// Answers are JSON. A client that insists on protobuf gets JSON for built-in kinds, which it reads by its content
    /// type, and 406 for custom ones, which a real server has no protobuf of either.
    pub fn negotiate(headers: &HeaderMap, query: &Query, custom: bool) -> Result<Self, ApiError> {
        let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        if accept.trim().is_empty() {
            return Ok(Self::Object);
        }
        for choice in accept.split(',') {
            let mut parts = choice.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let parts: Vec<&str> = parts.collect();
            let has = |word: &str| parts.contains(&word);
            let fits = match media {
                "application/json" | "application/yaml" | "application/*" | "*/*" => true,
                "application/vnd.kubernetes.protobuf" => !custom,
                _ => false,
            };
            if !fits {
                continue;
            }
            if !parts.iter().any(|part| part.starts_with("as=")) {
                return Ok(Self::Object);
            }
            if !has("v=v1") || !has("g=meta.k8s.io") {
                continue;
            }
            if has("as=Table") {
                return Ok(Self::Table(match query.get("includeObject") {
                    Some("None") => Include::None,
                    Some("Object") => Include::Object,
                    _ => Include::Metadata,
                }));
            }
            if has("as=PartialObjectMetadata") || has("as=PartialObjectMetadataList") {
                return Ok(Self::Metadata);
            }
        }
        Err(ApiError::not_acceptable())
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::parse;

    #[test]
    fn paths_name_resources() {
        let read = |method: Method, path: &str, query: Option<&str>| {
            let access = parse(&method, path, query).expect("a resource").access;
            let full = access.full_resource();
            (access.verb, access.group, access.namespace, full, access.name)
        };
        let all = |a: &str, b: &str, c: &str, d: &str, e: &str| (a.into(), b.into(), c.into(), d.into(), e.into());
        assert_eq!(read(Method::GET, "/api/v1/namespaces/a", None), all("get", "", "", "namespaces", "a"));
        assert_eq!(
            read(Method::GET, "/api/v1/namespaces/a/secrets", Some("watch=1")),
            all("watch", "", "a", "secrets", "")
        );
        assert_eq!(
            read(Method::PATCH, "/apis/g/v1/namespaces/a/things/b/status", None),
            all("patch", "g", "a", "things/status", "b")
        );
        assert_eq!(read(Method::DELETE, "/apis/g/v1/things", None), all("deletecollection", "g", "", "things", ""));
        assert!(parse(&Method::GET, "/apis/g/v1", None).is_none());
    }
}
