use storefence_tenancy::{credentials::Slot, resource::LoginSlot};

use super::*;
use crate::{plan::refusal::Refusal, verify::Severity};

fn credentials() -> Credentials {
    Credentials { active_slot: Slot::A, active_kid: 1, slots: vec![], context_keys: vec![] }
}

fn done_with(found: Found, missing: Vec<Deviation>) -> Report {
    let done = Done {
        stores: 1,
        principals: 2,
        credentials: credentials(),
        rotation: None,
        last_rotation: None,
        next: None,
        missing,
        left: Vec::new(),
        rotation_waits: false,
    };
    Report { outcome: Outcome::Done(done), found: Some(found) }
}

fn found(changes: &[&str], outcome: DriftOutcome) -> Found {
    Found {
        changes: changes.iter().map(|change| (*change).to_owned()).collect(),
        outcome,
        stuck: Vec::new(),
        adopted: Vec::new(),
        adoption_done: outcome == DriftOutcome::Mended,
    }
}

fn done() -> Report {
    done_with(found(&[], DriftOutcome::Mended), Vec::new())
}

fn observed(changes: &[&str]) -> Report {
    let outcome = Outcome::Observed(Observed { database: changes.len(), secrets: 0, missing: Vec::new() });
    Report { outcome, found: Some(found(changes, DriftOutcome::Reported)) }
}

fn problem(reason: Reason, area: Area, class: Class) -> Problem {
    Problem { reason, area, class, message: "what to do".to_owned() }
}

fn failed() -> Report {
    Outcome::Failed(vec![problem(Reason::DatabaseNotConfigured, Area::Database, Class::Permanent)]).into()
}

/// Differences that could not be repaired.
fn stopped(changes: &[&str]) -> Report {
    Report { found: Some(found(changes, DriftOutcome::Failed)), ..failed() }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn step(
    last: Option<&RetailTenantStatus>,
    report: &Report,
    generation: i64,
    second: i64,
) -> (RetailTenantStatus, Vec<Transition>) {
    let Next { status, transitions, .. } = next(last, report, Some(generation), at(second)).unwrap();
    (status, transitions)
}

fn find<'a>(status: &'a RetailTenantStatus, type_: &str) -> &'a Condition {
    status.conditions.iter().find(|condition| condition.type_ == type_).unwrap()
}

fn reasons(events: &[Transition]) -> Vec<(&'static str, &'static str)> {
    events.iter().map(|event| (event.condition, event.reason.as_str())).collect()
}

#[test]
fn what_is_left_undone_is_named_and_the_rest_is_recorded() {
    let store = Refusal::ConflictingStore { name: "Seattle".into(), store: "x".into(), owner: "contoso".into() };
    let mut report = done();
    let Outcome::Done(done) = &mut report.outcome else { unreachable!() };
    done.left = vec![store.into()];
    let (status, _) = step(None, &report, 1, 10);
    let types: Vec<&str> = status.conditions.iter().map(|condition| condition.type_.as_str()).collect();
    assert_eq!(types, CONDITIONS);
    for (type_, expected) in
        [(READY, "False"), (DATABASE_READY, "False"), (SECRETS_READY, "True"), (POLICY_VERIFIED, "True")]
    {
        assert_eq!(find(&status, type_).status, expected, "{type_}");
    }
    assert!(find(&status, READY).message.contains("'Seattle'"));
    assert!(status.credentials.is_some(), "the gateway goes on serving, and a rotation is recorded");
}

#[test]
fn a_rotation_that_waits_for_the_end_of_the_former_one_says_until_when() {
    let mut credentials = credentials();
    credentials.active_slot = Slot::B;
    credentials.slots = vec![LoginSlot {
        slot: Slot::A,
        login: "sf_000000000000_a".to_owned(),
        secret_name: "sf-zava-db-a".to_owned(),
        secret_version: String::new(),
        set_at: Time(at(1)),
        retires_at: Some(Time(at(99))),
    }];
    let mut report = done();
    let Outcome::Done(done) = &mut report.outcome else { unreachable!() };
    (done.credentials, done.rotation_waits) = (credentials, true);
    let (status, news) = step(None, &report, 1, 10);
    let message = &find(&status, SECRETS_READY).message;
    assert!(message.contains("1970-01-01T00:01:39Z") && message.contains("spec.rotation.overlap"), "{message}");
    assert!(reasons(&news).contains(&(SECRETS_READY, "RotationInProgress")));
    let (_, news) = step(Some(&status), &report, 1, 20);
    assert_eq!(reasons(&news), [], "said once");
}

#[test]
fn every_condition_is_there_whatever_comes_first() {
    for report in [done(), failed(), stopped(&["a"]), observed(&["a"]), observed(&[]), Outcome::Suspended.into()] {
        let (status, _) = step(None, &report, 1, 10);
        let types: Vec<&str> = status.conditions.iter().map(|condition| condition.type_.as_str()).collect();
        assert_eq!(types, CONDITIONS, "{report:?}");
        assert!(status.conditions.iter().all(|c| Reason::from_code(&c.reason).is_some() && !c.message.is_empty()));
    }
}

