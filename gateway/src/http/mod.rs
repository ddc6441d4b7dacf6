//! The public listener's routes.

mod accept;
pub mod auth;
mod batch;
pub mod calls;
mod cors;
pub mod errors;
mod exchange;
pub mod hosts;
pub mod limits;
pub mod metadata;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use http::{Method, StatusCode, header};
use prometheus::IntGauge;
use rmcp::transport::streamable_http_server::{
    StreamableHttpServerConfig, StreamableHttpService, session::never::NeverSessionManager,
};

use self::{auth::Access, calls::Calls, hosts::Allowed, metadata::Metadata};
use crate::{
    mcp::{
        Gateway,
        handler::Handler,
        protocol,
        revision::{Client, Revision, VERSION},
    },
    metrics::Metrics,
};

/// The state that the routes share.
pub struct App {
    /// Turns a token into a caller.
    pub access: Access,
    /// RFC 9728 documents.
    pub metadata: Arc<Metadata>,
    /// Host and Origin checks.
    pub allowed: Allowed,
    /// Calls in progress.
    pub calls: Arc<Calls>,
    /// Timeout for a request body.
    pub body_timeout: Duration,
    pub metrics: Arc<Metrics>,
    /// The tools behind rmcp.
    pub gateway: Arc<Gateway>,
    pub mcp: StreamableHttpService<Handler, NeverSessionManager>,
}

/// rmcp's service configured for all revisions: no sessions, JSON answers. Host and Origin are checked by our own
/// layer, which also covers the other routes.
#[must_use]
pub fn mcp_service(
    gateway: Arc<Gateway>,
    ending: tokio_util::sync::CancellationToken,
) -> StreamableHttpService<Handler, NeverSessionManager> {
    let config = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(false)
        .with_json_response(true)
        .with_cancellation_token(ending)
        .disable_allowed_hosts()
        .disable_allowed_origins();
    let handler = Handler::new(gateway);
    StreamableHttpService::new(move || Ok(handler.clone()), Arc::default(), config)
}

/// All routes.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/mcp", any(mcp_any_tenant))
        .route("/mcp/", any(mcp_any_tenant))
        .route("/{tenant}/mcp", any(mcp_one_tenant))
        .route("/{tenant}/mcp/", any(mcp_one_tenant))
        .route("/.well-known/oauth-protected-resource", get(metadata::root))
        .route("/.well-known/oauth-protected-resource/mcp", get(metadata::root))
        .route("/.well-known/oauth-protected-resource/mcp/", get(metadata::root))
        .route("/.well-known/oauth-protected-resource/{tenant}/mcp", get(metadata::of_tenant))
        .route("/.well-known/oauth-protected-resource/{tenant}/mcp/", get(metadata::of_tenant))
        .fallback(errors::not_found)
        .layer(cors::layer(app.clone()))
        .layer(hosts::Check(app.clone()))
        .with_state(app)
}

async fn mcp_any_tenant(State(app): State<Arc<App>>, request: Request) -> Response {
    mcp(&app, None, request).await
}

async fn mcp_one_tenant(State(app): State<Arc<App>>, Path(tenant): Path<String>, request: Request) -> Response {
    mcp(&app, Some(&tenant), request).await
}

/// Counts a request until its answer has been passed on.
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

async fn mcp(app: &Arc<App>, tenant: Option<&str>, request: Request) -> Response {
    let in_flight = InFlight::new(&app.metrics);
    let visitor = match app.access.visitor(request.headers(), tenant).await {
        Ok(visitor) => visitor,
        Err(denied) => return app.access.answer(denied, tenant),
    };
    if request.method() != Method::POST {
        return (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "POST")]).into_response();
    }
    if let Some(refusal) = accept::refusal(request.headers()) {
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
    let streams = accept::widen(&mut parts.headers);
    if batch::is_one(&body) {
        let version = parts.headers.get(VERSION).and_then(|value| value.to_str().ok());
        let revision = Revision::of(version, &parts.headers);
        return batch::answer(app, visitor, parts, body, Client { revision, streams }, in_flight).await;
    }
    match protocol::inspect(&parts.headers, &body) {
        Ok(envelope) => {
            let client = Client { revision: envelope.revision, streams };
            exchange::answer(app, visitor, parts, body, envelope, client, in_flight).await
        }
        Err(refusal) => exchange::refused(app, &refusal),
    }
}
