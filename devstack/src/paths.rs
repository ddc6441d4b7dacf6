//! Where devstack keeps what it fetched and what it runs on.

use std::{
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::{process::User, random};

/// The directory for everything that devstack makes: `STOREFENCE_DEVSTACK_DIR` if set, otherwise `devstack` in
/// cargo's target directory, otherwise (no source tree, as in a container) one below the temporary directory.
pub fn state_dir() -> PathBuf {
    if let Some(directory) = std::env::var_os("STOREFENCE_DEVSTACK_DIR") {
        return directory.into();
    }
    if let Some(target) = std::env::var_os("CARGO_TARGET_DIR") {
        return std::path::absolute(&target).unwrap_or_else(|_| target.into()).join("devstack");
    }
    match Path::new(env!("CARGO_MANIFEST_DIR")).parent() {
        Some(workspace) if workspace.join("Cargo.toml").exists() => workspace.join("target/devstack"),
        _ => std::env::temp_dir().join("storefence-devstack"),
    }
}

/// The user to run servers as that refuse to run as root: nobody for root, otherwise nobody else than ourselves.
pub fn unprivileged_user() -> io::Result<Option<User>> {
    // The owner of a new file is our effective user, and finding that out needs no unsafe call.
    if tempfile::tempfile()?.metadata()?.uid() != 0 {
        return Ok(None);
    }
    let passwd = std::fs::read_to_string("/etc/passwd")?;
    let find = |wanted: &str| {
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
            (name == wanted && uid != 0).then_some(User { uid, gid })
        })
    };
    find("postgres").or_else(|| find("nobody")).map(Some).ok_or_else(|| {
        io::Error::other("PostgreSQL does not run as root, and there is neither a user postgres nor nobody here")
    })
}

/// The state directory for things that `user` must reach: [`state_dir`] when every directory on the way can be
/// passed, otherwise (a clone below /root, say) a private directory below the temporary directory.
pub fn state_dir_for(user: Option<User>) -> io::Result<PathBuf> {
    let directory = state_dir();
    std::fs::create_dir_all(&directory)?;
    let directory = directory.canonicalize()?;
    match user {
        Some(user) if !passable(&directory, user)? => shared_temporary(&directory),
        _ => Ok(directory),
    }
}

/// Lets everybody read and pass a directory of ours, whatever the umask was when it was made.
pub(crate) fn make_passable(directory: &Path) -> io::Result<()> {
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755))
}

fn passable(directory: &Path, user: User) -> io::Result<bool> {
    for ancestor in directory.ancestors() {
        let meta = ancestor.metadata()?;
        let bit = if meta.uid() == user.uid {
            0o100
        } else if meta.gid() == user.gid {
            0o010
        } else {
            0o001
        };
        if meta.mode() & bit == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A directory below the temporary directory that belongs to us and is named after `origin`, so that two clones
/// do not share state. A directory of that name that somebody else made is refused, not used.
fn shared_temporary(origin: &Path) -> io::Result<PathBuf> {
    let name = random::digest(origin.as_os_str().as_encoded_bytes());
    let directory = std::env::temp_dir().join(format!("storefence-devstack-{name}"));
    match std::fs::DirBuilder::new().mode(0o755).create(&directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let meta = directory.symlink_metadata()?;
    if !meta.is_dir() || meta.uid() != 0 || meta.mode() & 0o022 != 0 {
        return Err(io::Error::other(format!("{} exists and is not ours", directory.display())));
    }
    make_passable(&directory)?;
    Ok(directory)
}
