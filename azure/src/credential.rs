//! A credential that asks for tokens of one resource only.

use std::sync::Arc;

use async_trait::async_trait;
use azure_core::{
    Error,
    credentials::{AccessToken, TokenCredential, TokenRequestOptions},
    error::ErrorKind,
};

/// Key Vault's challenge names the resource that the client is to get a token for. The SDK compares it with the vault's
/// host name, which cannot hold for a private host name; so its check is off, and this one stands in its place: whatever
/// a server on the vault's address says, no token for anything but the configured resource is ever asked for.
#[derive(Debug)]
pub(crate) struct Pinned {
    inner: Arc<dyn TokenCredential>,
    scope: String,
}

impl Pinned {
    /// `resource` such as `https://vault.azure.net`.
    pub(crate) fn new(inner: Arc<dyn TokenCredential>, resource: &str) -> Arc<Self> {
        Arc::new(Self { inner, scope: format!("{}/.default", resource.trim_end_matches('/')) })
    }
}

#[async_trait]
impl TokenCredential for Pinned {
    async fn get_token(
        &self,
        scopes: &[&str],
        options: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        if scopes != [self.scope.as_str()] {
            let message = format!("the vault asks for a token of {scopes:?}; only {} is given", self.scope);
            return Err(Error::with_message(ErrorKind::Credential, message));
        }
        self.inner.get_token(scopes, options).await
    }
}
