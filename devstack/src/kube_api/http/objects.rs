//! Requests for objects: get, list, and the writes.

use std::sync::Arc;

use axum::body::Body;
use base64::Engine as _;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use super::{
    Answer, Server, decode, json_response,
    request::{Query, ResourceRequest, View},
    watch,
};
use crate::kube_api::{
    auth::User,
    events,
    resource::Resource,
    selector::Selector,
    status::{ApiError, FieldError, details},
    table,
    write::{DeleteOptions, Deleted, Endpoint, Patch, Target, WriteOptions, Written, meta},
};

const ENCODING: base64::engine::GeneralPurpose = base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Answers a request for a resource.
pub fn serve(
    server: &Arc<Server>,
    user: &User,
    request: ResourceRequest,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Response<Body>, ApiError> {
    let access = &request.access;
    let registry = &server.cluster.registry;
    let mut resource = registry
        .get(&access.group, &request.version, &access.resource)
        .ok_or_else(|| ApiError::unserved(&access.group))?;
    let view = View::negotiate(headers, &request.query, resource.crd.is_some())?;
    // Both groups of events are one table; the core view is the stored one.
    let new_events = access.group == "events.k8s.io";
    if new_events {
        resource = registry.get("", "v1", "events").ok_or_else(ApiError::no_such_path)?;
    }
    let answer = Answer { view, new_events };
    let endpoint = match access.subresource.as_str() {
        "" => Endpoint::Main,
        "status" if resource.has_status => Endpoint::Status,
        _ => return Err(ApiError::no_such_path()),
    };
    if !resource.verbs.contains(&access.verb.as_str())
        || (endpoint == Endpoint::Status && !matches!(access.verb.as_str(), "get" | "update" | "patch"))
    {
        return Err(ApiError::method_not_allowed());
    }
    // A collection without its namespace can be read and watched, not written.
    let across = resource.namespaced && access.namespace.is_empty();
    if (across && !matches!(access.verb.as_str(), "list" | "watch"))
        || (!resource.namespaced && !access.namespace.is_empty())
    {
        return Err(ApiError::no_such_path());
    }
    if resource.verbs.len() == 1 {
        return question(&resource, user, body, headers);
    }
    let target = Target { resource, namespace: access.namespace.clone(), name: access.name.clone(), endpoint };
    let handler = Handler { server, request: &request, headers, body, answer, target };
    match access.verb.as_str() {
        "get" => handler.get(),
        "list" => handler.list(),
        "watch" => watch::serve(server, handler.target.resource.clone(), &request, answer),
        "create" => handler.create(),
        "update" => handler.update(),
        "patch" => handler.patch(),
        "delete" => handler.delete(),
        "deletecollection" => handler.delete_collection(),
        _ => Err(ApiError::method_not_allowed()),
    }
}

fn question(resource: &Resource, user: &User, body: &[u8], headers: &HeaderMap) -> Result<Response<Body>, ApiError> {
    let (body, _) = decode::body(body, content_type(headers))?;
    let answer = match resource.kind.as_str() {
        "SelfSubjectReview" => user.review(),
        "SelfSubjectAccessReview" => user.access_review(body),
        "SelfSubjectRulesReview" => user.rules_review(body),
        _ => return Err(ApiError::method_not_allowed()),
    };
    Ok(json_response(StatusCode::CREATED, &answer))
}

fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("application/json");
    value.split(';').next().unwrap_or_default().trim()
}

struct Handler<'a> {
    server: &'a Arc<Server>,
    request: &'a ResourceRequest,
    headers: &'a HeaderMap,
    body: &'a [u8],
    answer: Answer,
    target: Target,
}

