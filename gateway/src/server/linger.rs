//! Reads on where a request was refused before its body had come.
//!
//! A connection that is closed over bytes nobody read is reset, and the client, which is still sending, sees a broken pipe in
//! place of the answer. So on HTTP/1 what is left of a body is read and thrown away while the answer is on its way, for as
//! long as a body may take and up to a bound. HTTP/2 ends one stream and leaves the others alone.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// Most bytes that are thrown away.
const MOST: u64 = 64 * 1024 * 1024;

/// A body that is read to its end, by whoever takes it or by nobody.
pub(super) struct Lingering {
    body: Option<Incoming>,
    until: Instant,
    lingers: bool,
}

impl Lingering {
    /// Watches over a request's body, which has `timeout` from now on.
    pub(super) fn request(request: http::Request<Incoming>, timeout: Duration) -> http::Request<Self> {
        // Who waits for "100 Continue" has sent nothing yet, and reading would ask for it.
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
