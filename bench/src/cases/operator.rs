//! The operator with 1,000 tenants of 20 stores: from nothing, one store more for each, and a restart with nothing to do.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use kube::{
    Api, Client, Config,
    api::{ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use storefence_devstack::{
    entra::{ClientApp, Entra, EntraOptions, principals::ZAVA_TENANT_ID},
    key_vault::{KeyVault, KeyVaultOptions, Operation, Permissions},
    kube_api::{KubeApi, KubeApiOptions, User},
    postgres::{AdminKind, Cluster, Database},
    process::{Child, Spawn},
    stack::operator_rules,
    tls::Authority,
};
use storefence_tenancy::{RetailTenant, resource::crd};
use tempfile::TempDir;

use crate::{
    process,
    report::{Aim, Report, Row},
    wire::Wire,
    world::{cluster, free_address},
};

const TENANTS: usize = 1_000;
const STORES: usize = 20;
const USER: &str = "storefence-operator";
const LIMIT: Duration = Duration::from_secs(240);

pub async fn run(report: &mut Report) -> Result<()> {
    println!("an operator with {TENANTS} tenants of {STORES} stores");
    let world = World::start().await?;
    let mut operator = world.operator(1)?;
    operator.ready().await?;

    let before = world.calls().await?;
    let cpu = world.cpu(&operator);
    let done = world.converge(STORES, &operator).await?;
    let spent = world.cpu(&operator);
    let calls = world.calls().await?;
    report.add(Row::absolute(
        "operator.rate",
        "operator: tenants a second from nothing",
        "/s",
        Aim::AtLeast(50.0),
        &[done.rate()],
    ));
    report.add(Row::absolute(
        "operator.p50",
        "operator: apply to Ready, p50, all applied at once",
        "s",
        Aim::Smaller,
        &[done.quantile(0.5)],
    ));
    report.add(Row::absolute(
        "operator.p99",
        "operator: apply to Ready, p99, all applied at once",
        "s",
        Aim::Smaller,
        &[done.quantile(0.99)],
    ));
    let what = "operator: time per tenant, last quarter";
    report.add(Row::ratio(
        "operator.growth",
        what,
        "first quarter",
        "ms",
        Aim::AtMost(1.2),
        &[(done.pace(0.75, 1.0), done.pace(0.0, 0.25))],
    ));
    for (name, after, before) in [
        ("Kubernetes API", calls.kubernetes, before.kubernetes),
        ("Key Vault", calls.vault, before.vault),
        ("database (transactions)", calls.database, before.database),
    ] {
        let what = format!("operator: calls per tenant, {name}");
        let id = format!("operator.calls.{}", name.split_whitespace().next().unwrap_or_default().to_lowercase());
        report.add(Row::absolute(&id, &what, "", Aim::Smaller, &[(after - before) as f64 / TENANTS as f64]));
    }
    for (id, who, at) in
        [("operator", "the operator itself", 0), ("database", "PostgreSQL", 1), ("standins", "stand-ins and bench", 2)]
    {
        let what = format!("operator: CPU time per tenant from nothing, {who}");
        let milliseconds = spent[at].saturating_sub(cpu[at]).as_secs_f64() * 1e3 / TENANTS as f64;
        report.add(Row::absolute(&format!("operator.cpu.{id}"), &what, "ms", Aim::Smaller, &[milliseconds]));
    }
    let (resident, peak) = process::resident_mib(operator.child.pid());
    report.add(Row::absolute(
        "operator.memory",
        "operator: resident memory with 1,000 tenants",
        "MiB",
        Aim::AtMost(100.0),
        &[resident],
    ));
    report.add(Row::absolute("operator.memory.peak", "operator: its peak", "MiB", Aim::Smaller, &[peak]));

    let done = world.converge(STORES + 1, &operator).await?;
    report.add(Row::absolute(
        "operator.change.rate",
        "operator: tenants a second, one store more for each",
        "/s",
        Aim::AtLeast(50.0),
        &[done.rate()],
    ));
    report.add(Row::absolute(
        "operator.change.p99",
        "operator: change to Ready, p99, all at once",
        "s",
        Aim::Smaller,
        &[done.quantile(0.99)],
    ));

    operator.child.terminate(Duration::from_secs(30)).await?;
    let before = world.calls().await?;
    let mut operator = world.operator(2)?;
    let seconds = operator.all_reconciled().await?;
    let after = world.calls().await?;
    report.add(Row::absolute(
        "operator.restart",
        "operator: restart with nothing to do, until all are checked",
        "s",
        Aim::AtMost(15.0),
        &[seconds],
    ));
    let writes: Vec<u64> = after.writes.iter().zip(before.writes).map(|(after, before)| after - before).collect();
    println!("  writes to the Kubernetes API, Key Vault and the database: {writes:?}");
    let writes = writes.iter().sum::<u64>() as f64;
    report.add(Row::absolute(
        "operator.restart.writes",
        "operator: writes of that restart, to all three backends",
        "",
        Aim::AtMost(0.0),
        &[writes],
    ));
    operator.child.terminate(Duration::from_secs(30)).await?;
    world.stop().await
}

/// The operator's surroundings.
struct World {
    kube: Client,
    api: KubeApi,
    vault: KeyVault,
    entra: Entra,
    app: ClientApp,
    cluster: Cluster,
    database: Database,
    directory: TempDir,
}

/// Calls so far.
struct Calls {
    kubernetes: u64,
    vault: u64,
    database: u64,
    /// To the Kubernetes API, to Key Vault, and rows of tables and roles.
    writes: [u64; 3],
}

/// How long each tenant took, and when it was done.
struct Done {
    seconds: Vec<f64>,
    at: Vec<f64>,
}

impl Done {
    fn rate(&self) -> f64 {
        self.at.len() as f64 / self.at.last().copied().unwrap_or(f64::NAN)
    }

    fn quantile(&self, quantile: f64) -> f64 {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        let at = (sorted.len() as f64 * quantile) as usize;
        sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
    }

    /// Milliseconds per tenant between two fractions of them.
    fn pace(&self, from: f64, to: f64) -> f64 {
        let index = |fraction: f64| ((self.at.len() as f64 * fraction) as usize).min(self.at.len() - 1);
        let (from, to) = (index(from), index(to));
        (self.at[to] - self.at[from]) * 1e3 / (to - from).max(1) as f64
    }
}

impl World {
    async fn start() -> Result<Self> {
        let authority = Authority::new()?;
        let entra = Entra::start(&authority, EntraOptions::default()).await?;
        let cluster = cluster().await?;
        let database = cluster.create_database("retail", AdminKind::CreateRole).await?;
        let vault = KeyVault::start(&authority, &entra, KeyVaultOptions::default()).await?;
        let app = ClientApp::with_secret(ZAVA_TENANT_ID);
        entra.add_client(app.clone());
        vault.allow(&app.object_id, Permissions::officer());
        let api = KubeApi::start(KubeApiOptions::new(&authority).user(User::new(USER, operator_rules()))).await?;
        let directory = tempfile::tempdir()?;
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text);
        authority.write_pem(&directory.path().join("ca.pem"))?;
        write("kubeconfig", &api.kubeconfig_for(USER).context("no kubeconfig")?)?;
        let config = json!({"databases": [{"name": "retail", "adminUrl": database.admin_url}], "keyVaults": [{"name": "main", "url": vault.url()}]});
        write("config.yaml", &config.to_string())?;
        let kubeconfig = Kubeconfig::from_yaml(&api.kubeconfig())?;
        let kube = Client::try_from(Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)?;
        let crds: Api<_> = Api::all(kube.clone());
        crds.create(&PostParams::default(), &crd()).await?;
        Ok(Self { kube, api, vault, entra, app, cluster, database, directory })
    }

    fn operator(&self, number: usize) -> Result<Operator> {
        let path = |name: &str| self.directory.path().join(name);
        let admin = free_address()?;
        let begun = Instant::now();
        let child = Spawn::new(std::env::current_exe()?.with_file_name(USER))
            .args(["run", "--admin-listen", &admin, "--config"])
            .arg(path("config.yaml"))
            .env_clear()
            .env("KUBECONFIG", path("kubeconfig"))
            .env("STOREFENCE_CA_FILE", path("ca.pem"))
            .env("STOREFENCE_CREDENTIAL", "client-secret")
            .env("AZURE_AUTHORITY_HOST", self.entra.url())
            .env("AZURE_TENANT_ID", &self.app.tenant_id)
            .env("AZURE_CLIENT_ID", &self.app.client_id)
            .env("AZURE_CLIENT_SECRET", self.app.secret.clone().unwrap_or_default())
            .env("RUST_LOG", "info")
            .log(path(&format!("operator-{number}.log")))
            .start()?;
        Ok(Operator { child, admin: format!("http://{admin}"), begun })
    }

    fn tenants(&self) -> Api<RetailTenant> {
        Api::namespaced(self.kube.clone(), "default")
    }

    /// Applies every tenant with this many stores, and waits until the last one is Ready.
    async fn converge(&self, stores: usize, operator: &Operator) -> Result<Done> {
        let tenants = self.tenants();
        let begun = Instant::now();
        let applying = async {
            let applied = stream::iter(0..TENANTS).map(|number| {
                let tenants = tenants.clone();
                async move {
                    let at = begun.elapsed().as_secs_f64();
                    let params = PatchParams::apply("bench").force();
                    let object = tenants.patch(&id(number), &params, &Patch::Apply(object(number, stores))).await?;
                    anyhow::Ok((id(number), (at, object.metadata.generation)))
                }
            });
            applied.buffer_unordered(16).try_collect::<HashMap<_, _>>().await
        };
        // The last event of each tenant shows when it was Ready; one list at the end shows that none was missed.
        let mut watch =
            std::pin::pin!(kube::runtime::watcher(tenants.clone(), kube::runtime::watcher::Config::default()));
        let watching = async {
            let mut ready: HashMap<String, (f64, i64)> = HashMap::new();
            while ready.len() < TENANTS {
                let event =
                    tokio::time::timeout(LIMIT, watch.next()).await.context("the tenants did not become Ready")?;
                let object = match event.context("the watch ended")?? {
                    kube::runtime::watcher::Event::Apply(object) | kube::runtime::watcher::Event::InitApply(object) => {
                        object
                    }
                    _ => continue,
                };
                if let Some(generation) = is_ready(&object, stores) {
                    let name = object.metadata.name.unwrap_or_default();
                    ready.entry(name).or_insert((begun.elapsed().as_secs_f64(), generation));
                }
                if begun.elapsed() > LIMIT {
                    bail!("{} of {TENANTS} tenants are Ready:\n{}", ready.len(), operator.child.log_tail(20));
                }
            }
            Ok(ready)
        };
        let (applied, ready) = futures::try_join!(applying, watching)?;
        let listed = tenants.list(&ListParams::default()).await?;
        ensure!(
            listed.items.iter().filter(|object| is_ready(object, stores).is_some()).count() == TENANTS,
            "not all are Ready"
        );
        let seconds = applied.iter().filter_map(|(name, (at, _))| Some(ready.get(name)?.0 - at)).collect();
        let mut at: Vec<f64> = ready.values().map(|(at, _)| *at).collect();
        at.sort_by(f64::total_cmp);
        Ok(Done { seconds, at })
    }

    /// CPU time so far of the operator, of PostgreSQL's processes, and of this process.
    fn cpu(&self, operator: &Operator) -> [Duration; 3] {
        let server = self.cluster.pid().map(process::cpu_with_children).unwrap_or_default();
        [process::cpu(operator.child.pid()), server, process::cpu(std::process::id())]
    }

    async fn calls(&self) -> Result<Calls> {
        // A backend writes its statistics when it has been idle for a second.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        let counters = self.api.counters();
        let operators =
            counters.all().into_iter().filter(|((_, resource, user), _)| user == USER && resource != "leases");
        let vault = [Operation::Get, Operation::List, Operation::ListVersions, Operation::Set, Operation::Update];
        let row = self
            .cluster
            .connect(&self.database.name)
            .await?
            .query_one(
                "SELECT (SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()), \
                        (SELECT sum(n_tup_ins + n_tup_upd + n_tup_del)::bigint FROM pg_stat_all_tables WHERE schemaname IN ('retail', 'fence') \
                           OR relname IN ('pg_authid', 'pg_auth_members', 'pg_db_role_setting', 'pg_shdescription'))",
                &[],
            )
            .await?;
        let count = |n: i64| u64::try_from(n).unwrap_or_default();
        Ok(Calls {
            kubernetes: operators.map(|(_, count)| count).sum(),
            vault: vault.into_iter().map(|operation| self.vault.calls(operation)).sum(),
            database: count(row.get(0)),
            writes: [counters.writes(Some(USER)), self.vault.writes(), count(row.get(1))],
        })
    }

    async fn stop(self) -> Result<()> {
        self.api.shutdown().await;
        self.vault.shutdown().await;
        self.entra.shutdown().await;
        self.cluster.stop().await?;
        Ok(())
    }
}

