//! What belongs to others: refused as a whole, or taken over where the spec asks for that.

use std::collections::BTreeSet;

use proptest::{prelude::*, sample};

use super::*;
use crate::{
    plan::{
        model::{PREDECESSOR, UID, converge, desired, spoil},
        state::{FenceRow, Member},
    },
    reason::Reason,
    roles::role_comment,
};

#[test]
fn what_belongs_to_others_is_an_error() {
    let ready = converge(&desired(), &Observed::default());
    let reason = |change: &dyn Fn(&mut Observed)| {
        let mut observed = ready.clone();
        change(&mut observed);
        diff(&desired(), &observed).unwrap_err().reason()
    };
    let store = Uuid::from_u128(1);
    let foreign = |observed: &mut Observed, owner: Option<&str>| {
        let secret = observed.secrets.get_mut("sf-zava-db-a").unwrap();
        *secret = SecretState::Live { owner: owner.map(str::to_owned), content: SecretContent::Login };
    };
    assert_eq!(
        reason(&|o| o.database.retail_stores.get_mut(&store).unwrap().tenant = "contoso".into()),
        Reason::ConflictingStore
    );
    assert_eq!(
        reason(&|o| o.database.fence_stores.get_mut(&store).unwrap().tenant = "contoso".into()),
        Reason::ConflictingStore
    );
    assert_eq!(
        reason(&|o| o.database.fence.as_mut().unwrap().owner_uid = "other".into()),
        Reason::RoleExistsNotAdopted
    );
    for comment in [None, Some(role_comment("other")), Some("mine".to_owned())] {
        assert_eq!(
            reason(&|o| o.database.roles.get_mut("sf_000000000000_b").unwrap().comment = comment.clone()),
            Reason::RoleExistsNotAdopted
        );
    }
    assert_eq!(reason(&|o| foreign(o, None)), Reason::SecretNotOwned);
    assert_eq!(reason(&|o| foreign(o, Some("other"))), Reason::SecretNotOwned);
    let deleted = SecretState::SoftDeleted { owner: None };
    assert_eq!(
        reason(&|o| drop(o.secrets.insert("sf-zava-context-1".into(), deleted.clone()))),
        Reason::SecretSoftDeleted
    );
}

#[test]
fn what_a_revoked_predecessor_left_is_taken_over() {
    let mut observed = converge(&desired(), &Observed::default());
    observed.database.fence = Some(FenceRow { owner_uid: PREDECESSOR.into(), enabled: false });
    observed.database.keys.clear();
    for role in observed.database.roles.values_mut() {
        role.comment = Some(role_comment(PREDECESSOR));
        role.attributes.login = false;
    }
    for secret in observed.secrets.values_mut() {
        *secret = SecretState::Live { owner: Some(PREDECESSOR.into()), content: SecretContent::Unusable };
    }
    let after = converge(&desired(), &observed);
    assert!(after.database.roles.values().all(|role| role.comment == Some(role_comment(UID))));
    assert_eq!(after.database.fence, Some(FenceRow { owner_uid: UID.into(), enabled: true }));
}

/// What others made under the names that a tenant needs.
fn foreign() -> impl Strategy<Value = fn(&mut Observed)> {
    let foreign: Vec<fn(&mut Observed)> = vec![
        |o| o.database.fence.as_mut().unwrap().owner_uid = PREDECESSOR.into(),
        |o| o.database.roles.values_mut().for_each(|row| row.comment = None),
        |o| o.database.roles.values_mut().for_each(|row| row.comment = Some("theirs".into())),
        |o| o.database.roles.values_mut().for_each(|row| row.comment = Some(role_comment("other"))),
        |o| o.database.roles.values_mut().for_each(|row| row.comment = Some(role_comment(PREDECESSOR))),
        |o| {
            for secret in o.secrets.values_mut() {
                *secret = SecretState::Live { owner: Some(PREDECESSOR.into()), content: SecretContent::Login };
            }
        },
        |o| {
            for secret in o.secrets.values_mut() {
                *secret = SecretState::Live { owner: None, content: SecretContent::Unusable };
            }
        },
        |o| o.secrets.values_mut().for_each(|secret| *secret = SecretState::SoftDeleted { owner: None }),
    ];
    sample::select(foreign)
}

/// Roles, secrets and rows that are not marked as ours, by name.
fn not_ours(observed: &Observed) -> BTreeSet<String> {
    let fence = observed.database.fence.as_ref();
    let released = fence.filter(|row| !row.enabled).map(|row| row.owner_uid.clone());
    let ours = |uid: Option<&str>| uid == Some(UID) || uid.is_some() && uid == released.as_deref();
    let roles = observed.database.roles.iter();
    let roles = roles.filter(|(_, row)| !ours(row.comment.as_deref().and_then(comment_owner)));
    let secrets = observed.secrets.iter().filter(|(_, state)| match state {
        SecretState::Absent | SecretState::SoftDeleted { owner: Some(_) } => false,
        SecretState::Live { owner: Some(_), content: SecretContent::Disabled } => false,
        SecretState::SoftDeleted { owner: None } => true,
        SecretState::Live { owner, .. } => !ours(owner.as_deref()),
    });
    roles.map(|(name, _)| name.clone()).chain(secrets.map(|(name, _)| name.clone())).collect()
}

