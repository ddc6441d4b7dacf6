//! `kubectl apply` for manifests, without needing kubectl.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kube::{
    Api, Client, Discovery,
    api::{DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
    discovery::Scope,
};
use serde::Deserialize;
use serde_json::Value;

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Applies every document of a YAML text. Namespaced objects without a namespace go to `default`.
///
/// The annotation that client-side `kubectl apply` keeps is written too, so that a later `kubectl apply` of the edited
/// file finds what it expects.
pub async fn apply_yaml(client: &Client, yaml: &str) -> Result<Vec<String>> {
    let mut applied = Vec::new();
    for document in serde_saphyr::from_multiple::<Value>(yaml).context("not YAML")? {
        applied.push(apply(client, document).await?);
    }
    Ok(applied)
}

async fn apply(client: &Client, document: Value) -> Result<String> {
    let last_applied = format!("{document}\n");
    let mut object = DynamicObject::deserialize(document).context("not a Kubernetes object")?;
    object.metadata.annotations.get_or_insert_default().insert(LAST_APPLIED.into(), last_applied);
    let types = object.types.clone().context("apiVersion and kind are expected")?;
    let name = object.metadata.name.clone().context("metadata.name is expected")?;
    let gvk = GroupVersionKind::try_from(&types)?;
    let discovery = Discovery::new(client.clone()).filter(&[gvk.group.as_str()]).run().await?;
    let Some((resource, capabilities)) = discovery.resolve_gvk(&gvk) else {
        bail!("the cluster knows no {} of {}", types.kind, types.api_version);
    };
    let api: Api<DynamicObject> = if capabilities.scope == Scope::Namespaced {
        Api::namespaced_with(client.clone(), object.metadata.namespace.as_deref().unwrap_or("default"), &resource)
    } else {
        Api::all_with(client.clone(), &resource)
    };
    let params = PatchParams::apply("storefence-devstack").force();
    api.patch(&name, &params, &Patch::Apply(&object)).await.with_context(|| format!("{}/{name}", resource.plural))?;
    Ok(format!("{}/{name}", resource.plural))
}

/// Waits until a CustomResourceDefinition is served.
pub async fn wait_established(client: &Client, name: &str, timeout: Duration) -> Result<()> {
    let group = "apiextensions.k8s.io";
    let gvk = GroupVersionKind::gvk(group, "v1", "CustomResourceDefinition");
    let resource = kube::discovery::ApiResource::from_gvk(&gvk);
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let deadline = Instant::now() + timeout;
    loop {
        let crd = api.get(name).await?;
        if condition(&crd, "Established").is_some_and(|condition| condition["status"] == "True") {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the cluster did not establish {name} within {} s", timeout.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The condition of a type in an object's status.
pub fn condition<'a>(object: &'a DynamicObject, kind: &str) -> Option<&'a Value> {
    object.data["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}
