//! The step of `run` that keeps the vectors up to date: tenants edit their products while nobody watches.
//!
//! On a schedule of its own and not in the passes over tenants: a provider that is slow or away must delay no login.

use std::{path::PathBuf, sync::Arc, time::Duration};

use sqlx::{ConnectOptions, Connection};
use storefence_runtime::{AzureOptions, OptionsError};

use super::{EmbedError, Options, Progress, Report, run};
use crate::{
    backends::resolve_once,
    config::{Config, DatabaseConfig},
    metrics::Metrics,
};

/// Longest wait for one answer of the provider.
const TIMEOUT: Duration = Duration::from_secs(60);
/// First wait after a failure, such as a database that is not migrated yet; it doubles with each further one.
const AGAIN: Duration = Duration::from_secs(15);

/// Why a round ended early.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    /// The options for Azure make no client.
    #[error(transparent)]
    Options(#[from] OptionsError),
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
    let mut failures: u32 = 0;
    loop {
        // A configuration that cannot be read is complained about by those who reload it.
        let config = Config::load(&path).unwrap_or_default();
        let went_well = config.embeddings.is_none() || round(&config, &azure, &metrics).await;
        failures = if went_well { 0 } else { failures.saturating_add(1) };
        tokio::time::sleep(pause(failures, every)).await;
    }
}

/// The wait after so many failures in a row.
fn pause(failures: u32, every: Duration) -> Duration {
    match failures {
        0 => every,
        more => AGAIN.saturating_mul(1 << (more - 1).min(16)).min(every),
    }
}

/// Every database once; whether each was reached and no run ended early.
async fn round(config: &Config, azure: &AzureOptions, metrics: &Arc<Metrics>) -> bool {
    let resolved = match resolve_once(config, azure.clone(), Arc::clone(metrics)).await {
        Ok(resolved) => resolved,
        Err(error) => {
            tracing::warn!(%error, "embeddings are not up to date");
            return false;
        }
    };
    for (name, error) in &resolved.unknown {
        tracing::warn!(database = name, %error, "embeddings are not up to date");
    }
    let mut went_well = resolved.unknown.is_empty();
    for (name, database) in &resolved.databases {
        if let Err(error) = once(config, name, database, azure).await {
            tracing::warn!(database = name, reason = error.reason(), %error, "embeddings are not up to date");
            went_well = false;
        }
    }
    went_well
}

async fn once(config: &Config, name: &str, database: &DatabaseConfig, azure: &AzureOptions) -> Result<(), KeepError> {
    let Some(provider) = &config.embeddings else { return Ok(()) };
    let provider = azure.embeddings(provider, TIMEOUT)?;
    let mut connection = database.options.connect().await.map_err(EmbedError::from)?;
    let tell = |Progress { written, stale }| tracing::info!(database = name, written, of = stale, "embedding");
    let report = run(&mut connection, &provider, &Options::default(), &tell).await;
    let _ = connection.close().await;
    match report? {
        Report { refused: 0, written: 0, .. } => {}
        Report { refused: 0, .. } => tracing::info!(database = name, "embeddings are up to date"),
        Report { refused, .. } => {
            tracing::warn!(database = name, refused, "products are without a vector, which the provider refused");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_waited_out_longer_and_never_beyond_the_interval() {
        let every = Duration::from_secs(100);
        assert_eq!(
            [0, 1, 2, 3, 4, u32::MAX].map(|failures| pause(failures, every).as_secs()),
            [100, 15, 30, 60, 100, 100]
        );
        assert_eq!(pause(1, Duration::from_secs(1)), Duration::from_secs(1));
    }
}
