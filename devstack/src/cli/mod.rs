//! `storefence-devstack`: the commands behind `cargo xtask up`, `status`, `down`, `token`, `ask` and `kind`, and the
//! stand-ins alone for containers.

mod ask;
mod kind;
mod output;
mod serve;
mod status;
mod token;
mod up;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::stack::StackFacts;

/// The local stack: stand-ins for Kubernetes, Entra ID and Key Vault, a PostgreSQL, the operator and the gateway.
#[derive(Parser)]
#[command(name = "storefence-devstack", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start and seed everything, apply the examples, wait until they are Ready, and say how to use it
    Up(up::Options),
    /// Tell whether the stack runs, and where
    Status(status::StatusOptions),
    /// Stop a stack that was started with `up --detach`
    Down(status::DownOptions),
    /// Print a bearer token for a sample principal, and nothing else
    Token(token::Options),
    /// Ask the gateway a question in SQL, as a sample principal
    Ask(ask::Options),
    /// The product on a cluster of its own, made by kind
    Kind(kind::Options),
    /// Serve the stand-ins alone, for containers: see compose.yaml
    Serve(serve::Options),
    /// Tell by the exit code whether `serve` is ready, and wait for others
    Ready(serve::ReadyOptions),
}

/// Which stack a command speaks to.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct StackFile {
    /// The stack's facts, as `up` wrote them
    #[arg(long = "stack", env = "STOREFENCE_STACK", value_name = "FILE", default_value_os_t = StackFacts::default_path())]
    path: PathBuf,
}

impl StackFile {
    fn read(&self) -> Result<StackFacts> {
        Ok(StackFacts::read(&self.path)?)
    }
}

/// Runs the command that the arguments name.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let outcome = runtime.block_on(async {
        match cli.command {
            Command::Up(options) => up::run(options).await,
            Command::Status(options) => status::status(&options).await,
            Command::Down(options) => status::down(&options).await,
            Command::Token(options) => token::run(&options).await,
            Command::Ask(options) => ask::run(&options).await,
            Command::Kind(options) => kind::run(options).await,
            Command::Serve(options) => serve::run(options).await,
            Command::Ready(options) => serve::ready(&options).await,
        }
    });
    outcome.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}
