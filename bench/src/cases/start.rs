//! From the start of the process to `/readyz`, and the memory of a gateway that has nothing to do.

use std::time::Duration;

use anyhow::Result;

use super::Settings;
use crate::{
    process,
    report::{Aim, Report, Row},
    world::World,
};

pub async fn run(world: &World, settings: Settings, report: &mut Report) -> Result<()> {
    let (mut times, mut memory) = (Vec::new(), Vec::new());
    for round in 0..settings.rounds.max(5) {
        let mut gateway = world.gateway(&format!("start-{round}"), &[])?;
        times.push(gateway.ready(Duration::from_secs(10)).await?.as_secs_f64() * 1e3);
        memory.push(process::resident_mib(gateway.child.pid()).0);
        gateway.stop().await?;
    }
    report.add(Row::absolute("start.ready", "start to ready", "ms", Aim::AtMost(300.0), &times));
    report.add(Row::absolute(
        "start.memory",
        "resident memory, idle with two tenants",
        "MiB",
        Aim::AtMost(40.0),
        &memory,
    ));
    Ok(())
}
