//! Turns RetailTenant objects into the tenants that are served. Pure, and one object at a time, so that a broken object
//! cannot affect another one.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use kube::api::DynamicObject;
use storefence_tenancy::{RetailTenant, RetailTenantSpec, TenantId, TenantRules};
use uuid::Uuid;

use super::{
    CredentialsInForce, Tenant,
    limits::{Limits, Quotas},
};

/// The tenants in force at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    by_id: HashMap<TenantId, Arc<Tenant>>,
    by_directory: BTreeMap<Uuid, Vec<Arc<Tenant>>>,
}

impl Snapshot {
    /// The tenant with this identifier.
    #[must_use]
    pub fn get(&self, id: &TenantId) -> Option<&Arc<Tenant>> {
        self.by_id.get(id)
    }

    /// The tenants of one directory, by identifier.
    #[must_use]
    pub fn of_directory(&self, directory: Uuid) -> &[Arc<Tenant>] {
        self.by_directory.get(&directory).map_or(&[], Vec::as_slice)
    }

    /// All tenants, by directory and identifier.
    pub fn tenants(&self) -> impl Iterator<Item = &Arc<Tenant>> {
        self.by_directory.values().flatten()
    }

    #[must_use]
    pub fn directories(&self) -> Vec<Uuid> {
        self.by_directory.keys().copied().collect()
    }

    /// Number of tenants.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}

/// An object as last seen.
#[derive(Debug)]
struct Entry {
    uid: Box<str>,
    created: i64,
    rules: Option<Rules>,
    serving: Option<Arc<Tenant>>,
    problem: Option<&'static str>,
    held: Option<Held>,
}

/// Why a valid object is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Held {
    /// `metadata.deletionTimestamp`.
    #[error("it is being deleted")]
    Deleting,
    /// `PolicyVerified` is False.
    #[error("PolicyVerified is False: not served until the fence is as it was shipped")]
    Unfenced,
    /// `Ready` says that another object has its `tenantId`. An object that shares only a store with another one loses
    /// that store alone: the database knows which tenant owns it.
    #[error("its condition Ready says ConflictingTenant: another RetailTenant has its tenantId")]
    Conflict,
    /// The operator has not named a login and a key yet.
    #[error("its status names no credentials yet: the operator has not provisioned it")]
    NoCredentials,
    /// An older object has its `tenantId`.
    #[error("an older RetailTenant has its tenantId")]
    Younger,
}

/// The last spec that compiled; it stays in force while a later one does not compile.
#[derive(Clone, Debug)]
struct Rules {
    rules: Arc<TenantRules>,
    limits: Limits,
    quotas: Quotas,
    display_name: Arc<str>,
    database: Arc<str>,
    vault: Arc<str>,
}

/// The result for one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Served, or waiting for the operator.
    Good,
    /// The object cannot be used; the earlier state stays in force. The text is for the log.
    Broken(String),
}

/// All objects of the source.
#[derive(Debug, Default)]
pub struct Objects {
    entries: BTreeMap<Box<str>, Entry>,
    relisted: Option<HashSet<Box<str>>>,
    names: Names,
}

/// Interned names of databases and vaults: many tenants share few.
#[derive(Debug, Default)]
struct Names(HashSet<Arc<str>>);

impl Names {
    fn of(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return known.clone();
        }
        // Drops names that no tenant uses any more.
        self.0.retain(|known| Arc::strong_count(known) > 1);
        let new: Arc<str> = name.into();
        self.0.insert(new.clone());
        new
    }
}

/// The key of an object.
pub(crate) fn key(object: &DynamicObject) -> Box<str> {
    let meta = &object.metadata;
    format!("{}/{}", meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default()).into()
}

impl Objects {
    /// A full list begins: objects that it does not name are removed when it ends.
    pub fn begin_list(&mut self) {
        self.relisted = Some(HashSet::new());
    }

    /// Keeps an object that the list contains but that could not be read.
    pub fn keep(&mut self, key: &str) {
        if let Some(seen) = &mut self.relisted {
            seen.insert(key.into());
        }
    }

    /// The full list is complete.
    pub fn end_list(&mut self) {
        if let Some(seen) = self.relisted.take() {
            self.entries.retain(|key, _| seen.contains(key));
        }
    }

