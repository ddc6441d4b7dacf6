//! A plan in parts, for when it fails as a whole. Steps that take something away come first and each stands alone: one
//! that the database refuses then keeps no other from being taken.

use std::collections::BTreeSet;

use super::action::{DatabaseAction, Plan};

/// The parts of a plan's steps in the database, in order; each is one transaction.
#[derive(Debug, PartialEq, Eq)]
pub struct Stages {
    /// Taken in this order, whether the ones before succeed or not.
    pub parts: Vec<Plan>,
    /// Taken only if all others were: a caller that is let in finds everything in place.
    pub last: Option<Plan>,
}

/// Splits a plan.
#[must_use]
pub fn stages(plan: &Plan) -> Stages {
    let inserted: BTreeSet<&str> = plan
        .database
        .iter()
        .filter_map(|action| match action {
            DatabaseAction::InsertLogin { role, .. } => Some(role.as_str()),
            _ => None,
        })
        .collect();
    let written: BTreeSet<u32> = plan
        .database
        .iter()
        .filter_map(|action| match action {
            DatabaseAction::SetContextKey { kid, .. } => Some(*kid),
            _ => None,
        })
        .collect();
    let (mut rows_away, mut roles_away, mut rows, mut roles, mut last) = (vec![], vec![], vec![], vec![], vec![]);
    for action in plan.database.iter().flat_map(split) {
        match &action {
            DatabaseAction::RemoveFenceStore { .. } | DatabaseAction::RemoveContextKey { .. } => rows_away.push(action),
            DatabaseAction::SetKeyEnd { kid, not_after: Some(_) } if !written.contains(kid) => rows_away.push(action),
            // A row that is replaced leaves and returns in one transaction: nobody is locked out in between.
            DatabaseAction::RemoveLogin { role } if !inserted.contains(role.as_str()) => rows_away.push(action),
            action if takes_from_a_role(action) => roles_away.push(action.clone()),
            DatabaseAction::EnableFence => last.push(action),
            action if action.role().is_some() => roles.push(action.clone()),
            _ => rows.push(action),
        }
    }
    let part = |database: Vec<DatabaseAction>| Plan { database, creator: plan.creator.clone(), ..Plan::default() };
    let mut parts = vec![part(rows_away)];
    parts.extend(roles_away.into_iter().map(|action| part(vec![action])));
    parts.push(part(rows));
    let names: BTreeSet<String> = roles.iter().filter_map(|action| action.role().map(str::to_owned)).collect();
    for name in names {
        let of_role = roles.iter().filter(|action| action.role() == Some(&name)).cloned().collect();
        parts.push(part(of_role));
    }
    parts.retain(|part| !part.database.is_empty());
    Stages { parts, last: (!last.is_empty()).then(|| part(last)) }
}

/// Whether the step leaves a role with less than before.
pub fn takes_from_a_role(action: &DatabaseAction) -> bool {
    match action {
        DatabaseAction::RevokeMembership { .. }
        | DatabaseAction::RevokeMember { .. }
        | DatabaseAction::RevokeGrant { .. }
        | DatabaseAction::ResetRoleSetting { .. }
        | DatabaseAction::ResetDatabaseSettings { .. }
        | DatabaseAction::ForgetPassword { .. } => true,
        DatabaseAction::AlterRole { from, to, .. } => !to.login || from.login,
        _ => false,
    }
}

/// One `ALTER ROLE` for the attributes that come with the right to change the role, one for those that only a role
/// which has them may change.
fn split(action: &DatabaseAction) -> Vec<DatabaseAction> {
    let DatabaseAction::AlterRole { role, from, to, connection_limit } = action else { return vec![action.clone()] };
    let mut between = *to;
    (between.superuser, between.createdb, between.createrole) = (from.superuser, from.createdb, from.createrole);
    (between.replication, between.bypassrls) = (from.replication, from.bypassrls);
    let alter =
        |from, to, connection_limit| DatabaseAction::AlterRole { role: role.clone(), from, to, connection_limit };
    let mut parts = Vec::new();
    if between != *from || connection_limit.is_some() {
        parts.push(alter(*from, between, *connection_limit));
    }
    if between != *to {
        parts.push(alter(between, *to, None));
    }
    parts
}

#[cfg(test)]
mod tests {
    use storefence_tenancy::credentials::Slot;
    use uuid::Uuid;

    use super::*;
    use crate::plan::state::{Attributes, Member};

    #[test]
    fn taking_away_comes_first_and_each_step_on_a_role_stands_alone() {
        let role = || "sf_000000000000_a".to_owned();
        let mut strange = Attributes::login(true);
        (strange.bypassrls, strange.createrole) = (true, true);
        let member = Member { name: "mallory".into(), grantor: "postgres".into() };
        let id = Uuid::from_u64_pair(1, 1);
        let plan = Plan {
            database: vec![
                DatabaseAction::InsertFenceStore { id, name: "Seattle".into() },
                DatabaseAction::AlterRole {
                    role: role(),
                    from: strange,
                    to: Attributes::login(false),
                    connection_limit: None,
                },
                DatabaseAction::RevokeMember { role: role(), member },
                DatabaseAction::SetPassword { role: role(), slot: Slot::A },
                DatabaseAction::RemoveLogin { role: role() },
                DatabaseAction::InsertLogin { role: role(), slot: Slot::A },
                DatabaseAction::RemoveLogin { role: "stranger".into() },
                DatabaseAction::SetContextKey { kid: 1, secret: "x".into() },
                DatabaseAction::SetKeyEnd { kid: 1, not_after: Some(5) },
                DatabaseAction::RemoveFenceStore { id },
                DatabaseAction::EnableFence,
            ],
            ..Plan::default()
        };
        let Stages { parts, last } = stages(&plan);
        let steps: Vec<Vec<String>> =
            parts.iter().map(|part| part.database.iter().map(DatabaseAction::describe).collect()).collect();
        assert_eq!(
            steps,
            [
                vec!["fence.logins stranger: remove it".to_owned(), format!("fence.tenant_stores {id}: remove it")],
                vec!["role sf_000000000000_a: set NOLOGIN".to_owned()],
                vec!["role sf_000000000000_a: set NOCREATEROLE NOBYPASSRLS".to_owned()],
                vec!["role sf_000000000000_a: revoke the membership of mallory".to_owned()],
                vec![
                    format!("fence.tenant_stores {id}: add store 'Seattle'"),
                    "fence.logins sf_000000000000_a: remove it".to_owned(),
                    "fence.logins sf_000000000000_a: add it as slot a".to_owned(),
                    "fence.context_keys 1: set it from secret x".to_owned(),
                    "fence.context_keys 1: set its end".to_owned(),
                ],
                vec!["role sf_000000000000_a: set the password that Key Vault holds".to_owned()],
            ]
        );
        assert_eq!(last.unwrap().database, [DatabaseAction::EnableFence]);
    }
}
