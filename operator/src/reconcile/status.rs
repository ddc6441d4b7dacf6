//! The status that follows from a pass: a pure function of the last status and the outcome.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use storefence_tenancy::{
    RetailTenantStatus,
    resource::{Credentials, LastRotation, RotationInProgress},
};

use crate::errors::{Area, Class, Failure, Reason};

/// The tenant is served.
pub const READY: &str = "Ready";
/// Roles, rows and keys in the database are in place.
pub const DATABASE_READY: &str = "DatabaseReady";
/// The fence itself is as the migrations made it.
pub const POLICY_VERIFIED: &str = "PolicyVerified";
/// All conditions.
pub const CONDITIONS: [&str; 4] = [READY, DATABASE_READY, SECRETS_READY, POLICY_VERIFIED];
/// The secrets are in the vault.
pub const SECRETS_READY: &str = "SecretsReady";

/// Longest message of a condition; the API server's limit is 32,768.
const MESSAGE_MAX: usize = 1024;

/// What a pass came to.
#[derive(Debug)]
pub enum Outcome {
    /// All is in place.
    Done(Done),
    /// At least one failure; the first one decides.
    Failed(Vec<Failure>),
}

/// What is in place.
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
    /// When rotation has something to do next.
    pub next: Option<Timestamp>,
}

/// Times in Kubernetes objects have whole seconds; with more, the object read back would never equal the one written.
#[must_use]
pub fn whole_second(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// A condition that changed its status or its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Type of the condition.
    pub condition: &'static str,
    /// Whether it is True now.
    pub good: bool,
    /// Why.
    pub reason: Reason,
    /// For people.
    pub message: String,
}

/// Computes the next status and the transitions that deserve an event; `None` where the outcome says nothing about the
/// tenant. A status equal to `last` must not be written.
#[must_use]
pub fn next(
    last: Option<&RetailTenantStatus>,
    outcome: &Outcome,
    generation: Option<i64>,
    now: Timestamp,
) -> Option<(RetailTenantStatus, Vec<Transition>)> {
    let mut status = last.cloned().unwrap_or_default();
    let mut writer = Writer { last, conditions: Vec::new(), transitions: Vec::new(), generation, now };
    match outcome {
        Outcome::Done(Done { stores, principals, credentials, rotation, last_rotation, next: _ }) => {
            status.stores = i32::try_from(*stores).ok();
            status.principals = i32::try_from(*principals).ok();
            status.credentials = Some(credentials.clone());
            status.rotation.clone_from(rotation);
            status.last_rotation.clone_from(last_rotation);
            let ready = format!("{} and {} are served", count(*stores, "store"), count(*principals, "principal rule"));
            writer.set(READY, true, Reason::Reconciled, &ready);
            writer.set(DATABASE_READY, true, Reason::Reconciled, "logins, stores and context keys are in place");
            match rotating(credentials, rotation.as_ref()) {
                Some(message) => writer.set(SECRETS_READY, true, Reason::RotationInProgress, &message),
                None => {
                    writer.set(SECRETS_READY, true, Reason::Reconciled, "the credentials are in Key Vault and work")
                }
            }
            let intact = "policies, grants, functions and roles are as the migrations made them";
            writer.set(POLICY_VERIFIED, true, Reason::Reconciled, intact);
        }
        Outcome::Failed(failures) => {
            let first = failures.iter().find(|failure| failure.class() != Class::Contention)?;
            writer.set(READY, false, first.reason(), &first.to_string());
            for (condition, area) in
                [(DATABASE_READY, Area::Database), (SECRETS_READY, Area::Secrets), (POLICY_VERIFIED, Area::Policy)]
            {
                match failures.iter().find(|failure| failure.area() == area) {
                    Some(failure) => writer.set(condition, false, failure.reason(), &failure.to_string()),
                    None => writer.keep(condition, first.reason()),
                }
            }
        }
    }
    let Writer { conditions, transitions, .. } = writer;
    status.conditions = conditions;
    status.observed_generation = generation;
    Some((status, transitions))
}

