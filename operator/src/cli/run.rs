//! `run`: everything that a `RetailTenant` asks for, until it is stopped.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use clap::Args;
use storefence_runtime::AzureOptions;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{
    CliError, ConfigArgs,
    reload::{InForce, Reload},
};
use crate::{
    backends::Backends,
    circuit::CircuitPolicy,
    controller::{Controller, ControllerFacts, RetryPolicy, Settings},
    database::{Limits, fence::Mending},
    embed,
    leader::{Election, Leadership},
    metrics::Metrics,
    server,
    vault::VaultFactory,
};

/// How long running passes may take to end after the signal.
const DRAIN: Duration = Duration::from_secs(30);

/// How often circuits are looked at.
const CIRCUITS: Duration = Duration::from_millis(250);

/// How often tenants without a RetailTenant are looked for, at most.
const CLAIMS: Duration = Duration::from_secs(60);

/// How old a look at the whole fence of a database may be when a tenant is reported Ready.
const FENCE_AGE: Duration = Duration::from_secs(10);

/// `run`.
#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    config: ConfigArgs,

    /// Address of health and metrics.
    #[arg(long, env = "STOREFENCE_ADMIN_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:9090")]
    admin_listen: SocketAddr,

    /// How often an unchanged tenant is looked at, for example 5m.
    #[arg(long, env = "STOREFENCE_RESYNC", value_parser = duration, default_value = "5m")]
    resync: Duration,

    /// Passes at a time over the tenants of one database and Key Vault.
    #[arg(long, env = "STOREFENCE_CONCURRENCY", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    concurrency: u16,

    /// First wait after a failure; it doubles with each further one.
    #[arg(long, env = "STOREFENCE_RETRY_BASE", value_parser = duration, default_value = "5s")]
    retry_base: Duration,

    /// Longest wait after a failure.
    #[arg(long, env = "STOREFENCE_RETRY_MAX", value_parser = duration, default_value = "5m")]
    retry_max: Duration,

    /// Work only while holding the Lease storefence-operator in the operator's own namespace: for several replicas.
    #[arg(long, env = "STOREFENCE_LEADER_ELECT")]
    leader_elect: bool,

    /// How long a silent leader is believed to be there.
    #[arg(long, env = "STOREFENCE_LEASE_DURATION", value_parser = duration, default_value = "15s")]
    lease_duration: Duration,

    /// How often products without an up-to-date vector are looked for, where an embeddings provider is configured.
    #[arg(long, env = "STOREFENCE_EMBED_INTERVAL", value_parser = duration, default_value = "10m")]
    embed_interval: Duration,

    /// How long a tenant in a database may be without its RetailTenant, as after the restore of a backup, before its access
    /// ends.
    #[arg(long, env = "STOREFENCE_UNCLAIMED_GRACE", value_parser = duration, default_value = "15m")]
    unclaimed_grace: Duration,

    /// Longest wait for one answer of a database or vault.
    #[arg(long, env = "STOREFENCE_CALL_TIMEOUT", value_parser = duration, default_value = "10s")]
    call_timeout: Duration,

    #[command(flatten)]
    azure: AzureOptions,
}

