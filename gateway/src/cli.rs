//! The command line. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.

mod check;
mod options;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use storefence_runtime::{ProbeError, ProbeOptions};

use self::options::{ExplainArgs, RunArgs};
use crate::{
    audit::chain,
    config::ConfigError,
    doctor::command as doctor,
    explain,
    http::hosts::InvalidEntry,
    redis::RedisSetupError,
    run,
    telemetry::{self, LogFormat, otlp::TraceError},
};

/// Wrong usage or configuration.
const USAGE: u8 = 2;
/// Anything else.
const FAILED: u8 = 1;

/// Storefence's gateway: serves MCP tools over a tenant's data, to each caller the rows of their stores.
#[derive(Debug, Parser)]
#[command(name = "storefence-gateway", version, about, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,

    /// How log lines are written; what is logged is chosen with RUST_LOG
    #[arg(long, env = "STOREFENCE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, global = true)]
    log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve
    Run(Box<RunArgs>),
    /// Try what calls need, by the options of run: one line each for tenants, authority, Key Vault, database, fence,
    /// embeddings and Redis, with what to do; exit code 1 where something is not in order
    Doctor(Box<RunArgs>),
    /// Check the audit log
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Say why a token is refused, or which rules match it and which stores follow; the token itself is not shown
    Explain(Box<ExplainArgs>),
    /// Ask the gateway that runs beside this whether it is ready, for health checks; exit code 1 where it is not
    Probe(ProbeOptions),
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// Find the first line that was removed or edited; exit code 1 where there is one
    Verify {
        /// File with audit lines
        #[arg(value_name = "FILE")]
        file: PathBuf,

        /// Hash of the line before the file's first: the last one of the file before, where files are rotated
        #[arg(long, value_name = "HASH")]
        after: Option<String>,
    },
}

/// Why a command ends with another code than 0.
#[derive(Debug, thiserror::Error)]
enum CliError {
    /// A value that has no default.
    #[error("{flag} is not given: {what} is expected there or in the environment variable {variable}")]
    Missing { flag: &'static str, variable: &'static str, what: &'static str },
    /// A value that cannot be used.
    #[error("{flag} ({variable}): {problem}")]
    Invalid { flag: &'static str, variable: &'static str, problem: String },
    /// The configuration file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Host or Origin lists.
    #[error("--allowed-host (STOREFENCE_ALLOWED_HOST) or --allowed-origin (STOREFENCE_ALLOWED_ORIGIN): {0}")]
    Allowed(#[from] InvalidEntry),
    /// The URL of Redis.
    #[error(transparent)]
    Redis(#[from] RedisSetupError),
    /// The collector of traces.
    #[error(transparent)]
    Traces(#[from] TraceError),
    /// While running.
    #[error(transparent)]
    Run(#[from] run::RunError),
    /// While looking at what calls need.
    #[error(transparent)]
    Doctor(#[from] doctor::DoctorError),
    /// The audit log is not whole.
    #[error(transparent)]
    Audit(#[from] chain::Broken),
    /// While explaining.
    #[error(transparent)]
    Explain(#[from] explain::ExplainError),
    /// Not ready.
    #[error(transparent)]
    Probe(#[from] ProbeError),
}

impl CliError {
    const fn exit_code(&self) -> u8 {
        match self {
            Self::Run(error) if !error.is_configuration() => FAILED,
            Self::Doctor(error) if !error.is_configuration() => FAILED,
            Self::Explain(_) | Self::Audit(_) | Self::Probe(_) => FAILED,
            _ => USAGE,
        }
    }
}

/// The command line's definition, for the check of its reference.
#[must_use]
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Parses the command line, does what it says, and reports errors in one sentence.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = args.into_iter();
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // --help and --version are "errors" that go to standard output with code 0.
            let code = u8::try_from(error.exit_code()).unwrap_or(USAGE);
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    // `run` starts it with the export of traces, which needs its runtime.
    if !matches!(cli.command, Command::Run(_)) {
        telemetry::init(cli.log_format);
    }
    let done = match cli.command {
        Command::Run(args) => {
            check::settings(*args, cli.log_format).and_then(|settings| Ok(run::run(settings)?)).map(|()| true)
        }
        Command::Doctor(args) => check::settings(*args, cli.log_format).and_then(|settings| Ok(doctor::run(settings)?)),
        Command::Audit(AuditCommand::Verify { file, after }) => verify_audit(&file, after.as_deref()).map(|()| true),
        Command::Explain(args) => check::explain_settings(*args).and_then(|settings| Ok(explain::explain(&settings)?)),
        Command::Probe(options) => probe(&options).map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        Err(error) => {
            eprintln!("storefence-gateway: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn probe(options: &ProbeOptions) -> Result<(), CliError> {
    println!("{}", options.run()?);
    Ok(())
}

fn verify_audit(file: &Path, after: Option<&str>) -> Result<(), CliError> {
    let chain::Whole { lines, last } = chain::verify(file, after)?;
    println!("{lines} lines, none removed or edited before the last; the hash of the last is {last}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
