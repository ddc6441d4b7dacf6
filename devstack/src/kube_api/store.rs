//! Objects, their versions and their history.
//!
//! One counter gives every write in any table its resourceVersion. Each table keeps the last events in a ring;
//! a watch is a cursor into that ring, so a slow reader costs nothing; one that is too slow gets `410 Gone`.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::{Value, json};
use tokio::sync::watch;

/// How many events a table remembers. Each holds a whole object; a watcher that falls further behind lists again.
const HISTORY: usize = 4_000;

/// Namespace (empty for cluster-scoped kinds) and name.
pub type Key = (String, String);

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    Added,
    Modified,
    Deleted,
}

#[derive(Debug, Clone)]
pub struct Event {
    /// The version that the change made.
    pub version: u64,
    pub kind: EventKind,
    /// The object after the change; for a removal its last state.
    pub object: Arc<Value>,
    /// The object before the change.
    pub previous: Option<Arc<Value>>,
}

#[derive(Debug)]
struct Table {
    objects: BTreeMap<Key, Arc<Value>>,
    history: VecDeque<Event>,
    /// Events up to this version are forgotten.
    compacted: u64,
    newest: watch::Sender<u64>,
}

impl Table {
    fn new(compacted: u64) -> Self {
        Self { objects: BTreeMap::new(), history: VecDeque::new(), compacted, newest: watch::Sender::new(compacted) }
    }
}

#[derive(Debug, Default)]
struct Inner {
    version: u64,
    compacted: u64,
    tables: HashMap<Arc<str>, Table>,
    /// Dependents by the UID of their owner.
    dependents: HashMap<String, HashSet<(Arc<str>, Key)>>,
}

/// Why a commit did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitError {
    /// Somebody else was faster: read again and repeat.
    Raced,
}

pub enum Commit {
    /// A new object, if the name is free.
    Create(Value),
    /// A new state, if the stored object is still the expected one.
    Replace(Arc<Value>, Value),
    /// A removal, if the stored object is still the expected one; the value is its last state.
    Remove(Arc<Value>, Value),
}

/// A list and the version at which it was true.
pub struct Listing {
    pub version: u64,
    /// Objects by namespace and name.
    pub items: Vec<Arc<Value>>,
}

#[derive(Debug, Default)]
pub struct Store {
    inner: Mutex<Inner>,
}