#[test]
fn adoption_checks_what_it_takes() {
    let adopting = || Desired { adopt: true, ..desired() };
    let ready = converge(&desired(), &Observed::default());
    let with = |change: &dyn Fn(&mut Observed)| {
        let mut observed = ready.clone();
        observed.database.roles.values_mut().for_each(|row| row.comment = None);
        change(&mut observed);
        diff(&adopting(), &observed)
    };
    let refused: [&dyn Fn(&mut RoleRow); 4] = [
        &|row| row.attributes.superuser = true,
        &|row| row.attributes.replication = true,
        &|row| row.members.push(Member { name: "mallory".into(), grantor: "x".into() }),
        &|row| row.dependents.push(Dependent { what: "owner of table t".into(), grant: None }),
    ];
    for refuse in refused {
        let error = with(&|o| o.database.roles.values_mut().for_each(refuse)).unwrap_err();
        assert_eq!(error.reason(), Reason::RoleExistsNotAdopted);
        assert!(error.to_string().contains("cannot be adopted"), "{error}");
    }
    let foreign = |o: &mut Observed| {
        o.secrets.insert("sf-zava-db-a".into(), SecretState::Live { owner: None, content: SecretContent::Login });
    };
    let managed = with(&|o| {
        foreign(o);
        o.managers.insert("sf-zava-db-a".into(), "terraform".into());
    });
    assert!(managed.unwrap_err().to_string().contains("terraform"));

    let plan = with(&|o| foreign(o)).unwrap();
    assert_eq!(plan.adopted.iter().collect::<Vec<_>>(), ["sf-zava-db-a", "sf_000000000000_a", "sf_000000000000_b"]);
    assert!(plan.secrets.iter().any(|action| matches!(action, SecretAction::WriteLogin { .. })), "never used as it is");
    // Both roles are marked, and nobody's old password works.
    let steps = |wanted: fn(&DatabaseAction) -> bool| plan.database.iter().filter(|action| wanted(action)).count();
    assert_eq!(steps(|action| matches!(action, DatabaseAction::CommentRole { .. })), 2);
    assert_eq!(
        steps(|action| matches!(action, DatabaseAction::SetPassword { .. } | DatabaseAction::ForgetPassword { .. })),
        2
    );
    let plan = with(&|_| {}).unwrap();
    assert!(plan.secrets.is_empty(), "our own secret stays");
    assert!(plan.database.iter().any(|action| matches!(action, DatabaseAction::SetPassword { slot: Slot::A, .. })));
}

#[test]
fn a_secret_of_a_recorded_version_that_lost_its_tags_is_tagged_again() {
    let converged = converge(&desired(), &Observed::default());
    let retagged = |name: &str, owner: Option<&str>, change: &dyn Fn(&mut Observed)| {
        let mut observed = converged.clone();
        observed.recorded = ["sf-zava-db-a".to_owned(), "sf-zava-context-1".to_owned()].into();
        let SecretState::Live { owner: tag, .. } = observed.secrets.get_mut(name).unwrap() else { panic!("{name}") };
        *tag = owner.map(str::to_owned);
        change(&mut observed);
        diff(&desired(), &observed)
    };
    for name in ["sf-zava-db-a", "sf-zava-context-1"] {
        for owner in [None, Some("uid-of-somebody")] {
            let plan = retagged(name, owner, &|_| {}).unwrap();
            assert_eq!(plan.secrets, [SecretAction::Tag { name: name.to_owned() }], "{owner:?}");
            assert!(plan.database.is_empty() && plan.adopted.is_empty(), "{plan:?}");
            // Refused where the value may be somebody else's.
            let doubts: [&dyn Fn(&mut Observed); 3] = [
                &|o| assert!(o.recorded.remove(name)),
                &|o| drop(o.managers.insert(name.to_owned(), "terraform".to_owned())),
                &|o| {
                    let owner = owner.map(str::to_owned);
                    let content = SecretContent::Unusable;
                    o.secrets.insert(name.to_owned(), SecretState::Live { owner, content });
                },
            ];
            for doubt in doubts {
                assert_eq!(retagged(name, owner, doubt).unwrap_err().reason(), Reason::SecretNotOwned);
            }
        }
    }
}

