//! Packages from PyPI, in a virtual environment of their own.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::{digest, installed, kept, or_skipped, patiently, run};

#[derive(Clone, Debug)]
pub struct Python {
    directory: PathBuf,
}

impl Python {
    /// Its `python3` with `script`; for a program that a package brings, `-m` and the module's name.
    pub fn command(&self, script: impl AsRef<Path>) -> Command {
        let mut command = Command::new(self.directory.join("bin/python3"));
        command.arg(script.as_ref()).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }
}

/// An environment with `requirements` (`name==version`). None, with a line on stdout, where there is no Python 3.10 or
/// no registry.
pub fn environment(requirements: &[&str]) -> Result<Option<Python>> {
    or_skipped("a Python environment", fetched(requirements))
}

fn fetched(requirements: &[&str]) -> Result<Python> {
    let python = installed("python3").context("python3 is not installed")?;
    let version = run(Command::new(&python).args(["-c", "import sys; print(sys.version_info >= (3, 10))"]))?;
    ensure!(version.trim() == "True", "{} is older than Python 3.10", python.display());
    let wanted: Vec<String> = requirements.iter().map(|&requirement| requirement.to_owned()).collect();
    // The environment moves once it is whole: its interpreter does not mind, only the programs in `bin` name the old path.
    let packages = kept("pypi", &digest(&wanted), |work| {
        println!("fetching {} from PyPI", wanted.join(" "));
        let venv = work.join("venv");
        run(Command::new(&python).args(["-m", "venv"]).arg(&venv))?;
        let pip = venv.join("bin/python3");
        let options = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"];
        patiently(|| run(Command::new(&pip).args(options).args(&wanted)))?;
        Ok(())
    })?;
    Ok(Python { directory: packages.join("venv") })
}
