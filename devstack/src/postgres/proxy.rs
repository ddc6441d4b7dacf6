//! A proxy in front of the server that speaks TLS the way PostgreSQL does, and can cut connections.
//!
//! The fetched server programs are built without OpenSSL, so clients that insist on TLS (`sslmode=verify-full`)
//! need somebody to end it. Putting the proxy before every server keeps installed and fetched ones alike.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

use super::{Context, Error};
use crate::{breaker::Breaker, tls::Authority};

/// Request codes that stand where a protocol version would (PostgreSQL manual, "Message Formats").
const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;

/// The first byte of a TLS handshake: the client began without asking (`sslnegotiation=direct`).
const TLS_HANDSHAKE: u8 = 22;

/// Why a connection before this was lost does not matter to the listener.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A running proxy. Dropping it closes the port and every connection.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    breaker: Breaker,
    silent: watch::Sender<bool>,
    lost_cancels: Arc<AtomicU32>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 and passes connections on to `backend`, with or without TLS as the client asks.
    pub async fn start(backend: SocketAddr, authority: &Authority) -> Result<Self, Error> {
        let mut config: ServerConfig = (*authority.server_config(&[])?).clone();
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("binding the TLS proxy")?;
        let addr = listener.local_addr().context("binding the TLS proxy")?;
        let breaker = Breaker::default();
        let silent = watch::Sender::new(false);
        let lost_cancels = Arc::<AtomicU32>::default();
        let line = Line { backend, acceptor, lost_cancels: Arc::clone(&lost_cancels) };
        let task = tokio::spawn(run(listener, line, breaker.clone(), silent.subscribe()));
        Ok(Self { addr, breaker, silent, lost_cancels, task })
    }

    /// The address that clients connect to.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Fault: while down, connections are cut and new ones closed without an answer.
    pub fn set_down(&self, down: bool) {
        self.breaker.set_down(down);
    }

    /// Fault: while silent, connections are accepted and open ones stay, and no byte passes in either direction.
    pub fn set_silent(&self, silent: bool) {
        self.silent.send_replace(silent);
    }

    /// Fault: the next so many requests to cancel have no effect, as where the server is between two statements.
    pub fn lose_cancels(&self, number: u32) {
        self.lost_cancels.store(number, Ordering::SeqCst);
    }

    /// How many of those have not come yet.
    pub fn cancels_to_lose(&self) -> u32 {
        self.lost_cancels.load(Ordering::SeqCst)
    }

    /// Fault: cuts every open connection once.
    pub fn cut_connections(&self) {
        self.breaker.cut();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where connections go, and how.
#[derive(Clone)]
struct Line {
    backend: SocketAddr,
    acceptor: TlsAcceptor,
    lost_cancels: Arc<AtomicU32>,
}

async fn run(listener: TcpListener, line: Line, breaker: Breaker, silent: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    if let Some(cut) = breaker.admit() {
                        let (line, silent) = (line.clone(), silent.clone());
                        connections.spawn(async move {
                            let served = unless_silent(silent, line.connection(client));
                            if let Some(Err(error)) = cut.run_until_cancelled(served).await {
                                tracing::debug!(%error, "proxied PostgreSQL connection ended");
                            }
                        });
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
}

/// Does its work except while the line is silent.
async fn unless_silent(
    mut silent: watch::Receiver<bool>,
    work: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    let mut work = std::pin::pin!(work);
    loop {
        // Only a proxy that is gone closes the channel, and its connections end with it.
        let _ = silent.wait_for(|silent| !silent).await;
        tokio::select! {
            biased;
            Ok(_) = silent.wait_for(|silent| *silent) => {}
            outcome = &mut work => return outcome,
        }
    }
}

impl Line {
    async fn connection(self, mut client: TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        loop {
            let mut first = [0; 1];
            if client.peek(&mut first).await? == 0 {
                return Ok(());
            }
            if first[0] == TLS_HANDSHAKE {
                let mut client = self.acceptor.accept(client).await?;
                let (length, code) = (client.read_u32().await?, client.read_u32().await?);
                return self.pass_on(client, length, code).await;
            }
            let (length, code) = (client.read_u32().await?, client.read_u32().await?);
            match (length, code) {
                // After the S the client sends its handshake, which the loop's next turn recognises.
                (8, SSL_REQUEST) => client.write_all(b"S").await?,
                (8, GSS_REQUEST) => client.write_all(b"N").await?,
                _ => return self.pass_on(client, length, code).await,
            }
        }
    }

    /// Passes a connection on whose first two words have been read.
    async fn pass_on<C: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut client: C,
        length: u32,
        code: u32,
    ) -> io::Result<()> {
        let one_less = |left: u32| left.checked_sub(1);
        if code == CANCEL_REQUEST
            && self.lost_cancels.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok()
        {
            return client.shutdown().await;
        }
        let mut server = connect(self.backend).await?;
        server.write_u64(u64::from(length) << 32 | u64::from(code)).await?;
        copy_bidirectional(&mut client, &mut server).await.map(drop)
    }
}

async fn connect(backend: SocketAddr) -> io::Result<TcpStream> {
    let server = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(backend)).await??;
    server.set_nodelay(true)?;
    Ok(server)
}
