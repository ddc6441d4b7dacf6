//! The diff against a model: taking its steps leads to the desired state, and a second diff is empty.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{prelude::*, sample};
use storefence_tenancy::TenantId;

use super::*;
use crate::{
    errors::Reason,
    reconcile::{
        desired::{PRIVILEGED_SETTINGS, StoreNames, role_comment},
        state::{FenceRow, FenceStore, KeyRow, LoginRow, Member, RetailStore, TenantRow},
    },
};

pub const UID: &str = "uid-own";
const PREDECESSOR: &str = "uid-before";

pub fn desired_with(stores: &[(u128, &str)], active: Slot, kid: u32) -> Desired {
    let tenant_id: TenantId = "zava".parse().unwrap();
    let role = |slot: Slot| DesiredRole {
        name: format!("sf_000000000000_{slot}"),
        login: slot == active,
        secret: format!("sf-zava-db-{slot}"),
        settings: [
            ("statement_timeout".to_owned(), "5000ms".to_owned()),
            ("temp_file_limit".to_owned(), "1GB".to_owned()),
        ]
        .into(),
    };
    let entry = |name: &str| StoreNames { name: name.to_owned(), display_name: name.to_uppercase() };
    Desired {
        tenant_id,
        owner_uid: UID.to_owned(),
        display_name: "Zava".to_owned(),
        stores: stores.iter().map(|(id, name)| (Uuid::from_u128(*id), entry(name))).collect(),
        creator: "fence_creator_07".to_owned(),
        roles: Slot::ALL.into_iter().map(|slot| (slot, role(slot))).collect(),
        keys: [(kid, format!("sf-zava-context-{kid}"))].into(),
        key_ends: BTreeMap::new(),
        active_slot: active,
        active_kid: kid,
        adopt: false,
        leftovers: Vec::new(),
    }
}

pub fn desired() -> Desired {
    desired_with(&[(1, "Seattle"), (2, "Redmond")], Slot::A, 1)
}

/// What the vault and the database would hold after the steps. The unique constraints are checked on the way.
pub fn take(desired: &Desired, observed: &mut Observed, plan: &Plan) {
    let mut fresh = 0;
    for action in &plan.secrets {
        let owner = Some(UID.to_owned());
        match action {
            SecretAction::Recover { name } => {
                let state = observed.secrets.get_mut(name).unwrap();
                let SecretState::SoftDeleted { owner } = state.clone() else { panic!("{name} is not deleted") };
                *state = SecretState::Live { owner, content: SecretContent::Unusable };
            }
            SecretAction::WriteLogin { name, .. } => {
                observed.secrets.insert(name.clone(), SecretState::Live { owner, content: SecretContent::Login });
            }
            SecretAction::WriteContextKey { name, .. } => {
                fresh += 1;
                let content = SecretContent::ContextKey { fingerprint: format!("fresh-{fresh}") };
                observed.secrets.insert(name.clone(), SecretState::Live { owner, content });
            }
            SecretAction::Retire { name, .. } => {
                observed.secrets.insert(name.clone(), SecretState::Live { owner, content: SecretContent::Disabled });
            }
            SecretAction::Tag { name } => match observed.secrets.get_mut(name).unwrap() {
                SecretState::Live { owner: tag, .. } => *tag = owner,
                other => panic!("{name} is {other:?}"),
            },
        }
    }
    for action in &plan.database {
        take_in_database(desired, observed, action);
        check_unique(&observed.database);
    }
}

fn check_unique(database: &DatabaseState) {
    let retail: Vec<_> = database.retail_stores.values().map(|row| (&row.tenant, &row.name)).collect();
    assert_eq!(retail.iter().collect::<BTreeSet<_>>().len(), retail.len(), "retail.stores (tenant_key, store_name)");
    let fence: Vec<_> = database.fence_stores.values().map(|row| (&row.tenant, &row.name)).collect();
    assert_eq!(
        fence.iter().collect::<BTreeSet<_>>().len(),
        fence.len(),
        "fence.tenant_stores (tenant_key, store_name)"
    );
    let logins: Vec<_> = database.logins.values().map(|row| (&row.tenant, &row.slot)).collect();
    assert_eq!(logins.iter().collect::<BTreeSet<_>>().len(), logins.len(), "fence.logins (tenant_key, slot)");
}

