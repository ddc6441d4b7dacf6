//! The loop around the passes: it watches the objects, runs bounded numbers of passes, and repeats what failed.
//!
//! `queues` decides when a pass begins, `step` what it does with its object, `retry` when it is repeated.

mod api;
mod facts;
mod object;
mod queues;
mod retry;
mod step;
mod trigger;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use futures::{Stream, StreamExt, TryStreamExt, channel::mpsc, stream};
use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client, Resource, ResourceExt,
    core::DeserializeGuard,
    runtime::{
        PredicateConfig, WatchStreamExt,
        controller::Action,
        events::{Recorder, Reporter},
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use storefence_runtime::{patient_watch, watch_backoff};
use storefence_tenancy::RetailTenant;
use tokio_util::sync::CancellationToken;

pub use facts::ControllerFacts;
pub use retry::RetryPolicy;

use crate::{
    backends::Backends,
    backoff::spread,
    kubernetes::FIELD_MANAGER,
    leader::Leadership,
    metrics::Metrics,
    reason::{Class, Reason},
};
use api::ApiAccess;
use queues::{Due, Queue, QueueKey, Queues, Trigger};
use retry::Retries;
use step::End;

/// When to look again at an object that another queue is still busy with.
const BUSY: Duration = Duration::from_secs(1);

/// A `RetailTenant` that may be unreadable: one such object must not stop the watch for the others.
pub(crate) type Guarded = DeserializeGuard<RetailTenant>;

/// How the controller works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Passes at a time over the tenants of one database and Key Vault.
    pub concurrency: u16,
    /// Timeout of one call to the Kubernetes API.
    pub call_deadline: Duration,
    /// Time between two passes over an unchanged tenant.
    pub resync: Duration,
    /// When a failed pass is repeated.
    pub retry: RetryPolicy,
    /// Timeout of one pass. An unfinished pass is dropped, and its locks with it.
    pub pass_deadline: Duration,
}

/// Everything the controller needs from outside.
pub struct Controller {
    /// The Kubernetes API.
    pub client: Client,
    /// Databases and vaults.
    pub backends: Arc<ArcSwap<Backends>>,
    /// Where passes, writes and drift are counted.
    pub metrics: Arc<Metrics>,
    /// How it works.
    pub settings: Settings,
    /// Whether this process may write.
    pub leadership: Leadership,
}

/// What every pass shares.
struct Context {
    client: Client,
    backends: Arc<ArcSwap<Backends>>,
    metrics: Arc<Metrics>,
    settings: Settings,
    leadership: Leadership,
    store: Store<Guarded>,
    recorder: Recorder,
    retries: Retries,
    due: Arc<Due>,
    stop: CancellationToken,
}

impl Controller {
    /// Sets up the watch. Returns the facts for the admin port, and the loop, which runs until `stop` and then lets the
    /// running passes finish.
    pub fn start(self, stop: CancellationToken) -> (Arc<ControllerFacts>, impl Future<Output = ()> + Send) {
        let Self { client, backends, metrics, settings, leadership } = self;
        let (store, writer) = reflector::store::<Guarded>();
        let (sender, triggers) = mpsc::unbounded();
        let synced = Arc::new(AtomicBool::new(false));
        let due = Arc::new(Due::default());
        let facts = Arc::new(ControllerFacts {
            store: store.clone(),
            metrics: Arc::clone(&metrics),
            synced: Arc::clone(&synced),
            triggers: sender.clone(),
            due: Arc::clone(&due),
            client: client.clone(),
            access: ApiAccess::new(settings.call_deadline),
        });
        let reporter = Reporter { controller: FIELD_MANAGER.to_owned(), instance: instance() };
        let context = Arc::new(Context {
            recorder: Recorder::new(client.clone(), reporter),
            retries: Retries::new(settings.retry),
            client: client.clone(),
            backends,
            metrics,
            settings,
            leadership,
            store: store.clone(),
            due,
            stop: stop.clone(),
        });
        let events = watcher(Api::<Guarded>::all(client), watcher::Config::default());
        let objects = patient_watch(events, watch_backoff(), "no change is seen until it is back")
            .map(Ok::<_, watcher::Error>)
            .reflect(writer)
            .inspect_ok(move |event| match event {
                watcher::Event::Delete(object) => {
                    for sibling in trigger::siblings(&store, object) {
                        // The receiver lives as long as the loop.
                        let _ = sender.unbounded_send(Trigger::Look(sibling));
                    }
                }
                watcher::Event::InitDone => {
                    synced.store(true, Ordering::Relaxed);
                    let _ = sender.unbounded_send(Trigger::Listed);
                }
                _ => {}
            })
            .applied_objects()
            .predicate_filter(trigger::fingerprint, PredicateConfig::default())
            .map_ok(|object| Trigger::Look(ObjectRef::from_obj(&object)));
        let triggers = stream::select(objects, triggers.map(Ok)).take_until(stop.cancelled_owned());
        (facts, run(context, triggers))
    }
}

