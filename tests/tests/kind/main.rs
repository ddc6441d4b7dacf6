//! `cargo xtask kind` without Docker: kind, docker and helm are stand-ins that note their calls, the cluster is the
//! Kubernetes stand-in (or the one of `STOREFENCE_TEST_KUBECONFIG`), and the chart's pods for development run as processes
//! with what their specs say. What is not shown here is that the images build and that nodes run them.

mod installed;
mod machine;
mod page;
mod pods;
mod sign_in;

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, Config,
    api::DynamicObject,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use storefence_devstack::{
    postgres::{Cluster, ClusterOptions},
    process::Spawn,
};

use installed::{install, stand_ins_start_again};
use machine::{Kubernetes, Machine};
use pods::binary;

const STEP: Duration = Duration::from_secs(180);
const NAMESPACE: &str = "storefence";

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

async fn client(kubeconfig: &Path) -> Result<Client> {
    let config =
        Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

async fn until<F: Future<Output = Result<bool>>>(what: &str, mut check: impl FnMut() -> F) -> Result<()> {
    let deadline = Instant::now() + STEP;
    while !check().await? {
        ensure!(Instant::now() < deadline, "{what}: not within {STEP:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_named_with_the_way_to_it() -> Result<()> {
    let machine = Machine::new()?;
    fs::write(machine.path("docker-is-down"), "")?;
    let said = machine.refused(&["kind", "up"])?;
    ensure!(said.contains("docker is installed but does not answer") && said.contains("Cannot connect"), "{said}");
    for (program, source) in [
        ("helm", "https://helm.sh/docs/intro/install/"),
        ("kubectl", "https://kubernetes.io/docs/tasks/tools/"),
        ("kind", "https://kind.sigs.k8s.io/docs/user/quick-start/#installation"),
        ("docker", "https://docs.docker.com/engine/install/"),
    ] {
        // Installed elsewhere, it is not missing.
        let elsewhere = ["/usr/bin", "/bin"].iter().any(|directory| Path::new(directory).join(program).exists());
        fs::remove_file(machine.path("bin").join(program))?;
        let said = machine.refused(&["kind", "up"])?;
        let line = format!("{program} is not installed: {source}");
        ensure!(elsewhere || said.lines().any(|found| found.ends_with(&line)), "{line}: {said}");
    }
    let calls = machine.calls()?;
    ensure!(calls.iter().all(|call| call.starts_with("docker info")), "something was done: {calls:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_cluster_there_is_nothing_to_tell_or_to_stop() -> Result<()> {
    let machine = Machine::new()?;
    let said = machine.refused(&["kind", "status"])?;
    ensure!(said.contains("cargo xtask kind up"), "{said}");
    let said = machine.said(&["kind", "down"])?;
    ensure!(said.contains("no kind cluster storefence"), "{said}");
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port().to_string();
    let said = machine.refused(&["kind", "up", "--gateway-port", &port])?;
    ensure!(said.contains(&format!("port {port} is in use")) && said.contains("--gateway-port"), "{said}");
    let calls = machine.calls()?;
    ensure!(!calls.iter().any(|call| call.starts_with("kind create") || call.starts_with("docker build")), "{calls:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn from_nothing_to_a_question_answered() -> Result<()> {
    let machine = Machine::new()?;
    let kubernetes = Kubernetes::start(&machine).await?;
    let kube = client(&machine.path("kubeconfig")).await?;
    let postgres = Cluster::start(ClusterOptions::default()).await?;
    let ports = [free_port()?, free_port()?, free_port()?];
    let [gateway_port, authority_port, sign_in_port] = ports;

    let mut up = Spawn::new(binary("xtask"))
        .args(["kind", "up", "--gateway-port", &gateway_port.to_string()])
        .args(["--authority-port", &authority_port.to_string()])
        .args(["--sign-in-port", &sign_in_port.to_string()])
        .envs(machine.environment())
        .log(machine.path("up.log"))
        .start()?;
    let (calls, running) = (machine.path("calls"), || fs::read_to_string(machine.path("calls")).unwrap_or_default());
    while !running().contains("\nhelm upgrade") {
        ensure!(up.is_running(), "{}", up.log_tail(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ensure!(calls.exists());
    // Before the chart: its namespace and the CustomResourceDefinition.
    let namespace = Api::<Namespace>::all(kube.clone()).get(NAMESPACE).await?;
    let labels = namespace.metadata.labels.unwrap_or_default();
    ensure!(labels.get("pod-security.kubernetes.io/enforce").is_some_and(|level| level == "restricted"), "{labels:?}");

    let installed = install(&machine, &kube, &postgres, ports).await?;
    fs::write(machine.path("pods-are-ready"), "")?;
    let status = up.wait(STEP).await?.context("kind up did not end")?;
    let printed = up.log_text();
    ensure!(status.success(), "{printed}\n{}\n{}", installed.operator.log_tail(20), installed.gateway.log_tail(20));
    order_of_calls(&machine, ports)?;

    // The printed lines are those of `up`, and work.
    let stack = machine.path("kind/stack.json").display().to_string();
    for line in [
        format!("Gateway     http://localhost:{gateway_port}/mcp"),
        format!("Kubernetes  export KUBECONFIG={}", machine.path("kind/kubeconfig").display()),
        format!("Token       cargo xtask token seattle-manager --stack {stack}"),
        ".vscode/mcp.json".to_owned(),
    ] {
        ensure!(printed.lines().any(|found| found == line), "'{line}' is not in\n{printed}");
    }
    let token = machine.said(&["token", "seattle-manager", "--stack", &stack])?;
    ensure!(token.trim().split('.').count() == 3, "{token}");
    let question = ["ask", "--as", "seattle-manager", "--stack", &stack, "SELECT count(*) FROM retail.stores"];
    let answer = machine.said(&question)?;
    ensure!(answer.lines().any(|line| line.trim() == "1"), "{answer}");

    let pages = format!("http://localhost:{sign_in_port}");
    sign_in::sign_in_and_ask(&format!("http://localhost:{gateway_port}"), &pages).await?;
    page::run(&machine, &stack).await?;
    if kubernetes.api.is_some() {
        page::by_hand(&machine).await?;
    }
    let status = machine.said(&["kind", "status"])?;
    ensure!(status.contains("retailtenant/zava") && !status.contains("not ready"), "{status}");
    ensure!(machine.refused(&["down", "--stack", &stack])?.contains("cargo xtask kind down"));

    let gateway = stand_ins_start_again(&machine, &kube, installed).await?;
    let answer = machine.said(&question)?;
    ensure!(answer.lines().any(|line| line.trim() == "1"), "{answer}");

    // A second time: the cluster is kept, with its ports, and the pods get new images.
    machine.calls()?;
    machine.said(&["kind", "up"])?;
    let calls = machine.calls()?;
    ensure!(!calls.iter().any(|call| call.starts_with("kind create")), "{calls:#?}");
    ensure!(calls.iter().any(|call| call.contains(&format!("gateway.publicUrl=http://localhost:{gateway_port}"))));

    let tenants: Api<DynamicObject> = Api::namespaced_with(
        kube.clone(),
        "default",
        &kube::discovery::ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk(
            "retail.storefence.dev",
            "v1alpha1",
            "RetailTenant",
        )),
    );
    if kubernetes.api.is_none() {
        // A cluster that lives on is left as it was found.
        for name in ["zava", "contoso"] {
            tenants.delete(name, &kube::api::DeleteParams::default()).await?;
            until("the tenant goes", || async { Ok(tenants.get_opt(name).await?.is_none()) }).await?;
        }
        Api::<Namespace>::all(kube.clone()).delete(NAMESPACE, &kube::api::DeleteParams::default()).await?;
    }
    drop(gateway);
    ensure!(machine.said(&["kind", "down"])?.contains("deleted"));
    ensure!(!machine.path("kind/stack.json").exists());
    ensure!(machine.calls()?.iter().any(|call| call.starts_with("kind delete cluster --name storefence")));
    ensure!(machine.said(&["kind", "down"])?.contains("no kind cluster"), "twice is no error");
    Ok(())
}

/// What was called, in which order, and with what.
fn order_of_calls(machine: &Machine, [gateway_port, authority_port, sign_in_port]: [u16; 3]) -> Result<()> {
    let calls = machine.calls()?;
    let head = Command::new("git").args(["rev-parse", "HEAD"]).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let head = head.ok().filter(|output| output.status.success());
    let revision =
        head.map_or_else(|| "unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let steps = [
        "docker info",
        "kind get clusters",
        "kind create cluster",
        &format!(
            "docker build --target operator --tag storefence.local/storefence-operator:dev --build-arg REVISION={revision}"
        ),
        "docker build --target gateway",
        "docker build --target devstack",
        "kind load docker-image --name storefence storefence.local/storefence-operator:dev",
        "helm upgrade --install storefence charts/storefence --namespace storefence --values charts/storefence/values-devstack.yaml",
    ];
    let places: Vec<Option<usize>> =
        steps.iter().map(|step| calls.iter().position(|call| call.starts_with(step))).collect();
    ensure!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?}: {calls:#?}");
    page::is_what_was_called(&calls)?;
    let helm = calls.last().context("no calls")?;
    for part in ["operator", "gateway", "devstack"] {
        let id =
            format!("{part}.podAnnotations.storefence\\.dev/image=sha256:of-storefence.local/storefence-{part}:dev");
        ensure!(helm.contains(&id), "{helm}");
    }
    for set in [
        format!("gateway.publicUrl=http://localhost:{gateway_port}"),
        format!("gateway.scopes[0]=http://localhost:{gateway_port}/mcp/Retail.Query"),
        format!("gateway.authorizationServer=http://localhost:{sign_in_port}/organizations/v2.0"),
        format!("devstack.signIn.url=http://localhost:{sign_in_port}"),
        "--wait".to_owned(),
    ] {
        ensure!(helm.contains(&format!(" {set}")), "{set}: {helm}");
    }
    let cluster: Value = serde_saphyr::from_str(&fs::read_to_string(machine.path("cluster.yaml"))?)?;
    let mappings = cluster["nodes"][0]["extraPortMappings"].as_array().context("no mappings")?;
    let ports: Vec<Value> =
        mappings.iter().map(|mapping| json!([mapping["containerPort"], mapping["hostPort"]])).collect();
    let wanted = [(30080, gateway_port), (30443, authority_port), (30081, sign_in_port)];
    ensure!(ports == wanted.map(|(node, here)| json!([node, here])), "{ports:?}");
    ensure!(mappings.iter().all(|mapping| mapping["listenAddress"] == "127.0.0.1"), "{mappings:?}");
    let roles: Vec<&Value> =
        cluster["nodes"].as_array().context("no nodes")?.iter().map(|node| &node["role"]).collect();
    ensure!(roles == ["control-plane", "worker", "worker"], "{roles:?}");
    // The slot for registry mirrors: a directory of the nodes in which containerd looks for each registry's hosts.toml.
    let patches = cluster["containerdConfigPatches"].as_array().context("no slot for registry mirrors")?;
    let slot = "[plugins.\"io.containerd.grpc.v1.cri\".registry]\n  config_path = \"/etc/containerd/certs.d\"";
    ensure!(patches.iter().any(|patch| patch.as_str().is_some_and(|text| text.trim() == slot)), "{patches:?}");
    Ok(())
}