impl Handler<'_> {
    fn query(&self) -> &Query {
        &self.request.query
    }

    fn options(&self) -> Result<WriteOptions, ApiError> {
        let options = match self.request.access.verb.as_str() {
            "create" => "CreateOptions",
            "update" => "UpdateOptions",
            _ => "PatchOptions",
        };
        self.query().write_options(self.headers, options)
    }

    /// The body in the stored view, and the fields that occur twice in it.
    fn decoded(&self) -> Result<(Value, Vec<String>), ApiError> {
        let (body, duplicates) = decode::body(self.body, content_type(self.headers))?;
        Ok((if self.answer.new_events { events::to_core(body) } else { body }, duplicates))
    }

    fn one(&self, status: StatusCode, object: &Value) -> Response<Body> {
        let body = match self.answer.view {
            View::Object => self.answer.object(object),
            View::Metadata => table::partial(object),
            View::Table(_) => {
                self.answer.table(&self.target.resource, &[object], true, meta(object, "resourceVersion"))
            }
        };
        json_response(status, &body)
    }

    fn written(&self, written: &Written) -> Response<Body> {
        let status = if written.created { StatusCode::CREATED } else { StatusCode::OK };
        let mut response = self.one(status, &written.object);
        for warning in &written.warnings {
            let text = format!("299 - \"{}\"", warning.replace('\\', "\\\\").replace('"', "\\\""));
            if let Ok(value) = HeaderValue::from_str(&text) {
                response.headers_mut().append(header::WARNING, value);
            }
        }
        response
    }

    fn get(&self) -> Result<Response<Body>, ApiError> {
        let object = self.server.cluster.get(&self.target)?;
        Ok(self.one(StatusCode::OK, &object))
    }

    fn selector(&self) -> Result<Selector, ApiError> {
        Selector::parse(self.query().get("labelSelector"), self.query().get("fieldSelector"), &self.target.resource)
    }

    fn list(&self) -> Result<Response<Body>, ApiError> {
        let resource = &self.target.resource;
        let selector = self.selector()?;
        let namespace = Some(self.target.namespace.as_str()).filter(|n| !n.is_empty());
        let listing = self.server.cluster.store.list(&resource.table, namespace, selector.name());
        if let Some(wanted) = self.query().number("resourceVersion")?
            && wanted > listing.version
        {
            let message = format!("Timeout: Too large resource version: {wanted}, current: {}", listing.version);
            let mut error = ApiError::new(504, "Timeout", message);
            error.details = Some(
                json!({"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]}),
            );
            error.retry_after = Some(1);
            return Err(error);
        }
        let page = self.query().get("continue").map(Page::decode).transpose()?;
        let mut version = listing.version;
        let mut items: Vec<&Arc<Value>> = listing.items.iter().filter(|o| selector.matches(o)).collect();
        if let Some(page) = &page {
            // Later pages carry the first one's version: a watch from there replays what changed in between.
            if self.server.cluster.store.since(&resource.table, page.version).is_err() {
                return Err(ApiError::continue_expired());
            }
            version = page.version;
            items.retain(|o| (meta(o, "namespace"), meta(o, "name")) > (page.namespace.as_str(), page.name.as_str()));
        }
        let mut list_meta = json!({"resourceVersion": version.to_string()});
        if let Some(limit) = self.query().number("limit")?.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0)
            && items.len() > limit
        {
            let last = items[limit - 1];
            let next = Page { version, namespace: meta(last, "namespace").into(), name: meta(last, "name").into() };
            list_meta["continue"] = json!(next.encode());
            list_meta["remainingItemCount"] = json!(items.len() - limit);
            items.truncate(limit);
        }
        let objects: Vec<&Value> = items.iter().map(|o| o.as_ref()).collect();
        let body = match self.answer.view {
            View::Table(_) => {
                let mut table = self.answer.table(resource, &objects, true, "");
                table["metadata"] = list_meta;
                table
            }
            View::Metadata => {
                let items: Vec<Value> = objects.iter().map(|o| table::partial(o)).collect();
                json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": list_meta, "items": items})
            }
            View::Object if self.answer.new_events => {
                let items: Vec<Value> = objects.iter().map(|o| events::from_core(o)).collect();
                json!({"kind": resource.list_kind, "apiVersion": "events.k8s.io/v1", "metadata": list_meta, "items": items})
            }
            View::Object => {
                // Straight from the stored objects: lists are the one answer large enough to matter.
                let list = List {
                    kind: &resource.list_kind,
                    api_version: resource.api_version(),
                    metadata: list_meta,
                    items: &objects,
                };
                return Ok(json_response(StatusCode::OK, &list));
            }
        };
        Ok(json_response(StatusCode::OK, &body))
    }

    /// Whole objects come as JSON, YAML or protobuf.
    fn check_object_type(&self) -> Result<(), ApiError> {
        const OBJECTS: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
        match content_type(self.headers) {
            "" => Ok(()),
            known if OBJECTS.contains(&known) => Ok(()),
            _ => Err(ApiError::unsupported_media_type(&OBJECTS.join(", "))),
        }
    }

    fn create(&self) -> Result<Response<Body>, ApiError> {
        self.check_object_type()?;
        let (body, duplicates) = self.decoded()?;
        let options = WriteOptions { duplicates, ..self.options()? };
        Ok(self.written(&self.server.cluster.create(&self.target, body, &options)?))
    }

    fn update(&self) -> Result<Response<Body>, ApiError> {
        self.check_object_type()?;
        let (body, duplicates) = self.decoded()?;
        let options = WriteOptions { duplicates, ..self.options()? };
        Ok(self.written(&self.server.cluster.update(&self.target, body, &options)?))
    }

    fn patch(&self) -> Result<Response<Body>, ApiError> {
        const PATCHES: [&str; 4] = [
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/apply-patch+yaml",
            "application/strategic-merge-patch+json",
        ];
        // Custom kinds know no strategic merge.
        let accepted = &PATCHES[..if self.target.resource.crd.is_some() { 3 } else { 4 }];
        let kind = content_type(self.headers);
        if !accepted.contains(&kind) {
            return Err(ApiError::unsupported_media_type(&accepted.join(", ")));
        }
        if kind != "application/apply-patch+yaml" && self.query().get("force").is_some() {
            let error = FieldError::forbidden("force", "may not be specified for non-apply patch");
            return Err(ApiError::invalid_options("PatchOptions", &error));
        }
        let (body, duplicates) = self.decoded()?;
        let mut options = WriteOptions { duplicates, patch: true, ..self.options()? };
        let cluster = &self.server.cluster;
        let written = match kind {
            "application/apply-patch+yaml" => {
                options.manager = self.query().get("fieldManager").unwrap_or_default().to_owned();
                cluster.apply(&self.target, body, &options)?
            }
            "application/json-patch+json" => cluster.patch(&self.target, &Patch::Json(body), &options)?,
            "application/merge-patch+json" => cluster.patch(&self.target, &Patch::Merge(body), &options)?,
            _ => cluster.patch(&self.target, &Patch::Strategic(body), &options)?,
        };
        Ok(self.written(&written))
    }

    fn delete_options(&self) -> Result<DeleteOptions, ApiError> {
        let body =
            if self.body.is_empty() { Value::Null } else { decode::body(self.body, content_type(self.headers))?.0 };
        let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let policy = text("/propagationPolicy").or_else(|| self.query().get("propagationPolicy").map(str::to_owned));
        Ok(DeleteOptions {
            dry_run: self.query().get("dryRun") == Some("All")
                || body.pointer("/dryRun").and_then(Value::as_array).is_some_and(|d| d.contains(&json!("All"))),
            uid: text("/preconditions/uid"),
            version: text("/preconditions/resourceVersion"),
            orphan: policy.as_deref() == Some("Orphan"),
        })
    }

    fn delete(&self) -> Result<Response<Body>, ApiError> {
        let resource = &self.target.resource;
        match self.server.cluster.delete(&self.target, &self.delete_options()?)? {
            Deleted::Marked(object) => Ok(self.one(StatusCode::OK, &object)),
            Deleted::Gone(object) => {
                let mut about = details(&resource.group, &resource.plural, &self.target.name);
                about["uid"] = json!(meta(&object, "uid"));
                let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": about});
                Ok(json_response(StatusCode::OK, &status))
            }
        }
    }

    fn delete_collection(&self) -> Result<Response<Body>, ApiError> {
        let resource = &self.target.resource;
        let (selector, options) = (self.selector()?, self.delete_options()?);
        let namespace = Some(self.target.namespace.as_str()).filter(|n| !n.is_empty());
        let listing = self.server.cluster.store.list(&resource.table, namespace, selector.name());
        let mut deleted = Vec::new();
        for object in listing.items.iter().filter(|o| selector.matches(o)) {
            let target = Target {
                namespace: meta(object, "namespace").to_owned(),
                name: meta(object, "name").to_owned(),
                ..self.target.clone()
            };
            match self.server.cluster.delete(&target, &options) {
                Ok(Deleted::Gone(object) | Deleted::Marked(object)) => deleted.push(self.answer.object(&object)),
                Err(error) if error.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        let body = json!({
            "kind": resource.list_kind,
            "apiVersion": self.answer.api_version(resource),
            "metadata": {"resourceVersion": listing.version.to_string()},
            "items": deleted,
        });
        Ok(json_response(StatusCode::OK, &body))
    }
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct List<'a> {
    kind: &'a str,
    api_version: String,
    metadata: Value,
    items: &'a [&'a Value],
}

/// Where the next page starts.
#[derive(serde::Serialize, serde::Deserialize)]
struct Page {
    version: u64,
    namespace: String,
    name: String,
}

impl Page {
    fn encode(&self) -> String {
        ENCODING.encode(json!(self).to_string())
    }

    fn decode(token: &str) -> Result<Self, ApiError> {
        let parsed = ENCODING.decode(token).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        parsed.ok_or_else(|| ApiError::bad_request("continue key is not valid: invalid token"))
    }
}
