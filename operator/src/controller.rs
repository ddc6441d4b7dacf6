//! The loop around the passes: watch, trigger, bounded concurrency, finalizer, status, retries.

mod api;
mod lanes;
mod object;
mod retry;
mod trigger;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use futures::{StreamExt, TryStreamExt, channel::mpsc, stream};
use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::ObjectMeta,
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
use storefence_tenancy::{RetailTenant, resource::Mode};
use tokio_util::sync::CancellationToken;

pub use object::in_time;
pub use retry::{RetryPolicy, spread};

use crate::{
    backends::Backends,
    errors::{Class, Failure, Reason},
    leader::Leadership,
    metrics::Metrics,
    reconcile::{
        conflict::Claimant,
        finalize::{self, Ending},
        pass::{self, Work},
        rotation::{View, in_force_since},
        status::{self, Done, Next, Outcome, Report, whole_second},
    },
    server::Facts,
};
use api::ApiAccess;
use lanes::{Due, Lane, LaneKey, Lanes, Trigger};
use object::KubernetesObject;
use retry::Retries;

/// Field manager of every write.
pub const FIELD_MANAGER: &str = "storefence-operator";

/// When to look again at an object that another lane is still busy with.
const BUSY: Duration = Duration::from_secs(1);

/// A `RetailTenant` that may turn out unreadable: one such object must not stop the watch for the others.
pub(crate) type Guarded = DeserializeGuard<RetailTenant>;

/// How the controller works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Passes at a time over the tenants of one database and Key Vault.
    pub concurrency: u16,
    /// Longest wait for one answer of the Kubernetes API.
    pub call_deadline: Duration,
    /// How often an unchanged tenant is looked at.
    pub resync: Duration,
    /// When a failed pass is repeated.
    pub retry: RetryPolicy,
    /// Longest pass. What is unfinished then is dropped, and its locks with it.
    pub pass_deadline: Duration,
}

/// Everything the controller needs from outside.
pub struct Controller {
    /// The Kubernetes API.
    pub client: Client,
    /// Databases and vaults.
    pub backends: Arc<ArcSwap<Backends>>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Settings.
    pub settings: Settings,
    /// Whether this process may write.
    pub leadership: Leadership,
}

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

/// What the admin port tells of the controller.
pub struct ControllerFacts {
    store: Store<Guarded>,
    metrics: Arc<Metrics>,
    synced: Arc<std::sync::atomic::AtomicBool>,
    triggers: mpsc::UnboundedSender<Trigger>,
    due: Arc<Due>,
    client: Client,
    access: ApiAccess,
}

impl ControllerFacts {
    /// Asks the Kubernetes API now and then whether it lets us in, for ever.
    pub async fn ask_the_api(&self) {
        self.access.ask(self.client.clone()).await;
    }

    /// Sets off a pass over every tenant: what was missing may be there now.
    pub fn look_at_all(&self) {
        self.look_at(|_| true);
    }

    /// UIDs of all objects there are, readable or not; `None` while they have not been listed.
    pub fn claimed(&self) -> Option<BTreeSet<String>> {
        let synced = self.synced.load(std::sync::atomic::Ordering::Relaxed);
        synced.then(|| self.store.state().iter().filter_map(|object| object.meta().uid.clone()).collect())
    }

    /// Whether an object of a database is served.
    pub fn serves(&self, database: &str) -> bool {
        let has_credentials = |tenant: &RetailTenant| tenant.status.as_ref().is_some_and(|s| s.credentials.is_some());
        let served = |tenant: &RetailTenant| tenant.spec.database_ref.name == database && has_credentials(tenant);
        self.store.state().iter().any(|object| object.0.as_ref().is_ok_and(served))
    }

    /// Sets off a pass over some tenants.
    pub fn look_at(&self, which: impl Fn(&RetailTenant) -> bool) {
        for object in self.store.state() {
            if object.0.as_ref().is_ok_and(&which) || object.0.is_err() {
                // Without a receiver the loop has ended, and so has the process soon.
                let _ = self.triggers.unbounded_send(Trigger::Look(ObjectRef::from_obj(object.as_ref())));
            }
        }
    }
}

impl Facts for ControllerFacts {
    fn missing(&self) -> Vec<String> {
        let mut missing: Vec<String> = self.access.missing().into_iter().collect();
        let synced = self.synced.load(std::sync::atomic::Ordering::Relaxed);
        // A replica that does not lead reads no list.
        if !synced && self.metrics.leader.get() != 0 {
            missing.push("the list of RetailTenants has not been read yet".to_owned());
        }
        missing
    }

