//! The admin port: `/healthz`, `/readyz`, `/metrics`.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What the admin port reports.
pub trait Facts: Send + Sync + 'static {
    /// What is still missing before the operator works; empty when it does.
    fn missing(&self) -> Vec<String>;
    /// The metrics in Prometheus' text format.
    fn metrics(&self) -> Result<String, prometheus::Error>;
}

/// Serves until `stop`.
///
/// # Errors
/// The listener's.
pub async fn serve(listener: TcpListener, facts: Arc<dyn Facts>, stop: CancellationToken) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(facts);
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

/// Binds the admin port and says where.
///
/// # Errors
/// The address is taken or not ours.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(address).await?;
    tracing::info!(address = %listener.local_addr()?, "admin port listens");
    Ok(listener)
}

async fn ready(State(facts): State<Arc<dyn Facts>>) -> Response {
    let missing = facts.missing();
    if missing.is_empty() {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n").into_response()
    }
}

async fn metrics(State(facts): State<Arc<dyn Facts>>) -> Response {
    match facts.metrics() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