/// Reads `500ms`, `30s`, `5m`, `720h`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let expected = || format!("'{text}' is not a duration such as 500ms, 30s, 5m or 1h");
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).ok_or_else(expected)?);
    let number: u64 = digits.parse().map_err(|_| expected())?;
    let factor = match unit {
        "ms" => return Ok(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(expected()),
    };
    number.checked_mul(factor).filter(|seconds| *seconds > 0).map(Duration::from_secs).ok_or_else(expected)
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(arguments: Run) -> Result<ExitCode, CliError> {
    let Run {
        config,
        admin_listen,
        resync,
        concurrency,
        retry_base,
        retry_max,
        call_timeout,
        leader_elect,
        lease_duration,
        embed_interval,
        unclaimed_grace,
        azure,
    } = arguments;
    let config_path = config.path()?.clone();
    let config = config.load()?;
    let metrics = Arc::new(Metrics::new().context("metrics")?);
    let embedding = embed::keep(config_path.clone(), azure.clone(), Arc::clone(&metrics), embed_interval);
    let vaults = VaultFactory::new(azure, Arc::clone(&metrics), call_timeout)?;
    let leadership = if leader_elect { Leadership::elected(lease_duration) } else { Leadership::alone() };
    let limits = Limits {
        concurrency,
        deadline: call_timeout,
        fence_age: resync.min(FENCE_AGE),
        circuit: CircuitPolicy::new(retry_base, retry_max),
        leadership: leadership.clone(),
    };
    let (in_force, backends) = InForce::new(config, vaults, limits).await?;
    let backends = Arc::new(ArcSwap::from_pointee(backends));
    let client = super::kubernetes().await.context("Kubernetes: KUBECONFIG or in-cluster configuration")?;

    let stop = CancellationToken::new();
    let listener = server::bind(admin_listen).await.with_context(|| format!("--admin-listen {admin_listen}"))?;
    let settings = Settings {
        concurrency,
        call_deadline: call_timeout,
        resync,
        retry: RetryPolicy { base: retry_base, max: retry_max.max(retry_base) },
        // Room for every call of a pass to take its time, and still an end.
        pass_deadline: call_timeout * 12,
    };
    let candidacy = || Election::new(client.clone(), client.default_namespace(), lease_duration, leadership.clone());
    let election = leader_elect.then(candidacy);
    let controller =
        Controller { client, backends: Arc::clone(&backends), metrics: Arc::clone(&metrics), settings, leadership };
    let (facts, controlling) = controller.start(stop.child_token());
    let reload = Reload {
        path: config_path,
        in_force,
        backends: Arc::clone(&backends),
        facts: Arc::clone(&facts),
        metrics: Arc::clone(&metrics),
    };
    let asking = Arc::clone(&facts);
    let asking = async move { asking.ask_the_api().await };
    let asking = tokio::spawn(stop.child_token().run_until_cancelled_owned(asking));
    let waking = watch_circuits(Arc::clone(&backends), Arc::clone(&facts));
    let waking = tokio::spawn(stop.child_token().run_until_cancelled_owned(waking));
    let reloading = tokio::spawn(stop.child_token().run_until_cancelled_owned(reload.run()));
    // Without an election there is nobody to stand by for.
    metrics.leader.set(i64::from(election.is_none()));
    let claims_of = Arc::clone(&facts);
    let admin = tokio::spawn(server::serve(listener, facts, stop.child_token()));
    if let Some(election) = &election {
        tokio::select! {
            () = election.acquire() => {}
            () = signalled() => return Ok(ExitCode::SUCCESS),
        }
    }
    metrics.leader.set(1);
    migrate_all(&backends.load());
    let claims =
        watch_claims(Arc::clone(&backends), claims_of, Arc::clone(&metrics), resync.min(CLAIMS), unclaimed_grace);
    let claims = tokio::spawn(stop.child_token().run_until_cancelled_owned(claims));
    let mut controlling = tokio::spawn(controlling);
    let embedding = tokio::spawn(stop.child_token().run_until_cancelled_owned(embedding));

    let outcome = tokio::select! {
        () = signalled() => Ok(()),
        () = lost(election.as_ref()) => Err(anyhow::anyhow!("leadership is lost: this replica starts over")),
        ended = &mut controlling => Err(anyhow::anyhow!("the controller ended by itself: {ended:?}")),
    };
    tracing::info!("stopping: running passes may end");
    stop.cancel();
    // Ends at its next await; nothing depends on it.
    drop((reloading, embedding, waking, asking, claims));
    if outcome.is_ok() && tokio::time::timeout(DRAIN, controlling).await.is_err() {
        tracing::warn!("passes did not end in time and are dropped");
    }
    for (_, database) in backends.load().databases() {
        // Bounded, because a server that does not answer must not keep us.
        let _ = tokio::time::timeout(Duration::from_secs(2), database.close()).await;
    }
    if let Some(election) = &election {
        let _ = tokio::time::timeout(Duration::from_secs(2), election.release()).await;
    }
    let _ = tokio::time::timeout(Duration::from_secs(2), admin).await;
    outcome?;
    Ok(ExitCode::SUCCESS)
}

/// Migrates every database and looks at its fence, without waiting: one that is away must not keep the others' tenants.
/// What fails here is tried again, and reported in the status, by the first pass over a tenant of that database.
pub(super) fn migrate_all(backends: &Backends) {
    for (name, database) in backends.databases() {
        // A replica that stands by reads its configuration again as well; it comes here once it leads.
        if database.may_write().is_err() {
            continue;
        }
        let (name, database) = (name.to_owned(), Arc::clone(database));
        tokio::spawn(async move {
            if let Err(error) = database.ready().await {
                tracing::warn!(database = name, "{error}");
                return;
            }
            // Also without any tenant: the tenant's protected tables are put behind the fence, and what is open is reported.
            match database.look_at_fence(Mending::Tables).await {
                Ok((found, _)) => found.deviations.iter().for_each(|found| tracing::warn!(database = name, "{found}")),
                Err(error) => tracing::warn!(database = name, "{error}"),
            }
        });
    }
}

/// Tries databases and vaults again whose calls are held back, and wakes their tenants when they are back: each tenant
/// alone would come back at the end of its own wait.
async fn watch_circuits(backends: Arc<ArcSwap<Backends>>, facts: Arc<ControllerFacts>) {
    let mut held = BTreeSet::new();
    let mut recovered = BTreeMap::new();
    loop {
        tokio::time::sleep(CIRCUITS).await;
        let backends = backends.load_full();
        let databases = backends.databases().map(|(name, database)| {
            if database.circuit().is_due() {
                let database = Arc::clone(database);
                tokio::spawn(async move { database.try_again().await });
            }
            (("database", name.to_owned()), database.circuit().is_open(), database.circuit().closings())
        });
        let vaults = backends.named_vaults().map(|(name, vault)| {
            if vault.circuit().is_due() {
                let vault = Arc::clone(vault);
                tokio::spawn(async move { vault.try_again().await });
            }
            (("key_vault", name.to_owned()), vault.circuit().is_open(), vault.circuit().closings())
        });
        for (backend, now, recoveries) in databases.chain(vaults) {
            // It may have opened and closed since the last look.
            let again = recovered.insert(backend.clone(), recoveries).is_some_and(|before| before < recoveries);
            if now && held.insert(backend.clone()) {
                tracing::warn!(backend = backend.0, name = backend.1, "calls are held back until one succeeds");
            } else if !now && (held.remove(&backend) || again) {
                let (kind, name) = backend;
                tracing::info!(backend = kind, name, "calls go through again");
                facts.look_at(|tenant| match kind {
                    "database" => tenant.spec.database_ref.name == name,
                    _ => tenant.spec.key_vault_ref.name == name,
                });
            }
        }
    }
}

/// Looks for tenants that no RetailTenant stands for, and ends their access after the grace. In a database none of whose
/// tenants this operator has served, it only reports them: they may be waiting for a cluster that is being set up.
async fn watch_claims(
    backends: Arc<ArcSwap<Backends>>,
    facts: Arc<ControllerFacts>,
    metrics: Arc<Metrics>,
    period: Duration,
    grace: Duration,
) {
    let mut served = BTreeSet::new();
    loop {
        tokio::time::sleep(period).await;
        let Some(claimed) = facts.claimed() else { continue };
        for (name, database) in backends.load_full().databases() {
            if facts.serves(name) {
                served.insert(name.to_owned());
            }
            if database.may_write().is_err() || !database.is_migrated() || database.circuit().is_open() {
                continue;
            }
            match database.close_unclaimed(&claimed, grace, served.contains(name)).await {
                Ok(found) => metrics.unclaimed(name, found.len()),
                Err(error) => {
                    tracing::warn!(database = name, "tenants without a RetailTenant are not looked for: {error}")
                }
            }
        }
    }
}

/// Ends with leadership; never, where there is no election.
async fn lost(election: Option<&Election>) {
    match election {
        Some(election) => election.hold().await,
        None => std::future::pending().await,
    }
}

async fn signalled() {
    let wait = async |kind| match signal(kind) {
        Ok(mut signal) => drop(signal.recv().await),
        // Without a handler the signal ends the process at once, which is not worse.
        Err(_) => std::future::pending().await,
    };
    tokio::select! {
        () = wait(SignalKind::terminate()) => {}
        () = wait(SignalKind::interrupt()) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("720h"), Ok(Duration::from_secs(2_592_000)));
        for bad in ["", "5", "5 s", "m", "0s", "1d", "-1s", "99999999999999999999s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
