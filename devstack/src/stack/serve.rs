//! The stand-ins alone, on fixed ports and under a name: for containers, where operator, gateway and PostgreSQL are
//! services of their own. What these need to know is written to a directory that they share.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;

use super::{apply, facts::write_private, gateway_rules, operator_rules};
use crate::{
    entra::{ClientApp, Entra, EntraOptions, principals},
    http::Bind,
    key_vault::{KeyVault, KeyVaultOptions, Permissions},
    kube_api::{KubeApi, KubeApiOptions, User},
    tls::Authority,
};

/// The operator's application. Fixed, since compose files name it; no secret belongs to it.
pub const OPERATOR_CLIENT_ID: &str = "9d0f6c1e-4b7a-4c38-8e52-1a6f3d9b0c74";
/// The gateway's application.
pub const GATEWAY_CLIENT_ID: &str = "c4a81b5d-7e29-4f60-9b13-58d2e0a7f6c1";
/// Federated tokens live an hour.
const TOKEN_REFRESH: Duration = Duration::from_secs(600);
const ESTABLISHED_TIMEOUT: Duration = Duration::from_secs(10);
/// Written last: whoever waits for it finds everything else.
const READY: &str = "stack.json";

/// What to serve, and where.
pub struct ServeOptions {
    /// The shared directory.
    pub directory: PathBuf,
    /// The name under which others reach the stand-ins.
    pub host: String,
    /// The address to listen on.
    pub listen: IpAddr,
    /// Port of the Kubernetes API.
    pub kubernetes_port: u16,
    /// Port of the authority.
    pub entra_port: u16,
    /// Port of the Key Vault.
    pub key_vault_port: u16,
    /// `HOST:PORT` of PostgreSQL.
    pub database: String,
    /// Base URL of the gateway, for `stack.json`.
    pub gateway_url: String,
    /// Manifests, by name.
    pub manifests: Vec<(String, String)>,
}

/// Whether the directory is one that a running `serve` has filled.
#[must_use]
pub fn is_ready(directory: &Path) -> bool {
    directory.join(READY).is_file()
}

/// The running stand-ins.
pub struct Served {
    entra: Entra,
    // They serve as long as they are held.
    _key_vault: KeyVault,
    _kube_api: KubeApi,
    directory: PathBuf,
}

impl Served {
    /// Starts everything and fills the directory.
    ///
    /// # Errors
    /// A port is taken, the directory cannot be written, or a manifest is refused.
    pub async fn start(options: ServeOptions) -> Result<Self> {
        let ServeOptions { directory, host, listen, kubernetes_port, entra_port, key_vault_port, .. } = &options;
        let _ = fs::remove_file(directory.join(READY));
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let authority = Authority::new()?;
        let ca_file = directory.join("ca.pem");
        authority.write_pem(&ca_file)?;
        let bind = |port: u16| Bind::Address(SocketAddr::new(*listen, port));
        let url = |port: u16| format!("https://{host}:{port}");
        let names = vec![host.clone()];

        let entra = Entra::start(
            &authority,
            EntraOptions {
                bind: Some(bind(*entra_port)),
                public_url: Some(url(*entra_port)),
                names: names.clone(),
                ..EntraOptions::default()
            },
        )
        .await?;
        let key_vault = KeyVault::start(
            &authority,
            &entra,
            KeyVaultOptions {
                bind: Some(bind(*key_vault_port)),
                public_url: Some(url(*key_vault_port)),
                names: names.clone(),
                ..KeyVaultOptions::default()
            },
        )
        .await?;
        for (part, permissions) in [("operator", Permissions::officer()), ("gateway", Permissions::user())] {
            let app = application(part);
            key_vault.allow(&app.object_id, permissions);
            entra.add_client(app);
        }

        let mut kube_options = KubeApiOptions::new(&authority)
            .listen(SocketAddr::new(*listen, *kubernetes_port))
            .user(User::new("operator", operator_rules()))
            .user(User::new("gateway", gateway_rules()));
        kube_options.names = names;
        let kube_api = KubeApi::start(kube_options).await?;
        for (name, text) in [
            ("kubeconfig", Some(kube_api.kubeconfig())),
            ("kubeconfig-operator", kube_api.kubeconfig_for("operator")),
            ("kubeconfig-gateway", kube_api.kubeconfig_for("gateway")),
        ] {
            let text = text.context("no such user")?.replace(&kube_api.url(), &url(*kubernetes_port));
            write_private(&directory.join(name), text.as_bytes())?;
        }
        let vaults = json!([{"name": "main", "url": url(*key_vault_port)}]);
        let password = crate::random::password();
        write_private(&directory.join("database-password"), password.as_bytes())?;
        let admin_url = format!("postgresql://postgres:{password}@{}/retail?sslmode=disable", options.database);
        let operator = json!({"databases": [{"name": "retail", "adminUrl": admin_url}], "keyVaults": vaults});
        write_private(&directory.join("operator.yaml"), serde_saphyr::to_string(&operator)?.as_bytes())?;
        let gateway = json!({"keyVaults": vaults});
        write_private(&directory.join("gateway.yaml"), serde_saphyr::to_string(&gateway)?.as_bytes())?;
        let served = Self { entra, _key_vault: key_vault, _kube_api: kube_api, directory: directory.clone() };
        served.write_tokens()?;

        served.apply(&options).await?;
        let facts = json!({
            "gatewayUrl": options.gateway_url,
            "adminUrl": "", "operatorAdminUrl": "",
            "kubeconfig": directory.join("kubeconfig"),
            "issuerUrl": served.entra.url(),
            "databaseUrl": admin_url,
            "keyVaultUrl": url(*key_vault_port),
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
        for cluster in kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
            cluster.server = Some(format!("https://127.0.0.1:{}", options.kubernetes_port));
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
            self.write_tokens()?;
        }
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
