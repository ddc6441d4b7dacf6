//! Which steps of a plan undo something that was changed behind the operator's back: all those that no new spec,
//! rotation or adoption accounts for.

use storefence_tenancy::{
    credentials::{Slot, context_secret_name, database_secret_name},
    resource::{DriftOutcome, RotationInProgress},
};

use super::{
    action::{DatabaseAction, Plan, SecretAction},
    desired::Desired,
    rotation::Step,
};

/// The role setting that comes from the spec.
const SPEC_SETTING: &str = "statement_timeout";

/// What earlier passes left in the status.
#[derive(Clone, Copy, Debug)]
pub struct Before<'a> {
    /// The tenant has been Ready: there is a state to drift from.
    pub served: bool,
    /// The spec of this generation has been in place before.
    pub same_spec: bool,
    /// The rotation's step.
    pub step: &'a Step,
}

/// The differences that a pass found, and what it did about them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What differs.
    pub changes: Vec<String>,
    /// What was done about it.
    pub outcome: DriftOutcome,
    /// What differs and no step can repair.
    pub stuck: Vec<String>,
    /// The steps that take over roles, secrets and rows.
    pub adopted: Vec<String>,
    /// Whether the adoption has been carried out.
    pub adoption_done: bool,
}

impl Found {
    /// Separates drift and adoption from the other steps of a plan, none of which is taken yet.
    #[must_use]
    pub fn of(plan: &Plan, desired: &Desired, before: &Before<'_>) -> Self {
        let mut found = Self {
            changes: Vec::new(),
            outcome: DriftOutcome::Failed,
            stuck: stuck(plan),
            adopted: Vec::new(),
            adoption_done: false,
        };
        let expected = Expected { desired, before };
        for action in &plan.secrets {
            if plan.adopted.contains(action.subject()) {
                found.adopted.push(action.describe());
            } else if before.served && !expected.secret(action) {
                found.changes.push(action.describe());
            }
        }
        for action in &plan.database {
            let adopted = action.role().is_some_and(|role| plan.adopted.contains(role));
            if adopted || matches!(action, DatabaseAction::AdoptFence { .. }) {
                found.adopted.push(action.describe());
            } else if before.served
                && let Some(action) = expected.database(action)
            {
                found.changes.push(action.describe());
            }
        }
        found
    }

    /// The same in mode Observe: every step counts as a difference.
    #[must_use]
    pub fn observed(plan: &Plan) -> Self {
        Self {
            changes: all(plan),
            outcome: DriftOutcome::Reported,
            stuck: stuck(plan),
            adopted: Vec::new(),
            adoption_done: false,
        }
    }

    /// Whether there is anything to report.
    #[must_use]
    pub fn is_news(&self) -> bool {
        let adopted = self.adoption_done && !self.adopted.is_empty();
        adopted || !self.changes.is_empty() || !self.stuck.is_empty()
    }

    /// What was repaired.
    #[must_use]
    pub fn repaired_changes(&self) -> &[String] {
        if self.outcome == DriftOutcome::Mended { &self.changes } else { &[] }
    }

    /// What still differs.
    #[must_use]
    pub fn open_changes(&self) -> Vec<String> {
        let changes = self.changes.iter().filter(|_| self.outcome != DriftOutcome::Mended);
        changes.chain(&self.stuck).cloned().collect()
    }

    /// Moves the steps that the database refused from the repaired differences to those that stay.
    pub fn refused(&mut self, steps: Vec<String>) {
        self.changes.retain(|change| !steps.iter().any(|step| step.split("; ").any(|step| step == change)));
        self.stuck.extend(steps);
    }

    /// Records that the steps have been taken.
    pub fn repaired(&mut self) {
        self.outcome = DriftOutcome::Mended;
        self.adoption_done = true;
    }
}

/// All steps of a plan as text.
#[must_use]
pub fn all(plan: &Plan) -> Vec<String> {
    let secrets = plan.secrets.iter().map(SecretAction::describe);
    secrets.chain(plan.database.iter().map(DatabaseAction::describe)).collect()
}

fn stuck(plan: &Plan) -> Vec<String> {
    let each = |(role, objects): (&String, &Vec<String>)| {
        objects.iter().map(|what| format!("role {role}: {what}")).collect::<Vec<_>>()
    };
    plan.dependents.iter().flat_map(each).collect()
}

struct Expected<'a> {
    desired: &'a Desired,
    before: &'a Before<'a>,
}

impl Expected<'_> {
    fn secret(&self, action: &SecretAction) -> bool {
        let Step::Switch(RotationInProgress { slot, kid, .. }) = self.before.step else { return false };
        let tenant_id = &self.desired.tenant_id;
        [database_secret_name(tenant_id, *slot), context_secret_name(tenant_id, *kid)]
            .iter()
            .any(|name| name == action.subject())
    }

    /// The part of the step that is not expected.
    fn database(&self, action: &DatabaseAction) -> Option<DatabaseAction> {
        if !self.before.same_spec && of_the_spec(action) {
            return None;
        }
        let Desired { active_kid, .. } = self.desired;
        let of = |slot: Slot, role: &str| self.desired.roles.get(&slot).is_some_and(|wanted| wanted.name == role);
        match (self.before.step, action) {
            (Step::Switch(to), DatabaseAction::SetPassword { slot, .. }) if *slot == to.slot => None,
            (Step::Switch(to), DatabaseAction::SetContextKey { kid, .. } | DatabaseAction::SetKeyEnd { kid, .. })
                if *kid == to.kid =>
            {
                None
            }
            (Step::Switch(to), DatabaseAction::AlterRole { role, .. }) if of(to.slot, role) => but_for_login(action),
            (Step::Overlap(_), DatabaseAction::SetKeyEnd { kid, .. }) if kid != active_kid => None,
            (Step::Retire, DatabaseAction::RemoveContextKey { kid }) if kid != active_kid => None,
            (Step::Retire, DatabaseAction::AlterRole { role, .. }) if of(self.desired.active_slot.other(), role) => {
                but_for_login(action)
            }
            _ => Some(action.clone()),
        }
    }
}

fn of_the_spec(action: &DatabaseAction) -> bool {
    match action {
        DatabaseAction::RenameTenant { .. }
        | DatabaseAction::VacateRetailStore { .. }
        | DatabaseAction::InsertRetailStore { .. }
        | DatabaseAction::RenameRetailStore { .. }
        | DatabaseAction::RemoveFenceStore { .. }
        | DatabaseAction::InsertFenceStore { .. }
        | DatabaseAction::VacateFenceStore { .. }
        | DatabaseAction::RenameFenceStore { .. } => true,
        DatabaseAction::SetRoleSetting { name, .. } => name == SPEC_SETTING,
        DatabaseAction::AlterRole { from, to, connection_limit, .. } => from == to && connection_limit.is_some(),
        _ => false,
    }
}

/// The rest of an `ALTER ROLE` without LOGIN, if there is any.
fn but_for_login(action: &DatabaseAction) -> Option<DatabaseAction> {
    let DatabaseAction::AlterRole { role, from, to, connection_limit } = action else { return None };
    let mut from = *from;
    from.login = to.login;
    (from != *to || connection_limit.is_some()).then(|| DatabaseAction::AlterRole {
        role: role.clone(),
        from,
        to: *to,
        connection_limit: *connection_limit,
    })
}

#[cfg(test)]
#[path = "drift_tests.rs"]
mod tests;
