//! A Key Vault as the operator uses it: secrets that are ours, marked by their tags.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use storefence_runtime::{AzureOptions, Identity, OptionsError, SecretError, SecretStore, SecretValue, SecretVersion};
use storefence_tenancy::credentials::{MANAGED_BY, TAG_MANAGED_BY, TAG_OWNER_UID};
use url::Url;

use crate::{
    circuit::{Circuit, CircuitPolicy},
    leader::Leadership,
    metrics::Metrics,
    reason::{Class, Reason},
};

/// A secret, read.
pub struct Secret {
    /// UID in its tag, if it is tagged as ours.
    pub owner: Option<String>,
    /// Who keeps it, if its tag names somebody else.
    pub manager: Option<String>,
    /// Whether this version may be used.
    pub enabled: bool,
    /// The value; empty for a disabled version, which the vault does not give out.
    pub value: SecretValue,
    pub version: Version,
}

/// A version of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The vault's identifier.
    pub id: String,
    /// When it was written.
    pub created: Time,
}

impl Default for Version {
    fn default() -> Self {
        Self { id: String::new(), created: Time(Timestamp::UNIX_EPOCH) }
    }
}

/// What the vault has under a name.
pub enum Read {
    /// Nothing.
    Absent,
    /// A deleted secret that is not purged.
    SoftDeleted {
        /// UID in its tag, if it is tagged as ours.
        owner: Option<String>,
    },
    Live(Secret),
}

/// What went wrong at a vault.
#[derive(Clone, Debug, thiserror::Error)]
#[error("Key Vault {host}: {source}{}", next_step(.source))]
pub struct VaultError {
    host: String,
    source: SecretError,
}

/// What a person can do, where the vault's own message does not say it.
const fn next_step(error: &SecretError) -> &'static str {
    match error {
        SecretError::Forbidden { .. } => "; give the operator's identity the role Key Vault Secrets Officer",
        SecretError::Unauthorized(_) => "; check the operator's identity and its federated credential",
        SecretError::Throttled { .. } | SecretError::Unavailable(_) | SecretError::Conflict(_) => {
            "; the operator keeps trying"
        }
        SecretError::NotFound(_) | SecretError::SoftDeleted(_) | SecretError::Invalid { .. } => "",
    }
}

impl VaultError {
    /// The reason in conditions, events and metrics.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self.source {
            SecretError::Forbidden { .. } | SecretError::Unauthorized(_) => Reason::KeyVaultForbidden,
            SecretError::Throttled { .. } => Reason::KeyVaultThrottled,
            SecretError::SoftDeleted(_) => Reason::SecretSoftDeleted,
            SecretError::Unavailable(_) => Reason::KeyVaultUnreachable,
            SecretError::NotFound(_) | SecretError::Conflict(_) | SecretError::Invalid { .. } => Reason::KeyVaultError,
        }
    }

    /// When to try again.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self.source {
            SecretError::Throttled { retry_after } => Class::Throttled(retry_after),
            SecretError::Unavailable(_)
            | SecretError::Conflict(_)
            | SecretError::NotFound(_)
            // A deletion takes the vault some seconds, in which the secret is neither there nor among the deleted ones.
            | SecretError::SoftDeleted(_) => Class::Transient,
            SecretError::Forbidden { .. } | SecretError::Unauthorized(_) | SecretError::Invalid { .. } => {
                Class::Permanent
            }
        }
    }
}

/// Makes clients of vaults that share one identity.
pub struct VaultFactory {
    options: AzureOptions,
    credential: Arc<Identity>,
    metrics: Arc<Metrics>,
    timeout: Duration,
}

impl VaultFactory {
    /// Checks the options and makes the credential.
    ///
    /// # Errors
    /// Names the option.
    pub fn new(options: AzureOptions, metrics: Arc<Metrics>, timeout: Duration) -> Result<Self, OptionsError> {
        let credential = options.credential()?;
        Ok(Self { options, credential, metrics, timeout })
    }

