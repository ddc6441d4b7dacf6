//! The wire: authentication, routing, content negotiation.

mod decode;
mod objects;
mod protobuf;
mod request;
mod watch;

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
};
use http::{HeaderMap, Method, Response, StatusCode, header};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use self::request::View;
use super::{
    auth::User,
    discovery, events,
    faults::{Counters, Faults},
    openapi,
    resource::Resource,
    status::ApiError,
    table,
    write::Cluster,
};

/// The largest body, as on real servers.
const MAX_BODY: usize = 3 * 1024 * 1024;

/// Everything a request handler needs.
#[derive(Debug)]
pub struct Server {
    pub cluster: Arc<Cluster>,
    pub users: Vec<User>,
    pub faults: Faults,
    pub counters: Counters,
    pub stop: CancellationToken,
}

/// How objects are to be shown to the caller.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    view: View,
    /// Events under their newer names.
    new_events: bool,
}

impl Answer {
    fn api_version(&self, resource: &Resource) -> String {
        if self.new_events { "events.k8s.io/v1".into() } else { resource.api_version() }
    }

    fn object(&self, object: &Value) -> Value {
        if self.new_events { events::from_core(object) } else { object.clone() }
    }

    fn table(&self, resource: &Resource, objects: &[&Value], headings: bool, version: &str) -> Value {
        let View::Table(include) = self.view else { return Value::Null };
        let rows: Vec<Value> = objects.iter().map(|object| table::row(resource, object, include)).collect();
        let columns = if headings { json!(table::columns(resource)) } else { Value::Null };
        json!({
            "kind": "Table", "apiVersion": "meta.k8s.io/v1",
            "metadata": {"resourceVersion": version},
            "columnDefinitions": columns,
            "rows": rows,
        })
    }
}

/// The router of a server.
pub fn router(server: Arc<Server>) -> Router {
    Router::new().fallback(handle).with_state(server)
}

async fn handle(State(server): State<Arc<Server>>, request: Request) -> Response<Body> {
    match route(&server, request).await {
        Ok(response) => response,
        Err(error) => failure(&error),
    }
}

fn failure(error: &ApiError) -> Response<Body> {
    let status = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if status == StatusCode::NOT_FOUND && error.reason.is_empty() {
        return text_response(status, "404 page not found\n");
    }
    let mut response = json_response(status, &error.to_status());
    if let Some(seconds) = error.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

fn json_response(status: StatusCode, body: &impl serde::Serialize) -> Response<Body> {
    // Values always serialise.
    let bytes = serde_json::to_vec(body).unwrap_or_default();
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

fn text_response(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

async fn route(server: &Arc<Server>, request: Request) -> Result<Response<Body>, ApiError> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    if matches!(path.split('/').nth(1), Some("healthz" | "livez" | "readyz")) {
        return Ok(text_response(StatusCode::OK, "ok"));
    }
    let user = authenticate(server, &parts.headers)?;
    if let Some(wanted) = request::parse(&parts.method, &path, parts.uri.query()) {
        server.counters.count(&wanted.access, &user.name);
        // Everybody may ask what they may do.
        if !matches!(wanted.access.group.as_str(), "authorization.k8s.io" | "authentication.k8s.io") {
            user.check(&wanted.access)?;
        }
        server.faults.apply(&wanted.access, &user.name).await?;
        let bytes = axum::body::to_bytes(body, MAX_BODY).await.map_err(|_| {
            ApiError::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {MAX_BODY}"))
        })?;
        return objects::serve(server, user, wanted, &parts.headers, &bytes);
    }
    if parts.method != Method::GET && parts.method != Method::HEAD {
        return Err(ApiError::method_not_allowed());
    }
    Ok(documents(server, &path, &parts.headers))
}

fn authenticate<'a>(server: &'a Server, headers: &HeaderMap) -> Result<&'a User, ApiError> {
    let token =
        headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("Bearer "));
    token
        .and_then(|token| server.users.iter().find(|user| user.token == token.trim()))
        .ok_or_else(ApiError::unauthorized)
}

/// Discovery, OpenAPI and version.
fn documents(server: &Server, path: &str, headers: &HeaderMap) -> Response<Body> {
    let registry = &server.cluster.registry;
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let aggregated = accept.split(',').any(|choice| {
        let has = |word: &str| choice.split(';').any(|part| part.trim() == word);
        choice.trim().starts_with("application/json") && has("as=APIGroupDiscoveryList") && has("v=v2")
    });
    let host = headers.get(header::HOST).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let document = match parts.as_slice() {
        ["version"] => Some(version()),
        ["api" | "apis"] if aggregated => {
            let mut response = json_response(StatusCode::OK, &discovery::aggregated(registry, parts[0] == "api"));
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(discovery::AGGREGATED));
            return response;
        }
        ["api"] => Some(discovery::core_versions(host)),
        ["apis"] => Some(discovery::group_list(registry)),
        ["api", version] => discovery::resource_list(registry, "", version),
        ["apis", group] => discovery::group(registry, group),
        ["apis", group, version] => discovery::resource_list(registry, group, version),
        ["openapi", "v3"] => Some(openapi::index(registry)),
        ["openapi", "v3", "api", version] => openapi::document(registry, "", version),
        ["openapi", "v3", "apis", group, version] => openapi::document(registry, group, version),
        [""] => Some(json!({"paths": ["/api", "/apis", "/healthz", "/livez", "/openapi/v3", "/readyz", "/version"]})),
        _ => None,
    };
    match document {
        Some(document) => json_response(StatusCode::OK, &document),
        None => text_response(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

fn version() -> Value {
    json!({
        "major": "1", "minor": "36", "gitVersion": "v1.36.0+storefence", "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc", "platform": "linux/amd64",
    })
}
