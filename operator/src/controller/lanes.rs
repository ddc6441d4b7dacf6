//! Lanes: tenants of one database and one Key Vault share a bounded number of passes with each other and with nobody
//! else. A database that takes its time, or a vault, then delays its own tenants alone.
//!
//! The bound is per lane and there are as many lanes as pairs in use, so what is held at a time stays bounded too.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::{StreamExt, channel::mpsc};
use kube::{
    Resource,
    runtime::{
        controller::{self, Action},
        reflector::ObjectRef,
    },
};
use tokio::task::JoinSet;

use super::{Context, Guarded};
use crate::backends::Backends;

/// Database and Key Vault by their names in the configuration; nothing where it has no such name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LaneKey {
    database: Option<String>,
    vault: Option<String>,
}

impl LaneKey {
    /// The lane of an object.
    pub fn of(object: &Guarded, backends: &Backends) -> Self {
        let Ok(tenant) = &object.0 else { return Self::default() };
        // Only names of the configuration: the number of lanes must not be the users' to choose.
        let known = |name: &str, known: bool| known.then(|| name.to_owned());
        let (database, vault) = (&tenant.spec.database_ref.name, &tenant.spec.key_vault_ref.name);
        Self {
            database: known(database, backends.database(database).is_ok()),
            vault: known(vault, backends.vault(vault).is_ok()),
        }
    }
}

/// When each tenant's next pass is due, and which run: what the length of the queue is told from.
#[derive(Default)]
pub struct Due(Mutex<Passes>);

#[derive(Default)]
struct Passes {
    wanted: HashMap<ObjectRef<Guarded>, Instant>,
    running: HashSet<ObjectRef<Guarded>>,
}

/// A pass that runs, until it is dropped.
pub struct Running<'a>(&'a Due, ObjectRef<Guarded>);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.lock().running.remove(&self.1);
    }
}

impl Due {
    fn lock(&self) -> MutexGuard<'_, Passes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pass is wanted after this time.
    pub fn wanted(&self, object: ObjectRef<Guarded>, after: Duration) {
        let Some(when) = Instant::now().checked_add(after) else { return };
        let mut passes = self.lock();
        let entry = passes.wanted.entry(object).or_insert(when);
        *entry = when.min(*entry);
    }

    /// A pass begins, unless one of the same object runs: after its spec named another database or vault, it may do so
    /// in its former lane.
    pub fn begin(&self, object: &ObjectRef<Guarded>) -> Option<Running<'_>> {
        let mut passes = self.lock();
        if !passes.running.insert(object.clone()) {
            return None;
        }
        passes.wanted.remove(object);
        Some(Running(self, object.clone()))
    }

    /// There will be no pass.
    pub fn forget(&self, object: &ObjectRef<Guarded>) {
        self.lock().wanted.remove(object);
    }

    /// Tenants whose pass is due.
    pub fn waiting(&self) -> i64 {
        let now = Instant::now();
        let count = self.lock().wanted.values().filter(|when| **when <= now).count();
        i64::try_from(count).unwrap_or(i64::MAX)
    }
}

/// What a lane's passes work with.
pub struct Lane {
    pub context: Arc<Context>,
    pub key: LaneKey,
}

/// What sets off passes beside the watch's own objects.
pub enum Trigger {
    /// An object is to be looked at.
    Look(ObjectRef<Guarded>),
    /// A list has been read to its end: only now the store has what came with it.
    Listed,
}

/// All lanes in use.
pub struct Lanes {
    context: Arc<Context>,
    /// Came with a list that is not at its end.
    unlisted: HashSet<ObjectRef<Guarded>>,
    queues: BTreeMap<LaneKey, mpsc::UnboundedSender<ObjectRef<Guarded>>>,
    running: JoinSet<()>,
}

impl Lanes {
    pub fn new(context: Arc<Context>) -> Self {
        Self { context, unlisted: HashSet::new(), queues: BTreeMap::new(), running: JoinSet::new() }
    }

    /// Hands tenants to their lanes.
    pub fn pass(&mut self, trigger: Trigger) {
        match trigger {
            Trigger::Look(object) => self.look(object),
            Trigger::Listed => {
                // An object that is not there even now is gone, and needs no pass.
                for object in std::mem::take(&mut self.unlisted) {
                    self.look(object);
                }
                self.unlisted.clear();
            }
        }
    }

    fn look(&mut self, object: ObjectRef<Guarded>) {
        let Some(found) = self.context.store.get(&object) else {
            self.unlisted.insert(object);
            return;
        };
        let key = LaneKey::of(&found, &self.context.backends.load());
        self.context.due.wanted(object.clone(), Duration::ZERO);
        if let Some(queue) = self.queues.get(&key) {
            match queue.unbounded_send(object.clone()) {
                Ok(()) => return,
                Err(_) => tracing::error!("a queue ended by itself and begins anew"),
            }
        }
        let (queue, triggers) = mpsc::unbounded();
        self.running.spawn(run(Lane { context: Arc::clone(&self.context), key: key.clone() }, triggers));
        // The receiver was made just now.
        let _ = queue.unbounded_send(object);
        self.queues.insert(key, queue);
    }

    /// Takes nothing more and waits for the passes that run.
    pub async fn finish(mut self) {
        self.queues.clear();
        while self.running.join_next().await.is_some() {}
    }
}

async fn run(lane: Lane, triggers: mpsc::UnboundedReceiver<ObjectRef<Guarded>>) {
    let context = Arc::clone(&lane.context);
    let runs = controller::applier(
        |object, lane| Box::pin(super::reconcile(object, lane)) as futures::future::BoxFuture<'static, _>,
        |_, never: &Infallible, _| -> Action { match *never {} },
        Arc::new(lane),
        context.store.clone(),
        triggers.map(Ok::<_, Infallible>),
        controller::Config::default().concurrency(context.settings.concurrency),
    );
    let mut runs = std::pin::pin!(runs);
    while let Some(outcome) = runs.next().await {
        match outcome {
            Ok(_) => {}
            Err(controller::Error::ObjectNotFound(gone)) => {
                let namespace = gone.namespace.clone().unwrap_or_default();
                context.due.forget(&ObjectRef::new(&gone.name).within(&namespace));
            }
            Err(error) => tracing::warn!(%error, "queue"),
        }
    }
}

/// The reference under which an object is queued.
pub fn reference(object: &Guarded) -> ObjectRef<Guarded> {
    let metadata = object.meta();
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    ObjectRef::new(metadata.name.as_deref().unwrap_or_default()).within(namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_later_does_not_wait_yet() {
        let due = Due::default();
        let object = |name: &str| ObjectRef::<Guarded>::new(name).within("retail");
        due.wanted(object("zava"), Duration::ZERO);
        due.wanted(object("contoso"), Duration::from_secs(3600));
        assert_eq!(due.waiting(), 1);
        due.wanted(object("zava"), Duration::from_secs(3600));
        assert_eq!(due.waiting(), 1, "the earlier time holds");
        due.wanted(object("contoso"), Duration::ZERO);
        assert_eq!(due.waiting(), 2);
        let running = due.begin(&object("zava"));
        assert!(running.is_some() && due.begin(&object("zava")).is_none(), "one pass of an object at a time");
        assert_eq!(due.waiting(), 1);
        drop(running);
        assert!(due.begin(&object("zava")).is_some());
    }
}