    /// A client of the vault that the configuration calls `name`.
    ///
    /// # Errors
    /// Names the option.
    pub fn vault(
        &self,
        name: &str,
        url: &Url,
        circuit: CircuitPolicy,
        leadership: Leadership,
    ) -> Result<Vault, OptionsError> {
        Ok(Vault {
            store: self.options.secret_store(Arc::clone(&self.credential), url, self.timeout)?,
            url: url.clone(),
            circuit: Circuit::new(circuit, self.metrics.circuit("key_vault", name)),
            metrics: Arc::clone(&self.metrics),
            leadership,
        })
    }

    /// The metrics of all vaults.
    #[must_use]
    pub const fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }
}

pub struct Vault {
    store: SecretStore,
    url: Url,
    circuit: Circuit<SecretError>,
    metrics: Arc<Metrics>,
    leadership: Leadership,
}

impl Vault {
    /// Whether it is the vault at this address.
    #[must_use]
    pub fn is_at(&self, url: &Url) -> bool {
        self.url == *url
    }

    /// What holds calls back while the vault is away.
    #[must_use]
    pub const fn circuit(&self) -> &Circuit<SecretError> {
        &self.circuit
    }

    /// Tries whether the vault takes calls again.
    pub async fn try_again(&self) {
        // The circuit hears of the outcome.
        let _ = self.reachable().await;
    }

