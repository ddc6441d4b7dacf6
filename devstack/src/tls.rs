//! A throw-away certificate authority for loopback servers.
//!
//! Everything is made in memory when a stack or a test starts, and trusted only where its PEM is handed over.

use std::{net::IpAddr, path::Path, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};

use crate::random;

/// Names that every leaf certificate carries, whatever else it is asked for.
const LOOPBACK: [&str; 3] = ["127.0.0.1", "::1", "localhost"];

/// Go's verifier (kubectl) and Apple's refuse server certificates that live longer than 825 days.
const LEAF_DAYS: i64 = 800;
const AUTHORITY_DAYS: i64 = 3650;

/// What can go wrong while making certificates.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key or certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// rustls did not accept what was made.
    #[error("rustls does not accept the certificate: {0}")]
    Rustls(#[from] rustls::Error),
}

/// A certificate authority that exists only in memory.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pem: String,
}

/// A server certificate and its private key.
pub struct Leaf {
    /// The certificate in PEM.
    pub certificate_pem: String,
    /// The private key, PKCS #8 in PEM.
    pub key_pem: String,
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
}

impl Authority {
    /// Makes a new authority with a fresh ECDSA P-256 key.
    pub fn new() -> Result<Self, Error> {
        Self::of(KeyPair::generate()?)
    }

    /// The authority that [`Self::key_pem`] is from: whoever trusted it trusts what is issued from now on.
    ///
    /// # Errors
    /// It is no private key.
    pub fn restore(key_pem: &str) -> Result<Self, Error> {
        Self::of(KeyPair::from_pem(key_pem)?)
    }

    fn of(key: KeyPair) -> Result<Self, Error> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        // Distinct names keep two authorities in one trust store apart; the name of a restored one is the same.
        let name = random::digest(key.public_key_raw());
        params.distinguished_name.push(DnType::CommonName, format!("Storefence devstack CA {name}"));
        set_validity(&mut params, AUTHORITY_DAYS);
        let issuer = CertifiedIssuer::self_signed(params, key)?;
        let pem = issuer.pem();
        Ok(Self { issuer, pem })
    }

    /// The authority's own certificate in PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The authority's own certificate in DER.
    pub fn der(&self) -> &CertificateDer<'static> {
        self.issuer.der()
    }

    /// The authority's private key in PEM, for [`Self::restore`].
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Writes the authority's certificate (never its key) to a file.
    pub fn write_pem(&self, path: &Path) -> std::io::Result<()> {
        std::fs::write(path, &self.pem)
    }

    /// Issues a server certificate for `names` (DNS names or IP addresses) and for 127.0.0.1, ::1 and localhost.
    pub fn issue(&self, names: &[&str]) -> Result<Leaf, Error> {
        let mut all: Vec<String> = names.iter().map(ToString::to_string).collect();
        all.extend(LOOPBACK.iter().filter(|name| !names.contains(*name)).map(ToString::to_string));
        let mut params = CertificateParams::new(all.clone())?;
        params.distinguished_name.push(DnType::CommonName, all[0].clone());
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        set_validity(&mut params, LEAF_DAYS);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Leaf {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            certificate: certificate.der().clone(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()),
        })
    }

    /// A server configuration with a new leaf for `names`, offering HTTP/2 and HTTP/1.1.
    pub fn server_config(&self, names: &[&str]) -> Result<Arc<ServerConfig>, Error> {
        let leaf = self.issue(names)?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![leaf.certificate, self.der().clone()], PrivateKeyDer::Pkcs8(leaf.key))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// A client configuration that trusts this authority and nobody else.
    pub fn client_config(&self) -> Result<ClientConfig, Error> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der().clone())?;
        Ok(ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth())
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// True when `name` is one that every leaf is valid for.
pub fn is_loopback_name(name: &str) -> bool {
    LOOPBACK.contains(&name) || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn set_validity(params: &mut CertificateParams, days: i64) {
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let ymd = |date: jiff::civil::Date| {
        rcgen::date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    let day = |n: i64| today.saturating_add(jiff::Span::new().days(n));
    // A day earlier, for containers whose clock is behind.
    params.not_before = ymd(day(-1));
    params.not_after = ymd(day(days));
}
