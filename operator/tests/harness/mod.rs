//! The real operator binary against a real PostgreSQL and the stand-ins, one world per test.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::{
    collections::BTreeMap,
    fmt::Debug,
    path::PathBuf,
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::{core::v1::Namespace, events::v1::Event},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use storefence_devstack::{
    entra::{ClientApp, Entra, EntraOptions, principals::ZAVA_TENANT_ID},
    key_vault::{KeyVault, KeyVaultOptions, Permissions},
    kube_api::{KubeApi, KubeApiOptions, Rule, User},
    postgres::{AdminKind, Binaries, Cluster, ClusterOptions, Database, SslMode},
    process::{Child, Signal, Spawn},
    shared_cluster,
    tls::Authority,
};
use storefence_runtime::{AzureOptions, CredentialKind};
use storefence_tenancy::{RetailTenant, resource::crd};
use tempfile::TempDir;
use uuid::Uuid;

/// The user that the operator is in Kubernetes.
pub const OPERATOR: &str = "storefence-operator";
/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

mod loose;
mod real;

use real::RealCluster;

/// The namespaces that tests use.
const NAMESPACES: [&str; 2] = ["retail", "other"];

/// Everything around the operator.
pub struct World {
    pub kube: Client,
    pub api: KubeApi,
    pub entra: Entra,
    pub vault: KeyVault,
    pub app: ClientApp,
    pub cluster: Cluster,
    pub database: Database,
    pub directory: TempDir,
    /// Whom the operator trusts.
    pub authority: Authority,
    /// Instead of the stand-in, the cluster of `STOREFENCE_TEST_KUBECONFIG`.
    real: Option<RealCluster>,
}

/// What the operator is allowed: the rules of the chart's ClusterRole, and of its Role in the operator's own namespace.
pub fn operator_rules() -> Vec<Rule> {
    let chart = include_str!("../../../charts/storefence/templates/operator/rbac.yaml");
    let mut all = Vec::new();
    for document in chart.split("\n---\n") {
        // The rules stand at a document's end, and are the same whatever the values are.
        let Some((head, rules)) = document.split_once("\nrules:\n") else { continue };
        let rules: Vec<Value> = serde_saphyr::from_str(rules).unwrap();
        for rule in rules {
            let list = |name: &str| {
                let items = rule[name].as_array().map(Vec::as_slice).unwrap_or_default();
                items.iter().map(|item| item.as_str().unwrap().to_owned()).collect::<Vec<_>>()
            };
            let words = |list: &'static str| rule.get(list).is_some();
            assert!(words("apiGroups") && words("resources") && words("verbs"), "{rule}");
            let namespaces = if head.contains("kind: ClusterRole\n") { vec![] } else { vec!["default".to_owned()] };
            let (api_groups, resources, verbs) = (list("apiGroups"), list("resources"), list("verbs"));
            all.push(Rule { api_groups, resources, verbs, namespaces, names: list("resourceNames") });
        }
    }
    assert_eq!(all.len(), 5, "{all:?}");
    all
}

impl World {
    /// A world with an administrator that is not superuser.
    pub async fn start() -> Self {
        Self::with(18, AdminKind::CreateRole).await
    }

    pub async fn with(version: u32, kind: AdminKind) -> Self {
        Self::with_rules(version, kind, operator_rules()).await
    }

    /// With other rules for the operator than the chart's.
    pub async fn with_rules(version: u32, kind: AdminKind, rules: Vec<Rule>) -> Self {
        // Another test of this process may have installed it.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let authority = Authority::new().unwrap();
        let binaries = tokio::task::spawn_blocking(move || Binaries::find(Some(version))).await.unwrap().unwrap();
        let options = ClusterOptions { binaries: Some(binaries), ..ClusterOptions::default() };
        let (cluster, entra) = tokio::join!(Cluster::start(options), Entra::start(&authority, EntraOptions::default()));
        let (cluster, entra) = (cluster.unwrap(), entra.unwrap());
        let database = cluster.create_database("retail", kind).await.unwrap();
        let vault = KeyVault::start(&authority, &entra, KeyVaultOptions::default()).await.unwrap();
        let app = ClientApp::with_secret(ZAVA_TENANT_ID);
        entra.add_client(app.clone());
        vault.allow(&app.object_id, Permissions::officer());
        let user = User::new(OPERATOR, rules);
        let api = KubeApi::start(KubeApiOptions::new(&authority).user(user)).await.unwrap();
        let real = RealCluster::from_environment().await;
        let kube = client(real.as_ref().map_or(&api.kubeconfig(), |real| &real.kubeconfig)).await;
        let directory = tempfile::tempdir().unwrap();
        authority.write_pem(&directory.path().join("ca.pem")).unwrap();
        let world = Self { kube, api, entra, vault, app, cluster, database, directory, authority, real };
        let stand_in = world.api.kubeconfig_for(OPERATOR).unwrap();
        world.write("kubeconfig", world.real.as_ref().map_or(&stand_in, |real| &real.kubeconfig));
        world.write_config(&world.database.admin_tls_url);
        world.install().await;
        world
    }

