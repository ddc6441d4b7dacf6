//! Keeps reading after a request is refused before its body has arrived.
//!
//! Closing a connection with unread bytes resets it, and a client that is still sending sees a broken pipe in place of
//! the answer. So on HTTP/1 the rest of the body is read and dropped while the answer is sent, within the timeout of a
//! body and up to a size limit. HTTP/2 ends one stream and leaves the others alone.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// Most bytes that are dropped.
const MOST: u64 = 64 * 1024 * 1024;

/// A body that is read to its end, even if nobody uses it.
pub(super) struct Lingering {
    body: Option<Incoming>,
    until: Instant,
    lingers: bool,
}

impl Lingering {
    /// Wraps a request's body, whose `timeout` starts now.
    pub(super) fn request(request: http::Request<Incoming>, timeout: Duration) -> http::Request<Self> {
        // A client that waits for "100 Continue" has sent nothing yet, and reading would ask it to send.
        let lingers =
            request.version() <= http::Version::HTTP_11 && !request.headers().contains_key(http::header::EXPECT);
        let until = Instant::now() + timeout;
        request.map(|body| Self { body: Some(body), until, lingers })
    }
}

impl Body for Lingering {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let Some(body) = self.body.take().filter(|body| self.lingers && !body.is_end_stream()) else { return };
        let left = self.until.saturating_duration_since(Instant::now());
        if let (false, Ok(runtime)) = (left.is_zero(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(tokio::time::timeout(left, read(body)));
        }
    }
}

async fn read(mut body: Incoming) {
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, |data| data.len() as u64);
        if read > MOST {
            return;
        }
    }
}