/// What to tell of a rotation until the former credentials are disabled.
fn rotating(credentials: &Credentials, rotation: Option<&RotationInProgress>) -> Option<String> {
    let Credentials { active_slot, active_kid, slots, .. } = credentials;
    if let Some(RotationInProgress { slot, kid, .. }) = rotation {
        return Some(format!(
            "login slot {slot} and key {kid} are made to take over from {active_slot} and {active_kid}"
        ));
    }
    let old = slots.iter().find(|slot| slot.slot != *active_slot)?;
    let end = old.retires_at.as_ref().map(|end| format!(" until {}", end.0)).unwrap_or_default();
    Some(format!("login slot {active_slot} and key {active_kid} have taken over; the former ones work{end}"))
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

    fn set(&mut self, type_: &'static str, good: bool, reason: Reason, message: &str) {
        let message = shorten(message);
        let status = if good { "True" } else { "False" };
        let previous = self.previous(type_);
        let same_status = previous.filter(|previous| previous.status == status);
        let since = same_status.map_or(self.now, |previous| previous.last_transition_time.0);
        if same_status.is_none_or(|previous| previous.reason != reason.as_str()) {
            let message = message.clone();
            self.transitions.push(Transition { condition: type_, good, reason, message });
        }
        self.push(type_, status, reason.as_str(), message, since);
    }

    /// A condition that this pass learnt nothing about stays as it was.
    fn keep(&mut self, type_: &'static str, because: Reason) {
        match self.previous(type_).cloned() {
            Some(previous) if previous.status != "Unknown" => {
                let since = previous.last_transition_time.0;
                self.push(type_, &previous.status, &previous.reason, previous.message, since);
            }
            previous => {
                let since = previous.map_or(self.now, |previous| previous.last_transition_time.0);
                let message = format!("not looked at yet, because of {}", because.as_str());
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

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

fn shorten(message: &str) -> String {
    let end = message.char_indices().map(|(at, _)| at).find(|at| *at >= MESSAGE_MAX);
    end.map_or_else(|| message.to_owned(), |end| format!("{}…", &message[..end]))
}

#[cfg(test)]
mod tests {
    use storefence_tenancy::credentials::Slot;

    use super::*;

    fn done() -> Outcome {
        let credentials = Credentials { active_slot: Slot::A, active_kid: 1, slots: vec![], context_keys: vec![] };
        Outcome::Done(Done { stores: 1, principals: 2, credentials, rotation: None, last_rotation: None, next: None })
    }

    fn failed() -> Outcome {
        Outcome::Failed(vec![Failure::DatabaseNotConfigured("x".to_owned())])
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn find<'a>(status: &'a RetailTenantStatus, type_: &str) -> &'a Condition {
        status.conditions.iter().find(|condition| condition.type_ == type_).unwrap()
    }

    #[test]
    fn a_second_equal_outcome_changes_nothing() {
        for outcome in [done(), failed()] {
            let (first, events) = next(None, &outcome, Some(1), at(10)).unwrap();
            assert!(!events.is_empty());
            let (second, events) = next(Some(&first), &outcome, Some(1), at(20)).unwrap();
            assert_eq!(first, second);
            assert_eq!(events, []);
        }
    }

    #[test]
    fn a_failure_keeps_the_credentials_and_what_is_known() {
        let (ready, _) = next(None, &done(), Some(1), at(10)).unwrap();
        let (broken, events) = next(Some(&ready), &failed(), Some(1), at(20)).unwrap();
        assert_eq!(broken.credentials, ready.credentials);
        assert_eq!(find(&broken, READY).status, "False");
        assert_eq!(find(&broken, READY).reason, "DatabaseNotConfigured");
        assert_eq!(find(&broken, READY).last_transition_time.0, at(20));
        assert_eq!(find(&broken, DATABASE_READY).status, "False");
        assert_eq!(find(&broken, SECRETS_READY).status, "True");
        assert_eq!(events.iter().map(|event| event.condition).collect::<Vec<_>>(), [READY, DATABASE_READY]);
        let (mended, events) = next(Some(&broken), &done(), Some(1), at(30)).unwrap();
        assert_eq!(mended.conditions.iter().filter(|condition| condition.status == "True").count(), 4);
        assert_eq!(events.len(), 2);
    }

    #[test]
    fn a_new_tenant_that_fails_says_what_is_not_known() {
        let (status, _) = next(None, &failed(), Some(1), at(10)).unwrap();
        assert_eq!(find(&status, SECRETS_READY).status, "Unknown");
        assert_eq!(find(&status, SECRETS_READY).reason, "Pending");
        assert_eq!(status.credentials, None);
    }

    #[test]
    fn contention_is_not_told() {
        let (ready, _) = next(None, &done(), Some(1), at(10)).unwrap();
        let contention = Outcome::Failed(vec![Failure::LockContention("zava".to_owned())]);
        assert_eq!(next(Some(&ready), &contention, Some(2), at(20)), None);
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        assert_eq!(shorten("short"), "short");
        assert!(shorten(&"ä".repeat(2000)).len() <= MESSAGE_MAX + "…".len() + 1);
    }
}
