//! The ordered list of steps from the observed to the desired state, or the reason why no step may be taken.

use std::collections::BTreeSet;

use storefence_tenancy::credentials::Slot;
use uuid::Uuid;

use super::{
    action::{Creator, DatabaseAction, Plan, SecretAction},
    desired::{CONNECTION_LIMIT, Desired, DesiredRole, PRIVILEGED_SETTINGS},
    refusal::Refusal,
    state::{Attributes, DatabaseState, Dependent, Membership, Observed, RoleRow, SecretContent, SecretState},
};
use crate::roles::{LOGIN_GROUP, comment_owner};

/// Computes the steps. An empty plan means that nothing needs to be written anywhere.
///
/// # Errors
/// The first thing found that belongs to somebody else: the operator never touches it.
pub fn diff(desired: &Desired, observed: &Observed) -> Result<Plan, Refusal> {
    let owners = Owners::of(desired, &observed.database)?;
    check_stores(desired, &observed.database)?;
    let mut plan = Plan { creator: Creator::of(desired, &observed.database), ..Plan::default() };
    secrets(desired, observed, &owners, &mut plan)?;
    leftovers(desired, observed, &owners, &mut plan)?;
    let database = &observed.database;
    tenant(desired, database, &owners, &mut plan.database);
    retail_stores(desired, database, &mut plan.database);
    fence_stores(desired, database, &mut plan.database);
    for (slot, role) in &desired.roles {
        login_role(desired, *slot, role, database, &owners, &mut plan)?;
    }
    logins(desired, database, &mut plan.database);
    context_keys(desired, observed, &mut plan);
    // All tenants share the group, and GRANT locks it until the end of the transaction: no slow step may follow.
    let outside = desired.roles.values().filter(|role| !is_member(database.roles.get(&role.name)));
    plan.database.extend(outside.map(|role| DatabaseAction::GrantLoginGroup { role: role.name.clone() }));
    if !database.fence.as_ref().is_some_and(|row| row.enabled) {
        plan.database.push(DatabaseAction::EnableFence);
    }
    Ok(plan)
}

/// Removals of stores that the spec no longer has, if the tenant is this object's. They take access away from callers
/// and so do not wait for anything else.
#[must_use]
pub fn withdrawals(desired: &Desired, database: &DatabaseState) -> Plan {
    let own = database.fence.as_ref().is_some_and(|row| row.owner_uid == desired.owner_uid);
    let gone = database
        .fence_stores
        .iter()
        .filter(|(id, row)| own && row.tenant == desired.tenant_id.as_str() && !desired.stores.contains_key(id));
    Plan { database: gone.map(|(id, _)| DatabaseAction::RemoveFenceStore { id: *id }).collect(), ..Plan::default() }
}

/// Stores of the spec that another tenant has in this database.
#[must_use]
pub fn conflicting_stores(desired: &Desired, database: &DatabaseState) -> Vec<(Uuid, String)> {
    let other = |id: &Uuid| {
        let retail = database.retail_stores.get(id).map(|row| &row.tenant);
        let fence = database.fence_stores.get(id).map(|row| &row.tenant);
        let owner = retail.into_iter().chain(fence).find(|owner| *owner != desired.tenant_id.as_str())?;
        Some((*id, owner.clone()))
    };
    desired.stores.keys().filter_map(other).collect()
}

/// Whose marks count as ours: our own, and those of a predecessor that was revoked or is being taken over.
struct Owners<'a> {
    own: &'a str,
    predecessor: Option<&'a str>,
    /// The predecessor was not revoked: its tenant is taken over as it is.
    adopted: bool,
}

impl<'a> Owners<'a> {
    fn of(desired: &'a Desired, database: &'a DatabaseState) -> Result<Self, Refusal> {
        let own = desired.owner_uid.as_str();
        match &database.fence {
            Some(row) if row.owner_uid != own && row.enabled && !desired.adopt => {
                Err(Refusal::TenantNotAdopted { tenant_id: desired.tenant_id.to_string(), uid: row.owner_uid.clone() })
            }
            Some(row) if row.owner_uid != own => {
                Ok(Self { own, predecessor: Some(&row.owner_uid), adopted: row.enabled })
            }
            _ => Ok(Self { own, predecessor: None, adopted: false }),
        }
    }

