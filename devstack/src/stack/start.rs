//! Starting a stack, step by step.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;

use super::{
    ClusterSource, DatabaseSource, Stack, StackFacts, StackOptions, apply, facts::write_private, file, retail_tenants,
    settings::Surroundings,
};
use crate::{
    embeddings::{EmbeddingsApi, EmbeddingsOptions, Model},
    entra::{ClientApp, Entra, EntraOptions, PlainSignIn, principals},
    key_vault::{KeyVault, KeyVaultOptions, Permissions},
    kube_api::{KubeApi, KubeApiOptions, Rule, User},
    postgres::{Binaries, Cluster, ClusterOptions},
    process::{Child, Spawn},
    tls::Authority,
};

pub(super) const CRD: &str = "retailtenants.retail.storefence.dev";
const GROUP: &str = "retail.storefence.dev";
const OPERATOR: &str = "storefence-operator";
const GATEWAY: &str = "storefence-gateway";
pub(super) const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Migrations, and loading the sample data on a slow machine.
const STEP_TIMEOUT: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(20);

/// The database as the stack uses it.
struct Database {
    cluster: Option<Cluster>,
    /// For people and tests.
    url: String,
    /// For the operator; the tenants' logins use the same server and TLS mode.
    operator_url: String,
    ca_file: Option<PathBuf>,
}