    async fn install(&self) {
        let definitions = Api::<CustomResourceDefinition>::all(self.kube.clone());
        let params = PatchParams::apply("kubectl").force();
        let definition = crd();
        definitions.patch(&definition.name_any(), &params, &Patch::Apply(&definition)).await.unwrap();
        let established = poll(async || {
            let found = definitions.get(&definition.name_any()).await.ok()?;
            let conditions = found.status?.conditions?;
            conditions.iter().any(|c| c.type_ == "Established" && c.status == "True").then_some(())
        });
        assert!(established.await.is_some(), "the definition is not established");
        for name in NAMESPACES {
            let name = self.namespace(name);
            let metadata = json!({"name": name, "labels": {shared_cluster::LABEL: "operator"}});
            let namespace: Namespace = serde_json::from_value(json!({"metadata": metadata})).unwrap();
            Api::<Namespace>::all(self.kube.clone()).create(&PostParams::default(), &namespace).await.unwrap();
        }
        // A test before may have loosened it.
        shared_cluster::wait_served(&self.kube, &self.namespace(NAMESPACES[0]), true).await.unwrap();
    }

    /// A namespace as the cluster has it.
    pub fn namespace(&self, name: &str) -> String {
        self.real.as_ref().map_or_else(|| name.to_owned(), |real| real.namespace(name))
    }

    /// Whether the API is the stand-in, which can fail on request; says so where it is not.
    pub fn is_stand_in(&self, test: &str) -> bool {
        if self.real.is_some() {
            println!("SKIPPED {test}: faults and users cannot be given to a real cluster");
        }
        self.real.is_none()
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn write_config(&self, admin_url: &str) -> PathBuf {
        let ca = self.cluster.ca_file().display();
        self.write(
            "config.yaml",
            &format!(
                "databases:\n- name: retail\n  adminUrl: {admin_url}\n  caFile: {ca}\n\
                 keyVaults:\n- name: main\n  url: {}\n",
                self.vault.url()
            ),
        )
    }

    /// The operator's command line, ready to start.
    pub fn command(&self, command: &str) -> Spawn {
        let path = |name: &str| self.directory.path().join(name);
        Spawn::new(env!("CARGO_BIN_EXE_storefence-operator"))
            .arg(command)
            .arg("--config")
            .arg(path("config.yaml"))
            .env("KUBECONFIG", path("kubeconfig"))
            .env("STOREFENCE_CA_FILE", path("ca.pem"))
            .env("STOREFENCE_CREDENTIAL", "client-secret")
            .env("AZURE_AUTHORITY_HOST", self.entra.url())
            .env("AZURE_TENANT_ID", &self.app.tenant_id)
            .env("AZURE_CLIENT_ID", &self.app.client_id)
            .env("AZURE_CLIENT_SECRET", self.app.secret.clone().unwrap())
            .env("RUST_LOG", "info,storefence_operator=debug")
    }

    /// Runs a command of the operator to its end: exit code, standard output, standard error.
    pub fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_storefence-operator"));
        let output = self.in_the_world(command.args(arguments)).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }

    /// The same for a line of the shell.
    pub fn command_in_shell(&self, line: &str) -> std::process::Output {
        let mut command = std::process::Command::new("sh");
        self.in_the_world(command.args(["-c", line])).output().unwrap()
    }

