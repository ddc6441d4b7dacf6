//! Our own identity: a credential whose tokens are forgotten when they are refused, and one for a single resource.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use azure_core::{
    Error,
    credentials::{AccessToken, TokenCredential, TokenRequestOptions},
    error::ErrorKind,
    time::OffsetDateTime,
};

/// Shortest time between two renewals. A service that refuses every token must not make us ask the authority for one with
/// each call.
const RENEWAL: Duration = Duration::from_secs(30);

/// From here to its end a token is replaced anyway; being asked for it again then says nothing about the one before.
const ENDING: Duration = Duration::from_secs(6 * 60);

type Make = dyn Fn() -> Result<Arc<dyn TokenCredential>, String> + Send + Sync;

/// Our own identity.
///
/// The SDK's credentials keep a token until it is about to expire, and have no way to learn that a service refuses it: its signing
/// key may be published no more, after an authority was restored or moved. So the whole credential is made anew then.
pub struct Identity {
    make: Box<Make>,
    state: Mutex<State>,
}

struct State {
    current: Arc<dyn TokenCredential>,
    renewed: Option<Instant>,
}

impl Identity {
    pub(crate) fn new(
        current: Arc<dyn TokenCredential>,
        make: impl Fn() -> Result<Arc<dyn TokenCredential>, String> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self { make: Box::new(make), state: Mutex::new(State { current, renewed: None }) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A service refuses a token that should be good: the next one is a new one. `false` where that was tried a moment ago.
    pub(crate) fn renew(&self) -> bool {
        let mut state = self.lock();
        if state.renewed.is_some_and(|renewed| renewed.elapsed() < RENEWAL) {
            return false;
        }
        state.renewed = Some(Instant::now());
        match (self.make)() {
            Ok(made) => state.current = made,
            Err(error) => {
                tracing::warn!(error, "the identity could not be set up anew");
                return false;
            }
        }
        tracing::info!("a token was refused before its end and is fetched anew");
        true
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

#[async_trait]
impl TokenCredential for Identity {
    async fn get_token(
        &self,
        scopes: &[&str],
        options: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        let current = self.lock().current.clone();
        current.get_token(scopes, options).await
    }
}

/// Key Vault's challenge names the resource that the client is to get a token for. The SDK compares it with the vault's
/// host name, which cannot hold for a private host name; so its check is off, and this one stands in its place: whatever
/// a server on the vault's address says, no token for anything but the configured resource is ever asked for.
///
/// The SDK's client keeps the token that it is given, and asks again after a 401. So who is asked for a token that was
/// given already, and is not about to end, knows that it was refused.
#[derive(Debug)]
pub(crate) struct Pinned {
    inner: Arc<Identity>,
    scope: String,
    given: Mutex<Option<AccessToken>>,
}

impl Pinned {
    /// `resource` such as `https://vault.azure.net`.
    pub(crate) fn new(inner: Arc<Identity>, resource: &str) -> Arc<Self> {
        let scope = format!("{}/.default", resource.trim_end_matches('/'));
        Arc::new(Self { inner, scope, given: Mutex::default() })
    }

    /// Whether the same token was given before; it is remembered as given.
    fn again(&self, token: &AccessToken) -> bool {
        let ending = token.expires_on <= OffsetDateTime::now_utc() + ENDING;
        let before = self.given.lock().unwrap_or_else(PoisonError::into_inner).replace(token.clone());
        !ending && before.is_some_and(|before| before.token.secret() == token.token.secret())
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
        let token = self.inner.get_token(scopes, options).await?;
        if !self.again(&token) || !self.inner.renew() {
            return Ok(token);
        }
        let token = self.inner.get_token(scopes, None).await?;
        self.again(&token);
        Ok(token)
    }
}
