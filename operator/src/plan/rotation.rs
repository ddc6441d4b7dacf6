//! From old credentials to new ones: which step is due, as a pure function of spec, status and time.
//!
//! Login slot and context key move together, one step per pass, and the status records each step before the next one:
//!
//! 1. [`Step::Begin`]: secrets that an earlier rotation left under the names to come are disabled; the status says where
//!    this rotation leads.
//! 2. [`Step::Switch`]: both logins and both keys are wanted. They are made, the new pair is proven by a call through
//!    the fence, and the status names it as the active one, with the end of the old.
//! 3. [`Step::Overlap`]: both pairs are kept in order until that end. The database knows the old key's end.
//! 4. [`Step::Retire`]: only the active pair is wanted. The old login loses LOGIN, password and sessions, the old key its
//!    row, both their secrets; then the status forgets them.
//!
//! Repeating a step changes nothing: an operator that is killed within one takes it again. The active pair is never
//! touched, and a new rotation waits for the end of the former one: there are two pairs at most.

use std::time::Duration;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use sha2::{Digest, Sha256};
use storefence_tenancy::{
    RetailTenant,
    credentials::Slot,
    resource::{Credentials, LastRotation, Mode, ROTATE_ANNOTATION, RotationInProgress},
};

/// Longest value of the annotation that the status repeats. It holds the digest of a longer one.
const ANNOTATION_MAX: usize = 128;
/// Largest key id. Counting then starts over: the keys with those ids are long gone.
const KID_MAX: u32 = 999_999;

/// What a rotation asks for at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, before this moment; `None`: the tenant has no credentials yet.
    Wait(Option<Timestamp>),
    /// Record where the rotation leads.
    Begin(RotationInProgress),
    /// Make and prove the new pair, and switch to it.
    Switch(RotationInProgress),
    /// Keep both pairs until this moment.
    Overlap(Timestamp),
    /// End the old pair.
    Retire,
}

impl Step {
    /// Whether the step may only be taken from the newest status.
    #[must_use]
    pub const fn needs_latest_status(&self) -> bool {
        matches!(self, Self::Begin(_) | Self::Switch(_) | Self::Retire)
    }
}

/// The fields of an object that decide about its rotation.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// `status.credentials`.
    pub credentials: Option<&'a Credentials>,
    /// `status.rotation`.
    pub in_progress: Option<&'a RotationInProgress>,
    /// `status.lastRotation`.
    pub last: Option<&'a LastRotation>,
    /// Value of the annotation.
    pub annotation: Option<&'a str>,
    /// `spec.rotation.period`.
    pub period: Duration,
    /// `spec.rotation.overlap`.
    pub overlap: Duration,
}

impl<'a> View<'a> {
    /// Reads an object.
    #[must_use]
    pub fn of(tenant: &'a RetailTenant) -> Self {
        let status = tenant.status.as_ref();
        let annotations = tenant.metadata.annotations.as_ref();
        Self {
            credentials: status.and_then(|status| status.credentials.as_ref()),
            in_progress: status.and_then(|status| status.rotation.as_ref()),
            last: status.and_then(|status| status.last_rotation.as_ref()),
            annotation: annotations.and_then(|all| all.get(ROTATE_ANNOTATION)).map(String::as_str),
            period: tenant.spec.rotation.period(),
            overlap: tenant.spec.rotation.overlap(),
        }
    }

    /// The step that is due.
    #[must_use]
    pub fn step(&self, now: Timestamp) -> Step {
        let Some(credentials) = self.credentials else { return Step::Wait(None) };
        if let Some(end) = end_of_old(credentials) {
            // A shorter overlap in the spec shortens the one under way. A longer one does not extend it: the status has
            // announced its end.
            let end = self.last.map_or(end, |last| end.min(end_of_overlap(last.time.0, self.overlap)));
            return if now < end { Step::Overlap(end) } else { Step::Retire };
        }
        if let Some(in_progress) = self.in_progress {
            return Step::Switch(in_progress.clone());
        }
        let due = self.due();
        if self.is_asked_for() || due.is_some_and(|due| due <= now) {
            return Step::Begin(RotationInProgress {
                slot: credentials.active_slot.other(),
                kid: next_kid(credentials.active_kid),
                annotation: self.annotation.map(recorded),
                started_at: Time(now),
            });
        }
        Step::Wait(due)
    }

    /// Whether the annotation asks for a rotation that has not switched credentials yet.
    #[must_use]
    pub fn is_asked_for(&self) -> bool {
        let handled = self.last.and_then(|last| last.annotation.as_deref());
        let asked = self.annotation.map(recorded);
        asked.as_deref().is_some_and(|asked| Some(asked) != handled)
    }

    /// When the credentials in force reach the age of `spec.rotation.period`.
    #[must_use]
    pub fn due(&self) -> Option<Timestamp> {
        Some(later(in_force_since(self.credentials?, self.last)?, self.period))
    }

    /// When the next step is due; `None`: not before the status changes.
    #[must_use]
    pub fn next(&self, now: Timestamp) -> Option<Timestamp> {
        match self.step(now) {
            Step::Wait(due) => due,
            Step::Overlap(end) => Some(end),
            Step::Begin(_) | Step::Switch(_) | Step::Retire => Some(now),
        }
    }

