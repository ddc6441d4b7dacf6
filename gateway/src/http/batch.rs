//! Several messages in one request, which 2025-03-26 requires a server to accept (basic, "Batching") and rmcp does not.
//!
//! They are answered one after another, each as if it had come alone: with its own quota slot, audit record and log
//! lines. The members of the array are sent as they become ready, so that no more than one answer is held at a time.

use std::{convert::Infallible, sync::Arc};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderValue, StatusCode, header, request::Parts};
use http_body_util::BodyExt;
use serde_json::value::RawValue;

use super::{App, auth::Visitor, exchange};
use crate::mcp::{
    protocol::{self, Envelope, Refusal},
    revision::Client,
};

/// The most messages in a batch. Each may be a statement, and they run one after another.
const MOST: usize = 20;

/// A message and its envelope.
type Member = (Bytes, Result<Envelope, Refusal>);

/// Whether a body is a batch rather than one message.
#[must_use]
pub fn is_one(body: &[u8]) -> bool {
    body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[')
}

/// Splits a batch into messages.
///
/// # Errors
/// The error of the whole batch.
fn members(parts: &Parts, body: &Bytes, client: Client) -> Result<Vec<Member>, Refusal> {
    let texts: Vec<&RawValue> = serde_json::from_slice(body).map_err(|_| Refusal::unreadable())?;
    if texts.is_empty() {
        return Err(Refusal::batch("an empty batch"));
    }
    if !client.has_batches() {
        return Err(Refusal::batch("only revision 2025-03-26 has batches; one JSON-RPC object is expected"));
    }
    if texts.len() > MOST {
        return Err(Refusal::batch(&format!("a batch holds at most {MOST} messages")));
    }
    let read = |text: &RawValue| {
        let text = body.slice_ref(text.get().as_bytes());
        let envelope = protocol::inspect(&parts.headers, &text);
        (text, envelope)
    };
    let members: Vec<Member> = texts.into_iter().map(read).collect();
    let is =
        |member: &Member, method: &str| matches!(&member.1, Ok(envelope) if envelope.method.as_deref() == Some(method));
    if members.iter().any(|member| is(member, "initialize")) {
        return Err(Refusal::batch("initialize must not be part of a batch"));
    }
    Ok(members)
}

/// Answers a batch. `held` is dropped at the end of the answer.
pub async fn answer(
    app: &Arc<App>,
    visitor: Visitor,
    parts: Parts,
    body: Bytes,
    client: Client,
    held: impl Send + 'static,
) -> Response {
    let members = match members(&parts, &body, client) {
        Ok(members) => members,
        Err(refusal) => return exchange::refused(app, &refusal),
    };
    // Each message of a batch is answered with one document: an event stream belongs to one message, not to several.
    let client = Client { streams: false, ..client };
    let is_notification = |member: &Member| matches!(&member.1, Ok(envelope) if envelope.id.is_none());
    let (notifications, asking): (Vec<Member>, Vec<Member>) = members.into_iter().partition(is_notification);
    for (text, envelope) in notifications {
        let Ok(envelope) = envelope else { continue };
        drop(exchange::answer(app, visitor.clone(), parts.clone(), text, envelope, client, ()).await);
    }
    let mut response = Response::default();
    exchange::identify(&mut response, visitor.correlation());
    if asking.is_empty() {
        *response.status_mut() = StatusCode::ACCEPTED;
        return response;
    }
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let app = app.clone();
    let answers = stream::iter(asking.into_iter().enumerate()).then(move |(at, (text, envelope))| {
        let (app, visitor, parts) =
            (app.clone(), if at == 0 { visitor.clone() } else { visitor.again() }, parts.clone());
        let _held = &held;
        async move {
            let answer = match envelope {
                Ok(envelope) => exchange::answer(&app, visitor, parts, text, envelope, client, ()).await,
                Err(refusal) => exchange::refused(&app, &refusal),
            };
            let answer = answer.into_body().collect().await.map(http_body_util::Collected::to_bytes);
            [Bytes::from_static(if at == 0 { b"[" } else { b"," }), answer.unwrap_or_default()]
        }
    });
    let whole = answers.flat_map(stream::iter).chain(stream::iter([Bytes::from_static(b"]")]));
    *response.body_mut() = Body::from_stream(whole.map(Ok::<_, Infallible>));
    response
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{Client, MOST, is_one, members};
    use crate::mcp::revision::Revision;

    #[test]
    fn what_is_a_batch() {
        assert!(is_one(b" \r\n[1]") && is_one(b"[]") && !is_one(b"{}") && !is_one(b"") && !is_one(b"1 []"));
    }

    #[test]
    fn what_is_taken() {
        let (parts, ()) = http::Request::new(()).into_parts();
        let of = |revision: Option<Revision>, body: String| {
            members(&parts, &Bytes::from(body), Client { revision, streams: true })
                .map(|members| {
                    members
                        .iter()
                        .map(|(_, envelope)| envelope.as_ref().map_or_else(|error| error.code, |_| 0))
                        .collect()
                })
                .map_err(|refusal| refusal.code)
        };
        let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
        let older = Some(Revision::V2025_03_26);
        assert_eq!(of(older, format!("[{ping},1,[],{{}}]")), Ok(vec![0, -32600, -32600, -32600]));
        assert_eq!(of(None, format!("[{ping}]")), Ok(vec![0]));
        for revision in Revision::ALL {
            assert_eq!(of(Some(revision), format!("[{ping}]")).is_ok(), Some(revision) == older, "{revision:?}");
        }
        assert_eq!(of(older, "[]".to_owned()), Err(-32600));
        assert_eq!(of(older, "[".to_owned()), Err(-32700));
        assert_eq!(of(older, format!("[{}]", vec![ping; MOST + 1].join(","))), Err(-32600));
        let initialize = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}"#;
        assert_eq!(of(older, format!("[{ping},{initialize}]")), Err(-32600));
    }
}
