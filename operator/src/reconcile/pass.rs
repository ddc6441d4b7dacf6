//! One pass over one tenant: observe, diff, apply, probe.

use std::{sync::Arc, time::Duration};

use k8s_openapi::jiff::Timestamp;
use sqlx::PgConnection;
use storefence_tenancy::{
    RetailTenant, TenantRules,
    resource::{AdoptionPolicy, ContextKeyVersion, Credentials, LoginSlot},
};

use super::{
    failure::Failure,
    held::{self, Held, Stored},
};
use crate::{
    backends::Backends,
    database::{Database, DatabaseError, TenantLock, fence::Mending},
    metrics::Metrics,
    plan::{
        action::{DatabaseAction, Plan},
        conflict::{self, Claimant},
        desired::{Desired, Input},
        diff::diff,
        drift::{Before, Found},
        problem::Problem,
        rotation::{Record, Rotation, Step, View},
        state::{DatabaseState, Observed},
        status::{self, DRIFTED, Done, Outcome, READY, Report, whole_second},
    },
    reason::{Class, Reason},
    vault::{Read, Vault, Version},
    verify::Deviation,
};

/// How often a preview asks for the lock of a tenant while the operator holds it, and the pause between two tries.
const PREVIEW_TRIES: u32 = 50;
const PREVIEW_PAUSE: Duration = Duration::from_millis(100);

/// What a pass works with.
pub struct Work<'a> {
    /// Databases and vaults by name.
    pub backends: &'a Backends,
    /// The object.
    pub tenant: &'a RetailTenant,
    /// All objects that claim its tenantId, itself included.
    pub claimants: &'a [Claimant],
    /// Counts steps and rotations.
    pub metrics: &'a Metrics,
    /// Whether passes look after the tenant of the object with this UID, and so after its logins.
    pub looked_after: &'a (dyn Fn(&str) -> bool + Sync),
    /// Where the rotation of its credentials stands.
    pub rotation: Rotation<'a>,
}

/// Brings database and vault to the state that the spec asks for; in mode Observe, only reports what that would take.
pub async fn pass(work: &Work<'_>) -> Report {
    if work.tenant.spec.suspend {
        return Outcome::Suspended.into();
    }
    let rules = match TenantRules::compile(&work.tenant.spec) {
        Ok(rules) => rules,
        Err(problems) => return failed(vec![Failure::InvalidSpec(problems)]).into(),
    };
    let mut found = None;
    let outcome = locked(work, &rules, &mut found).await;
    match (&work.rotation.step, &outcome) {
        (Step::Switch(_), Ok(Outcome::Done(_))) => work.metrics.rotation(true),
        (Step::Begin(_) | Step::Switch(_) | Step::Retire, Err(failures))
            if failures.iter().any(|failure| failure.class() != Class::Contention) =>
        {
            work.metrics.rotation(false);
        }
        _ => {}
    }
    Report { outcome: outcome.unwrap_or_else(failed), found }
}

/// The outcome of a pass that failed.
pub fn failed(failures: Vec<Failure>) -> Outcome {
    Outcome::Failed(failures.into_iter().map(Problem::from).collect())
}

/// What a pass would do.
pub struct Preview {
    /// The desired state.
    pub desired: Desired,
    /// The steps that lead to it.
    pub plan: Plan,
}

/// Observes and compares, and writes nothing. The database must be migrated.
///
/// # Errors
/// Whatever would fail a pass.
pub async fn preview(work: &Work<'_>) -> Result<Preview, Failure> {
    let rules = TenantRules::compile(&work.tenant.spec).map_err(Failure::InvalidSpec)?;
    let spec = &work.tenant.spec;
    let database = work.backends.database(&spec.database_ref.name)?;
    let vault = work.backends.vault(&spec.key_vault_ref.name)?;
    let desired = desired(work, &rules, &database.salt().await?);
    let mut tries = 1;
    let mut lock = loop {
        match database.lock(rules.tenant_id()).await? {
            Some(lock) => break lock,
            None if tries < PREVIEW_TRIES => tokio::time::sleep(PREVIEW_PAUSE).await,
            None => return Err(Failure::LockContention(rules.tenant_id().to_string())),
        }
        tries += 1;
    };
    let pass = Pass { work, rules: &rules, database: &database, vault: &vault, desired: &desired };
    let preview = pass.preview(&mut lock).await;
    lock.release().await;
    preview
}

