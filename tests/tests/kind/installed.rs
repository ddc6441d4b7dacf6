//! What Helm and the cluster's nodes would do: the pods of the chart's golden manifest, as processes.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};
use storefence_devstack::{
    postgres::{Cluster, SslMode},
    process::Child,
};

use crate::{NAMESPACE, STEP, free_port, machine::Machine, pods::Kubelet};

/// The pods of the chart, as processes.
pub struct Installed {
    pub kubelet: Kubelet,
    pub devstack: Child,
    pub operator: Child,
    pub gateway: Child,
    pub ports: Vec<String>,
}

/// What Helm and the cluster's nodes do.
pub async fn install(
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

pub async fn ready(installed: &mut Installed) -> Result<()> {
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

pub async fn start_devstack(kubelet: &Kubelet, machine: &Machine) -> Result<Child> {
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
pub async fn stand_ins_start_again(
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
