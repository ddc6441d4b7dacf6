//! One tenant's p99 while another tenant's statements take all the processor they can get.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use tokio::task::JoinSet;

use super::Settings;
use crate::{
    load::{Load, open},
    report::{Aim, Report, Row},
    wire::{BlockingWire, Wire, query},
    world::{Gateway, World},
};

/// Never ends, on one processor; gathers no rows, so that as many run side by side as one principal may have.
const ENDLESS: &str = "SELECT a FROM generate_series(1, 10000) a, generate_series(1, 10000) b, generate_series(1, 10000) c WHERE a + b + c < 0";
/// Never ends; gathers rows of a table that is large enough for parallel workers, where a principal may have them.
const REPORT: &str = "SELECT count(*) FROM retail.order_items a, retail.order_items b, retail.order_items c WHERE a.discount_amount + b.quantity + c.quantity > 0";
/// Six hundred calls: a p99 of fewer is that of the one or two that a machine of few cores held up.
const ROUND: Duration = Duration::from_secs(6);
/// Calls per second of the tenant that is looked at.
const RATE: f64 = 100.0;
/// Threads that make them.
const CALLERS: u32 = 8;

/// What one tenant does to another.
struct Attack {
    id: &'static str,
    what: &'static str,
    sql: &'static str,
    /// Whether each round is the first of an attack: nobody has used up its time for long statements.
    begins: bool,
}

const ATTACKS: [Attack; 3] = [
    Attack { id: "attack", what: "goes on with an attack", sql: ENDLESS, begins: false },
    Attack { id: "attack.begins", what: "begins an attack", sql: ENDLESS, begins: true },
    Attack { id: "attack.report", what: "begins one with a report over a large table", sql: REPORT, begins: true },
];

pub async fn run(world: &World, settings: Settings, report: &mut Report) -> Result<()> {
    for attack in ATTACKS {
        attack.run(world, settings, report).await?;
    }
    Ok(())
}

impl Attack {
    async fn run(&self, world: &World, settings: Settings, report: &mut Report) -> Result<()> {
        let (mut p50, mut p99) = (Vec::new(), Vec::new());
        let mut gateway = self.gateway(world).await?;
        for round in 0..settings.rounds {
            if self.begins && round > 0 {
                gateway.stop().await?;
                gateway = self.gateway(world).await?;
            }
            let victim =
                query(&gateway.url, &world.token("contoso-head-office")?, "SELECT count(*) FROM retail.stores")?;
            let quiet = calls(&gateway, &victim).await?;
            let attack = query(&gateway.url, &world.token("head-office")?, self.sql)?;
            let mut attackers = JoinSet::new();
            for _ in 0..32 {
                let mut wire = Wire::connect(&gateway.url, attack.clone()).await?;
                attackers.spawn(async move { wire.exchange().await });
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
            let attacked = calls(&gateway, &victim).await?;
            // The clients go away, and with them their statements at the server.
            attackers.shutdown().await;
            p50.push((attacked.ms(0.5), quiet.ms(0.5)));
            p99.push((attacked.ms(0.99), quiet.ms(0.99)));
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let Self { id, what, .. } = self;
        let what = format!("cheap query of one tenant while another {what}, p99");
        report.add(Row::ratio(&format!("{id}.p99"), &what, "when it is quiet", "ms", Aim::AtMost(2.0), &p99));
        report.add(Row::ratio(&format!("{id}.p50"), "the same, p50", "when it is quiet", "ms", Aim::Smaller, &p50));
        gateway.stop().await
    }

    /// One with the limits that it has by default.
    async fn gateway(&self, world: &World) -> Result<Gateway> {
        let mut gateway = world.gateway(self.id, &[])?;
        gateway.ready(Duration::from_secs(10)).await?;
        Ok(gateway)
    }
}

/// A round of calls of the tenant that is looked at.
async fn calls(gateway: &Gateway, request: &Arc<[u8]>) -> Result<Load> {
    let (url, request) = (gateway.url.clone(), request.clone());
    open(CALLERS, move |_| BlockingWire::connect(&url, request.clone()), RATE, ROUND).await
}
