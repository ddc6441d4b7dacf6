//! Rotation against a model of vault and database: whatever crashes, the pairs that the status names are valid, there
//! are two at most, and in the end there is one.

use proptest::prelude::*;
use serde_json::json;
use storefence_tenancy::{
    RetailTenantSpec, RetailTenantStatus, TenantRules,
    credentials::{context_secret_name, database_secret_name},
    resource::{ContextKeyVersion, LoginSlot},
};

use super::*;
use crate::plan::{
    action::{DatabaseAction, Plan, SecretAction},
    desired::{Desired, Input},
    diff::diff,
    model::{UID, take},
    state::{Observed, SecretContent, SecretState},
};

const PERIOD: i64 = 100;
const OVERLAP: i64 = 20;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// The operator was killed.
struct Crash;

struct World {
    rules: TenantRules,
    status: RetailTenantStatus,
    observed: Observed,
    annotation: Option<String>,
    now: i64,
    switches: usize,
}

impl World {
    fn new() -> Self {
        let spec: RetailTenantSpec = serde_json::from_value(json!({
            "tenantId": "zava", "entra": {"tenantId": "7d1c9a52-3b64-4f0e-8c21-5a9e0b7f4d13"},
            "databaseRef": {"name": "retail"}, "keyVaultRef": {"name": "main"},
            "stores": [{"name": "Seattle", "id": "f47ac10b-58cc-4372-a567-0e02b2c3d479"}],
        }))
        .unwrap();
        let rules = TenantRules::compile(&spec).unwrap();
        let (status, observed) = (RetailTenantStatus::default(), Observed::default());
        let mut world = Self { rules, status, observed, annotation: None, now: 1_000, switches: 0 };
        assert!(world.pass(usize::MAX).is_ok());
        world
    }

