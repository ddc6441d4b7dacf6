//! Reads and writes of one `RetailTenant`, which also work for an object that cannot be read as one.

use std::time::Duration;

use kube::{
    Api, Client, Resource,
    api::{DynamicObject, ObjectMeta, Patch, PatchParams},
    core::{ApiResource, PartialObjectMeta},
    runtime::events::{Event, EventType},
};
use serde_json::{Value, json};
use storefence_tenancy::{RetailTenant, RetailTenantStatus, resource::FINALIZER};

use super::Guarded;
use crate::{
    kubernetes::{FIELD_MANAGER, in_time},
    leader::Leadership,
    plan::status::{READY, Transition},
};

/// Longest note of an event (the API refuses more than 1 kB).
const NOTE_MAX: usize = 1000;

pub struct KubernetesObject {
    api: Api<DynamicObject>,
    name: String,
    uid: Option<String>,
    deadline: Duration,
    leadership: Leadership,
}

impl KubernetesObject {
    pub fn new(client: &Client, metadata: &ObjectMeta, deadline: Duration, leadership: Leadership) -> Self {
        let resource = ApiResource::erase::<RetailTenant>(&());
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        Self {
            api: Api::namespaced_with(client.clone(), namespace, &resource),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone(),
            deadline,
            leadership,
        }
    }

    /// Asked right before each write: a process that was suspended resumes in the middle of a pass.
    fn may_write(&self) -> Result<(), kube::Error> {
        self.leadership.check().map_err(|error| kube::Error::Service(error.into()))
    }

    /// Adds the finalizer, unless the list has changed since. `present` is the list that was read, `version` the
    /// resource version of the object that it came from.
    pub async fn add_finalizer(&self, present: &[String], version: Option<&str>) -> Result<(), kube::Error> {
        let patch = if present.is_empty() {
            // There is no list to compare with: the object as a whole must be unchanged.
            json!([
                {"op": "test", "path": "/metadata/resourceVersion", "value": version.unwrap_or_default()},
                {"op": "add", "path": "/metadata/finalizers", "value": [FINALIZER]},
            ])
        } else {
            json!([
                {"op": "test", "path": "/metadata/finalizers", "value": present},
                {"op": "add", "path": "/metadata/finalizers/-", "value": FINALIZER},
            ])
        };
        self.patch_metadata(patch).await
    }

    /// Removes the finalizer. An object that is gone is no error.
    pub async fn remove_finalizer(&self, present: &[String]) -> Result<(), kube::Error> {
        let Some(at) = present.iter().position(|name| name == FINALIZER) else { return Ok(()) };
        let path = format!("/metadata/finalizers/{at}");
        let patch = json!([
            {"op": "test", "path": path, "value": FINALIZER},
            {"op": "remove", "path": path},
        ]);
        match self.patch_metadata(patch).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            outcome => outcome,
        }
    }

    async fn patch_metadata(&self, patch: serde_json::Value) -> Result<(), kube::Error> {
        let patch = serde_json::from_value(patch).map_err(kube::Error::SerdeError)?;
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let patch = Patch::<()>::Json(patch);
        self.may_write()?;
        let _: PartialObjectMeta<DynamicObject> =
            in_time(self.deadline, self.api.patch_metadata(&self.name, &params, &patch)).await?;
        Ok(())
    }

    /// The object as the API server has it now; `None` if it is gone, or if another object has its name.
    pub async fn latest(&self, client: &Client, namespace: &str) -> Result<Option<Guarded>, kube::Error> {
        let api = Api::<Guarded>::namespaced(client.clone(), namespace);
        let found = in_time(self.deadline, api.get_opt(&self.name)).await?;
        Ok(found.filter(|found| found.meta().uid == self.uid))
    }

    /// The JSON of the object as the API server has it now; null if it is gone.
    pub async fn raw(&self) -> Result<Value, kube::Error> {
        Ok(in_time(self.deadline, self.api.get_opt(&self.name)).await?.map_or(Value::Null, |found| found.data))
    }

    /// Replaces the status. An object that is gone is no error. With `version`, the object must still have that
    /// resource version.
    ///
    /// Not by server-side apply: entries of another field manager, such as a backup tool or a person's editor, would
    /// stay in every list beside ours, or make a status that the schema refuses for ever.
    pub async fn replace_status(&self, status: &RetailTenantStatus, version: Option<&str>) -> Result<(), kube::Error> {
        // With the UID, the status of a deleted object cannot land on a new one of the same name. A null must not be
        // sent: the API server would compare with it.
        let mut patch = Vec::new();
        if let Some(uid) = self.uid.as_deref() {
            patch.push(json!({"op": "test", "path": "/metadata/uid", "value": uid}));
        }
        if let Some(version) = version {
            patch.push(json!({"op": "test", "path": "/metadata/resourceVersion", "value": version}));
        }
        patch.push(json!({"op": "add", "path": "/status", "value": status}));
        let patch = serde_json::from_value(Value::Array(patch)).map_err(kube::Error::SerdeError)?;
        self.patch_status(&Patch::<()>::Json(patch)).await
    }

    /// Replaces the conditions of an object that cannot be read, and leaves the rest of its status: that names the
    /// credentials to end when the object is deleted.
    pub async fn replace_conditions(&self, status: &RetailTenantStatus) -> Result<(), kube::Error> {
        let RetailTenantStatus { conditions, observed_generation, .. } = status;
        let mut patch = json!({"status": {"conditions": conditions}});
        // Left out if absent: a null would remove the field.
        if let Some(generation) = observed_generation {
            patch["status"]["observedGeneration"] = (*generation).into();
        }
        if let Some(uid) = self.uid.as_deref() {
            patch["metadata"] = json!({"uid": uid});
        }
        self.patch_status(&Patch::Merge(patch)).await
    }

    async fn patch_status<P: serde::Serialize + std::fmt::Debug>(&self, patch: &Patch<P>) -> Result<(), kube::Error> {
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        self.may_write()?;
        match in_time(self.deadline, self.api.patch_status(&self.name, &params, patch)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            outcome => outcome.map(drop),
        }
    }
}

/// One event for the transition of `Ready`, and one for each other transition with a different reason.
pub fn events(transitions: &[Transition]) -> impl Iterator<Item = Event> {
    let ready = transitions.iter().find(|transition| transition.condition == READY).map(|transition| transition.reason);
    transitions.iter().filter(move |transition| transition.condition == READY || Some(transition.reason) != ready).map(
        |transition| Event {
            type_: if transition.good { EventType::Normal } else { EventType::Warning },
            reason: transition.reason.as_str().to_owned(),
            note: Some(transition.message.chars().take(NOTE_MAX / 4 * 3).collect()),
            action: "Reconcile".to_owned(),
            secondary: None,
        },
    )
}