    /// What the status says once a step is done.
    #[must_use]
    pub fn record(&self, step: &Step, now: Timestamp) -> Record {
        let last = match (step, self.credentials) {
            (Step::Switch(to), _) => Some(LastRotation { annotation: to.annotation.clone(), time: Time(now) }),
            // A new tenant has new credentials: an annotation that came with it asks for no more.
            (_, None) => {
                self.annotation.map(|value| LastRotation { annotation: Some(recorded(value)), time: Time(now) })
            }
            _ => self.last.cloned(),
        };
        let (active, end_of_old) = match (step, self.credentials) {
            (Step::Switch(to), _) => (Some((to.slot, to.kid)), Some(end_of_overlap(now, self.overlap))),
            (step, credentials) => {
                let active = credentials.map(|credentials| (credentials.active_slot, credentials.active_kid));
                (active, if let Step::Overlap(end) = step { Some(*end) } else { None })
            }
        };
        let in_progress = if let Step::Begin(to) = step { Some(to.clone()) } else { None };
        Record { active, end_of_old: end_of_old.map(Time), in_progress, last }
    }
}

/// Where a tenant's rotation stands at one moment: computed once for a pass, so that all of it takes the same step.
#[derive(Clone, Debug)]
pub struct Rotation<'a> {
    /// What the step follows from.
    pub view: View<'a>,
    /// The step that is due.
    pub step: Step,
}

impl<'a> Rotation<'a> {
    /// The step that is due for a tenant at this moment.
    #[must_use]
    pub fn at(tenant: &'a RetailTenant, now: Timestamp) -> Self {
        let view = View::of(tenant);
        let step = match view.step(now) {
            // Mode Observe begins no rotation.
            Step::Begin(_) if tenant.spec.mode == Mode::Observe => Step::Wait(None),
            step => step,
        };
        Self { view, step }
    }
}

/// What a step leaves in the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The pair in force; `None` for a tenant that had none.
    pub active: Option<(Slot, u32)>,
    /// End of every other pair.
    pub end_of_old: Option<Time>,
    /// `status.rotation`.
    pub in_progress: Option<RotationInProgress>,
    /// `status.lastRotation`.
    pub last: Option<LastRotation>,
}

/// When the credentials in force took over, or were made for a new tenant.
#[must_use]
pub fn in_force_since(credentials: &Credentials, last: Option<&LastRotation>) -> Option<Timestamp> {
    let slot = credentials.slots.iter().find(|slot| slot.slot == credentials.active_slot);
    last.map(|last| last.time.0).or_else(|| slot.map(|slot| slot.set_at.0))
}

/// When the former pair ends, if there is one: the later end of login and key. A part without an end, which no step
/// leaves behind, ends at once.
fn end_of_old(credentials: &Credentials) -> Option<Timestamp> {
    let Credentials { active_slot, active_kid, slots, context_keys } = credentials;
    let slots = slots.iter().filter(|slot| slot.slot != *active_slot).map(|slot| slot.retires_at.as_ref());
    let keys = context_keys.iter().filter(|key| key.kid != *active_kid).map(|key| key.not_after.as_ref());
    slots.chain(keys).map(|end| end.map_or(Timestamp::UNIX_EPOCH, |end| end.0)).max()
}

/// One second more than the overlap: the recorded moment of the switch is rounded down, and an overlap must never be
/// shorter than the spec says.
fn end_of_overlap(switch: Timestamp, overlap: Duration) -> Timestamp {
    later(switch, overlap.saturating_add(Duration::from_secs(1)))
}

/// The key id after this one.
#[must_use]
pub const fn next_kid(kid: u32) -> u32 {
    kid % KID_MAX + 1
}

fn later(time: Timestamp, by: Duration) -> Timestamp {
    let seconds = i64::try_from(by.as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_second(time.as_second().saturating_add(seconds)).unwrap_or(Timestamp::MAX)
}

fn recorded(annotation: &str) -> String {
    if annotation.len() <= ANNOTATION_MAX {
        return annotation.to_owned();
    }
    let digest: String = Sha256::digest(annotation).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digest}")
}

/// The logins and keys that a step wants in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pairs {
    /// Slots that may log in.
    pub slots: Vec<Slot>,
    /// Key ids, each with its end.
    pub kids: Vec<(u32, Option<Timestamp>)>,
}

impl Pairs {
    /// The pairs of a tenant at a step.
    #[must_use]
    pub fn at(step: &Step, credentials: &Credentials) -> Self {
        let Credentials { active_slot, active_kid, context_keys, slots } = credentials;
        let mut pairs = Self { slots: vec![*active_slot], kids: vec![(*active_kid, None)] };
        match step {
            Step::Switch(RotationInProgress { slot, kid, .. }) => {
                pairs.slots.push(*slot);
                pairs.kids.push((*kid, None));
            }
            Step::Overlap(end) => {
                pairs.slots.extend(slots.iter().map(|slot| slot.slot).filter(|slot| slot != active_slot));
                let old = context_keys.iter().filter(|key| key.kid != *active_kid);
                pairs.kids.extend(old.map(|key| (key.kid, Some(*end))));
            }
            Step::Wait(_) | Step::Begin(_) | Step::Retire => {}
        }
        pairs
    }
}

#[cfg(test)]
#[path = "rotation_tests.rs"]
mod tests;
