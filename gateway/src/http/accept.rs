//! The headers about the form of a request's body and of its answer, read as liberally as possible.

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::json;

use super::errors;

/// The content type of every message.
const JSON: &str = "application/json";
/// The other content type that an answer may have.
const STREAM: &str = "text/event-stream";
/// The `Accept` header without which rmcp does not answer.
const BOTH: HeaderValue = HeaderValue::from_static("application/json, text/event-stream");

/// The refusal of a body that is not JSON, or is compressed.
#[must_use]
pub fn refusal(headers: &HeaderMap) -> Option<Response> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.map(|text| text.split(';').next().unwrap_or_default().trim());
    if !essence.is_some_and(|essence| essence.eq_ignore_ascii_case(JSON)) {
        return Some(errors::plain(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
    if codings.all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return None;
    }
    let message = "A body with a Content-Encoding is not taken; send it as it is";
    let body = json!({"error": "invalid_request", "message": message});
    // RFC 9110, 15.5.16: the codings that are accepted.
    let mut response = errors::body(StatusCode::UNSUPPORTED_MEDIA_TYPE, &body).into_response();
    response.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    Some(response)
}

/// Rewrites `Accept` for rmcp if the client accepts any form of answer, and returns whether it accepts event streams.
/// Only a client that names them does: one that sends `*/*` or nothing is not an MCP client and reads a single
/// document.
pub fn widen(headers: &mut HeaderMap) -> bool {
    let (mut any, mut streams, mut named) = (false, false, false);
    for value in headers.get_all(header::ACCEPT) {
        for range in value.to_str().unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let essence = parts.next().unwrap_or_default();
            named |= !essence.is_empty();
            if parts.any(is_zero) {
                continue;
            }
            streams |= essence.eq_ignore_ascii_case(STREAM);
            any |= ["*/*", "application/*", JSON].iter().any(|known| essence.eq_ignore_ascii_case(known));
        }
    }
    if any || streams || !named {
        headers.insert(header::ACCEPT, BOTH);
    }
    streams
}

/// Whether the parameter is `q=0`, which rejects the type before it.
fn is_zero(parameter: &str) -> bool {
    let weight = parameter.strip_prefix(['q', 'Q']).and_then(|rest| rest.trim_start().strip_prefix('='));
    weight.is_some_and(|weight| weight.trim().parse::<f32>().is_ok_and(|weight| weight == 0.0))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, header};

    use super::{BOTH, refusal, widen};

    #[test]
    fn any_form_of_accept_is_one_that_rmcp_takes() {
        for (accept, taken, streams) in [
            (None, true, false),
            (Some(""), true, false),
            (Some("*/*"), true, false),
            (Some("application/json"), true, false),
            (Some("Application/JSON;charset=utf-8"), true, false),
            (Some("application/json, text/event-stream"), true, true),
            (Some("text/event-stream, application/json;q=0.5"), true, true),
            (Some("text/event-stream"), true, true),
            (Some("application/json, text/event-stream;q=0"), true, false),
            (Some("text/html, */*;q=0.1"), true, false),
            (Some("text/html"), false, false),
            (Some("*/*;q=0.0"), false, false),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            }
            assert_eq!(widen(&mut headers), streams, "{accept:?}");
            assert_eq!(headers.get(header::ACCEPT) == Some(&BOTH), taken, "{accept:?}");
        }
    }

    #[test]
    fn packed_bodies_are_refused() {
        let with = |coding: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding));
            refusal(&headers).map(|response| response.status().as_u16())
        };
        assert_eq!(
            (with("identity"), with("gzip"), with("br"), with("identity, gzip")),
            (None, Some(415), Some(415), Some(415))
        );
    }
}