#[test]
fn what_a_retained_predecessor_left_is_adopted_with_its_passwords() {
    let mut observed = converge(&desired(), &Observed::default());
    observed.database.fence = Some(FenceRow { owner_uid: PREDECESSOR.into(), enabled: true });
    observed.database.roles.values_mut().for_each(|row| row.comment = Some(role_comment(PREDECESSOR)));
    for row in observed.database.roles.values_mut() {
        row.password_works = row.attributes.login.then_some(true);
    }
    for secret in observed.secrets.values_mut() {
        let SecretState::Live { owner, .. } = secret else { panic!("{secret:?}") };
        *owner = Some(PREDECESSOR.into());
    }
    assert_eq!(diff(&desired(), &observed).unwrap_err().reason(), Reason::RoleExistsNotAdopted);
    let plan = diff(&Desired { adopt: true, ..desired() }, &observed).unwrap();
    assert!(plan.secrets.iter().all(|action| matches!(action, SecretAction::Tag { .. })), "{plan:?}");
    assert!(!plan.database.iter().any(|action| matches!(action, DatabaseAction::SetPassword { .. })), "{plan:?}");
    assert_eq!(plan.adopted.len(), 4);
}

#[test]
fn what_the_next_rotation_will_write_is_taken_over_with_the_rest() {
    let mut observed = converge(&desired(), &Observed::default());
    let name = "sf-zava-db-b";
    let take_over = |observed: &Observed, adopt: bool| {
        let leftovers = vec![name.to_owned()];
        diff(&Desired { adopt, leftovers, ..desired() }, observed)
    };
    let retired = |plan: &Plan| plan.secrets.iter().any(|action| matches!(action, SecretAction::Retire { .. }));
    assert!(!retired(&take_over(&observed, true).unwrap()), "nothing there");
    let live = |owner: Option<&str>, content| SecretState::Live { owner: owner.map(str::to_owned), content };
    for (state, adopt, expected) in [
        (live(Some(UID), SecretContent::Unusable), true, false),
        (live(Some("other"), SecretContent::Disabled), true, false),
        (live(Some("other"), SecretContent::Unusable), true, true),
        (live(None, SecretContent::Unusable), true, true),
        (live(None, SecretContent::Unusable), false, false),
        (SecretState::SoftDeleted { owner: None }, true, true),
        (SecretState::SoftDeleted { owner: Some("other".to_owned()) }, true, false),
    ] {
        observed.secrets.insert(name.to_owned(), state.clone());
        let plan = take_over(&observed, adopt).unwrap();
        assert_eq!(retired(&plan), expected, "{state:?} {adopt}");
        assert_eq!(plan.adopted.contains(name), expected, "{state:?} {adopt}");
    }
    // A secret that another tool manages stops all of it.
    observed.secrets.insert(name.to_owned(), live(None, SecretContent::Unusable));
    observed.managers.insert(name.to_owned(), "terraform".to_owned());
    assert_eq!(take_over(&observed, true).unwrap_err().reason(), Reason::SecretNotOwned);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// What is not marked as ours is never changed, unless adoption is asked for; then one pass takes it over.
    #[test]
    fn foreign_things_are_refused_or_adopted_as_a_whole(
        spoils in prop::collection::vec(spoil(), 0..3),
        foreigners in prop::collection::vec(foreign(), 1..4),
    ) {
        let mut observed = converge(&desired(), &Observed::default());
        // Roles with more than a login's rights have a test of their own.
        for change in spoils.into_iter().chain(foreigners) {
            change(&mut observed);
        }
        let theirs = not_ours(&observed);
        let foreign_row = observed.database.fence.as_ref().is_some_and(|row| row.enabled && row.owner_uid != UID);
        match diff(&desired(), &observed) {
            Ok(plan) => {
                prop_assert!(!foreign_row);
                prop_assert!(plan.adopted.is_empty());
                for action in &plan.secrets {
                    prop_assert!(!theirs.contains(action.subject()), "{action:?}");
                }
                for action in &plan.database {
                    prop_assert!(action.role().is_none_or(|role| !theirs.contains(role)), "{action:?}");
                }
            }
            Err(error) => prop_assert!(foreign_row || !theirs.is_empty(), "{error}"),
        }
        let adopting = Desired { adopt: true, ..desired() };
        match diff(&adopting, &observed) {
            Ok(plan) => {
                for name in &theirs {
                    let wanted = adopting.secrets().any(|secret| secret == name) || observed.database.roles.contains_key(name);
                    prop_assert!(!wanted || plan.adopted.contains(name), "{name} is taken over silently: {plan:?}");
                }
                converge(&adopting, &observed);
            }
            // A role with more than a login's rights: nothing is touched.
            Err(error) => prop_assert_eq!(error.reason(), Reason::RoleExistsNotAdopted),
        }
    }
}
