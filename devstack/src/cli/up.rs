//! `up`: the whole stack, until Ctrl-C.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use super::StackFile;
use crate::cli::output::{say, write};
use crate::{
    entra::principals,
    postgres::AdminKind,
    stack::{ClusterSource, DatabaseSource, NoStack, Ports, Stack, StackFacts, StackOptions, facts::is_alive},
};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Go on in the background; stop with `down`
    #[arg(long)]
    detach: bool,
    /// `stand-in`, or `current`: the cluster that KUBECONFIG points at
    #[arg(long, value_enum, default_value_t = Cluster::StandIn)]
    cluster: Cluster,
    /// Port of the gateway; a free one if not given
    #[arg(long, value_name = "PORT")]
    gateway_port: Option<u16>,
    /// Major version of PostgreSQL; whatever is found if not given
    #[arg(long, value_name = "VERSION")]
    postgres: Option<u32>,
    /// Leave out the embeddings model (80 MB on first use); semantic search is then not configured
    #[arg(long)]
    no_model: bool,
    /// Manifests to apply instead of the examples (repeatable)
    #[arg(long, value_name = "FILE")]
    apply: Vec<PathBuf>,
    #[command(flatten)]
    stack: StackFile,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Cluster {
    StandIn,
    Current,
}

pub(crate) async fn run(options: Options) -> Result<()> {
    match StackFacts::read(&options.stack.path) {
        Ok(facts) => {
            say!("{}", instructions(&facts, ""));
            bail!("a stack is running already: stop it with `cargo xtask down`, or name another file with --stack");
        }
        Err(NoStack::NotRunning | NoStack::Ended(_)) => {}
        Err(error) => return Err(error.into()),
    }
    if options.detach { detach(&options) } else { foreground(options).await }
}

async fn foreground(options: Options) -> Result<()> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let path = options.stack.path.clone();
    let begun = Instant::now();
    let starting = Stack::start(stack_options(options)?);
    let mut stack = tokio::select! {
        stack = starting => stack?,
        _ = interrupted.recv() => bail!("interrupted"),
        _ = terminated.recv() => bail!("terminated"),
    };
    stack.facts().write(&path).with_context(|| format!("cannot write {}", path.display()))?;
    say!("ready after {:.1} s\n", begun.elapsed().as_secs_f32());
    say!("{}\n\nCtrl-C stops the stack.", instructions(stack.facts(), ""));
    let ended = loop {
        tokio::select! {
            _ = interrupted.recv() => break None,
            _ = terminated.recv() => break None,
            () = tokio::time::sleep(Duration::from_millis(500)) => {
                if let Some(ended) = stack.ended() {
                    break Some(ended);
                }
            }
        }
    };
    say!("stopping");
    let _ = fs::remove_file(&path);
    stack.stop().await;
    match ended {
        Some(what) => bail!("{what}"),
        None => Ok(()),
    }
}

fn stack_options(options: Options) -> Result<StackOptions> {
    let directory = options.stack.path.parent().context("--stack names no file")?.to_owned();
    let database = match env::var("DATABASE_URL") {
        Ok(url) if !url.is_empty() => DatabaseSource::Url(url),
        _ => DatabaseSource::Start { version: options.postgres, admin: AdminKind::CreateRole },
    };
    let cluster = match options.cluster {
        Cluster::StandIn => ClusterSource::StandIn,
        Cluster::Current => ClusterSource::Current,
    };
    if let Some(port) = options.gateway_port
        && TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), Duration::from_millis(200))
            .is_ok()
    {
        bail!("--gateway-port {port} is in use; leave it out for a free one");
    }
    let mut stack = StackOptions::new(directory)?;
    stack.database = database;
    stack.cluster = cluster;
    stack.ports = Ports { gateway: options.gateway_port, ..Ports::default() };
    stack.model = !options.no_model;
    stack.progress = |line| say!("{line}");
    if options.apply.is_empty() {
        stack.manifests = StackOptions::examples()?;
    } else {
        for path in options.apply {
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            stack.manifests.push((path.display().to_string(), text));
        }
    }
    Ok(stack)
}

/// Starts the same command without `--detach` in a process group of its own, and passes on what it says until it is
/// ready.
fn detach(options: &Options) -> Result<()> {
    let directory = options.stack.path.parent().context("--stack names no file")?;
    fs::create_dir_all(directory)?;
    let log = directory.join("up.log");
    let file = fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = Command::new(env::current_exe()?);
    command.args(env::args_os().skip(1).filter(|arg| arg != "--detach"));
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn()?;
    let mut shown = 0;
    loop {
        let ended = child.try_wait()?;
        let text = fs::read_to_string(&log)?;
        let ready = StackFacts::read(&options.stack.path).is_ok_and(|facts| facts.pids["devstack"] == child.id());
        write(format_args!(
            "{}",
            text[shown..].replace("Ctrl-C stops the stack.", "`cargo xtask down` stops the stack.")
        ));
        shown = text.len();
        if let Some(status) = ended {
            bail!("the stack did not start ({status})");
        }
        if ready && text.ends_with("stops the stack.\n") && is_alive(child.id()) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What to do with a running stack. `options` is added to the commands that need to know which stack.
pub(crate) fn instructions(facts: &StackFacts, options: &str) -> String {
    let gateway = &facts.gateway_url;
    let names: Vec<&str> = principals::all().iter().map(|principal| principal.name).collect();
    let mcp_json = serde_json::json!({
        "servers": {
            "storefence": {
                "type": "http",
                "url": format!("{gateway}/mcp"),
                "headers": {"Authorization": "Bearer ${input:token}"},
            },
            // Without a token the editor asks who you are.
            "storefence-sign-in": {"type": "http", "url": format!("{gateway}/mcp")},
        },
        "inputs": [{
            "type": "promptString",
            "id": "token",
            "description": format!("Bearer token: cargo xtask token seattle-manager{options}"),
            "password": true,
        }],
    });
    let mcp_json = serde_json::to_string_pretty(&mcp_json).unwrap_or_default();
    // In a cluster nothing leads there from outside.
    let admin = match facts.admin_url.as_str() {
        "" => String::new(),
        url => format!("   (metrics and health: {url})"),
    };
    format!(
        "Gateway     {gateway}/mcp{admin}\n\
         Kubernetes  export KUBECONFIG={kubeconfig}\n\
         Token       cargo xtask token seattle-manager{options}\n\
         Question    cargo xtask ask --as seattle-manager{options} \"SELECT count(*) FROM retail.orders\"\n\
         Principals  {principals}\n\n\
         .vscode/mcp.json\n{mcp_json}",
        kubeconfig = facts.kubeconfig.display(),
        principals = names.join(", "),
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    /// What the stack does without the model is another test's matter.
    #[test]
    fn the_model_is_left_out_where_that_is_said() {
        let options = |more: &[&str]| {
            let line = ["up", "--stack", "/tmp/somewhere/stack.json"].iter().chain(more);
            stack_options(Line::try_parse_from(line).unwrap().options).unwrap()
        };
        assert!(options(&[]).model);
        let without = options(&["--no-model"]);
        assert!(!without.model && without.seed && without.manifests.len() == 2);
    }
}
