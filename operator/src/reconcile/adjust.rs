//! How the tenant's rows change what a pass wants: credentials that the status does not name, stores that it cannot
//! have.

use storefence_tenancy::resource::Mode;

use super::{
    failure::Failure,
    held::Stored,
    pass::{Pass, desired_with},
};
use crate::{
    database::{TenantLock, apply::Material},
    plan::{
        desired::Desired,
        diff::{conflicting_stores, withdrawals},
        drift::Found,
        refusal::Refusal,
        state::DatabaseState,
        status::Outcome,
        takeover,
    },
};

impl Pass<'_> {
    /// Takes away the stores that the spec no longer has.
    pub(super) async fn withdraw(&self, lock: &mut TenantLock, state: &DatabaseState) -> Result<(), Failure> {
        let plan = withdrawals(self.desired, state);
        if self.work.tenant.spec.mode == Mode::Enforce && !plan.is_empty() {
            self.database.apply(lock, self.desired, &plan, &Material::default(), false).await?;
            self.work.metrics.steps(plan.database.len(), plan.secrets.len());
            let stores = plan.database.len();
            tracing::info!(tenant = %self.desired.tenant_id, stores, "taken away before the rest");
        }
        Ok(())
    }

    /// The rest of a pass, with the desired state adjusted to the rows.
    pub(super) async fn proceed(
        &self,
        lock: &mut TenantLock,
        state: DatabaseState,
        stored: Stored,
        found: &mut Option<Found>,
    ) -> Result<Outcome, Failure> {
        let (desired, mut left) = self.adjusted(&state).await?;
        let pass = Pass { desired: &desired, ..*self };
        let stored = if desired.secrets().eq(self.desired.secrets()) { stored } else { pass.read_secrets().await? };
        match self.work.tenant.spec.mode {
            Mode::Enforce => pass.enforce(lock, state, stored, found, left).await.map(Outcome::Done),
            Mode::Observe if !left.is_empty() => Err(left.swap_remove(0)),
            Mode::Observe => pass.observe_only(state, &stored, found).await.map(Outcome::Observed),
        }
    }

    /// The desired state, with the credentials in force where the status names none, and without the stores that
    /// another tenant has. Those are returned as failures.
    pub(super) async fn adjusted(&self, state: &DatabaseState) -> Result<(Desired, Vec<Failure>), Failure> {
        let mut desired = self.desired.clone();
        let credentials = self.work.rotation.view.credentials;
        let foreign = state.fence.as_ref().is_some_and(|row| row.owner_uid != desired.owner_uid);
        if credentials.is_none()
            && let Some(in_force) = takeover::in_force(&desired, state)
        {
            let salt = self.database.salt().await?;
            desired = desired_with(self.work, self.rules, &salt, Some(&in_force));
        }
        if foreign || credentials.is_none() && desired.adopt {
            desired.leftovers = takeover::leftovers(&desired, state);
        }
        let mut left = Vec::new();
        // A tenant that is served goes on without them. A new one is made whole or not at all.
        if credentials.is_some() {
            let conflicts = conflicting_stores(&desired, state);
            let refusal = |(id, owner): &(_, String)| Refusal::conflicting_store(&desired, *id, owner.clone()).into();
            left.extend(conflicts.iter().map(refusal));
            desired = desired.without(&conflicts);
        }
        Ok((desired, left))
    }
}
