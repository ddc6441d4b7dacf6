//! What a service answers: vectors, or why there are none.

use std::time::Duration;

use jiff::{Timestamp, fmt::rfc2822::DateTimeParser};
use reqwest::{Response, StatusCode, header::HeaderMap};
use serde::Deserialize;

use super::{DIMENSIONS, EmbeddingsError};

/// Most bytes of an answer for each text. A vector of [`DIMENSIONS`] takes 35 KiB where each number has all its digits, and more
/// where each has a line of its own.
pub(super) const ANSWER_MAX: usize = 128 << 10;

/// Longest part of a service's complaint that is passed on.
const SAID_MAX: usize = 300;

#[derive(Deserialize)]
struct Answer {
    data: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    index: usize,
    embedding: Vec<f32>,
}

/// The body as far as it is not longer than this, and whether that is all of it: what is read must not grow with what a
/// service sends.
pub(super) async fn start(mut response: Response, most: usize) -> Result<(Vec<u8>, bool), reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > most {
            return Ok((body, false));
        }
        body.extend_from_slice(&chunk);
    }
    Ok((body, true))
}

/// The vectors in the order of the inputs, whatever order they came in.
pub(super) fn vectors(body: &[u8], expected: usize) -> Result<Vec<Vec<f32>>, EmbeddingsError> {
    let unusable = |problem: String| EmbeddingsError::Unusable(problem);
    let Answer { data } = serde_json::from_slice(body)
        .map_err(|error| unusable(format!("the answer is not the expected JSON: {error}")))?;
    let mut vectors = vec![Vec::new(); expected];
    for Item { index, mut embedding } in data {
        let dimensions = embedding.len();
        let slot = vectors.get_mut(index).filter(|slot| slot.is_empty());
        let slot = slot.ok_or_else(|| unusable(format!("index {index} is not one of {expected}, or stands twice")))?;
        if dimensions == 0 || dimensions > DIMENSIONS {
            return Err(unusable(format!("{dimensions} dimensions; at most {DIMENSIONS} are expected")));
        }
        // The cosine of a vector without a direction is undefined.
        let norm: f32 = embedding.iter().map(|value| value * value).sum();
        if !norm.is_finite() || norm <= 0.0 {
            return Err(unusable("a vector without a direction".to_owned()));
        }
        embedding.resize(DIMENSIONS, 0.0);
        *slot = embedding;
    }
    if vectors.iter().any(Vec::is_empty) {
        return Err(unusable(format!("fewer than the {expected} vectors that were asked for")));
    }
    Ok(vectors)
}

pub(super) fn refused(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> EmbeddingsError {
    #[derive(Deserialize)]
    struct Body {
        error: Said,
    }
    #[derive(Deserialize)]
    struct Said {
        message: String,
    }
    let said = serde_json::from_slice::<Body>(body).map(|body| body.error.message).unwrap_or_default();
    let said: String = said.chars().filter(|c| !c.is_control()).take(SAID_MAX).collect();
    let message = if said.is_empty() { format!("HTTP {status}") } else { format!("HTTP {}: {said}", status.as_u16()) };
    match status.as_u16() {
        401 | 403 => EmbeddingsError::Unauthorized(message),
        404 => EmbeddingsError::NotFound(message),
        429 => EmbeddingsError::Throttled { retry_after: retry_after(headers) },
        408 | 500..=599 => EmbeddingsError::Unavailable { message, retry_after: retry_after(headers) },
        _ => EmbeddingsError::Invalid(message),
    }
}

/// `retry-after-ms` as Azure OpenAI sends it, or `Retry-After` in seconds or as a date (RFC 9110, section 10.2.3). A date
/// is compared with the answer's own `Date`: the clocks of the service and ours need not agree. One that is past means now.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let number = |name: &str| text(name)?.parse::<u64>().ok();
    let date = |name: &str| DateTimeParser::new().parse_timestamp(text(name)?).ok();
    let until = || {
        let (then, now) = (date("retry-after")?, date("date").unwrap_or_else(Timestamp::now));
        Some(Duration::try_from(then.duration_since(now)).unwrap_or(Duration::ZERO))
    };
    number("retry-after-ms")
        .map(Duration::from_millis)
        .or_else(|| number("retry-after").map(Duration::from_secs))
        .or_else(until)
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn vectors_come_in_order_and_full_length() {
        let body = br#"{"data":[{"index":1,"embedding":[0,2]},{"index":0,"embedding":[1]}]}"#;
        let found = vectors(body, 2).unwrap();
        assert_eq!((found[0][..2].to_vec(), found[1][..2].to_vec()), (vec![1.0, 0.0], vec![0.0, 2.0]));
        assert!(found.iter().all(|vector| vector.len() == DIMENSIONS));
        let long = format!(r#"{{"data":[{{"index":0,"embedding":{:?}}}]}}"#, vec![1.0; DIMENSIONS + 1]);
        for (body, words) in [
            (r#"{"data":[]}"#, "fewer than"),
            (r#"{"data":[{"index":5,"embedding":[1]}]}"#, "index 5"),
            (r#"{"data":[{"index":0,"embedding":[0,0]}]}"#, "direction"),
            (r#"{"data":[{"index":0,"embedding":[]}]}"#, "0 dimensions"),
            ("<html>", "expected JSON"),
            (long.as_str(), "1537 dimensions"),
        ] {
            let error = vectors(body.as_bytes(), 1).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn refusals_are_told_apart() {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", HeaderValue::from_static("7"));
        let seven = Some(Duration::from_secs(7));
        assert_eq!(refused(StatusCode::TOO_MANY_REQUESTS, &headers, b"").retry(), Some(seven));
        let dated = |date: Option<&'static str>, after: &'static str| {
            let mut headers = HeaderMap::new();
            headers.extend(date.map(|date| (reqwest::header::DATE, HeaderValue::from_static(date))));
            headers.insert("retry-after", HeaderValue::from_static(after));
            refused(StatusCode::TOO_MANY_REQUESTS, &headers, b"").retry().unwrap()
        };
        let (now, later) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:50:00 GMT");
        assert_eq!(dated(Some(now), later), Some(Duration::from_secs(23)));
        assert_eq!(dated(Some(later), now), Some(Duration::ZERO));
        assert_eq!(dated(None, later), Some(Duration::ZERO), "by our own clock");
        assert_eq!(dated(Some(now), "soon"), None);
        headers.insert("retry-after-ms", HeaderValue::from_static("250"));
        let soon = Some(Duration::from_millis(250));
        assert_eq!(refused(StatusCode::SERVICE_UNAVAILABLE, &headers, b"").retry(), Some(soon));
        let error = refused(StatusCode::BAD_REQUEST, &headers, br#"{"error":{"message":"too\nlong"}}"#);
        assert_eq!((error.retry(), error.to_string().ends_with("HTTP 400: toolong")), (None, true));
        assert_eq!(refused(StatusCode::FORBIDDEN, &headers, b"").reason(), "EmbeddingsUnauthorized");
    }
}
