//! The public listener's routes.

pub mod auth;
pub mod calls;
pub mod errors;
pub mod hosts;
pub mod limits;
pub mod metadata;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Full};
use prometheus::IntGauge;
use rmcp::transport::streamable_http_server::{
    StreamableHttpServerConfig, StreamableHttpService, session::never::NeverSessionManager,
};
use tracing::{Instrument, Span};

use self::{auth::Access, calls::Calls, hosts::Allowed, metadata::Metadata};
use crate::{
    mcp::{
        handler::Handler,
        logging::SESSION,
        prompts,
        protocol::{self, Envelope, Refusal},
        splice::Slot,
        tools::{Caller, Services, Tool},
    },
    metrics::Metrics,
    telemetry::spans,
};

/// What the routes share.
pub struct App {
    /// From token to caller.
    pub access: Access,
    /// RFC 9728 documents.
    pub metadata: Arc<Metadata>,
    /// Host and Origin.
    pub allowed: Allowed,
    /// Calls under way.
    pub calls: Arc<Calls>,
    /// Longest wait for a request body.
    pub body_timeout: Duration,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// The tools behind rmcp.
    pub services: Arc<Services>,
    /// rmcp.
    pub mcp: StreamableHttpService<Handler, NeverSessionManager>,
}

/// rmcp's service in the shape that both revisions need: no sessions, JSON answers. Host and Origin are checked by our
/// own layer, which also covers the other routes.
#[must_use]
pub fn mcp_service(
    services: Arc<Services>,
    ending: tokio_util::sync::CancellationToken,
) -> StreamableHttpService<Handler, NeverSessionManager> {
    let config = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(false)
        .with_json_response(true)
        .with_cancellation_token(ending)
        .disable_allowed_hosts()
        .disable_allowed_origins();
    let handler = Handler::new(services);
    StreamableHttpService::new(move || Ok(handler.clone()), Arc::default(), config)
}

/// All routes.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/mcp", any(mcp_any_tenant))
        .route("/{tenant}/mcp", any(mcp_one_tenant))
        .route("/.well-known/oauth-protected-resource", get(metadata::root))
        .route("/.well-known/oauth-protected-resource/mcp", get(metadata::root))
        .route("/.well-known/oauth-protected-resource/{tenant}/mcp", get(metadata::of_tenant))
        .fallback(errors::not_found)
        .layer(hosts::Check(app.clone()))
        .with_state(app)
}

async fn mcp_any_tenant(State(app): State<Arc<App>>, request: Request) -> Response {
    mcp(&app, None, request).await
}

async fn mcp_one_tenant(State(app): State<Arc<App>>, Path(tenant): Path<String>, request: Request) -> Response {
    mcp(&app, Some(&tenant), request).await
}

/// Counts a request until its answer has been handed on.
struct InFlight(IntGauge);

