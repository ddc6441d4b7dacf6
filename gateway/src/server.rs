//! Listeners and their end: slow clients are shed, calls under way are drained.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper::service::Service;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Longest wait for a sign of life on HTTP/2.
const HTTP2_PONG: Duration = Duration::from_secs(10);
const HTTP2_PING: Duration = Duration::from_secs(20);
/// hyper's own answer to slow headers, 408, comes first.
const SLACK: Duration = Duration::from_millis(500);
/// Most bytes of a request's headers. The largest Entra token is near 16 KiB in base64.
const HEADERS_MAX: usize = 64 * 1024;

/// Binds, and says where: port 0 becomes a free one.
///
/// # Errors
/// The address cannot be bound.
pub async fn bind(address: SocketAddr, name: &str) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address).await?;
    tracing::info!(address = %listener.local_addr()?, "{name} listening");
    Ok(listener)
}

/// How long clients and calls may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From a connection's start, or its last answer, to the end of the next request's headers.
    pub headers: Duration,
    /// For calls under way at the end.
    pub drain: Duration,
}

/// Serves until `stop`, then lets calls under way finish, then drops the rest, which cancels their statements at the
/// server.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
    patience: Patience,
    metrics: Arc<Metrics>,
) {
    let Patience { headers, drain } = patience;
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(headers).max_buf_size(HEADERS_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HTTP2_PING)
        .keep_alive_timeout(HTTP2_PONG)
        .max_header_list_size(u32::try_from(HEADERS_MAX).unwrap_or(u32::MAX))
        .max_concurrent_streams(256);
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, as a rule; the next attempt in a moment may find one.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let begun = Arc::new(Notify::new());
        let service = FirstRequest { service: TowerToHyperService::new(router.clone()), begun: begun.clone() };
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        let slow = metrics.slow_clients.with_label_values(&["headers"]);
        connections.spawn(async move {
            let mut connection = std::pin::pin!(connection);
            // hyper's own timer starts once it knows the protocol. Who sends nothing, or the preface of HTTP/2 and no
            // request, would hold a connection for ever.
            let ended = tokio::select! {
                ended = &mut connection => ended,
                () = begun.notified() => connection.await,
                () = tokio::time::sleep(headers + SLACK) => {
                    slow.inc();
                    return;
                }
            };
            if let Err(error) = ended {
                if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_timeout) {
                    slow.inc();
                }
                tracing::debug!(%error, "a connection ended");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(drain, graceful.shutdown()).await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "calls were still under way at the end of the drain; cancelling them"
        );
    }
    connections.shutdown().await;
}

/// Tells when the first request has come.
#[derive(Clone)]
struct FirstRequest<S> {
    service: S,
    begun: Arc<Notify>,
}

impl<S: Service<R>, R> Service<R> for FirstRequest<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, request: R) -> Self::Future {
        self.begun.notify_one();
        self.service.call(request)
    }
}
