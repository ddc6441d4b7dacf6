//! Programs and packages from outside that some tests drive: real servers from Debian, clients from npm and PyPI.
//!
//! They are fetched on first use into devstack's state directory and leave the machine as it was: no package is
//! installed, nothing is written elsewhere, and no right of root is needed. A machine where one cannot be had skips the
//! tests that need it and says which and why; with `STOREFENCE_TEST_REQUIRE_ALL=1`, as our pipelines set it, that is a
//! failure.

pub mod debian;
pub mod helm;
pub mod node;
pub mod python;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use storefence_devstack::paths;

/// The directory of `kind` and `name`, filled by `fill` on first use. Test binaries that ask at the same time wait for
/// one another; one that dies while it fills leaves nothing behind that looks whole.
fn kept(kind: &str, name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    // Below a directory that every user can pass: some of these programs do not run as root.
    let state = paths::state_dir_for(paths::unprivileged_user()?)?.join(kind);
    fs::create_dir_all(&state)?;
    let kept = state.join(name);
    if !kept.is_dir() {
        let lock = File::create(state.join(format!("{name}.lock")))?;
        lock.lock().with_context(|| format!("waiting for another process that fetches {name}"))?;
        if !kept.is_dir() {
            let work = tempfile::Builder::new().prefix("fetch-").tempdir_in(&state)?;
            fill(work.path())?;
            passable(work.path())?;
            fs::rename(work.keep(), &kept)?;
        }
    }
    Ok(kept)
}

fn passable(directory: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?)
}

/// A name for a list of things that changes when the list does.
fn digest(parts: &[String]) -> String {
    Sha256::digest(parts.join("\n")).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// What was asked for, or nothing and a line that says why, unless everything is required here.
pub fn or_skipped<T>(what: &str, had: Result<T>) -> Result<Option<T>> {
    match had {
        Ok(had) => Ok(Some(had)),
        Err(error) if std::env::var_os("STOREFENCE_TEST_REQUIRE_ALL").is_some_and(|value| value == "1") => {
            Err(error.context(format!("{what} cannot be had here, and STOREFENCE_TEST_REQUIRE_ALL is set")))
        }
        Err(error) => {
            println!("skipped: {what} cannot be had here: {error:#}");
            Ok(None)
        }
    }
}

/// Runs a program to its end and answers what it wrote; an error carries the end of what it wrote.
fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {name}"))?;
    if !output.status.success() {
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        bail!("{name} failed: {}", lines[lines.len().saturating_sub(4)..].join("; "));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Registries have bad moments: three attempts, a little apart.
fn patiently<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    for pause in [2, 10] {
        match attempt() {
            Err(error) => eprintln!("trying again: {error:#}"),
            done => return done,
        }
        std::thread::sleep(Duration::from_secs(pause));
    }
    attempt()
}

/// A program that the machine has to bring itself. None, with a line on stdout, where it does not.
pub fn own_program(name: &str) -> Result<Option<PathBuf>> {
    or_skipped(name, installed(name).with_context(|| format!("{name} is not installed")))
}

/// Where a program stands on the PATH or among the system's own.
fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/bin", "/usr/sbin", "/usr/local/bin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

/// The major version that a program prints, such as 20 for `v20.20.2`.
pub fn major(program: &Path) -> Result<u32> {
    let text = run(Command::new(program).arg("--version"))?;
    let digits: String = text.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    ensure!(!digits.is_empty(), "{} tells no version: {text}", program.display());
    Ok(digits.parse()?)
}
