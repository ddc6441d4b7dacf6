//! The step of `run` that keeps the vectors up to date: chains edit their products while nobody watches.
//!
//! On a schedule of its own and not in the passes over tenants: a provider that is slow or away must delay no login.

use std::{path::PathBuf, sync::Arc, time::Duration};

use sqlx::{ConnectOptions, Connection};
use storefence_azure::{AzureOptions, OptionsError};

use super::{EmbedError, Options, Progress, run};
use crate::{
    backends::resolve_once,
    config::{Config, DatabaseConfig, Resolved},
    metrics::Metrics,
};

/// Longest wait for one answer of the provider.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Wait after a failure, such as a database that is not migrated yet.
const AGAIN: Duration = Duration::from_secs(30);

/// Why a round ended early.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    /// The options for Azure make no client.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The run.
    #[error(transparent)]
    Run(#[from] EmbedError),
}

impl KeepError {
    const fn reason(&self) -> &'static str {
        match self {
            Self::Options(_) => "EmbeddingsOptions",
            Self::Run(error) => error.reason(),
        }
    }
}

/// Embeds what is missing or outdated in every database, again and again. Reads the configuration each time, so that a
/// change needs no restart; without a provider in it there is nothing to do.
pub async fn keep(path: PathBuf, azure: AzureOptions, metrics: Arc<Metrics>, every: Duration) {
    loop {
        // A configuration that cannot be read is complained about by those who reload it.
        let config = Config::load(&path).unwrap_or_default();
        let mut failed = false;
        if config.embeddings.is_none() {
            tokio::time::sleep(every).await;
            continue;
        }
        let resolved = match resolve_once(&config, azure.clone(), Arc::clone(&metrics)).await {
            Ok(resolved) => resolved,
            Err(error) => {
                tracing::warn!(%error, "embeddings are not up to date");
                Resolved::default()
            }
        };
        for (name, database) in &resolved.databases {
            if let Err(error) = once(&config, name, database, &azure).await {
                tracing::warn!(database = name, reason = error.reason(), %error, "embeddings are not up to date");
                failed = true;
            }
        }
        tokio::time::sleep(if failed { AGAIN.min(every) } else { every }).await;
    }
}

async fn once(config: &Config, name: &str, database: &DatabaseConfig, azure: &AzureOptions) -> Result<(), KeepError> {
    let Some(provider) = &config.embeddings else { return Ok(()) };
    let provider = azure.embeddings(provider, TIMEOUT)?;
    let mut connection = database.options.connect().await.map_err(EmbedError::from)?;
    let tell = |Progress { written, stale }| tracing::info!(database = name, written, of = stale, "embedding");
    let report = run(&mut connection, &provider, &Options::default(), &tell).await;
    let _ = connection.close().await;
    if report?.written > 0 {
        tracing::info!(database = name, "embeddings are up to date");
    }
    Ok(())
}