    fn view(&self) -> View<'_> {
        View {
            credentials: self.status.credentials.as_ref(),
            in_progress: self.status.rotation.as_ref(),
            last: self.status.last_rotation.as_ref(),
            annotation: self.annotation.as_deref(),
            period: Duration::from_secs(PERIOD as u64),
            overlap: Duration::from_secs(OVERLAP as u64),
        }
    }

    fn desired(&self, step: &Step) -> Desired {
        Desired::compute(&Input {
            rules: &self.rules,
            display_name: None,
            statement_timeout: Duration::from_secs(5),
            connection_limit: None,
            adopt: false,
            owner_uid: UID,
            credentials: self.status.credentials.as_ref(),
            step,
            role_salt: b"salt",
        })
    }

    /// One pass in the order of the real one, killed after `life` effects.
    fn pass(&mut self, life: usize) -> Result<(), Crash> {
        let mut left = life;
        let mut effect = move || {
            left = left.checked_sub(1).ok_or(Crash)?;
            Ok::<(), Crash>(())
        };
        let step = self.view().step(at(self.now));
        let desired = self.desired(&step);
        let plan = diff(&desired, &self.observed).unwrap();
        for action in plan.secrets {
            effect()?;
            let written = if let SecretAction::WriteLogin { slot, .. } = &action { Some(*slot) } else { None };
            take(&desired, &mut self.observed, &Plan { secrets: vec![action], ..Plan::default() });
            // The database has the former password until a step sets this one.
            let role = written.and_then(|slot| self.observed.database.roles.get_mut(&desired.roles[&slot].name));
            if let Some(role) = role {
                role.password_works = Some(false);
            }
            self.check();
        }
        if !plan.database.is_empty() {
            effect()?;
            let ended = plan.database.iter().any(|action| matches!(action, DatabaseAction::RemoveContextKey { .. }));
            assert!(!ended || step == Step::Retire, "{step:?} removes a key");
            take(&desired, &mut self.observed, &Plan { database: plan.database, ..Plan::default() });
            self.check();
        }
        assert_eq!(diff(&desired, &self.observed).unwrap(), Plan::default());
        match &step {
            Step::Begin(to) => self.disable(&[to.slot], &[to.kid], &mut effect)?,
            Step::Switch(to) => {
                self.check_pair(to.slot, to.kid);
                self.switches += 1;
            }
            Step::Retire => {
                let Credentials { active_slot, active_kid, slots, context_keys } =
                    self.status.credentials.clone().unwrap();
                let slots: Vec<_> = slots.iter().map(|slot| slot.slot).filter(|slot| *slot != active_slot).collect();
                let kids: Vec<_> = context_keys.iter().map(|key| key.kid).filter(|kid| *kid != active_kid).collect();
                self.disable(&slots, &kids, &mut effect)?;
            }
            Step::Wait(_) | Step::Overlap(_) => {}
        }
        self.now += 1;
        effect()?;
        self.write_status(&step, &desired);
        self.check();
        Ok(())
    }

    fn disable(
        &mut self,
        slots: &[Slot],
        kids: &[u32],
        effect: &mut impl FnMut() -> Result<(), Crash>,
    ) -> Result<(), Crash> {
        let id = self.rules.tenant_id().clone();
        let logins = slots.iter().map(|slot| database_secret_name(&id, *slot));
        for name in logins.chain(kids.iter().map(|kid| context_secret_name(&id, *kid))) {
            effect()?;
            if let Some(SecretState::Live { content, .. }) = self.observed.secrets.get_mut(&name) {
                *content = SecretContent::Unusable;
            }
            self.check();
        }
        Ok(())
    }

    fn write_status(&mut self, step: &Step, desired: &Desired) {
        let now = at(self.now);
        let Record { active, end_of_old, in_progress, last } = self.view().record(step, now);
        let (active_slot, active_kid) = active.unwrap_or((desired.active_slot, desired.active_kid));
        let slots = desired.roles.iter().filter(|(_, role)| role.login).map(|(slot, role)| LoginSlot {
            slot: *slot,
            login: role.name.clone(),
            secret_name: role.secret.clone(),
            secret_version: String::new(),
            set_at: Time(now),
            retires_at: end_of_old.clone().filter(|_| *slot != active_slot),
        });
        let context_keys = desired.keys.iter().map(|(kid, name)| ContextKeyVersion {
            kid: *kid,
            secret_name: name.clone(),
            secret_version: String::new(),
            created_at: Time(now),
            not_after: end_of_old.clone().filter(|_| *kid != active_kid),
        });
        let credentials =
            Credentials { active_slot, active_kid, slots: slots.collect(), context_keys: context_keys.collect() };
        self.status.credentials = Some(credentials);
        self.status.rotation = in_progress;
        self.status.last_rotation = last;
    }

    /// What must hold at every moment.
    fn check(&self) {
        let database = &self.observed.database;
        assert!(database.keys.len() <= 2, "{:?}", database.keys.keys());
        let Some(Credentials { active_slot, active_kid, slots, context_keys }) = &self.status.credentials else {
            return;
        };
        self.check_pair(*active_slot, *active_kid);
        let old_slot = slots.iter().find(|slot| slot.slot != *active_slot);
        let old_key = context_keys.iter().find(|key| key.kid != *active_kid);
        if let (Some(slot), Some(key)) = (old_slot, old_key)
            && slot.retires_at.as_ref().unwrap().0.as_second() > self.now
        {
            self.check_pair(slot.slot, key.kid);
        }
    }

    /// Whether a caller with this pair is served now.
    fn check_pair(&self, slot: Slot, kid: u32) {
        let Observed { database, secrets, .. } = &self.observed;
        let role =
            &database.roles[&storefence_tenancy::credentials::login_role_name(b"salt", self.rules.tenant_id(), slot)];
        assert!(role.attributes.login && role.password_works == Some(true), "{slot}: {role:?}");
        let login = &secrets[&database_secret_name(self.rules.tenant_id(), slot)];
        assert!(matches!(login, SecretState::Live { content: SecretContent::Login, .. }), "{slot}: {login:?}");
        let row = &database.keys[&kid];
        assert!(row.not_after.is_none_or(|end| end > self.now), "{kid}: {row:?} at {}", self.now);
        let key = &secrets[&context_secret_name(self.rules.tenant_id(), kid)];
        assert!(matches!(key, SecretState::Live { content: SecretContent::ContextKey { fingerprint }, .. }
            if *fingerprint == row.fingerprint));
    }

    /// Passes without a crash, each when it is due, until nothing is due now.
    fn settle(&mut self) {
        for _ in 0..12 {
            assert!(self.pass(usize::MAX).is_ok());
            match self.view().step(at(self.now)) {
                Step::Wait(_) => return self.check_settled(),
                Step::Overlap(end) => self.now = self.now.max(end.as_second()),
                _ => {}
            }
        }
        panic!("no end: {:?}", self.status);
    }

    fn check_settled(&self) {
        let credentials = self.status.credentials.as_ref().unwrap();
        assert_eq!((credentials.slots.len(), credentials.context_keys.len()), (1, 1));
        assert_eq!(self.status.rotation, None);
        let handled = self.status.last_rotation.as_ref().and_then(|last| last.annotation.as_ref());
        assert!(self.annotation.is_none() || self.annotation.as_ref() == handled);
        let Observed { database, secrets, .. } = &self.observed;
        assert_eq!(database.keys.keys().collect::<Vec<_>>(), [&credentials.active_kid]);
        assert_eq!(database.roles.values().filter(|role| role.attributes.login).count(), 1);
        let usable =
            |state: &&SecretState| !matches!(state, SecretState::Live { content: SecretContent::Unusable, .. });
        assert_eq!(secrets.values().filter(usable).count(), 2, "{secrets:?}");
    }
}

