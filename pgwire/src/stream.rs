//! Sockets to PostgreSQL, by the addresses and the TLS mode of the URI.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use rand::seq::SliceRandom;
use rustls::{ClientConfig, pki_types::ServerName};
use sha2::{Digest, Sha256, Sha384, Sha512};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};
use tokio_postgres::{
    Config,
    config::{Host, LoadBalanceHosts, SslMode, SslNegotiation},
};
use tokio_rustls::TlsConnector;
use x509_cert::{
    Certificate,
    der::{
        Decode,
        oid::db::rfc5912::{
            ECDSA_WITH_SHA_256, ECDSA_WITH_SHA_384, SHA_1_WITH_RSA_ENCRYPTION, SHA_256_WITH_RSA_ENCRYPTION,
            SHA_384_WITH_RSA_ENCRYPTION, SHA_512_WITH_RSA_ENCRYPTION,
        },
    },
};

use super::WireError;

/// A stream of bytes in both directions.
pub trait Transport: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Transport for T {}

/// One server of the URI.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Host name, for the certificate.
    name: Option<String>,
    address: Address,
}

#[derive(Clone, Debug)]
enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// An open stream to a server.
pub struct Opened {
    /// The socket, or TLS on it.
    pub stream: Box<dyn Transport>,
    /// Channel binding of this TLS connection (RFC 5929, tls-server-end-point).
    pub binding: Option<Vec<u8>>,
}

/// The servers of a URI, in the order in which they are tried.
///
/// # Errors
/// No name resolves.
pub async fn endpoints(config: &Config) -> Result<Vec<Endpoint>, WireError> {
    let (hosts, addresses, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    let number = hosts.len().max(addresses.len());
    let uneven = !hosts.is_empty() && !addresses.is_empty() && hosts.len() != addresses.len();
    if number == 0 || uneven || (ports.len() > 1 && ports.len() != number) {
        let problem = "hosts, addresses and ports of the URI do not fit together";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, problem).into());
    }
    let at_random = config.get_load_balance_hosts() == LoadBalanceHosts::Random;
    let mut order: Vec<usize> = (0..number).collect();
    if at_random {
        order.shuffle(&mut rand::rng());
    }
    let (mut found, mut problem) = (Vec::new(), None);
    for index in order {
        let port = ports.get(index).or_else(|| ports.first()).copied().unwrap_or(5432);
        let name = match hosts.get(index) {
            Some(Host::Tcp(name)) => Some(name.clone()),
            _ => None,
        };
        if let Some(ip) = addresses.get(index) {
            found.push(Endpoint { name, address: Address::Tcp(SocketAddr::new(*ip, port)) });
            continue;
        }
        match hosts.get(index) {
            Some(Host::Unix(directory)) => {
                let address = Address::Unix(directory.join(format!(".s.PGSQL.{port}")));
                found.push(Endpoint { name, address });
            }
            Some(Host::Tcp(host)) => match tokio::net::lookup_host((host.as_str(), port)).await {
                Ok(resolved) => {
                    let mut resolved: Vec<SocketAddr> = resolved.collect();
                    if at_random {
                        resolved.shuffle(&mut rand::rng());
                    }
                    let each = resolved.into_iter().map(Address::Tcp);
                    found.extend(each.map(|address| Endpoint { name: name.clone(), address }));
                }
                Err(error) => problem = Some(error),
            },
            None => {}
        }
    }
    match (found.is_empty(), problem) {
        (true, Some(error)) => Err(error.into()),
        (true, None) => Err(io::Error::new(io::ErrorKind::NotFound, "could not resolve any addresses").into()),
        (false, _) => Ok(found),
    }
}

impl Endpoint {
    /// Opens a stream, with TLS as `sslmode` requires.
    ///
    /// # Errors
    /// [`WireError`].
    pub async fn open(&self, config: &Config, tls: &Arc<ClientConfig>) -> Result<Opened, WireError> {
        match &self.address {
            Address::Tcp(address) => {
                let stream = in_time(config, TcpStream::connect(address)).await?;
                tune(&stream, config)?;
                self.secure(stream, config, tls).await
            }
            Address::Unix(path) => {
                let stream = in_time(config, UnixStream::connect(path)).await?;
                self.secure(stream, config, tls).await
            }
        }
    }

