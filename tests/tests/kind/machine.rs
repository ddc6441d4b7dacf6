//! What stands for a person's machine, where `cargo xtask kind` runs, and for the cluster that it makes.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use storefence_devstack::{
    kube_api::{KubeApi, KubeApiOptions, Rule, User},
    stack::{gateway_rules, operator_rules},
    tls::Authority,
};
use tempfile::TempDir;

use crate::{NAMESPACE, pods::binary};

const DOCKER: &str = r#"echo "docker $*" >>"$FAKE/calls"
[ ! -f "$FAKE/docker-is-down" ] || { echo "Cannot connect to the Docker daemon" >&2; exit 1; }
case "$*" in "info "*) echo 29.0.0 ;; "image inspect "*) for last; do :; done; echo "sha256:of-$last" ;; esac"#;

const KIND: &str = r#"echo "kind $*" >>"$FAKE/calls"
verb="$1 $2"
while [ $# -gt 0 ]; do
  case "$1" in --kubeconfig) kubeconfig=$2 ;; --config) config=$2 ;; esac
  shift
done
case "$verb" in
  "get clusters") if [ -f "$FAKE/cluster.yaml" ]; then echo another; echo storefence; else echo "No kind clusters found." >&2; fi ;;
  "create cluster") cp "$config" "$FAKE/cluster.yaml"; cp "$FAKE/kubeconfig" "$kubeconfig" ;;
  "export kubeconfig") cp "$FAKE/kubeconfig" "$kubeconfig" ;;
  "delete cluster") rm "$FAKE/cluster.yaml" "$kubeconfig" ;;
esac"#;

/// With --wait it ends when the pods are there.
const HELM: &str = r#"echo "helm $*" >>"$FAKE/calls"
while [ ! -f "$FAKE/pods-are-ready" ]; do sleep 0.05; done"#;

/// What a person has who runs `cargo xtask kind`: the programs, and a directory.
pub struct Machine {
    pub directory: TempDir,
}

impl Machine {
    pub fn new() -> Result<Self> {
        let machine = Self { directory: tempfile::tempdir()? };
        fs::create_dir(machine.path("bin"))?;
        for (name, script) in [("docker", DOCKER), ("kind", KIND), ("kubectl", "exit 1"), ("helm", HELM)] {
            let path = machine.path("bin").join(name);
            fs::write(&path, format!("#!/bin/sh\nset -eu\n{script}\n"))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        Ok(machine)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn environment(&self) -> [(&'static str, String); 3] {
        // `kind up` builds first: the compiler stands beside the cargo that runs us.
        let cargo = PathBuf::from(std::env::var_os("CARGO").unwrap_or_default());
        let toolchain = cargo.parent().unwrap_or(Path::new("/usr/bin")).display();
        let path = format!("{}:/usr/bin:/bin:{toolchain}", self.path("bin").display());
        [
            ("PATH", path),
            ("FAKE", self.directory.path().display().to_string()),
            ("STOREFENCE_KIND_DIRECTORY", self.path("kind").display().to_string()),
        ]
    }

    /// `cargo xtask …`, through the binary that cargo would run.
    pub fn xtask(&self, args: &[&str]) -> Result<Output> {
        // The API server may be in this process: waiting must not take its thread away.
        tokio::task::block_in_place(|| {
            Ok(Command::new(binary("xtask")).args(args).envs(self.environment()).output()?)
        })
    }

    pub fn said(&self, args: &[&str]) -> Result<String> {
        let output = self.xtask(args)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        Ok(text)
    }

    pub fn refused(&self, args: &[&str]) -> Result<String> {
        let output = self.xtask(args)?;
        ensure!(output.status.code() == Some(1), "{args:?} ended with {}", output.status);
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Calls since the last time.
    pub fn calls(&self) -> Result<Vec<String>> {
        let text = fs::read_to_string(self.path("calls")).unwrap_or_default();
        fs::write(self.path("calls"), "")?;
        Ok(text.lines().map(str::to_owned).collect())
    }
}

/// The Kubernetes API, and the kubeconfigs of kind and of each pod.
pub struct Kubernetes {
    pub api: Option<KubeApi>,
}

impl Kubernetes {
    pub async fn start(machine: &Machine) -> Result<Self> {
        let own = std::env::var_os("STOREFENCE_TEST_KUBECONFIG");
        let part = |text: &str, name: &str| -> Result<()> {
            let mut kubeconfig: Value = serde_saphyr::from_str(text)?;
            for context in kubeconfig["contexts"].as_array_mut().context("no contexts")? {
                context["context"]["namespace"] = NAMESPACE.into();
            }
            Ok(fs::write(machine.path(name), serde_saphyr::to_string(&kubeconfig)?)?)
        };
        if let Some(file) = own {
            let text = fs::read_to_string(file)?;
            fs::write(machine.path("kubeconfig"), &text)?;
            ["operator", "gateway", "devstack"].iter().try_for_each(|name| part(&text, name))?;
            return Ok(Self { api: None });
        }
        let authority = Authority::new()?;
        // What the chart's Role lets it do.
        let publish = [&["configmaps", "secrets"][..], &["configmaps"], &["secrets"]]
            .into_iter()
            .zip([&["create"][..], &["get", "patch"], &["get", "patch"]])
            .map(|(resources, verbs)| Rule::new(&[""], resources, verbs))
            .collect();
        let options = KubeApiOptions::new(&authority)
            .user(User::new("operator", operator_rules()))
            .user(User::new("gateway", gateway_rules()))
            .user(User::new("devstack", publish));
        let api = KubeApi::start(options).await?;
        fs::write(machine.path("kubeconfig"), api.kubeconfig())?;
        for name in ["operator", "gateway", "devstack"] {
            part(&api.kubeconfig_for(name).context("no such user")?, name)?;
        }
        Ok(Self { api: Some(api) })
    }
}
