//! Puts the parts together, runs them, and takes them down in order.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use storefence_azure::{AzureOptions, OptionsError, SecretStore};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use url::Url;
use zeroize::Zeroizing;

use crate::{
    admin::{self, Admin},
    audit::{self, Audit},
    config::Config,
    data::{
        Data,
        credentials::{Loader, SecretError, SecretSource},
        pool::{PoolSettings, Pools},
    },
    http::{self, App, auth::Access, hosts::Allowed, metadata::Metadata},
    identity::{Identity, TokenSettings, jwks::KeyStore},
    mcp::tools::{Catalogue, Services},
    metrics::Metrics,
    questions::Questions,
    quota::Limiter,
    server::{
        self, Limits, Server,
        tls::{CertificateError, Certificates, Files},
    },
    tenants::{
        directory::Directory,
        watch::{self, Tenants},
    },
};

/// Longest wait for one answer of Key Vault: a caller waits behind it.
const VAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for the vector of a question: a caller waits behind it.
const EMBEDDINGS_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for a free database connection.
const POOL_WAIT: Duration = Duration::from_secs(5);
/// How often unused connections are looked for.
const TIDY: Duration = Duration::from_secs(15);
/// Connections of the admin address: probes and scrapes.
const ADMIN_CONNECTIONS: usize = 256;
/// How long after SIGTERM new connections are still taken: load balancers learn from readiness, with a delay.
const LAME_DUCK: Duration = Duration::from_millis(500);

/// Everything that `run` needs, checked.
#[derive(Debug)]
pub struct Settings {
    /// Vaults and trust roots.
    pub config: Config,
    /// Public address.
    pub listen: SocketAddr,
    /// TLS on the public address.
    pub tls: Option<Files>,
    /// Most connections of clients.
    pub max_connections: usize,
    /// Admin address.
    pub admin_listen: SocketAddr,
    /// URL that clients use.
    pub public_url: Url,
    /// Which tokens are accepted.
    pub tokens: TokenSettings,
    /// Override for the metadata document.
    pub authorization_server: Option<Url>,
    /// Host and Origin lists.
    pub allowed: Allowed,
    /// Most connections of one tenant.
    pub pool_per_tenant: usize,
    /// Most connections of all tenants.
    pub pool_total: usize,
    /// Life of an unused connection.
    pub pool_idle: Duration,
    /// Time for calls under way after SIGTERM.
    pub drain: Duration,
    /// Directory of RetailTenant YAML instead of a cluster.
    pub tenants: Option<PathBuf>,
    /// Where audit lines go.
    pub audit: audit::Target,
    /// How long clients may take for headers, and again for a body.
    pub client_timeout: Duration,
    /// Our own identity, and trust roots.
    pub azure: AzureOptions,
}

/// Why the gateway ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Azure options.
    #[error(transparent)]
    Azure(#[from] OptionsError),
    /// No way to the Kubernetes API.
    #[error("KUBECONFIG: no usable Kubernetes configuration: {0}")]
    Kubernetes(String),
    /// The directory of tenants cannot be read.
    #[error("--tenants (STOREFENCE_TENANTS): {0}: {1}")]
    Directory(String, std::io::Error),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] audit::AuditError),
    /// The certificate of the public address.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// An address cannot be bound.
    #[error("{flag}: {address} cannot be bound: {source}")]
    Bind {
        /// The flag.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The runtime, signals, metrics: things that do not fail.
    #[error("the process cannot be set up: {0}")]
    Setup(String),
}

impl RunError {
    /// Whether the user's configuration is the cause.
    #[must_use]
    pub const fn is_configuration(&self) -> bool {
        matches!(
            self,
            Self::Azure(_) | Self::Kubernetes(_) | Self::Directory(..) | Self::Audit(_) | Self::Certificate(_)
        )
    }
}

