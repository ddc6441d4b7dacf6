//! Key Vault secrets with typed errors and a deadline on each call.

use std::{cmp::Reverse, collections::HashMap, fmt, future::Future, sync::Arc, time::Duration};

use azure_core::{error::ErrorKind, http::ClientOptions};
use azure_security_keyvault_secrets::{
    ResourceExt, SecretClient, SecretClientOptions,
    models::{
        SecretAttributes, SecretClientGetSecretOptions, SecretClientUpdateSecretPropertiesOptions, SetSecretParameters,
        UpdateSecretPropertiesParameters,
    },
};
use futures::TryStreamExt;
use url::Url;
use zeroize::Zeroizing;

use crate::credential::{Identity, Pinned};

const NAME_MAX: usize = 127;

/// A secret's value. Wiped when dropped; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Zeroizing<String>);

impl SecretValue {
    /// Wraps a value.
    pub fn new(value: String) -> Self {
        Self(Zeroizing::new(value))
    }

    /// The value itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(…)")
    }
}

/// One version of a secret without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretVersion {
    /// Name.
    pub name: String,
    /// Version; empty in a listing of secrets, which names none.
    pub version: String,
    /// Whether it can be read.
    pub enabled: bool,
    /// Tags.
    pub tags: HashMap<String, String>,
    /// When it was made, Unix seconds.
    pub created: i64,
}

/// One version of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// What it is.
    pub version: SecretVersion,
    /// Its value.
    pub value: SecretValue,
}

/// A call that failed. The texts name the secret, never its value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// There is no such secret or version.
    #[error("secret {0} does not exist")]
    NotFound(String),
    /// The identity may not do this.
    #[error("access to secret {name} is denied: {message}")]
    Forbidden {
        /// The secret.
        name: String,
        /// The service's message.
        message: String,
    },
    /// No token, or one that the vault does not accept.
    #[error("the vault does not accept our identity: {0}")]
    Unauthorized(String),
    /// Too many calls.
    #[error("the vault is throttling calls")]
    Throttled {
        /// When to come back, if the vault says.
        retry_after: Option<Duration>,
    },
    /// A deleted secret holds the name until it is recovered or purged.
    #[error("a deleted secret {0} holds the name: recover or purge it")]
    SoftDeleted(String),
    /// Somebody else is changing the secret.
    #[error("secret {0} is being changed by somebody else")]
    Conflict(String),
    /// The vault did not answer, or not in order; trying again may help.
    #[error("the vault is not reachable: {0}")]
    Unavailable(String),
    /// The request was wrong; trying again does not help.
    #[error("secret {name}: {message}")]
    Invalid {
        /// The secret.
        name: String,
        /// What is wrong.
        message: String,
    },
}

impl SecretError {
    /// The reason in conditions, events and metrics.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "SecretNotFound",
            Self::Forbidden { .. } => "KeyVaultForbidden",
            Self::Unauthorized(_) => "KeyVaultUnauthorized",
            Self::Throttled { .. } => "KeyVaultThrottled",
            Self::SoftDeleted(_) => "SecretSoftDeleted",
            Self::Conflict(_) => "SecretConflict",
            Self::Unavailable(_) => "KeyVaultUnreachable",
            Self::Invalid { .. } => "SecretInvalid",
        }
    }
}

/// A client of one Key Vault. Cheap to clone.
#[derive(Clone)]
pub struct SecretStore {
    client: Arc<SecretClient>,
    timeout: Duration,
}

impl SecretStore {
    pub(crate) fn new(
        vault: &Url,
        credential: Arc<Identity>,
        resource: &str,
        client_options: ClientOptions,
        timeout: Duration,
    ) -> azure_core::Result<Self> {
        // The SDK's own check is replaced by `Pinned`.
        let options =
            SecretClientOptions { client_options, verify_challenge_resource: Some(false), ..Default::default() };
        let client = SecretClient::new(vault.as_str(), Pinned::new(credential, resource), Some(options))?;
        Ok(Self { client: Arc::new(client), timeout })
    }

