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
use storefence_runtime::{AzureOptions, OptionsError, SecretStore};
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
    cache::Answers,
    cli::LogFormat,
    config::Config,
    db::{
        Data,
        credentials::{Loader, SecretError, SecretSource},
        life::Span,
        pool::{PoolSettings, Pools},
        trust,
    },
    doctor::Doctor,
    http::{self, App, auth::Access, hosts::Allowed, metadata::Metadata},
    identity::{Identity, TokenSettings, jwks::KeyStore},
    mcp::Gateway,
    metrics::Metrics,
    performance::Monitor,
    questions::Questions,
    quota::Limiter,
    redis::{Redis, RedisSetupError, RedisUrl},
    server::{
        self, Limits, Server,
        tls::{CertificateError, Certificates, Files},
    },
    telemetry::{
        self,
        otlp::{TraceError, TraceSettings},
    },
    tenants::{
        directory::Directory,
        watch::{self, Tenants},
    },
    tools::{Catalogue, Services, budget::Budget},
};

/// Longest wait for one answer of Key Vault: a caller waits behind it.
pub(crate) const VAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for the vector of a question: a caller waits behind it.
pub(crate) const EMBEDDINGS_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for a free database connection.
const POOL_WAIT: Duration = Duration::from_secs(5);
/// How often unused connections are looked for.
const TIDY: Duration = Duration::from_secs(5);
/// Connections of the admin address: probes and scrapes.
const ADMIN_CONNECTIONS: usize = 64;
/// Longest wait, at the end, until statements that were cut off have ended at the server.
const CANCELLING: Duration = Duration::from_secs(2);
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
    /// How often signing keys are fetched in the background.
    pub jwks_refresh: Duration,
    /// Most verified tokens that are remembered.
    pub token_cache: u32,
    /// Host and Origin lists.
    pub allowed: Allowed,
    /// Most connections of one tenant.
    pub pool_per_tenant: usize,
    /// Most of them for the statements of one principal.
    pub pool_per_principal: u32,
    /// Most connections of one tenant for principals whose statements ran long lately.
    pub pool_long_per_tenant: usize,
    /// Most connections of all tenants.
    pub pool_total: usize,
    /// Life of an unused connection.
    pub pool_idle: Duration,
    /// Life of a connection in use.
    pub pool_life: Span,
    /// Time for calls under way after SIGTERM.
    pub drain: Duration,
    /// Directory of RetailTenant YAML instead of a cluster.
    pub tenants: Option<PathBuf>,
    /// Where audit lines go.
    pub audit: audit::Target,
    /// What replicas share quotas through.
    pub redis: Option<RedisUrl>,
    /// Where spans go.
    pub traces: Option<TraceSettings>,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// Most bytes of kept answers in memory.
    pub cache_bytes: u64,
    /// Statements that take this long are logged.
    pub slow_after: Duration,
    /// How much of an answer a model can hold.
    pub budget: Budget,
    /// How long clients may take for headers, and again for a body.
    pub client_timeout: Duration,
    /// How long a connection is kept between two requests.
    pub keep_alive: Duration,
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
    /// Redis.
    #[error(transparent)]
    Redis(#[from] RedisSetupError),
    /// Traces.
    #[error(transparent)]
    Traces(#[from] TraceError),
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
            Self::Azure(_)
                | Self::Kubernetes(_)
                | Self::Directory(..)
                | Self::Audit(_)
                | Self::Redis(_)
                | Self::Traces(_)
                | Self::Certificate(_)
        )
    }
}

