//! TLS on the public listener, with a certificate that may change on disk: the files of a Kubernetes Secret are
//! symbolic links that are swapped on renewal.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use sha2::{Digest, Sha256};
use tokio_rustls::TlsAcceptor;
use x509_cert::der::Decode;

use crate::metrics::Metrics;

/// How often the files are read. Only their content counts: the times of symbolic links and of their targets both
/// mislead.
const LOOK: Duration = Duration::from_secs(1);

/// The files of a certificate chain and its key, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Why a certificate and key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// The chain.
    #[error("--tls-cert (STOREFENCE_TLS_CERT): {}: {problem}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    #[error("--tls-key (STOREFENCE_TLS_KEY): {}: {problem}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong, without the key.
        problem: String,
    },
    /// Both are well-formed but do not match.
    #[error("--tls-cert and --tls-key (STOREFENCE_TLS_CERT, STOREFENCE_TLS_KEY) do not go together: {0}")]
    Pair(String),
}

/// The certificate and key in use, kept up to date with the files.
pub struct Certificates {
    files: Files,
    current: ArcSwap<ServerConfig>,
    metrics: Arc<Metrics>,
}

impl Certificates {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn open(files: Files, metrics: Arc<Metrics>) -> Result<Arc<Self>, CertificateError> {
        let pair = Pair::read(&files)?;
        let config = pair.config()?;
        let certificates = Self { files, current: ArcSwap::new(config), metrics };
        certificates.accept(&pair);
        Ok(Arc::new(certificates))
    }

    /// Performs a handshake with the current certificate.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }

    /// Follows the files. An unusable pair leaves the last good one in use.
    pub async fn follow(self: Arc<Self>) {
        let mut seen = None;
        let mut ticks = tokio::time::interval(LOOK);
        loop {
            ticks.tick().await;
            let files = self.files.clone();
            let Ok(read) = tokio::task::spawn_blocking(move || Pair::read(&files)).await else { continue };
            let now = read.as_ref().map(Pair::fingerprint).map_err(Clone::clone);
            let first = seen.is_none();
            if seen.as_ref() == Some(&now) {
                continue;
            }
            seen = Some(now);
            let pair = read.and_then(|pair| Ok((pair.config()?, pair)));
            match pair {
                // Usually the pair that was loaded at the start.
                Ok((config, pair)) => {
                    self.current.store(config);
                    self.accept(&pair);
                    if !first {
                        self.metrics.certificate_reloads.with_label_values(&["ok"]).inc();
                        tracing::info!("the TLS certificate on disk has changed and is in use");
                    }
                }
                Err(error) => {
                    self.metrics.certificate_current.set(0);
                    self.metrics.certificate_reloads.with_label_values(&["error"]).inc();
                    tracing::error!(%error, "the TLS certificate on disk cannot be used; the last good one stays in use");
                }
            }
        }
    }

    fn accept(&self, pair: &Pair) {
        self.metrics.certificate_current.set(1);
        self.metrics.certificate_expiry.set(pair.not_after().map_or(0, |at| i64::try_from(at).unwrap_or(i64::MAX)));
    }
}

struct Pair {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Pair {
    fn read(files: &Files) -> Result<Self, CertificateError> {
        let bad_chain = |problem: String| CertificateError::Certificate { path: files.certificate.clone(), problem };
        let bad_key = |problem: String| CertificateError::Key { path: files.key.clone(), problem };
        let read = |path: &Path| std::fs::read(path).map_err(|error| error.to_string());
        let chain = read(&files.certificate).map_err(bad_chain)?;
        let chain = CertificateDer::pem_slice_iter(&chain).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| bad_chain(error.to_string()))?;
        if chain.is_empty() {
            return Err(bad_chain("it holds no certificate in PEM".to_owned()));
        }
        let key = zeroize::Zeroizing::new(read(&files.key).map_err(bad_key)?);
        let key = PrivateKeyDer::from_pem_slice(&key);
        // The parser's error could quote the file.
        let key = key.map_err(|_| bad_key("it holds no private key in PEM".to_owned()))?;
        Ok(Self { chain, key })
    }

    fn fingerprint(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for certificate in &self.chain {
            hash.update(certificate);
        }
        hash.update(self.key.secret_der());
        hash.finalize().into()
    }

    fn config(&self) -> Result<Arc<ServerConfig>, CertificateError> {
        let pair = |error: rustls::Error| CertificateError::Pair(error.to_string());
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(pair)?
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(pair)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// The leaf's expiry, in Unix seconds.
    fn not_after(&self) -> Option<u64> {
        let leaf = x509_cert::Certificate::from_der(self.chain.first()?).ok()?;
        Some(leaf.tbs_certificate.validity.not_after.to_unix_duration().as_secs())
    }
}
