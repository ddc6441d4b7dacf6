//! Answers outside MCP: a status and a short JSON body with fixed texts.

use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::{Value, json};

/// The fixed text of a status.
#[must_use]
pub fn plain(status: StatusCode) -> Response {
    let message = match status {
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "Content-Type must be application/json",
        StatusCode::PAYLOAD_TOO_LARGE => "The request body is larger than 1 MiB",
        StatusCode::URI_TOO_LONG => "The URL is longer than 4 KiB",
        StatusCode::REQUEST_TIMEOUT => "The request body did not arrive in time",
        StatusCode::NOT_FOUND => "There is nothing here; the MCP endpoint is /mcp or /{tenantId}/mcp",
        StatusCode::FORBIDDEN => "This Host or Origin is not allowed here",
        _ => "The request cannot be served",
    };
    body(status, &json!({"error": "invalid_request", "message": message}))
}

/// A JSON body.
#[must_use]
pub fn body(status: StatusCode, value: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

/// The answer for all other paths.
pub async fn not_found() -> Response {
    plain(StatusCode::NOT_FOUND)
}
