//! Isolation, shown by volume: random tenants, principals, tokens and queries against an oracle, and many callers at once
//! over few connections.
//!
//! `STOREFENCE_SEED` repeats a run; `STOREFENCE_CASES` makes it longer or shorter.

mod data;
mod generator;
mod interleaving;
mod property;

use std::{env, process::ExitCode};

use anyhow::{Context, Result, ensure};
use storefence_devstack::{postgres::AdminKind, stack::DatabaseSource};
use storefence_tests::{
    Shared, Suite,
    damage::{Damage, unseen_in_rows},
};
use tokio_postgres::Client;

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
        // The fence is damaged here on purpose; the operator must not repair it meanwhile.
        options.operator_env.push(("STOREFENCE_RESYNC".into(), "24h".into()));
        // Few connections for many callers, and for many calls of one: what the interleaving test is about.
        for name in ["STOREFENCE_POOL_PER_TENANT", "STOREFENCE_POOL_PER_PRINCIPAL"] {
            options.gateway_env.push((name.into(), "4".into()));
        }
        // Every row is compared.
        options.gateway_env.push(("STOREFENCE_ANSWER_TOKENS".into(), "100000000".into()));
        Ok(())
    })
    .await?;
    let tenants = data::make(&shared, seed).await?;
    Ok(World { shared, tenants, seed })
}

/// Fails a run whose fence differs from the one that ships, even where no row shows the difference: what the run shows
/// would say nothing about the fence that ships.
async fn whole(world: &World) -> Result<()> {
    let verified = world.shared.stack.run_operator(&["verify", "--database", "retail"]).await;
    verified.map(drop).context("the fence differs from the one that ships")
}

/// Suites that a broken fence passes would prove nothing.
async fn broken(world: &World) -> Result<()> {
    let admin = world.shared.stack.cluster().context("a cluster of our own")?.connect("retail").await?;
    property::run(world, 200).await.context("whole at first")?;
    seen_in_rows(world, &admin).await?;
    seen_by_verification(world, &admin).await?;
    property::run(world, 200).await.context("whole again")
}

/// Damage that lets foreign rows through.
async fn seen_in_rows(world: &World, admin: &Client) -> Result<()> {
    let whole = "USING (store_id = ANY ((SELECT fence.visible_stores())::uuid[]))";
    for (what, damage, repair) in [
        (
            "a policy that lets all rows through",
            "ALTER POLICY fence_read ON retail.orders USING (true)".to_owned(),
            format!("ALTER POLICY fence_read ON retail.orders {whole}"),
        ),
        (
            "a policy dropped",
            "DROP POLICY fence_read ON retail.orders".to_owned(),
            format!("CREATE POLICY fence_read ON retail.orders FOR SELECT TO fence_reader {whole}"),
        ),
        (
            "row-level security off",
            "ALTER TABLE retail.orders DISABLE ROW LEVEL SECURITY".to_owned(),
            "ALTER TABLE retail.orders ENABLE ROW LEVEL SECURITY".to_owned(),
        ),
    ] {
        admin.batch_execute(&damage).await?;
        // For the rows, and not because so short a run has an odd mix of calls.
        let says = |outcome: Result<()>, words: &str| outcome.is_err_and(|error| format!("{error:#}").contains(words));
        let by_properties = says(property::run(world, 200).await, "the oracle has");
        let noticed = (by_properties, says(interleaving::run(world, 200).await, "may see"));
        admin.batch_execute(&repair).await?;
        ensure!(noticed == (true, true), "{what}: noticed by properties and interleaving: {noticed:?}");
    }
    Ok(())
}

/// Damage that honest contexts, or statements that the gate lets through, do not show.
async fn seen_by_verification(world: &World, admin: &Client) -> Result<()> {
    for Damage { what, statement, repair } in unseen_in_rows(admin).await? {
        admin.batch_execute(&statement).await.context(what)?;
        let says = |outcome: Result<()>| outcome.is_err_and(|error| format!("{error:#}").contains("the fence differs"));
        let noticed = (says(property::run(world, 20).await), says(interleaving::run(world, 60).await));
        admin.batch_execute(&repair).await.context(what)?;
        ensure!(noticed == (true, true), "{what}: noticed by properties and interleaving: {noticed:?}");
    }
    Ok(())
}

/// Runs the suite on this version of PostgreSQL.
pub fn run(version: u32) -> ExitCode {
    Suite::new(move || world(version))
        .test("a_query_sees_what_the_oracle_lets_it_see", |world| async move {
            property::run(&world, property::cases()).await
        })
        .test("many_callers_on_few_connections_see_their_own_rows", |world| async move {
            interleaving::run(&world, interleaving::CALLS).await
        })
        .test("a_broken_fence_is_noticed_by_both", |world| async move { broken(&world).await })
        .run(|world| world.shared.stop())
}
