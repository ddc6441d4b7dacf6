//! The vault's content and its rules.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

/// Days that a deleted secret can be recovered.
const RECOVERABLE_DAYS: i64 = 90;
const MAX_VALUE: usize = 25 * 1024;
const MAX_TAGS: usize = 15;
const MAX_TAG_LENGTH: usize = 512;

/// One version of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretVersion {
    /// The version's ID: 32 hexadecimal digits.
    pub version: String,
    pub value: String,
    /// The content type, a free text.
    pub content_type: Option<String>,
    pub tags: BTreeMap<String, String>,
    /// Whether the value may be read.
    pub enabled: bool,
    /// Unix time of creation.
    pub created: i64,
    /// Unix time of the last change.
    pub updated: i64,
    /// Unix time from which the secret is meant to be used; the service does not enforce it.
    pub not_before: Option<i64>,
    /// Unix time of expiry; the service does not enforce it.
    pub expires: Option<i64>,
}

/// The body of a set or update request.
#[derive(Deserialize)]
pub(super) struct Change {
    value: Option<String>,
    #[serde(rename = "contentType")]
    content_type: Option<String>,
    tags: Option<BTreeMap<String, String>>,
    #[serde(default)]
    attributes: Attributes,
}

#[derive(Default, Deserialize)]
struct Attributes {
    enabled: Option<bool>,
    nbf: Option<i64>,
    exp: Option<i64>,
}

/// A refusal: status, code, inner code, message.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: &'static str,
    pub(super) inner: Option<&'static str>,
    pub(super) message: String,
}

pub(super) fn refuse(
    status: u16,
    code: &'static str,
    inner: Option<&'static str>,
    message: impl Into<String>,
) -> Refusal {
    Refusal { status, code, inner, message: message.into() }
}

struct Entry {
    versions: Vec<SecretVersion>,
    deleted: Option<i64>,
    /// Deleting and recovering take effect for other calls only at this moment.
    settled: Instant,
}

pub(super) struct Store {
    url: String,
    purge_protection: bool,
    transition: Duration,
    entries: BTreeMap<String, Entry>,
}

impl Store {
    pub(super) fn new(url: &str, purge_protection: bool, transition: Duration) -> Self {
        Self { url: url.to_owned(), purge_protection, transition, entries: BTreeMap::new() }
    }

