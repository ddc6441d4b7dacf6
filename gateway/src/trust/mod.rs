//! Trust roots: the system's certificate authorities, and those of a database's `caFile`. The file is read again when it
//! changes, so an authority is replaced by appending its successor to the file, without a restart of the gateway.

pub mod tls;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::{ClientConfig, pki_types::CertificateDer};

use self::tls::{Connector, TlsError, Verify};

/// How often the files are read. They are small, and a mounted file changes by a swap of links that file notifications
/// do not follow.
const PERIOD: Duration = Duration::from_secs(2);

/// Trust roots by `spec.databaseRef.name`.
pub type Roots = HashMap<String, Arc<Trust>>;

/// The trust roots of a database.
#[derive(Debug, Default)]
pub struct Trust {
    file: Option<PathBuf>,
    certificates: ArcSwap<Vec<CertificateDer<'static>>>,
    /// One per mode, not per tenant: the system's roots alone take half a megabyte.
    connectors: Mutex<HashMap<Verify, Connector>>,
}

impl Trust {
    /// The system's authorities, and those of a file in PEM.
    ///
    /// # Errors
    /// [`TlsError::File`].
    pub fn open(file: Option<PathBuf>) -> Result<Self, TlsError> {
        let certificates = file.as_deref().map(tls::certificates).transpose()?.unwrap_or_default();
        Ok(Self { file, certificates: ArcSwap::from_pointee(certificates), connectors: Mutex::default() })
    }

    /// The file, where there is one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// TLS towards the server. A later change of the file applies to connections that are opened after it.
    ///
    /// # Errors
    /// [`TlsError::Setup`].
    pub fn connector(&self, verify: Verify) -> Result<Arc<ClientConfig>, TlsError> {
        let mut connectors = self.connectors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = connectors.get(&verify) {
            return Ok(known.config.clone());
        }
        let made = tls::connector(verify, &self.certificates.load())?;
        let config = made.config.clone();
        connectors.insert(verify, made);
        Ok(config)
    }

    /// Reads the file again, and returns whether it has changed. A file that cannot be used changes nothing.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn read_again(&self) -> Result<bool, TlsError> {
        let Some(file) = &self.file else { return Ok(false) };
        let read = tls::certificates(file)?;
        let connectors = self.connectors.lock().unwrap_or_else(PoisonError::into_inner);
        if read == **self.certificates.load() {
            return Ok(false);
        }
        let verifiers = connectors.iter().map(|(verify, connector)| Ok((connector, tls::verifier(*verify, &read)?)));
        for (connector, verifier) in verifiers.collect::<Result<Vec<_>, TlsError>>()? {
            connector.trust(verifier);
        }
        self.certificates.store(Arc::new(read));
        Ok(true)
    }
}

/// Follows the files. A file that cannot be used is logged once, and its last good version stays in force.
pub async fn follow(roots: Roots) {
    let mut reported: HashMap<String, String> = HashMap::new();
    loop {
        tokio::time::sleep(PERIOD).await;
        for (database, trust) in &roots {
            let again = trust.clone();
            let Ok(read) = tokio::task::spawn_blocking(move || again.read_again()).await else { continue };
            match read {
                Ok(changed) => {
                    let worked_again = reported.remove(database).is_some();
                    if changed || worked_again {
                        tracing::info!(database, "caFile has changed on disk and is in use");
                    }
                }
                Err(error) => {
                    let error = error.to_string();
                    if reported.get(database) != Some(&error) {
                        tracing::error!(database, error, "caFile cannot be used; the last good one stays in force");
                        reported.insert(database.clone(), error);
                    }
                }
            }
        }
    }
}
