//! A model of vault and database for the tests of this module: it takes the steps of a plan and checks that each of them
//! is possible.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{prelude::*, sample};
use storefence_tenancy::{TenantId, credentials::Slot};
use uuid::Uuid;

use super::{
    action::{DatabaseAction, Plan, SecretAction},
    desired::{Desired, DesiredRole, PRIVILEGED_SETTINGS, StoreNames},
    diff::diff,
    state::{
        DatabaseState, Dependent, FenceRow, FenceStore, KeyRow, LoginRow, Member, Membership, Observed, RetailStore,
        RoleRow, SecretContent, SecretState, TenantRow,
    },
};
use crate::roles::LOGIN_GROUP;

pub const UID: &str = "uid-own";
pub const PREDECESSOR: &str = "uid-before";

pub fn desired_with(stores: &[(u128, &str)], active: Slot, kid: u32) -> Desired {
    let tenant_id: TenantId = "zava".parse().unwrap();
    let role = |slot: Slot| DesiredRole {
        name: format!("sf_000000000000_{slot}"),
        login: slot == active,
        secret: format!("sf-zava-db-{slot}"),
        connection_limit: Some(20),
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

/// Something that was changed behind the operator's back.
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

/// A tenant as some spec wants it.
pub fn specs() -> impl Strategy<Value = Desired> {
    let names = sample::subsequence(vec!["Seattle", "Redmond", "Tacoma", "Everett", "Online"], 1..=5).prop_shuffle();
    let ids = Just(vec![1_u128, 2, 3, 4, 5, 6]).prop_shuffle();
    (names, ids, any::<bool>(), 1..3_u32).prop_map(|(names, ids, second, kid)| {
        let stores: Vec<(u128, &str)> = ids.into_iter().zip(names).collect();
        desired_with(&stores, if second { Slot::B } else { Slot::A }, kid)
    })
}