async fn locked(work: &Work<'_>, rules: &TenantRules, found: &mut Option<Found>) -> Result<Outcome, Vec<Failure>> {
    let spec = &work.tenant.spec;
    let database = work.backends.database(&spec.database_ref.name);
    let vault = work.backends.vault(&spec.key_vault_ref.name);
    // Both sides are tried, so that the status names every side that is missing.
    let (database, vault) = match (database, vault) {
        (Ok(database), Ok(vault)) => (database, vault),
        (database, vault) => {
            return Err(in_conflict(work, rules, None)
                .into_iter()
                .chain(database.err().map(Failure::from))
                .chain(vault.err().map(Failure::from))
                .collect());
        }
    };
    let mut outcome = attempt(work, rules, found, &database, &vault).await;
    // A database that was created anew is migrated and filled in the same pass.
    let replaced = |failure: &Failure| matches!(failure, Failure::Database(DatabaseError::Replaced { .. }));
    if outcome.as_ref().is_err_and(|failures| failures.iter().any(replaced)) {
        outcome = attempt(work, rules, found, &database, &vault).await;
    }
    outcome
}

async fn attempt(
    work: &Work<'_>,
    rules: &TenantRules,
    found: &mut Option<Found>,
    database: &Database,
    vault: &Vault,
) -> Result<Outcome, Vec<Failure>> {
    let salt = match database.ready().await {
        Ok(salt) => salt,
        Err(error) => {
            let mut failures: Vec<Failure> = in_conflict(work, rules, None).into_iter().collect();
            failures.push(error.into());
            failures.extend(vault.reachable().await.err().map(Failure::from));
            return Err(failures);
        }
    };
    let desired = desired(work, rules, &salt);
    let mut lock = match database.lock(rules.tenant_id()).await {
        Ok(Some(lock)) => lock,
        Ok(None) => return Err(vec![Failure::LockContention(rules.tenant_id().to_string())]),
        Err(error) => return Err(vec![error.into()]),
    };
    let pass = Pass { work, rules, database, vault, desired: &desired };
    let outcome = pass.run(&mut lock, found).await;
    lock.release().await;
    outcome
}

fn desired(work: &Work<'_>, rules: &TenantRules, salt: &Arc<[u8]>) -> Desired {
    desired_with(work, rules, salt, work.rotation.view.credentials)
}

pub(super) fn desired_with(
    work: &Work<'_>,
    rules: &TenantRules,
    salt: &[u8],
    credentials: Option<&Credentials>,
) -> Desired {
    let RetailTenant { metadata, spec, .. } = work.tenant;
    Desired::compute(&Input {
        rules,
        display_name: spec.display_name.as_deref(),
        statement_timeout: spec.gateway.timeout(),
        connection_limit: spec.gateway.connection_limit,
        owner_uid: metadata.uid.as_deref().unwrap_or_default(),
        adopt: spec.adoption_policy == AdoptionPolicy::Adopt,
        credentials,
        step: &work.rotation.step,
        role_salt: salt,
    })
}

/// The failure, if another object owns the tenantId. `recorded` is the owner that the database knows.
fn in_conflict(work: &Work<'_>, rules: &TenantRules, recorded: Option<&str>) -> Option<Failure> {
    let own = work.tenant.metadata.uid.as_deref().unwrap_or_default();
    let owner = conflict::owner(work.claimants, recorded)?;
    (owner.uid != own)
        .then(|| Failure::ConflictingTenant { tenant_id: rules.tenant_id().to_string(), owner: owner.name.clone() })
}

pub(super) struct Pass<'a> {
    pub(super) work: &'a Work<'a>,
    pub(super) rules: &'a TenantRules,
    pub(super) database: &'a Database,
    pub(super) vault: &'a Vault,
    pub(super) desired: &'a Desired,
}

