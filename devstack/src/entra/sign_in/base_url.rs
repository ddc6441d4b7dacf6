//! The two ways in: over TLS, as it is with the real authority, and by plain HTTP on loopback.
//!
//! The certificate of a local stack is from an authority that nobody knows. Browsers warn, and editors give up without
//! saying why, since they cannot be informed of it in one place that works everywhere. Signing in, and nothing else, is
//! therefore also served without TLS to the machine itself, as gateway and redirect URIs are.

use std::sync::Arc;

use axum::{
    Extension, Router,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};

use super::{open_to_browsers, pages, register};
use crate::entra::{Shared, routes};

/// The base URL that the client came by: its metadata and its answers name this one as the issuer.
#[derive(Clone)]
pub(in crate::entra) struct BaseUrl(pub(in crate::entra) Arc<str>);

impl BaseUrl {
    /// The issuer of a tenant's authorization server.
    pub(in crate::entra) fn issuer(&self, tid: &str) -> String {
        format!("{}/{tid}/v2.0", self.0)
    }
}

/// What is served by plain HTTP.
pub(in crate::entra) fn plain(shared: Arc<Shared>, base: &str) -> Router {
    let host: Arc<str> = base.trim_start_matches("http://").into();
    let open = Router::new()
        .route("/.well-known/oauth-authorization-server/{tid}/v2.0", get(routes::authorization_server))
        .route("/{tid}/oauth2/v2.0/token", post(routes::token))
        .route("/{tid}/oauth2/v2.0/register", post(register))
        .layer(middleware::from_fn(open_to_browsers));
    Router::new()
        .merge(open)
        .merge(pages())
        .layer(Extension(BaseUrl(base.into())))
        .layer(middleware::from_fn_with_state(host, only_by_its_own_name))
        .with_state(shared)
}

/// Without TLS nothing else keeps a site whose name was pointed at this machine from reading the pages.
async fn only_by_its_own_name(State(host): State<Arc<str>>, request: Request, next: Next) -> Response {
    let named = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    if named == Some(&*host) { next.run(request).await } else { StatusCode::MISDIRECTED_REQUEST.into_response() }
}
