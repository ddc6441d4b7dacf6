//! Listeners and their shutdown: slow clients are disconnected, calls in progress are drained.

mod connection;
mod linger;
pub mod tls;
mod watch;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, response::IntoResponse};
use http::{StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper_util::{
    rt::{TokioExecutor, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use self::tls::Certificates;
use crate::metrics::Metrics;

/// Timeout for the answer to a ping on HTTP/2.
const HTTP2_PONG: Duration = Duration::from_secs(10);
const HTTP2_PING: Duration = Duration::from_secs(20);
/// Concurrent requests of one HTTP/2 connection.
const HTTP2_STREAMS: u32 = 256;
/// Streams that a client may have reset before they were handled, and streams that it may make the server reset.
const HTTP2_RESETS: (usize, usize) = (20, 256);
/// Most bytes of a request's headers. The largest Entra token is near 16 KiB in base64.
const HEADERS_MAX: usize = 64 * 1024;
/// Concurrent connections beyond the cap that are answered; others are closed without an answer.
const REFUSED_AT_ONCE: usize = 64;
/// File descriptors that the process needs for everything else: logs, keys, Kubernetes, Key Vault, Redis, traces.
const OWN_FILES: usize = 64;
/// How much of a request is read before its only answer, a 503, so that the client gets to read that answer.
const BUSY_BODY: usize = 64 * 1024;

/// Binds, and returns the address: port 0 becomes a free one.
///
/// # Errors
/// The address cannot be bound.
pub async fn bind(address: SocketAddr, name: &str) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address).await?;
    tracing::info!(address = %listener.local_addr()?, "{name} listening");
    Ok(listener)
}

/// The most client connections that the process can have beside `others` of its own. Beyond its limit of open files,
/// connections would wait in the kernel's queue without an answer.
#[must_use]
pub fn affordable(wanted: usize, others: usize) -> usize {
    let Some(files) = std::fs::read_to_string("/proc/self/limits").ok().and_then(|text| open_files(&text)) else {
        return wanted;
    };
    let most = files.saturating_sub(others + REFUSED_AT_ONCE + OWN_FILES).max(1);
    if most < wanted {
        tracing::warn!(
            connections = most,
            wanted,
            open_files = files,
            "the limit of open files allows fewer connections than --max-connections; raise it (ulimit -n)"
        );
    }
    most.min(wanted)
}

/// The soft limit in the text of `/proc/PID/limits`; `None` if it has none.
fn open_files(limits: &str) -> Option<usize> {
    limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next()?.parse().ok())
}

/// Limits for clients.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Timeout for each of these: the TLS handshake; from a connection's start, or the first byte of its next request,
    /// to the end of that request's headers; taking the next part of an answer.
    pub client: Duration,
    /// Timeout of an idle connection between two requests.
    pub idle: Duration,
    /// Time for calls in progress to finish at shutdown.
    pub drain: Duration,
    /// Concurrent connections.
    pub connections: usize,
}

/// One listener and its service.
pub struct Server {
    pub listener: TcpListener,
    /// Without it, the listener uses plain text.
    pub tls: Option<Arc<Certificates>>,
    pub router: Router,
    pub limits: Limits,
    pub metrics: Arc<Metrics>,
}

/// The parts of its listener that a connection needs.
struct Shared {
    builder: Builder<TokioExecutor>,
    tls: Option<Arc<Certificates>>,
    router: Router,
    busy: Router,
    client: Duration,
    idle: Duration,
    /// Cancelled when open connections are to accept no more requests.
    leaving: CancellationToken,
    metrics: Arc<Metrics>,
}

