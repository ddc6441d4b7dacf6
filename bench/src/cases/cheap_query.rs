//! A query that costs the database next to nothing, against the same batch over tokio-postgres without a gateway.

use std::time::Duration;

use anyhow::Result;
use storefence_tenancy::scope::StoreSet;

use super::{Settings, round};
use crate::{
    flight::{BlockingSession, Session, Tenant},
    load::{closed, open},
    report::{Aim, Kind, Report, Row, median},
    wire::{BlockingWire, Wire, query},
    world::{CONNECTIONS, World},
};

const SQL: &str = "SELECT count(*) FROM retail.stores";
const ROUND: Duration = Duration::from_millis(800);
/// At half load, on both sides: no more than the gateway has connections.
const THREADS: u32 = 16;

pub async fn run(world: &World, settings: Settings, report: &mut Report) -> Result<()> {
    let request = query(world.url(), &world.token("head-office")?, SQL)?;
    let tenant = Tenant::of(&world.stack, "zava")?;
    let mut half = 0.0;
    for connections in [1, CONNECTIONS, 64] {
        let mut ours = Wire::many(world.url(), &request, connections).await?;
        // No more connections than the gateway has.
        let mut theirs = Session::many(&tenant, &StoreSet::All, SQL, connections.min(CONNECTIONS)).await?;
        let (mut rates, mut cpus, mut p50) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..settings.rounds {
            let (cpu, our_load, back) = round(world.gateway_pid(), ours, ROUND).await?;
            ours = back;
            let (their_load, back) = closed(theirs, ROUND).await?;
            theirs = back;
            rates.push((our_load.rate(), their_load.rate()));
            p50.push((our_load.ms(0.5), their_load.ms(0.5)));
            cpus.push(cpu);
        }
        let aim = if connections == CONNECTIONS { Aim::AtLeast(0.6) } else { Aim::Larger };
        let what = format!("cheap query, calls per second at {connections}");
        report.add(Row::ratio(&format!("cheap.rate.{connections}"), &what, "the driver alone", "/s", aim, &rates));
        let what = format!("cheap query, gateway's CPU per call at {connections}");
        report.add(Row::absolute(&format!("cheap.cpu.{connections}"), &what, "µs", Aim::Smaller, &cpus));
        if connections == 1 {
            let what = "cheap query, p50 at 1";
            report.add(Row::pairs(Kind::Difference, "cheap.p50.1", what, "the driver alone", "ms", Aim::Smaller, &p50));
        }
        if connections == CONNECTIONS {
            half = median(&rates.iter().map(|(ours, _)| *ours).collect::<Vec<_>>()) / 2.0;
        }
    }
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for _ in 0..settings.rounds {
        let (url, request, tenant) = (world.url().to_owned(), request.clone(), tenant.clone());
        let ours = open(THREADS, move |_| BlockingWire::connect(&url, request.clone()), half, 2 * ROUND).await?;
        let theirs =
            open(THREADS, move |_| BlockingSession::open(&tenant, StoreSet::All, SQL), half, 2 * ROUND).await?;
        p50.push((ours.ms(0.5), theirs.ms(0.5)));
        p99.push((ours.ms(0.99), theirs.ms(0.99)));
    }
    let what = format!("cheap query, p50 at half load, {half:.0}/s arriving");
    report.add(Row::pairs(Kind::Difference, "cheap.open.p50", &what, "the driver alone", "ms", Aim::AtMost(0.3), &p50));
    let what = "cheap query, p99 at half load";
    report.add(Row::pairs(Kind::Difference, "cheap.open.p99", what, "the driver alone", "ms", Aim::AtMost(1.0), &p99));
    Ok(())
}
