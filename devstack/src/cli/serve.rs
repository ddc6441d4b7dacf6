//! `serve` and `ready`: the stand-ins alone, for containers.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::output::say;
use crate::stack::serve::{Kubernetes, ServeOptions, Served, is_ready};

const READY_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    shared: Shared,
    /// The name under which operator and gateway reach the stand-ins (repeatable: further names for certificates)
    #[arg(long, value_name = "NAME", default_value = "localhost")]
    host: Vec<String>,
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    listen: IpAddr,
    /// Port of the Kubernetes API
    #[arg(long, value_name = "PORT", default_value_t = 6443)]
    kubernetes_port: u16,
    /// No Kubernetes API: publish what others need as a ConfigMap and Secrets of the cluster around, whose names begin so
    #[arg(long, value_name = "NAME", conflicts_with_all = ["kubernetes_port", "apply"])]
    publish: Option<String>,
    /// Port of the authority
    #[arg(long, value_name = "PORT", default_value_t = 8443)]
    entra_port: u16,
    /// Port for signing in by plain HTTP, for browsers that do not know the stand-ins' certificates; not served if not given
    #[arg(long, value_name = "PORT", requires = "sign_in_url")]
    sign_in_port: Option<u16>,
    /// The base URL under which browsers reach that port; it answers to no other name
    #[arg(long, value_name = "URL", requires = "sign_in_port")]
    sign_in_url: Option<String>,
    /// Further application ID URI of the API: the gateway's URL, which clients send as `resource` (repeatable)
    #[arg(long, value_name = "URI")]
    resource: Vec<String>,
    /// Port of the Key Vault
    #[arg(long, value_name = "PORT", default_value_t = 8444)]
    key_vault_port: u16,
    /// Port of the embeddings; they are left out if not given
    #[arg(long, value_name = "PORT")]
    embeddings_port: Option<u16>,
    /// PostgreSQL, whose administrator `postgres` gets the password in database-password
    #[arg(long, value_name = "HOST:PORT", default_value = "localhost:5432")]
    database: String,
    /// The gateway, for `ask`
    #[arg(long, value_name = "URL", default_value = "http://localhost:8080")]
    gateway_url: String,
    /// Manifests to apply (repeatable)
    #[arg(long, value_name = "FILE")]
    apply: Vec<PathBuf>,
}

#[derive(clap::Args)]
pub(crate) struct Shared {
    /// The directory shared with operator, gateway and PostgreSQL
    #[arg(long, env = "STOREFENCE_DEVSTACK_DIRECTORY", value_name = "DIR")]
    directory: PathBuf,
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let Options {
        shared,
        host,
        listen,
        kubernetes_port,
        publish,
        entra_port,
        sign_in_port,
        sign_in_url,
        resource,
        key_vault_port,
        embeddings_port,
        database,
        gateway_url,
        apply,
    } = options;
    let manifests = apply
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok((path.display().to_string(), text))
        })
        .collect::<Result<_>>()?;
    let served = Served::start(ServeOptions {
        directory: shared.directory,
        hosts: host,
        listen,
        kubernetes: publish.map_or(Kubernetes::StandIn(kubernetes_port), Kubernetes::Around),
        entra_port,
        sign_in: sign_in_port.zip(sign_in_url),
        resources: resource,
        key_vault_port,
        embeddings_port,
        database,
        gateway_url,
        manifests,
    })
    .await?;
    say!("serving");
    tokio::select! {
        ended = served.run() => ended,
        _ = terminated.recv() => Ok(()),
        _ = interrupted.recv() => Ok(()),
    }
}

#[derive(clap::Args)]
pub(crate) struct ReadyOptions {
    #[command(flatten)]
    shared: Shared,
    /// Also wait, up to a minute, until this URL answers with success (repeatable)
    #[arg(long, value_name = "URL")]
    url: Vec<String>,
}

pub(crate) async fn ready(options: &ReadyOptions) -> Result<()> {
    ensure!(is_ready(&options.shared.directory), "the stand-ins do not serve yet");
    let http = reqwest::Client::new();
    let deadline = Instant::now() + READY_TIMEOUT;
    for url in &options.url {
        while !http.get(url).send().await.is_ok_and(|answer| answer.status().is_success()) {
            ensure!(Instant::now() < deadline, "{url} is not ready after {} s", READY_TIMEOUT.as_secs());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}
