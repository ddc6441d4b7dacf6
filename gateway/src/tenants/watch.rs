//! Follows the RetailTenants of all namespaces and publishes each state as an immutable snapshot.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use futures::StreamExt;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject},
    runtime::watcher,
};
use storefence_runtime::{patient_watch, watch_backoff};
use storefence_tenancy::RetailTenant;
use tokio::sync::Notify;

use super::registry::{Applied, Objects, Snapshot};
use crate::metrics::Metrics;

/// The tenants in force, readable without waiting.
#[derive(Default)]
pub struct Tenants {
    snapshot: ArcSwap<Snapshot>,
    synced: AtomicBool,
    changed: Notify,
}

impl Tenants {
    /// The current state.
    #[must_use]
    pub fn load(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// The current state, to be held for longer.
    #[must_use]
    pub fn load_full(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Whether a full list has been seen.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }

    /// Resolves after the next change.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Records that a full list has been seen.
    pub(super) fn set_synced(&self) {
        self.synced.store(true, Ordering::Release);
    }

    /// Publishes the objects. `unread` is the number of objects that could not even be read.
    pub(super) fn publish(&self, objects: &Objects, unread: usize, metrics: &Metrics) {
        for (state, count) in objects.counts() {
            let count = if state == "broken" { count + unread } else { count };
            metrics.tenants.with_label_values(&[state]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.snapshot.store(Arc::new(objects.snapshot()));
        self.changed.notify_one();
    }
}

/// Watches forever. If the API server is unavailable, the last state stays in force until a new list is complete.
pub async fn follow(client: Client, tenants: Arc<Tenants>, metrics: Arc<Metrics>) {
    // Untyped on purpose: with a typed Api, one object that does not parse would fail the whole list.
    let resource = ApiResource::erase::<RetailTenant>(&());
    let api: Api<DynamicObject> = Api::all_with(client, &resource);
    let events = watcher(api, watcher::Config::default());
    let mut events = pin!(patient_watch(events, watch_backoff(), "the tenants known so far stay in force"));
    let mut objects = Objects::default();
    while let Some(event) = events.next().await {
        match event {
            watcher::Event::Init => objects.begin_list(),
            watcher::Event::InitApply(object) => apply(&mut objects, object),
            watcher::Event::InitDone => {
                objects.end_list();
                tenants.publish(&objects, 0, &metrics);
                tenants.set_synced();
                tracing::info!(tenants = tenants.load().len(), "RetailTenants listed");
            }
            watcher::Event::Apply(object) => {
                apply(&mut objects, object);
                tenants.publish(&objects, 0, &metrics);
            }
            watcher::Event::Delete(object) => {
                objects.delete(&object);
                tenants.publish(&objects, 0, &metrics);
            }
        }
    }
}

fn apply(objects: &mut Objects, object: DynamicObject) {
    let (namespace, name) = (object.metadata.namespace.clone(), object.metadata.name.clone());
    if let Applied::Broken(problem) = objects.apply(object) {
        tracing::warn!(
            ?namespace,
            ?name,
            problem,
            "this RetailTenant cannot be used; its last good state stays in force"
        );
    }
}
