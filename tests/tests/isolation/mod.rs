//! Isolation, shown by volume: random tenants, principals, tokens and queries against an oracle, and many callers at once
//! over few connections.
//!
//! `STOREFENCE_SEED` repeats a run; `STOREFENCE_CASES` makes it longer or shorter.

mod data;
mod generator;
mod interleaving;
mod property;

use std::{env, process::ExitCode};

use anyhow::Result;
use storefence_devstack::{postgres::AdminKind, stack::DatabaseSource};
use storefence_tests::{Shared, Suite};

/// The stack of this suite and the tenants that were made for it.
struct World {
    shared: Shared,
    tenants: Vec<data::Tenant>,
    seed: u64,
}

async fn world(version: u32) -> Result<World> {
    let seed = env::var("STOREFENCE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(rand::random);
    println!("seed {seed} (STOREFENCE_SEED={seed} repeats this run)");
    let shared = Shared::start(|options| {
        options.database = DatabaseSource::Start { version: Some(version), admin: AdminKind::CreateRole };
        options.seed = false;
        // Few connections for many callers: what the interleaving test is about.
        options.gateway_env.push(("STOREFENCE_POOL_PER_TENANT".into(), "4".into()));
        Ok(())
    })
    .await?;
    let tenants = data::make(&shared, seed).await?;
    Ok(World { shared, tenants, seed })
}

/// Runs the suite on this version of PostgreSQL.
pub fn run(version: u32) -> ExitCode {
    Suite::new(|| world(version))
        .expect("the stack starts")
        .test("a_query_sees_what_the_oracle_lets_it_see", |world| async move { property::run(&world).await })
        .test(
            "many_callers_on_few_connections_see_their_own_rows",
            |world| async move { interleaving::run(&world).await },
        )
        .run(|world| world.shared.stop())
}
