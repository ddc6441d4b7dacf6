//! One queue per pair of database and Key Vault: its tenants share a bounded number of passes. A slow database or vault
//! then delays its own tenants alone.
//!
//! The bound is per queue, and there are as many queues as pairs in use: the total is bounded as well.

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

/// Database and Key Vault by their names in the configuration; `None` for a name that it does not have.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueueKey {
    database: Option<String>,
    vault: Option<String>,
}

impl QueueKey {
    /// The queue of an object.
    pub fn of(object: &Guarded, backends: &Backends) -> Self {
        let Ok(tenant) = &object.0 else { return Self::default() };
        // Only names of the configuration: users must not choose the number of queues.
        let known = |name: &str, known: bool| known.then(|| name.to_owned());
        let (database, vault) = (&tenant.spec.database_ref.name, &tenant.spec.key_vault_ref.name);
        Self {
            database: known(database, backends.database(database).is_ok()),
            vault: known(vault, backends.vault(vault).is_ok()),
        }
    }
}

/// When each tenant's next pass is due, and which passes run: the source of the metric `queue_depth`.
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

    /// A pass begins, unless one of the same object runs. After the spec has named another database or vault, that may
    /// be one in the former queue.
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

/// What the passes of one queue work with.
pub struct Queue {
    pub context: Arc<Context>,
    pub key: QueueKey,
}

/// What sets off passes.
pub enum Trigger {
    /// Look at one object.
    Look(ObjectRef<Guarded>),
    /// The watch has read a list to its end: only now the store has the objects of that list.
    Listed,
}

/// All queues in use.
pub struct Queues {
    context: Arc<Context>,
    /// Objects of a list that has not been read to its end.
    unlisted: HashSet<ObjectRef<Guarded>>,
    queues: BTreeMap<QueueKey, mpsc::UnboundedSender<ObjectRef<Guarded>>>,
    running: JoinSet<()>,
}

impl Queues {
    pub fn new(context: Arc<Context>) -> Self {
        Self { context, unlisted: HashSet::new(), queues: BTreeMap::new(), running: JoinSet::new() }
    }

    /// Hands a trigger to the queue of its tenant.
    pub fn push(&mut self, trigger: Trigger) {
        match trigger {
            Trigger::Look(object) => self.look(object),
            Trigger::Listed => {
                // An object that is still absent is gone, and needs no pass.
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
        let key = QueueKey::of(&found, &self.context.backends.load());
        self.context.due.wanted(object.clone(), Duration::ZERO);
        if let Some(queue) = self.queues.get(&key) {
            match queue.unbounded_send(object.clone()) {
                Ok(()) => return,
                Err(_) => tracing::error!("a queue ended by itself and begins anew"),
            }
        }
        let (queue, triggers) = mpsc::unbounded();
        self.running.spawn(run(Queue { context: Arc::clone(&self.context), key: key.clone() }, triggers));
        // Cannot fail: the receiver exists.
        let _ = queue.unbounded_send(object);
        self.queues.insert(key, queue);
    }

    /// Takes nothing more and waits for the passes that run.
    pub async fn finish(mut self) {
        self.queues.clear();
        while self.running.join_next().await.is_some() {}
    }
}

async fn run(queue: Queue, triggers: mpsc::UnboundedReceiver<ObjectRef<Guarded>>) {
    let context = Arc::clone(&queue.context);
    let runs = controller::applier(
        |object, queue| Box::pin(super::reconcile(object, queue)) as futures::future::BoxFuture<'static, _>,
        |_, never: &Infallible, _| -> Action { match *never {} },
        Arc::new(queue),
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