    fn owns(&self, uid: Option<&str>) -> bool {
        uid.is_some_and(|uid| uid == self.own || Some(uid) == self.predecessor)
    }
}

fn check_stores(desired: &Desired, database: &DatabaseState) -> Result<(), Refusal> {
    match conflicting_stores(desired, database).into_iter().next() {
        Some((id, owner)) => Err(Refusal::conflicting_store(desired, id, owner)),
        None => Ok(()),
    }
}

fn secrets(desired: &Desired, observed: &Observed, owners: &Owners<'_>, plan: &mut Plan) -> Result<(), Refusal> {
    let logins = desired.roles.iter().filter(|(_, role)| role.login).map(|(slot, role)| {
        let write = SecretAction::WriteLogin { name: role.secret.clone(), slot: *slot };
        (role.secret.as_str(), write, false)
    });
    let keys = desired
        .keys
        .iter()
        .map(|(kid, name)| (name.as_str(), SecretAction::WriteContextKey { name: name.clone(), kid: *kid }, true));
    for (name, write, key) in logins.chain(keys) {
        let recover = || SecretAction::Recover { name: name.to_owned() };
        let state = observed.secrets.get(name).unwrap_or(&SecretState::Absent);
        match state {
            SecretState::Absent => plan.secrets.push(write),
            // Deleted or disabled, and tagged as a RetailTenant's: an earlier one of this tenantId left it behind, and
            // nobody can use it. The UID is not compared, because the row that knew the earlier one may be gone too.
            SecretState::SoftDeleted { owner: Some(_) } => plan.secrets.extend([recover(), write]),
            SecretState::Live { owner: Some(_), content: SecretContent::Disabled } => plan.secrets.push(write),
            SecretState::Live { owner, content } if owners.owns(owner.as_deref()) => {
                if !is_usable(content, key) {
                    plan.secrets.push(write);
                } else if owner.as_deref() != Some(owners.own) {
                    plan.secrets.push(SecretAction::Tag { name: name.to_owned() });
                }
                if owners.adopted && owner.as_deref() != Some(owners.own) {
                    plan.adopted.insert(name.to_owned());
                }
            }
            // Ours by its version, although its tags are lost or carry another UID.
            SecretState::Live { content, .. }
                if observed.recorded.contains(name)
                    && !observed.managers.contains_key(name)
                    && is_usable(content, key) =>
            {
                plan.secrets.push(SecretAction::Tag { name: name.to_owned() });
            }
            SecretState::SoftDeleted { .. } | SecretState::Live { .. } => {
                adoptable_secret(desired, name, state, observed)?;
                // A value that somebody else wrote is never used.
                if matches!(state, SecretState::SoftDeleted { .. }) {
                    plan.secrets.push(recover());
                }
                plan.secrets.push(write);
                plan.adopted.insert(name.to_owned());
            }
        }
    }
    Ok(())
}

/// Secrets under names that only the next rotation will write. What a predecessor or somebody else left in them is
/// taken over with the rest, and disabled.
fn leftovers(desired: &Desired, observed: &Observed, owners: &Owners<'_>, plan: &mut Plan) -> Result<(), Refusal> {
    for name in &desired.leftovers {
        let state = observed.secrets.get(name).unwrap_or(&SecretState::Absent);
        let (owner, enabled) = match state {
            SecretState::Absent | SecretState::SoftDeleted { owner: Some(_) } => continue,
            SecretState::SoftDeleted { owner: None } => (None, false),
            SecretState::Live { owner, content } => (owner.as_deref(), *content != SecretContent::Disabled),
        };
        // Disabled and tagged as a RetailTenant's: nobody can use it, and a rotation may overwrite it.
        if owner.is_some() && !enabled || owner == Some(owners.own) {
            continue;
        }
        if !owners.owns(owner) {
            if !desired.adopt {
                continue;
            }
            adoptable_secret(desired, name, state, observed)?;
            if matches!(state, SecretState::SoftDeleted { .. }) {
                plan.secrets.push(SecretAction::Recover { name: name.clone() });
            }
        }
        plan.secrets.push(SecretAction::Retire { name: name.clone(), owner: owner.map(str::to_owned) });
        plan.adopted.insert(name.clone());
    }
    Ok(())
}

