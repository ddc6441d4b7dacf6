//! Data directories: initialised once per server version and user, then copied.
//!
//! initdb takes seconds, a copy a fraction of one, and a test run starts many clusters.

use std::{
    fs::File,
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
};

use std::os::unix::process::CommandExt;

use super::{Binaries, Context, Error};
use crate::{paths, process::User, random};

/// A data directory that was initialised and never started.
pub(super) struct Template {
    data: PathBuf,
    /// The superuser's password in every copy until the cluster sets its own.
    pub(super) password: String,
}

pub(super) const SUPERUSER: &str = "postgres";

/// The file, included by `postgresql.conf`, that a cluster's own settings go to.
pub(super) const SETTINGS_FILE: &str = "storefence.conf";

/// Access rules: everybody needs a password, on the socket too.
const HBA: &str = "local all all scram-sha-256\n\
                   host all all 127.0.0.1/32 scram-sha-256\n\
                   host all all ::1/128 scram-sha-256\n";

/// The template for these programs and this user, initialised if there is none. Blocks.
pub(super) fn template(binaries: &Binaries, user: Option<User>) -> Result<Template, Error> {
    let state = paths::state_dir_for(user).context("preparing the directory for PostgreSQL")?;
    let uid = user.map_or_else(|| String::from("own"), |user| user.uid.to_string());
    // The installation is part of the name: two builds of one version may differ in page layout.
    let install = binaries.bin.as_os_str().as_encoded_bytes();
    let name = format!("postgres-template-{}-{uid}-{}", binaries.version, random::digest(install));
    let directory = state.join(&name);
    if !directory.is_dir() {
        let lock = state.join(format!("{name}.lock"));
        let lock = File::create(&lock).context(format!("creating {}", lock.display()))?;
        lock.lock().context("waiting for another process that runs initdb")?;
        if !directory.is_dir() {
            initialise(binaries, user, &state, &directory)?;
        }
    }
    let password = std::fs::read_to_string(directory.join("password")).context("reading the template's password")?;
    Ok(Template { data: directory.join("data"), password })
}

impl Template {
    /// Copies the template to `target`, which must not exist.
    pub(super) fn copy_to(&self, target: &Path, user: Option<User>) -> Result<(), Error> {
        copy_tree(&self.data, target, user).context(format!("copying a data directory to {}", target.display()))
    }
}

fn initialise(binaries: &Binaries, user: Option<User>, state: &Path, directory: &Path) -> Result<(), Error> {
    tracing::info!(version = %binaries.version, "initialising a PostgreSQL data directory");
    let work = tempfile::Builder::new().prefix("initdb-").tempdir_in(state).context("creating a directory")?;
    paths::make_passable(work.path()).context("setting permissions")?;
    let password = random::password();
    let password_file = work.path().join("password");
    private_file(&password_file, &password, user).context("writing the password file")?;
    let data = work.path().join("data");
    private_directory(&data, user).context("creating the data directory")?;

    // Code point order and UTF-8 case rules on every version and machine. Before 17 only the C library has them,
    // and not every C library has that locale.
    let locales: &[&[&str]] = if binaries.major >= 17 {
        &[&["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]]
    } else {
        &[&["--locale=C.UTF-8"], &["--locale=C"]]
    };
    let mut outcome = Ok(());
    for locale in locales {
        let mut command = Command::new(binaries.program("initdb"));
        command
            .args(["--encoding=UTF8", "--auth=scram-sha-256", "--no-sync", "--username", SUPERUSER])
            .args(*locale)
            .arg("--pgdata")
            .arg(&data)
            .arg("--pwfile")
            .arg(&password_file)
            .env_remove("PGDATA")
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .current_dir("/");
        if let Some(user) = user {
            command.uid(user.uid).gid(user.gid);
        }
        let output = command.output().context("starting initdb")?;
        if output.status.success() {
            outcome = Ok(());
            break;
        }
        let output = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        outcome = Err(Error::Program { program: String::from("initdb"), output });
    }
    outcome?;
    std::fs::write(data.join("pg_hba.conf"), HBA).context("writing pg_hba.conf")?;
    let mut conf =
        File::options().append(true).open(data.join("postgresql.conf")).context("opening postgresql.conf")?;
    io::Write::write_all(&mut conf, format!("include_if_exists '{SETTINGS_FILE}'\n").as_bytes())
        .context("writing postgresql.conf")?;
    // The password goes to root alone from here on: copies are made by us, not by the server's user.
    private_file(&password_file, &password, None).context("writing the password file")?;
    // `keep` before the rename: the guard must not remove what is in place.
    std::fs::rename(work.keep(), directory).context("moving the template into place")
}

/// Writes a file that only `owner` can read.
pub(super) fn private_file(path: &Path, content: &str, owner: Option<User>) -> io::Result<()> {
    if path.exists() {
        std::fs::remove_file(path)?;
    }
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    io::Write::write_all(&mut file, content.as_bytes())?;
    give(path, owner)
}

/// Creates a directory that only `owner` can enter.
pub(super) fn private_directory(path: &Path, owner: Option<User>) -> io::Result<()> {
    std::fs::DirBuilder::new().mode(0o700).create(path)?;
    give(path, owner)
}

/// Makes `owner` the owner of a file or directory.
pub(super) fn give(path: &Path, owner: Option<User>) -> io::Result<()> {
    owner.map_or(Ok(()), |user| chown(path, Some(user.uid), Some(user.gid)))
}

/// `std::fs::copy` keeps permissions and shares blocks where the file system can.
fn copy_tree(source: &Path, target: &Path, owner: Option<User>) -> io::Result<()> {
    private_directory(target, owner)?;
    for entry in std::fs::read_dir(source)? {
        let entry = entry?;
        let to = target.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &to, owner)?;
        } else {
            std::fs::copy(entry.path(), &to)?;
            give(&to, owner)?;
        }
    }
    Ok(())
}
