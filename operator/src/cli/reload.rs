//! Reads the configuration again when it changes: databases and vaults come and go, and credentials change, without a
//! restart.

use std::{path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;

use super::run::migrate_all;
use crate::{backends::Backends, config::Config, controller::ControllerFacts, database::Limits, vault::VaultFactory};

/// How often the files are looked at. They are small, and a mounted secret changes by a swap of links that file
/// notifications do not follow.
const PERIOD: Duration = Duration::from_secs(2);

/// The configuration in force and how to replace it.
pub struct Reload {
    pub path: PathBuf,
    pub config: Config,
    pub vaults: VaultFactory,
    pub limits: Limits,
    pub backends: Arc<ArcSwap<Backends>>,
    pub facts: Arc<ControllerFacts>,
}

impl Reload {
    /// Looks until cancelled. A configuration that cannot be used is told once and leaves the last good one in force.
    pub async fn run(mut self) {
        let mut told = None;
        loop {
            tokio::time::sleep(PERIOD).await;
            let problem = match Config::load(&self.path) {
                Ok(config) if config == self.config => None,
                Ok(config) => self.replace(config).err(),
                Err(error) => Some(error.to_string()),
            };
            if let Some(problem) = problem.as_ref().filter(|problem| told.as_ref() != Some(*problem)) {
                tracing::error!("the changed configuration is not used: {problem}");
            }
            told = problem;
        }
    }

    fn replace(&mut self, config: Config) -> Result<(), String> {
        let backends = Backends::new(&config, &self.backends.load(), &self.vaults, self.limits);
        let backends = Arc::new(backends.map_err(|error| error.to_string())?);
        // Passes that run keep what they have; the pools end with the last of them.
        self.backends.store(Arc::clone(&backends));
        self.config = config;
        tracing::info!(path = %self.path.display(), "configuration reloaded");
        migrate_all(&backends);
        self.facts.look_at_all();
        Ok(())
    }
}
