//! The status that follows from the last one and from what a pass came to.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use storefence_tenancy::{
    RetailTenantStatus,
    resource::{Credentials, DRIFT_HISTORY_MAX, DriftOutcome, DriftRecord, LastRotation, RotationInProgress},
};

use super::{action::Plan, drift::Found, problem::Problem};
use crate::{
    reason::{Area, Class, Reason},
    verify::Deviation,
};

/// The tenant is served as its spec asks.
pub const READY: &str = "Ready";
/// Roles, rows and keys in the database are in place.
pub const DATABASE_READY: &str = "DatabaseReady";
/// The secrets are in the vault.
pub const SECRETS_READY: &str = "SecretsReady";
/// The fence itself is as the migrations made it.
pub const POLICY_VERIFIED: &str = "PolicyVerified";
/// Something differs from the spec and is not repaired.
pub const DRIFTED: &str = "Drifted";
/// The operator does nothing for this tenant.
pub const SUSPENDED: &str = "Suspended";
pub const CONDITIONS: [&str; 6] = [READY, DATABASE_READY, SECRETS_READY, POLICY_VERIFIED, DRIFTED, SUSPENDED];

/// Longest message of a condition; the API server's limit is 32,768.
const MESSAGE_MAX: usize = 1024;

/// Bounds of one record in the history, as the schema has them: entries, and characters of each.
const CHANGES_MAX: usize = 20;
const CHANGE_MAX: usize = 256;

/// How a pass ended.
#[derive(Debug)]
pub enum Outcome {
    /// Everything is in place, except what [`Done::left`] names.
    Done(Done),
    /// Compared, in mode Observe; nothing was written.
    Observed(Observed),
    /// At least one problem; `Ready` shows the first one.
    Failed(Vec<Problem>),
    /// Nothing was read or written.
    Suspended,
}

/// What a pass reports.
#[derive(Debug)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// The differences that it found; `None` if it ended before it could compare.
    pub found: Option<Found>,
}

impl From<Outcome> for Report {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, found: None }
    }
}

/// What is in place after a pass.
#[derive(Debug)]
pub struct Done {
    /// Stores behind the fence.
    pub stores: usize,
    /// Principal rules.
    pub principals: usize,
    /// The credentials in force.
    pub credentials: Credentials,
    /// The rotation under way.
    pub rotation: Option<RotationInProgress>,
    /// The last switch to new credentials.
    pub last_rotation: Option<LastRotation>,
    /// When the rotation has something to do next.
    pub next: Option<Timestamp>,
    /// What the configuration asks of the fence and is not in place.
    pub missing: Vec<Deviation>,
    /// What of the spec is not in place, while everything else is; `Ready` shows the first one.
    pub left: Vec<Problem>,
    /// Whether another rotation has been asked for. It begins when the former credentials have ended.
    pub rotation_waits: bool,
}

/// What a pass would do.
#[derive(Debug)]
pub struct Observed {
    /// Steps in the database.
    pub database: usize,
    /// Steps in the vault.
    pub secrets: usize,
    /// What the configuration asks of the fence and is not in place.
    pub missing: Vec<Deviation>,
}

impl Observed {
    /// Counts the steps of a plan.
    #[must_use]
    pub fn of(plan: &Plan, missing: Vec<Deviation>) -> Self {
        Self { database: plan.database.len() + plan.dependents.len(), secrets: plan.secrets.len(), missing }
    }
}

/// Cuts a time to whole seconds, as Kubernetes objects have them: with a fraction, the object that is read back would
/// never equal the one that was written.
#[must_use]
pub fn whole_second(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// News for an event: a condition that changed its status or reason, drift or an adoption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Type of the condition.
    pub condition: &'static str,
    /// Whether it is good news.
    pub good: bool,
    /// Why.
    pub reason: Reason,
    /// The text of the event.
    pub message: String,
}

/// What is written after a pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Next {
    /// The status. If it equals the last one, it must not be written.
    pub status: RetailTenantStatus,
    /// What is published as events.
    pub transitions: Vec<Transition>,
    /// How many differences are new in the history, and how many of those were repaired.
    pub recorded: (usize, usize),
}

