//! Five minutes of calls of every kind: memory must not grow once everything has been used.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use crate::{
    load::open,
    process,
    report::{Aim, Report, Row, median},
    wire::{BlockingWire, query, tool_call},
    world::World,
};

const MINUTES: u64 = 5;
/// Calls per second: an hour of 25 a second in five minutes.
const RATE: f64 = 300.0;

pub async fn run(world: &World, report: &mut Report) -> Result<()> {
    println!("load for {MINUTES} minutes");
    let mut gateway = world.gateway("memory", &[])?;
    gateway.ready(Duration::from_secs(10)).await?;
    let url = gateway.url.clone();
    let mut requests = Vec::new();
    for principal in ["head-office", "seattle-manager", "contoso-head-office", "redmond-manager"] {
        let token = world.token(principal)?;
        requests.extend([
            tool_call(&url, &token, "get_current_utc_date", json!({}))?,
            tool_call(&url, &token, "list_stores", json!({}))?,
            tool_call(&url, &token, "get_multiple_table_schemas", json!({"table_names": ["orders"]}))?,
            query(&url, &token, "SELECT count(*) FROM retail.stores")?,
            query(&url, &token, "SELECT store_name, count(*) FROM retail.stores GROUP BY 1 ORDER BY 1")?,
        ]);
    }
    let begun = Instant::now();
    let mut samples: Vec<(f64, f64)> = Vec::new();
    let threads = u32::try_from(requests.len())?;
    let connect = move |number: u32| BlockingWire::connect(&url, requests[number as usize].clone());
    let load = tokio::spawn(open(threads, connect, RATE, Duration::from_secs(60 * MINUTES)));
    while !load.is_finished() {
        tokio::time::sleep(Duration::from_secs(5)).await;
        samples.push((begun.elapsed().as_secs_f64() / 60.0, process::resident_mib(gateway.child.pid()).0));
    }
    load.await??;
    let about = |minute: f64| {
        let near: Vec<f64> = samples.iter().filter(|(at, _)| (at - minute).abs() < 0.3).map(|(_, mib)| *mib).collect();
        median(&near)
    };
    let (early, late) = (about(2.0), about(MINUTES as f64));
    let what = format!("resident memory under load, growth from minute 2 to {MINUTES}, {RATE:.0} calls a second");
    report.add(Row::pairs(
        crate::report::Kind::Difference,
        "memory.growth",
        &what,
        "minute 2",
        "MiB",
        Aim::AtMost(0.5),
        &[(late, early)],
    ));
    gateway.stop().await
}
