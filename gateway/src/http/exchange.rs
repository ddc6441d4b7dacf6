//! One message of one visitor, from its text to the answer.

use std::time::Instant;

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, Full};
use tracing::{Instrument, Span};

use super::{App, auth::Visitor};
use crate::{
    mcp::{
        prompts,
        protocol::{self, Envelope, Refusal},
        revision::{self, Client, Revision, VERSION},
        splice::Slot,
    },
    telemetry::spans,
    tools::Tool,
};

/// Answers a message. `held` is dropped at the end of the answer, which for an event stream is after this function
/// returns.
pub async fn answer(
    app: &App,
    visitor: Visitor,
    mut parts: Parts,
    body: Bytes,
    envelope: Envelope,
    client: Client,
    held: impl Send + 'static,
) -> Response {
    let under_way = match (envelope.method.as_deref(), &envelope.id) {
        (Some(method), Some(id)) if protocol::is_cancellable(method) => Some(app.calls.begin(visitor.principal(), id)),
        (Some("notifications/cancelled"), _) => {
            let message: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            app.calls.cancel(visitor.principal(), &message["params"]["requestId"]);
            None
        }
        _ => None,
    };
    let is_initialize = envelope.method.as_deref() == Some("initialize");
    let (correlation, started) = (visitor.correlation(), Instant::now());
    let span = span(app, &envelope, &parts.headers, &visitor);
    // The token is not passed on.
    parts.headers.remove(header::AUTHORIZATION);
    if is_initialize {
        // `initialize` negotiates in its body; rmcp refuses one whose header differs, as that of ai-sdk may.
        parts.headers.remove(VERSION);
    }
    let slot = Slot::default();
    visitor.enter(&mut parts.extensions);
    parts.extensions.insert(client);
    parts.extensions.insert(slot.clone());
    parts.extensions.insert(span.clone());
    if let Some(under_way) = &under_way {
        parts.extensions.insert(under_way.cancelled.clone());
    }
    let body = envelope.repaired.clone().unwrap_or(body);
    let handling = app.mcp.handle(http::Request::from_parts(parts, Full::new(body)));
    let response = handling.instrument(span.clone()).await;
    let mut response = finish(response, &slot, &envelope, (under_way, held)).await;
    if is_initialize
        && response.status().is_success()
        && let Some(Ok(value)) = envelope.revision.map(|agreed| HeaderValue::try_from(revision::session(agreed)))
    {
        response.headers_mut().insert(revision::SESSION, value);
    }
    // Tools record their own metrics, with names and outcomes.
    if let Some(method) = envelope.other_method() {
        let error = if response.status().is_success() { "" } else { "refused" };
        let seconds = started.elapsed().as_secs_f64();
        app.metrics.operations.with_label_values(&[method, "", error]).observe(seconds);
    }
    if !response.status().is_success() {
        spans::failed(&span, response.status().as_str());
    }
    identify(&mut response, correlation);
    response
}

/// Identifies the request in the log.
pub fn identify(response: &mut Response, correlation: uuid::Uuid) {
    if let Ok(value) = HeaderValue::try_from(correlation.to_string()) {
        response.headers_mut().insert("x-correlation-id", value);
    }
}

/// The span of a request. Unknown names are left out: a caller can invent any number of them.
fn span(app: &App, envelope: &Envelope, headers: &HeaderMap, visitor: &Visitor) -> Span {
    let method = envelope.known_method().unwrap_or("other");
    let name = envelope.name.as_deref().unwrap_or_default();
    let prompt = Some(prompts::known(name)).filter(|prompt| *prompt == name && method == "prompts/get");
    let tool = app.gateway.services.tools.find(name).map(Tool::name).filter(|_| method == "tools/call");
    let id = envelope.id.as_ref().map(ToString::to_string).filter(|id| id.len() <= 64);
    let request = spans::Request {
        method,
        tool,
        prompt,
        // The revision of a request without a version (2025-11-25, transports, "Protocol Version Header").
        version: envelope.revision.unwrap_or(Revision::V2025_03_26).as_str(),
        id: id.as_deref(),
        correlation: visitor.correlation(),
        tenant: visitor.tenant(),
    };
    spans::request(request, &envelope.trace, headers)
}

/// Counts a refusal that does not reach rmcp, and writes it.
pub fn refused(app: &App, refusal: &Refusal) -> Response {
    let code = refusal.code.to_string();
    app.metrics.operations.with_label_values(&["invalid", "", &code]).observe(0.0);
    json_rpc(refusal)
}

fn json_rpc(refusal: &Refusal) -> Response {
    (refusal.status, [(header::CONTENT_TYPE, "application/json")], refusal.body()).into_response()
}

type McpBody = http_body_util::combinators::BoxBody<Bytes, std::convert::Infallible>;

/// Inserts the result in the place of its marks, and turns rmcp's plain texts into JSON-RPC errors.
async fn finish(
    response: http::Response<McpBody>,
    slot: &Slot,
    envelope: &Envelope,
    held: impl Send + 'static,
) -> Response {
    let (mut parts, body) = response.into_parts();
    let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if kind.starts_with("text/event-stream") {
        parts.headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        let slot = slot.clone();
        let body = body.map_frame(move |frame| {
            let _held = &held;
            frame.map_data(|data| slot.splice_line(&data).unwrap_or(data))
        });
        return Response::from_parts(parts, Body::new(body));
    }
    let is_json = kind.starts_with("application/json");
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    if parts.status.is_client_error() && !is_json && parts.status != StatusCode::NOT_ACCEPTABLE {
        let text = String::from_utf8_lossy(&body);
        return json_rpc(&protocol::refusal_from_text(parts.status, &text, envelope));
    }
    let body = slot.splice(&body).unwrap_or(body);
    Response::from_parts(parts, Body::from(body))
}
