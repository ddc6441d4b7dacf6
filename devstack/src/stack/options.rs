//! What kind of stack to start.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::postgres::AdminKind;

/// Where the database is.
#[derive(Clone, Debug)]
pub enum DatabaseSource {
    /// An existing one, as its administrator (CREATEROLE and owner of the database).
    Url(String),
    Start {
        /// Major version; whatever is found if not given.
        version: Option<u32>,
        /// What the administrator may do.
        admin: AdminKind,
    },
}

/// Which Kubernetes API to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterSource {
    StandIn,
    /// The current context of `KUBECONFIG`.
    Current,
    /// The current context of this kubeconfig.
    Kubeconfig(PathBuf),
}

/// Ports that must be these; free ones where not given.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ports {
    pub gateway: Option<u16>,
    /// The gateway's metrics and health.
    pub admin: Option<u16>,
}

/// How to start a stack.
#[derive(Clone, Debug)]
pub struct StackOptions {
    /// Where configuration and logs are written.
    pub directory: PathBuf,
    /// Where the product's binaries are.
    pub bin_dir: PathBuf,
    pub database: DatabaseSource,
    pub cluster: ClusterSource,
    /// Fixed ports.
    pub ports: Ports,
    /// Manifests to apply, with a name for messages; the stack is up when their RetailTenants are Ready.
    pub manifests: Vec<(String, String)>,
    /// Whether to load the sample data of Zava and Contoso.
    pub seed: bool,
    /// Whether to start the embeddings stand-in with its model, and to embed the sample data. Without it semantic search
    /// is not configured.
    pub model: bool,
    /// More environment for the operator.
    pub operator_env: Vec<(String, String)>,
    /// More environment for the gateway.
    pub gateway_env: Vec<(String, String)>,
    /// Called with each line that says what is being done.
    pub progress: fn(&str),
}

impl StackOptions {
    /// A stack in `directory` with the sample data, without a model and without a RetailTenant.
    pub fn new(directory: PathBuf) -> Result<Self> {
        Ok(Self {
            directory,
            bin_dir: bin_dir()?,
            database: DatabaseSource::Start { version: None, admin: AdminKind::CreateRole },
            cluster: ClusterSource::StandIn,
            ports: Ports::default(),
            manifests: Vec::new(),
            seed: true,
            model: false,
            operator_env: Vec::new(),
            gateway_env: Vec::new(),
            progress: |_| {},
        })
    }

    pub fn examples() -> Result<Vec<(String, String)>> {
        ["zava", "contoso"]
            .into_iter()
            .map(|name| {
                let file = format!("examples/{name}.yaml");
                let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(&file);
                let text = fs::read_to_string(&path).with_context(|| format!("cannot read {file}"))?;
                Ok((file, text))
            })
            .collect()
    }
}

/// The directory of the product's binaries: cargo puts them beside this program, or above it when this is a test.
fn bin_dir() -> Result<PathBuf> {
    let exe = env::current_exe()?;
    for directory in exe.ancestors().skip(1).take(2) {
        if directory.join("storefence-operator").exists() && directory.join("storefence-gateway").exists() {
            return Ok(directory.to_owned());
        }
    }
    bail!("storefence-operator and storefence-gateway are not built: run `cargo build --workspace --bins`")
}
