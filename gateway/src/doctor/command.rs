//! The command `storefence-gateway doctor`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use storefence_runtime::OptionsError;
use tokio::sync::Mutex;

use super::{Doctor, TIMEOUT, finding::report};
use crate::{
    db::credentials::Loader,
    identity::jwks::KeyStore,
    metrics::Metrics,
    questions::{self, Questions},
    redis::{Redis, RedisSetupError},
    settings::Settings,
    tenants::{
        source::{Source, SourceError},
        watch::Tenants,
    },
    vaults::{self, Vaults},
};

/// Why nothing could be checked.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    #[error(transparent)]
    Azure(#[from] OptionsError),
    /// The source of the tenants.
    #[error(transparent)]
    Tenants(#[from] SourceError),
    #[error(transparent)]
    Redis(#[from] RedisSetupError),
    /// The runtime or the metrics, which do not fail.
    #[error("the process cannot be set up: {0}")]
    Setup(String),
}

impl DoctorError {
    /// Whether the user's configuration is the cause.
    #[must_use]
    pub const fn is_configuration(&self) -> bool {
        !matches!(self, Self::Setup(_))
    }
}

fn setup(error: impl std::fmt::Display) -> DoctorError {
    DoctorError::Setup(error.to_string())
}

/// Checks what calls need, with the settings of `run` and without serving. Prints one line for each check; returns
/// false if something is not in order.
///
/// # Errors
/// [`DoctorError`]: the settings do not permit any check.
pub fn run(settings: Settings) -> Result<bool, DoctorError> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let (text, well) = runtime.map_err(setup)?.block_on(visit(settings))?;
    print!("{text}");
    Ok(well)
}

async fn visit(settings: Settings) -> Result<(String, bool), DoctorError> {
    let Settings { config, access, tenants: directory, redis, azure, .. } = settings;
    let metrics = Arc::new(Metrics::new().map_err(setup)?);
    let http = storefence_runtime::client(azure.ca_file.as_deref(), vaults::TIMEOUT).map_err(OptionsError::from)?;
    let keys = Arc::new(KeyStore::new(access.tokens.authority, http, metrics.clone()));
    let vaults = Arc::new(Vaults::new(&azure, &config.key_vaults)?);
    let loader = Loader::new(vaults, config.roots, metrics.clone());
    let provider = config.embeddings.map(|config| azure.embeddings(&config, questions::TIMEOUT)).transpose()?;
    let questions = Questions::new(provider, metrics.clone());
    let redis = redis.map(|url| Redis::new(url, azure.ca_file.as_deref(), metrics.clone())).transpose()?;
    let tenants = Arc::new(Tenants::default());
    let following = tokio::spawn(Source::open(directory).await?.follow(tenants.clone(), metrics.clone()));
    let begun = Instant::now();
    while !tenants.is_synced() && begun.elapsed() < TIMEOUT {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let doctor = Doctor { tenants, keys, loader, redis, metrics, last: Mutex::default() };
    let findings = doctor.examine(&questions).await;
    following.abort();
    Ok(report(&findings))
}
