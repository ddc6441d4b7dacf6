//! docs/kind.md, command by command: each is run, or held against what was called. One that nobody knows is an error.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail, ensure};
use regex::Regex;
use storefence_devstack::{
    kube_api::{KubeApi, KubeApiOptions},
    tls::Authority,
};
use storefence_tests::outside::own_program;

use crate::{NAMESPACE, machine::Machine, pods::binary};

fn root() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no parent")
}

/// The commands of the page's `sh` blocks, those by hand apart.
fn commands() -> Result<(Vec<String>, Vec<String>)> {
    let page = fs::read_to_string(root()?.join("docs/kind.md"))?;
    let (first, hand) = page.split_once("## The same by hand").context("the page has no commands by hand")?;
    let of = |text: &str| {
        let blocks = text.split("```sh\n").skip(1).filter_map(|block| block.split("```").next());
        blocks.flat_map(str::lines).map(str::to_owned).collect::<Vec<_>>()
    };
    Ok((of(first), of(hand)))
}

fn words(command: &str) -> Result<Vec<String>> {
    let word = Regex::new(r#""[^"]*"|\S+"#)?;
    Ok(word.find_iter(command).map(|found| found.as_str().trim_matches('"').to_owned()).collect())
}

/// kubectl with a kubeconfig, in the checkout; what it prints.
fn kubectl(words: &[&str], kubeconfig: &Path) -> Result<String> {
    let mut kubectl = Command::new("kubectl");
    kubectl.args(words).env("KUBECONFIG", kubeconfig).current_dir(root()?);
    let output = tokio::task::block_in_place(|| kubectl.output())?;
    let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "kubectl {words:?}: {said}{wrong}");
    Ok(said.into_owned())
}

/// Runs the page up to its end on the cluster that is up: the commands as they stand, but for where the stack is.
pub async fn run(machine: &Machine, stack: &str) -> Result<()> {
    let (page, _) = commands()?;
    let with_kubectl = own_program("kubectl")?.is_some();
    let kubeconfig = machine.path("kind/kubeconfig");
    let mut answers = Vec::new();
    for command in page {
        let here = words(&command.replace("target/devstack/kind/stack.json", stack))?;
        let here: Vec<&str> = here.iter().map(String::as_str).collect();
        match here[..] {
            ["cargo", "xtask", "ask" | "token", ..] => answers.push(machine.said(&here[2..])?),
            ["cargo", "xtask", "kind", "status"] => drop(machine.said(&here[2..])?),
            ["kubectl", ..] if !with_kubectl => {}
            ["kubectl", ref rest @ ..] => {
                let said = kubectl(rest, &kubeconfig)?;
                // The stand-in has no nodes, and so no pods.
                let shown = rest[..2] == ["get", "pods"] || said.contains("zava");
                ensure!(shown, "{command}: {said}");
            }
            // What the test itself does before and after.
            ["git", "clone", _] | ["cd", _] | ["cargo", "xtask", "kind", "up" | "down"] => {}
            ["export", value] => {
                ensure!(
                    value == "KUBECONFIG=$PWD/target/devstack/kind/kubeconfig",
                    "{command}: not where it is written"
                );
            }
            _ => bail!("docs/kind.md: no test knows what to do with `{command}`"),
        }
    }
    ensure!(answers.len() >= 4 && answers[0] != answers[1], "different people, different answers: {answers:?}");
    Ok(())
}

/// What the page shows as done by hand with docker, kind and helm is what was called.
pub fn is_what_was_called(calls: &[String]) -> Result<()> {
    let (_, hand) = commands()?;
    let mut compared = 0;
    for command in hand {
        let (program, rest) = command.split_once(' ').unwrap_or((&command, ""));
        if !["docker", "kind", "helm"].contains(&program) {
            continue;
        }
        let arguments: Vec<&str> = rest.split(' ').collect();
        let verb = arguments[0];
        let same = calls.iter().any(|call| {
            let words: Vec<&str> = call.split(' ').collect();
            // The kubeconfig and the configuration with its ports are this machine's.
            let known = |word: &&&str| words.contains(*word) || word.ends_with("kind-config.yaml");
            call.starts_with(&format!("{program} {verb}")) && arguments.iter().filter(known).count() == arguments.len()
        });
        ensure!(same, "docs/kind.md: `{command}` is not what was called: {calls:#?}");
        compared += 1;
    }
    ensure!(compared == 6, "docs/kind.md: {compared} commands by hand with docker, kind and helm");
    Ok(())
}

/// What is done by hand with kubectl, on an API server that knows nothing yet; what waits for tenants and asks, where the chart's
/// pods run.
pub async fn by_hand(machine: &Machine) -> Result<()> {
    if own_program("kubectl")?.is_none() {
        return Ok(());
    }
    let authority = Authority::new()?;
    let fresh = KubeApi::start(KubeApiOptions::new(&authority)).await?;
    let kubeconfig = machine.path("kubeconfig-by-hand");
    fs::write(&kubeconfig, fresh.kubeconfig())?;
    let (_, hand) = commands()?;
    let mut ran = Vec::new();
    for command in hand {
        let here = words(&command)?;
        let here: Vec<&str> = here.iter().map(String::as_str).collect();
        let (verb, said) = match here[..] {
            ["docker" | "kind" | "helm", ..] => continue,
            ["kubectl", verb @ ("apply" | "create" | "label"), ..] => (verb, kubectl(&here[1..], &kubeconfig)?),
            ["kubectl", "wait", ..] => ("wait", kubectl(&here[1..], &machine.path("kind/kubeconfig"))?),
            // A pod is a process here: the same command with what it finds in its image.
            [
                "kubectl",
                "exec",
                "--namespace",
                NAMESPACE,
                "deployment/storefence-devstack",
                "--",
                program,
                ref rest @ ..,
            ] => {
                let mut asked = Command::new(binary(program));
                asked.args(rest).env("STOREFENCE_STACK", machine.path("kind/stack.json"));
                let output = tokio::task::block_in_place(|| asked.output())?;
                ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
                ("exec", String::from_utf8_lossy(&output.stdout).into_owned())
            }
            _ => bail!("docs/kind.md: no test knows what to do with `{command}`"),
        };
        ensure!(!said.trim().is_empty(), "{command} says nothing");
        ran.push(verb.to_owned());
    }
    ensure!(ran == ["apply", "create", "label", "apply", "wait", "exec"], "{ran:?}");
    let namespace = kubectl(&["get", "namespace", NAMESPACE, "--show-labels"], &kubeconfig)?;
    ensure!(namespace.contains("pod-security.kubernetes.io/enforce=restricted"), "{namespace}");
    let tenants = kubectl(&["get", "retailtenants"], &kubeconfig)?;
    ensure!(tenants.contains("zava") && tenants.contains("contoso"), "{tenants}");
    fresh.shutdown().await;
    Ok(())
}
