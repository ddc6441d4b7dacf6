//! Programs from Debian's packages, unpacked beside the project with the libraries that the machine lacks.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::{installed, kept, or_skipped, patiently, run};

/// A program that can be started.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    root: Option<PathBuf>,
}

impl Program {
    /// Where the program stands.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where its package was unpacked; none where the machine has it installed.
    pub fn root(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    /// A command that starts it with the libraries that came with it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        if let Some(libraries) = self.library_path() {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command
    }

    /// `LD_LIBRARY_PATH` for the program and what it starts; none where the machine has it installed.
    pub fn library_path(&self) -> Option<OsString> {
        let root = self.root.as_ref()?;
        let mut directories = Vec::new();
        for base in ["usr/lib", "lib"] {
            let base = root.join(base);
            let triples = fs::read_dir(&base).into_iter().flatten().flatten().map(|entry| entry.path());
            directories.extend(triples.filter(|path| path.is_dir() && path.to_string_lossy().ends_with("-linux-gnu")));
            directories.push(base);
        }
        std::env::join_paths(directories).ok()
    }
}

/// `program` (a name, or a path below `/`) of Debian's `package`: the machine's own where it is installed, otherwise
/// fetched with its dependencies. None, with a line on stdout, where it cannot be had.
pub fn program(package: &str, program: &str) -> Result<Option<Program>> {
    let own = if program.contains('/') { Some(Path::new("/").join(program)) } else { installed(program) };
    if let Some(path) = own.filter(|path| path.is_file()) {
        return Ok(Some(Program { path, root: None }));
    }
    or_skipped(&format!("Debian's {package}"), fetched(package, program))
}

fn fetched(package: &str, program: &str) -> Result<Program> {
    let root = kept("debian", package, |work| {
        println!("fetching Debian's {package} with what it needs");
        let system = Archive { options: Vec::new(), _lists: None };
        // The lists of the machine may be absent or name versions that are gone: then lists of our own.
        match system.unpack(package, work) {
            Err(error) => {
                eprintln!("the machine's package lists do not do ({error:#}): fetching lists of our own");
                Archive::with_own_lists(work)?.unpack(package, work)
            }
            done => done,
        }
    })?;
    let candidates = ["", "usr/bin", "usr/sbin"].map(|directory| root.join(directory).join(program));
    let path = candidates.into_iter().find(|path| path.is_file());
    let path = path.with_context(|| format!("Debian's {package} holds no {program}"))?;
    Ok(Program { path, root: Some(root) })
}

/// Debian's archive as apt sees it, asked without a right of root and without a lock of the system's.
struct Archive {
    options: Vec<OsString>,
    _lists: Option<TempDir>,
}

impl Archive {
    fn with_own_lists(work: &Path) -> Result<Self> {
        let lists = tempfile::Builder::new().prefix("lists-").tempdir_in(work.parent().context("a directory")?)?;
        fs::create_dir_all(lists.path().join("partial"))?;
        let mut option = OsString::from("Dir::State::lists=");
        option.push(lists.path());
        let archive = Self { options: vec!["-o".into(), option], _lists: Some(lists) };
        patiently(|| run(archive.apt().arg("update")))?;
        Ok(archive)
    }

    fn apt(&self) -> Command {
        let mut apt = Command::new("apt-get");
        apt.args(["--quiet", "-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User="]).args(&self.options);
        // apt's caches of the system cannot be written by an ordinary user, and need not be.
        apt.args(["-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="]);
        apt.env("LC_ALL", "C");
        apt
    }

    fn unpack(&self, package: &str, root: &Path) -> Result<()> {
        let plan = run(self.apt().args(["install", "--print-uris", "--yes", "--no-install-recommends", package]))?;
        // 'http://…/name_version_arch.deb' name_version_arch.deb size checksum
        let names: Vec<&str> = plan
            .lines()
            .filter(|line| line.starts_with('\''))
            .filter_map(|line| line.split_whitespace().nth(1)?.split('_').next())
            .collect();
        ensure!(names.contains(&package), "apt-get would not fetch {package}");
        let downloads = tempfile::Builder::new().prefix("deb-").tempdir_in(root.parent().context("a directory")?)?;
        patiently(|| run(self.apt().arg("download").args(&names).current_dir(downloads.path())))?;
        for archive in fs::read_dir(downloads.path())? {
            run(Command::new("dpkg-deb").arg("--extract").arg(archive?.path()).arg(root))?;
        }
        Ok(())
    }
}
