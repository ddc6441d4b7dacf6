//! A Kubernetes API server in this process: real wire protocol, objects in memory.
//!
//! kube-rs controllers and kubectl talk to it as to any cluster. What it does:
//!
//! * **Objects**: one resourceVersion over all kinds; list, watch with bookmarks and `sendInitialEvents`, `410 Gone`
//!   for forgotten versions, paging, label and field selectors; `generation`, finalizers, owner references, namespace
//!   deletion; writes that change nothing are no writes; optimistic concurrency; dry run.
//! * **Patches**: JSON patch, merge patch, strategic merge patch, server-side apply with managed fields and conflicts.
//! * **Custom kinds**: a CustomResourceDefinition is served as soon as it is created: structural schema, defaults,
//!   pruning, CEL rules with what a real server lets them cost, `fieldValidation`, the status subresource, printer columns.
//! * **Built-in kinds**: namespaces, secrets, config maps, service accounts, events (both groups), leases, and as mere
//!   storage what a chart contains (deployments, services, pods, RBAC, …): nothing runs them.
//! * **Clients**: aggregated and older discovery, OpenAPI v3, `Table` answers, self-subject reviews.
//! * **Tests**: [`Faults`] drops watches, forgets history, delays and fails requests; [`Counters`] proves what was (not)
//!   asked.
//!
//! What it does not do: protobuf answers (JSON always) and most protobuf bodies, OpenAPI v2 (404, which kubectl tolerates), admission
//! webhooks, conversion between versions, scale subresources, quotas, RBAC
//! objects as authorisation (rules are given at start), a controller for anything but garbage collection and namespaces.
//! Foreground deletion is carried out as background deletion.

mod apply;
mod auth;
mod builtin;
mod crd;
mod discovery;
mod events;
mod faults;
mod http;
mod jsonpath;
mod openapi;
mod patch;
mod resource;
mod schema;
mod selector;
mod status;
mod store;
mod table;
mod write;

use std::{io, net::SocketAddr, sync::Arc};

use base64::Engine as _;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

pub use self::{
    auth::{Rule, User},
    crd::rule_costs,
    faults::{Counters, Counts, Faults, Match},
    schema::{CRD_LIMIT, RULE_LIMIT, RuleCost, SchemaError},
};
use self::{
    http::Server,
    resource::Registry,
    store::Store,
    write::{Cluster, Endpoint, Target, WriteOptions},
};
use crate::{
    http::{Bind, ServerHandle, serve},
    tls::{self, Authority},
};

pub const ADMIN: &str = "storefence-admin";

pub struct KubeApiOptions<'a> {
    /// Where to listen; a free port on loopback by default.
    pub listen: Bind,
    /// Signs the server's certificate.
    pub authority: &'a Authority,
    /// Users besides the administrator.
    pub users: Vec<User>,
    /// The administrator's bearer token; a random one by default.
    pub admin_token: Option<String>,
    /// Further DNS names for the server's certificate.
    pub names: Vec<String>,
}

impl<'a> KubeApiOptions<'a> {
    /// A free port on loopback, and nobody but the administrator.
    pub fn new(authority: &'a Authority) -> Self {
        Self { listen: Bind::loopback(), authority, users: Vec::new(), admin_token: None, names: Vec::new() }
    }

    /// Listens on an address.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = address.into();
        self
    }

    #[must_use]
    pub fn user(mut self, user: User) -> Self {
        self.users.push(user);
        self
    }
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum KubeApiError {
    /// No certificate.
    #[error("the Kubernetes API stand-in has no certificate: {0}")]
    Tls(#[from] tls::Error),
    /// No socket.
    #[error("the Kubernetes API stand-in cannot listen: {0}")]
    Listen(#[from] io::Error),
}

pub struct KubeApi {
    server: Arc<Server>,
    handle: ServerHandle,
    ca: String,
}

impl KubeApi {
    /// Starts the server; it answers when this returns.
    pub async fn start(options: KubeApiOptions<'_>) -> Result<Self, KubeApiError> {
        let mut admin = User::new(ADMIN, vec![Rule::everything()]);
        admin.groups.push("system:masters".into());
        if let Some(token) = options.admin_token {
            admin.token = token;
        }
        let mut users = options.users;
        users.push(admin);
        let cluster = Arc::new(Cluster { store: Store::default(), registry: Registry::new(builtin::resources()) });
        for namespace in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            create_namespace(&cluster, namespace);
        }
        let server = Arc::new(Server {
            faults: Faults::new(cluster.clone()),
            cluster,
            users,
            counters: Counters::default(),
            stop: CancellationToken::new(),
        });
        let mut names = vec!["127.0.0.1", "localhost", "kubernetes.default.svc"];
        names.extend(options.names.iter().map(String::as_str));
        let tls = options.authority.server_config(&names)?;
        let handle = serve(options.listen, Some(tls), http::router(server.clone())).await?;
        Ok(Self { server, handle, ca: options.authority.pem().to_owned() })
    }

    /// `https://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        self.handle.url()
    }

    /// The administrator's kubeconfig, as YAML with the CA and the token in it.
    pub fn kubeconfig(&self) -> String {
        self.kubeconfig_for(ADMIN).unwrap_or_default()
    }

    pub fn kubeconfig_for(&self, user: &str) -> Option<String> {
        let user = self.server.users.iter().find(|u| u.name == user)?;
        let ca = base64::engine::general_purpose::STANDARD.encode(&self.ca);
        Some(format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: storefence\n  cluster:\n    server: {url}\n    \
             certificate-authority-data: {ca}\nusers:\n- name: {name}\n  user:\n    token: {token}\ncontexts:\n\
             - name: storefence\n  context:\n    cluster: storefence\n    user: {name}\n    namespace: default\n\
             current-context: storefence\n",
            url = self.url(),
            name = user.name,
            token = user.token,
        ))
    }

    /// The certificate authority that signed the server's certificate, in PEM.
    pub fn authority_pem(&self) -> &str {
        &self.ca
    }

    /// A user's bearer token.
    pub fn token(&self, user: &str) -> Option<&str> {
        self.server.users.iter().find(|u| u.name == user).map(|u| u.token.as_str())
    }

    /// Makes the server misbehave.
    pub fn faults(&self) -> Faults {
        self.server.faults.clone()
    }

    /// What was asked so far.
    pub fn counters(&self) -> Counters {
        self.server.counters.clone()
    }

    /// Fault: while down, connections are cut and new ones closed without an answer.
    pub fn set_down(&self, down: bool) {
        self.handle.set_down(down);
    }

    /// Stops serving; open watches end.
    pub async fn shutdown(self) {
        self.server.stop.cancel();
        self.handle.shutdown().await;
    }
}

impl std::fmt::Debug for KubeApi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubeApi").field("url", &self.url()).finish_non_exhaustive()
    }
}

fn create_namespace(cluster: &Cluster, name: &str) {
    let Some(resource) = cluster.registry.get("", "v1", "namespaces") else { return };
    let target = Target { resource, namespace: String::new(), name: name.to_owned(), endpoint: Endpoint::Main };
    let body: Value = json!({"metadata": {"name": name}});
    let options = WriteOptions { manager: "kube-apiserver".into(), ..WriteOptions::default() };
    if let Err(error) = cluster.create(&target, body, &options) {
        tracing::error!(%error, name, "namespace not created");
    }
}