fn is_ready(object: &RetailTenant, stores: usize) -> Option<i64> {
    let status = object.status.as_ref()?;
    let generation = object.metadata.generation?;
    let ready = status.conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    (ready && status.observed_generation == Some(generation) && object.spec.stores.len() == stores)
        .then_some(generation)
}

fn id(number: usize) -> String {
    format!("t-{number:05}")
}

fn object(number: usize, stores: usize) -> Value {
    let store = |at: usize| json!({"name": format!("Store {at}"), "id": uuid::Uuid::from_u128(((number as u128) << 32) + at as u128 + 1)});
    json!({
        "apiVersion": "retail.storefence.dev/v1alpha1", "kind": "RetailTenant", "metadata": {"name": id(number)},
        "spec": {
            "tenantId": id(number), "displayName": format!("Tenant {number}"), "entra": {"tenantId": ZAVA_TENANT_ID},
            "databaseRef": {"name": "retail"}, "keyVaultRef": {"name": "main"},
            "stores": (0..stores).map(store).collect::<Vec<_>>(),
            "principals": [
                {"name": "head-office", "role": "HeadOffice", "appRole": format!("HeadOffice.{number}")},
                {"name": "north", "role": "RegionalManager", "entraGroup": uuid::Uuid::from_u128(number as u128), "stores": ["Store 1", "Store 2"]},
            ],
        },
    })
}