#[test]
fn a_second_equal_outcome_changes_nothing() {
    let drift = |outcome| done_with(found(&["role x: set NOCREATEDB"], outcome), Vec::new());
    for report in [done(), failed(), stopped(&["a"]), observed(&["a", "b"]), observed(&[]), Outcome::Suspended.into()] {
        let (first, events) = step(None, &report, 1, 10);
        assert!(!events.is_empty() || !matches!(report.outcome, Outcome::Done(_)), "{report:?}");
        let (second, events) = step(Some(&first), &report, 1, 20);
        assert_eq!(first, second);
        assert_eq!(events, [], "{report:?}");
    }
    // Each repair is announced, and then stays readable without another write.
    let (first, events) = step(None, &drift(DriftOutcome::Mended), 1, 10);
    assert!(reasons(&events).contains(&(DRIFTED, "DriftMended")));
    let (quiet, events) = step(Some(&first), &done(), 1, 20);
    assert_eq!((first.clone(), vec![]), (quiet, events));
    let (again, events) = step(Some(&first), &drift(DriftOutcome::Mended), 1, 30);
    assert_eq!(reasons(&events), [(DRIFTED, "DriftMended")]);
    assert_eq!(again.drift_history.len(), 2);
}

#[test]
fn a_failure_keeps_the_credentials_and_what_is_known() {
    let (ready, _) = step(None, &done(), 1, 10);
    let (broken, events) = step(Some(&ready), &failed(), 2, 20);
    assert_eq!(broken.credentials, ready.credentials);
    assert_eq!(find(&broken, READY).status, "False");
    assert_eq!(find(&broken, READY).reason, "DatabaseNotConfigured");
    assert_eq!(find(&broken, READY).last_transition_time.0, at(20));
    assert_eq!(find(&broken, DATABASE_READY).status, "False");
    assert_eq!(find(&broken, SECRETS_READY).status, "True");
    assert_eq!(find(&broken, SECRETS_READY).observed_generation, Some(1), "it speaks of the spec that was looked at");
    assert_eq!(broken.observed_generation, Some(2));
    assert_eq!(events.iter().map(|event| event.condition).collect::<Vec<_>>(), [READY, DATABASE_READY]);
    let (mended, events) = step(Some(&broken), &done(), 2, 30);
    assert_eq!(mended.conditions.iter().filter(|condition| condition.status == "True").count(), 4);
    assert_eq!(events.len(), 2);
}

#[test]
fn a_new_tenant_that_fails_says_what_is_not_known() {
    let (status, _) = step(None, &failed(), 1, 10);
    assert_eq!(find(&status, SECRETS_READY).status, "Unknown");
    assert_eq!(find(&status, SECRETS_READY).reason, "Pending");
    assert_eq!(find(&status, DRIFTED).status, "Unknown");
    assert_eq!(find(&status, SUSPENDED).status, "False");
    assert_eq!(status.credentials, None);
}

#[test]
fn contention_leaves_the_status_alone() {
    let (ready, _) = step(None, &done(), 1, 10);
    let contention = Outcome::Failed(vec![problem(Reason::LockContention, Area::Elsewhere, Class::Contention)]).into();
    assert_eq!(next(Some(&ready), &contention, Some(2), at(20)), None);
}

#[test]
fn observation_reports_until_the_difference_is_gone_and_tells_each_one_once() {
    let (ready, _) = step(None, &done(), 1, 10);
    let (drifted, events) = step(Some(&ready), &observed(&["role x: set NOCREATEDB"]), 2, 20);
    assert_eq!(
        (find(&drifted, DRIFTED).status.as_str(), find(&drifted, DRIFTED).reason.as_str()),
        ("True", "DriftDetected")
    );
    assert!(find(&drifted, DRIFTED).message.contains("NOCREATEDB"));
    assert_eq!(find(&drifted, READY).reason, "DriftDetected");
    assert_eq!(find(&drifted, SECRETS_READY).status, "True");
    assert_eq!(drifted.credentials, ready.credentials);
    assert!(reasons(&events).contains(&(DRIFTED, "DriftDetected")));
    let (more, _) = step(Some(&drifted), &observed(&["role x: set NOCREATEDB", "secret y: tag it"]), 2, 30);
    assert_eq!(more.drift_history.len(), 2);
    let Next { recorded, .. } =
        next(Some(&more), &observed(&["role x: set NOCREATEDB", "secret y: tag it"]), Some(2), at(40)).unwrap();
    assert_eq!(recorded, (0, 0));
    let (gone, _) = step(Some(&more), &observed(&[]), 2, 50);
    assert_eq!(find(&gone, DRIFTED).status, "False");
    assert_eq!(find(&gone, READY).status, "True");
    // The same difference is news when it returns.
    let (back, _) = step(Some(&gone), &observed(&["role x: set NOCREATEDB", "secret y: tag it"]), 2, 60);
    assert_eq!(back.drift_history.len(), 3);
    assert_eq!(back.drift_history[0].time.0, at(60));
}

