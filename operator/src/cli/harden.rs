//! `harden`: brings a database to the strict level, as superuser.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Args;
use sqlx::{ConnectOptions as _, Connection as _};

use super::{
    CliError,
    admin::{Connect, find},
    output::say,
};
use crate::verify::{self, HardenStep};

/// `harden`.
#[derive(Debug, Args)]
pub struct Harden {
    #[command(flatten)]
    connect: Connect,

    /// Database of the configuration.
    #[arg(long, env = "STOREFENCE_DATABASE", value_name = "NAME")]
    database: Option<String>,

    /// Print the statements and run none; needs no superuser.
    #[arg(long, env = "STOREFENCE_DRY_RUN")]
    dry_run: bool,

    /// Connect as this superuser instead of the configured administrator.
    #[arg(long, env = "STOREFENCE_SUPERUSER", value_name = "ROLE")]
    superuser: Option<String>,

    /// File with the superuser's password.
    #[arg(long, env = "STOREFENCE_SUPERUSER_PASSWORD_FILE", value_name = "FILE", requires = "superuser")]
    superuser_password_file: Option<PathBuf>,
}

/// Prints each statement with what it closes, as a script for psql; runs them unless it is a dry run.
pub async fn harden(arguments: Harden) -> Result<ExitCode, CliError> {
    let Harden { connect, database, dry_run, superuser, superuser_password_file } = arguments;
    let config = connect.resolve().await?;
    let (name, database) = find(&config, database.as_deref())?;
    let mut options = database.options.clone();
    if let Some(role) = superuser {
        options = options.username(&role);
    }
    if let Some(file) = superuser_password_file {
        let password = std::fs::read_to_string(&file).map_err(|error| CliError::Invalid {
            flag: "--superuser-password-file",
            variable: "STOREFENCE_SUPERUSER_PASSWORD_FILE",
            problem: format!("cannot read {}: {error}", file.display()),
        })?;
        options = options.password(password.trim_end_matches(['\r', '\n']));
    }
    let place = || format!("database {name}");
    let mut connection = options.connect().await.with_context(place)?;
    let outcome =
        if dry_run { verify::harden_steps(&mut connection).await } else { verify::harden(&mut connection).await };
    let steps = outcome.with_context(place)?;
    let _ = connection.close().await;
    for HardenStep { sql, closes } in &steps {
        if let Some(closes) = closes {
            say!("-- closes: {closes}")?;
        }
        say!("{sql};")?;
    }
    let outcome = if dry_run { "nothing was run" } else { "done; set `hardening: strict` so that verify watches it" };
    say!("-- {name}: {} statements, {outcome}", steps.len())?;
    Ok(ExitCode::SUCCESS)
}
