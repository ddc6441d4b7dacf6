//! The source of the RetailTenants: a directory of YAML files, or the cluster of KUBECONFIG.

use std::{path::PathBuf, sync::Arc};

use super::{
    directory::Directory,
    watch::{self, Tenants},
};
use crate::metrics::Metrics;

/// A source that can be read.
pub enum Source {
    Directory(Directory),
    Cluster(kube::Client),
}

/// A source that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// No valid configuration for a Kubernetes client.
    #[error("KUBECONFIG: no usable Kubernetes configuration: {0}")]
    Kubernetes(String),
    /// The directory cannot be read.
    #[error("--tenants (STOREFENCE_TENANTS): {0}: {1}")]
    Directory(String, std::io::Error),
}

impl Source {
    /// Opens the directory, or the cluster if no directory is given.
    ///
    /// # Errors
    /// [`SourceError`].
    pub async fn open(directory: Option<PathBuf>) -> Result<Self, SourceError> {
        let Some(path) = directory else {
            let failed = |error: &dyn std::fmt::Display| SourceError::Kubernetes(error.to_string());
            let config = kube::Config::infer().await.map_err(|error| failed(&error))?;
            let client =
                storefence_runtime::kubernetes_client(config, crate::USER_AGENT).map_err(|error| failed(&error))?;
            return Ok(Self::Cluster(client));
        };
        let opened = Directory::open(path.clone());
        opened.map(Self::Directory).map_err(|error| SourceError::Directory(path.display().to_string(), error))
    }

    /// Publishes each state of the source to `tenants`; never returns.
    pub async fn follow(self, tenants: Arc<Tenants>, metrics: Arc<Metrics>) {
        match self {
            Self::Directory(directory) => directory.follow(tenants, metrics).await,
            Self::Cluster(client) => watch::follow(client, tenants, metrics).await,
        }
    }
}