#[allow(clippy::too_many_lines, reason = "one arm per step")]
fn take_in_database(desired: &Desired, observed: &mut Observed, action: &DatabaseAction) {
    let tenant = desired.tenant_id.to_string();
    let database = &mut observed.database;
    let secrets = &observed.secrets;
    fn role<'a>(database: &'a mut DatabaseState, name: &str) -> &'a mut RoleRow {
        database.roles.get_mut(name).unwrap_or_else(|| panic!("no role {name}"))
    }
    match action.clone() {
        DatabaseAction::InsertTenant { display_name } => {
            assert!(database.tenant.replace(TenantRow { display_name }).is_none());
        }
        DatabaseAction::RenameTenant { display_name } => database.tenant.as_mut().unwrap().display_name = display_name,
        DatabaseAction::InsertFence => {
            assert!(database.tenant.is_some(), "foreign key");
            assert!(database.fence.replace(FenceRow { owner_uid: UID.into(), enabled: false }).is_none());
        }
        DatabaseAction::ClaimFence => {
            let row = database.fence.as_mut().unwrap();
            assert!(!row.enabled, "claimed from an owner that is served");
            row.owner_uid = UID.into();
        }
        DatabaseAction::AdoptFence { from } => {
            let row = database.fence.as_mut().unwrap();
            assert_eq!(row.owner_uid, from);
            row.owner_uid = UID.into();
        }
        DatabaseAction::EnableFence => {
            let row = database.fence.as_mut().unwrap();
            assert_eq!(row.owner_uid, UID);
            row.enabled = true;
        }
        DatabaseAction::VacateRetailStore { id, name } => database.retail_stores.get_mut(&id).unwrap().name = name,
        DatabaseAction::InsertRetailStore { id, name, display_name } => {
            assert!(database.retail_stores.insert(id, RetailStore { tenant, name, display_name }).is_none());
        }
        DatabaseAction::RenameRetailStore { id, name, display_name } => {
            *database.retail_stores.get_mut(&id).unwrap() = RetailStore { tenant, name, display_name };
        }
        DatabaseAction::RemoveFenceStore { id } => assert!(database.fence_stores.remove(&id).is_some()),
        DatabaseAction::InsertFenceStore { id, name } => {
            assert!(database.fence_stores.insert(id, FenceStore { tenant, name }).is_none());
        }
        DatabaseAction::VacateFenceStore { id, name } | DatabaseAction::RenameFenceStore { id, name } => {
            database.fence_stores.get_mut(&id).unwrap().name = name;
        }
        DatabaseAction::CreateRole { role, attributes, connection_limit } => {
            let by_creator = database.has_creator;
            let row = RoleRow {
                attributes,
                by_creator,
                connection_limit,
                comment: None,
                memberships: Vec::new(),
                settings: BTreeMap::new(),
                database_settings: BTreeSet::new(),
                dependents: Vec::new(),
                members: Vec::new(),
                password_works: attributes.login.then_some(false),
            };
            assert!(database.roles.insert(role, row).is_none());
        }
        DatabaseAction::AlterRole { role: name, from, to, connection_limit } => {
            let row = role(database, &name);
            assert_eq!(row.attributes, from);
            assert!(from != to || connection_limit.is_some(), "an empty ALTER ROLE");
            if !from.login && to.login {
                row.password_works = Some(false);
            }
            row.attributes = to;
            row.connection_limit = connection_limit.unwrap_or(row.connection_limit);
        }
        DatabaseAction::CommentRole { role: name } => role(database, &name).comment = Some(desired.role_comment()),
        DatabaseAction::SetRoleSetting { role: to, name, value } => {
            assert!(!PRIVILEGED_SETTINGS.contains(&name.as_str()) || database.may_set.contains(&name), "not permitted");
            role(database, &to).settings.insert(name, value);
        }
        DatabaseAction::ResetRoleSetting { role: of, name } => {
            assert!(role(database, &of).settings.remove(&name).is_some());
        }
        DatabaseAction::ResetDatabaseSettings { role: of, database: name } => {
            assert!(role(database, &of).database_settings.remove(&name));
        }
        DatabaseAction::RevokeMembership { role: of, membership } => {
            role(database, &of).memberships.retain(|held| *held != membership);
        }
        DatabaseAction::RevokeMember { role: of, member } => {
            role(database, &of).members.retain(|held| *held != member);
        }
        DatabaseAction::RevokeGrant { role: of, grant } => {
            role(database, &of).dependents.retain(|held| held.grant.as_ref() != Some(&grant));
        }
        DatabaseAction::ForgetPassword { role: of } => assert!(!role(database, &of).attributes.login),
        DatabaseAction::GrantLoginGroup { role: to } => role(database, &to).memberships.push(Membership {
            group: LOGIN_GROUP.into(),
            grantor: "admin".into(),
            admin: false,
            inherit: true,
            set: false,
        }),
        DatabaseAction::SetPassword { role: of, slot } => {
            let secret = &desired.roles[&slot].secret;
            assert!(matches!(&secrets[secret], SecretState::Live { content: SecretContent::Login, .. }), "no password");
            role(database, &of).password_works = Some(true);
        }
        DatabaseAction::RemoveLogin { role } => assert!(database.logins.remove(&role).is_some()),
        DatabaseAction::InsertLogin { role, slot } => {
            let row = LoginRow { tenant, slot: slot.to_string() };
            assert!(database.logins.insert(role, row).is_none());
        }
        DatabaseAction::SetContextKey { kid, secret } => {
            let SecretState::Live { content: SecretContent::ContextKey { fingerprint }, .. } = &secrets[&secret] else {
                panic!("no key in {secret}")
            };
            database.keys.insert(kid, KeyRow { fingerprint: fingerprint.clone(), not_after: None });
        }
        DatabaseAction::SetKeyEnd { kid, not_after } => database.keys.get_mut(&kid).unwrap().not_after = not_after,
        DatabaseAction::RemoveContextKey { kid } => assert!(database.keys.remove(&kid).is_some()),
    }
}

