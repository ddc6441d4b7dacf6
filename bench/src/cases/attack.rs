//! One tenant's p99 while another tenant's statements take all the processor they can get.

use std::time::Duration;

use anyhow::Result;

use super::Settings;
use crate::{
    load::open,
    report::{Aim, Report, Row},
    wire::{Wire, query},
    world::World,
};

const BOMB: &str = "SELECT count(*) FROM generate_series(1, 2000000000) a, generate_series(1, 2000000000) b";
/// Six hundred calls: a p99 of fewer is that of the one or two that a machine of few cores held up.
const ROUND: Duration = Duration::from_secs(6);
/// Calls per second of the tenant that is looked at.
const RATE: f64 = 100.0;

pub async fn run(world: &World, settings: Settings, report: &mut Report) -> Result<()> {
    // The limits that a gateway has by default.
    attacked(world, settings, report, "attack", "", Aim::AtMost(2.0), &[]).await?;
    // As it is until the attacker has used up its time for long statements.
    let with = ", all its statements side by side";
    attacked(world, settings, report, "attack.begins", with, Aim::Smaller, &["--pool-long-per-tenant", "4"]).await
}

async fn attacked(
    world: &World,
    settings: Settings,
    report: &mut Report,
    id: &str,
    with: &str,
    aim: Aim,
    options: &[&str],
) -> Result<()> {
    let mut gateway = world.gateway(id, options)?;
    gateway.ready(Duration::from_secs(10)).await?;
    let url = gateway.url.clone();
    let victim = query(&url, &world.token("contoso-head-office")?, "SELECT count(*) FROM retail.stores")?;
    let bomb = query(&url, &world.token("head-office")?, BOMB)?;
    let mut calm = Wire::many(&url, &victim, 8).await?;
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for _ in 0..settings.rounds {
        let (quiet, back) = open(calm, RATE, ROUND).await?;
        calm = back;
        let mut attackers = tokio::task::JoinSet::new();
        for _ in 0..32 {
            let mut wire = Wire::connect(&url, bomb.clone()).await?;
            attackers.spawn(async move { wire.exchange().await });
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        let (attacked, back) = open(calm, RATE, ROUND).await?;
        calm = back;
        // The clients go away, and with them their statements at the server.
        attackers.shutdown().await;
        p50.push((attacked.ms(0.5), quiet.ms(0.5)));
        p99.push((attacked.ms(0.99), quiet.ms(0.99)));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let what = format!("cheap query of one tenant while another attacks{with}, p99");
    report.add(Row::ratio(&format!("{id}.p99"), &what, "when it is quiet", "ms", aim, &p99));
    report.add(Row::ratio(&format!("{id}.p50"), "the same, p50", "when it is quiet", "ms", Aim::Smaller, &p50));
    gateway.stop().await
}