    /// Applies an object that is new or changed.
    pub fn apply(&mut self, object: DynamicObject) -> Applied {
        let key = key(&object);
        if let Some(seen) = &mut self.relisted {
            seen.insert(key.clone());
        }
        let uid: Box<str> = object.metadata.uid.as_deref().unwrap_or_default().into();
        let created = object.metadata.creation_timestamp.as_ref().map_or(i64::MAX, |time| time.0.as_second());
        // The state of a deleted object with the same name does not apply to this one.
        let before = self.entries.remove(&key).filter(|entry| entry.uid == uid);
        let mut entry = before.unwrap_or(Entry { uid, created, rules: None, serving: None, problem: None, held: None });
        if object.metadata.deletion_timestamp.is_some() {
            entry.serving = None;
            entry.problem = None;
            entry.held = Some(Held::Deleting);
            self.entries.insert(key, entry);
            return Applied::Good;
        }
        let outcome = match object.try_parse::<RetailTenant>() {
            Ok(parsed) => entry.take(&parsed, &mut self.names),
            Err(error) => {
                entry.problem = Some("Malformed");
                Applied::Broken(error.to_string())
            }
        };
        self.entries.insert(key, entry);
        outcome
    }

    /// Removes an object.
    pub fn delete(&mut self, object: &DynamicObject) {
        self.entries.remove(&key(object));
    }

    /// The tenants in force. If two objects claim one `tenantId`, the older one gets it, as in the operator.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut serving: Vec<_> =
            self.entries.values().filter_map(|entry| Some((entry, entry.serving.as_ref()?))).collect();
        serving.sort_by(|(a, _), (b, _)| (a.created, &a.uid).cmp(&(b.created, &b.uid)));
        let mut snapshot = Snapshot::default();
        for (_, tenant) in serving {
            if let std::collections::hash_map::Entry::Vacant(place) = snapshot.by_id.entry(tenant.id().clone()) {
                place.insert(tenant.clone());
                snapshot.by_directory.entry(tenant.rules.directory()).or_default().push(tenant.clone());
            }
        }
        for tenants in snapshot.by_directory.values_mut() {
            tenants.sort_by(|a, b| a.id().cmp(b.id()));
        }
        snapshot
    }

    /// Each valid object, with the reason if it is not served.
    pub fn held<'a>(&'a self, snapshot: &'a Snapshot) -> impl Iterator<Item = (&'a str, Option<Held>)> {
        self.entries.iter().filter_map(|(key, entry)| {
            let Some(tenant) = &entry.serving else {
                return entry.held.filter(|_| entry.problem.is_none()).map(|held| (&**key, Some(held)));
            };
            let in_force = snapshot.get(tenant.id()).is_some_and(|served| Arc::ptr_eq(served, tenant));
            Some((&**key, (!in_force).then_some(Held::Younger)))
        })
    }

    /// Objects by state: served, waiting, broken.
    #[must_use]
    pub fn counts(&self) -> [(&'static str, usize); 3] {
        let broken = self.entries.values().filter(|entry| entry.problem.is_some()).count();
        let served = self.entries.values().filter(|entry| entry.serving.is_some()).count();
        let waiting = self.entries.values().filter(|entry| entry.serving.is_none() && entry.problem.is_none()).count();
        [("served", served), ("waiting", waiting), ("broken", broken)]
    }
}

