//! What sets off a pass.

use std::hash::{DefaultHasher, Hash, Hasher};

use kube::{
    Resource, ResourceExt,
    runtime::reflector::{ObjectRef, Store},
};
use storefence_tenancy::{RetailTenant, TenantRules, resource::ROTATE_ANNOTATION};

use super::Guarded;
use crate::plan::conflict::Claimant;

/// A hash of what sets off a pass when it changes: the spec (by its generation), deletion, finalizers, the rotate
/// annotation. Not the status: the operator's own writes would set off the next pass.
// The signature is the one of a predicate.
#[allow(clippy::unnecessary_wraps)]
pub fn fingerprint(object: &Guarded) -> Option<u64> {
    let metadata = object.meta();
    let mut hasher = DefaultHasher::new();
    metadata.generation.hash(&mut hasher);
    metadata.deletion_timestamp.as_ref().map(|time| time.0.as_second()).hash(&mut hasher);
    metadata.finalizers.hash(&mut hasher);
    object.annotations().get(ROTATE_ANNOTATION).hash(&mut hasher);
    Some(hasher.finish())
}

/// All objects with this tenantId.
pub fn claimants(store: &Store<Guarded>, tenant_id: &str) -> Vec<Claimant> {
    let objects = store.state();
    let tenants = objects.iter().filter_map(|object| object.0.as_ref().ok());
    tenants.filter(|tenant| tenant.spec.tenant_id == tenant_id).map(Claimant::of).collect()
}

/// Whether passes look after the object with this UID in this database: it exists, can be read, and is not suspended.
pub fn is_looked_after(store: &Store<Guarded>, database: &str, uid: &str) -> bool {
    let works = |tenant: &RetailTenant| {
        let spec = &tenant.spec;
        !spec.suspend && spec.database_ref.name == database && TenantRules::compile(spec).is_ok()
    };
    let objects = store.state();
    let mut found = objects.iter().filter(|object| object.meta().uid.as_deref() == Some(uid));
    found.any(|object| object.0.as_ref().is_ok_and(works))
}

/// The objects that may be served once this one is gone: those with the same tenantId. If that cannot be read, all of
/// them.
pub fn siblings(store: &Store<Guarded>, gone: &Guarded) -> Vec<ObjectRef<Guarded>> {
    let tenant_id = gone.0.as_ref().ok().map(|tenant| tenant.spec.tenant_id.as_str());
    let shares = |object: &Guarded| match (&object.0, tenant_id) {
        (Ok(tenant), Some(tenant_id)) => tenant.spec.tenant_id == tenant_id,
        _ => true,
    };
    store.state().iter().filter(|object| shares(object)).map(|object| ObjectRef::from_obj(object.as_ref())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(change: serde_json::Value) -> Guarded {
        let mut object = json!({
            "apiVersion": "retail.storefence.dev/v1alpha1", "kind": "RetailTenant",
            "metadata": {"name": "zava", "namespace": "retail", "generation": 1},
            "spec": {"tenantId": "zava"},
        });
        for (key, value) in change.as_object().unwrap() {
            object["metadata"][key] = value.clone();
        }
        // Incomplete on purpose: metadata sets off a pass over unreadable objects too.
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn the_status_sets_nothing_off_and_the_rest_does() {
        let first = fingerprint(&object(json!({})));
        assert_eq!(first, fingerprint(&object(json!({"resourceVersion": "2", "labels": {"a": "b"}}))));
        for change in [
            json!({"generation": 2}),
            json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}),
            json!({"finalizers": ["x"]}),
            json!({"annotations": {ROTATE_ANNOTATION: "now"}}),
        ] {
            assert_ne!(first, fingerprint(&object(change.clone())), "{change}");
        }
    }
}
