//! Credentials that the tenant's rows show and its status does not: another object made them, or the status was lost.

use std::collections::BTreeSet;

use storefence_tenancy::{
    credentials::{Slot, context_secret_name},
    resource::Credentials,
};

use super::{desired::Desired, state::DatabaseState};

/// The pair in force: the login that can log in, and the newest key without an end. `None` where there is no such pair:
/// the tenant then begins with slot a and key 1.
#[must_use]
pub fn in_force(desired: &Desired, database: &DatabaseState) -> Option<Credentials> {
    database.fence.as_ref().filter(|row| row.enabled)?;
    let mine = |slot: &Slot| {
        let role = desired.roles.get(slot)?;
        let row = database.logins.get(&role.name)?;
        let speaks = row.tenant == desired.tenant_id.as_str() && row.slot == slot.as_str();
        (speaks && database.roles.get(&role.name)?.attributes.login).then_some(*slot)
    };
    let slots: Vec<Slot> = Slot::ALL.iter().filter_map(mine).collect();
    let endless = database.keys.iter().filter(|(_, key)| key.not_after.is_none());
    let active_kid = endless.map(|(kid, _)| *kid).max().or_else(|| database.keys.keys().copied().max())?;
    let active_slot = match slots.as_slice() {
        [] => return None,
        [slot] => *slot,
        // Slots and keys move together, beginning with slot a and key 1.
        _ if active_kid % 2 == 1 => Slot::A,
        _ => Slot::B,
    };
    Some(Credentials { active_slot, active_kid, slots: Vec::new(), context_keys: Vec::new() })
}

/// Names of further secrets that the tenant had, or that its next rotation will write.
#[must_use]
pub fn leftovers(desired: &Desired, database: &DatabaseState) -> Vec<String> {
    let wanted: BTreeSet<&str> = desired.secrets().collect();
    let logins = desired.roles.values().map(|role| role.secret.clone());
    let next = super::rotation::next_kid(desired.active_kid);
    let kids: BTreeSet<u32> = database.keys.keys().copied().chain([next]).collect();
    let keys = kids.into_iter().map(|kid| context_secret_name(&desired.tenant_id, kid));
    logins.chain(keys).filter(|name| !wanted.contains(name.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{
        diff::diff,
        model::{desired_with, take},
        state::{KeyRow, Observed},
    };

    #[test]
    fn the_pair_in_force_is_read_from_the_rows() {
        let desired = desired_with(&[(1, "Seattle")], Slot::B, 4);
        let mut observed = Observed::default();
        assert_eq!(in_force(&desired, &observed.database), None, "a new tenant");
        let plan = diff(&desired, &observed).unwrap();
        take(&desired, &mut observed, &plan);
        let found = |observed: &Observed| in_force(&desired, &observed.database).map(|c| (c.active_slot, c.active_kid));
        assert_eq!(found(&observed), Some((Slot::B, 4)));
        assert_eq!(leftovers(&desired, &observed.database), ["sf-zava-db-a", "sf-zava-context-5"]);
        // In an overlap both let in, and the former key has an end.
        let key = KeyRow { fingerprint: String::new(), not_after: Some(9) };
        observed.database.keys.insert(3, key);
        observed.database.roles.get_mut("sf_000000000000_a").unwrap().attributes.login = true;
        assert_eq!(found(&observed), Some((Slot::B, 4)));
        assert_eq!(leftovers(&desired, &observed.database), ["sf-zava-db-a", "sf-zava-context-3", "sf-zava-context-5"]);
        observed.database.fence.as_mut().unwrap().enabled = false;
        assert_eq!(found(&observed), None, "revoked: nothing of it is in force");
    }
}
