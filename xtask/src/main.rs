//! Developer commands: `cargo xtask help` lists them.
//!
//! This crate stays small: whatever needs the product's libraries is done by the `storefence-devstack` binary, which
//! `up` builds with its progress in sight.

mod bench;
mod build;
mod conformance;
mod quality;
mod runner;
mod stack;
mod test;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Developer commands of Storefence", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build, start and seed everything, apply the examples, wait until they are Ready, and say how to use it
    Up(stack::Passed),
    /// Tell whether the stack runs, and where
    Status(stack::Passed),
    /// Stop a stack that was started with `up --detach`
    Down(stack::Passed),
    /// Print a bearer token for a sample principal
    Token(stack::Passed),
    /// Ask the gateway a question in SQL, as a sample principal
    Ask(stack::Passed),
    /// The product on a cluster of its own: `kind up`, `kind status`, `kind down`. Needs docker, kind, kubectl and helm
    Kind(stack::Passed),
    /// Build everything once and run every test; ends with a line `N passed, N failed`
    Test(test::Options),
    /// Run the official MCP conformance suite, for both revisions of the protocol
    Conformance(conformance::Options),
    /// Build for release and measure; `cargo xtask bench --help` shows the options
    Bench(stack::Passed),
    /// Build the documentation of every crate, private items included; a broken link fails
    Doc,
    /// Measure which lines the tests run, with cargo-llvm-cov; the report is HTML
    Coverage(quality::Coverage),
    /// Write the CustomResourceDefinitions to crds/
    Crds,
    /// Write the tables of options and metrics to docs/reference/
    Reference,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Up(passed) => stack::up(&passed),
        Command::Status(passed) => stack::delegate("status", &passed),
        Command::Down(passed) => stack::delegate("down", &passed),
        Command::Token(passed) => stack::delegate("token", &passed),
        Command::Ask(passed) => stack::delegate("ask", &passed),
        Command::Kind(passed) => stack::kind(&passed),
        Command::Test(options) => test::run(&options),
        Command::Conformance(options) => conformance::run(&options),
        Command::Bench(passed) => bench::run(&passed),
        Command::Doc => quality::doc(),
        Command::Coverage(options) => quality::coverage(&options),
        Command::Crds => build::crds(),
        Command::Reference => build::reference(),
    }
}
