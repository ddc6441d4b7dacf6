//! A cluster that is there, in the place of the stand-in: what differs between the two shows as a failing test.
//!
//! The operator works on all namespaces, so tests take turns, also with the suites of other processes. Each has namespaces
//! of its own, and takes them away at its end with the tenants in them, whether it passes or fails; the
//! CustomResourceDefinition stays.

use std::fs;

use storefence_devstack::shared_cluster::{self, Turn, VARIABLE};
use uuid::Uuid;

use super::{NAMESPACES, client};

pub struct RealCluster {
    pub kubeconfig: String,
    prefix: String,
    // Dropped after `drop` has taken the namespaces away.
    _turn: Turn,
}

impl RealCluster {
    pub async fn from_environment() -> Option<Self> {
        let path = shared_cluster::kubeconfig()?;
        let kubeconfig = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{VARIABLE}: {error}"));
        let prefix = format!("sf-{}-", &Uuid::new_v4().simple().to_string()[..8]);
        let turn = Turn::take(&kubeconfig).await.unwrap_or_else(|error| panic!("the lock of the cluster: {error}"));
        shared_cluster::sweep(&client(&kubeconfig).await).await.unwrap_or_else(|error| panic!("leftovers: {error}"));
        Some(Self { kubeconfig, prefix, _turn: turn })
    }

    pub fn namespace(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    async fn leave(kubeconfig: &str, namespaces: Vec<String>) -> Result<(), kube::Error> {
        let client = client(kubeconfig).await;
        for namespace in namespaces {
            shared_cluster::leave(&client, &namespace).await?;
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