/// Whether a secret holds what its name says: a key or a login.
fn is_usable(content: &SecretContent, key: bool) -> bool {
    match content {
        SecretContent::Login => !key,
        SecretContent::ContextKey { .. } => key,
        SecretContent::Disabled | SecretContent::Unusable => false,
    }
}

fn adoptable_secret(desired: &Desired, name: &str, state: &SecretState, observed: &Observed) -> Result<(), Refusal> {
    let secret = name.to_owned();
    match (desired.adopt, observed.managers.get(name), state) {
        (true, Some(manager), _) => Err(Refusal::SecretManaged { secret, manager: manager.clone() }),
        (true, None, _) => Ok(()),
        (false, _, SecretState::SoftDeleted { .. }) => Err(Refusal::SecretSoftDeleted { secret }),
        (false, ..) => Err(Refusal::SecretNotOwned { secret }),
    }
}

fn tenant(desired: &Desired, database: &DatabaseState, owners: &Owners<'_>, out: &mut Vec<DatabaseAction>) {
    let display_name = desired.display_name.clone();
    match &database.tenant {
        None => out.push(DatabaseAction::InsertTenant { display_name }),
        Some(row) if row.display_name != display_name => out.push(DatabaseAction::RenameTenant { display_name }),
        Some(_) => {}
    }
    match &database.fence {
        None => out.push(DatabaseAction::InsertFence),
        Some(row) if owners.adopted => out.push(DatabaseAction::AdoptFence { from: row.owner_uid.clone() }),
        Some(row) if row.owner_uid != desired.owner_uid => out.push(DatabaseAction::ClaimFence),
        Some(_) => {}
    }
}

/// A name that no spec can hold: `~` is not allowed in the name of a store.
fn placeholder(name: &str, id: &Uuid) -> String {
    let name = name.split('~').next().unwrap_or_default();
    format!("{name}~{id}")
}

/// Stores that hold a name which the spec gives to another store: both, where two stores swap names.
fn in_the_way<'a>(desired: &Desired, rows: impl Iterator<Item = (&'a Uuid, &'a String)>) -> Vec<(Uuid, String)> {
    let wanted: std::collections::BTreeMap<&str, &Uuid> =
        desired.stores.iter().map(|(id, store)| (store.name.as_str(), id)).collect();
    rows.filter(|(id, name)| wanted.get(name.as_str()).is_some_and(|owner| owner != id))
        .map(|(id, name)| (*id, placeholder(name, id)))
        .collect()
}

fn retail_stores(desired: &Desired, database: &DatabaseState, out: &mut Vec<DatabaseAction>) {
    let own = database.retail_stores.iter().filter(|(_, row)| row.tenant == desired.tenant_id.as_str());
    let vacated = in_the_way(desired, own.map(|(id, row)| (id, &row.name)));
    let moved: BTreeSet<Uuid> = vacated.iter().map(|(id, _)| *id).collect();
    out.extend(vacated.into_iter().map(|(id, name)| DatabaseAction::VacateRetailStore { id, name }));
    for (id, store) in &desired.stores {
        let (id, name, display_name) = (*id, store.name.clone(), store.display_name.clone());
        match database.retail_stores.get(&id) {
            None => out.push(DatabaseAction::InsertRetailStore { id, name, display_name }),
            Some(row) if moved.contains(&id) || row.name != name || row.display_name != display_name => {
                out.push(DatabaseAction::RenameRetailStore { id, name, display_name });
            }
            Some(_) => {}
        }
    }
}

fn fence_stores(desired: &Desired, database: &DatabaseState, out: &mut Vec<DatabaseAction>) {
    let own = || database.fence_stores.iter().filter(|(_, row)| row.tenant == desired.tenant_id.as_str());
    let gone = own().filter(|(id, _)| !desired.stores.contains_key(id));
    out.extend(gone.map(|(id, _)| DatabaseAction::RemoveFenceStore { id: *id }));
    let staying = own().filter(|(id, _)| desired.stores.contains_key(id));
    let vacated = in_the_way(desired, staying.map(|(id, row)| (id, &row.name)));
    let moved: BTreeSet<Uuid> = vacated.iter().map(|(id, _)| *id).collect();
    out.extend(vacated.into_iter().map(|(id, name)| DatabaseAction::VacateFenceStore { id, name }));
    for (id, store) in &desired.stores {
        let (id, name) = (*id, store.name.clone());
        match database.fence_stores.get(&id) {
            None => out.push(DatabaseAction::InsertFenceStore { id, name }),
            Some(row) if moved.contains(&id) || row.name != name => {
                out.push(DatabaseAction::RenameFenceStore { id, name });
            }
            Some(_) => {}
        }
    }
}

