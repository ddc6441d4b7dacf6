//! `get_current_utc_date` with a valid token, against hyper alone with the same bytes and against rmcp alone with the same
//! result.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};
use storefence_devstack::process::{Child, Spawn};

use super::{Settings, round};
use crate::{
    load::open,
    report::{Aim, Kind, Report, Row},
    wire::{BlockingWire, Wire, tool_call},
    world::World,
};

const ROUND: Duration = Duration::from_millis(600);
/// At half load.
const THREADS: u32 = 16;

pub async fn run(world: &World, settings: Settings, report: &mut Report) -> Result<()> {
    let request = tool_call(world.url(), &world.token("seattle-manager")?, "get_current_utc_date", json!({}))?;
    let mut first = Wire::connect(world.url(), request.clone()).await?;
    first.exchange().await?;
    let (bare, bare_url) = bare(world, "bare", first.body()).await?;
    let (rmcp, rmcp_url) = bare_rmcp(world, &mut first).await?;
    let mut rate = 0.0;
    for connections in [1, 16, 64] {
        let mut ours = Wire::many(world.url(), &request, connections).await?;
        let mut theirs = Wire::many(&bare_url, &request, connections).await?;
        let (mut cpu, mut rates, mut p50) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..settings.rounds {
            let (our_cpu, our_load, back) = round(world.gateway_pid(), ours, ROUND).await?;
            ours = back;
            let (their_cpu, their_load, back) = round(bare.pid(), theirs, ROUND).await?;
            theirs = back;
            cpu.push((our_cpu, their_cpu));
            rates.push((our_load.rate(), their_load.rate()));
            p50.push((our_load.ms(0.5), their_load.ms(0.5)));
        }
        let what = format!("date tool, CPU per call at {connections}");
        report.add(Row::ratio(&format!("date.cpu.{connections}"), &what, "bare hyper", "µs", Aim::AtMost(3.0), &cpu));
        let what = format!("date tool, calls per second at {connections}");
        report.add(Row::ratio(&format!("date.rate.{connections}"), &what, "bare hyper", "/s", Aim::Larger, &rates));
        if connections == 1 {
            report.add(Row::pairs(
                Kind::Difference,
                "date.p50.1",
                "date tool, p50 at 1",
                "bare hyper",
                "ms",
                Aim::Smaller,
                &p50,
            ));
        }
        if connections == 16 {
            against_rmcp(world, &request, (rmcp.pid(), &rmcp_url), settings, report).await?;
            rate = crate::report::median(&rates.iter().map(|(ours, _)| *ours).collect::<Vec<_>>()) / 2.0;
        }
    }
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for _ in 0..settings.rounds {
        let load = async |url: &str| {
            let (url, request) = (url.to_owned(), request.clone());
            open(THREADS, move |_| BlockingWire::connect(&url, request.clone()), rate, ROUND).await
        };
        let (our_load, their_load) = (load(world.url()).await?, load(&bare_url).await?);
        p50.push((our_load.ms(0.5), their_load.ms(0.5)));
        p99.push((our_load.ms(0.99), their_load.ms(0.99)));
    }
    let what = format!("date tool, p50 at half load, {rate:.0}/s arriving");
    report.add(Row::pairs(Kind::Difference, "date.open.p50", &what, "bare hyper", "ms", Aim::Smaller, &p50));
    report.add(Row::pairs(
        Kind::Difference,
        "date.open.p99",
        "date tool, p99 at half load",
        "bare hyper",
        "ms",
        Aim::Smaller,
        &p99,
    ));
    Ok(())
}

/// What of it is rmcp's: the floor of whoever leaves the protocol to it.
async fn against_rmcp(
    world: &World,
    request: &Arc<[u8]>,
    (pid, url): (u32, &str),
    settings: Settings,
    report: &mut Report,
) -> Result<()> {
    let mut ours = Wire::many(world.url(), request, 16).await?;
    let mut theirs = Wire::many(url, request, 16).await?;
    let mut cpu = Vec::new();
    for _ in 0..settings.rounds {
        let (our_cpu, _, back) = round(world.gateway_pid(), ours, ROUND).await?;
        ours = back;
        let (their_cpu, _, back) = round(pid, theirs, ROUND).await?;
        theirs = back;
        cpu.push((our_cpu, their_cpu));
    }
    let what = "date tool, CPU per call at 16";
    report.add(Row::ratio("date.cpu.rmcp", what, "rmcp alone", "µs", Aim::Smaller, &cpu));
    Ok(())
}

/// Starts rmcp alone, and makes sure that it gives the same answer.
async fn bare_rmcp(world: &World, ours: &mut Wire) -> Result<(Child, String)> {
    let (child, url) = bare(world, "bare-rmcp", ours.body()).await?;
    let request = tool_call(&url, "none", "get_current_utc_date", json!({}))?;
    let mut wire = Wire::connect(&url, request).await?;
    let status = wire.exchange().await?;
    let result = |wire: &Wire| -> Result<Value> { Ok(serde_json::from_slice::<Value>(wire.body())?["result"].take()) };
    let (theirs, ours) = (result(&wire)?, result(ours)?);
    ensure!(status == 200 && theirs["structuredContent"] == ours["structuredContent"], "rmcp alone: {status} {theirs}");
    Ok((child, url))
}

/// Starts the bare handler as a process of its own, so that its CPU time can be measured apart.
async fn bare(world: &World, command: &str, body: &[u8]) -> Result<(Child, String)> {
    let path = |name: &str| world.directory.path().join(name);
    let [answer, port, log] = ["json", "port", "log"].map(|kind| path(&format!("{command}.{kind}")));
    std::fs::write(&answer, body)?;
    let spawn = Spawn::new(std::env::current_exe()?).arg(command).arg(answer);
    let mut child = spawn.stdout(port.clone()).log(log).start()?;
    let begun = Instant::now();
    loop {
        let text = std::fs::read_to_string(&port).unwrap_or_default();
        if let Some(port) = text.strip_suffix('\n') {
            return Ok((child, format!("http://127.0.0.1:{port}")));
        }
        if !child.is_running() || begun.elapsed() > Duration::from_secs(10) {
            bail!("{command} did not start: {}", child.log_tail(5));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
