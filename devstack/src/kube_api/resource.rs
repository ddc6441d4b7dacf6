//! What the server serves: kinds, their names, schemas and printer columns.

use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock},
};

use serde_json::Value;

use super::schema::Schema;

/// The verbs of a kind that can be created, changed and watched.
pub const ALL_VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// One column of `kubectl get`.
#[derive(Debug, Clone)]
pub struct Column {
    pub name: String,
    /// OpenAPI type (`string`, `integer`, `date`, …).
    pub kind: String,
    /// Format, `name` for the name column.
    pub format: String,
    /// Text for `kubectl get --help`-like clients.
    pub description: String,
    /// 0 for always, 1 for `-o wide`.
    pub priority: i64,
    /// JSONPath of a CRD column; empty for built-in columns.
    pub json_path: String,
}

#[derive(Debug)]
pub struct Resource {
    /// API group; empty for core.
    pub group: String,
    pub version: String,
    /// Plural name, as in the path.
    pub plural: String,
    pub singular: String,
    pub kind: String,
    pub list_kind: String,
    pub short_names: Vec<String>,
    /// Categories such as `all`.
    pub categories: Vec<String>,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Whether `/status` is served apart.
    pub has_status: bool,
    /// Verbs of the main resource; a create-only kind has `create` alone.
    pub verbs: &'static [&'static str],
    /// Structural schema of the whole object, metadata included.
    pub schema: Arc<Schema>,
    /// The schema as published in OpenAPI.
    pub openapi: Value,
    /// Printer columns (CRDs only).
    pub columns: Vec<Column>,
    /// Name of the CRD that defines it; none for built-in kinds.
    pub crd: Option<String>,
    /// The table in which objects are kept; two groups may share one (events).
    pub table: Arc<str>,
}

impl Resource {
    /// `retailtenants.retail.storefence.dev`, or `secrets` in the core group.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// `retail.storefence.dev/v1alpha1`, or `v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Whether the kind keeps `metadata.generation`.
    pub fn has_generation(&self) -> bool {
        self.crd.is_some() || matches!(self.kind.as_str(), "CustomResourceDefinition" | "Deployment")
    }

    /// Whether this is the given built-in kind.
    pub fn is(&self, group: &str, kind: &str) -> bool {
        self.crd.is_none() && self.group == group && self.kind == kind
    }
}

/// All served kinds, by group, version and plural.
#[derive(Debug, Default)]
pub struct Registry {
    resources: RwLock<BTreeMap<(String, String, String), Arc<Resource>>>,
}

impl Registry {
    /// A registry of the given kinds.
    pub fn new(resources: Vec<Resource>) -> Self {
        let registry = Self::default();
        for resource in resources {
            registry.insert(resource);
        }
        registry
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<(String, String, String), Arc<Resource>>> {
        self.resources.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Serves a kind, replacing an earlier definition.
    pub fn insert(&self, resource: Resource) {
        let key = (resource.group.clone(), resource.version.clone(), resource.plural.clone());
        self.resources.write().unwrap_or_else(std::sync::PoisonError::into_inner).insert(key, Arc::new(resource));
    }

    /// Stops serving everything that a CRD defined.
    pub fn remove_crd(&self, crd: &str) {
        self.resources
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .retain(|_, resource| resource.crd.as_deref() != Some(crd));
    }

    /// Finds a kind by path.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        self.read().get(&(group.to_owned(), version.to_owned(), plural.to_owned())).cloned()
    }

    /// Every served kind, ordered by group, version and name.
    pub fn all(&self) -> Vec<Arc<Resource>> {
        self.read().values().cloned().collect()
    }

    /// One kind per table: what namespace deletion and garbage collection walk over.
    pub fn by_table(&self, table: &str) -> Option<Arc<Resource>> {
        self.read().values().find(|r| &*r.table == table).cloned()
    }
}