pub(crate) fn setup(error: impl std::fmt::Display) -> RunError {
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
    // Threads that block, on a name's look-up for one, get a moment.
    runtime.shutdown_timeout(Duration::from_secs(1));
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
        jwks_refresh,
        token_cache,
        allowed,
        pool_per_tenant,
        pool_per_principal,
        pool_long_per_tenant,
        pool_total,
        pool_idle,
        pool_life,
        drain,
        tenants: directory,
        audit,
        redis,
        traces,
        log_format,
        cache_bytes,
        slow_after,
        budget,
        client_timeout,
        keep_alive,
        azure,
    } = settings;
    let metrics = Arc::new(Metrics::new().map_err(setup)?);
    let traces = telemetry::init_with_traces(log_format, traces.as_ref(), &metrics)?;
    let tenants = Arc::new(Tenants::default());

    let outgoing = storefence_runtime::client(azure.ca_file.as_deref(), VAULT_TIMEOUT).map_err(OptionsError::from)?;
    let keys = KeyStore::new(tokens.authority.clone(), outgoing, metrics.clone()).refreshed_every(jwks_refresh);
    let keys = Arc::new(keys);
    let identity = Identity::new(&tokens, keys.clone(), &metrics).remembering(token_cache);

    let vaults = Arc::new(Vaults::new(&azure, &config.key_vaults)?);
    let examined = Loader::new(vaults.clone(), config.roots.clone(), metrics.clone());
    let roots = config.roots;
    let loader = Loader::new(vaults, roots.clone(), metrics.clone());
    let sizes = PoolSettings {
        per_tenant: pool_per_tenant,
        per_principal: pool_per_principal,
        long_per_tenant: pool_long_per_tenant,
        total: pool_total,
        wait: POOL_WAIT,
        idle: pool_idle,
        life: pool_life,
    };
    let data = Arc::new(Data::new(Pools::new(sizes, loader, metrics.clone()), metrics.clone()));
    let provider = config.embeddings.map(|config| azure.embeddings(&config, EMBEDDINGS_TIMEOUT)).transpose()?;
    let questions = Questions::new(provider, metrics.clone());
    let audit = Arc::new(Audit::open(&audit, metrics.clone())?);
    let redis = redis.map(|url| Redis::new(url, azure.ca_file.as_deref(), metrics.clone())).transpose()?;
    let (tools, quotas) = (Catalogue::new(budget), Limiter::new(redis.clone()));
    let answers = Answers::new(cache_bytes, redis.clone(), metrics.clone());
    let performance = Arc::new(Monitor::new(slow_after, metrics.clone()));
    let services = Arc::new(Services { tools, data, questions, performance, metrics: metrics.clone() });
    let gateway = Arc::new(Gateway { services: services.clone(), quotas, answers, audit });

    let source = Source::open(directory).await?;

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
        gateway: gateway.clone(),
        mcp: http::mcp_service(gateway.clone(), ending.clone()),
    });
    let admin = Arc::new(Admin {
        tenants: tenants.clone(),
        keys: keys.clone(),
        metrics: metrics.clone(),
        gateway,
        doctor: Doctor {
            tenants: tenants.clone(),
            keys: keys.clone(),
            loader: examined,
            redis,
            metrics: metrics.clone(),
            last: tokio::sync::Mutex::default(),
        },
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
    background.spawn(source.follow(tenants.clone(), metrics.clone()));
    background.spawn(follow_directories(tenants.clone(), keys.clone()));
    background.spawn(async move { keys.keep_fresh().await });
    background.spawn(trust::follow(roots));
    background.spawn(tidy(services.clone(), tenants));
    let admin_stop = CancellationToken::new();
    let limits =
        Limits { client: client_timeout, idle: keep_alive, drain: Duration::ZERO, connections: ADMIN_CONNECTIONS };
    let router = admin::router(admin.clone());
    let server = Server { listener: admin_listener, tls: None, router, limits, metrics: metrics.clone() };
    background.spawn(server.serve(admin_stop.clone()));
    if let Some(tls) = &tls {
        background.spawn(tls.clone().follow());
    }
    let connections = server::affordable(max_connections, ADMIN_CONNECTIONS + pool_total);
    let limits = Limits { client: client_timeout, idle: keep_alive, drain, connections };
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
    services.data.pools().close(CANCELLING).await;
    admin_stop.cancel();
    served.map_err(setup)?;
    traces.end().await;
    tracing::info!("stopped");
    Ok(())
}

/// Where tenants come from.
pub(crate) enum Source {
    Directory(Directory),
    Cluster(kube::Client),
}

impl Source {
    /// The directory, or the cluster where none is given.
    pub(crate) async fn open(directory: Option<PathBuf>) -> Result<Self, RunError> {
        let Some(path) = directory else {
            let failed = |error: &dyn std::fmt::Display| RunError::Kubernetes(error.to_string());
            let config = kube::Config::infer().await.map_err(|error| failed(&error))?;
            let client =
                storefence_runtime::kubernetes_client(config, crate::USER_AGENT).map_err(|error| failed(&error))?;
            return Ok(Self::Cluster(client));
        };
        let opened = Directory::open(path.clone());
        opened.map(Self::Directory).map_err(|error| RunError::Directory(path.display().to_string(), error))
    }

    /// Follows it for ever.
    pub(crate) async fn follow(self, tenants: Arc<Tenants>, metrics: Arc<Metrics>) {
        match self {
            Self::Directory(directory) => directory.follow(tenants, metrics).await,
            Self::Cluster(client) => watch::follow(client, tenants, metrics).await,
        }
    }
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
pub(crate) struct Vaults(HashMap<String, SecretStore>);

impl Vaults {
    pub(crate) fn new(azure: &AzureOptions, vaults: &HashMap<String, Url>) -> Result<Self, OptionsError> {
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