impl Entry {
    fn take(&mut self, object: &RetailTenant, names: &mut Names) -> Applied {
        let outcome = match TenantRules::compile(&object.spec) {
            Ok(rules) => {
                self.rules = Some(Rules::new(rules, &object.spec, names));
                self.problem = None;
                Applied::Good
            }
            Err(problems) => {
                self.problem = Some("InvalidSpec");
                Applied::Broken(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
            }
        };
        let status = object.status.as_ref();
        let conflict = status.is_some_and(|status| {
            status
                .conditions
                .iter()
                .any(|condition| condition.type_ == "Ready" && condition.reason == "ConflictingTenant")
        });
        // A fence that differs from the shipped one may let rows through: no answer is better than somebody else's row.
        let unfenced = status.is_some_and(|status| {
            status.conditions.iter().any(|condition| condition.type_ == "PolicyVerified" && condition.status == "False")
        });
        let outcome = if unfenced && outcome == Applied::Good {
            self.problem = Some("FenceDeviation");
            Applied::Broken(Held::Unfenced.to_string())
        } else {
            outcome
        };
        let credentials = status.and_then(|status| status.credentials.as_ref());
        self.held = match credentials {
            _ if unfenced => Some(Held::Unfenced),
            _ if conflict => Some(Held::Conflict),
            None => Some(Held::NoCredentials),
            Some(_) => None,
        };
        let credentials = credentials.filter(|_| self.held.is_none());
        self.serving = match (&self.rules, credentials) {
            (Some(rules), Some(credentials)) => {
                let tenant = rules.with(CredentialsInForce::from(credentials));
                // The same content keeps the same Arc: pools compare by value, and calls in progress keep theirs.
                Some(self.serving.take().filter(|serving| **serving == tenant).unwrap_or_else(|| Arc::new(tenant)))
            }
            _ => None,
        };
        outcome
    }
}

impl Rules {
    fn new(rules: TenantRules, spec: &RetailTenantSpec, names: &mut Names) -> Self {
        Self {
            rules: Arc::new(rules),
            limits: Limits::from(&spec.gateway),
            quotas: Quotas::from(&spec.gateway),
            display_name: spec.display_name.as_ref().unwrap_or(&spec.tenant_id).as_str().into(),
            database: names.of(&spec.database_ref.name),
            vault: names.of(&spec.key_vault_ref.name),
        }
    }

    fn with(&self, credentials: CredentialsInForce) -> Tenant {
        let Self { rules, limits, quotas, display_name, database, vault } = self.clone();
        Tenant { rules, limits, quotas, display_name, database, vault, credentials }
    }
}

#[cfg(test)]
mod tests {
    use kube::api::DynamicObject;
    use serde_json::{Value, json};
    use storefence_tenancy::TenantId;

    use super::{Applied, Held, Objects, Snapshot};

    const DIRECTORY: &str = "2f4e6d8c-1a3b-4c7e-9f0a-b2d4f6e8c0a2";

    fn object(name: &str, tenant: &str, change: impl FnOnce(&mut Value)) -> DynamicObject {
        let mut value = json!({
            "apiVersion": "retail.storefence.dev/v1alpha1", "kind": "RetailTenant",
            "metadata": {"name": name, "namespace": "default", "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {
                "tenantId": tenant, "entra": {"tenantId": DIRECTORY}, "databaseRef": {"name": "retail"},
                "keyVaultRef": {"name": "main"},
                "stores": [{"name": "Seattle", "id": "00000000-0000-4000-8000-000000000001"}],
            },
            "status": {"credentials": {"activeSlot": "a", "activeKid": 1}},
        });
        change(&mut value);
        serde_json::from_value(value).expect("an object")
    }

    fn ids(snapshot: &Snapshot) -> Vec<String> {
        let mut ids: Vec<_> = snapshot.by_id.keys().map(ToString::to_string).collect();
        ids.sort();
        ids
    }

    #[test]
    fn a_broken_object_keeps_its_last_good_state_and_disturbs_no_other() {
        let mut objects = Objects::default();
        assert_eq!(objects.apply(object("a", "zava", |_| ())), Applied::Good);
        assert_eq!(objects.apply(object("b", "contoso", |_| ())), Applied::Good);
        for broken in [json!("nonsense"), json!(null), json!({"tenantId": "zava"})] {
            assert!(matches!(objects.apply(object("a", "zava", |o| o["spec"] = broken)), Applied::Broken(_)));
            assert_eq!(ids(&objects.snapshot()), ["contoso", "zava"]);
        }
        let broken = objects.apply(object("a", "zava", |o| {
            o["spec"]["principals"] =
                json!([{"name": "x", "role": "StoreManager", "appRole": "x", "stores": ["Atlantis"]}]);
        }));
        assert!(matches!(broken, Applied::Broken(text) if text.contains("Atlantis")));
        assert_eq!(ids(&objects.snapshot()), ["contoso", "zava"]);
        assert_eq!(objects.counts(), [("served", 2), ("waiting", 0), ("broken", 1)]);
    }