pub(super) async fn start(options: StackOptions) -> Result<Stack> {
    let say = options.progress;
    let directory = std::path::absolute(&options.directory)?;
    fs::create_dir_all(directory.join("logs")).with_context(|| format!("cannot create {}", directory.display()))?;

    say("starting the stand-ins for Entra ID and Key Vault");
    let authority = Authority::new()?;
    let ca_file = file(&directory, "ca.pem");
    authority.write_pem(&ca_file)?;
    let http = reqwest::Client::builder()
        .add_root_certificate(reqwest::Certificate::from_pem(authority.pem().as_bytes())?)
        .build()?;
    let entra = Entra::start(
        &authority,
        EntraOptions { plain_sign_in: Some(PlainSignIn::default()), ..EntraOptions::default() },
    )
    .await?;
    let key_vault = KeyVault::start(&authority, &entra, KeyVaultOptions::default()).await?;
    let operator_identity = ClientApp::with_secret(principals::ZAVA_TENANT_ID);
    let gateway_identity = ClientApp::with_secret(principals::ZAVA_TENANT_ID);
    for (identity, permissions) in
        [(&operator_identity, Permissions::officer()), (&gateway_identity, Permissions::user())]
    {
        entra.add_client(identity.clone());
        key_vault.allow(&identity.object_id, permissions);
    }

    let embeddings = match options.model {
        true => Some(start_embeddings(&options, &authority, &entra).await?),
        false => None,
    };
    for identity in [&operator_identity, &gateway_identity] {
        embeddings.iter().for_each(|api| api.allow(&identity.object_id));
    }

    let database = start_database(&options).await?;
    let (kube_api, kubeconfigs) = start_kubernetes(&options, &authority, &directory).await?;
    let kube = client(&kubeconfigs.admin).await.context("the Kubernetes API")?;

    let around = Surroundings {
        directory: &directory,
        bin_dir: &options.bin_dir,
        ca_file: &ca_file,
        authority: entra.url(),
        vault_url: key_vault.url(),
        embeddings: embeddings.as_ref().map(|api| (api.url(), api.deployment())),
    };
    let operator_config = around.operator_config(&database.operator_url, database.ca_file.as_deref())?;
    let gateway_config = around.gateway_config(database.ca_file.as_deref())?;
    let operator = |log: &str| {
        around
            .spawn(OPERATOR, log, &operator_identity, &kubeconfigs.operator)
            .env("STOREFENCE_CONFIG", &operator_config)
            .envs(options.operator_env.iter().map(|(name, value)| (name, value)))
    };

    say("applying the CustomResourceDefinition");
    let crds = operator("crds.log").arg("crds").stdout(file(&directory, "crds.yaml"));
    let _ = fs::remove_file(file(&directory, "crds.yaml"));
    run_to_end("storefence-operator crds", crds).await?;
    apply::apply_yaml(&kube, &fs::read_to_string(file(&directory, "crds.yaml"))?).await?;
    apply::wait_established(&kube, CRD, READY_TIMEOUT).await?;

    say("migrating the database");
    run_to_end("storefence-operator migrate", operator("migrate.log").arg("migrate")).await?;
    if options.seed {
        for tenant in ["zava", "contoso"] {
            say(&format!("loading sample data of {tenant}"));
            let args = ["seed", "--database", "retail", "--tenant", tenant, "--scale", "small"];
            run_to_end("storefence-operator seed", operator("seed.log").args(args)).await?;
        }
        if embeddings.is_some() {
            say("embedding the sample products");
            let args = ["embed", "--database", "retail"];
            run_to_end("storefence-operator embed", operator("embed.log").args(args)).await?;
        }
    }

    let command = operator("command.log");
    say("starting the operator and the gateway");
    let operator_port = free_port()?;
    let mut operator = operator("operator.log")
        .args(["run", "--admin-listen", &format!("127.0.0.1:{operator_port}")])
        // Failures of a local backend are over soon.
        .args(["--retry-base", "500ms", "--retry-max", "5s", "--call-timeout", "3s"])
        .start()?;
    let gateway_port = options.ports.gateway.map_or_else(free_port, Ok)?;
    let admin_port = options.ports.admin.map_or_else(free_port, Ok)?;
    let gateway_url = format!("http://127.0.0.1:{gateway_port}");
    // The URL is an application ID URI of the API and the scope begins with it, or sign-in by a client that sends it as
    // `resource` would end in AADSTS9010010: docs/entra.md, step 8.
    let resource = format!("{gateway_url}/mcp");
    entra.add_resource(&resource);
    let scope = format!("{resource}/{}", principals::SCOPE);
    let mut gateway = around
        .spawn(GATEWAY, "gateway.log", &gateway_identity, &kubeconfigs.gateway)
        .env("STOREFENCE_CONFIG", &gateway_config)
        .arg("run")
        .args(["--listen", &format!("127.0.0.1:{gateway_port}")])
        .args(["--admin-listen", &format!("127.0.0.1:{admin_port}")])
        .args(["--public-url", &gateway_url, "--authority", entra.url(), "--scope", &scope])
        .args(["--audience", principals::AUDIENCE, "--audience", principals::APPLICATION_ID_URI])
        // People sign in where no certificate is in the way of browser and editor.
        .args(entra.sign_in_url().map(|url| format!("--authorization-server={url}/organizations/v2.0")))
        .envs(options.gateway_env.iter().map(|(name, value)| (name, value)))
        .start()?;
    let admin_url = format!("http://127.0.0.1:{admin_port}");
    let operator_admin_url = format!("http://127.0.0.1:{operator_port}");
    wait_ready(&http, "operator", &operator_admin_url, &mut operator).await?;
    wait_ready(&http, "gateway", &admin_url, &mut gateway).await?;

    let mut tenants = Vec::new();
    for (name, manifest) in &options.manifests {
        say(&format!("applying {name}"));
        let applied = apply::apply_yaml(&kube, manifest).await.with_context(|| format!("applying {name}"))?;
        tenants.extend(applied.into_iter().filter_map(|what| what.strip_prefix("retailtenants/").map(str::to_owned)));
    }
    for tenant in &tenants {
        say(&format!("waiting until {tenant} is Ready"));
        wait_tenant(&kube, tenant, || operator.log_tail(20)).await?;
        wait_served(&http, &admin_url, tenants.len()).await?;
    }

    let mut pids = BTreeMap::from([
        ("devstack".to_owned(), std::process::id()),
        ("operator".to_owned(), operator.pid()),
        ("gateway".to_owned(), gateway.pid()),
    ]);
    pids.extend(database.cluster.as_ref().and_then(Cluster::pid).map(|pid| ("postgres".to_owned(), pid)));
    let facts = StackFacts {
        gateway_url,
        admin_url,
        operator_admin_url,
        kubeconfig: kubeconfigs.admin,
        issuer_url: entra.url().to_owned(),
        database_url: database.url,
        key_vault_url: key_vault.url().to_owned(),
        embeddings_url: embeddings.as_ref().map(|api| api.url().to_owned()),
        audience: principals::AUDIENCE.to_owned(),
        ca_file,
        pids,
        cluster: None,
    };
    let (cluster, bin_dir) = (database.cluster, options.bin_dir);
    Ok(Stack {
        gateway,
        operator,
        facts,
        kube,
        http,
        kube_api,
        key_vault,
        embeddings,
        entra,
        cluster,
        command,
        bin_dir,
        applied: Mutex::new(tenants.into_iter().collect()),
    })
}

