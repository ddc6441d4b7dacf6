//! The diff against the model: taking its steps leads to the desired state, and a second diff is empty.

use proptest::prelude::*;

use super::*;
use crate::plan::{
    model::{UID, converge, desired, desired_with, specs, spoil},
    state::FenceRow,
};

#[test]
fn a_new_tenant_gets_everything_in_an_order_that_works() {
    let observed = converge(&desired(), &Observed::default());
    let database = &observed.database;
    assert_eq!(database.fence, Some(FenceRow { owner_uid: UID.into(), enabled: true }));
    assert_eq!(database.fence_stores.len(), 2);
    assert_eq!(database.roles.len(), 2);
    let login = |slot: &str| database.roles[&format!("sf_000000000000_{slot}")].attributes.login;
    assert!(login("a") && !login("b"));
    assert!(database.roles.values().all(|role| role.memberships.len() == 1));
    assert!(database.roles.values().all(|role| !role.settings.contains_key("temp_file_limit")));
    assert_eq!(observed.secrets.len(), 2);
    let plan = diff(&desired(), &Observed::default()).unwrap();
    assert_eq!(plan.database.last(), Some(&DatabaseAction::EnableFence));
}

#[test]
fn stores_may_swap_names_and_take_the_name_of_a_removed_one() {
    let before = converge(&desired(), &Observed::default());
    let swapped = converge(&desired_with(&[(1, "Redmond"), (2, "Seattle")], Slot::A, 1), &before);
    assert_eq!(swapped.database.retail_stores[&Uuid::from_u128(1)].name, "Redmond");
    let replaced = converge(&desired_with(&[(3, "Seattle"), (2, "Redmond")], Slot::A, 1), &before);
    assert_eq!(replaced.database.retail_stores[&Uuid::from_u128(3)].name, "Seattle");
    let old = &replaced.database.retail_stores[&Uuid::from_u128(1)].name;
    assert!(old.starts_with("Seattle~"), "{old}");
    assert!(!replaced.database.fence_stores.contains_key(&Uuid::from_u128(1)));
    // And back again.
    let back = converge(&desired(), &replaced);
    assert_eq!(back.database.retail_stores[&Uuid::from_u128(1)].name, "Seattle");
}

#[test]
fn a_connection_limit_stays_unless_the_spec_names_one() {
    let mut wanted = desired();
    wanted.roles.values_mut().for_each(|role| role.connection_limit = None);
    let mut observed = converge(&wanted, &Observed::default());
    let limits =
        |observed: &Observed| observed.database.roles.values().map(|row| row.connection_limit).collect::<Vec<_>>();
    assert_eq!(limits(&observed), [CONNECTION_LIMIT; 2]);
    observed.database.roles.values_mut().for_each(|row| row.connection_limit = 5);
    assert_eq!(diff(&wanted, &observed).unwrap().database, []);
    assert_eq!(limits(&converge(&desired(), &observed)), [20; 2]);
}

#[test]
fn a_deleted_secret_of_ours_is_recovered_and_written_anew() {
    let mut observed = converge(&desired(), &Observed::default());
    observed.secrets.insert("sf-zava-db-a".into(), SecretState::SoftDeleted { owner: Some(UID.into()) });
    let plan = diff(&desired(), &observed).unwrap();
    assert!(matches!(plan.secrets.as_slice(), [SecretAction::Recover { .. }, SecretAction::WriteLogin { .. }]));
    assert!(matches!(plan.database.as_slice(), [DatabaseAction::SetPassword { .. }]));
    converge(&desired(), &observed);
}

#[test]
fn a_wrong_password_is_set_from_the_vault_and_the_vault_is_left_alone() {
    let mut observed = converge(&desired(), &Observed::default());
    observed.database.roles.get_mut("sf_000000000000_a").unwrap().password_works = Some(false);
    let plan = diff(&desired(), &observed).unwrap();
    assert_eq!(plan.secrets, []);
    assert!(matches!(plan.database.as_slice(), [DatabaseAction::SetPassword { slot: Slot::A, .. }]));
}

#[test]
fn rights_that_the_administrator_has_meanwhile_are_used() {
    let mut observed = converge(&desired(), &Observed::default());
    observed.database.may_set.insert("temp_file_limit".into());
    let plan = diff(&desired(), &observed).unwrap();
    assert_eq!(plan.database.len(), 2, "one setting for each role: {plan:?}");
}

#[test]
fn stores_are_taken_away_whatever_else_is_wrong_and_only_from_ones_own() {
    let mut observed = converge(&desired(), &Observed::default());
    let fewer = desired_with(&[(2, "Redmond")], Slot::A, 1);
    let removal = [DatabaseAction::RemoveFenceStore { id: Uuid::from_u128(1) }];
    assert_eq!(withdrawals(&fewer, &observed.database).database, removal);
    assert!(withdrawals(&desired(), &observed.database).is_empty());
    observed.database.fence.as_mut().unwrap().owner_uid = "other".to_owned();
    assert!(withdrawals(&fewer, &observed.database).is_empty(), "somebody else's");
}

#[test]
fn what_cannot_be_taken_from_a_login_is_named_and_the_rest_is_repaired() {
    let mut observed = converge(&desired(), &Observed::default());
    let row = observed.database.roles.get_mut("sf_000000000000_a").unwrap();
    row.attributes.createdb = true;
    row.dependents = vec![
        Dependent { what: "owner of table mine".into(), grant: None },
        Dependent {
            what: "privileges for table retail.orders".into(),
            grant: Some("ALL ON TABLE retail.orders".into()),
        },
    ];
    let plan = diff(&desired(), &observed).unwrap();
    assert_eq!(plan.dependents["sf_000000000000_a"], ["owner of table mine"]);
    assert!(!plan.is_empty());
    let steps: Vec<String> = plan.database.iter().map(DatabaseAction::describe).collect();
    assert_eq!(
        steps,
        ["role sf_000000000000_a: set NOCREATEDB", "role sf_000000000000_a: revoke ALL ON TABLE retail.orders"]
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever was changed behind the operator's back, and whatever the spec asks for next: one pass repairs it,
    /// the next one writes nothing.
    #[test]
    fn one_pass_converges(first in specs(), second in specs(), spoils in prop::collection::vec(spoil(), 0..6)) {
        let mut observed = converge(&first, &Observed::default());
        for spoil in spoils {
            spoil(&mut observed);
        }
        converge(&second, &observed);
    }
}
