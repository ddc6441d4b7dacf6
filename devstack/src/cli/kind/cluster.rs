//! The kind cluster itself: kind-config.yaml with ports of one's own, and a kubeconfig that is nobody else's.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{programs::KIND, root};

/// What the chart's values for kind say: `gateway.service.nodePort`, `devstack.service.nodePort` and
/// `devstack.signIn.nodePort`.
const NODE_PORTS: [(&str, u64); 3] =
    [("--gateway-port", 30080), ("--authority-port", 30443), ("--sign-in-port", 30081)];

/// Ports on this machine, in the order of [`NODE_PORTS`]: of the gateway, the authority, and its pages for signing in.
pub(super) type Ports<T> = [T; NODE_PORTS.len()];

fn read(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_saphyr::from_str(&text).with_context(|| format!("{} is not YAML", path.display()))
}

/// Where a configuration maps a node's port, as a JSON pointer.
fn mapping(config: &Value, node_port: u64) -> Option<String> {
    let nodes = config["nodes"].as_array()?;
    nodes.iter().enumerate().find_map(|(node, spec)| {
        let mappings = spec["extraPortMappings"].as_array()?;
        let at = mappings.iter().position(|mapping| mapping["containerPort"] == node_port)?;
        Some(format!("/nodes/{node}/extraPortMappings/{at}"))
    })
}

/// A cluster that may or may not be there.
pub(super) struct Cluster {
    pub(super) name: String,
    pub(super) kubeconfig: PathBuf,
    pub(super) ports: Ports<u16>,
    file: PathBuf,
    config: Value,
}

impl Cluster {
    /// As kind-config.yaml says, but for the ports that are given. A cluster that was made before has those it was made
    /// with.
    pub(super) fn new(directory: &Path, given: Ports<Option<u16>>) -> Result<Self> {
        let file = directory.join("kind-config.yaml");
        let made_with = if given.iter().all(Option::is_none) && file.exists() { Some(read(&file)?) } else { None };
        // One that an older version of this made may map fewer ports; it can still be asked about and deleted.
        let made_with = made_with.filter(|config| NODE_PORTS.iter().all(|(_, port)| mapping(config, *port).is_some()));
        let mut config = made_with.map_or_else(|| read(&root().join("kind-config.yaml")), Ok)?;
        let name = config["name"].as_str().context("kind-config.yaml names no cluster")?.to_owned();
        let mut ports = Ports::default();
        for (((option, node_port), given), port) in NODE_PORTS.into_iter().zip(given).zip(&mut ports) {
            let at = mapping(&config, node_port)
                .with_context(|| format!("kind-config.yaml maps no port {node_port}, which {option} moves"))?;
            let mapping = config.pointer_mut(&at).context("no mapping")?;
            if let Some(given) = given {
                mapping["hostPort"] = given.into();
            }
            *port = mapping["hostPort"].as_u64().and_then(|port| port.try_into().ok()).context("hostPort")?;
        }
        Ok(Self { name, kubeconfig: directory.join("kubeconfig"), ports, file, config })
    }

    pub(super) fn exists(&self) -> Result<bool> {
        Ok(KIND.output(["get", "clusters"])?.lines().any(|line| line.trim() == self.name))
    }

    /// Creates it and waits for its nodes.
    pub(super) fn create(&self) -> Result<()> {
        for ((option, _), port) in NODE_PORTS.iter().zip(self.ports) {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let taken = TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok();
            ensure!(!taken, "port {port} is in use: name another with {option}");
        }
        fs::write(&self.file, serde_saphyr::to_string(&self.config)?)
            .with_context(|| format!("cannot write {}", self.file.display()))?;
        let (file, kubeconfig) = (self.file.display().to_string(), self.kubeconfig.display().to_string());
        KIND.run(["create", "cluster", "--config", &file, "--kubeconfig", &kubeconfig, "--wait", "180s"])
    }

    /// Writes the kubeconfig of a cluster that is there already.
    pub(super) fn export_kubeconfig(&self) -> Result<()> {
        let kubeconfig = self.kubeconfig.display().to_string();
        KIND.output(["export", "kubeconfig", "--name", &self.name, "--kubeconfig", &kubeconfig]).map(drop)
    }

    pub(super) fn load(&self, images: &[String]) -> Result<()> {
        KIND.run(["load", "docker-image", "--name", &self.name].into_iter().chain(images.iter().map(String::as_str)))
    }

    pub(super) fn delete(&self) -> Result<()> {
        let kubeconfig = self.kubeconfig.display().to_string();
        KIND.run(["delete", "cluster", "--name", &self.name, "--kubeconfig", &kubeconfig])?;
        let _ = fs::remove_file(&self.file);
        Ok(())
    }
}
