//! `cargo xtask kind` without Docker: kind, docker and helm are stand-ins that note their calls, the cluster is the
//! Kubernetes stand-in (or the one of `STOREFENCE_TEST_KUBECONFIG`), and the chart's pods for development run as processes
//! with what their specs say. What is not shown here is that the images build and that nodes run them.

mod page;
mod pods;
mod sign_in;

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::{
    Api, Client, Config,
    api::DynamicObject,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use storefence_devstack::{
    kube_api::{KubeApi, KubeApiOptions, Rule, User},
    postgres::{Cluster, ClusterOptions, SslMode},
    process::{Child, Spawn},
    stack::{gateway_rules, operator_rules},
    tls::Authority,
};
use tempfile::TempDir;

use pods::{Kubelet, binary};

const STEP: Duration = Duration::from_secs(180);
const NAMESPACE: &str = "storefence";

const DOCKER: &str = r#"echo "docker $*" >>"$FAKE/calls"
[ ! -f "$FAKE/docker-is-down" ] || { echo "Cannot connect to the Docker daemon" >&2; exit 1; }
case "$*" in "info "*) echo 29.0.0 ;; "image inspect "*) for last; do :; done; echo "sha256:of-$last" ;; esac"#;

const KIND: &str = r#"echo "kind $*" >>"$FAKE/calls"
verb="$1 $2"
while [ $# -gt 0 ]; do
  case "$1" in --kubeconfig) kubeconfig=$2 ;; --config) config=$2 ;; esac
  shift
done
case "$verb" in
  "get clusters") if [ -f "$FAKE/cluster.yaml" ]; then echo another; echo storefence; else echo "No kind clusters found." >&2; fi ;;
  "create cluster") cp "$config" "$FAKE/cluster.yaml"; cp "$FAKE/kubeconfig" "$kubeconfig" ;;
  "export kubeconfig") cp "$FAKE/kubeconfig" "$kubeconfig" ;;
  "delete cluster") rm "$FAKE/cluster.yaml" "$kubeconfig" ;;
esac"#;

/// With --wait it ends when the pods are there.
const HELM: &str = r#"echo "helm $*" >>"$FAKE/calls"
while [ ! -f "$FAKE/pods-are-ready" ]; do sleep 0.05; done"#;

/// What a person has who runs `cargo xtask kind`: the programs, and a directory.
struct Machine {
    directory: TempDir,
}