/// Takes the steps and returns the result, which must need no further step.
pub fn converge(desired: &Desired, observed: &Observed) -> Observed {
    let mut observed = observed.clone();
    let plan = diff(desired, &observed).unwrap();
    take(desired, &mut observed, &plan);
    assert_eq!(diff(desired, &observed).unwrap(), Plan::default(), "a second pass writes");
    observed
}

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

pub fn spoil() -> impl Strategy<Value = fn(&mut Observed)> {
    let spoils: Vec<fn(&mut Observed)> = vec![
        |o| o.database.tenant.as_mut().unwrap().display_name = "Other".into(),
        |o| o.database.fence.as_mut().unwrap().enabled = false,
        |o| drop(o.database.fence_stores.pop_first()),
        |o| drop(o.database.retail_stores.pop_last().map(|(id, _)| o.database.fence_stores.remove(&id))),
        |o| o.database.retail_stores.values_mut().for_each(|row| row.name = format!("{}-x", row.name)),
        |o| o.database.fence_stores.values_mut().for_each(|row| row.name = format!("{}-x", row.name)),
        |o| drop(o.database.roles.pop_first()),
        |o| drop(o.database.roles.pop_last()),
        |o| o.database.roles.values_mut().for_each(|row| row.attributes.bypassrls = true),
        |o| o.database.roles.values_mut().for_each(|row| row.attributes.superuser = true),
        |o| o.database.roles.values_mut().for_each(|row| row.attributes.login = !row.attributes.login),
        |o| o.database.roles.values_mut().for_each(|row| row.attributes.inherit = true),
        |o| o.database.roles.values_mut().for_each(|row| row.attributes.expires = true),
        |o| o.database.roles.values_mut().for_each(|row| row.connection_limit = -1),
        |o| o.database.roles.values_mut().for_each(|row| row.settings.clear()),
        |o| {
            for row in o.database.roles.values_mut() {
                row.settings.insert("search_path".into(), "evil".into());
                row.settings.insert("statement_timeout".into(), "0".into());
                row.database_settings.insert("retail".into());
            }
        },
        |o| o.database.roles.values_mut().for_each(|row| row.memberships.clear()),
        |o| {
            for row in o.database.roles.values_mut() {
                row.memberships.push(Membership {
                    group: "retail_owner".into(),
                    grantor: "admin".into(),
                    admin: false,
                    inherit: true,
                    set: true,
                });
                row.memberships.iter_mut().for_each(|membership| membership.set = true);
            }
        },
        |o| {
            for row in o.database.roles.values_mut() {
                row.members.push(Member { name: "mallory".into(), grantor: "postgres".into() });
                row.dependents.push(Dependent {
                    what: "privileges for table retail.orders".into(),
                    grant: Some("ALL ON TABLE retail.orders".into()),
                });
            }
        },
        |o| o.database.roles.values_mut().for_each(|row| row.password_works = Some(false)),
        |o| o.database.logins.clear(),
        |o| o.database.logins.values_mut().for_each(|row| row.tenant = format!("contoso{}", row.slot)),
        |o| {
            let slot = |row: &LoginRow| if row.slot == "a" { "b" } else { "a" }.to_owned();
            o.database.logins.values_mut().for_each(|row| row.slot = slot(row));
        },
        |o| o.database.keys.clear(),
        |o| {
            o.database.keys.insert(9, KeyRow { fingerprint: "old".into(), not_after: Some(1) });
        },
        |o| o.database.keys.values_mut().for_each(|row| row.fingerprint = "other".into()),
        |o| o.database.keys.values_mut().for_each(|row| row.not_after = Some(1)),
        |o| {
            o.database.may_set.insert("temp_file_limit".into());
        },
        |o| o.secrets.clear(),
        |o| o.secrets.values_mut().for_each(|secret| *secret = SecretState::SoftDeleted { owner: Some(UID.into()) }),
        |o| {
            o.secrets
                .values_mut()
                .for_each(|secret| *secret = SecretState::SoftDeleted { owner: Some("uid-deleted".into()) })
        },
        |o| {
            for secret in o.secrets.values_mut() {
                *secret = SecretState::Live { owner: Some("uid-revoked".into()), content: SecretContent::Disabled };
            }
        },
        |o| {
            for secret in o.secrets.values_mut() {
                *secret = SecretState::Live { owner: Some(UID.into()), content: SecretContent::Unusable };
            }
        },
    ];
    sample::select(spoils)
}

