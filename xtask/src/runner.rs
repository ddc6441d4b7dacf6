//! Test binaries two at a time. Many a suite waits for a timeout, a restart or a rotation, and `cargo test`, which starts
//! one binary after the other, waits with it.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::build;

/// More would share two cores among four: a test binary runs its own tests on every core.
const AT_ONCE: usize = 2;
/// Begun first, the longest first: what is begun last is waited for by nobody.
const LONG: [&str; 6] = ["attacks", "isolation_18", "isolation_16", "fence_attacks", "clients", "limits"];
/// They measure how soon something happens. What else runs would be measured as well.
const ALONE: [&str; 2] = ["wire", "high_availability"];

/// One process that runs tests.
pub struct Job {
    /// What it is called in the output.
    pub name: String,
    command: Command,
}

/// How a job ended.
pub struct Ended {
    /// Of the job.
    pub name: String,
    /// Everything it wrote.
    pub output: String,
    /// Of the process.
    pub status: ExitStatus,
    /// From start to end.
    pub took: Duration,
}

/// Builds the test binaries of `packages`, all without any. `None` when they do not compile; cargo said why.
pub fn jobs(packages: &[String], filter: Option<&str>) -> Result<Option<Vec<Job>>> {
    let mut cargo = cargo_test(packages);
    cargo.args(["--no-run", "--message-format=json-render-diagnostics"]);
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("cannot start cargo test")?;
    let (mut jobs, mut library) = (Vec::new(), false);
    for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
        let Some(test) = Executable::read(&line?) else { continue };
        library |= test.library;
        jobs.push(test.job(filter)?);
    }
    if !child.wait()?.success() {
        return Ok(None);
    }
    ensure!(!jobs.is_empty(), "cargo test --no-run names no test binary");
    if library {
        let mut command = cargo_test(packages);
        command.arg("--doc").args(filter);
        jobs.push(Job { name: "documentation".into(), command });
    }
    // A stable sort: the rest stays as cargo has it.
    jobs.sort_by_key(|job| LONG.iter().position(|long| *long == job.name).unwrap_or(LONG.len()));
    Ok(Some(jobs))
}

fn cargo_test(packages: &[String]) -> Command {
    let mut cargo = build::cargo();
    cargo.args(["test", "--no-fail-fast"]);
    if packages.is_empty() {
        cargo.arg("--workspace");
    }
    for package in packages {
        cargo.args(["--package", package]);
    }
    cargo
}

