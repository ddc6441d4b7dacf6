//! A kubelet without containers: pods of the rendered chart as processes, with the environment, arguments and files that
//! the pod's spec gives them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::{
    core::v1::EnvFromSource,
    core::v1::{ConfigMap, Container, PodSpec, Secret, Volume},
};
use kube::{Api, Client};
use serde_json::Value;
use storefence_devstack::process::{Child, Spawn};

use crate::STEP;

pub struct Kubelet {
    pub client: Client,
    /// Of the objects that the stand-ins publish.
    pub namespace: String,
    pub objects: Vec<Value>,
    /// Where files are mounted, and logs written.
    pub directory: PathBuf,
    /// A kubeconfig for each pod, instead of its service account.
    pub kubeconfig: PathBuf,
    /// Addresses of the cluster, and what they are here.
    pub replacements: Vec<(String, String)>,
}

impl Kubelet {
    fn here(&self, text: &str) -> String {
        self.replacements.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
    }

    fn object(&self, kind: &str, name: &str) -> Option<&Value> {
        self.objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
    }

    pub fn pod(&self, kind: &str, name: &str) -> Result<PodSpec> {
        let object = self.object(kind, name).with_context(|| format!("the chart has no {kind} {name}"))?;
        Ok(serde_json::from_value(object["spec"]["template"]["spec"].clone())?)
    }

    /// What a ConfigMap or a Secret holds: the chart's, or one that was published.
    async fn data(&self, kind: &str, name: &str) -> Result<BTreeMap<String, String>> {
        if let Some(object) = self.object(kind, name) {
            return Ok(serde_json::from_value(object["data"].clone())?);
        }
        if kind == "ConfigMap" {
            let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
            return Ok(api.get(name).await?.data.unwrap_or_default());
        }
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let data = api.get(name).await?.data.unwrap_or_default();
        data.into_iter().map(|(key, value)| Ok((key, String::from_utf8(value.0)?))).collect()
    }

    /// Writes a volume's files; they are found under this directory and the path of their mount.
    async fn mount(&self, root: &Path, volume: &Volume, path: &str) -> Result<()> {
        let directory = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(&directory)?;
        let data = match volume {
            Volume { config_map: Some(source), .. } => self.data("ConfigMap", &source.name).await?,
            Volume { secret: Some(source), .. } => {
                self.data("Secret", source.secret_name.as_deref().context("no name")?).await?
            }
            Volume { empty_dir: Some(_), .. } => return Ok(()),
            other => bail!("volume {} is of a kind that nothing here can mount", other.name),
        };
        for (name, text) in data {
            // Where the configuration names other files, they are below the same root.
            let text = self.here(&text).replace("/etc/storefence/", &format!("{}/etc/storefence/", root.display()));
            fs::write(directory.join(name), text)?;
        }
        Ok(())
    }

    /// A container as a process that can be started.
    pub async fn container(&self, pod: &PodSpec, container: &Container) -> Result<Spawn> {
        let name = &container.name;
        let root = self.directory.join("pods").join(name);
        let here = |text: &str| -> String {
            let text = self.here(text);
            ["/etc/storefence", "/run/storefence"]
                .iter()
                .filter(|path| text.starts_with(**path))
                .fold(text.clone(), |_, _| format!("{}{text}", root.display()))
        };
        for mount in container.volume_mounts.iter().flatten() {
            let volume = pod.volumes.iter().flatten().find(|volume| volume.name == mount.name);
            self.mount(&root, volume.with_context(|| format!("no volume {}", mount.name))?, &mount.mount_path).await?;
        }
        let image = container.image.as_deref().context("no image")?;
        let program = image.rsplit('/').next().and_then(|last| last.split([':', '@']).next()).context("no image")?;
        let mut spawn = Spawn::new(binary(program))
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("KUBECONFIG", &self.kubeconfig)
            .log(self.directory.join(format!("{name}.log")));
        for source in container.env_from.iter().flatten() {
            let EnvFromSource { secret_ref: Some(secret), .. } = source else { bail!("envFrom without a Secret") };
            spawn = spawn.envs(self.data("Secret", &secret.name).await?);
        }
        for variable in container.env.iter().flatten() {
            let value = variable.value.as_deref().with_context(|| format!("{} has no value", variable.name))?;
            spawn = spawn.env(&variable.name, here(value));
        }
        Ok(spawn.args(container.args.iter().flatten().map(|argument| here(argument))))
    }

    /// Starts the only container of a Deployment's pod.
    pub async fn start(&self, deployment: &str, change: impl FnOnce(Spawn) -> Spawn) -> Result<Child> {
        let pod = self.pod("Deployment", deployment)?;
        let [container] = &pod.containers[..] else { bail!("{deployment} has several containers") };
        Ok(change(self.container(&pod, container).await?).start()?)
    }

    /// Runs a Job's containers one after another.
    pub async fn run(&self, job: &str) -> Result<()> {
        let pod = self.pod("Job", job)?;
        for container in pod.init_containers.iter().flatten().chain(&pod.containers) {
            let mut child = self.container(&pod, container).await?.start()?;
            let status = child.wait(STEP).await?.with_context(|| format!("{} did not end", container.name))?;
            ensure!(status.success(), "{job}: {}: {}", container.name, child.log_tail(20));
        }
        Ok(())
    }
}

/// Where cargo puts the binaries.
pub fn binary(name: &str) -> PathBuf {
    std::env::current_exe().unwrap_or_default().ancestors().nth(2).unwrap_or(Path::new(".")).join(name)
}