#[test]
fn an_annotation_leads_to_a_new_pair_and_the_old_one_ends() {
    let mut world = World::new();
    assert_eq!(world.view().step(at(world.now)), Step::Wait(Some(at(1_001 + PERIOD))));
    world.annotation = Some("now".to_owned());
    let Step::Begin(to) = world.view().step(at(world.now)) else { panic!("not asked") };
    assert_eq!((to.slot, to.kid), (Slot::B, 2));
    world.settle();
    let credentials = world.status.credentials.as_ref().unwrap();
    assert_eq!((credentials.active_slot, credentials.active_kid, world.switches), (Slot::B, 2, 1));
    assert!(matches!(world.view().step(at(world.now)), Step::Wait(Some(_))), "a value is handled once");
}

#[test]
fn age_leads_to_a_new_pair() {
    let mut world = World::new();
    world.now = 1_000 + PERIOD;
    assert!(matches!(world.view().step(at(world.now)), Step::Wait(_)));
    world.now += 1;
    world.settle();
    assert_eq!(world.switches, 1);
    assert_eq!(world.status.credentials.as_ref().unwrap().active_kid, 2);
}

#[test]
fn a_request_during_the_overlap_waits_for_its_end() {
    let mut world = World::new();
    world.annotation = Some("one".to_owned());
    assert!(world.pass(usize::MAX).is_ok() && world.pass(usize::MAX).is_ok());
    world.annotation = Some("two".to_owned());
    let Step::Overlap(end) = world.view().step(at(world.now)) else { panic!("{:?}", world.status) };
    assert_eq!(end, at(world.now + OVERLAP + 1));
    world.settle_and_again();
    assert_eq!(world.switches, 2);
}

impl World {
    fn settle_and_again(&mut self) {
        for _ in 0..2 {
            if self.view().next(at(self.now)).is_some_and(|next| next <= at(self.now + OVERLAP + 1)) {
                self.settle();
            }
        }
    }
}

#[test]
fn a_new_tenant_takes_its_annotation_for_handled() {
    let view = View { annotation: Some("first"), ..World::new().view_without_status() };
    let record = view.record(&Step::Wait(None), at(5));
    assert_eq!(record.last, Some(LastRotation { annotation: Some("first".to_owned()), time: Time(at(5)) }));
}

impl World {
    fn view_without_status(&self) -> View<'static> {
        let View { period, overlap, .. } = self.view();
        View { credentials: None, in_progress: None, last: None, annotation: None, period, overlap }
    }
}

#[test]
fn long_values_are_recorded_by_their_digest() {
    assert_eq!(recorded("2026-01-01"), "2026-01-01");
    let (one, other) = ("x".repeat(1_000), format!("{}y", "x".repeat(999)));
    assert!(recorded(&one).len() < ANNOTATION_MAX && recorded(&one) != recorded(&other));
}

#[test]
fn key_ids_start_over_after_the_largest() {
    let mut world = World::new();
    world.status.credentials.as_mut().unwrap().active_kid = KID_MAX;
    world.status.credentials.as_mut().unwrap().context_keys.clear();
    world.annotation = Some("now".to_owned());
    let Step::Begin(to) = world.view().step(at(world.now)) else { panic!("not asked") };
    assert_eq!(to.kid, 1);
}

proptest! {
    #[test]
    fn whatever_crashes_the_pairs_in_force_stay_valid_and_the_rotation_ends(
        events in prop::collection::vec((0_i64..40, 0_usize..14, prop::option::of(0_u8..4)), 0..40)
    ) {
        let mut world = World::new();
        for (wait, life, annotation) in events {
            world.now += wait;
            if let Some(annotation) = annotation {
                world.annotation = Some(annotation.to_string());
            }
            let _ = world.pass(life);
        }
        world.settle();
    }
}

#[test]
fn a_shorter_overlap_shortens_the_one_under_way_and_a_longer_one_does_not_stretch_it() {
    let mut world = World::new();
    world.annotation = Some("one".to_owned());
    while world.switches == 0 {
        assert!(world.pass(usize::MAX).is_ok());
    }
    let now = at(world.now);
    let overlap = |seconds: u64| View { overlap: Duration::from_secs(seconds), ..world.view() }.step(now);
    let Step::Overlap(end) = overlap(OVERLAP as u64) else { panic!("no overlap") };
    assert_eq!(overlap(OVERLAP as u64 * 100), Step::Overlap(end));
    let Step::Overlap(sooner) = overlap(5) else { panic!("no overlap") };
    assert!(sooner < end && sooner > now);
    let later = at(world.now + 7);
    assert_eq!(View { overlap: Duration::from_secs(5), ..world.view() }.step(later), Step::Retire);
    // Another rotation that is asked for meanwhile begins when this one is over.
    let annotation = Some("two");
    let asked = View { annotation, ..world.view() };
    assert!(asked.is_asked_for() && !world.view().is_asked_for());
    assert_eq!(asked.step(now), Step::Overlap(end));
}
