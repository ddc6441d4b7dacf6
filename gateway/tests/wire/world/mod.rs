//! Everything around one gateway process.

mod provision;
mod standing;

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use storefence_devstack::{
    entra::{ClientApp, Entra, EntraOptions, TokenRequest, principals},
    key_vault::{KeyVault, KeyVaultOptions, Permissions},
    kube_api::{KubeApi, KubeApiOptions},
    mcp_client::{Answer, McpClient, Revision},
    postgres::{AdminKind, Cluster, ClusterOptions, Database},
    process::{Child, Spawn},
    tls::Authority,
};
use tempfile::TempDir;

pub use provision::{CONTOSO, Tenant, ZAVA};
pub use standing::{Standing, denied, standing};

/// The parts, in the order in which they are stopped.
pub struct World {
    pub gateway: Gateway,
    pub kube: KubeApi,
    pub vault: KeyVault,
    pub entra: Entra,
    pub database: Database,
    pub cluster: Cluster,
    pub http: reqwest::Client,
    pub directory: TempDir,
    pub authority: Authority,
    client: ClientApp,
}

/// One gateway process.
pub struct Gateway {
    pub child: Child,
    pub url: String,
    pub admin: String,
}

impl World {
    pub async fn start() -> Result<Self> {
        // kube, reqwest and rustls need a crypto provider here, as in the products.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let directory = tempfile::tempdir()?;
        let authority = Authority::new()?;
        authority.write_pem(&directory.path().join("ca.pem"))?;
        let entra = Entra::start(&authority, EntraOptions::default()).await?;
        let vault = KeyVault::start(&authority, &entra, KeyVaultOptions::default()).await?;
        let client = ClientApp::with_secret(principals::ZAVA_TENANT_ID);
        entra.add_client(client.clone());
        vault.allow(&client.object_id, Permissions::user());
        let kube = KubeApi::start(KubeApiOptions::new(&authority)).await?;
        std::fs::write(directory.path().join("kubeconfig"), kube.kubeconfig())?;

        let cluster = Cluster::start(ClusterOptions::default()).await?;
        let database = cluster.create_database("retail", AdminKind::CreateRole).await?;
        provision::migrate(&database).await?;
        std::fs::copy(cluster.ca_file(), directory.path().join("database-ca.pem"))?;
        let config = format!(
            "keyVaults:\n  - name: main\n    url: {}\ndatabases:\n  - name: retail\n    caFile: {}\n",
            vault.url(),
            directory.path().join("database-ca.pem").display()
        );
        std::fs::write(directory.path().join("config.yaml"), config)?;

        let http = reqwest::Client::builder()
            .add_root_certificate(reqwest::Certificate::from_pem(authority.pem().as_bytes())?);
        let http = http.build()?;
        let gateway = Gateway::start(directory.path(), &entra, &client, "gateway", &[], None, &[]).await?;
        let world = Self { gateway, kube, vault, entra, database, cluster, http, directory, authority, client };
        world.install_crd().await?;
        for tenant in [&ZAVA, &CONTOSO] {
            world.provision(tenant).await?;
        }
        world.ready(&world.gateway).await?;
        Ok(world)
    }

    /// Another gateway beside the first.
    pub async fn another_gateway(&self, name: &str, args: &[&str]) -> Result<Gateway> {
        self.gateway_with_environment(name, args, &[]).await
    }

    /// Another gateway with these variables.
    pub async fn gateway_with_environment(
        &self,
        name: &str,
        args: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Gateway> {
        let directory = self.directory.path();
        let gateway = Gateway::start(directory, &self.entra, &self.client, name, args, None, environment).await?;
        self.ready(&gateway).await?;
        Ok(gateway)
    }

    /// Another gateway with this limit of open files.
    pub async fn gateway_with_open_files(&self, name: &str, args: &[&str], most: u32) -> Result<Gateway> {
        let directory = self.directory.path();
        let gateway = Gateway::start(directory, &self.entra, &self.client, name, args, Some(most), &[]).await?;
        self.ready(&gateway).await?;
        Ok(gateway)
    }

    /// Another gateway that cannot become ready yet.
    pub async fn waiting_gateway(&self, name: &str) -> Result<Gateway> {
        let gateway = Gateway::start(self.directory.path(), &self.entra, &self.client, name, &[], None, &[]).await?;
        until("the gateway answers", Duration::from_secs(20), || async {
            Ok(self.http.get(format!("{}/healthz", gateway.admin)).send().await.is_ok())
        })
        .await?;
        Ok(gateway)
    }

    /// Waits until a gateway is ready and serves both tenants.
    pub async fn ready(&self, gateway: &Gateway) -> Result<()> {
        let url = format!("{}/readyz", gateway.admin);
        let what = format!("{url} is ok; the log is {:?}", gateway.child.log_path());
        until(&what, Duration::from_secs(20), || async {
            Ok(self.http.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()))
        })
        .await?;
        // Ready with the first list, which may have been empty.
        until("the gateway serves both tenants", Duration::from_secs(10), || async {
            Ok(self.metric(gateway, "storefence_tenants{state=\"served\"}").await? >= 2.0)
        })
        .await
    }

    /// The value of one metric; 0 if it is missing.
    pub async fn metric(&self, gateway: &Gateway, name: &str) -> Result<f64> {
        let text = self.http.get(format!("{}/metrics", gateway.admin)).send().await?.text().await?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        Ok(line.unwrap_or(0.0))
    }

    /// A token of a sample principal.
    pub fn token(&self, principal: &str) -> Result<String> {
        let principal = principals::find(principal).context("no such principal")?;
        Ok(self.entra.issue(&TokenRequest::principal(principal))?)
    }