    /// Reads the latest version.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn read(&self, name: &str) -> Result<Read, VaultError> {
        match self.call("get", self.store.get(name, None)).await {
            Ok(secret) => Ok(Read::Live(Secret {
                owner: owner(&secret.version),
                manager: manager(&secret.version),
                enabled: secret.version.enabled,
                version: version(&secret.version),
                value: secret.value,
            })),
            Err(VaultError { source: SecretError::NotFound(_), .. }) => self.read_deleted(name).await,
            // What a vault answers for a disabled version; its tags are in the listing.
            Err(VaultError { source: SecretError::Invalid { .. }, .. }) => self.read_disabled(name).await,
            Err(error) => Err(error),
        }
    }

    async fn read_deleted(&self, name: &str) -> Result<Read, VaultError> {
        match self.call("get_deleted", self.store.deleted(name)).await {
            Ok(deleted) => Ok(deleted.map_or(Read::Absent, |deleted| Read::SoftDeleted { owner: owner(&deleted) })),
            // Not ours to see: writing the secret will show it.
            Err(VaultError { source: SecretError::Forbidden { .. }, .. }) => Ok(Read::Absent),
            Err(error) => Err(error),
        }
    }

    async fn read_disabled(&self, name: &str) -> Result<Read, VaultError> {
        let versions = self.call("list", self.store.versions(name)).await?;
        let Some(latest) = latest_disabled(&versions) else {
            // Enabled or deleted between the two calls: the next pass reads it as it is then.
            return Err(self.error(SecretError::Conflict(name.to_owned())));
        };
        Ok(Read::Live(Secret {
            owner: latest.owner,
            manager: latest.manager,
            enabled: false,
            version: latest.version,
            value: SecretValue::new(String::new()),
        }))
    }

    /// The value of a secret that is not ours, such as an administrator's URL.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn value(&self, name: &str) -> Result<SecretValue, VaultError> {
        Ok(self.call("get", self.store.get(name, None)).await?.value)
    }

    /// Writes a new version, tagged as `owner_uid`'s.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn write(&self, name: &str, value: SecretValue, owner_uid: &str) -> Result<Version, VaultError> {
        let written = self.call("set", self.store.set(name, &value, tags(owner_uid))).await?;
        Ok(version(&written))
    }

    /// Tags a version as `owner_uid`'s.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn tag(&self, name: &str, version: &str, owner_uid: &str) -> Result<(), VaultError> {
        self.call("update", self.store.update(name, version, None, Some(tags(owner_uid)))).await?;
        Ok(())
    }

    /// Takes a deletion back.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn recover(&self, name: &str) -> Result<(), VaultError> {
        self.call("recover", self.store.recover(name)).await
    }

    /// Disables all versions of a secret that is `owner_uid`'s; leaves every other alone. Can be repeated.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn disable(&self, name: &str, owner_uid: &str) -> Result<(), VaultError> {
        let versions = self.call("list", self.store.versions(name)).await?;
        for found in versions.iter().filter(|found| found.enabled && owner(found).as_deref() == Some(owner_uid)) {
            match self.call("update", self.store.update(name, &found.version, Some(false), None)).await {
                // Gone is as good as disabled.
                Ok(_) | Err(VaultError { source: SecretError::NotFound(_), .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Deletes a secret that is `owner_uid`'s; leaves every other alone. Can be repeated.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn delete(&self, name: &str, owner_uid: &str) -> Result<(), VaultError> {
        let versions = self.call("list", self.store.versions(name)).await?;
        if !is_owned(&newest(&versions), owner_uid) {
            return Ok(());
        }
        match self.call("delete", self.store.delete(name)).await {
            Err(VaultError { source: SecretError::NotFound(_), .. }) => Ok(()),
            outcome => outcome,
        }
    }

    /// Whether the vault answers us at all. Asks for a secret that need not exist.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn reachable(&self) -> Result<(), VaultError> {
        match self.call("get", self.store.get("storefence-probe", None)).await {
            Ok(_) | Err(VaultError { source: SecretError::NotFound(_) | SecretError::Invalid { .. }, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn call<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, SecretError>>,
    ) -> Result<T, VaultError> {
        if !matches!(operation, "get" | "get_deleted" | "list") {
            let not_leading = |error: crate::leader::NotLeading| SecretError::Unavailable(error.to_string());
            self.leadership.check().map_err(|error| self.error(not_leading(error)))?;
        }
        let permit = self.circuit.enter().map_err(|source| self.error(source))?;
        let started = Instant::now();
        let outcome = call.await;
        let label = match &outcome {
            Ok(_) => "ok",
            Err(SecretError::NotFound(_)) => "not_found",
            Err(SecretError::Forbidden { .. } | SecretError::Unauthorized(_)) => "forbidden",
            Err(SecretError::Throttled { .. }) => "throttled",
            Err(SecretError::Unavailable(_)) => "unavailable",
            Err(SecretError::SoftDeleted(_) | SecretError::Conflict(_) | SecretError::Invalid { .. }) => "refused",
        };
        self.metrics.vault_call(operation, label, started.elapsed());
        match &outcome {
            Err(error @ SecretError::Unavailable(_)) => permit.failed(error.clone()),
            Err(error @ SecretError::Throttled { retry_after: Some(wait) }) => {
                permit.throttled(*wait, error.clone());
            }
            _ => permit.answered(),
        }
        outcome.map_err(|source| self.error(source))
    }

    fn error(&self, source: SecretError) -> VaultError {
        VaultError { host: self.url.host_str().unwrap_or_default().to_owned(), source }
    }
}

/// The newest version of a secret, where it is a disabled one.
#[derive(Debug, PartialEq, Eq)]
struct Disabled {
    owner: Option<String>,
    manager: Option<String>,
    version: Version,
}

/// The versions that may be the newest. The vault lists versions in no order and gives times in whole seconds.
fn newest(versions: &[SecretVersion]) -> Vec<&SecretVersion> {
    let last = versions.iter().map(|version| version.created).max();
    versions.iter().filter(|version| Some(version.created) == last).collect()
}

/// Whether the newest version is `owner_uid`'s, or as good as that: made in one second with those of other
/// RetailTenants, which can only be predecessors.
fn is_owned(newest: &[&SecretVersion], owner_uid: &str) -> bool {
    let owners: Vec<Option<String>> = newest.iter().map(|version| owner(version)).collect();
    owners.iter().all(Option::is_some) && owners.iter().any(|owner| owner.as_deref() == Some(owner_uid))
}

/// Finds out which version is the newest, knowing that it is disabled. Of several disabled ones of the last second any
/// may be it: the secret is a RetailTenant's only if all of them are.
fn latest_disabled(versions: &[SecretVersion]) -> Option<Disabled> {
    let candidates: Vec<_> = newest(versions).into_iter().filter(|version| !version.enabled).collect();
    let first = candidates.first()?;
    let all_marked = candidates.iter().all(|version| owner(version).is_some());
    let owner = owner(first).filter(|_| all_marked);
    Some(Disabled { owner, manager: candidates.iter().find_map(|version| manager(version)), version: version(first) })
}

fn tags(owner_uid: &str) -> HashMap<String, String> {
    [(TAG_MANAGED_BY, MANAGED_BY), (TAG_OWNER_UID, owner_uid)]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn owner(version: &SecretVersion) -> Option<String> {
    let ours = version.tags.get(TAG_MANAGED_BY).is_some_and(|value| value == MANAGED_BY);
    version.tags.get(TAG_OWNER_UID).filter(|_| ours).cloned()
}

fn manager(version: &SecretVersion) -> Option<String> {
    version.tags.get(TAG_MANAGED_BY).filter(|value| *value != MANAGED_BY).cloned()
}

fn version(version: &SecretVersion) -> Version {
    Version {
        id: version.version.clone(),
        created: Time(Timestamp::from_second(version.created).unwrap_or(Timestamp::UNIX_EPOCH)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_is_told_from_an_enabled_one_and_a_foreign_one_of_the_same_second() {
        let made = |id: &str, created: i64, enabled: bool, uid: &str| SecretVersion {
            name: "sf-zava-db-a".to_owned(),
            version: id.to_owned(),
            enabled,
            tags: tags(uid),
            created,
        };
        let found = |versions: &[SecretVersion]| {
            latest_disabled(versions).map(|found| (found.version.id, found.owner.unwrap_or_default()))
        };
        let some = |id: &str, uid: &str| Some((id.to_owned(), uid.to_owned()));
        let old = made("old", 1, false, "theirs");
        // The vault may list them either way round.
        for enabled_first in [true, false] {
            let mut versions = vec![made("one", 2, true, "theirs"), made("two", 2, false, "ours"), old.clone()];
            if !enabled_first {
                versions.reverse();
            }
            assert_eq!(found(&versions), some("two", "ours"));
        }
        let unmarked = SecretVersion { tags: HashMap::new(), ..made("two", 2, false, "") };
        for doubtful in
            [[made("one", 2, false, "ours"), unmarked.clone()], [unmarked.clone(), made("one", 2, false, "ours")]]
        {
            assert_eq!(found(&doubtful).unwrap().1, "", "not ours beyond doubt");
            assert!(!is_owned(&newest(&doubtful), "ours"));
        }
        let successor = [made("one", 2, false, "theirs"), made("two", 2, false, "ours")];
        assert!(is_owned(&newest(&successor), "ours") && !is_owned(&newest(&successor), "else"));
        assert!(!is_owned(&newest(&[made("one", 2, false, "ours"), made("two", 3, false, "theirs")]), "ours"));
        assert!(!is_owned(&[], "ours"));
        assert_eq!(found(&[made("one", 2, true, "ours"), old]), None, "enabled meanwhile");
        assert_eq!(found(&[]), None);
    }

    #[test]
    fn only_both_tags_make_a_secret_ours() {
        let tagged = |tags: &[(&str, &str)]| SecretVersion {
            name: "sf-zava-db-a".to_owned(),
            version: "1".to_owned(),
            enabled: true,
            tags: tags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            created: 0,
        };
        let uid = (TAG_OWNER_UID, "u");
        assert_eq!(owner(&tagged(&[(TAG_MANAGED_BY, MANAGED_BY), uid])), Some("u".to_owned()));
        assert_eq!(owner(&tagged(&[uid])), None);
        assert_eq!(owner(&tagged(&[(TAG_MANAGED_BY, "somebody"), uid])), None);
        assert_eq!(owner(&tagged(&[(TAG_MANAGED_BY, MANAGED_BY)])), None);
    }
}