    /// Reads a version, or the latest.
    pub async fn get(&self, name: &str, version: Option<&str>) -> Result<Secret, SecretError> {
        self.call(name, async {
            let options = version.map(|version| SecretClientGetSecretOptions {
                secret_version: Some(version.to_owned()),
                ..Default::default()
            });
            let secret = self.client.get_secret(name, options).await?.into_model()?;
            let version = described(&secret, secret.attributes.as_ref(), secret.tags.as_ref())?;
            Ok(Secret { version, value: SecretValue::new(secret.value.unwrap_or_default()) })
        })
        .await
    }

    /// Writes a new version and returns it.
    pub async fn set(
        &self,
        name: &str,
        value: &SecretValue,
        tags: HashMap<String, String>,
    ) -> Result<SecretVersion, SecretError> {
        self.call(name, async {
            let parameters =
                SetSecretParameters { value: Some(value.expose().to_owned()), tags: Some(tags), ..Default::default() };
            let secret = self.client.set_secret(name, parameters.try_into()?, None).await?.into_model()?;
            described(&secret, secret.attributes.as_ref(), secret.tags.as_ref())
        })
        .await
    }

    /// Replaces a version's tags, or enables or disables it; what is `None` stays.
    pub async fn update(
        &self,
        name: &str,
        version: &str,
        enabled: Option<bool>,
        tags: Option<HashMap<String, String>>,
    ) -> Result<SecretVersion, SecretError> {
        self.call(name, async {
            let attributes = SecretAttributes { enabled, ..Default::default() };
            let secret_attributes = enabled.is_some().then_some(attributes);
            let parameters = UpdateSecretPropertiesParameters { secret_attributes, tags, ..Default::default() };
            let options = SecretClientUpdateSecretPropertiesOptions {
                secret_version: Some(version.to_owned()),
                ..Default::default()
            };
            let request = parameters.try_into()?;
            let secret = self.client.update_secret_properties(name, request, Some(options)).await?.into_model()?;
            described(&secret, secret.attributes.as_ref(), secret.tags.as_ref())
        })
        .await
    }

    /// All versions of a secret, the newest first; empty where there is no such secret.
    pub async fn versions(&self, name: &str) -> Result<Vec<SecretVersion>, SecretError> {
        let listed: Result<Vec<SecretVersion>, SecretError> = self
            .call(name, async {
                let pager = self.client.list_secret_properties_versions(name, None)?;
                let items: Vec<_> = pager.try_collect().await?;
                items.iter().map(|item| described(item, item.attributes.as_ref(), item.tags.as_ref())).collect()
            })
            .await;
        match listed {
            Err(SecretError::NotFound(_)) => Ok(Vec::new()),
            Ok(mut versions) => {
                versions.sort_by_key(|version| Reverse(version.created));
                Ok(versions)
            }
            Err(error) => Err(error),
        }
    }

    /// The secrets that carry this tag and value.
    pub async fn tagged(&self, tag: &str, value: &str) -> Result<Vec<SecretVersion>, SecretError> {
        self.call("(list)", async {
            let items: Vec<_> = self.client.list_secret_properties(None)?.try_collect().await?;
            let all: Result<Vec<_>, _> =
                items.iter().map(|item| described(item, item.attributes.as_ref(), item.tags.as_ref())).collect();
            Ok(all?.into_iter().filter(|secret| secret.tags.get(tag).is_some_and(|found| found == value)).collect())
        })
        .await
    }

    /// Deletes a secret. In a vault with soft delete (all new ones) it can be recovered.
    pub async fn delete(&self, name: &str) -> Result<(), SecretError> {
        self.call(name, async { self.client.delete_secret(name, None).await.map(drop) }).await
    }

    /// The deleted secret that holds this name; `None` where there is none.
    pub async fn deleted(&self, name: &str) -> Result<Option<SecretVersion>, SecretError> {
        let found = self.call(name, async {
            let secret = self.client.get_deleted_secret(name, None).await?.into_model()?;
            described(&secret, secret.attributes.as_ref(), secret.tags.as_ref())
        });
        match found.await {
            Err(SecretError::NotFound(_)) => Ok(None),
            found => found.map(Some),
        }
    }

