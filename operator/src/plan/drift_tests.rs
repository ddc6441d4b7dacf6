//! Drift is exactly what was changed behind the operator's back: every such change is reported, and no spec, rotation
//! or adoption is mistaken for one.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use proptest::prelude::*;
use storefence_tenancy::credentials::Slot;

use super::{Before, Found, all};
use crate::plan::{
    desired::Desired,
    diff::diff,
    model::{converge, desired, specs, spoil, take},
    rotation::Step,
    state::{Observed, SecretState},
};
use storefence_tenancy::resource::{DriftOutcome, RotationInProgress};

const WAIT: Step = Step::Wait(None);

fn before(step: &Step, same_spec: bool) -> Before<'_> {
    Before { served: true, same_spec, step }
}

fn changes(desired: &Desired, observed: &Observed, before: &Before<'_>) -> Vec<String> {
    Found::of(&diff(desired, observed).unwrap(), desired, before).changes
}

#[test]
fn a_new_tenant_has_nothing_to_drift_from() {
    let before = Before { served: false, same_spec: false, step: &WAIT };
    assert!(changes(&desired(), &Observed::default(), &before).is_empty());
}

/// From slot a and key 1 to slot b and key 2, step by step, with nothing changed by hand.
#[test]
fn a_rotation_is_not_drift() {
    let role = |desired: &mut Desired, slot: Slot, login: bool| desired.roles.get_mut(&slot).unwrap().login = login;
    let mut observed = converge(&desired(), &Observed::default());
    let to = RotationInProgress { slot: Slot::B, kid: 2, annotation: None, started_at: Time(Timestamp::UNIX_EPOCH) };
    let mut wanted = desired();
    let mut steps = Vec::new();
    let mut step = |wanted: &Desired, step: Step, observed: &mut Observed| {
        let plan = diff(wanted, observed).unwrap();
        steps.push(all(&plan).len());
        assert_eq!(Found::of(&plan, wanted, &before(&step, true)).changes, Vec::<String>::new(), "{step:?}");
        // A change that somebody made to the other login at that moment is drift.
        let mut spoiled = observed.clone();
        spoiled.database.roles.values_mut().for_each(|row| row.attributes.createdb = true);
        let reported = changes(wanted, &spoiled, &before(&step, true));
        assert_eq!(reported.len(), 2, "{step:?}: {reported:?}");
        assert!(reported.iter().all(|change| change.ends_with("set NOCREATEDB")), "{reported:?}");
        take(wanted, observed, &plan);
    };
    step(&wanted, Step::Begin(to.clone()), &mut observed);
    role(&mut wanted, Slot::B, true);
    wanted.keys.insert(2, "sf-zava-context-2".to_owned());
    // An earlier rotation may have left secrets under the next names.
    observed.secrets.insert("sf-zava-db-b".into(), SecretState::SoftDeleted { owner: Some("earlier".into()) });
    step(&wanted, Step::Switch(to), &mut observed);
    (wanted.active_slot, wanted.active_kid) = (Slot::B, 2);
    wanted.key_ends.insert(1, 1000);
    step(&wanted, Step::Overlap(Timestamp::UNIX_EPOCH), &mut observed);
    role(&mut wanted, Slot::A, false);
    wanted.keys.remove(&1);
    wanted.key_ends.clear();
    step(&wanted, Step::Retire, &mut observed);
    step(&wanted, WAIT, &mut observed);
    assert!(steps[1] >= 5 && steps[2] == 1 && steps[3] >= 2, "the rotation had steps of its own: {steps:?}");
}

#[test]
fn what_is_taken_over_is_told_as_that() {
    let mut observed = converge(&desired(), &Observed::default());
    observed.database.roles.get_mut("sf_000000000000_b").unwrap().comment = None;
    observed.database.roles.get_mut("sf_000000000000_b").unwrap().attributes.createdb = true;
    observed.database.roles.get_mut("sf_000000000000_a").unwrap().attributes.createrole = true;
    let wanted = Desired { adopt: true, ..desired() };
    let mut found = Found::of(&diff(&wanted, &observed).unwrap(), &wanted, &before(&WAIT, true));
    assert_eq!(found.changes, ["role sf_000000000000_a: set NOCREATEROLE"]);
    assert_eq!(found.adopted[0], "role sf_000000000000_b: set NOCREATEDB");
    assert!(found.adopted.iter().all(|change| change.starts_with("role sf_000000000000_b")), "{:?}", found.adopted);
    assert!(
        (found.outcome, found.repaired_changes().len(), found.open_changes().len()) == (DriftOutcome::Failed, 0, 1)
    );
    found.repaired();
    assert!(
        (found.outcome, found.repaired_changes().len(), found.open_changes().len()) == (DriftOutcome::Mended, 1, 0)
    );
}

#[test]
fn words_hold_no_secret_and_name_the_object() {
    let plan = diff(&desired(), &Observed::default()).unwrap();
    for change in all(&plan) {
        let (object, what) = change.split_once(": ").unwrap_or_else(|| panic!("{change}"));
        assert!(!object.is_empty() && !what.is_empty(), "{change}");
        assert!(!change.contains("SCRAM"), "{change}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// The steps of a new spec are no drift; with a spec that has been in place, every step is.
    #[test]
    fn a_changed_spec_is_not_drift_and_everything_else_is(
        first in specs(),
        second in specs(),
        spoils in prop::collection::vec(spoil(), 0..4),
    ) {
        // Credentials belong to rotation.
        let second = Desired {
            roles: first.roles.clone(),
            keys: first.keys.clone(),
            active_slot: first.active_slot,
            active_kid: first.active_kid,
            ..second
        };
        let mut observed = converge(&first, &Observed::default());
        prop_assert_eq!(changes(&second, &observed, &before(&WAIT, false)), Vec::<String>::new());
        for spoil in spoils {
            spoil(&mut observed);
        }
        let plan = diff(&first, &observed).unwrap();
        prop_assert_eq!(Found::of(&plan, &first, &before(&WAIT, true)).changes, all(&plan));
        prop_assert_eq!(Found::observed(&plan).changes, all(&plan));
        // A new spec does not hide what was done to logins, keys and secrets.
        let reported = changes(&second, &observed, &before(&WAIT, false));
        for change in all(&plan).iter().filter(|change| change.starts_with("role") || change.starts_with("secret")) {
            let of_the_spec = change.contains("statement_timeout") || change.ends_with(": set CONNECTION LIMIT 20");
            prop_assert!(of_the_spec || reported.contains(change), "{change} is not in {reported:?}");
        }
    }
}
