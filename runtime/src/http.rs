//! The HTTP client that every outgoing call uses.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{Certificate, Client};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A file of trust roots that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaFileError {
    /// The file cannot be read.
    #[error("--ca-file (STOREFENCE_CA_FILE): cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds no certificate, or one that is none.
    #[error("--ca-file (STOREFENCE_CA_FILE): {} is not a PEM file of certificates", .0.display())]
    NotPem(PathBuf),
    /// The client could not be made.
    #[error("the HTTPS client could not be made: {0}")]
    Client(reqwest::Error),
}

/// A client that speaks https only and never follows a redirect: none of the services that we call redirects, and a
/// redirect would carry a token elsewhere.
pub fn client(ca_file: Option<&Path>, timeout: Duration) -> Result<Client, CaFileError> {
    let mut builder = Client::builder()
        .https_only(true)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(timeout)
        .user_agent(concat!("storefence/", env!("CARGO_PKG_VERSION")));
    if let Some(path) = ca_file {
        let pem = fs::read(path).map_err(|source| CaFileError::Unreadable { path: path.to_owned(), source })?;
        let roots = Certificate::from_pem_bundle(&pem).unwrap_or_default();
        if roots.is_empty() {
            return Err(CaFileError::NotPem(path.to_owned()));
        }
        for root in roots {
            builder = builder.add_root_certificate(root);
        }
    }
    builder.build().map_err(CaFileError::Client)
}

/// A client for the identity endpoint of a machine: plain http on a link-local or loopback address, never by a proxy.
pub(crate) fn machine_client(timeout: Duration) -> Result<Client, CaFileError> {
    let builder = Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy();
    builder.connect_timeout(CONNECT_TIMEOUT).timeout(timeout).build().map_err(CaFileError::Client)
}
