//! `kind up`, step by step.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::{
    NAMESPACE,
    cluster::Cluster,
    programs::{self, DOCKER, HELM, KIND, KUBECTL},
};
use crate::cli::output::say;
use crate::{
    cli::{token, up},
    entra::principals,
    mcp_client::{McpClient, Revision},
    stack::{StackFacts, StackOptions, cluster as installed},
};

/// Release of the chart; names of its objects begin so.
const RELEASE: &str = "storefence";
/// Nobody pulls from there: the images are loaded onto the nodes.
const REGISTRY: &str = "storefence.local";
const TAG: &str = "dev";
const PARTS: [&str; 3] = ["operator", "gateway", "devstack"];
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(200);

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Port of the gateway on this machine, if not the one in kind-config.yaml
    #[arg(long, value_name = "PORT")]
    gateway_port: Option<u16>,
    /// Port of the authority on this machine, if not the one in kind-config.yaml
    #[arg(long, value_name = "PORT")]
    authority_port: Option<u16>,
    /// Port of the pages for signing in on this machine, if not the one in kind-config.yaml
    #[arg(long, value_name = "PORT")]
    sign_in_port: Option<u16>,
    /// Leave out the embeddings; semantic search is then not configured
    #[arg(long)]
    no_model: bool,
}

pub(super) async fn run(options: Options, directory: &Path) -> Result<()> {
    programs::require(&[&DOCKER, &KIND, &KUBECTL, &HELM])?;
    DOCKER.output(["info", "--format", "{{.ServerVersion}}"]).context("docker is installed but does not answer")?;
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let begun = Instant::now();

    let cluster = Cluster::new(directory, [options.gateway_port, options.authority_port, options.sign_in_port])?;
    if cluster.exists()? {
        say!("using the kind cluster {}", cluster.name);
        cluster.export_kubeconfig()?;
    } else {
        say!("creating the kind cluster {}", cluster.name);
        cluster.create()?;
    }
    let images = build()?;
    say!("loading the images onto the nodes");
    cluster.load(&images.iter().map(|image| image.name.clone()).collect::<Vec<_>>())?;

    let kube = installed::client(&cluster.kubeconfig).await?;
    say!("applying the CustomResourceDefinition");
    installed::prepare(&kube, NAMESPACE).await?;
    say!("installing the chart with PostgreSQL and the stand-ins");
    let [gateway_port, authority_port, sign_in_port] = cluster.ports;
    let gateway_url = format!("http://localhost:{gateway_port}");
    install(&cluster, &images, &gateway_url, &format!("http://localhost:{sign_in_port}"), options.no_model)?;

    let ca_file = directory.join("ca.pem");
    fs::write(&ca_file, installed::trust(&kube, NAMESPACE, &format!("{RELEASE}-devstack-trust")).await?)?;
    let facts = StackFacts {
        gateway_url,
        admin_url: String::new(),
        operator_admin_url: String::new(),
        kubeconfig: cluster.kubeconfig.clone(),
        issuer_url: format!("https://localhost:{authority_port}"),
        database_url: String::new(),
        key_vault_url: String::new(),
        embeddings_url: None,
        audience: principals::AUDIENCE.to_owned(),
        ca_file,
        pids: [].into(),
        cluster: Some(cluster.name.clone()),
    };
    installed::apply_and_wait(&kube, &StackOptions::examples()?, |line| say!("{line}")).await?;
    say!("waiting until a question is answered");
    wait_answered(&facts).await?;
    facts.write(&directory.join("stack.json"))?;
    say!("ready after {:.0} s\n", begun.elapsed().as_secs_f32());
    say!("{}\n\n`cargo xtask kind down` deletes the cluster.", instructions(&facts, directory));
    Ok(())
}

/// The same lines as `up` prints.
pub(super) fn instructions(facts: &StackFacts, directory: &Path) -> String {
    up::instructions(facts, &format!(" --stack {}", directory.join("stack.json").display()))
}

/// An image as it was built.
struct Image {
    part: &'static str,
    name: String,
    id: String,
}

fn build() -> Result<Vec<Image>> {
    let revision = format!("REVISION={}", revision());
    PARTS
        .into_iter()
        .map(|part| {
            say!("building the image of the {part}");
            let name = format!("{REGISTRY}/storefence-{part}:{TAG}");
            DOCKER.run(["build", "--target", part, "--tag", &name, "--build-arg", &revision, "."])?;
            let id = DOCKER.output(["image", "inspect", "--format", "{{.Id}}", &name])?;
            Ok(Image { part, name, id })
        })
        .collect()
}

/// The commit that the images are labelled with, marked where the checkout differs from it.
fn revision() -> String {
    let describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"];
    let output = Command::new("git").args(describe).current_dir(super::root()).output();
    let said = output.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    let said = said.and_then(|text| String::from_utf8(text).ok()).map(|text| text.trim().to_owned());
    said.filter(|text| !text.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

fn install(cluster: &Cluster, images: &[Image], gateway_url: &str, sign_in_url: &str, no_model: bool) -> Result<()> {
    let kubeconfig = cluster.kubeconfig.display().to_string();
    let mut args: Vec<String> = ["upgrade", "--install", RELEASE, "charts/storefence", "--namespace", NAMESPACE]
        .into_iter()
        .chain(["--values", "charts/storefence/values-devstack.yaml", "--kubeconfig", &kubeconfig])
        .chain(["--wait", "--timeout", "10m"])
        .map(str::to_owned)
        .collect();
    let mut set = |value: String| args.extend(["--set-string".to_owned(), value]);
    set(format!("image.registry={REGISTRY}"));
    set(format!("image.tag={TAG}"));
    set(format!("gateway.publicUrl={gateway_url}"));
    set(format!("gateway.scopes[0]={gateway_url}/mcp/{}", principals::SCOPE));
    set(format!("gateway.authorizationServer={sign_in_url}/organizations/v2.0"));
    set(format!("devstack.signIn.url={sign_in_url}"));
    for Image { part, id, .. } in images {
        // The tag is the same after a rebuild: this is what makes the pods start again.
        set(format!("{part}.podAnnotations.storefence\\.dev/image={id}"));
    }
    if no_model {
        args.extend(["--set", "devstack.embeddings=false,config.embeddings=null"].map(str::to_owned));
    }
    HELM.run(args)
}

/// Asks until the gateway answers: the last of the tenants may be a moment behind.
async fn wait_answered(facts: &StackFacts) -> Result<()> {
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    loop {
        let said = match ask(facts).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if Instant::now() > deadline {
            bail!("no question is answered after {} s: {said:#}", ANSWER_TIMEOUT.as_secs());
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn ask(facts: &StackFacts) -> Result<()> {
    let token = token::issue(facts, "seattle-manager", None, None).await?;
    let client = McpClient::new(
        reqwest::Client::new(),
        format!("{}/mcp", facts.gateway_url),
        Some(token),
        Revision::V2026_07_28,
    );
    let question = json!({"postgresql_query": "SELECT count(*) FROM retail.orders"});
    let answer = client.call_tool("execute_sales_query", question).await?;
    if answer.message["result"].is_null() || answer.is_tool_error() {
        bail!("the gateway answered {}: {}", answer.status, answer.message);
    }
    Ok(())
}
