//! The secrets of one tenant as they were read: values for the steps, and for the diff what they are without the
//! values.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};
use storefence_tenancy::{
    credentials::{ContextKey, HmacPads},
    resource::Credentials,
};

use crate::{
    config::Endpoint,
    credentials::password_from_uri,
    database::apply::Material,
    plan::{
        desired::Desired,
        state::{SecretContent, SecretState},
    },
    vault::{Read, Version},
};

/// The vault's answers by secret name.
pub(super) type Stored = BTreeMap<String, Read>;

/// Usable values, and the versions that they came from.
#[derive(Default)]
pub(super) struct Held {
    /// The values.
    pub material: Material,
    /// Versions by secret.
    pub versions: BTreeMap<String, Version>,
    contents: BTreeMap<String, SecretContent>,
}

impl Held {
    /// Picks what can be used: enabled, and of the shape that the operator writes.
    pub fn read(desired: &Desired, endpoint: &Endpoint, stored: &Stored) -> Self {
        let mut held = Self::default();
        let live = |name: &str| match stored.get(name) {
            Some(Read::Live(secret)) if secret.enabled => Some(secret),
            _ => None,
        };
        for (slot, role) in desired.roles.iter().filter(|(_, role)| role.login) {
            let Some(secret) = live(&role.secret) else { continue };
            let Some(password) = password_from_uri(endpoint, &role.name, secret.value.expose()) else { continue };
            held.material.passwords.insert(*slot, password);
            held.versions.insert(role.secret.clone(), secret.version.clone());
            held.contents.insert(role.secret.clone(), SecretContent::Login);
        }
        for (kid, name) in &desired.keys {
            let Some(secret) = live(name) else { continue };
            let Ok(key) = ContextKey::from_base64(secret.value.expose()) else { continue };
            held.contents.insert(name.clone(), SecretContent::ContextKey { fingerprint: fingerprint(&key.pads()) });
            held.material.keys.insert(*kid, key);
            held.versions.insert(name.clone(), secret.version.clone());
        }
        held
    }

    /// A secret as the diff sees it.
    pub fn state(&self, name: &str, read: &Read) -> SecretState {
        match read {
            Read::Absent => SecretState::Absent,
            Read::SoftDeleted { owner } => SecretState::SoftDeleted { owner: owner.clone() },
            Read::Live(secret) if !secret.enabled => {
                SecretState::Live { owner: secret.owner.clone(), content: SecretContent::Disabled }
            }
            Read::Live(secret) => SecretState::Live {
                owner: secret.owner.clone(),
                content: self.contents.get(name).cloned().unwrap_or(SecretContent::Unusable),
            },
        }
    }
}

/// Names of the secrets whose latest version is the one that the status records.
pub(super) fn recorded(stored: &Stored, credentials: Option<&Credentials>) -> BTreeSet<String> {
    let slots = credentials.iter().flat_map(|credentials| &credentials.slots);
    let keys = credentials.iter().flat_map(|credentials| &credentials.context_keys);
    let known = slots
        .map(|slot| (&slot.secret_name, &slot.secret_version))
        .chain(keys.map(|key| (&key.secret_name, &key.secret_version)));
    let latest = |name: &str, version: &str| match stored.get(name) {
        Some(Read::Live(secret)) => secret.version.id == version,
        _ => false,
    };
    known.filter(|(name, version)| latest(name, version)).map(|(name, _)| name.clone()).collect()
}

/// The same digest that `database::observe` computes from `fence.context_keys`.
fn fingerprint(pads: &HmacPads) -> String {
    let digest = Sha256::new().chain_update(pads.inner).chain_update(pads.outer).finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
