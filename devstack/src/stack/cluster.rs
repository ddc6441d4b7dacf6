//! What goes onto a cluster beside the chart, and what to wait for: through the Kubernetes API alone, so for any cluster.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::ConfigMap};
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams},
};
use serde_json::json;

use super::{apply, retail_tenants_resource, start};

/// A client with what the kubeconfig's current context may do.
///
/// # Errors
/// The kubeconfig cannot be used.
pub async fn client(kubeconfig: &Path) -> Result<Client> {
    start::client(kubeconfig).await.with_context(|| format!("the cluster of {}", kubeconfig.display()))
}

/// The CustomResourceDefinition, which Helm would install but never upgrade, and a namespace in which only restricted pods
/// run.
///
/// # Errors
/// The API server's message.
pub async fn prepare(kube: &Client, namespace: &str) -> Result<()> {
    let crd = serde_json::to_string(&storefence_tenancy::resource::crd())?;
    apply::apply_yaml(kube, &crd).await.context("the CustomResourceDefinition")?;
    apply::wait_established(kube, start::CRD, start::READY_TIMEOUT).await?;
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}});
    apply::apply_yaml(kube, &object.to_string()).await?;
    Ok(())
}

/// The trust root that the stand-ins have published.
///
/// # Errors
/// They have not.
pub async fn trust(kube: &Client, namespace: &str, name: &str) -> Result<String> {
    let object = Api::<ConfigMap>::namespaced(kube.clone(), namespace).get(name).await?;
    object.data.and_then(|mut data| data.remove("ca.pem")).with_context(|| format!("ConfigMap {name} has no ca.pem"))
}

/// Applies manifests and waits until their RetailTenants are Ready.
///
/// # Errors
/// The API server's message, or those of the condition that is not true.
pub async fn apply_and_wait(kube: &Client, manifests: &[(String, String)], say: fn(&str)) -> Result<()> {
    let mut tenants = Vec::new();
    for (name, manifest) in manifests {
        say(&format!("applying {name}"));
        let applied = apply::apply_yaml(kube, manifest).await.with_context(|| format!("applying {name}"))?;
        tenants.extend(applied.into_iter().filter_map(|what| what.strip_prefix("retailtenants/").map(str::to_owned)));
    }
    ensure!(!tenants.is_empty(), "no RetailTenant was applied");
    for tenant in tenants {
        say(&format!("waiting until {tenant} is Ready"));
        start::wait_tenant(kube, &tenant, || "kubectl logs deployment/storefence-operator says more".to_owned())
            .await?;
    }
    Ok(())
}

/// The Deployments of a namespace and all RetailTenants, each with whether it is ready.
///
/// # Errors
/// The API server's message.
pub async fn parts(kube: &Client, namespace: &str) -> Result<Vec<(String, bool)>> {
    let all = ListParams::default();
    let mut found = Vec::new();
    for deployment in Api::<Deployment>::namespaced(kube.clone(), namespace).list(&all).await? {
        let wanted = deployment.spec.and_then(|spec| spec.replicas).unwrap_or(1);
        let ready = deployment.status.and_then(|status| status.ready_replicas).unwrap_or(0);
        let name = deployment.metadata.name.unwrap_or_default();
        found.push((format!("deployment/{name} {ready}/{wanted}"), ready >= wanted));
    }
    let tenants: Api<DynamicObject> = Api::all_with(kube.clone(), &retail_tenants_resource());
    for tenant in tenants.list(&all).await? {
        let ready = apply::condition(&tenant, "Ready").is_some_and(|condition| condition["status"] == "True");
        found.push((format!("retailtenant/{}", tenant.metadata.name.unwrap_or_default()), ready));
    }
    Ok(found)
}
