//! The whole product on one machine: the stand-ins in this process, PostgreSQL and the shipped binaries as children.
//!
//! `cargo xtask up` and the end-to-end tests start the same thing.

mod apply;
pub mod cluster;
pub mod facts;
mod options;
mod publish;
pub mod serve;
mod settings;
mod start;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject},
    core::GroupVersionKind,
    discovery::ApiResource,
};
use serde_json::{Map, Value};

pub use facts::{NoStack, StackFacts};
pub use options::{ClusterSource, DatabaseSource, Ports, StackOptions};
pub use start::{gateway_rules, operator_rules};

use crate::{
    embeddings::EmbeddingsApi,
    entra::{Entra, TokenRequest},
    key_vault::KeyVault,
    kube_api::KubeApi,
    postgres::Cluster,
    process::{Child, Spawn},
};

const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// A running stack. Dropping it ends every process that it started.
pub struct Stack {
    // Fields drop in order: first those who ask, then those who answer.
    gateway: Child,
    operator: Child,
    facts: StackFacts,
    kube: Client,
    http: reqwest::Client,
    kube_api: Option<KubeApi>,
    key_vault: KeyVault,
    embeddings: Option<EmbeddingsApi>,
    entra: Entra,
    cluster: Option<Cluster>,
    /// The operator's binary with its environment, for commands beside `run`.
    command: Spawn,
    bin_dir: PathBuf,
    /// RetailTenants in `default` that were applied through the stack.
    applied: Mutex<BTreeSet<String>>,
}

impl Stack {
    /// Starts everything and waits until each RetailTenant of the manifests is Ready.
    ///
    /// # Errors
    /// Says what did not start or become Ready, with the end of its log.
    pub async fn start(options: StackOptions) -> Result<Self> {
        start::start(options).await
    }

    /// What others need to know.
    pub fn facts(&self) -> &StackFacts {
        &self.facts
    }

    /// An HTTP client that trusts the stand-ins.
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// A Kubernetes client with every right.
    pub fn kube(&self) -> &Client {
        &self.kube
    }

    /// The Kubernetes API stand-in; `None` with a real cluster.
    pub fn kube_api(&self) -> Option<&KubeApi> {
        self.kube_api.as_ref()
    }

    /// The Key Vault stand-in.
    pub fn key_vault(&self) -> &KeyVault {
        &self.key_vault
    }

    /// The embeddings stand-in; `None` without a model.
    pub fn embeddings(&self) -> Option<&EmbeddingsApi> {
        self.embeddings.as_ref()
    }

    /// The Entra ID stand-in.
    pub fn entra(&self) -> &Entra {
        &self.entra
    }

    /// The database cluster; `None` with a database of the caller's.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    pub fn gateway(&self) -> &Child {
        &self.gateway
    }

    pub fn operator(&self) -> &Child {
        &self.operator
    }

    /// Path of one of the product's binaries.
    pub fn binary(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }

    /// Runs a command of the operator beside `run`, to its end, and returns what it printed.
    ///
    /// # Errors
    /// It does not end well; the end of its log.
    pub async fn run_operator(&self, args: &[&str]) -> Result<String> {
        let directory = tempfile::tempdir()?;
        let (out, log) = (directory.path().join("out"), directory.path().join("log"));
        let spawn = self.command.clone().args(args).stdout(&out).log(&log);
        start::run_to_end(&format!("storefence-operator {}", args.join(" ")), spawn).await?;
        Ok(std::fs::read_to_string(&out)?)
    }

    /// A user token of a directory with these claims in addition to the claims of every token.
    ///
    /// # Errors
    /// The stand-in cannot sign.
    pub fn issue(&self, directory: &str, claims: Map<String, Value>, expires_in: i64) -> Result<String> {
        self.entra.add_tenant(directory);
        let mut request = TokenRequest::user(directory).expires_in(expires_in);
        for (name, value) in claims {
            request = request.claim(&name, value);
        }
        Ok(self.entra.issue(&request)?)
    }

    /// Applies manifests, as `kubectl apply` would.
    ///
    /// # Errors
    /// The API server's message.
    pub async fn apply(&self, yaml: &str) -> Result<Vec<String>> {
        let applied = apply::apply_yaml(&self.kube, yaml).await?;
        let mut known = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(applied.iter().filter_map(|what| what.strip_prefix("retailtenants/").map(str::to_owned)));
        Ok(applied)
    }

    /// A RetailTenant, if there is one of this name.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn get(&self, namespace: &str, name: &str) -> Result<Option<DynamicObject>> {
        Ok(retail_tenants(&self.kube, namespace).get_opt(name).await?)
    }

    /// A condition in a RetailTenant's status.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn condition(&self, namespace: &str, name: &str, kind: &str) -> Result<Option<Value>> {
        let object = self.get(namespace, name).await?;
        Ok(object.and_then(|object| apply::condition(&object, kind).cloned()))
    }

    /// Asks for the deletion of a RetailTenant.
    ///
    /// # Errors
    /// The API server's message.
    pub async fn delete(&self, namespace: &str, name: &str) -> Result<()> {
        retail_tenants(&self.kube, namespace).delete(name, &DeleteParams::default()).await.map(drop).context("delete")
    }

    /// Fault: cuts the database off, for operator and gateway alike, or connects it again.
    pub fn cut_database(&self, cut: bool) {
        if let Some(cluster) = &self.cluster {
            cluster.proxy().set_down(cut);
        }
    }

    /// Fault: cuts the vault off, or connects it again.
    pub fn cut_vault(&self, cut: bool) {
        self.key_vault.server().set_down(cut);
    }

    /// The name of a process that should run and has ended, with the end of its log.
    pub fn ended(&mut self) -> Option<String> {
        for (name, child) in [("gateway", &mut self.gateway), ("operator", &mut self.operator)] {
            if !child.is_running() {
                return Some(format!("the {name} has ended:\n{}", child.log_tail(20)));
            }
        }
        None
    }

    /// Stops everything in order.
    ///
    /// On a cluster that goes on living, the RetailTenants go first, while the operator is there to let them go: the
    /// database and the vault that they speak of go with the stack.
    pub async fn stop(mut self) {
        if self.kube_api.is_none() {
            self.delete_applied().await;
        }
        let _ = self.gateway.terminate(STOP_TIMEOUT).await;
        let _ = self.operator.terminate(STOP_TIMEOUT).await;
        if let Some(kube_api) = self.kube_api.take() {
            kube_api.shutdown().await;
        }
        self.key_vault.shutdown().await;
        if let Some(embeddings) = self.embeddings.take() {
            embeddings.shutdown().await;
        }
        self.entra.shutdown().await;
        if let Some(cluster) = self.cluster.take() {
            let _ = cluster.stop().await;
        }
    }
}

impl Stack {
    async fn delete_applied(&self) {
        let names = self.applied.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for name in &names {
            let _ = self.delete("default", name).await;
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        for name in &names {
            while matches!(self.get("default", name).await, Ok(Some(_))) && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Path of a file in the stack's directory.
fn file(directory: &Path, name: &str) -> PathBuf {
    directory.join(name)
}

fn retail_tenants(client: &Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &retail_tenants_resource())
}

fn retail_tenants_resource() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("retail.storefence.dev", "v1alpha1", "RetailTenant"))
}
