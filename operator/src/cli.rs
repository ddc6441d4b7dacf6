//! The command line. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration. Three commands answer a question with
//! their code, and keep the third one for what went wrong: `verify` 0 intact, 1 deviations, 2 anything else; `validate`
//! 0 valid, 1 problems, 2 anything else; `plan` 0 nothing to do, 2 a difference, 1 anything else.

mod admin;
mod embed;
mod harden;
mod output;
mod plan;
mod reload;
mod run;
mod validate;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};
use storefence_runtime::ProbeOptions;

use crate::config::{Config, ConfigError};

/// Wrong usage or configuration.
const USAGE: u8 = 2;
/// Anything else.
const FAILED: u8 = 1;

/// Storefence's operator.
#[derive(Debug, Parser)]
#[command(name = "storefence-operator", version, about, arg_required_else_help = true, args_override_self = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// How log lines are written.
    #[arg(long, env = "STOREFENCE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, global = true)]
    log_format: LogFormat,
}

/// Shape of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch RetailTenants and keep databases and Key Vaults as they ask.
    Run(Box<run::Run>),
    /// Bring the configured databases to this version's schema.
    Migrate(admin::Migrate),
    /// Fill a database with a sample tenant's data.
    Seed(admin::Seed),
    /// Give products the vectors that semantic search needs, where they are missing or outdated.
    Embed(Box<embed::Embed>),
    /// Check the fence of a database and print each deviation.
    Verify(admin::Verify),
    /// Bring a database to the strict level: revoke risky built-in functions from PUBLIC, as superuser.
    Harden(harden::Harden),
    /// Print what would change for the RetailTenants of a file; exits with 2 when something would.
    Plan(Box<plan::PlanArgs>),
    /// Check the RetailTenants of a file without a cluster: schema, CEL rules and the operator's own rules; exits with 1
    /// when one would be refused.
    Validate(validate::Validate),
    /// Print the CustomResourceDefinition.
    Crds,
    /// Ask the operator that runs beside this whether it is ready, for health checks; exits with 1 when it is not.
    Probe(ProbeOptions),
}

/// Where the configuration is.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// Configuration file: databases and Key Vaults by name.
    #[arg(long, env = "STOREFENCE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    fn path(&self) -> Result<&PathBuf, CliError> {
        self.config.as_ref().ok_or(CliError::Missing {
            flag: "--config",
            variable: "STOREFENCE_CONFIG",
            what: "the configuration file with databases and Key Vaults",
        })
    }

    fn load(&self) -> Result<Config, CliError> {
        Ok(Config::load(self.path()?)?)
    }
}

/// Why a command ends with another code than 0.
#[derive(Debug, thiserror::Error)]
enum CliError {
    /// A value that has no default.
    #[error("{flag} is not given: {what} is expected there or in the environment variable {variable}")]
    Missing { flag: &'static str, variable: &'static str, what: &'static str },
    /// A value that cannot be used.
    #[error("{flag} (environment variable {variable}): {problem}")]
    Invalid { flag: &'static str, variable: &'static str, problem: String },
    /// The configuration file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The options for Azure.
    #[error(transparent)]
    Azure(#[from] storefence_runtime::OptionsError),
    /// Everything else.
    #[error("{0:#}")]
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for CliError {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl CliError {
    const fn code(&self) -> u8 {
        match self {
            Self::Missing { .. } | Self::Invalid { .. } | Self::Config(_) | Self::Azure(_) => USAGE,
            Self::Failed(_) => FAILED,
        }
    }
}

/// The command line's definition, for the check of its reference.
#[must_use]
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// The code of an error, where the command's other codes mean something else.
fn code_of(command: &str, code: u8) -> u8 {
    match (command, code) {
        ("plan", USAGE) => FAILED,
        ("verify" | "validate", FAILED) => USAGE,
        _ => code,
    }
}

/// Runs the command line and returns the process's exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    // Also where clap finds something wrong with it.
    let is_command = |word: &&str| <Cli as clap::CommandFactory>::command().find_subcommand(word).is_some();
    let word = arguments.iter().skip(1).filter_map(|word| word.to_str()).find(is_command);
    let word = word.unwrap_or_default().to_owned();
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; clap knows which stream and code belong to what.
            let _ = error.print();
            return ExitCode::from(code_of(&word, u8::try_from(error.exit_code()).unwrap_or(USAGE)));
        }
    };
    let Cli { command, log_format } = cli;
    logging(log_format);
    // An installed provider is no reason to stop: both would be aws-lc-rs.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match execute(command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("storefence-operator: {error}");
            ExitCode::from(code_of(&word, error.code()))
        }
    }
}

/// A client of the cluster that KUBECONFIG names, or of the one around this process.
async fn kubernetes() -> anyhow::Result<kube::Client> {
    let config = kube::Config::infer().await?;
    Ok(storefence_runtime::kubernetes_client(config, concat!("storefence-operator/", env!("CARGO_PKG_VERSION")))?)
}

fn execute(command: Command) -> Result<ExitCode, CliError> {
    let command = match command {
        Command::Crds => return admin::crds(),
        Command::Validate(arguments) => return validate::validate(arguments),
        command => command,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Failed(error.into()))?;
    runtime.block_on(async {
        match command {
            Command::Run(arguments) => run::run(*arguments).await,
            Command::Migrate(arguments) => admin::migrate(arguments).await,
            Command::Seed(arguments) => admin::seed(arguments).await,
            Command::Embed(arguments) => embed::embed(*arguments).await,
            Command::Verify(arguments) => admin::verify(arguments).await,
            Command::Harden(arguments) => harden::harden(arguments).await,
            Command::Plan(arguments) => plan::plan(*arguments).await,
            Command::Validate(arguments) => validate::validate(arguments),
            Command::Crds => admin::crds(),
            Command::Probe(options) => admin::probe(&options),
        }
    })
}

fn logging(format: LogFormat) {
    use tracing_subscriber::{EnvFilter, fmt, prelude::*};
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    // Standard output belongs to the commands' own results.
    let layer = fmt::layer().with_writer(std::io::stderr);
    let outcome = match format {
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
        LogFormat::Text => {
            registry.with(layer.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))).try_init()
        }
    };
    // Somebody else's subscriber is there already: theirs it is.
    let _ = outcome;
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_has_an_environment_variable() {
        for command in Cli::command().get_subcommands() {
            for argument in command.get_arguments().filter(|argument| argument.get_long().is_some()) {
                let name = argument.get_long().unwrap_or_default();
                if ["help", "version"].contains(&name) {
                    continue;
                }
                let variable = argument.get_env().and_then(|name| name.to_str()).unwrap_or_default();
                let prefixed = ["STOREFENCE_", "AZURE_"].iter().any(|prefix| variable.starts_with(prefix));
                assert!(prefixed, "{} --{name} has no STOREFENCE_ variable", command.get_name());
            }
        }
    }

    #[test]
    fn a_missing_value_is_named() {
        let error = ConfigArgs { config: None }.load().unwrap_err();
        let text = error.to_string();
        assert!(text.contains("--config") && text.contains("STOREFENCE_CONFIG"), "{text}");
        assert_eq!(error.code(), USAGE);
    }
}
