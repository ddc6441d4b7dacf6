//! Deletion: finalizers, garbage collection by owner, namespaces and definitions that empty themselves.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Cluster, Endpoint, Target, admit, meta, metadata, now, set_meta};
use crate::kube_api::{crd, resource::Resource, status::ApiError, store::Commit};

/// The options of a deletion.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// `dryRun=All`
    pub dry_run: bool,
    /// `preconditions.uid`
    pub uid: Option<String>,
    /// `preconditions.resourceVersion`
    pub version: Option<String>,
    /// `propagationPolicy=Orphan`: dependents stay.
    pub orphan: bool,
}

/// What a deletion did.
#[derive(Debug)]
pub enum Deleted {
    /// The object is gone; this was its last state.
    Gone(Arc<Value>),
    /// The object waits for its finalizers.
    Marked(Arc<Value>),
}

/// Keeps a definition until its objects are gone.
const CRD_CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

impl Cluster {
    /// DELETE of one object.
    pub fn delete(&self, target: &Target, options: &DeleteOptions) -> Result<Deleted, ApiError> {
        let resource = &target.resource;
        if resource.is("", "Namespace") && matches!(target.name.as_str(), "default" | "kube-system") {
            return Err(ApiError::forbidden(resource, &target.name, "this namespace may not be deleted"));
        }
        loop {
            let old = self.get(target)?;
            self.check_delete(target, options, &old)?;
            if !meta(&old, "deletionTimestamp").is_empty() {
                return Ok(Deleted::Marked(old));
            }
            let mut new = (*old).clone();
            if resource.is("apiextensions.k8s.io", "CustomResourceDefinition") && self.has_instances(&target.name) {
                let mut finalizers: Vec<Value> = metadata::finalizers(&new).into_iter().map(|f| json!(f)).collect();
                finalizers.push(json!(CRD_CLEANUP));
                set_meta(&mut new, "finalizers", Value::Array(finalizers));
                crd::set_terminating(&mut new);
            }
            let waits = !metadata::finalizers(&new).is_empty() || admit::held(resource, &new);
            if waits {
                set_meta(&mut new, "deletionTimestamp", json!(now()));
                set_meta(&mut new, "deletionGracePeriodSeconds", json!(0));
                if let Some(generation) = new.pointer("/metadata/generation").and_then(Value::as_i64) {
                    set_meta(&mut new, "generation", json!(generation + 1));
                }
                if resource.is("", "Namespace") {
                    new["status"]["phase"] = json!("Terminating");
                }
            }
            if options.dry_run {
                return Ok(if waits { Deleted::Marked(Arc::new(new)) } else { Deleted::Gone(old) });
            }
            if options.orphan {
                self.orphan_dependents(&old);
            }
            let commit = if waits { Commit::Replace(old, new) } else { Commit::Remove(old, new) };
            let Ok(object) = self.store.commit(&resource.table, target.key(), commit) else { continue };
            if !waits {
                self.after_removal(resource, &object);
                return Ok(Deleted::Gone(object));
            }
            if resource.is("", "Namespace") {
                self.empty_namespace(&target.name);
            } else if resource.is("apiextensions.k8s.io", "CustomResourceDefinition") {
                self.delete_instances(&target.name);
            }
            return Ok(match self.get(target) {
                Ok(object) => Deleted::Marked(object),
                Err(_) => Deleted::Gone(object),
            });
        }
    }

