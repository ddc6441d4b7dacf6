//! What the admin port reports of the controller, and how the rest of the process sets off passes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::channel::mpsc;
use k8s_openapi::jiff::Timestamp;
use kube::{
    Client, Resource,
    runtime::reflector::{ObjectRef, Store},
};
use storefence_tenancy::RetailTenant;

use super::{
    Guarded,
    api::ApiAccess,
    queues::{Due, Trigger},
};
use crate::{
    metrics::Metrics,
    plan::{
        rotation::{View, in_force_since},
        status::CONDITIONS,
    },
    reason::Reason,
    server::Facts,
};

/// What is known of the controller from outside.
pub struct ControllerFacts {
    pub(super) store: Store<Guarded>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) synced: Arc<AtomicBool>,
    pub(super) triggers: mpsc::UnboundedSender<Trigger>,
    pub(super) due: Arc<Due>,
    pub(super) client: Client,
    pub(super) access: ApiAccess,
}

impl ControllerFacts {
    /// Asks the Kubernetes API now and then whether it lets this process in, for ever.
    pub async fn ask_the_api(&self) {
        self.access.ask(self.client.clone()).await;
    }

    /// Sets off a pass over every tenant: what was missing may be there now.
    pub fn look_at_all(&self) {
        self.look_at(|_| true);
    }

    /// UIDs of all objects, readable or not; `None` while they have not been listed.
    pub fn claimed(&self) -> Option<BTreeSet<String>> {
        let synced = self.synced.load(Ordering::Relaxed);
        synced.then(|| self.store.state().iter().filter_map(|object| object.meta().uid.clone()).collect())
    }

    /// Whether any tenant of this database is served.
    pub fn serves(&self, database: &str) -> bool {
        let has_credentials = |tenant: &RetailTenant| tenant.status.as_ref().is_some_and(|s| s.credentials.is_some());
        let served = |tenant: &RetailTenant| tenant.spec.database_ref.name == database && has_credentials(tenant);
        self.store.state().iter().any(|object| object.0.as_ref().is_ok_and(served))
    }

    /// Sets off a pass over some tenants, and over every object that cannot be read.
    pub fn look_at(&self, which: impl Fn(&RetailTenant) -> bool) {
        for object in self.store.state() {
            if object.0.as_ref().is_ok_and(&which) || object.0.is_err() {
                // Without a receiver the loop has ended, and the process is about to.
                let _ = self.triggers.unbounded_send(Trigger::Look(ObjectRef::from_obj(object.as_ref())));
            }
        }
    }
}

impl Facts for ControllerFacts {
    fn missing(&self) -> Vec<String> {
        let mut missing: Vec<String> = self.access.missing().into_iter().collect();
        let synced = self.synced.load(Ordering::Relaxed);
        // A replica that does not lead reads no list.
        if !synced && self.metrics.leader.get() != 0 {
            missing.push("the list of RetailTenants has not been read yet".to_owned());
        }
        missing
    }

    fn metrics(&self) -> Result<String, prometheus::Error> {
        let now = Timestamp::now().as_second();
        let (mut oldest, mut overdue) = (0, 0);
        let mut counts = BTreeMap::new();
        for object in self.store.state() {
            let status = object.0.as_ref().ok().and_then(|tenant| tenant.status.as_ref());
            for condition in CONDITIONS {
                let found = status.and_then(|status| status.conditions.iter().find(|found| found.type_ == condition));
                let value = match found.map(|found| found.status.as_str()) {
                    Some("True") => "true",
                    Some("False") => "false",
                    _ => "unknown",
                };
                // Only codes of the closed list: a status that somebody else wrote must not make labels.
                let code = found.and_then(|found| Reason::from_code(&found.reason)).map_or("unknown", Reason::as_str);
                *counts.entry((condition, value, code)).or_insert(0) += 1;
            }
            let view = object.0.as_ref().ok().map(View::of);
            let since = view.and_then(|view| in_force_since(view.credentials?, view.last));
            oldest = oldest.max(since.map_or(0, |since| now - since.as_second()));
            // A rotation under way is not due again: one that takes long counts from when it was due.
            overdue = overdue.max(view.and_then(|view| view.due()).map_or(0, |due| now - due.as_second()));
        }
        self.metrics.rotation_ages(oldest, overdue);
        self.metrics.queue_depth.set(self.due.waiting());
        self.metrics.tenants(counts);
        self.metrics.render()
    }
}
