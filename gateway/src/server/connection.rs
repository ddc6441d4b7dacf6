//! One connection, from its first byte to its end.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Router, body::Body};
use bytes::Bytes;
use futures::future::BoxFuture;
use http_body::{Body as _, Frame, SizeHint};
use hyper::{body::Incoming, service::Service};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Shared, Slot,
    linger::Lingering,
    watch::{Answer, Verdict, Watch, Watched},
};

/// Answers are passed on in parts of this size. A client has to take each part in time.
const PART: usize = 32 * 1024;
/// The time for sending the refusal on a connection beyond the cap.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);

impl Shared {
    pub(super) async fn http<S>(&self, stream: S, slot: Slot)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match slot {
            Slot::Served(_) => {
                self.metrics.client_connections.inc();
                struct Open<'a>(&'a prometheus::IntGauge);
                impl Drop for Open<'_> {
                    fn drop(&mut self) {
                        self.0.dec();
                    }
                }
                let _open = Open(&self.metrics.client_connections);
                self.serve(stream, &self.router).await;
            }
            Slot::Refused(_) => {
                let _ = tokio::time::timeout(REFUSAL_TIMEOUT.min(self.client), self.serve(stream, &self.busy)).await;
            }
        }
    }

    async fn serve<S>(&self, stream: S, router: &Router)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let watch = Watch::new(self.client, self.idle);
        let router = TowerToHyperService::new(router.clone());
        let service = Requests { router, watch: watch.clone(), timeout: self.client };
        let stream = Watched::new(stream, watch.clone());
        let mut connection = pin!(self.builder.serve_connection(TokioIo::new(stream), service));
        let mut verdict = pin!(watch.verdict());
        let mut leaving = false;
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a connection ended");
                    }
                    return;
                }
                () = self.leaving.cancelled(), if !leaving => {
                    connection.as_mut().graceful_shutdown();
                    leaving = true;
                }
                word = verdict.as_mut() => match word {
                    Verdict::Idle if !leaving => {
                        connection.as_mut().graceful_shutdown();
                        leaving = true;
                        verdict.set(watch.verdict());
                    }
                    Verdict::Idle => return,
                    Verdict::Slow(what) => {
                        self.metrics.slow_clients.with_label_values(&[what]).inc();
                        return;
                    }
                    Verdict::Resets => {
                        self.metrics.reset_floods.inc();
                        tracing::warn!("a client gives up more requests than it lets finish; its connection is closed");
                        return;
                    }
                },
            }
        }
    }
}

/// The router, which also records the progress of each request.
#[derive(Clone)]
struct Requests {
    router: TowerToHyperService<Router>,
    watch: Arc<Watch>,
    /// Timeout for a body.
    timeout: Duration,
}

impl Service<http::Request<Incoming>> for Requests {
    type Response = http::Response<Parts>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let answer = self.watch.request();
        let answering = self.router.call(Lingering::request(request, self.timeout));
        Box::pin(async move {
            let (head, body) = answering.await?.into_parts();
            // A request without a body is not polled for one.
            if body.is_end_stream() {
                answer.finished()
            } else {
                answer.ready()
            }
            Ok(http::Response::from_parts(head, Parts { body, rest: Bytes::new(), answer }))
        })
    }
}

/// A body in parts small enough to see whether the client takes them.
struct Parts {
    body: Body,
    rest: Bytes,
    answer: Answer,
}

impl http_body::Body for Parts {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        this.answer.taken();
        if this.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(frame) => {
                        this.answer.ready();
                        return Poll::Ready(Some(Ok(frame)));
                    }
                },
                Some(Err(error)) => {
                    this.answer.finished();
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    this.answer.finished();
                    return Poll::Ready(None);
                }
            }
        }
        let part = this.rest.split_to(this.rest.len().min(PART));
        if this.is_end_stream() {
            this.answer.finished()
        } else {
            this.answer.ready()
        }
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, inner) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + rest);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}