    fn metrics(&self) -> Result<String, prometheus::Error> {
        let now = Timestamp::now().as_second();
        let (mut oldest, mut overdue) = (0, 0);
        let mut counts = std::collections::BTreeMap::new();
        for object in self.store.state() {
            let status = object.0.as_ref().ok().and_then(|tenant| tenant.status.as_ref());
            for condition in status::CONDITIONS {
                let found = status.and_then(|status| status.conditions.iter().find(|found| found.type_ == condition));
                let value = match found.map(|found| found.status.as_str()) {
                    Some("True") => "true",
                    Some("False") => "false",
                    _ => "unknown",
                };
                // Only words of the closed list: a status that somebody else wrote must not make labels.
                let word = found.and_then(|found| Reason::from_word(&found.reason)).map_or("unknown", Reason::as_str);
                *counts.entry((condition, value, word)).or_insert(0) += 1;
            }
            let view = object.0.as_ref().ok().map(View::of);
            let since = view.and_then(|view| in_force_since(view.credentials?, view.last));
            oldest = oldest.max(since.map_or(0, |since| now - since.as_second()));
            // During a rotation it is not due again: what takes long then counts from where it was due before.
            overdue = overdue.max(view.and_then(|view| view.due()).map_or(0, |due| now - due.as_second()));
        }
        self.metrics.rotation_ages(oldest, overdue);
        self.metrics.queue_depth.set(self.due.waiting());
        self.metrics.tenants(counts);
        self.metrics.render()
    }
}