impl Pass<'_> {
    async fn run(&self, lock: &mut TenantLock, found: &mut Option<Found>) -> Result<Outcome, Vec<Failure>> {
        let (state, stored) = tokio::join!(self.database.observe(lock, self.desired), self.read_secrets());
        let recorded = state.as_ref().ok().and_then(|state| state.fence.as_ref()).map(|row| row.owner_uid.as_str());
        if let Some(failure) = in_conflict(self.work, self.rules, recorded) {
            return Err(vec![failure]);
        }
        let (state, stored) = match (state, stored) {
            (Ok(state), Ok(stored)) => (state, stored),
            (Ok(state), Err(failure)) => {
                // Taking a store away needs no vault: callers that lost access to it must not wait for one.
                let withdrawn = self.withdraw(lock, &state).await.err();
                return Err(std::iter::once(failure).chain(withdrawn).collect());
            }
            (Err(error), stored) => return Err(std::iter::once(error.into()).chain(stored.err()).collect()),
        };
        let outcome = self.proceed(lock, state.clone(), stored, found).await;
        if outcome.is_err() {
            // The pass failed as a whole; callers that lost access to a store do not wait for the next one.
            let _ = self.withdraw(lock, &state).await;
        }
        outcome.map_err(|failure| vec![failure])
    }

    /// Compares and writes nothing.
    pub(super) async fn observe_only(
        &self,
        state: DatabaseState,
        stored: &Stored,
        found: &mut Option<Found>,
    ) -> Result<status::Observed, Failure> {
        let held = Held::read(self.desired, self.database.endpoint(), stored);
        let plan = self.compare_only(state, stored, &held).await?;
        let found = found.insert(Found::observed(&plan));
        let missing = self.verify_fence(Mending::Nothing, found).await?;
        Ok(status::Observed::of(&plan, missing))
    }

    /// Verifies the fence as a whole. Returns what the configuration asks for and is not in place.
    async fn verify_fence(&self, mending: Mending, found: &mut Found) -> Result<Vec<Deviation>, Failure> {
        let (look, mended) = self.database.look_at_fence(mending).await?;
        found.changes.extend(mended);
        let deviations = look.deviations(self.work.looked_after);
        if deviations.is_empty() {
            return Ok(look.missing.clone());
        }
        let text = |deviation: &Deviation| {
            let Deviation { object, found, expected, .. } = deviation;
            format!("{object}: found {found}, expected {expected}")
        };
        found.stuck.extend(deviations.iter().map(text));
        Err(Failure::Fence(deviations))
    }

    /// What earlier passes left in the status.
    fn before(&self) -> Before<'_> {
        let RetailTenant { metadata, status, .. } = self.work.tenant;
        let drifted = status.iter().flat_map(|status| &status.conditions).find(|found| found.type_ == DRIFTED);
        Before {
            served: status.as_ref().is_some_and(|status| status.credentials.is_some()),
            same_spec: drifted.is_some_and(|drifted| drifted.observed_generation == metadata.generation),
            step: &self.work.rotation.step,
        }
    }

    pub(super) async fn read_secrets(&self) -> Result<Stored, Failure> {
        let reads = self.desired.secrets().map(|name| async move {
            let read = self.vault.read(name).await?;
            Ok::<_, Failure>((name.to_owned(), read))
        });
        Ok(futures::future::try_join_all(reads).await?.into_iter().collect())
    }

    async fn preview(&self, lock: &mut TenantLock) -> Result<Preview, Failure> {
        let state = self.database.observe(lock, self.desired).await?;
        let recorded = state.fence.as_ref().map(|row| row.owner_uid.as_str());
        if let Some(failure) = in_conflict(self.work, self.rules, recorded) {
            return Err(failure);
        }
        let (desired, left) = self.adjusted(&state).await?;
        if let Some(failure) = left.into_iter().next() {
            return Err(failure);
        }
        let pass = Pass { desired: &desired, ..*self };
        let stored = pass.read_secrets().await?;
        let held = Held::read(&desired, self.database.endpoint(), &stored);
        let plan = pass.compare_only(state, &stored, &held).await?;
        Ok(Preview { plan, desired })
    }

    pub(super) async fn compare_only(
        &self,
        state: DatabaseState,
        stored: &Stored,
        held: &Held,
    ) -> Result<Plan, Failure> {
        let (plan, session) = self.compare(state, stored, held).await?;
        if let Some(session) = session {
            self.database.part(session).await;
        }
        Ok(plan)
    }

    /// The steps, and the session that the active login opened while its password was tried.
    async fn compare(
        &self,
        mut state: DatabaseState,
        stored: &Stored,
        held: &Held,
    ) -> Result<(Plan, Option<PgConnection>), Failure> {
        let session = self.try_passwords(&mut state, &held.material).await?;
        let secrets = stored.iter().map(|(name, read)| (name.clone(), held.state(name, read))).collect();
        let managers = stored.iter().filter_map(|(name, read)| match read {
            Read::Live(secret) => Some((name.clone(), secret.manager.clone()?)),
            Read::Absent | Read::SoftDeleted { .. } => None,
        });
        let recorded = held::recorded(stored, self.work.rotation.view.credentials);
        let plan = diff(self.desired, &Observed { database: state, secrets, managers: managers.collect(), recorded })?;
        Ok((plan, session))
    }

    /// Takes the steps, proves the credentials and goes on with the rotation. `left` has what is known to stay undone.
    pub(super) async fn enforce(
        &self,
        lock: &mut TenantLock,
        state: DatabaseState,
        stored: Stored,
        found: &mut Option<Found>,
        mut left: Vec<Failure>,
    ) -> Result<Done, Failure> {
        let mut held = Held::read(self.desired, self.database.endpoint(), &stored);
        let (plan, session) = self.compare(state, &stored, &held).await?;
        // Without a session the active login has all of its own in use: by gateways, or it has none.
        let proves = !plan.is_empty() || !self.was_ready() || session.is_none();
        let session = match session {
            // A session from before proves nothing about a login that this pass changes.
            Some(session) if !proves || plan.changes_roles() => {
                self.database.part(session).await;
                None
            }
            session => session,
        };
        let found = found.insert(Found::of(&plan, self.desired, &self.before()));
        self.write_secrets(&plan, &stored, &mut held).await?;
        left.extend(self.take_steps(lock, &plan, &held, found).await?);
        let served = self.before().served;
        if !served && !left.is_empty() {
            return Err(left.swap_remove(0));
        }
        let missing = self.verify_fence(Mending::All, found).await?;
        if proves {
            let Desired { active_slot, active_kid, .. } = *self.desired;
            match self.probe(lock, &held.material, active_slot, active_kid, session).await {
                Ok(()) => {}
                // A login with more than it may have must not keep the next one from taking over.
                Err(failure) if !left.is_empty() && failure.reason() == Reason::LoginProbeFailed => left.push(failure),
                Err(failure) => return Err(failure),
            }
        }
        self.rotate(lock, &held.material).await?;
        if !plan.is_empty() {
            tracing::info!(
                tenant = %self.desired.tenant_id,
                secrets = plan.secrets.len(),
                database = plan.database.len(),
                "applied"
            );
        }
        self.done(&held, missing, left)
    }

    /// Takes the steps in the database. Returns what of the plan is not done.
    async fn take_steps(
        &self,
        lock: &mut TenantLock,
        plan: &Plan,
        held: &Held,
        found: &mut Found,
    ) -> Result<Vec<Failure>, Failure> {
        let refused = self.database.apply(lock, self.desired, plan, &held.material, self.before().served).await?;
        found.repaired();
        found.refused(refused.iter().map(|unapplied| unapplied.step.clone()).collect());
        self.work.metrics.steps(plan.database.len(), plan.secrets.len());
        if plan.database.iter().any(|action| matches!(action, DatabaseAction::CreateRole { .. })) {
            let names: Vec<&str> = self.desired.roles.values().map(|role| role.name.as_str()).collect();
            self.database.retire_former(lock, &self.desired.owner_uid, &names).await?;
        }
        // Their sessions began with a password that is no longer valid.
        for role in self.desired.roles.values().filter(|role| plan.adopted.contains(&role.name)) {
            self.database.end_sessions(lock, &role.name).await?;
        }
        let dependents = plan.dependents.iter();
        let dependents =
            dependents.map(|(role, what)| Failure::LoginDependents { role: role.clone(), what: what.join(", ") });
        Ok(refused.into_iter().map(Failure::from).chain(dependents).collect())
    }

    fn was_ready(&self) -> bool {
        self.work.tenant.status.as_ref().is_some_and(|status| {
            let ready = |condition: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
                condition.type_ == READY && condition.status == "True"
            };
            status.credentials.is_some() && status.conditions.iter().any(ready)
        })
    }

    fn done(&self, held: &Held, missing: Vec<Deviation>, left: Vec<Failure>) -> Result<Done, Failure> {
        let now = whole_second(Timestamp::now());
        let Rotation { view, step } = &self.work.rotation;
        let Record { active, end_of_old, in_progress, last } = view.record(step, now);
        let (active_slot, active_kid) = active.unwrap_or((self.desired.active_slot, self.desired.active_kid));
        let version = |name: &str| held.versions.get(name).cloned().unwrap_or_default();
        let slots = self.desired.roles.iter().filter(|(_, role)| role.login).map(|(slot, role)| {
            let Version { id, created } = version(&role.secret);
            LoginSlot {
                slot: *slot,
                login: role.name.clone(),
                secret_name: role.secret.clone(),
                secret_version: id,
                set_at: created,
                retires_at: end_of_old.clone().filter(|_| *slot != active_slot),
            }
        });
        let context_keys = self.desired.keys.iter().map(|(kid, name)| {
            let Version { id, created } = version(name);
            let not_after = end_of_old.clone().filter(|_| *kid != active_kid);
            ContextKeyVersion {
                kid: *kid,
                secret_name: name.clone(),
                secret_version: id,
                created_at: created,
                not_after,
            }
        });
        let credentials =
            Credentials { active_slot, active_kid, slots: slots.collect(), context_keys: context_keys.collect() };
        let after =
            View { credentials: Some(&credentials), in_progress: in_progress.as_ref(), last: last.as_ref(), ..*view };
        let rotation_waits = matches!(step, Step::Overlap(_)) && view.is_asked_for();
        // The next pass writes the old key's end, which it reads from this status: at once, not when the key ends.
        let next = if matches!(step, Step::Switch(_)) { Some(now) } else { after.next(now) };
        Ok(Done {
            stores: self.desired.stores.len(),
            principals: self.rules.rules().len(),
            next,
            credentials,
            rotation: in_progress,
            last_rotation: last,
            missing,
            left: left.into_iter().map(Problem::from).collect(),
            rotation_waits,
        })
    }
}