fn login_role(
    desired: &Desired,
    slot: Slot,
    wanted: &DesiredRole,
    database: &DatabaseState,
    owners: &Owners<'_>,
    plan: &mut Plan,
) -> Result<(), Refusal> {
    let rewritten =
        plan.secrets.iter().any(|action| matches!(action, SecretAction::WriteLogin { slot: s, .. } if *s == slot));
    let role = wanted.name.clone();
    let found = database.roles.get(&role);
    let to = Attributes::login(wanted.login);
    // Somebody who had the role before may know its password.
    let mut stranger = false;
    match found {
        None => plan.database.push(DatabaseAction::CreateRole {
            role: role.clone(),
            attributes: to,
            connection_limit: wanted.connection_limit.unwrap_or(CONNECTION_LIMIT),
        }),
        Some(row) => {
            let owner = row.comment.as_deref().and_then(comment_owner);
            stranger = !owners.owns(owner);
            if stranger {
                adoptable_role(desired, &role, row)?;
            }
            if stranger || owners.adopted && owner != Some(owners.own) {
                plan.adopted.insert(role.clone());
            }
            let connection_limit = wanted.connection_limit.filter(|limit| *limit != row.connection_limit);
            if row.attributes != to || connection_limit.is_some() {
                let from = row.attributes;
                plan.database.push(DatabaseAction::AlterRole { role: role.clone(), from, to, connection_limit });
            }
        }
    }
    if found.and_then(|row| row.comment.as_deref()) != Some(desired.role_comment().as_str()) {
        plan.database.push(DatabaseAction::CommentRole { role: role.clone() });
    }
    role_settings(wanted, found, database, &mut plan.database);
    memberships(&role, found, &mut plan.database);
    if let Some(row) = found {
        dependents(&role, row, plan);
    }
    if wanted.login {
        // A role that could not log in has no known password, or an old one.
        let could_log_in = found.is_some_and(|row| row.attributes.login && row.password_works != Some(false));
        if rewritten || stranger || !could_log_in {
            plan.database.push(DatabaseAction::SetPassword { role, slot });
        }
    } else if stranger && found.is_some_and(|row| !row.attributes.login) {
        // Otherwise the step that takes LOGIN away removes it.
        plan.database.push(DatabaseAction::ForgetPassword { role });
    }
    Ok(())
}

/// Whether a role of somebody else may become ours: it must not be more than a login.
fn adoptable_role(desired: &Desired, role: &str, row: &RoleRow) -> Result<(), Refusal> {
    let role = role.to_owned();
    if !desired.adopt {
        return Err(Refusal::RoleNotAdopted { role });
    }
    let mut reasons: Vec<String> = Vec::new();
    reasons.extend(row.attributes.superuser.then(|| "it is superuser".to_owned()));
    reasons.extend(row.attributes.replication.then(|| "it may replicate".to_owned()));
    reasons.extend(row.dependents.iter().map(|dependent| dependent.what.clone()));
    reasons.extend(row.members.iter().map(|member| format!("{} is a member of it", member.name)));
    if reasons.is_empty() { Ok(()) } else { Err(Refusal::RoleNotAdoptable { role, problem: shorten(&reasons) }) }
}