pub fn specs() -> impl Strategy<Value = Desired> {
    let names = sample::subsequence(vec!["Seattle", "Redmond", "Tacoma", "Everett", "Online"], 1..=5).prop_shuffle();
    let ids = Just(vec![1_u128, 2, 3, 4, 5, 6]).prop_shuffle();
    (names, ids, any::<bool>(), 1..3_u32).prop_map(|(names, ids, second, kid)| {
        let stores: Vec<(u128, &str)> = ids.into_iter().zip(names).collect();
        desired_with(&stores, if second { Slot::B } else { Slot::A }, kid)
    })
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
            // Nothing of that where it is not beyond doubt that the value is ours.
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
    // What something else keeps stops all of it.
    observed.secrets.insert(name.to_owned(), live(None, SecretContent::Unusable));
    observed.managers.insert(name.to_owned(), "terraform".to_owned());
    assert_eq!(take_over(&observed, true).unwrap_err().reason(), Reason::SecretNotOwned);
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
fn what_cannot_be_taken_from_a_login_is_named_and_the_rest_is_mended() {
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

    /// Whatever was changed behind the operator's back, and whatever the spec asks for next: one pass mends it, the
    /// next one writes nothing.
    #[test]
    fn one_pass_converges(first in specs(), second in specs(), spoils in prop::collection::vec(spoil(), 0..6)) {
        let mut observed = converge(&first, &Observed::default());
        for spoil in spoils {
            spoil(&mut observed);
        }
        converge(&second, &observed);
    }

    /// What is not marked as ours is never changed, unless adoption is asked for; then one pass takes it over.
    #[test]
    fn foreign_things_are_refused_or_adopted_as_a_whole(
        spoils in prop::collection::vec(spoil(), 0..3),
        foreigners in prop::collection::vec(foreign(), 1..4),
    ) {
        let mut observed = converge(&desired(), &Observed::default());
        // A role of more than a login's power is a test of its own.
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
                    prop_assert!(!wanted || plan.adopted.contains(name), "{name} is taken over without a word: {plan:?}");
                }
                converge(&adopting, &observed);
            }
            // More than a login may be: nothing is touched.
            Err(error) => prop_assert_eq!(error.reason(), Reason::RoleExistsNotAdopted),
        }
    }
}
