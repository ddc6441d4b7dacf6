//! The HTTP server under every stand-in: HTTP/1.1 and HTTP/2, with or without TLS, on loopback.

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::{Router, extract::ConnectInfo};
use http::Request;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::breaker::Breaker;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long open requests may go on after `shutdown`; watches and hanging responses never end by themselves.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// Where a server listens: a listener that is already bound, or an address (port 0 takes a free one).
pub enum Bind {
    /// A bound listener, for callers that must know the port beforehand.
    Listener(std::net::TcpListener),
    /// An address to bind.
    Address(SocketAddr),
}

impl Bind {
    /// A free port on 127.0.0.1.
    pub fn loopback() -> Self {
        Self::Address(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }
}

impl From<std::net::TcpListener> for Bind {
    fn from(listener: std::net::TcpListener) -> Self {
        Self::Listener(listener)
    }
}

impl From<SocketAddr> for Bind {
    fn from(address: SocketAddr) -> Self {
        Self::Address(address)
    }
}

/// Binds a free port on 127.0.0.1 so that its number can be written down before the server starts.
pub fn bind_loopback() -> io::Result<std::net::TcpListener> {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
}

/// A running server. Dropping the handle ends it at once, connections included.
pub struct ServerHandle {
    addr: SocketAddr,
    tls: bool,
    stop: CancellationToken,
    breaker: Breaker,
    task: JoinHandle<()>,
}

impl ServerHandle {
    /// The address that the server listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://127.0.0.1:PORT` or `https://…`, without a trailing slash.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.addr)
    }

    /// Fault: while down, open connections are cut and new ones are closed without an answer. The port stays taken.
    pub fn set_down(&self, down: bool) {
        self.breaker.set_down(down);
    }

    /// Fault: cuts every open connection once; new ones are served.
    pub fn cut_connections(&self) {
        self.breaker.cut();
    }

    /// Stops accepting, lets requests finish for a second, then cuts what is left.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        // The accept task bounds its own draining; nobody is left to report a panic to.
        let _ = (&mut self.task).await;
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves `router` until the handle is dropped or shut down.
///
/// Handlers find the peer's address in the `ConnectInfo<SocketAddr>` extension.
pub async fn serve(bind: impl Into<Bind>, tls: Option<Arc<ServerConfig>>, router: Router) -> io::Result<ServerHandle> {
    let listener = match bind.into() {
        Bind::Listener(listener) => {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)?
        }
        Bind::Address(address) => TcpListener::bind(address).await?,
    };
    let addr = listener.local_addr()?;
    let stop = CancellationToken::new();
    let breaker = Breaker::default();
    let server = Server { tls: tls.clone().map(TlsAcceptor::from), router, stop: stop.clone() };
    let task = tokio::spawn(server.run(listener, breaker.clone()));
    Ok(ServerHandle { addr, tls: tls.is_some(), stop, breaker, task })
}

#[derive(Clone)]
struct Server {
    tls: Option<TlsAcceptor>,
    router: Router,
    stop: CancellationToken,
}

impl Server {
    async fn run(self, listener: TcpListener, breaker: Breaker) {
        // Aborting this task drops the set, and dropping the set aborts the connections.
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        if let Some(cut) = breaker.admit() {
                            let server = self.clone();
                            connections.spawn(async move {
                                cut.run_until_cancelled(server.connection(stream, peer)).await;
                            });
                        }
                    }
                    // Out of file descriptors, most likely: give the others time to close some.
                    Err(error) => {
                        tracing::warn!(%error, "accept failed");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
            }
        }
        drop(listener);
        let drain = async { while connections.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(SHUTDOWN_GRACE, drain).await;
    }

    async fn connection(self, stream: TcpStream, peer: SocketAddr) {
        let _ = stream.set_nodelay(true);
        match self.tls.clone() {
            None => self.http(stream, peer).await,
            Some(acceptor) => match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => self.http(stream, peer).await,
                Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
                Err(_) => tracing::debug!(%peer, "TLS handshake timed out"),
            },
        }
    }

    async fn http<S>(self, stream: S, peer: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let router = self.router;
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            let router = router.clone();
            async move { Ok::<_, Infallible>(router.oneshot(request).await.unwrap_or_else(|never| match never {})) }
        });
        let builder = Builder::new(TokioExecutor::new());
        let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::debug!(%peer, %error, "connection ended");
        }
    }
}