/// Hands every trigger to its queue, until there are no more.
async fn run(context: Arc<Context>, triggers: impl Stream<Item = Result<Trigger, watcher::Error>>) {
    let mut queues = Queues::new(context);
    let mut triggers = std::pin::pin!(triggers);
    while let Some(trigger) = triggers.next().await {
        match trigger {
            Ok(trigger) => queues.push(trigger),
            Err(error) => tracing::warn!(%error, "watch"),
        }
    }
    queues.finish().await;
}

/// The name of this pod, for events; `None` outside of one.
fn instance() -> Option<String> {
    std::env::var("HOSTNAME").ok().filter(|name| !name.is_empty())
}

/// One pass over an object, and when the next one is due.
async fn reconcile(object: Arc<Guarded>, queue: Arc<Queue>) -> Result<Action, std::convert::Infallible> {
    let context = &queue.context;
    let reference = queues::reference(&object);
    let Some(_running) = context.due.begin(&reference) else {
        return Ok(Action::requeue(BUSY));
    };
    // A stopping operator finishes what runs and begins nothing. An object whose spec has named another database or
    // vault since then belongs to another queue.
    if context.stop.is_cancelled() || QueueKey::of(&object, &context.backends.load()) != queue.key {
        return Ok(Action::await_change());
    }
    let started = Instant::now();
    let running = context.metrics.running.clone();
    running.inc();
    let end = match tokio::time::timeout(context.settings.pass_deadline, context.step(&object)).await {
        Ok(end) => end,
        Err(_) => {
            tracing::warn!(tenant = %step::name(object.meta()), "the pass did not end in time and was dropped");
            End::Retry(Reason::InternalError, Class::Transient)
        }
    };
    running.dec();
    let (reason, delay) = context.delay(&object.uid().unwrap_or_default(), end);
    context.metrics.reconciled(reason, started.elapsed());
    if let Some(delay) = delay {
        context.due.wanted(reference, delay);
    }
    Ok(delay.map_or_else(Action::await_change, Action::requeue))
}

impl Context {
    /// The reason that a pass is counted under, and the wait until the next one; `None`: until the object changes.
    fn delay(&self, uid: &str, end: End) -> (Reason, Option<Duration>) {
        match end {
            End::Resync(next) => {
                self.retries.forget(uid);
                let resync = spread(self.settings.resync);
                (Reason::Reconciled, Some(next.map_or(resync, |next| resync.min(until(next)))))
            }
            End::Gone => {
                self.retries.forget(uid);
                (Reason::Reconciled, None)
            }
            End::Retry(reason, class) => (reason, Some(self.retries.delay(uid, class))),
            End::Partly(reason, class, next) => {
                let delay = self.retries.delay(uid, class);
                (reason, Some(next.map_or(delay, |next| delay.min(until(next)))))
            }
        }
    }
}

/// The time from now to then.
fn until(then: Timestamp) -> Duration {
    Duration::try_from(then.duration_since(Timestamp::now())).unwrap_or_default()
}

#[cfg(test)]
#[path = "controller/requests_tests.rs"]
mod requests_tests;
