//! The stand-ins alone, on fixed ports and under a name: for containers, where operator, gateway and PostgreSQL are
//! services of their own. What these need to know is written to a directory that they share, or published in the cluster
//! that they all run in.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;

use super::{apply, facts::write_private, gateway_rules, operator_rules, publish::Published};
use crate::{
    embeddings::{EmbeddingsApi, EmbeddingsOptions, Model},
    entra::{ClientApp, Entra, EntraOptions, PlainSignIn, principals},
    http::Bind,
    key_vault::{KeyVault, KeyVaultOptions, Permissions},
    kube_api::{KubeApi, KubeApiOptions, User},
    tls::Authority,
};

/// The operator's application. Fixed, since compose files name it; no secret belongs to it.
pub const OPERATOR_CLIENT_ID: &str = "9d0f6c1e-4b7a-4c38-8e52-1a6f3d9b0c74";
pub const GATEWAY_CLIENT_ID: &str = "c4a81b5d-7e29-4f60-9b13-58d2e0a7f6c1";
/// Federated tokens live an hour.
const TOKEN_REFRESH: Duration = Duration::from_secs(600);
const ESTABLISHED_TIMEOUT: Duration = Duration::from_secs(10);
/// Written last: whoever waits for it finds everything else.
const READY: &str = "stack.json";

/// Which Kubernetes API operator and gateway use.
pub enum Kubernetes {
    /// The stand-in, on this port.
    StandIn(u16),
    /// The cluster around us: what others need to know is published there, as objects whose names begin with this.
    Around(String),
}

/// What to serve, and where.
pub struct ServeOptions {
    /// The shared directory; with [`Kubernetes::Around`] for ourselves.
    pub directory: PathBuf,
    /// The names under which others reach the stand-ins, the one that URLs have first.
    pub hosts: Vec<String>,
    /// The address to listen on.
    pub listen: IpAddr,
    pub kubernetes: Kubernetes,
    /// Port of the authority.
    pub entra_port: u16,
    /// Port and base URL for signing in by plain HTTP, for browsers on the machine around; not served without.
    pub sign_in: Option<(u16, String)>,
    /// Further application ID URIs of the API.
    pub resources: Vec<String>,
    /// Port of the Key Vault.
    pub key_vault_port: u16,
    /// Port of the embeddings; none without.
    pub embeddings_port: Option<u16>,
    /// `HOST:PORT` of PostgreSQL.
    pub database: String,
    /// Base URL of the gateway, for `stack.json`.
    pub gateway_url: String,
    /// Pairs of name and manifest.
    pub manifests: Vec<(String, String)>,
}

/// Whether the directory is one that a running `serve` has filled.
#[must_use]
pub fn is_ready(directory: &Path) -> bool {
    directory.join(READY).is_file()
}

/// The administrator's URL of a PostgreSQL at `address`.
pub(super) fn admin_url(password: &str, address: &str) -> String {
    format!("postgresql://postgres:{password}@{address}/retail?sslmode=disable")
}

pub struct Served {
    entra: Entra,
    // They serve as long as they are held.
    _key_vault: KeyVault,
    _embeddings: Option<EmbeddingsApi>,
    /// None in a cluster.
    kube_api: Option<KubeApi>,
    directory: PathBuf,
}

