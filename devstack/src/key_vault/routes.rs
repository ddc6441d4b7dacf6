//! From an HTTP request to an operation, and back.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use futures::{StreamExt, stream};
use serde_json::{Value, json};

use super::{
    Effect, Operation, RESOURCE, Shared,
    store::{Change, Refusal, bad, refuse},
};

/// The largest page, and the one that is sent when nobody asks for less.
const PAGE: usize = 25;

/// How long half an answer gets to reach the client.
const FLUSH: Duration = Duration::from_millis(50);

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new().fallback(handle).with_state(shared)
}

/// What a request asks for.
struct Call {
    operation: Operation,
    name: Option<String>,
    version: Option<String>,
}

async fn handle(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let query: HashMap<String, String> =
        url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    // The service authenticates first: without a token, even a wrong path gets the challenge.
    let object_id = match authenticate(&shared, &headers) {
        Ok(object_id) => object_id,
        Err(message) => return challenge(&shared, &message),
    };
    let call = match parse(&method, uri.path()) {
        Ok(call) => call,
        Err(refusal) => return answer_refusal(refusal),
    };
    if !query.contains_key("api-version") {
        return answer_refusal(bad("The query parameter api-version is required."));
    }
    let effect = {
        let mut state = shared.lock();
        *state.calls.entry(call.operation).or_default() += 1;
        state.faults.take(call.operation, call.name.as_deref())
    };
    match &effect {
        Some(Effect::Hang) => std::future::pending().await,
        Some(Effect::Slow(delay)) => tokio::time::sleep(*delay).await,
        Some(Effect::Throttle(seconds)) => {
            let body =
                error_body("Throttled", None, "Request was not processed because too many requests were received.");
            let headers = [(header::RETRY_AFTER, seconds.to_string())];
            return (StatusCode::TOO_MANY_REQUESTS, headers, Json(body)).into_response();
        }
        Some(Effect::Status(status, code)) => {
            let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            return (status, Json(error_body(code, None, "Injected fault."))).into_response();
        }
        Some(Effect::HalfResponse) | None => {}
    }
    let response = match run(&shared, &object_id, &call, &query, &body) {
        Ok(response) => response,
        Err(refusal) => answer_refusal(refusal),
    };
    if effect == Some(Effect::HalfResponse) {
        return half(response).await;
    }
    response
}

/// The caller's object ID, or why the token is no good.
fn authenticate(shared: &Shared, headers: &HeaderMap) -> Result<String, String> {
    let token = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .ok_or("AKV10000: Request is missing a Bearer or PoP token.")?;
    let claims =
        shared.verifier.verify(token, RESOURCE).map_err(|error| format!("AKV10046: Invalid token: {error}"))?;
    let text = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    if text("tid") != shared.tenant_id {
        return Err(String::from("AKV10032: Invalid issuer."));
    }
    Ok(text("oid"))
}

fn challenge(shared: &Shared, message: &str) -> Response {
    shared.lock().challenges += 1;
    let challenge =
        format!("Bearer authorization=\"{}/{}\", resource=\"{RESOURCE}\"", shared.verifier.url(), shared.tenant_id);
    let headers = [(header::WWW_AUTHENTICATE, challenge)];
    (StatusCode::UNAUTHORIZED, headers, Json(error_body("Unauthorized", None, message))).into_response()
}

fn parse(method: &Method, path: &str) -> Result<Call, Refusal> {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let call = |operation, name: Option<&str>, version: Option<&str>| {
        Ok(Call { operation, name: name.map(str::to_owned), version: version.map(str::to_owned) })
    };
    if let Some(name) = segments.get(1)
        && !valid_name(name)
    {
        return Err(bad("The request URI contains an invalid name."));
    }
    match (method.as_str(), segments.as_slice()) {
        ("GET", ["secrets"]) => call(Operation::List, None, None),
        ("GET", ["secrets", name, "versions"]) => call(Operation::ListVersions, Some(name), None),
        ("GET", ["secrets", name]) => call(Operation::Get, Some(name), None),
        ("GET", ["secrets", name, version]) => call(Operation::Get, Some(name), Some(version)),
        ("PUT", ["secrets", name]) => call(Operation::Set, Some(name), None),
        ("PATCH", ["secrets", name]) => call(Operation::Update, Some(name), None),
        ("PATCH", ["secrets", name, version]) => call(Operation::Update, Some(name), Some(version)),
        ("DELETE", ["secrets", name]) => call(Operation::Delete, Some(name), None),
        ("GET", ["deletedsecrets"]) => call(Operation::ListDeleted, None, None),
        ("GET", ["deletedsecrets", name]) => call(Operation::GetDeleted, Some(name), None),
        ("POST", ["deletedsecrets", name, "recover"]) => call(Operation::Recover, Some(name), None),
        ("DELETE", ["deletedsecrets", name]) => call(Operation::Purge, Some(name), None),
        _ => Err(refuse(405, "MethodNotAllowed", None, format!("{method} {path} is not supported."))),
    }
}