/// Computes the next status and the events; `None` where the outcome says nothing about the tenant, as when another
/// operator works on it.
#[must_use]
pub fn next(
    last: Option<&RetailTenantStatus>,
    report: &Report,
    generation: Option<i64>,
    now: Timestamp,
) -> Option<Next> {
    let mut status = last.cloned().unwrap_or_default();
    let mut writer = Writer { last, conditions: Vec::new(), transitions: Vec::new(), generation, now };
    let suspended = match &report.outcome {
        Outcome::Done(done) => {
            writer.done(&mut status, done);
            false
        }
        Outcome::Observed(observed) => {
            writer.observed(status.credentials.is_some(), observed);
            false
        }
        Outcome::Failed(problems) => writer.failed(problems)?,
        Outcome::Suspended => {
            for condition in [READY, DATABASE_READY, SECRETS_READY, POLICY_VERIFIED] {
                writer.keep(condition, Reason::Suspended);
            }
            true
        }
    };
    let recorded = writer.drifted(&mut status.drift_history, report);
    // The generation of `Drifted` shows the next pass whether its spec has been in place before.
    let in_place = match &report.outcome {
        Outcome::Done(_) | Outcome::Observed(_) => true,
        Outcome::Failed(_) => report.found.as_ref().is_some_and(|found| found.outcome == DriftOutcome::Mended),
        Outcome::Suspended => false,
    };
    if !in_place {
        let generation = writer.previous(DRIFTED).and_then(|last| last.observed_generation);
        let drifted = writer.conditions.iter_mut().find(|condition| condition.type_ == DRIFTED);
        drifted.into_iter().for_each(|drifted| drifted.observed_generation = generation);
    }
    let (reason, message) = if suspended {
        (Reason::Suspended, "the operator does nothing for this tenant until spec.suspend is false")
    } else {
        (Reason::Reconciled, "spec.suspend is false")
    };
    writer.set(SUSPENDED, suspended, reason, message);
    let Writer { conditions, transitions, .. } = writer;
    status.conditions = conditions;
    status.observed_generation = generation;
    Some(Next { status, transitions, recorded })
}

fn intact(missing: &[Deviation]) -> String {
    let intact = "policies, grants, functions and roles are as the migrations made them";
    match missing {
        [] => intact.to_owned(),
        [first, others @ ..] => {
            let others = if others.is_empty() { String::new() } else { format!(" (and {} more)", others.len()) };
            format!("{intact}; MISSING of what the configuration asks for: {first}{others}")
        }
    }
}

/// The message about a rotation, from its beginning until the former credentials are disabled.
fn rotating(credentials: &Credentials, rotation: Option<&RotationInProgress>, waits: bool) -> Option<String> {
    let Credentials { active_slot, active_kid, slots, .. } = credentials;
    if let Some(RotationInProgress { slot, kid, .. }) = rotation {
        return Some(format!(
            "login slot {slot} and key {kid} are made to take over from {active_slot} and {active_kid}"
        ));
    }
    let old = slots.iter().find(|slot| slot.slot != *active_slot)?;
    let end = old.retires_at.as_ref().map(|end| format!(" until {}", end.0)).unwrap_or_default();
    let waits = match waits {
        true => {
            "; the rotation that was asked for since then begins at that time, or sooner with a shorter spec.rotation.overlap"
        }
        false => "",
    };
    Some(format!("login slot {active_slot} and key {active_kid} have taken over; the former ones work{end}{waits}"))
}

struct Writer<'a> {
    last: Option<&'a RetailTenantStatus>,
    conditions: Vec<Condition>,
    transitions: Vec<Transition>,
    generation: Option<i64>,
    now: Timestamp,
}

