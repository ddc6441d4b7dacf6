//! The Key Vaults of the configuration, by the names that tenants use for them.

use std::{collections::HashMap, time::Duration};

use futures::future::BoxFuture;
use storefence_runtime::{AzureOptions, OptionsError, SecretStore};
use url::Url;
use zeroize::Zeroizing;

use crate::db::credentials::{SecretError, SecretSource};

/// Longest wait for one answer of Key Vault: a caller waits behind it.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// Vaults by name.
pub struct Vaults(HashMap<String, SecretStore>);

impl Vaults {
    /// Prepares a client for each vault. No request is sent.
    ///
    /// # Errors
    /// [`OptionsError`]: the options name no identity that can be used.
    pub fn new(azure: &AzureOptions, vaults: &HashMap<String, Url>) -> Result<Self, OptionsError> {
        let credential = azure.credential()?;
        let store = |url: &Url| azure.secret_store(credential.clone(), url, TIMEOUT);
        vaults.iter().map(|(name, url)| Ok((name.clone(), store(url)?))).collect::<Result<_, _>>().map(Self)
    }
}

impl SecretSource for Vaults {
    fn read<'a>(
        &'a self,
        vault: &'a str,
        name: &'a str,
        version: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Zeroizing<String>, SecretError>> {
        Box::pin(async move {
            let unknown = || SecretError(format!("the configuration names no Key Vault '{vault}'"));
            let store = self.0.get(vault).ok_or_else(unknown)?;
            let secret = store.get(name, version).await.map_err(|error| SecretError(error.to_string()))?;
            Ok(Zeroizing::new(secret.value.expose().to_owned()))
        })
    }
}