    /// A client of the first gateway.
    pub fn client(&self, token: impl Into<Option<String>>, path: &str, revision: Revision) -> McpClient {
        McpClient::new(self.http.clone(), format!("{}{path}", self.gateway.url), token.into(), revision)
    }

    /// A client as a sample principal.
    pub fn client_as(&self, principal: &str) -> Result<McpClient> {
        Ok(self.client(self.token(principal)?, "/mcp", Revision::V2026_07_28))
    }

    /// A client of another gateway as a sample principal.
    pub fn client_of(&self, gateway: &Gateway, principal: &str) -> Result<McpClient> {
        let url = format!("{}/mcp", gateway.url);
        Ok(McpClient::new(self.http.clone(), url, Some(self.token(principal)?), Revision::V2026_07_28))
    }

    /// Runs a statement as a sample principal.
    pub async fn query(&self, principal: &str, sql: &str) -> Result<Answer> {
        let client = self.client_as(principal)?;
        Ok(client
            .send("tools/call", json!({"name": "execute_sales_query", "arguments": {"postgresql_query": sql}}))
            .await?)
    }

    /// The rows of a statement as a sample principal.
    pub async fn rows(&self, principal: &str, sql: &str) -> Result<Value> {
        let answer = self.query(principal, sql).await?;
        ensure!(answer.status.is_success() && !answer.is_tool_error(), "{sql}: {} {}", answer.status, answer.message);
        Ok(answer.structured()["rows"].clone())
    }

    /// Sets other limits for a tenant, and waits until they are in force for one of its principals; without limits, its
    /// original ones.
    pub async fn limits(&self, tenant: &Tenant, principal: &str, limits: Option<Value>) -> Result<()> {
        let limits = limits.unwrap_or_else(|| tenant.object()["spec"]["gateway"].clone());
        self.patch_spec(tenant.id, json!({"gateway": limits})).await?;
        let client = self.client_as(principal)?;
        let Some(timeout) = limits["statementTimeout"].as_str().and_then(|text| text.strip_suffix('s')) else {
            return Ok(());
        };
        let seconds: f64 = timeout.parse()?;
        until("the limits are in force", Duration::from_secs(5), || async {
            let me = client.call_tool("whoami", json!({})).await?;
            Ok(me.structured()["limits"]["statementTimeoutSeconds"].as_f64() == Some(seconds))
        })
        .await
    }

    /// The gateway's own identity.
    pub const fn credentials(&self) -> &ClientApp {
        &self.client
    }

    /// A superuser's connection.
    pub async fn superuser(&self) -> Result<tokio_postgres::Client> {
        Ok(self.cluster.connect(&self.database.name).await?)
    }

    /// Copies the gateways' logs to a directory that outlives the tests.
    pub fn keep_logs(&self) {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
        for entry in std::fs::read_dir(self.directory.path()).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "log") {
                let copy = target.join(entry.file_name());
                if std::fs::copy(entry.path(), &copy).is_ok() {
                    eprintln!("log: {}", copy.display());
                }
            }
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Gateway {
    async fn start(
        directory: &Path,
        entra: &Entra,
        client: &ClientApp,
        name: &str,
        args: &[&str],
        open_files: Option<u32>,
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let [port, admin_port] = [free_port()?, free_port()?];
        let scheme = if args.contains(&"--tls-cert") { "https" } else { "http" };
        let url = format!("{scheme}://127.0.0.1:{port}");
        let gateway = env!("CARGO_BIN_EXE_storefence-gateway");
        let spawn = match open_files {
            // The shell's process becomes the gateway.
            Some(most) => Spawn::new("sh").args(["-c", &format!("ulimit -n {most} && exec \"$0\" \"$@\""), gateway]),
            None => Spawn::new(gateway),
        };
        let spawn = spawn.env("RUST_LOG", "debug");
        let spawn = environment.iter().fold(spawn, |spawn, (name, value)| spawn.env(name, value));
        let child = spawn
            .args(["run", "--config"])
            .arg(directory.join("config.yaml"))
            .args(if args.contains(&"--log-format") { &[][..] } else { &["--log-format", "json"] })
            .args(["--listen", &format!("127.0.0.1:{port}"), "--admin-listen", &format!("127.0.0.1:{admin_port}")])
            .args([
                "--public-url",
                &url,
                "--audience",
                principals::AUDIENCE,
                "--audience",
                principals::APPLICATION_ID_URI,
            ])
            .args(["--scope", &format!("{}/{}", principals::APPLICATION_ID_URI, principals::SCOPE)])
            .args(["--authority", entra.url(), "--azure-authority-host", entra.url(), "--credential", "client-secret"])
            .args(["--azure-tenant-id", &client.tenant_id, "--azure-client-id", &client.client_id])
            .arg("--ca-file")
            .arg(directory.join("ca.pem"))
            .args(args)
            .env("AZURE_CLIENT_SECRET", client.secret.as_deref().unwrap_or_default())
            .env("KUBECONFIG", directory.join("kubeconfig"))
            .env("OTEL_BSP_SCHEDULE_DELAY", "100")
            .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=wire-tests")
            .log(directory.join(format!("{name}.log")))
            .start()?;
        Ok(Self { child, url, admin: format!("http://127.0.0.1:{admin_port}") })
    }
}

pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Polls until the condition holds.
pub async fn until<F: Future<Output = Result<bool>>>(what: &str, limit: Duration, ask: impl Fn() -> F) -> Result<()> {
    let start = Instant::now();
    loop {
        let last = ask().await;
        if matches!(last, Ok(true)) {
            return Ok(());
        }
        if start.elapsed() > limit {
            last.with_context(|| format!("waited for: {what}"))?;
            anyhow::bail!("not within {limit:?}: {what}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
