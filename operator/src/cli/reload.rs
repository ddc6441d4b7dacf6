//! Reads the configuration again when it changes: databases and vaults come and go, and credentials change, without a
//! restart.

use std::{path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;

use super::run::migrate_all;
use crate::{
    backends::Backends,
    config::{Administrators, Config, Resolved},
    controller::ControllerFacts,
    database::Limits,
    metrics::Metrics,
    vault::VaultFactory,
};

/// How often the files are looked at. They are small, and a mounted secret changes by a swap of links that file
/// notifications do not follow.
const PERIOD: Duration = Duration::from_secs(2);

/// The configuration in force.
pub struct InForce {
    config: Config,
    administrators: Administrators,
    resolved: Resolved,
    vaults: VaultFactory,
    limits: Limits,
}

impl InForce {
    /// Sets up clients and pools, and asks the vaults for the administrators that stand there. One that cannot be had
    /// is reported in the status of its database's tenants, and asked for again.
    ///
    /// # Errors
    /// A vault's URL that the client does not take.
    pub async fn new(
        config: Config,
        vaults: VaultFactory,
        limits: Limits,
    ) -> Result<(Self, Backends), storefence_runtime::OptionsError> {
        let none = Backends::default();
        let clients = none.next_vaults(&config, &vaults, &limits)?;
        let mut administrators = Administrators::default();
        let resolved = administrators.resolve(&config, &clients, |_| false).await;
        resolved.unknown.values().for_each(|problem| tracing::error!("{problem}"));
        let backends = none.next(&resolved, clients, &limits, vaults.metrics());
        Ok((Self { config, administrators, resolved, vaults, limits }, backends))
    }
}

/// The configuration in force and how to replace it.
pub struct Reload {
    pub path: PathBuf,
    pub in_force: InForce,
    pub backends: Arc<ArcSwap<Backends>>,
    pub facts: Arc<ControllerFacts>,
    pub metrics: Arc<Metrics>,
}

impl Reload {
    /// Looks until cancelled. A configuration that cannot be used is logged once and leaves the last good one in force.
    pub async fn run(mut self) {
        let mut told = None;
        loop {
            tokio::time::sleep(PERIOD).await;
            let (problem, config) = match Config::load(&self.path) {
                Ok(config) => (None, Some(config)),
                Err(error) => (Some(error.to_string()), None),
            };
            // The administrators of the last good configuration change also while a new one is bad.
            let replaced = self.replace(config).await;
            let problem = problem.or_else(|| replaced.as_ref().err().cloned());
            if let Some(problem) = problem.as_ref().filter(|problem| told.as_ref() != Some(*problem)) {
                tracing::error!("the changed configuration is not used: {problem}");
                self.metrics.reloaded(false);
            }
            if problem.is_none() && (told.is_some() || replaced == Ok(true)) {
                self.metrics.reloaded(true);
            }
            self.metrics.configuration_refused.set(i64::from(problem.is_some()));
            told = problem;
        }
    }

    /// Puts a configuration in force, or the newest administrators; says whether anything changed.
    async fn replace(&mut self, config: Option<Config>) -> Result<bool, String> {
        let Self { path, in_force, backends, facts, metrics } = self;
        let last = backends.load_full();
        let next = config.as_ref().unwrap_or(&in_force.config);
        let clients = last.next_vaults(next, &in_force.vaults, &in_force.limits).map_err(|error| error.to_string())?;
        let resolved = in_force.administrators.resolve(next, &clients, |name| last.is_refused(name)).await;
        if resolved.is_like(&in_force.resolved) && next.key_vaults == in_force.config.key_vaults {
            in_force.config = config.unwrap_or_else(|| std::mem::take(&mut in_force.config));
            return Ok(false);
        }
        resolved.unknown.values().for_each(|problem| tracing::error!("{problem}"));
        let new = Arc::new(last.next(&resolved, clients, &in_force.limits, metrics));
        // Passes that run keep what they have; the pools end with the last of them.
        backends.store(Arc::clone(&new));
        in_force.config = config.unwrap_or_else(|| std::mem::take(&mut in_force.config));
        in_force.resolved = resolved;
        tracing::info!(path = %path.display(), "configuration reloaded");
        migrate_all(&new);
        facts.look_at_all();
        Ok(true)
    }
}
