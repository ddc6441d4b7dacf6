//! The cluster that `STOREFENCE_TEST_KUBECONFIG` names: the suites of several processes share it.
//!
//! An operator and a gateway work on all namespaces, so that two suites at once would work on each other's tenants. Whoever
//! starts one holds the [`Turn`] of the cluster meanwhile; the lock ends with the process that holds it.

use std::{
    env,
    fs::{File, TryLockError},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    path::PathBuf,
    time::Duration,
};

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    core::ApiResource,
};
use serde_json::json;
use storefence_tenancy::RetailTenant;

pub const VARIABLE: &str = "STOREFENCE_TEST_KUBECONFIG";
/// Marks the namespaces that tests make, so that the next suite takes away what a killed one has left.
pub const LABEL: &str = "storefence.dev/test";
/// A changed definition is served within a second or so.
const SERVED: Duration = Duration::from_secs(30);

/// The kubeconfig, where one is named.
#[must_use]
pub fn kubeconfig() -> Option<PathBuf> {
    env::var_os(VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// The right to run an operator on the cluster. Dropping it passes it on.
#[derive(Debug)]
pub struct Turn {
    _lock: File,
}

impl Turn {
    /// Waits until no other suite has the cluster of this kubeconfig.
    ///
    /// # Errors
    /// The lock's file cannot be made.
    pub async fn take(kubeconfig: &str) -> io::Result<Self> {
        let mut hasher = DefaultHasher::new();
        kubeconfig.hash(&mut hasher);
        let path = env::temp_dir().join(format!("storefence-test-cluster-{:016x}.lock", hasher.finish()));
        let lock = File::create(path)?;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Self { _lock: lock }),
                Err(TryLockError::WouldBlock) => tokio::time::sleep(Duration::from_millis(100)).await,
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }
}

/// Takes away the namespaces that suites have left which were killed, with the tenants in them.
///
/// # Errors
/// The API server's message.
pub async fn sweep(client: &Client) -> Result<(), kube::Error> {
    let namespaces = Api::<Namespace>::all(client.clone());
    for namespace in namespaces.list(&ListParams::default().labels(LABEL)).await? {
        if namespace.metadata.deletion_timestamp.is_none() {
            leave(client, &namespace.name_any()).await?;
        }
    }
    Ok(())
}

/// Takes away a namespace with the tenants in it, which no operator will let go of any more.
///
/// # Errors
/// The API server's message.
pub async fn leave(client: &Client, namespace: &str) -> Result<(), kube::Error> {
    let tenants = objects(client, namespace);
    match tenants.list(&ListParams::default()).await {
        Ok(list) => {
            for tenant in list {
                release(&tenants, &tenant.name_any()).await?;
            }
        }
        // Without a definition there are no tenants.
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(error),
    }
    absent(Api::<Namespace>::all(client.clone()).delete(namespace, &DeleteParams::default()).await)
}

/// Deletes tenants by name, whether or not an operator runs.
///
/// # Errors
/// The API server's message.
pub async fn release_tenants(client: &Client, namespace: &str, names: &[String]) -> Result<(), kube::Error> {
    let tenants = objects(client, namespace);
    for name in names {
        release(&tenants, name).await?;
    }
    Ok(())
}

async fn release(tenants: &Api<DynamicObject>, name: &str) -> Result<(), kube::Error> {
    absent(tenants.delete(name, &DeleteParams::default()).await)?;
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    absent(tenants.patch(name, &PatchParams::default(), &free).await)
}

fn absent<T>(result: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(drop),
    }
}

/// Tenants as they are stored, readable or not.
fn objects(client: &Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &ApiResource::erase::<RetailTenant>(&()))
}

/// Waits until the definition is served as it was applied last: an object without a tenant ID is refused (`strict`), or
/// taken. A real server goes on for a moment with the schema before.
///
/// # Errors
/// It is not within half a minute.
pub async fn wait_served(client: &Client, namespace: &str, strict: bool) -> Result<(), kube::Error> {
    let tenants = objects(client, namespace);
    let mut probe = DynamicObject::new("storefence-probe", &ApiResource::erase::<RetailTenant>(&()));
    probe.data = json!({"spec": {}});
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let deadline = tokio::time::Instant::now() + SERVED;
    loop {
        let answer = tenants.create(&dry, &probe).await;
        let refused = match &answer {
            Ok(_) => Some(false),
            Err(kube::Error::Api(status)) if status.code == 422 => Some(true),
            // Not served yet, or no such namespace for a moment.
            Err(_) => None,
        };
        if refused == Some(strict) {
            return Ok(());
        }
        if tokio::time::Instant::now() > deadline {
            return answer.map(drop);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::Turn;

    #[tokio::test]
    async fn a_cluster_is_used_by_one_at_a_time() {
        let name = format!("a cluster of this test, {}", std::process::id());
        let first = Turn::take(&name).await.expect("lock");
        let second = tokio::time::timeout(std::time::Duration::from_millis(300), Turn::take(&name)).await;
        assert!(second.is_err(), "two at once");
        let other = Turn::take("another cluster of this test").await;
        assert!(other.is_ok());
        drop(first);
        Turn::take(&name).await.expect("passed on");
    }
}
