//! What is measured: the stack of `cargo xtask up` with the release binaries, at the sample's full scale.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use storefence_devstack::{
    entra::{ClientApp, TokenRequest, principals},
    http::bind_loopback,
    postgres::{AdminKind, Cluster, ClusterOptions, Database},
    process::{Child, Spawn},
    stack::{DatabaseSource, Stack, StackOptions},
};
use tempfile::TempDir;

use crate::wire::Wire;

/// Database connections of one tenant: as many as the closed loop at 16 can use.
pub const CONNECTIONS: usize = 16;

/// Memory as a small server has it. Durability is off, as in the tests: nothing that is measured writes.
const SETTINGS: [(&str, &str); 5] = [
    ("shared_buffers", "512MB"),
    ("effective_cache_size", "2GB"),
    ("work_mem", "16MB"),
    ("maintenance_work_mem", "1GB"),
    ("max_connections", "300"),
];

/// A running stack. The database is reached in the clear, by the gateway and by what it is measured against alike: the
/// stack's TLS endpoint would be this very process.
pub struct World {
    pub stack: Stack,
    /// Its database server.
    pub cluster: Cluster,
    pub database: Database,
    /// Configuration, logs, and what cases write.
    pub directory: TempDir,
    identity: ClientApp,
}

/// A throw-away server with these settings.
pub async fn cluster() -> Result<Cluster> {
    let settings = SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    Ok(Cluster::start(ClusterOptions { settings, ..ClusterOptions::default() }).await?)
}

impl World {
    /// Starts a stack without data, with these RetailTenants.
    pub async fn start(manifests: Vec<(String, String)>) -> Result<Self> {
        let cluster = cluster().await?;
        let database = cluster.create_database("retail", AdminKind::CreateRole).await?;
        let directory = tempfile::tempdir()?;
        let mut options = StackOptions::new(directory.path().to_owned())?;
        options.database = DatabaseSource::Url(database.admin_url.clone());
        options.seed = false;
        options.manifests = manifests;
        // One principal asks for everybody.
        options.gateway_env = ["STOREFENCE_POOL_PER_TENANT", "STOREFENCE_POOL_PER_PRINCIPAL"]
            .map(|name| (name.to_owned(), CONNECTIONS.to_string()))
            .to_vec();
        let stack = Stack::start(options).await?;
        let identity = ClientApp::with_secret(principals::ZAVA_TENANT_ID);
        stack.entra().add_client(identity.clone());
        stack.key_vault().allow(&identity.object_id, storefence_devstack::key_vault::Permissions::user());
        Ok(Self { stack, cluster, database, directory, identity })
    }

    /// Stops everything in order.
    pub async fn stop(self) -> Result<()> {
        self.stack.stop().await;
        self.cluster.stop().await?;
        Ok(())
    }

    /// The gateway's URL.
    pub fn url(&self) -> &str {
        &self.stack.facts().gateway_url
    }

    /// The gateway's process.
    pub fn gateway_pid(&self) -> u32 {
        self.stack.gateway().pid()
    }

    /// A token of a sample principal that outlives the run.
    pub fn token(&self, principal: &str) -> Result<String> {
        let principal = principals::find(principal).context("no such principal")?;
        Ok(self.stack.entra().issue(&TokenRequest::principal(principal).expires_in(7200))?)
    }

    /// Another gateway beside the stack's, with the same surroundings.
    pub fn gateway(&self, name: &str, args: &[&str]) -> Result<Gateway> {
        let path = |name: &str| self.directory.path().join(name);
        let [url, admin] = [free_address()?, free_address()?];
        let facts = self.stack.facts();
        let public = format!("http://{url}");
        let scope = format!("{}/{}", principals::APPLICATION_ID_URI, principals::SCOPE);
        let begun = Instant::now();
        let child = Spawn::new(self.stack.binary("storefence-gateway"))
            .args(["run", "--listen", &url, "--admin-listen", &admin, "--public-url", &public])
            .args(["--authority", &facts.issuer_url, "--scope", &scope])
            .args(["--audience", principals::AUDIENCE])
            .args(args)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("RUST_LOG", "info")
            .env("KUBECONFIG", path("kubeconfig-gateway"))
            .env("STOREFENCE_CONFIG", path("gateway.yaml"))
            .env("STOREFENCE_CA_FILE", &facts.ca_file)
            .env("STOREFENCE_CREDENTIAL", "client-secret")
            .env("AZURE_AUTHORITY_HOST", &facts.issuer_url)
            .env("AZURE_TENANT_ID", &self.identity.tenant_id)
            .env("AZURE_CLIENT_ID", &self.identity.client_id)
            .env("AZURE_CLIENT_SECRET", self.identity.secret.as_deref().unwrap_or_default())
            .log(self.directory.path().join("logs").join(format!("{name}.log")))
            .start()?;
        Ok(Gateway { child, url: public, admin: format!("http://{admin}"), begun })
    }
}

/// A gateway of a case.
pub struct Gateway {
    /// The process.
    pub child: Child,
    /// Where it serves.
    pub url: String,
    admin: String,
    begun: Instant,
}

impl Gateway {
    /// Waits until it is ready; the time since its start.
    pub async fn ready(&mut self, limit: Duration) -> Result<Duration> {
        let request = format!("GET /readyz HTTP/1.1\r\nHost: {}\r\n\r\n", self.admin.trim_start_matches("http://"));
        let request: std::sync::Arc<[u8]> = request.into_bytes().into();
        loop {
            if let Ok(mut wire) = Wire::connect(&self.admin, request.clone()).await
                && matches!(wire.exchange().await, Ok(200))
            {
                return Ok(self.begun.elapsed());
            }
            if !self.child.is_running() || self.begun.elapsed() > limit {
                bail!("a gateway is not ready:\n{}", self.child.log_tail(20));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Ends it.
    pub async fn stop(mut self) -> Result<()> {
        self.child.terminate(Duration::from_secs(30)).await?;
        Ok(())
    }
}

/// The sample tenant Zava with limits that do not get in the way of a load: every call is to be answered, from the
/// database and not from a cache.
pub fn zava() -> Result<(String, String)> {
    let text = std::fs::read_to_string(root().join("examples/zava.yaml")).context("examples/zava.yaml")?;
    let mut object: Value = serde_saphyr::from_str(&text)?;
    object["spec"]["gateway"] = unlimited();
    Ok(("zava".to_owned(), object.to_string()))
}

/// Limits that do not get in the way.
pub fn unlimited() -> Value {
    json!({"maxRows": 100_000, "maxResultBytes": 67_108_864, "statementTimeout": "30s",
        "concurrentCalls": 10_000, "tenantConcurrentCalls": 100_000})
}

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// An address that is free for now.
pub fn free_address() -> Result<String> {
    Ok(bind_loopback()?.local_addr()?.to_string())
}
