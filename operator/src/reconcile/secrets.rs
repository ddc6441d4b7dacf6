//! Passwords and keys in a pass: it tries passwords, writes secrets, probes a login, and takes the steps of a rotation.

use sqlx::PgConnection;
use storefence_runtime::SecretValue;
use storefence_tenancy::{
    credentials::{Slot, context_secret_name, database_secret_name},
    resource::RotationInProgress,
};

use super::{
    failure::Failure,
    held::{Held, Stored},
    pass::Pass,
};
use crate::{
    credentials::{Password, generate_context_key, login_uri},
    database::{
        TenantLock,
        apply::Material,
        probe::{self, Entry},
    },
    plan::{
        action::{Plan, SecretAction},
        desired::Desired,
        rotation::Step,
        state::DatabaseState,
    },
    vault::Read,
};

impl Pass<'_> {
    /// Takes what a step of a rotation does beyond the desired state.
    pub(super) async fn rotate(&self, lock: &mut TenantLock, material: &Material) -> Result<(), Failure> {
        let Desired { tenant_id, active_slot, active_kid, roles, .. } = self.desired;
        match &self.work.rotation.step {
            Step::Wait(_) | Step::Overlap(_) => Ok(()),
            // A secret that an earlier tenant of this name left there must not be taken for a new one.
            Step::Begin(RotationInProgress { slot, kid, .. }) => self.disable_secrets(&[*slot], &[*kid]).await,
            Step::Switch(RotationInProgress { slot, kid, .. }) => self.probe(lock, material, *slot, *kid, None).await,
            Step::Retire => {
                let credentials = self.work.rotation.view.credentials;
                let slots = credentials.iter().flat_map(|credentials| &credentials.slots).map(|slot| slot.slot);
                let keys = credentials.iter().flat_map(|credentials| &credentials.context_keys).map(|key| key.kid);
                let slots: Vec<Slot> = slots.filter(|slot| slot != active_slot).collect();
                let kids: Vec<u32> = keys.filter(|kid| kid != active_kid).collect();
                // The plan has taken LOGIN away. Sessions that began before would outlive that.
                for role in slots.iter().filter_map(|slot| roles.get(slot)) {
                    self.database.end_sessions(lock, &role.name).await?;
                }
                self.disable_secrets(&slots, &kids).await?;
                tracing::info!(tenant = %tenant_id, "the former credentials are disabled");
                Ok(())
            }
        }
    }

    async fn disable_secrets(&self, slots: &[Slot], kids: &[u32]) -> Result<(), Failure> {
        let tenant_id = &self.desired.tenant_id;
        let logins = slots.iter().map(|slot| database_secret_name(tenant_id, *slot));
        for name in logins.chain(kids.iter().map(|kid| context_secret_name(tenant_id, *kid))) {
            self.vault.disable(&name, &self.desired.owner_uid).await?;
        }
        Ok(())
    }

    /// Tries the vault's password of each login and records whether it works. Returns the session of the active login.
    pub(super) async fn try_passwords(
        &self,
        state: &mut DatabaseState,
        material: &Material,
    ) -> Result<Option<PgConnection>, Failure> {
        let mut in_use = None;
        for (slot, role) in self.desired.roles.iter().filter(|(_, role)| role.login) {
            let (Some(row), Some(password)) = (state.roles.get_mut(&role.name), material.passwords.get(slot)) else {
                continue;
            };
            if row.attributes.login {
                let entry = self.database.try_password(&role.name, password).await?;
                row.password_works = Some(!matches!(entry, Entry::Refused));
                match entry {
                    Entry::Session(session) if *slot == self.desired.active_slot => in_use = Some(session),
                    Entry::Session(session) => self.database.part(session).await,
                    Entry::NotHere | Entry::Full | Entry::Refused => {}
                }
            }
        }
        Ok(in_use)
    }

    pub(super) async fn write_secrets(&self, plan: &Plan, stored: &Stored, held: &mut Held) -> Result<(), Failure> {
        let uid = self.desired.owner_uid.as_str();
        for action in &plan.secrets {
            match action {
                SecretAction::Recover { name } => self.vault.recover(name).await?,
                SecretAction::WriteLogin { name, slot } => {
                    let Some(role) = self.desired.roles.get(slot) else { continue };
                    let password = Password::generate()?;
                    let uri = login_uri(self.database.endpoint(), &role.name, &password);
                    let version = self.vault.write(name, SecretValue::new(String::clone(&uri)), uid).await?;
                    held.material.passwords.insert(*slot, password);
                    held.versions.insert(name.clone(), version);
                }
                SecretAction::WriteContextKey { name, kid } => {
                    let key = generate_context_key()?;
                    let version = self.vault.write(name, SecretValue::new(key.to_base64()), uid).await?;
                    held.material.keys.insert(*kid, key);
                    held.versions.insert(name.clone(), version);
                }
                SecretAction::Retire { name, owner } => {
                    if let Some(Read::Live(secret)) = stored.get(name) {
                        self.vault.tag(name, &secret.version.id, uid).await?;
                    } else if let Read::Live(secret) = self.vault.read(name).await? {
                        // Recovered by a step of this plan.
                        self.vault.tag(name, &secret.version.id, uid).await?;
                    }
                    for owner in owner.iter().map(String::as_str).chain([uid]) {
                        self.vault.disable(name, owner).await?;
                    }
                }
                SecretAction::Tag { name } => {
                    if let Some(Read::Live(secret)) = stored.get(name) {
                        self.vault.tag(name, &secret.version.id, uid).await?;
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) async fn probe(
        &self,
        lock: &mut TenantLock,
        material: &Material,
        slot: Slot,
        kid: u32,
        session: Option<PgConnection>,
    ) -> Result<(), Failure> {
        let (Some(role), Some(password), Some(key)) =
            (self.desired.roles.get(&slot), material.passwords.get(&slot), material.keys.get(&kid))
        else {
            return Ok(());
        };
        let credentials = probe::Credentials { login: &role.name, password, kid, key };
        let Desired { tenant_id, stores, .. } = self.desired;
        self.database.probe(lock, &credentials, tenant_id, stores.len(), session).await?;
        Ok(())
    }
}
