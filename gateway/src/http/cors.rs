//! Cross-origin requests: preflights of browsers, and the headers that a page may read.
//!
//! The origins are those of `--allowed-origin`: [`super::hosts`] refuses all others before. A preflight carries no
//! token, so it is answered before authentication. Pages send the token themselves; cookies are not used.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::App;
use crate::mcp::revision::{SESSION, VERSION};

/// How long a browser may cache the answer to a preflight; Chromium allows no more.
const REMEMBERED: Duration = Duration::from_secs(7200);

/// Answers preflights, and names the headers that pages may read.
pub fn layer(app: Arc<App>) -> CorsLayer {
    let own = HeaderName::from_static;
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin, _| app.allowed.is_origin(origin)))
        .allow_methods([Method::GET, Method::POST, Method::DELETE, Method::OPTIONS])
        .allow_headers([
            header::ACCEPT,
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            own(SESSION),
            own(VERSION),
            own("last-event-id"),
            own("mcp-method"),
            own("mcp-name"),
            own("traceparent"),
            own("tracestate"),
        ])
        .expose_headers([
            header::WWW_AUTHENTICATE,
            header::RETRY_AFTER,
            header::ALLOW,
            own(SESSION),
            own(VERSION),
            own("last-event-id"),
            own("x-correlation-id"),
        ])
        .vary([header::ORIGIN])
        .max_age(REMEMBERED)
}
