//! From an HTTP request to vectors, and back.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{DIMENSIONS, Embedded, Fault, RESOURCE, Shared};

/// Most texts of one request, as in the service.
const INPUTS_MAX: usize = 2048;
/// Most tokens of one text, as in the service. Counted in words, of which none is shorter than a token.
const TOKENS_MAX: usize = 8191;
const BODY_MAX: usize = 16 << 20;

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/openai/deployments/{deployment}/embeddings", post(azure))
        .route("/v1/embeddings", post(open_ai))
        .fallback(|| async { refuse(StatusCode::NOT_FOUND, "404", "Resource not found") })
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(shared)
}

async fn azure(
    State(shared): State<Arc<Shared>>,
    Path(deployment): Path<String>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let key = headers.get("api-key").map(|key| key.as_bytes() == shared.key.as_bytes());
    let known = match key {
        Some(known) => known,
        None => bearer(&headers).is_some_and(|token| principal(&shared, token)),
    };
    if !known {
        let message = "Access denied due to invalid subscription key, token or missing role.";
        return refuse(StatusCode::UNAUTHORIZED, "401", message);
    }
    let version = query.get("api-version");
    if version.is_none_or(|version| shared.api_version.as_ref().is_some_and(|only| only != version)) {
        return refuse(StatusCode::NOT_FOUND, "404", "Resource not found");
    }
    if deployment != shared.deployment {
        return refuse(
            StatusCode::NOT_FOUND,
            "DeploymentNotFound",
            "The API deployment for this resource does not exist.",
        );
    }
    answer(shared, &body).await
}

async fn open_ai(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    if bearer(&headers) != Some(shared.key.as_str()) {
        return refuse(StatusCode::UNAUTHORIZED, "invalid_api_key", "Incorrect API key provided.");
    }
    let model = serde_json::from_slice::<Value>(&body).ok().and_then(|body| body["model"].as_str().map(str::to_owned));
    if model.as_deref() != Some(shared.deployment.as_str()) {
        return refuse(StatusCode::NOT_FOUND, "model_not_found", "The model does not exist.");
    }
    answer(shared, &body).await
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

fn principal(shared: &Shared, token: &str) -> bool {
    let Ok(claims) = shared.verifier.verify(token, RESOURCE) else { return false };
    let object_id = claims.get("oid").and_then(Value::as_str).unwrap_or_default();
    shared.lock().allowed.contains(object_id)
}

#[derive(Deserialize)]
struct Request {
    input: Input,
    encoding_format: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    One(String),
    Many(Vec<String>),
}

async fn answer(shared: Arc<Shared>, body: &[u8]) -> Response {
    let fault = {
        let mut state = shared.lock();
        state.calls += 1;
        state.faults.pop_front()
    };
    match fault {
        None => {}
        Some(Fault::Throttle(seconds)) => return throttled("retry-after", seconds),
        Some(Fault::ThrottleMillis(millis)) => return throttled("retry-after-ms", millis),
        Some(Fault::Status(status, code)) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            return refuse(status, code, "Injected fault.");
        }
        Some(Fault::Garbage) => return "<html>not JSON</html>".into_response(),
        Some(Fault::Long(length)) => {
            return format!("{{\"data\": [{}]}}", " ".repeat(length)).into_response();
        }
        Some(Fault::Hang) => return std::future::pending().await,
        Some(Fault::Slow(delay)) => tokio::time::sleep(delay).await,
    }
    let request: Request = match serde_json::from_slice(body) {
        Ok(request) => request,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, "400", &format!("Invalid request: {error}")),
    };
    let inputs = match request.input {
        Input::One(text) => vec![text],
        Input::Many(texts) => texts,
    };
    if inputs.is_empty() || inputs.len() > INPUTS_MAX || inputs.iter().any(String::is_empty) {
        let message = format!("'input' must be 1 to {INPUTS_MAX} texts, none of them empty.");
        return refuse(StatusCode::BAD_REQUEST, "400", &message);
    }
    if inputs.iter().any(|text| text.split_whitespace().count() > TOKENS_MAX) {
        let message = format!("This model's maximum context length is {TOKENS_MAX} tokens.");
        return refuse(StatusCode::BAD_REQUEST, "400", &message);
    }
    let filtered = shared.lock().refused.clone();
    if filtered.is_some_and(|words| inputs.iter().any(|text| text.contains(&words))) {
        return refuse(StatusCode::BAD_REQUEST, "content_filter", "The text was filtered.");
    }
    let packed = request.encoding_format.as_deref() == Some("base64");
    let count = inputs.len() as u64;
    let model = Arc::clone(&shared.model);
    let embedded = match tokio::task::spawn_blocking(move || model.embed(&inputs)).await {
        Ok(Ok(embedded)) => embedded,
        Ok(Err(error)) => return refuse(StatusCode::INTERNAL_SERVER_ERROR, "500", &error.to_string()),
        Err(error) => return refuse(StatusCode::INTERNAL_SERVER_ERROR, "500", &error.to_string()),
    };
    shared.lock().inputs += count;
    let tokens: usize = embedded.iter().map(|text| text.tokens).sum();
    let data: Vec<Value> = embedded
        .into_iter()
        .enumerate()
        .map(|(index, text)| json!({"object": "embedding", "index": index, "embedding": rendered(text, packed)}))
        .collect();
    Json(json!({
        "object": "list",
        "data": data,
        "model": shared.deployment,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }))
    .into_response()
}

fn rendered(text: Embedded, packed: bool) -> Value {
    let mut vector = text.vector;
    vector.resize(DIMENSIONS, 0.0);
    if packed {
        let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
        json!(STANDARD.encode(bytes))
    } else {
        json!(vector)
    }
}

fn throttled(name: &'static str, value: u64) -> Response {
    let message = "Requests to the Embeddings operation have exceeded the rate limit.";
    let mut response = refuse(StatusCode::TOO_MANY_REQUESTS, "429", message);
    response.headers_mut().insert(name, value.into());
    response
}

fn refuse(status: StatusCode, code: &str, message: &str) -> Response {
    (status, Json(json!({"error": {"code": code, "message": message}}))).into_response()
}
