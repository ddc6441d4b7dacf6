//! Finding server programs: an installed PostgreSQL with pgvector, or those of a Python wheel.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::{Error, fetch};

/// The oldest major version that Storefence supports.
const OLDEST: u32 = 16;

/// Where Debian and its relatives keep one directory per major version.
const DEBIAN: &str = "/usr/lib/postgresql";

/// The programs of one PostgreSQL installation that has pgvector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    pub(super) bin: PathBuf,
    pub(super) major: u32,
    pub(super) version: String,
}

impl Binaries {
    /// Finds server programs and says through `tracing` what is being fetched. Blocks.
    ///
    /// Without a version: the newest installed PostgreSQL of at least 16 that has pgvector, otherwise version 18
    /// of the wheel. Version 16 or 18 asked for explicitly always comes from the wheel, so that a test means the same everywhere;
    /// another version must be installed.
    pub fn find(version: Option<u32>) -> Result<Self, Error> {
        Self::find_with(version, &|message| tracing::info!("{message}"))
    }

    /// As [`Self::find`], with progress messages going to `progress`.
    pub fn find_with(version: Option<u32>, progress: &dyn Fn(&str)) -> Result<Self, Error> {
        match version {
            Some(major) if fetch::WHEEL_VERSIONS.contains(&major) => fetch::wheel(major, progress),
            Some(major) => Self::installed()
                .into_iter()
                .find(|found| found.major == major)
                .ok_or_else(|| Error::NoBinaries(format!("version {major} is not installed with pgvector"))),
            None => match Self::installed().into_iter().max_by_key(|found| found.major) {
                Some(found) => Ok(found),
                None => fetch::wheel(fetch::WHEEL_DEFAULT, progress),
            },
        }
    }

    /// Every installed PostgreSQL that is new enough and has pgvector, in the order in which they were found.
    pub fn installed() -> Vec<Self> {
        let on_path =
            std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
        let debian = std::fs::read_dir(DEBIAN).into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
        let mut found: Vec<Self> = Vec::new();
        for directory in on_path.into_iter().chain(debian) {
            if let Some(binaries) = Self::at(&directory.join("pg_config"))
                && !found.contains(&binaries)
            {
                found.push(binaries);
            }
        }
        found
    }

    /// What one `pg_config` describes, if that is a server of a supported version with pgvector.
    pub(super) fn at(pg_config: &Path) -> Option<Self> {
        if !pg_config.is_file() {
            return None;
        }
        let ask = |flag: &str| {
            let output = Command::new(pg_config).arg(flag).output().ok()?;
            output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let version = ask("--version")?.strip_prefix("PostgreSQL ")?.split(' ').next()?.to_owned();
        let major: u32 = version.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()?;
        let bin = PathBuf::from(ask("--bindir")?);
        let vector = PathBuf::from(ask("--sharedir")?).join("extension/vector.control");
        let complete = ["postgres", "initdb"].iter().all(|program| bin.join(program).is_file());
        (major >= OLDEST && complete && vector.is_file()).then_some(Self { bin, major, version })
    }

    /// The directory of the programs.
    pub fn bin_dir(&self) -> &Path {
        &self.bin
    }

    /// The major version, such as 18.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// The full version, such as `18.4`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The path of one program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }
}