fn valid_name(name: &str) -> bool {
    (1..=127).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn run(
    shared: &Shared,
    object_id: &str,
    call: &Call,
    query: &HashMap<String, String>,
    body: &[u8],
) -> Result<Response, Refusal> {
    let mut state = shared.lock();
    if !state.allowed.get(object_id).is_some_and(|allowed| allowed.0.contains(&call.operation)) {
        let message = format!(
            "Caller is not authorized to perform action on resource. If role assignments, deny assignments or role \
             definitions were changed recently, please observe propagation time. Caller: oid={object_id}. \
             Action: {:?}",
            call.operation
        );
        return Err(refuse(403, "Forbidden", Some("ForbiddenByRbac"), message));
    }
    let name = call.name.as_deref().unwrap_or_default();
    let version = call.version.as_deref();
    let change = || {
        serde_json::from_slice::<Change>(body).map_err(|error| bad(&format!("The request body is invalid: {error}")))
    };
    let store = &mut state.store;
    let document = match call.operation {
        Operation::Get => store.get(name, version)?,
        Operation::Set => store.set(name, change()?)?,
        Operation::Update => store.update(name, version, change()?)?,
        Operation::Delete => store.delete(name)?,
        Operation::GetDeleted => store.get_deleted(name)?,
        Operation::Recover => store.recover(name)?,
        Operation::Purge => {
            store.purge(name)?;
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
        Operation::List => page(shared, "secrets", store.list(), query)?,
        Operation::ListVersions => page(shared, &format!("secrets/{name}/versions"), store.list_versions(name), query)?,
        Operation::ListDeleted => page(shared, "deletedsecrets", store.list_deleted(), query)?,
    };
    Ok(Json(document).into_response())
}

/// One page, and the link to the next. The token in the link is opaque to clients; here it is the offset.
fn page(shared: &Shared, path: &str, items: Vec<Value>, query: &HashMap<String, String>) -> Result<Value, Refusal> {
    let number = |name: &str, default: usize| match query.get(name) {
        None => Ok(default),
        Some(text) => text.parse::<usize>().map_err(|_| bad(&format!("{name} is not a number."))),
    };
    let size = number("maxresults", PAGE)?;
    if !(1..=PAGE).contains(&size) {
        return Err(bad("maxresults must be between 1 and 25."));
    }
    let offset = number("$skiptoken", 0)?;
    let end = offset.saturating_add(size);
    let next = (end < items.len()).then(|| {
        let version = query.get("api-version").map(String::as_str).unwrap_or_default();
        format!("{}/{path}?api-version={version}&$skiptoken={end}&maxresults={size}", shared.url)
    });
    let value: Vec<Value> = items.into_iter().skip(offset).take(size).collect();
    Ok(json!({"value": value, "nextLink": next}))
}

fn answer_refusal(refusal: Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(error_body(refusal.code, refusal.inner, &refusal.message))).into_response()
}

fn error_body(code: &str, inner: Option<&str>, message: &str) -> Value {
    let mut error = json!({"code": code, "message": message});
    if let Some(inner) = inner {
        error["innererror"] = json!({"code": inner});
    }
    json!({"error": error})
}

/// The same response, promised in full and broken off in the middle.
async fn half(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let whole = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    parts.headers.insert(header::CONTENT_LENGTH, whole.len().max(1).into());
    let start = whole.slice(..whole.len() / 2);
    // hyper cuts the connection (HTTP/2: the stream) when a body fails, and drops what it has not sent by then.
    let failure = async {
        tokio::time::sleep(FLUSH).await;
        Err(std::io::Error::other("injected fault"))
    };
    let pieces = stream::iter([Ok(start)]).chain(stream::once(failure));
    Response::from_parts(parts, Body::from_stream(pieces))
}