impl Writer<'_> {
    fn previous(&self, type_: &str) -> Option<&Condition> {
        self.last?.conditions.iter().find(|condition| condition.type_ == type_)
    }

    fn set(&mut self, type_: &'static str, value: bool, reason: Reason, message: &str) {
        let message = shorten(message, MESSAGE_MAX);
        let status = if value { "True" } else { "False" };
        let previous = self.previous(type_);
        let same_status = previous.filter(|previous| previous.status == status);
        let since = same_status.map_or(self.now, |previous| previous.last_transition_time.0);
        // For a new tenant it is no news that nothing has drifted and nothing is suspended.
        let expected = [DRIFTED, SUSPENDED].contains(&type_) && !value && previous.is_none();
        if !expected && same_status.is_none_or(|previous| previous.reason != reason.as_str()) {
            let good = if type_ == DRIFTED { !value } else { value || type_ == SUSPENDED };
            self.transitions.push(Transition { condition: type_, good, reason, message: message.clone() });
        }
        self.push(type_, status, reason.as_str(), message, since);
    }

    /// True, unless there is a problem.
    fn set_unless(&mut self, problem: Option<&Problem>, type_: &'static str, message: &str) {
        match problem {
            None => self.set(type_, true, Reason::Reconciled, message),
            Some(problem) => self.set(type_, false, problem.reason, &problem.message),
        }
    }

    fn done(&mut self, status: &mut RetailTenantStatus, done: &Done) {
        let Done { stores, principals, credentials, rotation, last_rotation, next: _, missing, left, rotation_waits } =
            done;
        status.stores = i32::try_from(*stores).ok();
        status.principals = i32::try_from(*principals).ok();
        status.credentials = Some(credentials.clone());
        status.rotation.clone_from(rotation);
        status.last_rotation.clone_from(last_rotation);
        let ready = format!("{} and {} are served", count(*stores, "store"), count(*principals, "principal rule"));
        let of = |area: Area| left.iter().find(|problem| problem.area == area);
        self.set_unless(left.first(), READY, &ready);
        self.set_unless(of(Area::Database), DATABASE_READY, "logins, stores and context keys are in place");
        match rotating(credentials, rotation.as_ref(), *rotation_waits) {
            Some(message) => {
                let known = self.previous(SECRETS_READY).is_some_and(|last| last.message == message);
                if *rotation_waits && !known {
                    self.announce(SECRETS_READY, true, Reason::RotationInProgress, &message);
                }
                self.set(SECRETS_READY, true, Reason::RotationInProgress, &message);
            }
            None => self.set_unless(of(Area::Secrets), SECRETS_READY, "the credentials are in Key Vault and work"),
        }
        self.set(POLICY_VERIFIED, true, Reason::Reconciled, &intact(missing));
    }

    fn observed(&mut self, served: bool, observed: &Observed) {
        let Observed { database, secrets, missing } = observed;
        let differs = |steps: usize| {
            format!(
                "{} would be taken and mode is Observe: see condition Drifted; storefence-operator plan prints them, \
                 mode Enforce takes them",
                count(steps, "step")
            )
        };
        for (condition, steps) in [(READY, database + secrets), (DATABASE_READY, *database), (SECRETS_READY, *secrets)]
        {
            match steps {
                0 if served => self.set(condition, true, Reason::Reconciled, "nothing differs from the spec"),
                0 => self.keep(condition, Reason::DriftDetected),
                steps => self.set(condition, false, Reason::DriftDetected, &differs(steps)),
            }
        }
        self.set(POLICY_VERIFIED, true, Reason::Reconciled, &intact(missing));
    }

    /// Returns whether the first problem is that the object is suspended; `None` if contention is the only problem.
    fn failed(&mut self, problems: &[Problem]) -> Option<bool> {
        let first = problems.iter().find(|problem| problem.class != Class::Contention)?;
        self.set(READY, false, first.reason, &first.message);
        for (condition, area) in
            [(DATABASE_READY, Area::Database), (SECRETS_READY, Area::Secrets), (POLICY_VERIFIED, Area::Policy)]
        {
            match problems.iter().find(|problem| problem.area == area) {
                Some(problem) => self.set(condition, false, problem.reason, &problem.message),
                None => self.keep(condition, first.reason),
            }
        }
        Some(first.reason == Reason::Suspended)
    }

    /// Sets `Drifted`, its history and its events. Returns how many differences are new in the history, and how many of
    /// those were repaired.
    fn drifted(&mut self, history: &mut Vec<DriftRecord>, report: &Report) -> (usize, usize) {
        let Some(found) = &report.found else {
            self.keep(
                DRIFTED,
                if matches!(report.outcome, Outcome::Suspended) { Reason::Suspended } else { Reason::Pending },
            );
            return (0, 0);
        };
        if found.adoption_done && !found.adopted.is_empty() {
            self.record(history, DriftOutcome::Adopted, &found.adopted);
            self.announce(DATABASE_READY, true, Reason::Adopted, &format!("taken over: {}", listed(&found.adopted)));
        }
        let mended = found.repaired_changes();
        if !mended.is_empty() {
            self.record(history, DriftOutcome::Mended, mended);
            self.announce(DRIFTED, true, Reason::DriftMended, &format!("mended: {}", listed(mended)));
        }
        let open = found.open_changes();
        if !open.is_empty() {
            let outcome = if found.outcome == DriftOutcome::Reported { found.outcome } else { DriftOutcome::Failed };
            let standing = self.previous(DRIFTED).is_some_and(|last| last.status == "True");
            let last = history.first();
            let known = standing && last.is_some_and(|last| last.outcome == outcome && last.changes == bounded(&open));
            let summary = format!("{}: {}", count(open.len(), "difference"), listed(&open));
            self.set(DRIFTED, true, Reason::DriftDetected, &summary);
            if known {
                return (mended.len(), mended.len());
            }
            self.record(history, outcome, &open);
            return (mended.len() + open.len(), mended.len());
        }
        let last_mended = |last: &&Condition| last.reason == Reason::DriftMended.as_str() && last.status == "False";
        if mended.is_empty() {
            match self.previous(DRIFTED).filter(last_mended).map(|last| last.message.clone()) {
                // The last repair stays readable.
                Some(message) => self.set(DRIFTED, false, Reason::DriftMended, &message),
                None => self.set(DRIFTED, false, Reason::Reconciled, "nothing differs from the spec"),
            }
        } else {
            let previous = self.previous(DRIFTED).filter(|last| last.status == "False");
            let since = previous.map_or(self.now, |last| last.last_transition_time.0);
            let message = format!("mended at {}: {}", self.now, listed(mended));
            let message = shorten(&message, MESSAGE_MAX);
            self.push(DRIFTED, "False", Reason::DriftMended.as_str(), message, since);
        }
        (mended.len(), mended.len())
    }

    fn record(&self, history: &mut Vec<DriftRecord>, outcome: DriftOutcome, changes: &[String]) {
        history.insert(0, DriftRecord { time: Time(self.now), outcome, changes: bounded(changes) });
        history.truncate(DRIFT_HISTORY_MAX);
    }

    /// Adds an event that is no transition.
    fn announce(&mut self, condition: &'static str, good: bool, reason: Reason, message: &str) {
        self.transitions.push(Transition { condition, good, reason, message: shorten(message, MESSAGE_MAX) });
    }

    /// Keeps a condition that this pass learnt nothing about, with the generation that it was observed for.
    fn keep(&mut self, type_: &'static str, because: Reason) {
        match self.previous(type_).cloned() {
            Some(previous) if previous.status != "Unknown" => self.conditions.push(previous),
            previous => {
                let since = previous.map_or(self.now, |previous| previous.last_transition_time.0);
                let message = match because {
                    Reason::Pending => "not looked at yet".to_owned(),
                    because => format!("not looked at yet, because of {}", because.as_str()),
                };
                self.push(type_, "Unknown", Reason::Pending.as_str(), message, since);
            }
        }
    }

    fn push(&mut self, type_: &str, status: &str, reason: &str, message: String, since: Timestamp) {
        self.conditions.push(Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            last_transition_time: Time(since),
            observed_generation: self.generation,
        });
    }
}

/// The first few changes, for a message.
fn listed(changes: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = changes.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join("; ");
    match changes.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}

/// The changes within the bounds of the history.
fn bounded(changes: &[String]) -> Vec<String> {
    let mut kept: Vec<String> =
        changes.iter().take(CHANGES_MAX).map(|change| shorten(change, CHANGE_MAX - 4)).collect();
    if let (Some(last), true) = (kept.last_mut(), changes.len() > CHANGES_MAX) {
        *last = format!("and {} more", changes.len() - CHANGES_MAX + 1);
    }
    kept
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

fn shorten(message: &str, max: usize) -> String {
    let end = message.char_indices().map(|(at, _)| at).find(|at| *at >= max);
    end.map_or_else(|| message.to_owned(), |end| format!("{}…", &message[..end]))
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
