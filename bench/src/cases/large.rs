//! Answers of 10,000 rows and 10 MB, against the same batch over tokio-postgres.

use std::time::Duration;

use anyhow::{Result, ensure};
use storefence_tenancy::scope::StoreSet;

use super::Settings;
use crate::{
    flight::{Session, Tenant},
    load::closed,
    process,
    report::{Aim, Report, Row},
    wire::{Wire, query},
    world::World,
};

const SQL: &str = "SELECT g AS number, repeat('0123456789', 100) AS text FROM generate_series(1, 10000) g";
const ROUND: Duration = Duration::from_millis(700);

pub async fn run(world: &World, settings: Settings, report: &mut Report) -> Result<()> {
    let tenant = Tenant::of(&world.stack, "zava")?;
    let mut gateway = world.gateway("large", &["--answer-tokens", "100000000"])?;
    gateway.ready(Duration::from_secs(10)).await?;
    let token = world.token("head-office")?;
    // The pool and the caches are there before memory is looked at.
    let mut small = Wire::many(&gateway.url, &query(&gateway.url, &token, "SELECT 1 AS one")?, 1).await?;
    let before = process::resident_mib(gateway.child.pid()).0;
    small[0].set(query(&gateway.url, &token, SQL)?);
    let mut ours = small;
    let mut theirs = Session::many(&tenant, &StoreSet::All, SQL, 1).await?;
    let mut rates = Vec::new();
    for _ in 0..settings.rounds {
        let (our_load, back) = closed(ours, ROUND).await?;
        ours = back;
        let (their_load, back) = closed(theirs, ROUND).await?;
        theirs = back;
        let mib = theirs[0].received.1 as f64 / 1024.0 / 1024.0;
        ensure!(theirs[0].received.0 == 10_000 && ours[0].body().len() > theirs[0].received.1, "an answer was cut");
        rates.push((our_load.rate() * mib, their_load.rate() * mib));
    }
    let what = "answer of 10,000 rows and 10 MB, rows' bytes per second";
    report.add(Row::ratio("large.rate", what, "the driver alone", "MiB/s", Aim::AtLeast(0.5), &rates));
    let mib = theirs[0].received.1 as f64 / 1024.0 / 1024.0;
    let peak = process::resident_mib(gateway.child.pid()).1;
    let what = "memory at the peak of such an answer, in multiples of its rows";
    report.add(Row::ratio("large.memory", what, "the rows' bytes", "MiB", Aim::Smaller, &[(peak - before, mib)]));
    gateway.stop().await
}