#[test]
fn what_cannot_be_mended_is_drift_and_speaks_of_the_spec_that_was_in_place() {
    let (ready, _) = step(None, &done(), 1, 10);
    let (stuck, events) = step(Some(&ready), &stopped(&["role x: set NOBYPASSRLS"]), 2, 20);
    assert_eq!(find(&stuck, DRIFTED).status, "True");
    assert_eq!(find(&stuck, DRIFTED).observed_generation, Some(1), "the new spec has not been in place yet");
    assert_eq!(stuck.drift_history[0].outcome, DriftOutcome::Failed);
    assert!(reasons(&events).contains(&(DRIFTED, "DriftDetected")));
    let (mended, _) =
        step(Some(&stuck), &done_with(found(&["role x: set NOBYPASSRLS"], DriftOutcome::Mended), vec![]), 2, 30);
    let drifted = find(&mended, DRIFTED);
    assert_eq!((drifted.status.as_str(), drifted.reason.as_str()), ("False", "DriftMended"));
    assert_eq!(drifted.observed_generation, Some(2));
    assert_eq!(mended.drift_history[0].outcome, DriftOutcome::Mended);
}

#[test]
fn the_history_has_the_last_ten_each_within_the_schema() {
    let (mut status, _) = step(None, &done(), 1, 10);
    let many: Vec<String> = (0..50).map(|n| format!("role {n}: {}", "ä".repeat(400))).collect();
    for second in 0..15 {
        let mut drift = found(&[], DriftOutcome::Mended);
        drift.changes.clone_from(&many);
        status = step(Some(&status), &done_with(drift, Vec::new()), 1, 100 + second).0;
    }
    assert_eq!(status.drift_history.len(), 10);
    assert_eq!(status.drift_history[0].time.0, at(114));
    assert!(status.drift_history.iter().all(|record| record.changes.len() == 20));
    assert!(status.drift_history[0].changes.iter().all(|change| change.chars().count() <= 256));
    assert_eq!(status.drift_history[0].changes[19], "and 31 more");
}

#[test]
fn suspension_keeps_what_was_and_says_so() {
    let (ready, _) = step(None, &done(), 1, 10);
    let (suspended, events) = step(Some(&ready), &Outcome::Suspended.into(), 2, 20);
    assert_eq!(find(&suspended, SUSPENDED).status, "True");
    assert_eq!(find(&suspended, READY).status, "True");
    assert_eq!(find(&suspended, READY).observed_generation, Some(1));
    assert_eq!(suspended.credentials, ready.credentials);
    assert_eq!(reasons(&events), [(SUSPENDED, "Suspended")]);
    assert!(events[0].good, "it was asked for");
    let (resumed, events) = step(Some(&suspended), &done(), 3, 30);
    assert_eq!(find(&resumed, SUSPENDED).status, "False");
    assert_eq!(reasons(&events), [(SUSPENDED, "Reconciled")]);
    let deleting = Outcome::Failed(vec![problem(Reason::Suspended, Area::Spec, Class::Permanent)]).into();
    let (held, _) = step(Some(&ready), &deleting, 2, 20);
    assert_eq!((find(&held, READY).reason.as_str(), find(&held, SUSPENDED).status.as_str()), ("Suspended", "True"));
    assert_eq!(find(&held, READY).message, "what to do");
}

#[test]
fn adoption_is_announced_once_it_is_done() {
    let mut adopted = found(&[], DriftOutcome::Mended);
    adopted.adopted = vec!["role x: set the comment that marks its owner".to_owned()];
    let (status, events) = step(None, &done_with(adopted.clone(), Vec::new()), 1, 10);
    assert_eq!(status.drift_history[0].outcome, DriftOutcome::Adopted);
    assert!(reasons(&events).contains(&(DATABASE_READY, "Adopted")));
    adopted.outcome = DriftOutcome::Failed;
    adopted.adoption_done = false;
    let (status, events) = step(None, &Report { found: Some(adopted), ..failed() }, 1, 10);
    assert!(status.drift_history.is_empty());
    assert!(!reasons(&events).contains(&(DATABASE_READY, "Adopted")));
}

#[test]
fn what_the_configuration_asks_for_is_in_the_message() {
    let missing = Deviation {
        severity: Severity::Missing,
        object: "protected table sales.leads".to_owned(),
        found: "no policy".to_owned(),
        expected: "one".to_owned(),
        remedy: "grant it".to_owned(),
        mendable: false,
    };
    let (status, _) = step(None, &done_with(found(&[], DriftOutcome::Mended), vec![missing.clone(), missing]), 1, 10);
    let verified = find(&status, POLICY_VERIFIED);
    assert_eq!(verified.status, "True", "the fence holds");
    assert!(verified.message.contains("MISSING") && verified.message.contains("sales.leads"), "{}", verified.message);
    assert!(verified.message.ends_with("(and 1 more)"), "{}", verified.message);
}

#[test]
fn long_messages_are_cut_between_characters() {
    assert_eq!(shorten("short", MESSAGE_MAX), "short");
    assert!(shorten(&"ä".repeat(2000), MESSAGE_MAX).len() <= MESSAGE_MAX + "…".len() + 1);
}
