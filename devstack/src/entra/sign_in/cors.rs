//! Clients that run in a browser read metadata and exchange codes from scripts (CORS).

use axum::{
    extract::Request,
    http::{HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

/// Lets scripts of any site read the answers. No cookie and no password stands behind them: whoever can ask here can ask
/// from anywhere.
pub(in crate::entra) async fn open_to_browsers(request: Request, next: Next) -> Response {
    let preflight =
        request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if preflight { StatusCode::NO_CONTENT.into_response() } else { next.run(request).await };
    let headers = response.headers_mut();
    let mut set = |name, value| headers.insert(name, HeaderValue::from_static(value));
    set(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*");
    if preflight {
        set(header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST");
        set(header::ACCESS_CONTROL_ALLOW_HEADERS, "content-type, mcp-protocol-version");
        set(header::ACCESS_CONTROL_MAX_AGE, "600");
    }
    response
}
