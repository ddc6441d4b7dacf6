//! `storefence-gateway run`: assembles the parts, serves, and drains.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use storefence_runtime::OptionsError;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{self, Admin},
    audit::{Audit, AuditError},
    cache::Answers,
    db::{Data, credentials::Loader, pool::Pools},
    doctor::Doctor,
    http::{self, App, auth::Access, metadata::Metadata},
    identity::{Identity, jwks::KeyStore},
    mcp::Gateway,
    metrics::Metrics,
    performance::Monitor,
    questions::{self, Questions},
    quota::Limiter,
    redis::{Redis, RedisSetupError},
    server::{
        self, Limits, Server,
        tls::{CertificateError, Certificates},
    },
    settings::{AccessSettings, Listening, Settings},
    telemetry::{self, otlp::TraceError},
    tenants::{
        source::{Source, SourceError},
        watch::Tenants,
    },
    tools::{Catalogue, Services},
    trust::{self, Roots},
    vaults::{self, Vaults},
};

/// How often unused database connections are searched for.
const TIDY: Duration = Duration::from_secs(5);
/// Connections of the admin address: probes and scrapes.
const ADMIN_CONNECTIONS: usize = 64;
/// Longest wait at shutdown for cancelled statements to end at the server.
const CANCELLING: Duration = Duration::from_secs(2);
/// How long new connections are accepted after SIGTERM: load balancers learn from readiness, with a delay.
const LAME_DUCK: Duration = Duration::from_millis(500);