/// A connection's permit from the listener.
enum Slot {
    /// The connection is served.
    Served(#[expect(dead_code, reason = "held for its Drop")] OwnedSemaphorePermit),
    /// One too many: the connection is refused with an answer.
    Refused(#[expect(dead_code, reason = "held for its Drop")] OwnedSemaphorePermit),
}

impl Server {
    /// Serves until `stop`, then lets calls in progress finish, then drops the rest, which cancels their statements on
    /// the server.
    pub async fn serve(self, stop: CancellationToken) {
        let Self { listener, tls, router, limits, metrics } = self;
        let leaving = CancellationToken::new();
        let (served, refused) =
            (Arc::new(Semaphore::new(limits.connections)), Arc::new(Semaphore::new(REFUSED_AT_ONCE)));
        let shared = Arc::new(Shared {
            builder: builder(),
            tls,
            router,
            busy: Router::new().fallback(busy),
            client: limits.client,
            idle: limits.idle,
            leaving: leaving.clone(),
            metrics: metrics.clone(),
        });
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
                    // Usually out of file descriptors; one may be free for the next attempt in a moment.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let slot = match served.clone().try_acquire_owned() {
                Ok(permit) => Some(Slot::Served(permit)),
                Err(_) => {
                    metrics.connections_refused.inc();
                    refused.clone().try_acquire_owned().ok().map(Slot::Refused)
                }
            };
            if let Some(slot) = slot {
                connections.spawn(shared.clone().connection(stream, slot));
            }
        }
        drop(listener);
        leaving.cancel();
        let drained = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(limits.drain, drained).await.is_err() {
            tracing::warn!(
                connections = connections.len(),
                "calls were still under way at the end of the drain; cancelling them"
            );
        }
        connections.shutdown().await;
    }
}

impl Shared {
    async fn connection(self: Arc<Self>, stream: TcpStream, slot: Slot) {
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else { return self.http(stream, slot).await };
        let handshake = tokio::time::timeout(self.client, tls.acceptor().accept(stream));
        let outcome = tokio::select! {
            outcome = handshake => outcome,
            () = self.leaving.cancelled() => return,
        };
        let word = match outcome {
            Ok(Ok(stream)) => {
                self.metrics.handshakes.with_label_values(&["ok"]).inc();
                return self.http(stream, slot).await;
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "a TLS handshake failed");
                "failed"
            }
            Err(_) => {
                self.metrics.slow_clients.with_label_values(&["handshake"]).inc();
                "timeout"
            }
        };
        self.metrics.handshakes.with_label_values(&[word]).inc();
    }
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    // Its own header timer would also run between two requests: see [`watch`].
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(HEADERS_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HTTP2_PING)
        .keep_alive_timeout(HTTP2_PONG)
        .max_header_list_size(u32::try_from(HEADERS_MAX).unwrap_or(u32::MAX))
        .max_concurrent_streams(HTTP2_STREAMS)
        .max_pending_accept_reset_streams(HTTP2_RESETS.0)
        .max_local_error_reset_streams(HTTP2_RESETS.1);
    builder
}

/// The only answer on a connection beyond the cap.
async fn busy(request: axum::extract::Request) -> axum::response::Response {
    let older = request.version() < http::Version::HTTP_2;
    // Closing with unread bytes would reset the connection before the client has read the answer.
    let _ = Limited::new(request.into_body(), BUSY_BODY).collect().await;
    let body = r#"{"error":"busy","message":"The gateway has too many connections; try again in a moment"}"#;
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::RETRY_AFTER, "1")];
    let mut response = (StatusCode::SERVICE_UNAVAILABLE, headers, body).into_response();
    if older {
        response.headers_mut().insert(header::CONNECTION, http::HeaderValue::from_static("close"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::{affordable, open_files};

    #[test]
    fn the_limit_of_open_files_is_read() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
            Max processes             7823                 7823                 processes \n\
            Max open files            1024                 524288               files     \n";
        assert_eq!(open_files(text), Some(1024));
        assert_eq!(open_files(&text.replace("1024", "unlimited")), None);
        assert_eq!(affordable(1, 0), 1);
        assert!(affordable(usize::MAX, 0) > 1);
    }
}
