//! A cluster that is there, in the place of the stand-in: what differs between the two shows as a failing test.
//!
//! The operator works on all namespaces, so tests take turns. Each has namespaces of its own, and takes them away at its
//! end with the tenants in them; the CustomResourceDefinition stays.

use std::{env, fs};

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;
use storefence_tenancy::RetailTenant;
use tokio::sync::{Mutex, MutexGuard};
use uuid::Uuid;

use super::{NAMESPACES, client};

/// Names the kubeconfig.
pub const VARIABLE: &str = "STOREFENCE_TEST_KUBECONFIG";

static TURN: Mutex<()> = Mutex::const_new(());

pub struct RealCluster {
    pub kubeconfig: String,
    prefix: String,
    _turn: MutexGuard<'static, ()>,
}

impl RealCluster {
    pub async fn from_environment() -> Option<Self> {
        let path = env::var_os(VARIABLE).filter(|path| !path.is_empty())?;
        let kubeconfig = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{VARIABLE}: {error}"));
        let prefix = format!("sf-{}-", &Uuid::new_v4().simple().to_string()[..8]);
        Some(Self { kubeconfig, prefix, _turn: TURN.lock().await })
    }

    pub fn namespace(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    async fn leave(kubeconfig: &str, namespaces: Vec<String>) -> Result<(), kube::Error> {
        let client = client(kubeconfig).await;
        for namespace in namespaces {
            let tenants = Api::<RetailTenant>::namespaced(client.clone(), &namespace);
            for tenant in tenants.list(&ListParams::default()).await? {
                // The operator of the test has ended: nobody else will let go of them.
                let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
                tenants.patch(&tenant.name_any(), &PatchParams::default(), &free).await?;
                let _ = tenants.delete(&tenant.name_any(), &DeleteParams::default()).await;
            }
            Api::<Namespace>::all(client.clone()).delete(&namespace, &DeleteParams::default()).await?;
        }
        Ok(())
    }
}

impl Drop for RealCluster {
    fn drop(&mut self) {
        let kubeconfig = self.kubeconfig.clone();
        let namespaces = NAMESPACES.map(|name| self.namespace(name)).to_vec();
        // A thread of its own: the test's runtime may be going, and cannot be waited in.
        let left = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(Self::leave(&kubeconfig, namespaces))
        });
        match left.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => eprintln!("the namespaces {}* are left behind: {error}", self.prefix),
            Err(_) => eprintln!("the namespaces {}* are left behind", self.prefix),
        }
    }
}
