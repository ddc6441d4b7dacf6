//! The local stack: hands the work to `storefence-devstack`.

use std::{ffi::OsString, process::Command};

use anyhow::{Context, Result, bail};

use crate::build;

/// Arguments that `storefence-devstack` reads; `cargo xtask COMMAND --help` shows them.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Passed {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Builds the binaries and starts the stack.
pub fn up(passed: &Passed) -> Result<()> {
    build::binaries()?;
    delegate("up", passed)
}

/// Runs `storefence-devstack COMMAND` and passes its exit code on.
pub fn delegate(command: &str, passed: &Passed) -> Result<()> {
    let devstack = build::binary("storefence-devstack");
    if !devstack.exists() {
        bail!("nothing is built yet: run `cargo xtask up` first");
    }
    let mut child = Command::new(&devstack)
        .arg(command)
        .args(&passed.args)
        .current_dir(std::env::current_dir()?)
        .spawn()
        .with_context(|| format!("cannot start {}", devstack.display()))?;
    // Ctrl-C reaches the child as well, which then ends in order; we only wait for it.
    let status = child.wait()?;
    std::process::exit(status.code().unwrap_or(1));
}
