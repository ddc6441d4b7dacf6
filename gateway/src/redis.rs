//! One connection to Redis, for state that replicas share. No call depends on it: an operation has a short timeout, and
//! after a failure none is tried until a probe in the background has succeeded.

use std::{
    fmt::Write as _,
    path::Path,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use redis::{
    Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue, IntoConnectionInfo, RedisError,
    RedisResult, ScriptInvocation, ServerErrorKind, TlsCertificates,
    aio::{ConnectionManager, ConnectionManagerConfig},
    io::tcp::TcpSettings,
};
use rustls::RootCertStore;

use crate::{
    metrics::Metrics,
    trust::tls::{self, TlsError},
};

/// Timeout for an answer: a caller waits for it.
const TIMEOUT: Duration = Duration::from_millis(250);
/// Timeout for a connection, which the probe makes in the background.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// First and longest pause between probes.
const PROBE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// The URL of Redis, checked. `Debug` does not show its password.
#[derive(Clone, Debug)]
pub struct RedisUrl(ConnectionInfo);

/// A Redis configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RedisSetupError {
    /// Not a valid Redis URL.
    #[error("--redis-url (STOREFENCE_REDIS_URL): redis://, rediss:// or redis+unix:// is expected: {0}")]
    Url(String),
    /// TLS without verification.
    #[error("--redis-url (STOREFENCE_REDIS_URL): #insecure is not accepted; name the server's CA with --ca-file")]
    Insecure,
    /// Trust roots.
    #[error("--ca-file (STOREFENCE_CA_FILE): {0}")]
    Roots(#[from] TlsError),
    /// The client cannot be created.
    #[error("--redis-url (STOREFENCE_REDIS_URL): {0}")]
    Client(String),
}

/// Redis gave no usable answer in time. The cause is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Redis is away")]
pub struct Away;

impl RedisUrl {
    /// Reads `redis://[user:password@]host[:port][/database]`, `rediss://` for TLS, or `redis+unix:///path`.
    ///
    /// # Errors
    /// [`RedisSetupError`], without the URL, which may hold a password.
    pub fn parse(text: &str) -> Result<Self, RedisSetupError> {
        let info = text.into_connection_info();
        let info = info.map_err(|error: RedisError| RedisSetupError::Url(words(&error)))?;
        match info.addr() {
            ConnectionAddr::TcpTls { insecure: true, .. } => Err(RedisSetupError::Insecure),
            _ => Ok(Self(info.set_tcp_settings(TcpSettings::default().set_nodelay(true)))),
        }
    }
}

/// The connection. Cheap to clone.
#[derive(Clone)]
pub struct Redis(Arc<Inner>);

struct Inner {
    connection: ConnectionManager,
    away: AtomicBool,
    metrics: Arc<Metrics>,
}

impl Redis {
    /// Prepares the connection, which is opened with the first operation. A server that is unavailable at the start is
    /// treated like one that fails later. Needs a runtime.
    ///
    /// # Errors
    /// [`RedisSetupError`].
    pub fn new(url: RedisUrl, ca_file: Option<&Path>, metrics: Arc<Metrics>) -> Result<Self, RedisSetupError> {
        let failed = |error: RedisError| RedisSetupError::Client(words(&error));
        let client = if matches!(url.0.addr(), ConnectionAddr::TcpTls { .. }) {
            let roots = TlsCertificates { client_tls: None, root_cert: Some(roots(ca_file)?.into_bytes()) };
            Client::build_with_tls(url.0, roots).map_err(failed)?
        } else {
            Client::open(url.0).map_err(failed)?
        };
        // The probe does the retries; the manager tries once for each operation.
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(0)
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(TIMEOUT));
        let connection = ConnectionManager::new_lazy_with_config(client, config).map_err(failed)?;
        Ok(Self(Arc::new(Inner { connection, away: AtomicBool::new(false), metrics })))
    }

    /// Runs one command.
    ///
    /// # Errors
    /// [`Away`].
    pub async fn run<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Away> {
        let mut connection = self.0.connection.clone();
        self.guarded(command.query_async(&mut connection)).await
    }

    /// Runs a script.
    ///
    /// # Errors
    /// [`Away`].
    pub async fn script<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, Away> {
        let mut connection = self.0.connection.clone();
        self.guarded(script.invoke_async(&mut connection)).await
    }

    async fn guarded<T>(&self, operation: impl Future<Output = RedisResult<T>>) -> Result<T, Away> {
        let count = |outcome: &str| self.0.metrics.redis_operations.with_label_values(&[outcome]).inc();
        if self.0.away.load(Ordering::Acquire) {
            count("skipped");
            return Err(Away);
        }
        match tokio::time::timeout(TIMEOUT, operation).await {
            Ok(Ok(value)) => {
                count("ok");
                Ok(value)
            }
            Ok(Err(error)) => {
                count("failed");
                if of_the_command(&error) {
                    tracing::warn!(error = words(&error), "Redis refused a command");
                } else {
                    self.went_away(&words(&error));
                }
                Err(Away)
            }
            Err(_) => {
                count("timeout");
                self.went_away("no answer in time");
                Err(Away)
            }
        }
    }

    /// Opens the circuit, once.
    fn went_away(&self, problem: &str) {
        if !self.0.away.swap(true, Ordering::AcqRel) {
            tracing::warn!(problem, "Redis is away; each replica goes on by itself");
            self.0.metrics.redis_away.set(1);
            tokio::spawn(probe(Arc::downgrade(&self.0)));
        }
    }
}

