//! Size limits of a request.

use std::{pin::pin, task::Poll, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures::poll;
use http::{StatusCode, Uri};
use http_body_util::{BodyExt, LengthLimitError, Limited};

/// Largest request body.
const BODY_MAX: usize = 1024 * 1024;
/// Longest path and query. The longest valid one is that of a tenant's metadata, below 100.
const URL_MAX: usize = 4 * 1024;

/// Whether a URL is too long.
#[must_use]
pub fn is_too_long(uri: &Uri) -> bool {
    uri.path_and_query().is_some_and(|text| text.as_str().len() > URL_MAX)
}

/// Reads a body, with or without a declared length.
///
/// # Errors
/// 413 if it is too large, 408 if it does not arrive in time, 400 if it ends early.
pub async fn read(body: Body, timeout: Duration) -> Result<Bytes, StatusCode> {
    let mut collecting = pin!(Limited::new(body, BODY_MAX).collect());
    // Most bodies arrive with their headers and need no timer.
    let collected = match poll!(collecting.as_mut()) {
        Poll::Ready(collected) => Ok(collected),
        Poll::Pending => tokio::time::timeout(timeout, collecting).await,
    };
    match collected {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => Err(StatusCode::PAYLOAD_TOO_LARGE),
        Ok(Err(_)) => Err(StatusCode::BAD_REQUEST),
        Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
    }
}