async fn start_embeddings(options: &StackOptions, authority: &Authority, entra: &Entra) -> Result<EmbeddingsApi> {
    let say = options.progress;
    say("starting the embeddings stand-in with its model");
    let model = tokio::task::spawn_blocking(move || Model::shared(&say)).await?;
    let model = model.context("semantic search needs the model; --no-model starts without")?;
    Ok(EmbeddingsApi::start(authority, entra, model, EmbeddingsOptions::default()).await?)
}

async fn start_database(options: &StackOptions) -> Result<Database> {
    let (version, admin) = match &options.database {
        DatabaseSource::Url(url) => {
            (options.progress)("using the database of DATABASE_URL");
            return Ok(Database { cluster: None, url: url.clone(), operator_url: url.clone(), ca_file: None });
        }
        DatabaseSource::Start { version, admin } => (*version, *admin),
    };
    let say = options.progress;
    say("starting PostgreSQL");
    let binaries = tokio::task::spawn_blocking(move || Binaries::find_with(version, &say)).await??;
    let cluster = Cluster::start(ClusterOptions { binaries: Some(binaries), ..ClusterOptions::default() }).await?;
    let database = cluster.create_database("retail", admin).await?;
    Ok(Database {
        url: database.admin_url,
        operator_url: database.admin_tls_url,
        ca_file: Some(cluster.ca_file().to_owned()),
        cluster: Some(cluster),
    })
}

struct Kubeconfigs {
    admin: PathBuf,
    operator: PathBuf,
    gateway: PathBuf,
}

/// What the chart lets the operator do, word for word: whatever else it asked for would fail here first. The stand-in's
/// rules know no namespaces of the operator's own, so leases are open everywhere.
#[must_use]
pub fn operator_rules() -> Vec<Rule> {
    vec![
        Rule::new(&[GROUP], &["retailtenants"], &["get", "list", "watch", "patch"]),
        Rule::new(&[GROUP], &["retailtenants/status"], &["patch"]),
        Rule::new(&["events.k8s.io"], &["events"], &["create", "patch"]),
        Rule::new(&["coordination.k8s.io"], &["leases"], &["create"]),
        Rule::new(&["coordination.k8s.io"], &["leases"], &["get", "update"]),
    ]
}

/// What the chart lets the gateway do.
#[must_use]
pub fn gateway_rules() -> Vec<Rule> {
    vec![Rule::new(&[GROUP], &["retailtenants"], &["get", "list", "watch"])]
}

