//! `status` and `down`.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::StackFile;
use crate::cli::output::say;
use crate::stack::{NoStack, StackFacts, facts::is_alive};

#[derive(clap::Args)]
pub(crate) struct StatusOptions {
    #[command(flatten)]
    stack: StackFile,
    /// The facts as JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub(crate) struct DownOptions {
    #[command(flatten)]
    stack: StackFile,
}

/// Exit code 1 when there is no stack, or a part of it has ended.
pub(crate) async fn status(options: &StatusOptions) -> Result<()> {
    let facts = options.stack.read()?;
    if options.json {
        say!("{}", serde_json::to_string_pretty(&facts)?);
    } else {
        for (name, pid) in &facts.pids {
            say!("{name:<12} {:<8} {pid}", if is_alive(*pid) { "running" } else { "ended" });
        }
        say!("{}", super::up::instructions(&facts, ""));
    }
    let ended: Vec<&str> =
        facts.pids.iter().filter(|(_, pid)| !is_alive(**pid)).map(|(name, _)| name.as_str()).collect();
    if !ended.is_empty() {
        bail!("{} ended; its log is in {}", ended.join(", "), log_directory(options));
    }
    Ok(())
}

fn log_directory(options: &StatusOptions) -> String {
    options.stack.path.parent().map(|directory| directory.join("logs").display().to_string()).unwrap_or_default()
}

/// Stops the stack; one that does not run is as good as stopped.
pub(crate) async fn down(options: &DownOptions) -> Result<()> {
    let facts = match StackFacts::read(&options.stack.path) {
        Ok(facts) => facts,
        Err(NoStack::NotRunning | NoStack::Ended(_)) => {
            say!("no stack is running");
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let Some(pid) = facts.pids.get("devstack").copied() else {
        bail!("this stack runs on the kind cluster {}: cargo xtask kind down", facts.cluster.unwrap_or_default());
    };
    let sent = Command::new("kill").args(["-TERM", &pid.to_string()]).status().context("cannot run kill")?;
    if !sent.success() {
        bail!("the stack's process {pid} could not be signalled");
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    while is_alive(pid) {
        if Instant::now() > deadline {
            bail!("the stack's process {pid} did not end within 60 s");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    say!("stopped");
    Ok(())
}