    pub(super) fn names(&self, deleted: bool) -> Vec<String> {
        let wanted = self.entries.iter().filter(|(_, entry)| entry.deleted.is_some() == deleted);
        wanted.map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn versions(&self, name: &str) -> Vec<SecretVersion> {
        let entry = self.entries.get(name).filter(|entry| entry.deleted.is_none());
        entry.map(|entry| entry.versions.clone()).unwrap_or_default()
    }

    pub(super) fn latest_mut(&mut self, name: &str) -> Option<&mut SecretVersion> {
        self.entries.get_mut(name)?.versions.last_mut()
    }

    pub(super) fn put(&mut self, name: &str, value: &str, tags: BTreeMap<String, String>) -> SecretVersion {
        let now = now();
        let version = SecretVersion {
            version: Uuid::new_v4().simple().to_string(),
            value: value.to_owned(),
            content_type: None,
            tags,
            enabled: true,
            created: now,
            updated: now,
            not_before: None,
            expires: None,
        };
        let entry = self.entries.entry(name.to_owned()).or_insert_with(|| Entry {
            versions: Vec::new(),
            deleted: None,
            settled: Instant::now(),
        });
        entry.versions.push(version.clone());
        version
    }

    fn live(&self, name: &str) -> Result<&Entry, Refusal> {
        let entry = self.entries.get(name).filter(|entry| entry.deleted.is_none() && entry.settled <= Instant::now());
        entry.ok_or_else(|| not_found(name))
    }

    fn index(entry: &Entry, name: &str, version: Option<&str>) -> Result<usize, Refusal> {
        let found = match version {
            None => entry.versions.len().checked_sub(1),
            Some(version) => entry.versions.iter().position(|known| known.version == version),
        };
        found.ok_or_else(|| not_found(name))
    }

    pub(super) fn get(&self, name: &str, version: Option<&str>) -> Result<Value, Refusal> {
        let entry = self.live(name)?;
        let found = &entry.versions[Self::index(entry, name, version)?];
        if !found.enabled {
            let message = "Operation get is not allowed on a disabled secret.";
            return Err(refuse(403, "Forbidden", Some("SecretDisabled"), message));
        }
        Ok(self.bundle(name, found, true))
    }

    pub(super) fn set(&mut self, name: &str, change: Change) -> Result<Value, Refusal> {
        check_tags(change.tags.as_ref())?;
        let value = change.value.ok_or_else(|| bad("The property value is required."))?;
        if value.len() > MAX_VALUE {
            return Err(bad("The property value is too long: at most 25k bytes."));
        }
        if let Some(entry) = self.entries.get(name)
            && entry.deleted.is_some()
        {
            return Err(if entry.settled > Instant::now() {
                let message = format!("Secret {name} is currently being deleted.");
                refuse(409, "Conflict", Some("ObjectIsBeingDeleted"), message)
            } else {
                let message = format!(
                    "Secret {name} is currently in a deleted but recoverable state, and its name cannot be reused; \
                     in this state, the secret can only be recovered or purged."
                );
                refuse(409, "Conflict", Some("ObjectIsDeletedButRecoverable"), message)
            });
        }
        self.put(name, &value, change.tags.unwrap_or_default());
        let latest = self.latest_mut(name).ok_or_else(|| not_found(name))?;
        latest.content_type = change.content_type;
        latest.enabled = change.attributes.enabled.unwrap_or(true);
        latest.not_before = change.attributes.nbf;
        latest.expires = change.attributes.exp;
        let latest = latest.clone();
        Ok(self.bundle(name, &latest, true))
    }

    pub(super) fn update(&mut self, name: &str, version: Option<&str>, change: Change) -> Result<Value, Refusal> {
        check_tags(change.tags.as_ref())?;
        let index = Self::index(self.live(name)?, name, version)?;
        let entry = self.entries.get_mut(name).ok_or_else(|| not_found(name))?;
        let found = &mut entry.versions[index];
        // What is not mentioned stays; tags are replaced as a whole.
        if let Some(tags) = change.tags {
            found.tags = tags;
        }
        found.content_type = change.content_type.or(found.content_type.take());
        found.enabled = change.attributes.enabled.unwrap_or(found.enabled);
        found.not_before = change.attributes.nbf.or(found.not_before);
        found.expires = change.attributes.exp.or(found.expires);
        found.updated = now();
        let found = found.clone();
        Ok(self.bundle(name, &found, false))
    }

    pub(super) fn delete(&mut self, name: &str) -> Result<Value, Refusal> {
        self.live(name)?;
        let settled = Instant::now() + self.transition;
        if let Some(entry) = self.entries.get_mut(name) {
            entry.deleted = Some(now());
            entry.settled = settled;
        }
        self.deleted_bundle(name, true).ok_or_else(|| not_found(name))
    }

    pub(super) fn get_deleted(&self, name: &str) -> Result<Value, Refusal> {
        self.settled_deleted(name)?;
        self.deleted_bundle(name, true).ok_or_else(|| not_found(name))
    }

    pub(super) fn recover(&mut self, name: &str) -> Result<Value, Refusal> {
        self.settled_deleted(name)?;
        let settled = Instant::now() + self.transition;
        let entry = self.entries.get_mut(name).ok_or_else(|| not_found(name))?;
        entry.deleted = None;
        entry.settled = settled;
        let latest = entry.versions.last().cloned().ok_or_else(|| not_found(name))?;
        Ok(self.bundle(name, &latest, false))
    }

    pub(super) fn purge(&mut self, name: &str) -> Result<(), Refusal> {
        self.settled_deleted(name)?;
        if self.purge_protection {
            let message = "Operation \"purge\" is not allowed because purge protection is enabled for this vault.";
            return Err(refuse(403, "Forbidden", Some("ForbiddenByPolicy"), message));
        }
        self.entries.remove(name);
        Ok(())
    }

    fn settled_deleted(&self, name: &str) -> Result<(), Refusal> {
        let entry = self.entries.get(name).filter(|entry| entry.deleted.is_some() && entry.settled <= Instant::now());
        entry.map(|_| ()).ok_or_else(|| {
            let message = format!("Deleted Secret not found: {name}");
            refuse(404, "SecretNotFound", None, message)
        })
    }

    /// Properties of the latest version of every secret, without version and value.
    pub(super) fn list(&self) -> Vec<Value> {
        let live = self.entries.iter().filter(|(_, entry)| entry.deleted.is_none() && entry.settled <= Instant::now());
        live.filter_map(|(name, entry)| {
            let mut item = self.bundle(name, entry.versions.last()?, false);
            item["id"] = json!(format!("{}/secrets/{name}", self.url));
            Some(item)
        })
        .collect()
    }

    pub(super) fn list_versions(&self, name: &str) -> Vec<Value> {
        let Ok(entry) = self.live(name) else { return Vec::new() };
        entry.versions.iter().map(|version| self.bundle(name, version, false)).collect()
    }

    pub(super) fn list_deleted(&self) -> Vec<Value> {
        let deleted = self.entries.iter().filter(|(_, entry)| entry.deleted.is_some());
        deleted.filter_map(|(name, _)| self.deleted_bundle(name, false)).collect()
    }

    fn bundle(&self, name: &str, version: &SecretVersion, with_value: bool) -> Value {
        let mut attributes = json!({
            "enabled": version.enabled,
            "created": version.created,
            "updated": version.updated,
            "recoveryLevel": if self.purge_protection { "Recoverable" } else { "Recoverable+Purgeable" },
            "recoverableDays": RECOVERABLE_DAYS,
        });
        if let Some(not_before) = version.not_before {
            attributes["nbf"] = json!(not_before);
        }
        if let Some(expires) = version.expires {
            attributes["exp"] = json!(expires);
        }
        let mut bundle = json!({
            "id": format!("{}/secrets/{name}/{}", self.url, version.version),
            "attributes": attributes,
            "tags": version.tags,
        });
        if let Some(content_type) = &version.content_type {
            bundle["contentType"] = json!(content_type);
        }
        if with_value {
            bundle["value"] = json!(version.value);
        }
        bundle
    }

    fn deleted_bundle(&self, name: &str, with_version: bool) -> Option<Value> {
        let entry = self.entries.get(name)?;
        let deleted = entry.deleted?;
        let mut bundle = self.bundle(name, entry.versions.last()?, false);
        if !with_version {
            bundle["id"] = json!(format!("{}/secrets/{name}", self.url));
        }
        bundle["recoveryId"] = json!(format!("{}/deletedsecrets/{name}", self.url));
        bundle["deletedDate"] = json!(deleted);
        bundle["scheduledPurgeDate"] = json!(deleted + RECOVERABLE_DAYS * 86_400);
        Some(bundle)
    }
}

fn check_tags(tags: Option<&BTreeMap<String, String>>) -> Result<(), Refusal> {
    let Some(tags) = tags else { return Ok(()) };
    if tags.len() > MAX_TAGS {
        return Err(bad("A secret can have at most 15 tags."));
    }
    if tags.iter().any(|(name, value)| name.len() > MAX_TAG_LENGTH || value.len() > MAX_TAG_LENGTH) {
        return Err(bad("A tag's name and value can have at most 512 characters."));
    }
    Ok(())
}

pub(super) fn bad(message: &str) -> Refusal {
    refuse(400, "BadParameter", None, message)
}

fn not_found(name: &str) -> Refusal {
    let message = format!(
        "A secret with (name/id) {name} was not found in this key vault. If you recently deleted this secret you may \
         be able to recover it using the correct recovery command."
    );
    refuse(404, "SecretNotFound", None, message)
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