/// Probes until there is an answer, then closes the circuit. Ends when the connection has no users left.
async fn probe(inner: Weak<Inner>) {
    let (mut pause, ping) = (PROBE.0, redis::cmd("PING"));
    loop {
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2).min(PROBE.1);
        let Some(inner) = inner.upgrade() else { return };
        let mut connection = inner.connection.clone();
        let answer = ping.query_async::<String>(&mut connection);
        let answer = tokio::time::timeout(CONNECT_TIMEOUT + TIMEOUT, answer).await;
        inner.metrics.redis_operations.with_label_values(&["probe"]).inc();
        if matches!(answer, Ok(Ok(_))) {
            tracing::info!("Redis is back");
            inner.metrics.redis_away.set(0);
            inner.away.store(false, Ordering::Release);
            return;
        }
    }
}

/// Whether an error is about the command rather than the server.
fn of_the_command(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::UnexpectedReturnType
            | ErrorKind::Parse
            | ErrorKind::Extension
            | ErrorKind::Server(ServerErrorKind::ResponseError | ServerErrorKind::NoPerm)
    )
}

/// Kind and code of an error. Its detail may quote the command.
fn words(error: &RedisError) -> String {
    match error.code() {
        Some(code) => format!("{:?} ({code})", error.kind()),
        None if error.is_io_error() => error.to_string(),
        None => format!("{:?}", error.kind()),
    }
}

/// The system's trust roots and those of the file, in PEM, the only form that the client accepts.
fn roots(ca_file: Option<&Path>) -> Result<String, TlsError> {
    let extra = ca_file.map(tls::certificates).transpose()?.unwrap_or_default();
    let mut pem = String::new();
    for certificate in rustls_native_certs::load_native_certs().certs.into_iter().chain(extra) {
        // A single unparsable certificate, as some systems have, would make the client refuse them all.
        if RootCertStore::empty().add(certificate.clone()).is_ok() {
            let body = BASE64_STANDARD.encode(&certificate);
            let _ = writeln!(pem, "-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----");
        }
    }
    Ok(pem)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        time::{Duration, Instant},
    };

    use super::{Away, Redis, RedisUrl};
    use crate::metrics::Metrics;

    #[test]
    fn urls() {
        for good in ["redis://localhost", "redis://:hunter2@127.0.0.1:6380/2", "rediss://me:hunter2@redis.example:6380"]
        {
            let url = RedisUrl::parse(good).expect(good);
            assert!(!format!("{url:?}").contains("hunter2"), "{url:?}");
        }
        for bad in ["", "localhost:6379", "http://localhost", "rediss://localhost/#insecure", "redis://me:hunter2@"] {
            let error = RedisUrl::parse(bad).expect_err(bad).to_string();
            assert!(error.contains("STOREFENCE_REDIS_URL") && !error.contains("hunter2"), "{error}");
        }
    }

    async fn answers(redis: &Redis) -> Result<String, Away> {
        redis.run(&redis::cmd("PING")).await
    }

    #[tokio::test]
    async fn away_costs_one_caller_a_moment_and_comes_back() {
        // Accepts connections and never answers: worse than a closed port.
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = silent.local_addr().expect("an address");
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let url = RedisUrl::parse(&format!("redis://{address}")).expect("a URL");
        let redis = Redis::new(url, None, metrics.clone()).expect("a client");
        let begun = Instant::now();
        assert_eq!(answers(&redis).await, Err(Away));
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        let begun = Instant::now();
        for _ in 0..1000 {
            assert_eq!(answers(&redis).await, Err(Away));
        }
        assert!(begun.elapsed() < Duration::from_millis(250), "{:?}", begun.elapsed());
        assert_eq!(metrics.redis_away.get(), 1);
        assert!(metrics.redis_operations.with_label_values(&["skipped"]).get() >= 999);

        // The same port begins to answer each command with one line.
        tokio::spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            loop {
                let Ok((mut stream, _)) = silent.accept().await else { return };
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                        let commands = buffer[..read].iter().filter(|byte| **byte == b'*').count();
                        let _ = stream.write_all("+PONG\r\n".repeat(commands).as_bytes()).await;
                    }
                });
            }
        });
        let begun = Instant::now();
        while answers(&redis).await.is_err() {
            assert!(begun.elapsed() < Duration::from_secs(10), "it did not come back");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(metrics.redis_away.get(), 0);
    }
}
