//! The local stack: hands the work to `storefence-devstack`.

use std::{ffi::OsString, os::unix::process::CommandExt, process::Command};

use anyhow::{Context, Result, bail};

use crate::build;

/// Arguments that `storefence-devstack` reads; `cargo xtask COMMAND --help` shows them.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Passed {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<OsString>,
}

impl Passed {
    /// Whether only the options are asked for, for which nothing is built that is there.
    pub fn asks_for_help(&self) -> bool {
        self.args.iter().any(|argument| argument == "--help" || argument == "-h")
    }
}

/// Builds the binaries and starts the stack.
pub fn up(passed: &Passed) -> Result<()> {
    if !passed.asks_for_help() {
        build::binaries()?;
    }
    delegate("up", passed)
}

/// Hands `kind …` over. `kind up` works with the checkout as it is now, so what it is handed to is built anew, as `up` does.
pub fn kind(passed: &Passed) -> Result<()> {
    let up = passed.args.iter().any(|argument| argument == "up");
    if !passed.asks_for_help() && (up || !build::binary("storefence-devstack").exists()) {
        build::binaries()?;
    }
    delegate("kind", passed)
}

/// Becomes `storefence-devstack COMMAND`: with no process in between, Ctrl-C reaches it alone and its exit code is ours.
pub fn delegate(command: &str, passed: &Passed) -> Result<()> {
    let devstack = build::binary("storefence-devstack");
    if !devstack.exists() {
        bail!(
            "nothing is built yet: run `cargo xtask up` first; its options and those of `{command}` can be shown then"
        );
    }
    let error = Command::new(&devstack).arg(command).args(&passed.args).exec();
    Err(error).with_context(|| format!("cannot start {}", devstack.display()))
}