impl Machine {
    fn new() -> Result<Self> {
        let machine = Self { directory: tempfile::tempdir()? };
        fs::create_dir(machine.path("bin"))?;
        for (name, script) in [("docker", DOCKER), ("kind", KIND), ("kubectl", "exit 1"), ("helm", HELM)] {
            let path = machine.path("bin").join(name);
            fs::write(&path, format!("#!/bin/sh\nset -eu\n{script}\n"))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        Ok(machine)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn environment(&self) -> [(&'static str, String); 3] {
        // `kind up` builds first: the compiler stands beside the cargo that runs us.
        let cargo = PathBuf::from(std::env::var_os("CARGO").unwrap_or_default());
        let toolchain = cargo.parent().unwrap_or(Path::new("/usr/bin")).display();
        let path = format!("{}:/usr/bin:/bin:{toolchain}", self.path("bin").display());
        [
            ("PATH", path),
            ("FAKE", self.directory.path().display().to_string()),
            ("STOREFENCE_KIND_DIRECTORY", self.path("kind").display().to_string()),
        ]
    }

    /// `cargo xtask …`, through the binary that cargo would run.
    fn xtask(&self, args: &[&str]) -> Result<Output> {
        // The API server may be in this process: waiting must not take its thread away.
        tokio::task::block_in_place(|| {
            Ok(Command::new(binary("xtask")).args(args).envs(self.environment()).output()?)
        })
    }

    fn said(&self, args: &[&str]) -> Result<String> {
        let output = self.xtask(args)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        Ok(text)
    }

    fn refused(&self, args: &[&str]) -> Result<String> {
        let output = self.xtask(args)?;
        ensure!(output.status.code() == Some(1), "{args:?} ended with {}", output.status);
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Calls since the last time.
    fn calls(&self) -> Result<Vec<String>> {
        let text = fs::read_to_string(self.path("calls")).unwrap_or_default();
        fs::write(self.path("calls"), "")?;
        Ok(text.lines().map(str::to_owned).collect())
    }
}

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

/// The Kubernetes API, and the kubeconfigs of kind and of each pod.
struct Kubernetes {
    api: Option<KubeApi>,
}

impl Kubernetes {
    async fn start(machine: &Machine) -> Result<Self> {
        let own = std::env::var_os("STOREFENCE_TEST_KUBECONFIG");
        let part = |text: &str, name: &str| -> Result<()> {
            let mut kubeconfig: Value = serde_saphyr::from_str(text)?;
            for context in kubeconfig["contexts"].as_array_mut().context("no contexts")? {
                context["context"]["namespace"] = NAMESPACE.into();
            }
            Ok(fs::write(machine.path(name), serde_saphyr::to_string(&kubeconfig)?)?)
        };
        if let Some(file) = own {
            let text = fs::read_to_string(file)?;
            fs::write(machine.path("kubeconfig"), &text)?;
            ["operator", "gateway", "devstack"].iter().try_for_each(|name| part(&text, name))?;
            return Ok(Self { api: None });
        }
        let authority = Authority::new()?;
        // What the chart's Role lets it do.
        let publish = [&["configmaps", "secrets"][..], &["configmaps"], &["secrets"]]
            .into_iter()
            .zip([&["create"][..], &["get", "patch"], &["get", "patch"]])
            .map(|(resources, verbs)| Rule::new(&[""], resources, verbs))
            .collect();
        let options = KubeApiOptions::new(&authority)
            .user(User::new("operator", operator_rules()))
            .user(User::new("gateway", gateway_rules()))
            .user(User::new("devstack", publish));
        let api = KubeApi::start(options).await?;
        fs::write(machine.path("kubeconfig"), api.kubeconfig())?;
        for name in ["operator", "gateway", "devstack"] {
            part(&api.kubeconfig_for(name).context("no such user")?, name)?;
        }
        Ok(Self { api: Some(api) })
    }
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

/// The pods of the chart, as processes.
struct Installed {
    kubelet: Kubelet,
    devstack: Child,
    operator: Child,
    gateway: Child,
    ports: Vec<String>,
}

/// What Helm and the cluster's nodes do.
async fn install(
    machine: &Machine,
    kube: &Client,
    postgres: &Cluster,
    [gateway_port, authority_port, sign_in_port]: [u16; 3],
) -> Result<Installed> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no parent")?;
    let golden = fs::read_to_string(root.join("tests/chart/golden/devstack.yaml"))?;
    let database = url::Url::parse(&postgres.superuser_url("retail", SslMode::Disable))?;
    let [vault_port, embeddings_port] = [free_port()?, free_port()?];
    let to = |from: &str, to: String| (from.to_owned(), to);
    let mut kubelet = Kubelet {
        client: kube.clone(),
        namespace: NAMESPACE.to_owned(),
        objects: serde_saphyr::from_multiple(&golden)?,
        directory: machine.directory.path().to_owned(),
        kubeconfig: machine.path("devstack"),
        replacements: vec![
            to("--host=storefence-devstack", "--host=localhost".to_owned()),
            to("--listen=0.0.0.0", "--listen=127.0.0.1".to_owned()),
            to("--entra-port=8443", format!("--entra-port={authority_port}")),
            to("--sign-in-port=8446", format!("--sign-in-port={sign_in_port}")),
            to("--key-vault-port=8444", format!("--key-vault-port={vault_port}")),
            to("--embeddings-port=8445", format!("--embeddings-port={embeddings_port}")),
            to("https://storefence-devstack:8443", format!("https://localhost:{authority_port}")),
            to("https://storefence-devstack:8444", format!("https://localhost:{vault_port}")),
            to("https://storefence-devstack:8445", format!("https://localhost:{embeddings_port}")),
            to("storefence-devstack-database:5432", format!("127.0.0.1:{}", database.port().context("no port")?)),
            // What `kind up` sets.
            to("http://localhost:8080", format!("http://localhost:{gateway_port}")),
            to("http://localhost:8081", format!("http://localhost:{sign_in_port}")),
        ],
    };
    let devstack = start_devstack(&kubelet, machine).await?;
    let secrets: Api<Secret> = Api::namespaced(kube.clone(), NAMESPACE);
    let secret = secrets.get("storefence-devstack-database").await?.data.context("no data")?;
    let password = String::from_utf8(secret["password"].0.clone())?;
    // What the image's entry point does.
    let administrator = postgres.connect("postgres").await?;
    administrator.batch_execute("CREATE DATABASE retail").await?;
    let exists = administrator.query_opt("SELECT FROM pg_roles WHERE rolname = 'postgres'", &[]).await?.is_some();
    let verb = if exists { "ALTER" } else { "CREATE" };
    administrator.batch_execute(&format!("{verb} ROLE postgres SUPERUSER LOGIN PASSWORD '{password}'")).await?;

    let address = |port: u16| format!("127.0.0.1:{port}");
    kubelet.kubeconfig = machine.path("operator");
    kubelet.run("storefence-devstack-seed").await?;
    let operator_admin = free_port()?;
    let operator = kubelet
        .start("storefence-operator", |spawn| spawn.env("STOREFENCE_ADMIN_LISTEN", address(operator_admin)))
        .await?;
    kubelet.kubeconfig = machine.path("gateway");
    let gateway_admin = free_port()?;
    let gateway = kubelet
        .start("storefence-gateway", |spawn| {
            spawn.env("STOREFENCE_LISTEN", address(gateway_port)).env("STOREFENCE_ADMIN_LISTEN", address(gateway_admin))
        })
        .await?;
    let ports = [operator_admin, gateway_admin].map(|port| format!("http://127.0.0.1:{port}/readyz")).to_vec();
    let mut installed = Installed { kubelet, devstack, operator, gateway, ports };
    ready(&mut installed).await?;
    Ok(installed)
}

async fn ready(installed: &mut Installed) -> Result<()> {
    let http = reqwest::Client::new();
    let Installed { operator, gateway, ports, .. } = installed;
    for url in ports {
        let deadline = Instant::now() + STEP;
        while !http.get(url.as_str()).send().await.is_ok_and(|answer| answer.status().is_success()) {
            ensure!(operator.is_running(), "{}", operator.log_tail(20));
            ensure!(gateway.is_running(), "{}", gateway.log_tail(20));
            ensure!(Instant::now() < deadline, "{url} is not ready");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

async fn start_devstack(kubelet: &Kubelet, machine: &Machine) -> Result<Child> {
    let ready = machine.path("pods/devstack/run/storefence/stack.json");
    let _ = fs::remove_file(&ready);
    // The model is in the image; here it is where the other suites have it.
    let model = storefence_devstack::paths::state_dir();
    let mut child = kubelet.start("storefence-devstack", |spawn| spawn.env("STOREFENCE_DEVSTACK_DIR", model)).await?;
    let deadline = Instant::now() + STEP;
    while !ready.exists() {
        ensure!(child.is_running() && Instant::now() < deadline, "devstack: {}", child.log_tail(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(child)
}

/// The stand-ins' pod is replaced: the others have read its trust root and their secrets at their own start, so these must be
/// the same.
async fn stand_ins_start_again(
    machine: &Machine,
    kube: &Client,
    installed: Installed,
) -> Result<(Child, Child, Child)> {
    let Installed { mut kubelet, mut devstack, operator, gateway, .. } = installed;
    let trust: Api<ConfigMap> = Api::namespaced(kube.clone(), NAMESPACE);
    let secrets: Api<Secret> = Api::namespaced(kube.clone(), NAMESPACE);
    let published = || async {
        let mut found = Vec::new();
        for part in ["authority", "operator", "gateway", "database"] {
            found.push(secrets.get(&format!("storefence-devstack-{part}")).await?.data);
        }
        anyhow::Ok(found)
    };
    let before = published().await?;
    devstack.terminate(STEP).await?;
    kubelet.kubeconfig = machine.path("devstack");
    let devstack = start_devstack(&kubelet, machine).await?;
    ensure!(published().await? == before, "the Secrets changed");
    let ca = trust.get("storefence-devstack-trust").await?.data.context("no data")?;
    ensure!(ca["ca.pem"].starts_with("-----BEGIN CERTIFICATE-----"), "{ca:?}");
    Ok((devstack, operator, gateway))
}
