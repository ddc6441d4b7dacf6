//! `cargo xtask bench`: the release binaries, a real PostgreSQL and the stand-ins on loopback, measured side by side.

mod bare;
mod cases;
mod compare;
mod flight;
mod load;
mod process;
mod provision;
mod report;
mod wire;
mod world;

use std::{fs, path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use jiff::{Timestamp, tz::TimeZone};

use crate::{
    cases::{CASES, Settings},
    report::{Machine, Report},
};

/// Measure the release binaries on this machine: ratios that hold elsewhere too, absolute figures that do not.
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Only this case (repeatable); --list names them
    #[arg(long, value_name = "CASE")]
    only: Vec<String>,
    /// Name the cases and end
    #[arg(long)]
    list: bool,
    /// Interleaved rounds of each comparison; the table shows their median
    #[arg(long, value_name = "NUMBER", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Also what takes long: semantic search among 500,000 products
    #[arg(long)]
    large: bool,
    /// Where the figures are written
    #[arg(long, value_name = "FILE", default_value = "target/bench.json")]
    json: PathBuf,
    /// Figures of an earlier run, such as docs/benchmarks.json: exit code 1 where a value is worse by a quarter and outside of its spread then
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Leave docs/benchmarks.md and docs/benchmarks.json as they are; a run of some cases does so anyway
    #[arg(long)]
    no_docs: bool,
}

#[derive(Subcommand)]
enum Command {
    /// The handler that the date tool is measured against
    #[command(hide = true)]
    Bare { body: PathBuf },
    /// The same through rmcp
    #[command(hide = true)]
    BareRmcp { body: PathBuf },
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

#[tokio::main]
async fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Some(Command::Bare { body }) => return bare::serve(&body).await.map(|()| ExitCode::SUCCESS),
        Some(Command::BareRmcp { body }) => return bare::serve_rmcp(&body).await.map(|()| ExitCode::SUCCESS),
        None => {}
    }
    if cli.list {
        CASES.iter().for_each(|(name, what)| println!("{name:10} {what}"));
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(unknown) = cli.only.iter().find(|name| !CASES.iter().any(|(known, _)| known == name)) {
        bail!("there is no case {unknown}; --list names them");
    }
    let before = cli.compare.as_deref().map(Report::read).transpose()?;
    if cfg!(debug_assertions) {
        eprintln!("this is a debug build: the figures say nothing");
    }
    // kube, reqwest and rustls here need a provider as the products do.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();

    let begun = Instant::now();
    let mut report = Report { date: now(), commit: commit(), machine: machine(), ..Report::default() };
    let settings = Settings { rounds: cli.rounds.into(), large: cli.large };
    // Ctrl-C drops what runs, and every process that was started ends with it.
    tokio::select! {
        done = cases::run(&cli.only, settings, &mut report) => done?,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
    }
    report.seconds = begun.elapsed().as_secs_f64();
    report.machine.load[1] = load_average();

    println!("\n{}", report.table());
    println!(
        "{:.0} s on {} cores of {}; load average {:.1} before, {:.1} after",
        report.seconds, report.machine.cores, report.machine.processor, report.machine.load[0], report.machine.load[1]
    );
    let root = world::root();
    let json = if cli.json.is_absolute() { cli.json } else { root.join(cli.json) };
    report.write(&json)?;
    println!("figures: {}", json.canonicalize().unwrap_or(json).display());
    if cli.only.is_empty() && !cli.no_docs {
        let page = root.join("docs/benchmarks.md");
        let text = fs::read_to_string(&page).context("docs/benchmarks.md")?;
        fs::write(&page, report.document(&text)?)?;
        report.write(&root.join("docs/benchmarks.json"))?;
        println!("docs/benchmarks.md and docs/benchmarks.json are written");
    }
    let Some(before) = before else { return Ok(ExitCode::SUCCESS) };
    let worse = compare::regressions(&before, &report, compare::TOLERANCE);
    worse.iter().for_each(|regression| println!("worse than before: {regression}"));
    if worse.is_empty() {
        println!("nothing is worse than in the run of {}", before.date);
    }
    Ok(if worse.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn now() -> String {
    Timestamp::now().to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M UTC").to_string()
}

fn commit() -> String {
    let output =
        std::process::Command::new("git").args(["rev-parse", "--short", "HEAD"]).current_dir(world::root()).output();
    let text = output
        .ok()
        .filter(|output| output.status.success())
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_else(|| "unknown".to_owned())
}

fn machine() -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let kilobytes: f64 = memory.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or_default();
    let binaries = storefence_devstack::postgres::Binaries::find(None);
    Machine {
        processor: field(&read("/proc/cpuinfo"), "model name"),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        memory_gib: kilobytes / 1024.0 / 1024.0,
        system: format!("{} {}", read("/proc/sys/kernel/ostype").trim(), read("/proc/sys/kernel/osrelease").trim()),
        database: binaries.map_or_else(|_| "PostgreSQL".to_owned(), |found| format!("PostgreSQL {}", found.version())),
        load: [load_average(), 0.0],
    }
}

fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or_default()
}