    #[test]
    fn a_broken_spec_does_not_hold_back_a_rotation() {
        let mut objects = Objects::default();
        objects.apply(object("a", "zava", |_| ()));
        objects.apply(object("a", "zava", |o| {
            o["spec"]["stores"] = json!([]);
            o["status"]["credentials"]["activeSlot"] = json!("b");
        }));
        let zava: TenantId = "zava".parse().expect("id");
        assert_eq!(objects.snapshot().get(&zava).expect("served").database_secret(), "sf-zava-db-b");
    }

    #[test]
    fn not_served_without_credentials_in_conflict_unfenced_or_while_deleting() {
        let mut objects = Objects::default();
        let held = |objects: &Objects| objects.held(&objects.snapshot()).next().map(|(_, held)| held);
        objects.apply(object("a", "zava", |o| o["status"] = json!({})));
        assert!(objects.snapshot().is_empty());
        assert_eq!(held(&objects), Some(Some(Held::NoCredentials)));
        let ready = |reason: &str| json!([{"type": "Ready", "status": "False", "reason": reason, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        objects.apply(object("a", "zava", |o| o["status"]["conditions"] = ready("ConflictingTenant")));
        assert!(objects.snapshot().is_empty());
        assert_eq!(held(&objects), Some(Some(Held::Conflict)));
        // A store that another tenant owns does not affect the other stores.
        objects.apply(object("a", "zava", |o| o["status"]["conditions"] = ready("ConflictingStore")));
        assert_eq!(objects.snapshot().len(), 1);
        objects.apply(object("a", "zava", |o| o["status"]["conditions"] = ready("DatabaseUnreachable")));
        assert_eq!(objects.snapshot().len(), 1);
        let broken = objects.apply(object("a", "zava", |o| {
            o["status"]["conditions"] = ready("FenceDeviation");
            o["status"]["conditions"][0]["type"] = json!("PolicyVerified");
        }));
        assert!(matches!(broken, Applied::Broken(_)) && objects.snapshot().is_empty());
        assert_eq!(held(&objects), None, "it was reported as broken");
        objects.apply(object("a", "zava", |_| {}));
        assert_eq!(objects.snapshot().len(), 1, "served again once the fence is whole");
        assert_eq!(held(&objects), Some(None));
        objects.apply(object("a", "zava", |o| o["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z")));
        assert!(objects.snapshot().is_empty());
        assert_eq!(held(&objects), Some(Some(Held::Deleting)));
    }

    #[test]
    fn the_older_object_has_a_tenant_id_that_two_claim() {
        let mut objects = Objects::default();
        objects.apply(object("a", "zava", |o| {
            o["metadata"]["creationTimestamp"] = json!("2026-02-01T00:00:00Z");
            o["spec"]["displayName"] = json!("younger");
        }));
        objects.apply(object("b", "zava", |o| o["spec"]["displayName"] = json!("older")));
        let zava: TenantId = "zava".parse().expect("id");
        let snapshot = objects.snapshot();
        assert_eq!(snapshot.get(&zava).expect("served").display_name.as_ref(), "older");
        let held: Vec<_> = objects.held(&snapshot).collect();
        assert_eq!(held, [("default/a", Some(Held::Younger)), ("default/b", None)]);
    }

    #[test]
    fn a_new_list_drops_what_it_does_not_name() {
        let mut objects = Objects::default();
        objects.apply(object("a", "zava", |_| ()));
        objects.apply(object("b", "contoso", |_| ()));
        objects.begin_list();
        objects.apply(object("b", "contoso", |_| ()));
        assert_eq!(ids(&objects.snapshot()), ["contoso", "zava"], "nothing goes before the list is complete");
        objects.end_list();
        assert_eq!(ids(&objects.snapshot()), ["contoso"]);
    }

    #[test]
    fn a_new_object_of_the_same_name_starts_afresh() {
        let mut objects = Objects::default();
        objects.apply(object("a", "zava", |_| ()));
        objects.apply(object("a", "zava", |o| {
            o["metadata"]["uid"] = json!("another");
            o["spec"] = json!({});
        }));
        assert!(objects.snapshot().is_empty());
    }
}
