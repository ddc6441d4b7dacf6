//! Programs from Debian's packages, unpacked beside the project with the libraries that the machine lacks.

use std::{
    collections::BTreeSet,
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
    program_that(package, program, |_| true)
}

/// The same; the machine's own only where it fits what else the machine has.
pub fn program_that(package: &str, program: &str, fits: impl Fn(&Path) -> bool) -> Result<Option<Program>> {
    let own = if program.contains('/') { Some(Path::new("/").join(program)) } else { installed(program) };
    if let Some(path) = own.filter(|path| path.is_file() && fits(path)) {
        return Ok(Some(Program { path, root: None }));
    }
    or_skipped(&format!("Debian's {package}"), fetched(package, program))
}

fn fetched(package: &str, program: &str) -> Result<Program> {
    // "whole": what was fetched formerly lacks what the machine had at that time.
    let root = kept("debian", &format!("{package}-whole"), |work| {
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
        let planned = plan
            .lines()
            .filter(|line| line.starts_with('\''))
            .filter_map(|line| Some(line.split_whitespace().nth(1)?.split('_').next()?.to_owned()));
        let mut names: BTreeSet<String> = planned.collect();
        ensure!(names.contains(package), "apt-get would not fetch {package}");
        names.extend(self.of_one_version(package)?);
        let downloads = tempfile::Builder::new().prefix("deb-").tempdir_in(root.parent().context("a directory")?)?;
        patiently(|| run(self.apt().arg("download").args(&names).current_dir(downloads.path())))?;
        for archive in fs::read_dir(downloads.path())? {
            run(Command::new("dpkg-deb").arg("--extract").arg(archive?.path()).arg(root))?;
        }
        Ok(())
    }

    /// What a package needs in its very own version: parts of one program, such as a browser and its driver. They are
    /// fetched though the machine has them, for it may have them in another version, and `package` looks for them beside
    /// itself.
    fn of_one_version(&self, package: &str) -> Result<BTreeSet<String>> {
        let (mut found, mut open) = (BTreeSet::new(), vec![package.to_owned()]);
        while let Some(name) = open.pop() {
            let mut show = Command::new("apt-cache");
            show.args(&self.options).args(["show", "--no-all-versions", &name]).env("LC_ALL", "C");
            for needed in same_version(&run(&mut show)?) {
                if found.insert(needed.clone()) {
                    open.push(needed);
                }
            }
        }
        Ok(found)
    }
}

/// The names in `Depends` and `Pre-Depends` that ask for exactly the version of the package itself.
fn same_version(record: &str) -> Vec<String> {
    let fields = |names: &'static [&'static str]| {
        record
            .lines()
            .filter_map(|line| line.split_once(": "))
            .filter(|(name, _)| names.contains(name))
            .map(|(_, text)| text)
    };
    let Some(version) = fields(&["Version"]).next() else { return Vec::new() };
    let exactly = format!("(= {version})");
    fields(&["Depends", "Pre-Depends"])
        .flat_map(|text| text.split(','))
        .filter(|needed| needed.contains(&exactly) && !needed.contains('|'))
        .filter_map(|needed| Some(needed.split_whitespace().next()?.split(':').next()?.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_one_program_have_one_version() {
        let record = "Package: driver\nVersion: 1:2-3\nDepends: libc6 (>= 2.36), browser (= 1:2-3), a:any (= 1:2-3), \
                      x (= 1:2-3) | y, common (= 2)\nDescription: (= 1:2-3)\n";
        assert_eq!(same_version(record), ["browser", "a"]);
    }

    /// A machine that has a part of a program, here the one that holds its file, still gets all of it.
    #[test]
    fn what_is_fetched_is_whole_where_the_machine_has_a_part() -> Result<()> {
        let work = tempfile::tempdir()?;
        let attempt = || -> Result<()> {
            let lists = tempfile::tempdir_in(work.path())?;
            let own = Archive::with_own_lists(lists.path())?;
            let mut show = Command::new("apt-cache");
            let record = run(show.args(&own.options).args(["show", "--no-all-versions", "redis-tools"]))?;
            let version = record.lines().find_map(|line| line.strip_prefix("Version: ")).context("a version")?;
            let mut status = fs::read_to_string("/var/lib/dpkg/status").unwrap_or_default();
            status += &format!(
                "\nPackage: redis-tools\nStatus: install ok installed\nArchitecture: {}\nVersion: {version}\n\
                 Maintainer: none\nDescription: none\n",
                run(Command::new("dpkg").arg("--print-architecture"))?.trim()
            );
            let file = work.path().join("status");
            fs::write(&file, status)?;
            let mut archive = own;
            archive.options.extend(["-o".into(), format!("Dir::State::status={}", file.display()).into()]);
            let root = work.path().join("root");
            fs::create_dir(&root)?;
            archive.unpack("redis-server", &root)
        };
        if or_skipped("Debian's redis-server", attempt())?.is_some() {
            let server = work.path().join("root/usr/bin/redis-server");
            ensure!(server.is_file(), "redis-server leads nowhere");
        }
        Ok(())
    }
}
