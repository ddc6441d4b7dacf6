//! TLS towards PostgreSQL with the meaning that `sslmode` has in libpq
//! (<https://www.postgresql.org/docs/current/libpq-ssl.html>, table 32.1).

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

/// How much of the server's certificate is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verify {
    /// Nothing: `prefer` and `require` without a root certificate. Protects against eavesdropping only.
    Nothing,
    /// The chain: `verify-ca`, and `require` where a root certificate is configured.
    Chain,
    /// Chain and host name: `verify-full`.
    ChainAndName,
}

/// A trust root that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read or holds no certificate.
    #[error("trust roots cannot be read from {0}: {1}")]
    File(String, String),
    /// The verifier cannot be made.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

/// Reads certificates from a PEM file.
///
/// # Errors
/// [`TlsError::File`].
pub fn certificates(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |text: String| TlsError::File(path.display().to_string(), text);
    let iter = CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))?;
    let found = iter.collect::<Result<Vec<_>, _>>().map_err(|error| failed(error.to_string()))?;
    if found.is_empty() { Err(failed("it holds no certificate".to_owned())) } else { Ok(found) }
}

/// TLS towards servers, with trust roots that may change.
#[derive(Debug)]
pub struct Connector {
    /// For connections.
    pub config: Arc<ClientConfig>,
    verifier: Arc<PostgresVerifier>,
}

impl Connector {
    /// Replaces the trust roots, for connections that are opened from now on.
    pub fn trust(&self, verifier: Option<Arc<WebPkiServerVerifier>>) {
        self.verifier.inner.store(verifier);
    }
}

/// The verifier for the system's roots and `extra`; `None` for [`Verify::Nothing`].
///
/// # Errors
/// [`TlsError::Setup`].
pub fn verifier(
    verify: Verify,
    extra: &[CertificateDer<'static>],
) -> Result<Option<Arc<WebPkiServerVerifier>>, TlsError> {
    if verify == Verify::Nothing {
        return Ok(None);
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots.add_parsable_certificates(extra.iter().cloned());
    let provider = Arc::new(aws_lc_rs::default_provider());
    let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    built.map(Some).map_err(|error| TlsError::Setup(error.to_string()))
}

/// A configuration that trusts the system's roots and `extra`.
///
/// # Errors
/// [`TlsError::Setup`].
pub fn connector(verify: Verify, extra: &[CertificateDer<'static>]) -> Result<Connector, TlsError> {
    let setup = |error: &dyn std::fmt::Display| TlsError::Setup(error.to_string());
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| setup(&error))?;
    let inner = ArcSwapOption::new(verifier(verify, extra)?);
    let verifier = Arc::new(PostgresVerifier { verify, inner, provider });
    // "dangerous" because the verifier is our own; verify-full is webpki's, unchanged.
    let config = builder.dangerous().with_custom_certificate_verifier(verifier.clone()).with_no_client_auth();
    Ok(Connector { config: Arc::new(config), verifier })
}

#[derive(Debug)]
struct PostgresVerifier {
    verify: Verify,
    inner: ArcSwapOption<WebPkiServerVerifier>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PostgresVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(inner) = self.inner.load_full().filter(|_| self.verify != Verify::Nothing) else {
            return Ok(ServerCertVerified::assertion());
        };
        let verified = inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // webpki checks the name last: when only the name is wrong, the chain is good.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.verify == Verify::Chain => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
