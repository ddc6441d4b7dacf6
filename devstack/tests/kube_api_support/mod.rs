//! A cluster for one test: the stand-in, or the one that `STOREFENCE_TEST_KUBECONFIG` names.
//!
//! Every test has a namespace of its own, so that the same test can run against a shared real cluster.
#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::{future::Future, time::Duration};

use k8s_openapi::{
    api::core::v1::Namespace, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Config, CustomResource, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use storefence_devstack::{
    kube_api::{KubeApi, KubeApiOptions, Rule, User},
    tls::Authority,
};

/// The kind under test.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "devstack.storefence.dev",
    version = "v1",
    kind = "Shelf",
    plural = "shelves",
    namespaced,
    status = "ShelfStatus",
    schema = "disabled"
)]
#[serde(rename_all = "camelCase")]
pub struct ShelfSpec {
    pub code: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<i64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub boxes: Vec<Value>,
}

/// The status of the kind under test.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShelfStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Value>,
}

/// The definition of the kind under test, as a file for kubectl.
pub const DEFINITION: &str = include_str!("shelf-crd.yaml");

/// The definition of the kind under test.
pub fn definition() -> Value {
    serde_saphyr::from_str(DEFINITION).expect("definition")
}

/// A cluster and a namespace in it.
pub struct Cluster {
    pub client: Client,
    pub namespace: String,
    pub kubeconfig: String,
    /// The stand-in; none when a real cluster is used.
    pub api: Option<KubeApi>,
    left: bool,
}

impl Cluster {
    /// The stand-in or the real cluster, with the definition in place and a fresh namespace.
    pub async fn start() -> Self {
        let real = std::env::var("STOREFENCE_TEST_KUBECONFIG").ok().filter(|path| !path.is_empty());
        let (api, kubeconfig) = match real {
            Some(path) => (None, std::fs::read_to_string(path).expect("STOREFENCE_TEST_KUBECONFIG is readable")),
            None => {
                let authority = Authority::new().expect("authority");
                let reader = User::new(
                    "reader",
                    vec![Rule::new(&["devstack.storefence.dev"], &["shelves"], &["get", "list", "watch"])],
                );
                let api = KubeApi::start(KubeApiOptions::new(&authority).user(reader)).await.expect("start");
                let kubeconfig = api.kubeconfig();
                (Some(api), kubeconfig)
            }
        };
        let client = client(&kubeconfig).await;
        let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
        let params = PatchParams::apply("devstack-tests").force();
        crds.patch("shelves.devstack.storefence.dev", &params, &Patch::Apply(definition())).await.expect("definition");
        eventually("the definition is established", || async {
            let crd = crds.get("shelves.devstack.storefence.dev").await.expect("definition");
            let conditions = crd.status.and_then(|s| s.conditions).unwrap_or_default();
            conditions.iter().any(|c| c.type_ == "Established" && c.status == "True").then_some(())
        })
        .await;
        let namespace = format!("devstack-{:08x}", std::process::id() ^ rand::random::<u32>());
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let object = serde_json::from_value(json!({"metadata": {"name": namespace}})).expect("namespace");
        namespaces.create(&PostParams::default(), &object).await.expect("namespace");
        Self { client, namespace, kubeconfig, api, left: false }
    }

    /// The stand-in, or none with a line that says what is skipped.
    pub fn stand_in(&self, test: &str) -> Option<&KubeApi> {
        if self.api.is_none() {
            println!("SKIPPED {test}: faults cannot be injected into a real cluster");
        }
        self.api.as_ref()
    }

    /// The shelves of the namespace.
    pub fn shelves(&self) -> Api<Shelf> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub async fn shelf(&self, name: &str) -> Shelf {
        let shelf = Shelf::new(name, ShelfSpec { code: "oak".into(), ..ShelfSpec::default() });
        self.shelves().create(&PostParams::default(), &shelf).await.expect("shelf")
    }

    /// Removes the namespace and stops the stand-in.
    pub async fn stop(mut self) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        // A real cluster takes its time; nobody waits for it.
        let _ = namespaces.delete(&self.namespace, &DeleteParams::default()).await;
        if let Some(api) = self.api.take() {
            api.shutdown().await;
        }
        self.left = true;
    }
}

/// A test that fails leaves nothing in a real cluster either.
impl Drop for Cluster {
    fn drop(&mut self) {
        if self.left || self.api.is_some() {
            return;
        }
        let (kubeconfig, namespace) = (self.kubeconfig.clone(), self.namespace.clone());
        // A thread of its own: the test's runtime may be going, and cannot be waited in.
        let gone = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(async {
                let namespaces: Api<Namespace> = Api::all(client(&kubeconfig).await);
                let _ = namespaces.delete(&namespace, &DeleteParams::default()).await;
            });
        });
        let _ = gone.join();
    }
}

/// A client with a kubeconfig.
pub async fn client(kubeconfig: &str) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).expect("kubeconfig");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("config");
    Client::try_from(config).expect("client")
}

/// Waits until something is there.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The Status of a failed request.
pub fn status(error: kube::Error) -> (u16, String, String) {
    match error {
        kube::Error::Api(status) => (status.code, status.reason.clone(), status.message.clone()),
        other => panic!("not an answer of the server: {other}"),
    }
}

/// The resourceVersion as a number.
pub fn version(object: &impl kube::ResourceExt) -> u64 {
    object.resource_version().and_then(|v| v.parse().ok()).expect("resourceVersion")
}

/// The name of an object, for assertions.
pub fn name(shelf: &Shelf) -> String {
    shelf.name_any()
}