impl InFlight {
    fn new(metrics: &Metrics) -> Self {
        metrics.in_flight.inc();
        Self(metrics.in_flight.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

async fn mcp(app: &App, tenant: Option<&str>, request: Request) -> Response {
    let in_flight = InFlight::new(&app.metrics);
    let caller = match app.access.caller(request.headers(), tenant).await {
        Ok(caller) => Arc::new(caller),
        Err(denied) => return app.access.answer(denied, tenant),
    };
    if request.method() != Method::POST {
        return (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "POST")]).into_response();
    }
    if let Some(refusal) = media_types(&request) {
        return refusal;
    }
    let (mut parts, body) = request.into_parts();
    let body = match limits::read(body, app.body_timeout).await {
        Ok(body) => body,
        Err(status) => {
            if status == StatusCode::REQUEST_TIMEOUT {
                app.metrics.slow_clients.with_label_values(&["body"]).inc();
            }
            return errors::plain(status);
        }
    };
    let envelope = match protocol::inspect(&parts.headers, &body) {
        Ok(envelope) => envelope,
        Err(refusal) => {
            let code = refusal.code.to_string();
            app.metrics.operations.with_label_values(&["invalid", "", &code]).observe(0.0);
            return json_rpc(&refusal);
        }
    };
    let under_way = match (envelope.method.as_deref(), &envelope.id) {
        (Some(method), Some(id)) if protocol::is_cancellable(method) => Some(app.calls.begin(&caller.principal, id)),
        (Some("notifications/cancelled"), _) => {
            let message: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            app.calls.cancel(&caller.principal, &message["params"]["requestId"]);
            None
        }
        _ => None,
    };
    let (correlation, started) = (caller.correlation, Instant::now());
    let span = span(app, &envelope, &parts.headers, &caller);
    // The token goes no further than this.
    parts.headers.remove(header::AUTHORIZATION);
    let slot = Slot::default();
    parts.extensions.insert(caller);
    parts.extensions.insert(slot.clone());
    parts.extensions.insert(span.clone());
    if let Some(under_way) = &under_way {
        parts.extensions.insert(under_way.cancelled.clone());
    }
    let handling = app.mcp.handle(http::Request::from_parts(parts, Full::new(body)));
    let response = handling.instrument(span.clone()).await;
    let mut response = finish(response, &slot, &envelope, (under_way, in_flight)).await;
    // Only tells the clients of one token apart (see mcp::logging): it is neither kept nor asked for, so that any replica
    // answers.
    if envelope.method.as_deref() == Some("initialize")
        && response.status().is_success()
        && let Ok(value) = HeaderValue::try_from(uuid::Uuid::new_v4().to_string())
    {
        response.headers_mut().insert(SESSION, value);
    }
    // Tools are observed where they run, with their names and outcomes.
    if let Some(method) = envelope.other_method() {
        let error = if response.status().is_success() { "" } else { "refused" };
        let seconds = started.elapsed().as_secs_f64();
        app.metrics.operations.with_label_values(&[method, "", error]).observe(seconds);
    }
    if !response.status().is_success() {
        spans::failed(&span, response.status().as_str());
    }
    if let Ok(value) = HeaderValue::try_from(correlation.to_string()) {
        response.headers_mut().insert("x-correlation-id", value);
    }
    response
}

/// The span of a request. Names that are not ours are left out: a caller can make them up without end.
fn span(app: &App, envelope: &Envelope, headers: &HeaderMap, caller: &Caller) -> Span {
    let method = envelope.known_method().unwrap_or("other");
    let name = envelope.name.as_deref().unwrap_or_default();
    let prompt = Some(prompts::known(name)).filter(|prompt| *prompt == name && method == "prompts/get");
    let tool = app.services.tools.find(name).map(Tool::name).filter(|_| method == "tools/call");
    let version = headers.get("mcp-protocol-version").and_then(|value| value.to_str().ok());
    let id = envelope.id.as_ref().map(ToString::to_string).filter(|id| id.len() <= 64);
    let request = spans::Request {
        method,
        tool,
        prompt,
        version: version.filter(|version| protocol::SUPPORTED.contains(version)).unwrap_or(protocol::SUPPORTED[0]),
        id: id.as_deref(),
        correlation: caller.correlation,
        tenant: caller.tenant.id().as_str(),
    };
    spans::request(request, &envelope.trace, headers)
}

/// 415 and 406 as plain text: what sent this is no MCP client.
fn media_types(request: &Request) -> Option<Response> {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.map(|text| text.split(';').next().unwrap_or_default().trim());
    (!essence.is_some_and(|essence| essence.eq_ignore_ascii_case("application/json")))
        .then(|| errors::plain(StatusCode::UNSUPPORTED_MEDIA_TYPE))
}

fn json_rpc(refusal: &Refusal) -> Response {
    (refusal.status, [(header::CONTENT_TYPE, "application/json")], refusal.body()).into_response()
}

type McpBody = http_body_util::combinators::BoxBody<Bytes, std::convert::Infallible>;

/// Puts the result into its place, and gives rmcp's plain texts the form of JSON-RPC. `held` is dropped with the answer's
/// end, which for an event stream is later than this.
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