/// Runs the jobs and hands each to `ended` when it has ended.
pub fn run(jobs: Vec<Job>, mut ended: impl FnMut(Ended) -> Result<()>) -> Result<()> {
    // Files and no pipes: a process that a test leaves behind would hold a pipe open.
    let outputs = build::bin_dir().with_file_name("tmp").join("tests");
    fs::create_dir_all(&outputs).with_context(|| format!("cannot make {}", outputs.display()))?;
    let (alone, together): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|job| ALONE.contains(&job.name.as_str()));
    for (jobs, at_once) in [(together, AT_ONCE), (alone, 1)] {
        let queue = Mutex::new(jobs.into_iter().collect::<VecDeque<_>>());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        thread::scope(|scope| {
            let (send, receive) = mpsc::channel();
            for worker in 0..at_once {
                let (send, next, output) = (send.clone(), &next, outputs.join(format!("{worker}.txt")));
                scope.spawn(move || {
                    while let Some(job) = next() {
                        if send.send(job.run(&output)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(send);
            receive.iter().try_for_each(|end| ended(end?))
        })?;
    }
    Ok(())
}

impl Job {
    fn run(mut self, output: &Path) -> Result<Ended> {
        let file = File::create(output).with_context(|| format!("cannot write {}", output.display()))?;
        eprintln!("     Running {}", self.name);
        let begun = Instant::now();
        let status = self
            .command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .status()
            .with_context(|| format!("cannot start {}", self.name))?;
        let text = fs::read(output).with_context(|| format!("cannot read {}", output.display()))?;
        let output = String::from_utf8_lossy(&text).into_owned();
        Ok(Ended { name: self.name, output, status, took: begun.elapsed() })
    }
}

/// A test binary, as cargo announces it.
#[derive(Debug, PartialEq)]
struct Executable {
    path: PathBuf,
    manifest: PathBuf,
    library: bool,
}

impl Executable {
    /// Reads one line of cargo's JSON. No parser: xtask is built before everything else and has few dependencies.
    fn read(line: &str) -> Option<Self> {
        let (target, profile) = line.split_once(r#""profile":{"#)?;
        let tests = profile.split_once('}')?.0.contains(r#""test":true"#);
        let path = text(profile, "executable").filter(|_| tests)?;
        let manifest = text(target, "manifest_path")?.into();
        Some(Self { path: path.into(), manifest, library: target.contains(r#""kind":["lib"]"#) })
    }

    /// In the directory and with the variables that `cargo test` gives it.
    fn job(&self, filter: Option<&str>) -> Result<Job> {
        let directory = self.manifest.parent().context("a manifest without a directory")?;
        let file = self.path.file_name().context("a binary without a name")?.to_string_lossy();
        // Without the digest that cargo appends.
        let name = file.rsplit_once('-').map_or(&*file, |(name, _)| name).to_owned();
        let mut command = Command::new(&self.path);
        command.args(filter).current_dir(directory);
        // Ours are xtask's.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CARGO_PKG_")) {
            command.env_remove(name);
        }
        command.env("CARGO_MANIFEST_DIR", directory).env("CARGO_MANIFEST_PATH", &self.manifest);
        Ok(Job { name, command })
    }
}

/// The text of a field. A path with a quote or a backslash in it is not found, and then its tests would be missing: none
/// of ours has one.
fn text<'a>(json: &'a str, field: &str) -> Option<&'a str> {
    let (_, rest) = json.split_once(&format!(r#""{field}":""#))?;
    rest.split_once('"').map(|(text, _)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(name: &str, script: &str) -> Job {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Job { name: name.into(), command }
    }

    #[test]
    fn binaries_with_tests_are_told_from_others() {
        let line = |kind: &str, test: bool, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"path+file:///a/b#0.1.0","manifest_path":"/a/b/Cargo.toml","target":{{"kind":["{kind}"],"crate_types":["bin"],"name":"n","src_path":"/a/b/tests/n.rs","edition":"2024","doc":false,"doctest":false,"test":true}},"profile":{{"opt_level":"0","debuginfo":1,"debug_assertions":true,"overflow_checks":true,"test":{test}}},"features":[],"filenames":["/t/n-1"],"executable":{executable},"fresh":true}}"#
            )
        };
        let found = |library| Some(Executable { path: "/t/n-1".into(), manifest: "/a/b/Cargo.toml".into(), library });
        assert_eq!(Executable::read(&line("test", true, r#""/t/n-1""#)), found(false));
        assert_eq!(Executable::read(&line("lib", true, r#""/t/n-1""#)), found(true));
        assert_eq!(Executable::read(&line("bin", false, r#""/t/n-1""#)), None);
        assert_eq!(Executable::read(&line("lib", false, "null")), None);
        assert_eq!(Executable::read(r#"{"reason":"build-finished","success":true}"#), None);
    }

    #[test]
    fn cargo_still_announces_its_binaries_so() {
        let packages = ["xtask".to_owned()];
        let jobs = jobs(&packages, None).unwrap().expect("it compiles");
        assert_eq!(jobs.iter().map(|job| job.name.as_str()).collect::<Vec<_>>(), ["xtask"]);
    }

    #[test]
    fn two_run_at_once_and_each_is_told_whole() {
        let meet = std::env::temp_dir().join(format!("runner-{}", std::process::id()));
        fs::create_dir_all(&meet).unwrap();
        // Each waits for the other.
        let script = |own: &str, other: &str| {
            let at = meet.display();
            format!(
                "touch {at}/{own}; for i in $(seq 600); do [ -e {at}/{other} ] && echo {own} met && echo {own} aside >&2 && exit 3; sleep 0.1; done"
            )
        };
        let mut seen = Vec::new();
        run(vec![sh("one", &script("one", "two")), sh("two", &script("two", "one"))], |end| {
            seen.push((end.name, end.output, end.status.code()));
            Ok(())
        })
        .unwrap();
        fs::remove_dir_all(&meet).unwrap();
        seen.sort();
        let due = |name: &str| (name.to_owned(), format!("{name} met\n{name} aside\n"), Some(3));
        assert_eq!(seen, [due("one"), due("two")]);
    }
}