/// Why the gateway ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Azure(#[from] OptionsError),
    /// The source of the tenants.
    #[error(transparent)]
    Tenants(#[from] SourceError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error(transparent)]
    Redis(#[from] RedisSetupError),
    #[error(transparent)]
    Traces(#[from] TraceError),
    /// The certificate of the public address.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// An address cannot be bound.
    #[error("{flag}: {address} cannot be bound: {source}")]
    Bind {
        flag: &'static str,
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
        !matches!(self, Self::Bind { .. } | Self::Setup(_))
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
    // Threads that block, in a DNS look-up for one, get a moment.
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

/// The parts of a gateway, connected.
struct Parts {
    gateway: Arc<Gateway>,
    app: Arc<App>,
    admin: Arc<Admin>,
    source: Source,
    roots: Roots,
}

/// Connects the parts. `ending` ends the calls that are still in progress.
async fn assemble(
    settings: Settings,
    metrics: &Arc<Metrics>,
    ending: &CancellationToken,
) -> Result<(Listening, Parts), RunError> {
    let Settings {
        config,
        listening,
        access,
        pools,
        tenants: directory,
        audit,
        redis,
        traces: _,
        log_format: _,
        cache_bytes,
        slow_after,
        budget,
        azure,
    } = settings;
    let AccessSettings { public_url, tokens, authorization_server, jwks_refresh, token_cache, allowed } = access;
    let tenants = Arc::new(Tenants::default());

    let https = storefence_runtime::client(azure.ca_file.as_deref(), vaults::TIMEOUT).map_err(OptionsError::from)?;
    let keys = KeyStore::new(tokens.authority.clone(), https, metrics.clone()).refreshed_every(jwks_refresh);
    let keys = Arc::new(keys);
    let identity = Identity::new(&tokens, keys.clone(), metrics).remembering(token_cache);

    let vaults = Arc::new(Vaults::new(&azure, &config.key_vaults)?);
    let loader = || Loader::new(vaults.clone(), config.roots.clone(), metrics.clone());
    let data = Arc::new(Data::new(Pools::new(pools, loader(), metrics.clone()), metrics.clone()));
    let provider = config.embeddings.as_ref().map(|config| azure.embeddings(config, questions::TIMEOUT)).transpose()?;
    let questions = Questions::new(provider, metrics.clone());
    let audit = Arc::new(Audit::open(&audit, metrics.clone())?);
    let redis = redis.map(|url| Redis::new(url, azure.ca_file.as_deref(), metrics.clone())).transpose()?;
    let performance = Arc::new(Monitor::new(slow_after, metrics.clone()));
    let tools = Catalogue::new(budget);
    let services = Arc::new(Services { tools, data, questions, performance, metrics: metrics.clone() });
    let quotas = Limiter::new(redis.clone());
    let answers = Answers::new(cache_bytes, redis.clone(), metrics.clone());
    let gateway = Arc::new(Gateway { services, quotas, answers, audit });

    let source = Source::open(directory).await?;

    let metadata = Metadata::new(&public_url, &tokens, authorization_server, tenants.clone());
    let metadata = Arc::new(metadata);
    let app = Arc::new(App {
        access: Access::new(identity, &tokens, tenants.clone(), metadata.clone(), metrics.clone()),
        metadata,
        allowed,
        calls: Arc::default(),
        body_timeout: listening.client_timeout,
        metrics: metrics.clone(),
        gateway: gateway.clone(),
        mcp: http::mcp_service(gateway.clone(), ending.clone()),
    });
    let doctor = Doctor {
        tenants: tenants.clone(),
        keys: keys.clone(),
        loader: loader(),
        redis,
        metrics: metrics.clone(),
        last: tokio::sync::Mutex::default(),
    };
    let admin = Arc::new(Admin {
        tenants,
        keys,
        metrics: metrics.clone(),
        gateway: gateway.clone(),
        doctor,
        draining: AtomicBool::new(false),
    });
    Ok((listening, Parts { gateway, app, admin, source, roots: config.roots }))
}

async fn serve(settings: Settings) -> Result<(), RunError> {
    let metrics = Arc::new(Metrics::new().map_err(setup)?);
    let traces = telemetry::init_with_traces(settings.log_format, settings.traces.as_ref(), &metrics)?;
    let pool_total = settings.pools.total;
    let ending = CancellationToken::new();
    let (listening, parts) = assemble(settings, &metrics, &ending).await?;
    let Listening { public, tls, max_connections, admin: admin_address, client_timeout, keep_alive, drain } = listening;
    let Parts { gateway, app, admin, source, roots } = parts;

    let tls = tls.map(|files| Certificates::open(files, metrics.clone())).transpose()?;
    let bound = |flag, address| move |source| RunError::Bind { flag, address, source };
    let admin_listener = server::bind(admin_address, "admin")
        .await
        .map_err(bound("--admin-listen (STOREFENCE_ADMIN_LISTEN)", admin_address))?;
    let listener = server::bind(public, "gateway").await.map_err(bound("--listen (STOREFENCE_LISTEN)", public))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(setup)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(setup)?;

    // Dropped at the end of this function, which aborts them.
    let mut background = in_the_background(&admin, source, roots);
    let (stop, admin_stop) = (CancellationToken::new(), CancellationToken::new());
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
    let serving = tokio::spawn(server.serve(stop.clone()));

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping: no longer ready, draining calls under way");
    admin.draining.store(true, Ordering::Release);
    tokio::time::sleep(LAME_DUCK).await;
    stop.cancel();
    let served = serving.await;
    // Whatever rmcp still holds ends here, and with it its statement at the server.
    ending.cancel();
    gateway.services.data.pools().close(CANCELLING).await;
    admin_stop.cancel();
    served.map_err(setup)?;
    traces.end().await;
    tracing::info!("stopped");
    Ok(())
}

/// Starts what runs beside the calls: it follows tenants, signing keys and trust roots, and closes unused connections.
fn in_the_background(admin: &Admin, source: Source, roots: Roots) -> JoinSet<()> {
    let (tenants, keys) = (admin.tenants.clone(), admin.keys.clone());
    let mut background = JoinSet::new();
    background.spawn(source.follow(tenants.clone(), admin.metrics.clone()));
    background.spawn(follow_directories(tenants.clone(), keys.clone()));
    background.spawn(async move { keys.keep_fresh().await });
    background.spawn(trust::follow(roots));
    background.spawn(tidy(admin.gateway.services.clone(), tenants));
    background
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
