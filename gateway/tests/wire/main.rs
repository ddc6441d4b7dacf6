//! The gateway's binary on the wire: real PostgreSQL, and stand-ins for Kubernetes, Entra ID and Key Vault.
//!
//! The tests provision tenants themselves (`world/provision.rs`), so that a test can put the gateway into states that
//! the operator would never leave behind.

mod audit;
mod cache;
mod cache_shared;
mod cancel;
mod codes;
mod concurrency;
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
mod shutdown;
mod slow;
mod stuck;
mod tenants;
mod throttle;
mod tls;
mod traces;
mod world;

use std::process::ExitCode;

use storefence_tests::Suite;
use world::World;

/// Tests that need worlds: each has one to itself while it runs.
pub type Tests = Suite<World>;

fn main() -> ExitCode {
    let mut tests = Suite::new(World::start).parallel(2).on_failure(World::keep_logs);
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
    concurrency::tests(&mut tests);
    throttle::tests(&mut tests);
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
    tests.run(|world| async move { drop(world) })
}
