//! `cargo xtask doc` and `cargo xtask coverage`.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::build;

/// Which tests are measured.
#[derive(clap::Args)]
pub struct Coverage {
    /// Only this test binary (repeatable), such as `reconcile`; the unit tests of all crates without it
    #[arg(long, value_name = "NAME")]
    test: Vec<String>,
}

/// Private items are documented, so links to them lead somewhere.
const FLAGS: &str = "-D warnings -A rustdoc::private_intra_doc_links";

/// Builds the documentation with warnings denied.
pub fn doc() -> Result<()> {
    let mut cargo = build::cargo();
    cargo.args(["doc", "--workspace", "--no-deps", "--document-private-items"]).env("RUSTDOCFLAGS", FLAGS);
    ensure!(cargo.status().context("cannot start cargo doc")?.success(), "the documentation does not build: see above");
    Ok(())
}

/// Runs tests under cargo-llvm-cov, which is installed where it is missing. The binaries that a test starts are measured
/// too. Everything is compiled once more, with counters.
pub fn coverage(options: &Coverage) -> Result<()> {
    let installed = build::cargo().args(["llvm-cov", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !installed.is_ok_and(|status| status.success()) {
        eprintln!("installing cargo-llvm-cov and the toolchain's llvm-tools");
        succeed(build::cargo().args(["install", "--locked", "cargo-llvm-cov"]))?;
        succeed(Command::new("rustup").args(["component", "add", "llvm-tools"]).current_dir(build::root()))?;
    }
    let mut cargo = build::cargo();
    cargo.args(["llvm-cov", "--workspace", "--html", "--ignore-filename-regex", "/(tests|devstack|bench|xtask)/"]);
    if options.test.is_empty() {
        cargo.arg("--lib");
    }
    for name in &options.test {
        cargo.args(["--test", name]);
    }
    succeed(&mut cargo)?;
    println!("target/llvm-cov/html/index.html");
    Ok(())
}

fn succeed(command: &mut Command) -> Result<()> {
    let name =
        format!("{} {}", command.get_program().display(), command.get_args().next().unwrap_or_default().display());
    ensure!(command.status().with_context(|| format!("cannot start {name}"))?.success(), "{name} failed");
    Ok(())
}