impl Served {
    /// Starts everything and fills the directory, or publishes in the cluster.
    ///
    /// # Errors
    /// A port is taken, the directory cannot be written, a manifest is refused, or the cluster is not to be reached.
    pub async fn start(options: ServeOptions) -> Result<Self> {
        let directory = &options.directory;
        let _ = fs::remove_file(directory.join(READY));
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let published = match &options.kubernetes {
            Kubernetes::StandIn(_) => None,
            Kubernetes::Around(name) => Some(Published::connect(name).await?),
        };
        let authority = match &published {
            Some(published) => published.authority().await?,
            None => Authority::new()?,
        };
        let ca_file = directory.join("ca.pem");
        authority.write_pem(&ca_file)?;

        let entra = Entra::start(
            &authority,
            EntraOptions {
                bind: Some(options.bind(options.entra_port)),
                public_url: Some(options.url(options.entra_port)),
                names: options.hosts.clone(),
                plain_sign_in: options
                    .sign_in
                    .as_ref()
                    .map(|(port, url)| PlainSignIn { bind: Some(options.bind(*port)), public_url: Some(url.clone()) }),
                ..EntraOptions::default()
            },
        )
        .await?;
        options.resources.iter().for_each(|uri| entra.add_resource(uri));
        let key_vault = KeyVault::start(
            &authority,
            &entra,
            KeyVaultOptions {
                bind: Some(options.bind(options.key_vault_port)),
                public_url: Some(options.url(options.key_vault_port)),
                names: options.hosts.clone(),
                ..KeyVaultOptions::default()
            },
        )
        .await?;
        let embeddings = match options.embeddings_port {
            Some(port) => Some(options.start_embeddings(port, &authority, &entra).await?),
            None => None,
        };
        for (part, permissions) in [("operator", Permissions::officer()), ("gateway", Permissions::user())] {
            let app = match &published {
                Some(published) => published.application(part).await?,
                None => application(part),
            };
            key_vault.allow(&app.object_id, permissions);
            embeddings.iter().for_each(|api| api.allow(&app.object_id));
            entra.add_client(app);
        }

        let (kube_api, database_url) = match (&options.kubernetes, &published) {
            (Kubernetes::Around(_), Some(published)) => {
                let url = published.database(&options.database).await?;
                published.trust(&authority).await?;
                (None, url)
            }
            (Kubernetes::Around(_), None) => bail!("nothing to publish to"),
            (Kubernetes::StandIn(port), _) => {
                let (api, url) = options.fill(&authority, *port).await?;
                (Some(api), url)
            }
        };
        let alone = kube_api.is_some();
        let served =
            Self { entra, _key_vault: key_vault, _embeddings: embeddings, kube_api, directory: directory.clone() };
        if alone {
            served.write_tokens()?;
            served.apply(&options).await?;
        }
        let facts = json!({
            "gatewayUrl": options.gateway_url,
            "adminUrl": "", "operatorAdminUrl": "",
            "kubeconfig": directory.join("kubeconfig"),
            "issuerUrl": served.entra.url(),
            "databaseUrl": database_url,
            "keyVaultUrl": options.url(options.key_vault_port),
            "audience": principals::AUDIENCE,
            "caFile": ca_file,
            "pids": {"devstack": std::process::id()},
        });
        write_private(&directory.join("stack.json.new"), facts.to_string().as_bytes())?;
        fs::rename(directory.join("stack.json.new"), directory.join(READY))?;
        Ok(served)
    }

    /// The CustomResourceDefinition and the manifests, as the administrator.
    async fn apply(&self, options: &ServeOptions) -> Result<()> {
        let mut kubeconfig = Kubeconfig::read_from(self.directory.join("kubeconfig"))?;
        // We are where we listen, whatever others call us.
        if let Kubernetes::StandIn(port) = options.kubernetes {
            for cluster in kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
                cluster.server = Some(format!("https://127.0.0.1:{port}"));
            }
        }
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let kube = Client::try_from(config)?;
        let crd = serde_json::to_string(&storefence_tenancy::resource::crd())?;
        apply::apply_yaml(&kube, &crd).await.context("the CustomResourceDefinition")?;
        apply::wait_established(&kube, "retailtenants.retail.storefence.dev", ESTABLISHED_TIMEOUT).await?;
        for (name, manifest) in &options.manifests {
            apply::apply_yaml(&kube, manifest).await.with_context(|| format!("applying {name}"))?;
        }
        Ok(())
    }

    /// Federated tokens, as a kubelet would project them.
    fn write_tokens(&self) -> Result<()> {
        for part in ["operator", "gateway"] {
            let token = self.entra.service_account_token(&subject(part))?;
            let (file, new) = (format!("{part}-token"), format!("{part}-token.new"));
            write_private(&self.directory.join(&new), token.as_bytes())?;
            fs::rename(self.directory.join(new), self.directory.join(file))?;
        }
        Ok(())
    }

    /// Serves for ever, and keeps the federated tokens fresh.
    ///
    /// # Errors
    /// The tokens cannot be written.
    pub async fn run(self) -> Result<()> {
        loop {
            tokio::time::sleep(TOKEN_REFRESH).await;
            if self.kube_api.is_some() {
                self.write_tokens()?;
            }
        }
    }
}

