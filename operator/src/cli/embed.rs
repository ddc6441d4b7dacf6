//! `embed`: gives products their vectors.

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Args;
use sqlx::Connection as _;

use super::{
    CliError,
    admin::{Connect, find, open},
    output::say,
};
use crate::embed;

/// Longest wait for one answer of the provider.
const TIMEOUT: Duration = Duration::from_secs(60);

/// `embed`.
#[derive(Debug, Args)]
pub struct Embed {
    #[command(flatten)]
    connect: Connect,

    /// Database of the configuration.
    #[arg(long, env = "STOREFENCE_DATABASE", value_name = "NAME")]
    database: Option<String>,

    /// Only the products of this tenant.
    #[arg(long, env = "STOREFENCE_TENANT")]
    tenant: Option<String>,

    /// Products of one call to the provider.
    #[arg(long, env = "STOREFENCE_EMBED_BATCH", default_value_t = embed::BATCH,
          value_parser = clap::value_parser!(u32).range(1..=storefence_runtime::embeddings::BATCH_MAX as i64))]
    batch: u32,
}

/// Embeds what is missing or outdated.
pub async fn embed(arguments: Embed) -> Result<ExitCode, CliError> {
    let Embed { connect, database, tenant, batch } = arguments;
    let azure = connect.azure.clone();
    let (config, resolved) = connect.load().await?;
    let (name, database) = find(&resolved, database.as_deref())?;
    let provider = config.embeddings.as_ref().ok_or(CliError::Missing {
        flag: "embeddings (in the file of --config)",
        variable: "STOREFENCE_CONFIG",
        what: "the embeddings provider",
    })?;
    let provider = azure.embeddings(provider, TIMEOUT)?;
    let mut connection = open(name, database).await?;
    let options = embed::Options { tenant, batch, ..embed::Options::default() };
    let tell = |embed::Progress { written, stale }| tracing::info!(written, of = stale, "embedding");
    let report = embed::run(&mut connection, &provider, &options, &tell).await.context("embed")?;
    let _ = connection.close().await;
    let embed::Report { written, products, refused } = report;
    let model = provider.model();
    if refused == 0 {
        say!("{name}: embedded {written} of {products} products with {model}, the others were up to date")?;
        return Ok(ExitCode::SUCCESS);
    }
    say!(
        "{name}: embedded {written} of {products} products with {model}; {refused} that it refused are without a vector: \
         the log names them"
    )?;
    Ok(ExitCode::FAILURE)
}