/// A running operator.
struct Operator {
    child: Child,
    admin: String,
    begun: Instant,
}

impl Operator {
    async fn get(&self, path: &str) -> Result<(u16, String)> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes();
        let mut wire = Wire::connect(&self.admin, request.into()).await?;
        let status = wire.exchange().await?;
        Ok((status, String::from_utf8_lossy(wire.body()).into_owned()))
    }

    async fn ready(&mut self) -> Result<()> {
        while !matches!(self.get("/readyz").await, Ok((200, _))) {
            ensure!(
                self.child.is_running() && self.begun.elapsed() < Duration::from_secs(60),
                "the operator is not ready:\n{}",
                self.child.log_tail(20)
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Waits until it has gone through every tenant once; seconds since its start.
    async fn all_reconciled(&mut self) -> Result<f64> {
        self.ready().await?;
        loop {
            let (_, metrics) = self.get("/metrics").await?;
            let reconciles = metrics.lines().filter(|line| line.starts_with("storefence_operator_reconcile_total{"));
            let count: f64 = reconciles.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
            if count >= TENANTS as f64 {
                return Ok(self.begun.elapsed().as_secs_f64());
            }
            ensure!(self.begun.elapsed() < LIMIT, "{count} passes:\n{}", self.child.log_tail(20));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
