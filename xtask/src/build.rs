//! Building with the one profile that everything else uses.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// The workspace's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// The cargo that runs us, so that a toolchain override holds for what we start.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    cargo
}

/// Where cargo puts the binaries of the dev profile.
pub fn bin_dir() -> PathBuf {
    // This very binary stands there.
    env::current_exe()
        .ok()
        .and_then(|exe| exe.parent().map(Path::to_owned))
        .unwrap_or_else(|| root().join("target/debug"))
}

/// Path of one of our binaries.
pub fn binary(name: &str) -> PathBuf {
    bin_dir().join(name)
}

/// Builds all binaries. The whole workspace at once: a package built alone would resolve to other features and compile
/// its dependencies again.
pub fn binaries() -> Result<()> {
    eprintln!("building (a few minutes the first time, a second afterwards)");
    let status = cargo().args(["build", "--workspace", "--bins"]).status().context("cannot start cargo")?;
    ensure!(status.success(), "the build failed");
    Ok(())
}

/// Writes the tables of options and metrics into docs/reference/.
pub fn reference() -> Result<()> {
    for package in ["storefence-gateway", "storefence-operator"] {
        let mut test = cargo();
        test.args(["test", "--package", package, "--test", "reference"]).env("STOREFENCE_WRITE_REFERENCE", "1");
        ensure!(test.status().context("cargo test")?.success(), "a table that is written by hand differs: see above");
    }
    Ok(())
}

/// Writes `crds/`.
pub fn crds() -> Result<()> {
    binaries()?;
    let output = Command::new(binary("storefence-operator")).arg("crds").output()?;
    ensure!(output.status.success(), "storefence-operator crds: {}", String::from_utf8_lossy(&output.stderr));
    // The chart carries a copy: Helm takes files from the chart's own directory only.
    for path in ["crds/retailtenant.yaml", "charts/storefence/crds/retailtenant.yaml"] {
        let path = root().join(path);
        fs::write(&path, &output.stdout).with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {}", path.display());
    }
    Ok(())
}