impl Store {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, table: &str, key: &Key) -> Option<Arc<Value>> {
        self.lock().tables.get(table)?.objects.get(key).cloned()
    }

    pub fn version(&self) -> u64 {
        self.lock().version
    }

    /// The objects of a namespace, or of all. A name given along with the namespace is looked up, not searched for.
    pub fn list(&self, table: &str, namespace: Option<&str>, name: Option<&str>) -> Listing {
        let inner = self.lock();
        let items = match (inner.tables.get(table), namespace) {
            (None, _) => Vec::new(),
            (Some(table), Some(namespace)) if name.is_some() => {
                let key = (namespace.to_owned(), name.unwrap_or_default().to_owned());
                table.objects.get(&key).cloned().into_iter().collect()
            }
            (Some(table), None) => table.objects.values().cloned().collect(),
            (Some(table), Some(namespace)) => table
                .objects
                .range((namespace.to_owned(), String::new())..)
                .take_while(|((ns, _), _)| ns == namespace)
                .map(|(_, object)| object.clone())
                .collect(),
        };
        Listing { version: inner.version, items }
    }

    /// Every object of a namespace, with its table.
    pub fn in_namespace(&self, namespace: &str) -> Vec<(Arc<str>, String)> {
        let inner = self.lock();
        let mut found = Vec::new();
        for (name, table) in &inner.tables {
            let range = table.objects.range((namespace.to_owned(), String::new())..);
            found.extend(range.take_while(|((ns, _), _)| ns == namespace).map(|((_, n), _)| (name.clone(), n.clone())));
        }
        found
    }

    /// Objects whose ownerReferences name the UID.
    pub fn dependents(&self, uid: &str) -> Vec<(Arc<str>, Key)> {
        self.lock().dependents.get(uid).map(|set| set.iter().cloned().collect()).unwrap_or_default()
    }

    /// Writes, unless somebody else was faster.
    pub fn commit(&self, table: &Arc<str>, key: Key, commit: Commit) -> Result<Arc<Value>, CommitError> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let version = inner.version + 1;
        let slot = inner.tables.entry(table.clone()).or_insert_with(|| Table::new(inner.compacted));
        let current = slot.objects.get(&key);
        let (kind, mut object, previous) = match commit {
            Commit::Create(_) if current.is_some() => return Err(CommitError::Raced),
            Commit::Create(object) => (EventKind::Added, object, None),
            Commit::Replace(expected, object) | Commit::Remove(expected, object)
                if !current.is_some_and(|c| Arc::ptr_eq(c, &expected)) =>
            {
                drop(object);
                return Err(CommitError::Raced);
            }
            Commit::Replace(expected, object) => (EventKind::Modified, object, Some(expected)),
            Commit::Remove(expected, object) => (EventKind::Deleted, object, Some(expected)),
        };
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let object = Arc::new(object);
        let old_owners = previous.as_ref().map(|p| owners(p)).unwrap_or_default();
        let new_owners = if kind == EventKind::Deleted { Vec::new() } else { owners(&object) };
        if old_owners != new_owners {
            for uid in &old_owners {
                if let Some(set) = inner.dependents.get_mut(uid) {
                    set.remove(&(table.clone(), key.clone()));
                    if set.is_empty() {
                        inner.dependents.remove(uid);
                    }
                }
            }
            for uid in new_owners {
                inner.dependents.entry(uid).or_default().insert((table.clone(), key.clone()));
            }
        }
        if kind == EventKind::Deleted {
            slot.objects.remove(&key);
        } else {
            slot.objects.insert(key, object.clone());
        }
        slot.history.push_back(Event { version, kind, object: object.clone(), previous });
        if slot.history.len() > HISTORY
            && let Some(forgotten) = slot.history.pop_front()
        {
            slot.compacted = forgotten.version;
        }
        inner.version = version;
        slot.newest.send_replace(version);
        Ok(object)
    }

    /// The events of a table after a version and the version that they lead to; the oldest known version when
    /// some of them are forgotten.
    pub fn since(&self, table: &str, version: u64) -> Result<(Vec<Event>, u64), u64> {
        let inner = self.lock();
        let compacted = inner.tables.get(table).map_or(inner.compacted, |t| t.compacted);
        if version < compacted {
            return Err(compacted);
        }
        let Some(table) = inner.tables.get(table) else { return Ok((Vec::new(), inner.version)) };
        let start = table.history.partition_point(|event| event.version <= version);
        Ok((table.history.range(start..).cloned().collect(), inner.version))
    }

    /// Told of every new version of a table.
    pub fn subscribe(&self, table: &Arc<str>) -> watch::Receiver<u64> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let compacted = inner.compacted;
        inner.tables.entry(table.clone()).or_insert_with(|| Table::new(compacted)).newest.subscribe()
    }

    /// Forgets all history: every watch from an older version is answered 410.
    pub fn compact(&self) {
        let mut guard = self.lock();
        let inner = &mut *guard;
        // A version of its own, so that even a reader who is up to date has to list again.
        inner.version += 1;
        inner.compacted = inner.version;
        for table in inner.tables.values_mut() {
            table.history.clear();
            table.compacted = inner.version;
            table.newest.send_replace(inner.version);
        }
    }
}

fn owners(object: &Value) -> Vec<String> {
    let list = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    list.map(|list| list.iter().filter_map(|o| o.get("uid")?.as_str().map(str::to_owned)).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::{Commit, CommitError, EventKind, Store};

    fn key(name: &str) -> super::Key {
        ("ns".into(), name.into())
    }

    #[test]
    fn versions_grow_over_all_tables_and_history_can_be_replayed() {
        let store = Store::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let first = store.commit(&a, key("x"), Commit::Create(json!({"metadata": {}}))).expect("create");
        store.commit(&b, key("x"), Commit::Create(json!({"metadata": {}}))).expect("create");
        let second = store
            .commit(&a, key("x"), Commit::Replace(first.clone(), json!({"metadata": {}, "v": 1})))
            .expect("replace");
        assert_eq!(
            (first["metadata"]["resourceVersion"].as_str(), second["metadata"]["resourceVersion"].as_str()),
            (Some("1"), Some("3"))
        );
        let raced = store.commit(&a, key("x"), Commit::Replace(first, json!({"metadata": {}})));
        assert_eq!(raced.expect_err("stale"), CommitError::Raced);
        let (events, version) = store.since("a", 1).expect("known");
        assert_eq!(version, 3);
        assert_eq!(events.iter().map(|e| (e.version, e.kind)).collect::<Vec<_>>(), [(3, EventKind::Modified)]);
        store.compact();
        assert_eq!(store.since("a", 3).expect_err("forgotten"), 4);
        assert!(store.since("a", 4).expect("nothing new").0.is_empty());
    }

    #[test]
    fn dependents_are_found_by_owner() {
        let store = Store::default();
        let table: Arc<str> = "a".into();
        let owned = json!({"metadata": {"ownerReferences": [{"uid": "u1"}]}});
        let object = store.commit(&table, key("x"), Commit::Create(owned.clone())).expect("create");
        assert_eq!(store.dependents("u1"), [(table.clone(), key("x"))]);
        store.commit(&table, key("x"), Commit::Remove(object, owned)).expect("remove");
        assert!(store.dependents("u1").is_empty());
    }
}