fn shorten(reasons: &[String]) -> String {
    let shown = reasons.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    match reasons.len().saturating_sub(3) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// A login has no privileges by name and no members: revokes both.
fn dependents(role: &str, row: &RoleRow, plan: &mut Plan) {
    for member in &row.members {
        plan.database.push(DatabaseAction::RevokeMember { role: role.to_owned(), member: member.clone() });
    }
    for Dependent { what, grant } in &row.dependents {
        match grant {
            Some(grant) => {
                plan.database.push(DatabaseAction::RevokeGrant { role: role.to_owned(), grant: grant.clone() });
            }
            None => plan.dependents.entry(role.to_owned()).or_default().push(what.clone()),
        }
    }
}

/// `fence.logins`: rows with one of our names, or for this tenant, that are not exactly right are removed.
fn logins(desired: &Desired, database: &DatabaseState, out: &mut Vec<DatabaseAction>) {
    let right = |name: &str, slot: Slot| {
        let row = database.logins.get(name);
        row.is_some_and(|row| row.tenant == desired.tenant_id.as_str() && row.slot == slot.as_str())
    };
    let wanted = |name: &str| desired.roles.iter().find(|(_, role)| role.name == name).map(|(slot, _)| *slot);
    let wrong = database.logins.keys().filter(|name| !wanted(name).is_some_and(|slot| right(name, slot)));
    out.extend(wrong.map(|name| DatabaseAction::RemoveLogin { role: name.clone() }));
    for (slot, role) in desired.roles.iter().filter(|(slot, role)| !right(&role.name, **slot)) {
        out.push(DatabaseAction::InsertLogin { role: role.name.clone(), slot: *slot });
    }
}

fn role_settings(
    wanted: &DesiredRole,
    found: Option<&RoleRow>,
    database: &DatabaseState,
    out: &mut Vec<DatabaseAction>,
) {
    let role = || wanted.name.clone();
    let permitted = |name: &str| !PRIVILEGED_SETTINGS.contains(&name) || database.may_set.contains(name);
    for (name, value) in wanted.settings.iter().filter(|(name, _)| permitted(name)) {
        if found.and_then(|row| row.settings.get(name)) != Some(value) {
            let (name, value) = (name.clone(), value.clone());
            out.push(DatabaseAction::SetRoleSetting { role: role(), name, value });
        }
    }
    let Some(found) = found else { return };
    let foreign = found.settings.keys().filter(|name| !wanted.settings.contains_key(*name));
    out.extend(foreign.map(|name| DatabaseAction::ResetRoleSetting { role: role(), name: name.clone() }));
    let databases = found.database_settings.iter().cloned();
    out.extend(databases.map(|database| DatabaseAction::ResetDatabaseSettings { role: role(), database }));
}

fn memberships(role: &str, found: Option<&RoleRow>, out: &mut Vec<DatabaseAction>) {
    let held = found.map(|row| row.memberships.as_slice()).unwrap_or_default();
    let wrong = held.iter().filter(|membership| !is_right(membership)).cloned();
    out.extend(wrong.map(|membership| DatabaseAction::RevokeMembership { role: role.to_owned(), membership }));
}

fn is_right(membership: &Membership) -> bool {
    let Membership { group, inherit, set, admin, .. } = membership;
    group == LOGIN_GROUP && *inherit && !set && !admin
}

fn is_member(found: Option<&RoleRow>) -> bool {
    found.is_some_and(|row| row.memberships.iter().any(is_right))
}

fn context_keys(desired: &Desired, observed: &Observed, plan: &mut Plan) {
    let stale = observed.database.keys.keys().filter(|kid| !desired.keys.contains_key(kid));
    plan.database.extend(stale.map(|kid| DatabaseAction::RemoveContextKey { kid: *kid }));
    for (kid, secret) in &desired.keys {
        let rewritten = plan
            .secrets
            .iter()
            .any(|action| matches!(action, SecretAction::WriteContextKey { kid: k, .. } if k == kid));
        let found = observed.database.keys.get(kid);
        let matches = match (observed.secrets.get(secret), found) {
            (Some(SecretState::Live { content: SecretContent::ContextKey { fingerprint }, .. }), Some(row)) => {
                row.fingerprint == *fingerprint
            }
            _ => false,
        };
        let set = rewritten || !matches;
        if set {
            plan.database.push(DatabaseAction::SetContextKey { kid: *kid, secret: secret.clone() });
        }
        // A row that is written now has none.
        let end = found.filter(|_| !set).and_then(|row| row.not_after);
        let not_after = desired.key_ends.get(kid).copied();
        if end != not_after {
            plan.database.push(DatabaseAction::SetKeyEnd { kid: *kid, not_after });
        }
    }
}

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "adoption_tests.rs"]
mod adoption_tests;