    /// Takes back a deletion. The secret is readable some seconds later.
    pub async fn recover(&self, name: &str) -> Result<(), SecretError> {
        self.call(name, async { self.client.recover_deleted_secret(name, None).await.map(drop) }).await
    }

    /// Removes a deleted secret for good.
    pub async fn purge(&self, name: &str) -> Result<(), SecretError> {
        self.call(name, async { self.client.purge_deleted_secret(name, None).await.map(drop) }).await
    }

    async fn call<T>(&self, name: &str, call: impl Future<Output = azure_core::Result<T>>) -> Result<T, SecretError> {
        // The SDK puts the name into the path as it is. "(list)" is our own word for a call that names none.
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if name != "(list)" && (name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(allowed)) {
            let message = "a secret's name is 1 to 127 letters, digits and '-'".to_owned();
            return Err(SecretError::Invalid { name: name.to_owned(), message });
        }
        match tokio::time::timeout(self.timeout, call).await {
            Ok(outcome) => outcome.map_err(|error| classify(name, &error)),
            Err(_) => Err(SecretError::Unavailable(format!("no answer within {:?}", self.timeout))),
        }
    }
}

impl fmt::Debug for SecretStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretStore").field("vault", &self.client.endpoint().as_str()).finish_non_exhaustive()
    }
}

fn described(
    item: &impl ResourceExt,
    attributes: Option<&SecretAttributes>,
    tags: Option<&HashMap<String, String>>,
) -> azure_core::Result<SecretVersion> {
    let id = item.resource_id()?;
    Ok(SecretVersion {
        name: id.name,
        version: id.version.unwrap_or_default(),
        enabled: attributes.and_then(|a| a.enabled).unwrap_or(true),
        tags: tags.cloned().unwrap_or_default(),
        created: attributes.and_then(|a| a.created).map_or(0, |time| time.unix_timestamp()),
    })
}

fn classify(name: &str, error: &azure_core::Error) -> SecretError {
    let (name, message) = (name.to_owned(), error.to_string());
    match error.kind() {
        ErrorKind::HttpResponse { status, error_code, raw_response } => {
            let code = error_code.as_deref().unwrap_or_default();
            let deleted = code.contains("Deleted") || message.contains("deleted but recoverable");
            match u16::from(*status) {
                401 => SecretError::Unauthorized(message),
                403 if message.contains("disabled secret") => SecretError::Invalid { name, message },
                403 => SecretError::Forbidden { name, message },
                404 => SecretError::NotFound(name),
                409 if deleted => SecretError::SoftDeleted(name),
                409 => SecretError::Conflict(name),
                429 => {
                    let header = raw_response.as_ref().and_then(|raw| {
                        raw.headers().get_optional_str(&azure_core::http::headers::RETRY_AFTER).map(str::to_owned)
                    });
                    let retry_after = header.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
                    SecretError::Throttled { retry_after }
                }
                400..=499 => SecretError::Invalid { name, message },
                _ => SecretError::Unavailable(message),
            }
        }
        ErrorKind::Credential if is_outage(error) => SecretError::Unavailable(message),
        ErrorKind::Credential => SecretError::Unauthorized(message),
        _ => SecretError::Unavailable(message),
    }
}

/// Whether a login failed because the authority is away, which passes, and not because it refused. The SDK wraps the
/// cause in errors of its own.
pub(crate) fn is_outage(error: &azure_core::Error) -> bool {
    std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| error.source())
        .filter_map(|error| error.downcast_ref::<azure_core::Error>())
        .any(|error| match error.kind() {
            ErrorKind::HttpResponse { status, .. } => matches!(u16::from(*status), 408 | 429 | 500..),
            // A refusal is JSON; what cannot be read comes from something in between.
            ErrorKind::Connection | ErrorKind::Io | ErrorKind::DataConversion => true,
            _ => false,
        })
}
