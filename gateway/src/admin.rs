//! Health and metrics, on a port of their own.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{StatusCode, header};

use crate::{identity::jwks::KeyStore, metrics::Metrics, tenants::watch::Tenants};

/// What health is made of.
pub struct Admin {
    /// Tenants listed?
    pub tenants: Arc<Tenants>,
    /// Keys fetched?
    pub keys: Arc<KeyStore>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// SIGTERM came.
    pub draining: AtomicBool,
}

impl Admin {
    /// What is still missing, one word each.
    fn waiting_for(&self) -> Vec<&'static str> {
        let parts = [
            ("draining", !self.draining.load(Ordering::Acquire)),
            ("tenants", self.tenants.is_synced()),
            ("signing-keys", self.keys.is_ready(&self.tenants.load().directories())),
        ];
        parts.into_iter().filter_map(|(name, ready)| (!ready).then_some(name)).collect()
    }
}

/// The routes.
pub fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(admin)
}

async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    let waiting = admin.waiting_for();
    if waiting.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", waiting.join(", "))).into_response()
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    admin.metrics.jwks_age.set(admin.keys.oldest().map_or(0.0, |age| age.as_secs_f64()));
    match admin.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
