//! `stack.json`: what a running stack reports about itself. Other programs rely on the keys.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::paths;

/// The facts of a running stack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StackFacts {
    /// The gateway, without `/mcp`.
    pub gateway_url: String,
    /// The gateway's metrics and health.
    pub admin_url: String,
    /// The operator's metrics and health.
    pub operator_admin_url: String,
    /// Path of a kubeconfig with every right.
    pub kubeconfig: PathBuf,
    /// The Entra ID authority; the issuer of a v2.0 token is this, `/{tid}/v2.0`.
    pub issuer_url: String,
    /// The database as administrator.
    pub database_url: String,
    pub key_vault_url: String,
    /// The embeddings stand-in, unless it was left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embeddings_url: Option<String>,
    /// The audience of tokens for the gateway.
    pub audience: String,
    /// Path of the certificate authority that the stand-ins' certificates are from.
    pub ca_file: PathBuf,
    /// Process IDs by name.
    #[serde(default)]
    pub pids: BTreeMap<String, u32>,
    /// Name of the kind cluster that everything runs on; there are no processes here then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
}

/// No stack to speak to.
#[derive(Debug, thiserror::Error)]
pub enum NoStack {
    /// There is no `stack.json`.
    #[error("no stack is running: start one with `cargo xtask up`")]
    NotRunning,
    /// The file is there but its processes are not.
    #[error("the stack of {} has ended: start it again with `cargo xtask up`", .0.display())]
    Ended(PathBuf),
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
}

impl StackFacts {
    /// The file that `up` writes if no other is named.
    pub fn default_path() -> PathBuf {
        paths::state_dir().join("stack.json")
    }

    /// Reads the facts of a stack that runs.
    pub fn read(path: &Path) -> Result<Self, NoStack> {
        let unreadable = |source| NoStack::Unreadable { path: path.to_owned(), source };
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(NoStack::NotRunning),
            Err(error) => return Err(unreadable(error)),
        };
        let facts: Self = serde_json::from_slice(&text).map_err(|error| unreadable(error.into()))?;
        if facts.cluster.is_some() || facts.pids.get("devstack").is_some_and(|pid| is_alive(*pid)) {
            Ok(facts)
        } else {
            Err(NoStack::Ended(path.to_owned()))
        }
    }

    /// Writes the file whole or not at all, readable by its owner: it holds the administrator's password.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let temporary = path.with_extension("json.new");
        write_private(&temporary, &serde_json::to_vec_pretty(self)?)?;
        fs::rename(&temporary, path)
    }
}

/// Whether a process of this ID exists. Zombies do not count: they have ended.
pub fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

/// Writes a file that only its owner can read.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let mut file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(content)
}
