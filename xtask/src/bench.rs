//! `cargo xtask bench`: builds for release, then becomes the bench.

use std::{os::unix::process::CommandExt, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{build, stack::Passed};

const PACKAGES: [&str; 3] = ["storefence-gateway", "storefence-operator", "storefence-bench"];

/// Builds what is measured and what measures, and becomes the latter.
pub fn run(passed: &Passed) -> Result<()> {
    let bench = build::bin_dir().with_file_name("release").join("storefence-bench");
    if passed.asks_for_help() && bench.exists() {
        return Err(Command::new(&bench).args(&passed.args).exec()).context("the bench");
    }
    eprintln!("building for release (ten minutes the first time)");
    let mut cargo = build::cargo();
    cargo.args(["build", "--release", "--bins"]);
    for package in PACKAGES {
        cargo.args(["--package", package]);
    }
    let status = cargo.status().context("cannot start cargo")?;
    ensure!(status.success(), "the build failed");
    let error = Command::new(&bench).args(&passed.args).exec();
    Err(error).with_context(|| format!("cannot start {}", bench.display()))
}
