//! Gives every product the vector of its text: what the gateway's semantic search compares questions with.
//!
//! A row is missing, or outdated when the text or the model is another one than at the time it was made. Batches are
//! written as they come, so a run that was interrupted goes on where it ended.
//!
//! A product that the provider refuses stays without a vector, and keeps no other product from its own.

mod batch;
mod keep;
mod rows;

use std::time::Duration;

use sqlx::postgres::PgConnection;
use storefence_runtime::{Embeddings, EmbeddingsError};

pub use keep::keep;

/// Products of one call by default: small enough for any provider's limit on tokens.
pub const BATCH: u32 = 64;

/// How a failed call is repeated.
#[derive(Clone, Copy, Debug)]
pub struct Retries {
    /// Attempts of one batch in all.
    pub attempts: u32,
    /// Wait after the first failure where the provider names none; doubles each time.
    pub first_wait: Duration,
    /// Longest wait; a provider that asks for more ends the run.
    pub longest_wait: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        // A quota per minute is over after a minute.
        Self { attempts: 6, first_wait: Duration::from_secs(1), longest_wait: Duration::from_secs(90) }
    }
}

/// What to embed.
#[derive(Clone, Debug)]
pub struct Options {
    /// Only this tenant's products.
    pub tenant: Option<String>,
    /// Products of one call.
    pub batch: u32,
    /// How a failed call is repeated.
    pub retries: Retries,
}

impl Default for Options {
    fn default() -> Self {
        Self { tenant: None, batch: BATCH, retries: Retries::default() }
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Rows written in this run.
    pub written: u64,
    /// Rows that were missing or outdated when it began.
    pub stale: u64,
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Rows written.
    pub written: u64,
    pub products: u64,
    /// Products that the provider refused one by one: their text, or the vector that it has for it.
    pub refused: u64,
}

/// Why a run ended early. What it had written stays.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// No such tenant in the database.
    #[error("the database has no tenant {0}")]
    UnknownTenant(String),
    #[error("{error} ({} of {} products are done; another run goes on from there)", progress.written, progress.stale)]
    Provider {
        /// What it said last.
        error: EmbeddingsError,
        /// How far the run was.
        progress: Progress,
    },
    #[error("the embeddings cannot be read or written: {0}")]
    Database(#[from] sqlx::Error),
}

impl EmbedError {
    /// The label in logs and metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::UnknownTenant(_) => "UnknownTenant",
            Self::Provider { error, .. } => error.reason(),
            Self::Database(_) => "DatabaseError",
        }
    }
}

/// Embeds what is missing or outdated, as the administrator (a member of `retail_loader`, or superuser).
///
/// # Errors
/// [`EmbedError`]; the batches before it are written.
pub async fn run(
    connection: &mut PgConnection,
    provider: &Embeddings,
    options: &Options,
    tell: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Report, EmbedError> {
    let tenant = match &options.tenant {
        Some(name) => {
            Some(rows::tenant(connection, name).await?.ok_or_else(|| EmbedError::UnknownTenant(name.clone()))?)
        }
        None => None,
    };
    let model = provider.model();
    let (products, stale) = rows::count(connection, tenant, model).await?;
    let mut progress = Progress { written: 0, stale };
    let (mut after, mut refused) = (None, 0);
    loop {
        let batch = rows::stale(connection, tenant, model, after, options.batch).await?;
        // Each product is met once in a run, even if its text changes meanwhile: the run ends.
        let Some(last) = batch.last() else { break };
        after = Some(last.product_id);
        let embedded = batch::embed(provider, &batch, options.retries)
            .await
            .map_err(|error| EmbedError::Provider { error, progress })?;
        rows::write(connection, model, &embedded).await?;
        refused += (batch.len() - embedded.len()) as u64;
        progress.written += embedded.len() as u64;
        tell(progress);
    }
    if progress.written > 0 {
        rows::analyze(connection).await?;
    }
    Ok(Report { written: progress.written, products, refused })
}