    async fn secure<S: Transport + 'static>(
        &self,
        mut stream: S,
        config: &Config,
        tls: &Arc<ClientConfig>,
    ) -> Result<Opened, WireError> {
        let (mode, asks) = (config.get_ssl_mode(), config.get_ssl_negotiation() == SslNegotiation::Postgres);
        if mode == SslMode::Disable {
            return Ok(Opened { stream: Box::new(stream), binding: None });
        }
        if asks {
            let mut request = bytes::BytesMut::new();
            postgres_protocol::message::frontend::ssl_request(&mut request);
            stream.write_all(&request).await?;
            // Exactly one byte: bytes after it that are not TLS would be an attacker's.
            if stream.read_u8().await? != b'S' {
                if mode == SslMode::Prefer {
                    return Ok(Opened { stream: Box::new(stream), binding: None });
                }
                return Err(WireError::Tls("server does not support TLS".to_owned()));
            }
        } else if mode == SslMode::Prefer {
            return Err(WireError::Tls("sslnegotiation=direct needs sslmode=require or stricter".to_owned()));
        }
        let name = self.name.clone().ok_or_else(|| WireError::Tls("no hostname provided".to_owned()))?;
        let name = ServerName::try_from(name).map_err(|error| WireError::Tls(error.to_string()))?;
        let secured = TlsConnector::from(tls.clone()).connect(name, stream).await;
        let secured = secured.map_err(|error| WireError::Tls(error.to_string()))?;
        let certificates = secured.get_ref().1.peer_certificates();
        let binding = certificates.and_then(<[_]>::first).and_then(|leaf| end_point(leaf.as_ref()));
        Ok(Opened { stream: Box::new(secured), binding })
    }
}

async fn in_time<T>(config: &Config, connecting: impl Future<Output = io::Result<T>>) -> Result<T, WireError> {
    let failed = |error: io::Error| io::Error::new(error.kind(), format!("error connecting to server: {error}"));
    let limit = config.get_connect_timeout().copied().unwrap_or(Duration::MAX);
    match tokio::time::timeout(limit, connecting).await {
        Ok(connected) => Ok(connected.map_err(failed)?),
        Err(_) => Err(failed(io::Error::new(io::ErrorKind::TimedOut, "connection timed out")).into()),
    }
}

fn tune(stream: &TcpStream, config: &Config) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    #[cfg(target_os = "linux")]
    if let Some(limit) = config.get_tcp_user_timeout() {
        socket.set_tcp_user_timeout(Some(*limit))?;
    }
    if config.get_keepalives() {
        let mut keepalive = TcpKeepalive::new().with_time(config.get_keepalives_idle());
        if let Some(interval) = config.get_keepalives_interval() {
            keepalive = keepalive.with_interval(interval);
        }
        if let Some(retries) = config.get_keepalives_retries() {
            keepalive = keepalive.with_retries(retries);
        }
        socket.set_tcp_keepalive(&keepalive)?;
    }
    Ok(())
}

/// The hash of the server's certificate by the hash function of its signature, with SHA-256 in place of weaker ones
/// (RFC 5929, section 4.1). Signatures without a hash function, such as Ed25519, do not support channel binding.
fn end_point(leaf: &[u8]) -> Option<Vec<u8>> {
    match Certificate::from_der(leaf).ok()?.signature_algorithm.oid {
        SHA_1_WITH_RSA_ENCRYPTION | SHA_256_WITH_RSA_ENCRYPTION | ECDSA_WITH_SHA_256 => {
            Some(Sha256::digest(leaf).to_vec())
        }
        SHA_384_WITH_RSA_ENCRYPTION | ECDSA_WITH_SHA_384 => Some(Sha384::digest(leaf).to_vec()),
        SHA_512_WITH_RSA_ENCRYPTION => Some(Sha512::digest(leaf).to_vec()),
        _ => None,
    }
}