    fn check_delete(&self, target: &Target, options: &DeleteOptions, old: &Value) -> Result<(), ApiError> {
        let conflict = |what: &str, wanted: &str, found: &str| {
            let why = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}");
            Err(ApiError::conflict(&target.resource, &target.name, &why))
        };
        match (&options.uid, &options.version) {
            (Some(uid), _) if uid != meta(old, "uid") => conflict("UID", uid, meta(old, "uid")),
            (_, Some(version)) if version != meta(old, "resourceVersion") => {
                conflict("ResourceVersion", version, meta(old, "resourceVersion"))
            }
            _ => Ok(()),
        }
    }

    /// A definition that was written starts to be served.
    pub(super) fn after_write(&self, resource: &Resource, object: &Value) {
        if resource.is("apiextensions.k8s.io", "CustomResourceDefinition") {
            let name = meta(object, "name");
            self.registry.remove_crd(name);
            // It was compiled once already when the object was validated.
            for served in crd::resources(object).unwrap_or_default() {
                self.registry.insert(served);
            }
        }
    }

    /// What a removal sets off.
    pub(super) fn after_removal(&self, resource: &Arc<Resource>, object: &Value) {
        self.collect_dependents(object);
        if resource.is("apiextensions.k8s.io", "CustomResourceDefinition") {
            self.registry.remove_crd(meta(object, "name"));
        }
        if resource.namespaced {
            self.finish_namespace(meta(object, "namespace"));
        }
        if let Some(crd) = &resource.crd {
            self.finish_definition(crd);
        }
    }

    fn target(&self, table: &str, (namespace, name): &(String, String)) -> Option<Target> {
        let resource = self.registry.by_table(table)?;
        Some(Target { resource, namespace: namespace.clone(), name: name.clone(), endpoint: Endpoint::Main })
    }

    /// Objects whose last owner is gone go too.
    fn collect_dependents(&self, owner: &Value) {
        let uid = meta(owner, "uid");
        for (table, key) in self.store.dependents(uid) {
            let Some(target) = self.target(&table, &key) else { continue };
            let Ok(dependent) = self.get(&target) else { continue };
            let others = owner_references(&dependent).iter().any(|o| o.get("uid").and_then(Value::as_str) != Some(uid));
            if others {
                self.drop_owner(&target, uid);
            } else {
                // Gone already is as good as deleted.
                let _ = self.delete(&target, &DeleteOptions::default());
            }
        }
    }

    fn orphan_dependents(&self, owner: &Value) {
        let uid = meta(owner, "uid");
        for (table, key) in self.store.dependents(uid) {
            if let Some(target) = self.target(&table, &key) {
                self.drop_owner(&target, uid);
            }
        }
    }

    fn drop_owner(&self, target: &Target, uid: &str) {
        self.rewrite(target, |object| {
            let rest: Vec<Value> = owner_references(object)
                .into_iter()
                .filter(|o| o.get("uid").and_then(Value::as_str) != Some(uid))
                .collect();
            if rest.is_empty() {
                if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                    metadata.remove("ownerReferences");
                }
            } else {
                set_meta(object, "ownerReferences", Value::Array(rest));
            }
        });
    }

    /// Changes an object on the server's own account; gives the new state, or none when the object is gone.
    fn rewrite(&self, target: &Target, change: impl Fn(&mut Value)) -> Option<Arc<Value>> {
        loop {
            let old = self.get(target).ok()?;
            let mut new = (*old).clone();
            change(&mut new);
            let gone = !meta(&new, "deletionTimestamp").is_empty()
                && metadata::finalizers(&new).is_empty()
                && !admit::held(&target.resource, &new);
            if new == *old && !gone {
                return Some(old);
            }
            let commit = if gone { Commit::Remove(old, new) } else { Commit::Replace(old, new) };
            if let Ok(object) = self.store.commit(&target.resource.table, target.key(), commit) {
                if gone {
                    self.after_removal(&target.resource, &object);
                    return None;
                }
                return Some(object);
            }
        }
    }

    fn empty_namespace(&self, namespace: &str) {
        for (table, name) in self.store.in_namespace(namespace) {
            if let Some(target) = self.target(&table, &(namespace.to_owned(), name)) {
                // What has finalizers is marked, what is gone is gone: both are fine here.
                let _ = self.delete(&target, &DeleteOptions::default());
            }
        }
        self.finish_namespace(namespace);
    }

    /// A terminating namespace goes when nothing is left in it.
    fn finish_namespace(&self, namespace: &str) {
        let Some(target) = self.target("namespaces", &(String::new(), namespace.to_owned())) else { return };
        let Ok(object) = self.get(&target) else { return };
        if meta(&object, "deletionTimestamp").is_empty() || !self.store.in_namespace(namespace).is_empty() {
            return;
        }
        self.rewrite(&target, |object| {
            if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
                spec.remove("finalizers");
            }
        });
    }

    fn instances(&self, crd: &str) -> Vec<Target> {
        let Some(resource) = self.registry.all().into_iter().find(|r| r.crd.as_deref() == Some(crd)) else {
            return Vec::new();
        };
        let items = self.store.list(&resource.table, None, None).items;
        items
            .iter()
            .map(|object| Target {
                resource: resource.clone(),
                namespace: meta(object, "namespace").to_owned(),
                name: meta(object, "name").to_owned(),
                endpoint: Endpoint::Main,
            })
            .collect()
    }

    fn has_instances(&self, crd: &str) -> bool {
        !self.instances(crd).is_empty()
    }

    fn delete_instances(&self, crd: &str) {
        for target in self.instances(crd) {
            let _ = self.delete(&target, &DeleteOptions::default());
        }
        self.finish_definition(crd);
    }

    fn finish_definition(&self, crd: &str) {
        let Some(target) =
            self.target("customresourcedefinitions.apiextensions.k8s.io", &(String::new(), crd.to_owned()))
        else {
            return;
        };
        let Ok(object) = self.get(&target) else { return };
        if meta(&object, "deletionTimestamp").is_empty() || self.has_instances(crd) {
            return;
        }
        self.rewrite(&target, |object| {
            let rest: Vec<Value> =
                metadata::finalizers(object).into_iter().filter(|f| *f != CRD_CLEANUP).map(|f| json!(f)).collect();
            set_meta(object, "finalizers", Value::Array(rest));
        });
    }
}

fn owner_references(object: &Value) -> Vec<Value> {
    object.pointer("/metadata/ownerReferences").and_then(Value::as_array).cloned().unwrap_or_default()
}