/// The stand-in, with the rights that the chart's ClusterRoles give to operator and gateway; or the current cluster.
async fn start_kubernetes(
    options: &StackOptions,
    authority: &Authority,
    directory: &Path,
) -> Result<(Option<KubeApi>, Kubeconfigs)> {
    let admin = file(directory, "kubeconfig");
    let own = match &options.cluster {
        ClusterSource::StandIn => None,
        ClusterSource::Current => {
            (options.progress)("using the cluster that KUBECONFIG points at");
            Some(Kubeconfig::read().context("--cluster current needs KUBECONFIG or ~/.kube/config")?)
        }
        ClusterSource::Kubeconfig(path) => {
            (options.progress)(&format!("using the cluster of {}", path.display()));
            Some(Kubeconfig::read_from(path)?)
        }
    };
    if let Some(current) = own {
        write_private(&admin, serde_saphyr::to_string(&current)?.as_bytes())?;
        return Ok((None, Kubeconfigs { operator: admin.clone(), gateway: admin.clone(), admin }));
    }
    (options.progress)("starting the stand-in for the Kubernetes API");
    let kube_options = KubeApiOptions::new(authority)
        .user(User::new(OPERATOR, operator_rules()))
        .user(User::new(GATEWAY, gateway_rules()));
    let api = KubeApi::start(kube_options).await?;
    let write = |name: &str, kubeconfig: Option<String>| -> Result<PathBuf> {
        let path = file(directory, name);
        write_private(&path, kubeconfig.context("no such user")?.as_bytes())?;
        Ok(path)
    };
    let kubeconfigs = Kubeconfigs {
        admin: write("kubeconfig", Some(api.kubeconfig()))?,
        operator: write("kubeconfig-operator", api.kubeconfig_for(OPERATOR))?,
        gateway: write("kubeconfig-gateway", api.kubeconfig_for(GATEWAY))?,
    };
    Ok((Some(api), kubeconfigs))
}

pub(super) async fn client(kubeconfig: &Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

pub(super) async fn run_to_end(what: &str, spawn: Spawn) -> Result<()> {
    let mut child = spawn.start()?;
    match child.wait(STEP_TIMEOUT).await? {
        Some(status) if status.success() => Ok(()),
        Some(status) => bail!("{what} ended with {status}:\n{}", child.log_tail(20)),
        None => bail!("{what} did not end within {} s:\n{}", STEP_TIMEOUT.as_secs(), child.log_tail(20)),
    }
}

async fn wait_ready(http: &reqwest::Client, name: &str, admin_url: &str, child: &mut Child) -> Result<()> {
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        let answer = http.get(format!("{admin_url}/readyz")).send().await;
        if answer.is_ok_and(|answer| answer.status().is_success()) {
            return Ok(());
        }
        if !child.is_running() {
            bail!("the {name} has ended:\n{}", child.log_tail(20));
        }
        if Instant::now() > deadline {
            bail!("the {name} is not ready after {} s:\n{}", READY_TIMEOUT.as_secs(), child.log_tail(20));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// `more` is added to the message about a tenant that does not become Ready.
pub(super) async fn wait_tenant(kube: &Client, name: &str, more: impl Fn() -> String) -> Result<()> {
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        let object = retail_tenants(kube, "default").get(name).await?;
        let ready = apply::condition(&object, "Ready").cloned().unwrap_or(Value::Null);
        if ready["status"] == "True" && ready["observedGeneration"] == serde_json::json!(object.metadata.generation) {
            return Ok(());
        }
        if Instant::now() > deadline {
            let said = format!("{}: {}", ready["reason"], ready["message"]);
            bail!("{name} is not Ready after {} s ({said}):\n{}", READY_TIMEOUT.as_secs(), more());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until the gateway has seen that the tenants are Ready.
async fn wait_served(http: &reqwest::Client, admin_url: &str, tenants: usize) -> Result<()> {
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        let metrics = http.get(format!("{admin_url}/metrics")).send().await?.text().await?;
        let served = metrics
            .lines()
            .find_map(|line| line.strip_prefix("storefence_tenants{state=\"served\"} ")?.parse::<f64>().ok());
        if served.is_some_and(|served| served >= tenants as f64) || Instant::now() > deadline {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