impl Controller {
    /// Sets up the watch; gives the facts for the admin port and the loop, which runs until `stop` and then lets the
    /// running passes finish.
    pub fn start(self, stop: CancellationToken) -> (Arc<ControllerFacts>, impl Future<Output = ()> + Send) {
        let Self { client, backends, metrics, settings, leadership } = self;
        let (store, writer) = reflector::store::<Guarded>();
        let (siblings, sibling_triggers) = mpsc::unbounded();
        let synced = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let due = Arc::new(Due::default());
        let facts = Arc::new(ControllerFacts {
            store: store.clone(),
            metrics: Arc::clone(&metrics),
            synced: Arc::clone(&synced),
            triggers: siblings.clone(),
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

        let for_siblings = store;
        let events = watcher(Api::<Guarded>::all(client), watcher::Config::default());
        let objects = patient_watch(events, watch_backoff(), "no change is seen until it is back")
            .map(Ok::<_, watcher::Error>)
            .reflect(writer)
            .inspect_ok(move |event| match event {
                watcher::Event::Delete(object) => {
                    for sibling in trigger::siblings(&for_siblings, object) {
                        // The receiver lives as long as the loop.
                        let _ = siblings.unbounded_send(Trigger::Look(sibling));
                    }
                }
                watcher::Event::InitDone => {
                    synced.store(true, std::sync::atomic::Ordering::Relaxed);
                    let _ = siblings.unbounded_send(Trigger::Listed);
                }
                _ => {}
            })
            .applied_objects()
            .predicate_filter(trigger::fingerprint, PredicateConfig::default())
            .map_ok(|object| Trigger::Look(ObjectRef::from_obj(&object)));
        let queue = stream::select(objects, sibling_triggers.map(Ok)).take_until(stop.cancelled_owned());
        let run = async move {
            let mut lanes = Lanes::new(context);
            let mut queue = std::pin::pin!(queue);
            while let Some(trigger) = queue.next().await {
                match trigger {
                    Ok(trigger) => lanes.pass(trigger),
                    Err(error) => tracing::warn!(%error, "watch"),
                }
            }
            lanes.finish().await;
        };
        (facts, run)
    }
}

/// The pod, for events; absent outside of one.
fn instance() -> Option<String> {
    std::env::var("HOSTNAME").ok().filter(|name| !name.is_empty())
}

async fn reconcile(object: Arc<Guarded>, lane: Arc<Lane>) -> Result<Action, std::convert::Infallible> {
    let context = &lane.context;
    let reference = lanes::reference(&object);
    let Some(_running) = context.due.begin(&reference) else {
        return Ok(Action::requeue(BUSY));
    };
    // A stopping operator finishes what runs and begins nothing; and the passes of an object whose spec named another
    // database or vault before are over: its new lane has it.
    if context.stop.is_cancelled() || LaneKey::of(&object, &context.backends.load()) != lane.key {
        return Ok(Action::await_change());
    }
    let started = std::time::Instant::now();
    let running = context.metrics.running.clone();
    running.inc();
    let end = match tokio::time::timeout(context.settings.pass_deadline, context.step(&object)).await {
        Ok(end) => end,
        Err(_) => {
            tracing::warn!(tenant = %place(object.meta()), "the pass did not end in time and was dropped");
            End::Retry(Reason::InternalError, Class::Transient)
        }
    };
    running.dec();
    let uid = object.uid().unwrap_or_default();
    let (reason, delay) = match end {
        End::Resync(next) => {
            context.retries.forget(&uid);
            let resync = retry::spread(context.settings.resync);
            (Reason::Reconciled, Some(next.map_or(resync, |next| resync.min(until(next)))))
        }
        End::Gone => {
            context.retries.forget(&uid);
            (Reason::Reconciled, None)
        }
        End::Retry(reason, class) => (reason, Some(context.retries.delay(&uid, class))),
        End::Partly(reason, class, next) => {
            let delay = context.retries.delay(&uid, class);
            (reason, Some(next.map_or(delay, |next| delay.min(until(next)))))
        }
    };
    context.metrics.reconciled(reason, started.elapsed());
    if let Some(delay) = delay {
        context.due.wanted(reference, delay);
    }
    Ok(delay.map_or_else(Action::await_change, Action::requeue))
}

/// How a pass ended.
enum End {
    /// Done until the next look, or until a rotation has something to do.
    Resync(Option<Timestamp>),
    /// Nothing more to do until the object changes, or ever.
    Gone,
    /// To be repeated.
    Retry(Reason, Class),
    /// All but one thing is done, which is to be repeated; a rotation goes on at its own time.
    Partly(Reason, Class, Option<Timestamp>),
}

impl End {
    fn failed(place: &str, failure: &Failure) -> Self {
        tracing::warn!(tenant = place, reason = failure.reason().as_str(), "{failure}");
        Self::Retry(failure.reason(), failure.class())
    }
}

impl Context {
    async fn step(&self, object: &Guarded) -> End {
        let metadata = object.meta();
        let place = place(metadata);
        let kubernetes =
            KubernetesObject::new(&self.client, metadata, self.settings.call_deadline, self.leadership.clone());
        let deleting = metadata.deletion_timestamp.is_some();
        let ours = object.finalizers().iter().any(|name| name == storefence_tenancy::resource::FINALIZER);
        let written = match (deleting, ours) {
            (true, false) => return End::Gone,
            (true, true) => return self.finalize(object, &kubernetes, &place).await,
            // Nothing is made, so there is nothing to clean up either.
            (false, false) if is_suspended(object) => {
                return self.conclude(object, &kubernetes, &place, Outcome::Suspended.into(), None).await;
            }
            (false, false) => {
                self.metrics.kubernetes_write("finalizer");
                let version = metadata.resource_version.as_deref();
                kubernetes.add_finalizer(object.finalizers(), version).await.map(|()| End::Gone)
            }
            (false, true) if self.rotates(object) => return self.step_of_rotation(object, &kubernetes, &place).await,
            (false, true) => {
                let report = self.report(object).await;
                return self.conclude(object, &kubernetes, &place, report, None).await;
            }
        };
        // The watch brings the object back with its finalizer.
        written.unwrap_or_else(|error| End::failed(&place, &error.into()))
    }

    fn rotates(&self, object: &Guarded) -> bool {
        let now = whole_second(Timestamp::now());
        let works = |tenant: &RetailTenant| !tenant.spec.suspend && tenant.spec.mode == Mode::Enforce;
        object.0.as_ref().is_ok_and(|tenant| works(tenant) && View::of(tenant).step(now).needs_latest_status())
    }

    /// A pass that goes on with a rotation works with the newest object and insists on it when it writes the status: the
    /// watch may not have brought back yet what the last step recorded, and a step that is taken for an earlier one
    /// would disable what is in use.
    async fn step_of_rotation(&self, object: &Guarded, kubernetes: &KubernetesObject, place: &str) -> End {
        let namespace = object.meta().namespace.as_deref().unwrap_or_default();
        let latest = match kubernetes.latest(&self.client, namespace).await {
            Ok(Some(latest)) if latest.meta().deletion_timestamp.is_none() => latest,
            // The watch brings the deletion.
            Ok(_) => return End::Gone,
            Err(error) => return End::failed(place, &error.into()),
        };
        let report = self.report(&latest).await;
        let version = latest.meta().resource_version.clone();
        self.conclude(&latest, kubernetes, place, report, version.as_deref()).await
    }

    async fn report(&self, object: &Guarded) -> Report {
        let tenant = match &object.0 {
            Ok(tenant) => tenant,
            Err(invalid) => return Outcome::Failed(vec![Failure::Malformed(invalid.error.clone())]).into(),
        };
        let claimants: Vec<Claimant> = trigger::claimants(&self.store, &tenant.spec.tenant_id);
        let backends = self.backends.load_full();
        let looked_after = |uid: &str| trigger::is_looked_after(&self.store, &tenant.spec.database_ref.name, uid);
        let (claimants, metrics, looked_after) = (&claimants, &self.metrics, &looked_after);
        pass::pass(&Work { backends: &backends, tenant, claimants, metrics, looked_after }).await
    }

    async fn finalize(&self, object: &Guarded, kubernetes: &KubernetesObject, place: &str) -> End {
        let backends = self.backends.load_full();
        let outcome = match &object.0 {
            Ok(tenant) => match Ending::of(&tenant.spec) {
                Ending::Hold => Err(vec![Failure::SuspendedDeletion]),
                ending => finalize::finalize(&backends, tenant, ending).await,
            },
            Err(invalid) => match kubernetes.raw().await {
                Err(error) => Err(vec![error.into()]),
                Ok(raw) => match Ending::of_unreadable(&raw) {
                    Ending::Hold => Err(vec![Failure::SuspendedDeletion]),
                    ending => {
                        let uid = invalid.metadata.uid.as_deref().unwrap_or_default();
                        finalize::finalize_unreadable(&backends, uid, &raw, ending).await
                    }
                },
            },
        };
        match outcome {
            Ok(()) => {
                self.metrics.kubernetes_write("finalizer");
                match kubernetes.remove_finalizer(object.finalizers()).await {
                    Ok(()) => {
                        tracing::info!(tenant = place, "released");
                        End::Gone
                    }
                    Err(error) => End::failed(place, &error.into()),
                }
            }
            Err(failures) => self.conclude(object, kubernetes, place, Outcome::Failed(failures).into(), None).await,
        }
    }

    /// Writes the status if it changed, tells of transitions, and says when to look again.
    async fn conclude(
        &self,
        object: &Guarded,
        kubernetes: &KubernetesObject,
        place: &str,
        report: Report,
        version: Option<&str>,
    ) -> End {
        // The history grows by what the newest status has of it, which the watch may not have brought back yet.
        let newest = match &report.found {
            Some(found) if found.is_news() && version.is_none() => {
                let namespace = object.meta().namespace.as_deref().unwrap_or_default();
                match kubernetes.latest(&self.client, namespace).await {
                    Ok(newest) => newest,
                    Err(error) => return End::failed(place, &error.into()),
                }
            }
            _ => None,
        };
        let newest = newest.as_ref().unwrap_or(object);
        let last = newest.0.as_ref().ok().and_then(|tenant| tenant.status.as_ref());
        let now = Timestamp::now();
        let next = status::next(last, &report, object.meta().generation, whole_second(now));
        let mut transitions = Vec::new();
        let mut changed = false;
        if let Some(Next { status, transitions: told, recorded: (found, mended) }) = next {
            changed = last != Some(&status);
            if changed {
                self.metrics.kubernetes_write("status");
                let written = match &newest.0 {
                    Ok(_) => kubernetes.replace_status(&status, version).await,
                    Err(_) => kubernetes.replace_conditions(&status).await,
                };
                if let Err(error) = written {
                    return End::failed(place, &error.into());
                }
            }
            let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
            self.metrics.drift(count(found), count(mended));
            transitions = told;
        }
        // Events are news of this process: none after its end as leader.
        let told = object::events(&transitions).filter(|_| self.leadership.check().is_ok());
        for event in told {
            self.metrics.kubernetes_write("event");
            // An event that is lost costs nothing but the news; the status has it all.
            let reference = object.object_ref(&());
            let published = self.recorder.publish(&event, &reference);
            if let Err(error) = object::in_time(self.settings.call_deadline, published).await {
                tracing::debug!(tenant = place, %error, "event not published");
            }
        }
        match &report.outcome {
            Outcome::Done(Done { left, next, .. }) => match left.first() {
                Some(failure) => {
                    tracing::warn!(tenant = place, reason = failure.reason().as_str(), "{failure}");
                    End::Partly(failure.reason(), failure.class(), *next)
                }
                // The next step follows from what the status says of this one: where that did not change, the step is
                // taken again, and not at once.
                None if !changed && next.is_some_and(|next| next <= now) => {
                    End::Retry(Reason::RotationInProgress, Class::Transient)
                }
                None => End::Resync(*next),
            },
            Outcome::Observed(_) => End::Resync(None),
            Outcome::Suspended => End::Gone,
            Outcome::Failed(failures) => {
                failures.first().map_or(End::Resync(None), |failure| End::failed(place, failure))
            }
        }
    }
}

fn is_suspended(object: &Guarded) -> bool {
    object.0.as_ref().is_ok_and(|tenant| tenant.spec.suspend)
}

/// The time from now to then.
fn until(then: Timestamp) -> Duration {
    Duration::try_from(then.duration_since(Timestamp::now())).unwrap_or_default()
}

fn place(metadata: &ObjectMeta) -> String {
    let text = |part: &Option<String>| part.clone().unwrap_or_default();
    format!("{}/{}", text(&metadata.namespace), text(&metadata.name))
}

#[cfg(test)]
#[path = "controller/requests_tests.rs"]
mod requests_tests;
