//! Health and metrics, on a port of their own.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Router,
    extract::{RawQuery, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{StatusCode, header};

use crate::{
    doctor::{Doctor, finding},
    identity::jwks::KeyStore,
    mcp::Gateway,
    metrics::Metrics,
    tenants::watch::Tenants,
};

/// The state that health and metrics are read from.
pub struct Admin {
    /// Whether the tenants have been listed.
    pub tenants: Arc<Tenants>,
    /// Whether the signing keys have been fetched.
    pub keys: Arc<KeyStore>,
    /// The registry of metrics.
    pub metrics: Arc<Metrics>,
    /// The tools, with the cache and the figures of statements.
    pub gateway: Arc<Gateway>,
    /// Checks for `/readyz?verbose`.
    pub doctor: Doctor,
    /// Whether the gateway drains, after SIGTERM.
    pub draining: AtomicBool,
}

impl Admin {
    /// The parts that are not ready, one name each.
    fn waiting_for(&self) -> Vec<&'static str> {
        let listed = self.tenants.is_synced();
        // Keys count only after the first list: before it the directories are not known.
        let keys = || self.keys.is_ready(&self.tenants.load().directories());
        let parts = [
            ("draining", !self.draining.load(Ordering::Acquire)),
            ("tenants", listed),
            ("signing-keys", !listed || keys()),
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
        .route("/debug/performance", get(performance))
        .with_state(admin)
}

/// Readiness, and with `?verbose` the doctor's findings. The findings do not change readiness: a database that no replica
/// reaches would otherwise take all replicas out of service, for the tenants of other databases as well.
async fn ready(State(admin): State<Arc<Admin>>, RawQuery(query): RawQuery) -> Response {
    let waiting = admin.waiting_for();
    let (status, mut text) = if waiting.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", waiting.join(", ")))
    };
    let verbose = query.is_some_and(|query| query.split('&').any(|part| matches!(part, "verbose" | "verbose=true")));
    if verbose {
        let findings = admin.doctor.recent(&admin.gateway.services.questions).await;
        text.push_str(&finding::report(&findings).0);
    }
    (status, text).into_response()
}

async fn performance(State(admin): State<Arc<Admin>>) -> Response {
    axum::Json(admin.gateway.services.performance.json()).into_response()
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    admin.metrics.jwks_age.set(admin.keys.oldest().map_or(0.0, |age| age.as_secs_f64()));
    let kept = admin.gateway.answers.bytes().await;
    admin.metrics.answer_cache_bytes.set(i64::try_from(kept).unwrap_or(i64::MAX));
    match admin.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