    fn in_the_world<'a>(&self, command: &'a mut std::process::Command) -> &'a mut std::process::Command {
        let path = |name: &str| self.directory.path().join(name);
        command
            .env("STOREFENCE_CONFIG", path("config.yaml"))
            .env("KUBECONFIG", path("kubeconfig"))
            .env("STOREFENCE_CA_FILE", path("ca.pem"))
            .env("STOREFENCE_CREDENTIAL", "client-secret")
            .env("AZURE_AUTHORITY_HOST", self.entra.url())
            .env("AZURE_TENANT_ID", &self.app.tenant_id)
            .env("AZURE_CLIENT_ID", &self.app.client_id)
            .env("AZURE_CLIENT_SECRET", self.app.secret.clone().unwrap())
            .env("RUST_LOG", "info")
    }

    /// Starts `run` with short waits and waits until it is ready.
    pub async fn operator(&self) -> Operator {
        self.operator_with(&["--resync", "1h"]).await
    }

    pub async fn operator_with(&self, more: &[&str]) -> Operator {
        let port = storefence_devstack::http::bind_loopback().unwrap().local_addr().unwrap().port();
        let admin = format!("127.0.0.1:{port}");
        let log = self.directory.path().join(format!("operator-{}.log", Uuid::new_v4()));
        let child = self
            .command("run")
            .args(["--admin-listen", &admin, "--retry-base", "100ms", "--retry-max", "500ms", "--call-timeout", "3s"])
            .args(more)
            .log(&log)
            .start()
            .unwrap();
        let mut operator = Operator { child, admin };
        let started = Instant::now();
        while operator.get("/readyz").await.is_none_or(|(code, _)| code != 200) {
            assert!(operator.child.is_running(), "the operator ended:\n{}", operator.log());
            assert!(started.elapsed() < PATIENCE, "the operator is not ready:\n{}", operator.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        operator
    }

    /// Deletes a secret through the API, as an administrator of the vault would.
    pub async fn delete_secret(&self, name: &str) {
        let options = AzureOptions {
            ca_file: Some(self.directory.path().join("ca.pem")),
            credential: CredentialKind::ClientSecret,
            authority_host: self.entra.url().parse().unwrap(),
            tenant_id: Some(self.app.tenant_id.clone()),
            client_id: Some(self.app.client_id.clone()),
            federated_token_file: None,
            client_secret: self.app.secret.clone(),
            key_vault_resource: "https://vault.azure.net".to_owned(),
        };
        let url = self.vault.url().parse().unwrap();
        let store = options.secret_store(options.credential().unwrap(), &url, Duration::from_secs(5)).unwrap();
        store.delete(name).await.unwrap();
    }

    pub fn tenants(&self, namespace: &str) -> Api<RetailTenant> {
        Api::namespaced(self.kube.clone(), &self.namespace(namespace))
    }

    /// `kubectl apply`.
    pub async fn apply(&self, namespace: &str, name: &str, spec: Value) -> RetailTenant {
        let body = json!({
            "apiVersion": "retail.storefence.dev/v1alpha1", "kind": "RetailTenant",
            "metadata": {"name": name}, "spec": spec,
        });
        let params = PatchParams::apply("kubectl").force();
        self.tenants(namespace).patch(name, &params, &Patch::Apply(body)).await.unwrap()
    }

    pub async fn delete(&self, namespace: &str, name: &str) {
        self.tenants(namespace).delete(name, &DeleteParams::default()).await.unwrap();
    }

    pub async fn get(&self, namespace: &str, name: &str) -> Option<RetailTenant> {
        self.tenants(namespace).get_opt(name).await.unwrap()
    }

    /// Waits until the object's newest generation is Ready.
    pub async fn ready(&self, namespace: &str, name: &str) -> RetailTenant {
        self.condition(namespace, name, "Ready", "True", "Reconciled").await
    }

    /// Waits for a condition of the newest generation.
    pub async fn condition(
        &self,
        namespace: &str,
        name: &str,
        type_: &str,
        status: &str,
        reason: &str,
    ) -> RetailTenant {
        let mut last = None;
        let found = poll(async || {
            let tenant = self.get(namespace, name).await?;
            last.clone_from(&tenant.status);
            let condition = condition_of(&tenant, type_)?;
            let current = tenant.status.as_ref()?.observed_generation == tenant.metadata.generation;
            (current && condition.status == status && condition.reason == reason).then_some(tenant)
        });
        let found = found.await;
        found.unwrap_or_else(|| panic!("{namespace}/{name} has not become {type_}={status} {reason}: {last:#?}"))
    }

    /// Waits until the object is gone.
    pub async fn gone(&self, namespace: &str, name: &str) {
        let gone = poll(async || self.get(namespace, name).await.is_none().then_some(()));
        assert!(gone.await.is_some(), "{namespace}/{name}: {:#?}", self.get(namespace, name).await);
    }

    /// Reasons of the events about an object, in the order of their making.
    pub async fn events(&self, namespace: &str, name: &str) -> Vec<String> {
        let events = Api::<Event>::namespaced(self.kube.clone(), &self.namespace(namespace))
            .list(&ListParams::default())
            .await
            .unwrap();
        let about = |event: &Event| event.regarding.as_ref().is_some_and(|object| object.name.as_deref() == Some(name));
        let mut events: Vec<Event> = events.items.into_iter().filter(about).collect();
        events.sort_by_key(|event| event.name_any());
        events.into_iter().filter_map(|event| event.reason).collect()
    }

    /// Waits until the reasons of an object's events are these: the operator writes an event after the status.
    pub async fn expect_events(&self, namespace: &str, name: &str, reasons: &[&str]) {
        let seen = poll(async || (self.events(namespace, name).await == reasons).then_some(())).await;
        assert!(seen.is_some(), "{:?}, expected {reasons:?}", self.events(namespace, name).await);
    }

    /// A connection as superuser.
    pub async fn sql(&self) -> tokio_postgres::Client {
        self.cluster.connect(&self.database.name).await.unwrap()
    }

    /// One text value, as superuser.
    pub async fn text(&self, query: &str) -> String {
        let row = self.sql().await.query_one(&format!("SELECT ({query})::text"), &[]).await.unwrap();
        row.get::<_, Option<String>>(0).unwrap_or_default()
    }

    /// Runs statements as superuser.
    pub async fn execute(&self, statements: &str) {
        self.sql().await.batch_execute(statements).await.unwrap();
    }

    /// Name of the login in use.
    pub async fn login(&self, tenant_id: &str) -> String {
        self.text(&format!(
            "SELECT login FROM fence.logins JOIN fence.tenants USING (tenant_key) WHERE tenant_id = '{tenant_id}' AND slot = 'a'"
        ))
        .await
    }

    /// Connects with the credentials in the vault, as the gateway does (but past the TLS proxy).
    pub async fn log_in(&self, tenant_id: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        let uri = self.vault.secret(&format!("sf-{tenant_id}-db-a")).unwrap().value;
        let url = url::Url::parse(&uri).unwrap();
        let direct = self.cluster.url(url.username(), url.password().unwrap(), "retail", SslMode::Disable);
        let (client, connection) = tokio_postgres::connect(&direct, tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// All that writes leave behind: the write-ahead log's position of the database's own tables, as row versions.
    pub async fn database_fingerprint(&self) -> BTreeMap<String, String> {
        let sql = self.sql().await;
        let mut found = BTreeMap::new();
        for table in [
            "retail.tenants",
            "retail.stores",
            "fence.tenants",
            "fence.tenant_stores",
            "fence.logins",
            "fence.context_keys",
            "pg_authid",
            "pg_auth_members",
            "pg_db_role_setting",
            "pg_shdescription",
        ] {
            let query = format!(
                "SELECT coalesce(string_agg(t.xmin::text || t.ctid::text, ',' ORDER BY t.ctid), '') FROM {table} t"
            );
            found.insert(table.to_owned(), sql.query_one(&query, &[]).await.unwrap().get(0));
        }
        // nextval() leaves no row version.
        found.insert("ticket_seq".to_owned(), self.text("SELECT last_value FROM fence.ticket_seq").await);
        found
    }
}

/// A running operator. Dropping it ends it.
pub struct Operator {
    pub child: Child,
    admin: String,
}

impl Operator {
    pub fn log(&self) -> String {
        self.child.log_tail(60)
    }

    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        let answer =
            reqwest::Client::builder().build().ok()?.get(format!("http://{}{path}", self.admin)).send().await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }

    /// A metric's value, by name with labels as in the text format.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await.unwrap().1;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
        line.and_then(|value| value.parse().ok()).unwrap_or(0.0)
    }

    /// SIGTERM, and the end within ten seconds.
    pub async fn stop(mut self) -> std::process::ExitStatus {
        self.child.signal(Signal::Term);
        self.child.wait(Duration::from_secs(10)).await.unwrap().unwrap_or_else(|| panic!("still runs:\n{}", self.log()))
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
    }
}

/// A spec with these stores (name and UUID).
pub fn spec(tenant_id: &str, stores: &[(&str, Uuid)]) -> Value {
    json!({
        "tenantId": tenant_id,
        "displayName": format!("The {tenant_id} tenant"),
        "entra": {"tenantId": ZAVA_TENANT_ID},
        "databaseRef": {"name": "retail"},
        "keyVaultRef": {"name": "main"},
        "stores": stores.iter().map(|(name, id)| json!({"name": name, "id": id})).collect::<Vec<_>>(),
        "principals": [{"name": "head-office", "role": "HeadOffice", "appRole": "Storefence.HeadOffice"}],
    })
}

/// A store's UUID out of two numbers.
pub fn store(tenant: u64, number: u64) -> Uuid {
    Uuid::from_u64_pair(tenant, number)
}

pub fn condition_of<'a>(tenant: &'a RetailTenant, type_: &str) -> Option<&'a Condition> {
    tenant.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == type_)
}

/// Asks again until there is an answer; `None` after the timeout.
pub async fn poll<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return Some(answer);
        }
        if started.elapsed() > PATIENCE {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Asserts that nothing changes for a while: the only way to see that something does not happen.
pub async fn stays<T: PartialEq + Debug>(during: Duration, mut look: impl AsyncFnMut() -> T) {
    let before = look().await;
    let started = Instant::now();
    while started.elapsed() < during {
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(look().await, before);
    }
}

pub async fn client(kubeconfig: &str) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}
