//! What one pass does with its object: finalizer, pass, status and events.

use k8s_openapi::jiff::Timestamp;
use kube::{Resource, ResourceExt, api::ObjectMeta};
use storefence_tenancy::{RetailTenant, RetailTenantStatus, resource::Mode};

use super::{
    Context, Guarded,
    object::{self, KubernetesObject},
    trigger,
};
use crate::{
    kubernetes::in_time,
    plan::{
        conflict::Claimant,
        problem::Problem,
        rotation::Rotation,
        status::{self, Done, Next, Outcome, Report, Transition, whole_second},
    },
    reason::{Class, Reason},
    reconcile::{
        failure::Failure,
        finalize::{self, Ending},
        pass::{self, Work, failed},
    },
};

/// How a pass ended.
pub enum End {
    /// Done until the next resync, or until a rotation has something to do.
    Resync(Option<Timestamp>),
    /// Nothing more to do until the object changes, or ever.
    Gone,
    /// To be repeated.
    Retry(Reason, Class),
    /// All but one thing is done. That is to be repeated; a rotation goes on at its own time.
    Partly(Reason, Class, Option<Timestamp>),
}

impl End {
    fn failed(name: &str, problem: &Problem) -> Self {
        warn(name, problem);
        Self::Retry(problem.reason, problem.class)
    }

    fn no_api(name: &str, error: kube::Error) -> Self {
        Self::failed(name, &Failure::from(error).into())
    }
}

fn warn(name: &str, problem: &Problem) {
    tracing::warn!(tenant = name, reason = problem.reason.as_str(), "{problem}");
}

/// The object of a pass, and the way to write to it.
struct Subject<'a> {
    object: &'a Guarded,
    kubernetes: &'a KubernetesObject,
    /// `namespace/name`, for logs.
    name: &'a str,
}

impl Context {
    /// Takes an object one step further.
    pub(super) async fn step(&self, object: &Guarded) -> End {
        let metadata = object.meta();
        let name = name(metadata);
        let kubernetes =
            KubernetesObject::new(&self.client, metadata, self.settings.call_deadline, self.leadership.clone());
        let subject = Subject { object, kubernetes: &kubernetes, name: &name };
        let deleting = metadata.deletion_timestamp.is_some();
        let ours = object.finalizers().iter().any(|name| name == storefence_tenancy::resource::FINALIZER);
        match (deleting, ours) {
            (true, false) => End::Gone,
            (true, true) => self.finalize(&subject).await,
            // Nothing was made, so there is nothing to clean up.
            (false, false) if is_suspended(object) => self.conclude(&subject, Outcome::Suspended.into(), None).await,
            (false, false) => {
                self.metrics.kubernetes_write("finalizer");
                let version = metadata.resource_version.as_deref();
                match kubernetes.add_finalizer(object.finalizers(), version).await {
                    // The watch brings the object back with its finalizer.
                    Ok(()) => End::Gone,
                    Err(error) => End::no_api(&name, error),
                }
            }
            (false, true) => self.pass(&subject).await,
        }
    }

    /// One pass over an object that is there to stay.
    async fn pass(&self, subject: &Subject<'_>) -> End {
        let report = match &subject.object.0 {
            Ok(tenant) => {
                let rotation = Rotation::at(tenant, whole_second(Timestamp::now()));
                let works = !tenant.spec.suspend && tenant.spec.mode == Mode::Enforce;
                if works && rotation.step.needs_latest_status() {
                    return self.step_of_rotation(subject).await;
                }
                self.report(tenant, rotation).await
            }
            Err(invalid) => malformed(&invalid.error),
        };
        self.conclude(subject, report, None).await
    }

    /// A pass that goes on with a rotation reads the newest object and writes the status only if that is still the
    /// newest. The watch may not have brought back yet what the last step recorded, and taking that step for an earlier
    /// one would disable credentials that are in use.
    async fn step_of_rotation(&self, subject: &Subject<'_>) -> End {
        let namespace = subject.object.meta().namespace.as_deref().unwrap_or_default();
        let latest = match subject.kubernetes.latest(&self.client, namespace).await {
            Ok(Some(latest)) if latest.meta().deletion_timestamp.is_none() => latest,
            // The watch brings the deletion.
            Ok(_) => return End::Gone,
            Err(error) => return End::no_api(subject.name, error),
        };
        let report = match &latest.0 {
            Ok(tenant) => self.report(tenant, Rotation::at(tenant, whole_second(Timestamp::now()))).await,
            Err(invalid) => malformed(&invalid.error),
        };
        let version = latest.meta().resource_version.clone();
        self.conclude(&Subject { object: &latest, ..*subject }, report, version.as_deref()).await
    }

