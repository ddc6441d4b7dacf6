//! The gateway's binary on the wire: real PostgreSQL, and stand-ins for Kubernetes, Entra ID and Key Vault.
//!
//! Tenants are provisioned by the tests themselves (`world/provision.rs`), so that a test can put the gateway into
//! states that the operator would never leave behind.

mod audit;
mod cache;
mod cache_shared;
mod cancel;
mod codes;
mod counters;
mod directory;
mod doctor;
mod entra_page;
mod granted;
mod http;
mod identity;
mod identity_authority;
mod identity_cache;
mod identity_explain;
mod identity_keys;
mod identity_refresh;
mod identity_refused;
mod interleaving;
mod limits;
mod logging;
mod logs;
mod older;
mod operations;
mod performance;
mod pools;
mod progress;
mod protocol;
mod query;
mod quota;
mod quota_shared;
mod revisions;
mod shares;
mod shutdown;
mod slow;
mod stuck;
mod tenants;
mod tls;
mod traces;
mod turns;
mod world;

use std::{future::Future, process::ExitCode, sync::Arc};

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::Runtime;
use world::World;

/// Collects tests over one world.
pub struct Tests {
    runtime: Arc<Runtime>,
    world: Arc<World>,
    trials: Vec<Trial>,
}

impl Tests {
    /// Adds a test.
    pub fn add<F>(&mut self, name: &str, body: impl FnOnce(Arc<World>) -> F + Send + 'static)
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let (runtime, world) = (Arc::clone(&self.runtime), Arc::clone(&self.world));
        self.trials.push(Trial::test(name, move || {
            let outcome = match runtime.block_on(runtime.spawn(body(Arc::clone(&world)))) {
                Ok(done) => done.map_err(|error| Failed::from(format!("{error:?}"))),
                Err(panic) => Err(Failed::from(format!("{panic}"))),
            };
            // A quota, a login or a fault that it did not take back would fail the tests that follow.
            if outcome.is_err()
                && let Err(error) = runtime.block_on(world.restore())
            {
                eprintln!("the tenants could not be restored: {error:?}");
            }
            outcome
        }));
    }
}

fn main() -> Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    if arguments.list {
        return Ok(ExitCode::SUCCESS);
    }
    // One after another: some tests change what others rely on, and change it back.
    arguments.test_threads = Some(1);
    let runtime = Arc::new(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?);
    let world = Arc::new(runtime.block_on(World::start())?);
    let mut tests = Tests { runtime: Arc::clone(&runtime), world: Arc::clone(&world), trials: Vec::new() };
    query::tests(&mut tests);
    protocol::tests(&mut tests);
    revisions::tests(&mut tests);
    http::tests(&mut tests);
    identity::tests(&mut tests);
    identity_refused::tests(&mut tests);
    identity_explain::tests(&mut tests);
    identity_keys::tests(&mut tests);
    identity_refresh::tests(&mut tests);
    identity_authority::tests(&mut tests);
    identity_cache::tests(&mut tests);
    entra_page::tests(&mut tests);
    tenants::tests(&mut tests);
    granted::tests(&mut tests);
    logging::tests(&mut tests);
    operations::tests(&mut tests);
    shutdown::tests(&mut tests);
    logs::tests(&mut tests);
    cancel::tests(&mut tests);
    progress::tests(&mut tests);
    slow::tests(&mut tests);
    limits::tests(&mut tests);
    stuck::tests(&mut tests);
    pools::tests(&mut tests);
    shares::tests(&mut tests);
    turns::tests(&mut tests);
    counters::tests(&mut tests);
    tls::tests(&mut tests);
    audit::tests(&mut tests);
    codes::tests(&mut tests);
    quota::tests(&mut tests);
    quota_shared::tests(&mut tests);
    traces::tests(&mut tests);
    cache::tests(&mut tests);
    cache_shared::tests(&mut tests);
    performance::tests(&mut tests);
    doctor::tests(&mut tests);
    older::tests(&mut tests);
    directory::tests(&mut tests);
    interleaving::tests(&mut tests);
    identity_keys::last(&mut tests);
    identity_refresh::last(&mut tests);
    let conclusion = libtest_mimic::run(&arguments, tests.trials);
    if conclusion.has_failed() {
        world.keep_logs(std::path::Path::new(env!("CARGO_TARGET_TMPDIR")));
    }
    drop(world);
    Ok(conclusion.exit_code())
}
