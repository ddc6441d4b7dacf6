//! What is measured, one module per question.

mod attack;
mod cheap_query;
mod connect;
mod date_tool;
mod large;
mod memory;
mod operator;
mod schema;
mod search;
mod start;
mod tenants;
mod tokens;
mod zava;

use std::time::Duration;

use anyhow::Result;

use crate::{
    load::{Caller, Load, closed},
    process,
    report::Report,
    world::{World, zava as zava_manifest},
};

/// How to measure.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Interleaved rounds.
    pub rounds: usize,
    /// Also what takes long.
    pub large: bool,
}

/// Names and questions of the cases, in the order in which they run.
pub const CASES: [(&str, &str); 13] = [
    ("start", "start to ready, and memory idle"),
    ("date", "a call that does nothing, against a bare hyper handler"),
    ("tokens", "tokens verified cold and cached"),
    ("cheap", "a cheap query, against the same flight without a gateway"),
    ("schema", "the schema tool, against the date tool"),
    ("zava", "questions at the sample's scale, against explicit filters without row-level security; its seeding"),
    ("large", "answers of 10 MB, against the driver"),
    ("attack", "one tenant's latency while another attacks"),
    ("tenants", "a gateway with 10, 1,000 and 10,000 tenants"),
    ("memory", "memory under load for five minutes"),
    ("connect", "the first call on a new connection with 10, 1,000 and 5,000 tenants in the database"),
    ("search", "search by meaning among 50,000 products, against exact search"),
    ("operator", "1,000 tenants of 20 stores: converge, change, restart"),
];
/// Cases that run on one stack with the sample's data.
const ON_THE_STACK: usize = 10;
/// Runs the chosen cases.
pub async fn run(chosen: &[String], settings: Settings, report: &mut Report) -> Result<()> {
    let wanted = |name: &str| chosen.is_empty() || chosen.iter().any(|one| one == name);
    if CASES[..ON_THE_STACK].iter().any(|(name, _)| wanted(name)) {
        println!("starting the stack");
        let contoso = storefence_devstack::stack::StackOptions::examples()?.remove(1);
        let world = World::start(vec![zava_manifest()?, contoso]).await?;
        let done = on_the_stack(&world, &wanted, settings, report).await;
        world.stop().await?;
        done?;
    }
    if wanted("connect") {
        connect::run(settings, report).await?;
    }
    if wanted("search") {
        search::run(settings, report).await?;
    }
    if wanted("operator") {
        operator::run(report).await?;
    }
    Ok(())
}

async fn on_the_stack(
    world: &World,
    wanted: &impl Fn(&str) -> bool,
    settings: Settings,
    report: &mut Report,
) -> Result<()> {
    if wanted("start") {
        start::run(world, settings, report).await?;
    }
    if wanted("date") {
        date_tool::run(world, settings, report).await?;
    }
    if wanted("tokens") {
        tokens::run(world, settings, report).await?;
    }
    if ["cheap", "schema", "zava", "attack"].into_iter().any(wanted) {
        zava::seed(world, report).await?;
    }
    if wanted("cheap") {
        cheap_query::run(world, settings, report).await?;
    }
    if wanted("schema") {
        schema::run(world, settings, report).await?;
    }
    if wanted("zava") {
        zava::run(world, settings, report).await?;
    }
    if wanted("large") {
        large::run(world, settings, report).await?;
    }
    if wanted("attack") {
        attack::run(world, settings, report).await?;
    }
    if wanted("tenants") {
        tenants::run(world, settings, report).await?;
    }
    if wanted("memory") {
        memory::run(world, report).await?;
    }
    Ok(())
}

/// One round against a process: the load, and the CPU time per call that the process took, in microseconds.
async fn round<C: Caller>(pid: u32, callers: Vec<C>, duration: Duration) -> Result<(f64, Load, Vec<C>)> {
    let before = process::cpu(pid);
    let (load, callers) = closed(callers, duration).await?;
    let cpu = process::cpu(pid).saturating_sub(before);
    Ok((cpu.as_secs_f64() * 1e6 / load.calls().max(1) as f64, load, callers))
}