    async fn report(&self, tenant: &RetailTenant, rotation: Rotation<'_>) -> Report {
        let claimants: Vec<Claimant> = trigger::claimants(&self.store, &tenant.spec.tenant_id);
        let backends = self.backends.load_full();
        let looked_after = |uid: &str| trigger::is_looked_after(&self.store, &tenant.spec.database_ref.name, uid);
        let (claimants, metrics, looked_after) = (&claimants, &self.metrics, &looked_after);
        pass::pass(&Work { backends: &backends, tenant, claimants, metrics, looked_after, rotation }).await
    }

    async fn finalize(&self, subject: &Subject<'_>) -> End {
        let Subject { object, kubernetes, name } = subject;
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
        if let Err(failures) = outcome {
            return self.conclude(subject, failed(failures).into(), None).await;
        }
        self.metrics.kubernetes_write("finalizer");
        match kubernetes.remove_finalizer(object.finalizers()).await {
            Ok(()) => {
                tracing::info!(tenant = name, "released");
                End::Gone
            }
            Err(error) => End::no_api(name, error),
        }
    }

    /// Writes the status if it changed, publishes the transitions, and decides when to look again. With `version`, the
    /// object must still be that one.
    async fn conclude(&self, subject: &Subject<'_>, report: Report, version: Option<&str>) -> End {
        let now = Timestamp::now();
        let written = match self.write_status(subject, &report, version, now).await {
            Ok(written) => written,
            Err(error) => return End::no_api(subject.name, error),
        };
        self.publish(subject, &written.transitions).await;
        match &report.outcome {
            Outcome::Done(Done { left, next, .. }) => match left.first() {
                Some(problem) => {
                    warn(subject.name, problem);
                    End::Partly(problem.reason, problem.class, *next)
                }
                // The next step of a rotation follows from what the status says of this one. Where that did not change,
                // the same step would be taken again: not at once.
                None if !written.changed && next.is_some_and(|next| next <= now) => {
                    End::Retry(Reason::RotationInProgress, Class::Transient)
                }
                None => End::Resync(*next),
            },
            Outcome::Observed(_) => End::Resync(None),
            Outcome::Suspended => End::Gone,
            Outcome::Failed(problems) => {
                problems.first().map_or(End::Resync(None), |problem| End::failed(subject.name, problem))
            }
        }
    }

    async fn write_status(
        &self,
        subject: &Subject<'_>,
        report: &Report,
        version: Option<&str>,
        now: Timestamp,
    ) -> Result<Written, kube::Error> {
        let object = subject.object;
        // The history of drift is appended to the newest status, which the watch may not have brought back yet.
        let newest = match &report.found {
            Some(found) if found.is_news() && version.is_none() => {
                let namespace = object.meta().namespace.as_deref().unwrap_or_default();
                subject.kubernetes.latest(&self.client, namespace).await?
            }
            _ => None,
        };
        let newest = newest.as_ref().unwrap_or(object);
        let last = newest.0.as_ref().ok().and_then(|tenant| tenant.status.as_ref());
        let next = status::next(last, report, object.meta().generation, whole_second(now));
        let Some(Next { status, transitions, recorded: (found, repaired) }) = next else {
            return Ok(Written::default());
        };
        let changed = last != Some(&status);
        if changed {
            self.replace_status(subject, newest, &status, version).await?;
        }
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        self.metrics.drift(count(found), count(repaired));
        Ok(Written { transitions, changed })
    }

    async fn replace_status(
        &self,
        subject: &Subject<'_>,
        newest: &Guarded,
        status: &RetailTenantStatus,
        version: Option<&str>,
    ) -> Result<(), kube::Error> {
        self.metrics.kubernetes_write("status");
        match &newest.0 {
            Ok(_) => subject.kubernetes.replace_status(status, version).await,
            Err(_) => subject.kubernetes.replace_conditions(status).await,
        }
    }

    /// Publishes transitions as events. A process that no longer leads publishes none.
    async fn publish(&self, subject: &Subject<'_>, transitions: &[Transition]) {
        let events = object::events(transitions).filter(|_| self.leadership.check().is_ok());
        for event in events {
            self.metrics.kubernetes_write("event");
            let reference = subject.object.object_ref(&());
            let published = self.recorder.publish(&event, &reference);
            // A lost event is only news: the status has it all.
            if let Err(error) = in_time(self.settings.call_deadline, published).await {
                tracing::debug!(tenant = subject.name, %error, "event not published");
            }
        }
    }
}

/// What became of the status.
#[derive(Default)]
struct Written {
    transitions: Vec<Transition>,
    changed: bool,
}

fn malformed(error: &str) -> Report {
    failed(vec![Failure::Malformed(error.to_owned())]).into()
}

fn is_suspended(object: &Guarded) -> bool {
    object.0.as_ref().is_ok_and(|tenant| tenant.spec.suspend)
}

/// `namespace/name`.
pub fn name(metadata: &ObjectMeta) -> String {
    let text = |part: &Option<String>| part.clone().unwrap_or_default();
    format!("{}/{}", text(&metadata.namespace), text(&metadata.name))
}