fn setup(error: impl std::fmt::Display) -> RunError {
    RunError::Setup(error.to_string())
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// [`RunError`].
pub fn run(settings: Settings) -> Result<(), RunError> {
    // Before anything makes a TLS configuration. An error means that it is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(setup)?;
    let done = runtime.block_on(serve(settings));
    // Tasks that cancel statements at the server get a moment.
    runtime.shutdown_timeout(Duration::from_secs(3));
    done
}

async fn serve(settings: Settings) -> Result<(), RunError> {
    let Settings {
        config,
        listen,
        tls,
        max_connections,
        admin_listen,
        public_url,
        tokens,
        authorization_server,
        allowed,
        pool_per_tenant,
        pool_total,
        pool_idle,
        drain,
        tenants: directory,
        audit,
        client_timeout,
        azure,
    } = settings;
    let metrics = Arc::new(Metrics::new().map_err(setup)?);
    let tenants = Arc::new(Tenants::default());

    let outgoing = storefence_azure::client(azure.ca_file.as_deref(), VAULT_TIMEOUT).map_err(OptionsError::from)?;
    let keys = Arc::new(KeyStore::new(tokens.authority.clone(), outgoing, metrics.clone()));
    let identity = Identity::new(&tokens, keys.clone(), metrics.clone());

    let vaults = Arc::new(Vaults::new(&azure, &config.key_vaults)?);
    let loader = Loader::new(vaults, config.roots, metrics.clone());
    let sizes = PoolSettings { per_tenant: pool_per_tenant, total: pool_total, wait: POOL_WAIT, idle: pool_idle };
    let data = Data::new(Pools::new(sizes, loader, metrics.clone()), metrics.clone());
    let provider = config.embeddings.map(|config| azure.embeddings(&config, EMBEDDINGS_TIMEOUT)).transpose()?;
    let questions = Questions::new(provider, metrics.clone());
    let audit = Arc::new(Audit::open(&audit, metrics.clone())?);
    let (tools, quotas) = (Catalogue::default(), Limiter::default());
    let services = Arc::new(Services { tools, data, questions, quotas, audit, metrics: metrics.clone() });

    let source = match directory {
        Some(path) => {
            let opened = Directory::open(path.clone())
                .map_err(|error| RunError::Directory(path.display().to_string(), error))?;
            Source::Directory(opened)
        }
        None => {
            let failed = |error: &dyn std::fmt::Display| RunError::Kubernetes(error.to_string());
            let config = kube::Config::infer().await.map_err(|error| failed(&error))?;
            Source::Cluster(kube::Client::try_from(config).map_err(|error| failed(&error))?)
        }
    };

    let metadata = Metadata::new(&public_url, &tokens, authorization_server, tenants.clone());
    let metadata = Arc::new(metadata);
    let stop = CancellationToken::new();
    let ending = CancellationToken::new();
    let app = Arc::new(App {
        access: Access::new(identity, &tokens, tenants.clone(), metadata.clone(), metrics.clone()),
        metadata,
        allowed,
        calls: Arc::default(),
        body_timeout: client_timeout,
        metrics: metrics.clone(),
        mcp: http::mcp_service(services.clone(), ending.clone()),
    });
    let admin = Arc::new(Admin {
        tenants: tenants.clone(),
        keys: keys.clone(),
        metrics: metrics.clone(),
        draining: AtomicBool::new(false),
    });

    let tls = tls.map(|files| Certificates::open(files, metrics.clone())).transpose()?;
    let bound = |flag, address| move |source| RunError::Bind { flag, address, source };
    let admin_listener = server::bind(admin_listen, "admin")
        .await
        .map_err(bound("--admin-listen (STOREFENCE_ADMIN_LISTEN)", admin_listen))?;
    let listener = server::bind(listen, "gateway").await.map_err(bound("--listen (STOREFENCE_LISTEN)", listen))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(setup)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(setup)?;

    // Dropped at the end of this function, which aborts them.
    let mut background = JoinSet::new();
    match source {
        Source::Directory(directory) => background.spawn(directory.follow(tenants.clone(), metrics.clone())),
        Source::Cluster(client) => background.spawn(watch::follow(client, tenants.clone(), metrics.clone())),
    };
    background.spawn(follow_directories(tenants.clone(), keys.clone()));
    background.spawn(async move { keys.keep_fresh().await });
    background.spawn(tidy(services.clone(), tenants));
    let admin_stop = CancellationToken::new();
    let limits = Limits { client: client_timeout, drain: Duration::ZERO, connections: ADMIN_CONNECTIONS };
    let router = admin::router(admin.clone());
    let server = Server { listener: admin_listener, tls: None, router, limits, metrics: metrics.clone() };
    background.spawn(server.serve(admin_stop.clone()));
    if let Some(tls) = &tls {
        background.spawn(tls.clone().follow());
    }
    let limits = Limits { client: client_timeout, drain, connections: max_connections };
    let server = Server { listener, tls, router: http::router(app), limits, metrics };
    let public = tokio::spawn(server.serve(stop.clone()));

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping: no longer ready, draining calls under way");
    admin.draining.store(true, Ordering::Release);
    tokio::time::sleep(LAME_DUCK).await;
    stop.cancel();
    let served = public.await;
    // Whatever rmcp still holds ends here, and with it its statement at the server.
    ending.cancel();
    services.data.pools().close();
    admin_stop.cancel();
    served.map_err(setup)?;
    tracing::info!("stopped");
    Ok(())
}

/// Where tenants come from.
enum Source {
    Directory(Directory),
    Cluster(kube::Client),
}

/// Keeps the directories whose keys are held in step with the tenants. Before the first list there is nothing to hold,
/// and readiness waits for the list.
async fn follow_directories(tenants: Arc<Tenants>, keys: Arc<KeyStore>) {
    loop {
        let directories = tenants.load().directories();
        keys.keep(&directories);
        tenants.changed().await;
    }
}

async fn tidy(services: Arc<Services>, tenants: Arc<Tenants>) {
    let mut ticks = tokio::time::interval(TIDY);
    loop {
        ticks.tick().await;
        let snapshot = tenants.load_full();
        services.data.pools().tidy(|id| snapshot.get(id).is_some());
    }
}

/// The vaults of the configuration, by name.
struct Vaults(HashMap<String, SecretStore>);

impl Vaults {
    fn new(azure: &AzureOptions, vaults: &HashMap<String, Url>) -> Result<Self, OptionsError> {
        let credential = azure.credential()?;
        let store = |url: &Url| azure.secret_store(credential.clone(), url, VAULT_TIMEOUT);
        vaults.iter().map(|(name, url)| Ok((name.clone(), store(url)?))).collect::<Result<_, _>>().map(Self)
    }
}

impl SecretSource for Vaults {
    fn read<'a>(
        &'a self,
        vault: &'a str,
        name: &'a str,
        version: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Zeroizing<String>, SecretError>> {
        Box::pin(async move {
            let unknown = || SecretError(format!("the configuration names no Key Vault '{vault}'"));
            let store = self.0.get(vault).ok_or_else(unknown)?;
            let secret = store.get(name, version).await.map_err(|error| SecretError(error.to_string()))?;
            Ok(Zeroizing::new(secret.value.expose().to_owned()))
        })
    }
}