impl ServeOptions {
    fn bind(&self, port: u16) -> Bind {
        Bind::Address(SocketAddr::new(self.listen, port))
    }

    fn url(&self, port: u16) -> String {
        format!("https://{}:{port}", self.hosts.first().map_or("localhost", String::as_str))
    }

    async fn start_embeddings(&self, port: u16, authority: &Authority, entra: &Entra) -> Result<EmbeddingsApi> {
        let model = tokio::task::spawn_blocking(|| Model::shared(&|line| println!("{line}"))).await??;
        let options = EmbeddingsOptions {
            bind: Some(self.bind(port)),
            public_url: Some(self.url(port)),
            names: self.hosts.clone(),
            ..EmbeddingsOptions::default()
        };
        Ok(EmbeddingsApi::start(authority, entra, model, options).await?)
    }

    /// Starts the Kubernetes API stand-in and writes what operator, gateway and PostgreSQL read from the directory.
    async fn fill(&self, authority: &Authority, port: u16) -> Result<(KubeApi, String)> {
        let directory = &self.directory;
        let mut kube_options = KubeApiOptions::new(authority)
            .listen(SocketAddr::new(self.listen, port))
            .user(User::new("operator", operator_rules()))
            .user(User::new("gateway", gateway_rules()));
        kube_options.names = self.hosts.clone();
        let kube_api = KubeApi::start(kube_options).await?;
        for (name, text) in [
            ("kubeconfig", Some(kube_api.kubeconfig())),
            ("kubeconfig-operator", kube_api.kubeconfig_for("operator")),
            ("kubeconfig-gateway", kube_api.kubeconfig_for("gateway")),
        ] {
            let text = text.context("no such user")?.replace(&kube_api.url(), &self.url(port));
            write_private(&directory.join(name), text.as_bytes())?;
        }
        let vaults = json!([{"name": "main", "url": self.url(self.key_vault_port)}]);
        let password = crate::random::password();
        write_private(&directory.join("database-password"), password.as_bytes())?;
        let url = admin_url(&password, &self.database);
        let mut operator = json!({"databases": [{"name": "retail", "adminUrl": url}], "keyVaults": vaults});
        let mut gateway = json!({"keyVaults": vaults});
        if let Some(port) = self.embeddings_port {
            let deployment = EmbeddingsOptions::default().deployment;
            let embeddings = json!({"provider": "azureOpenAI", "endpoint": self.url(port), "deployment": deployment});
            operator["embeddings"] = embeddings.clone();
            gateway["embeddings"] = embeddings;
        }
        write_private(&directory.join("operator.yaml"), serde_saphyr::to_string(&operator)?.as_bytes())?;
        write_private(&directory.join("gateway.yaml"), serde_saphyr::to_string(&gateway)?.as_bytes())?;
        Ok((kube_api, url))
    }
}

fn subject(part: &str) -> String {
    format!("system:serviceaccount:storefence:storefence-{part}")
}

fn application(part: &str) -> ClientApp {
    let client_id = if part == "operator" { OPERATOR_CLIENT_ID } else { GATEWAY_CLIENT_ID };
    ClientApp {
        client_id: client_id.to_owned(),
        secret: None,
        ..ClientApp::with_secret(principals::ZAVA_TENANT_ID).federated(&subject(part))
    }
}
