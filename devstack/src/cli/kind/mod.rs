//! `kind up`, `status` and `down`: the product as it is installed on a cluster, on a cluster of one's own.
//!
//! docker, kind and helm do what only they can; everything else goes through the Kubernetes API, so that it holds for any
//! cluster.

mod cluster;
mod programs;
mod up;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail, ensure};
use clap::Subcommand;

use crate::cli::output::say;
use crate::{
    paths,
    stack::{StackFacts, cluster as installed},
};
use cluster::Cluster;
use programs::{DOCKER, KIND};

/// Where the chart goes.
const NAMESPACE: &str = "storefence";

#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
    /// Where the kubeconfig and what else the cluster needs is written
    #[arg(long, env = "STOREFENCE_KIND_DIRECTORY", value_name = "DIR", global = true, default_value_os_t = paths::state_dir().join("kind"))]
    directory: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Create the cluster, build and load the images, install PostgreSQL, stand-ins and the chart, apply the examples, wait
    /// until a question is answered, and say how to ask more. A second time it brings everything up to date
    Up(up::Options),
    /// Delete the cluster
    Down,
    /// Tell what runs on the cluster, and how to use it; exit code 1 when a part is not ready
    Status,
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let directory = std::path::absolute(&options.directory)?;
    match options.command {
        Command::Up(options) => up::run(options, &directory).await,
        Command::Down => down(&directory),
        Command::Status => status(&directory).await,
    }
}

/// The checkout: its chart, Dockerfile and kind-config.yaml.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

fn down(directory: &Path) -> Result<()> {
    programs::require(&[&DOCKER, &KIND])?;
    let cluster = Cluster::new(directory, Default::default())?;
    let _ = fs::remove_file(directory.join("stack.json"));
    if !cluster.exists()? {
        say!("no kind cluster {} is there", cluster.name);
        return Ok(());
    }
    cluster.delete()?;
    say!("deleted");
    Ok(())
}

async fn status(directory: &Path) -> Result<()> {
    programs::require(&[&DOCKER, &KIND])?;
    let cluster = Cluster::new(directory, Default::default())?;
    ensure!(cluster.exists()?, "there is no kind cluster {}: cargo xtask kind up", cluster.name);
    cluster.export_kubeconfig()?;
    let kube = installed::client(&cluster.kubeconfig).await?;
    let mut waiting = Vec::new();
    for (name, ready) in installed::parts(&kube, NAMESPACE).await? {
        say!("{name:<40} {}", if ready { "ready" } else { "not ready" });
        if !ready {
            waiting.push(name);
        }
    }
    match StackFacts::read(&directory.join("stack.json")) {
        Ok(facts) => say!("\n{}", up::instructions(&facts, directory)),
        Err(_) => bail!("`cargo xtask kind up` has not come to its end: run it again"),
    }
    ensure!(
        waiting.is_empty(),
        "not ready: {}; kubectl describe, with the KUBECONFIG above, says why",
        waiting.join(", ")
    );
    Ok(())
}
