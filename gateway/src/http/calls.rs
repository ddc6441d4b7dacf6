//! Calls in progress, for `notifications/cancelled` where it reaches the replica that runs the call.
//!
//! There are no sessions, and every client counts its requests from 1. So a call is identified by its token as well. If
//! two calls in progress have the same identity, neither is cancelled: their clients can still close the connection.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::identity::{Principal, fingerprint::Fingerprint};

type Key = (Fingerprint, String);

/// The calls in progress on this replica.
#[derive(Debug, Default)]
pub struct Calls(Mutex<HashMap<Key, Vec<Arc<CancellationToken>>>>);

/// A call in progress.
#[derive(Debug)]
pub struct UnderWay {
    calls: Arc<Calls>,
    key: Key,
    /// Fires when the client has cancelled the call.
    pub cancelled: Arc<CancellationToken>,
}

impl Calls {
    /// Registers a call, until the value is dropped.
    #[must_use]
    pub fn begin(self: &Arc<Self>, principal: &Principal, id: &Value) -> UnderWay {
        self.begin_as((*principal.token(), id.to_string()))
    }

    /// Cancels the request with this id from the client with this token.
    pub fn cancel(&self, principal: &Principal, id: &Value) {
        self.cancel_as(&(*principal.token(), id.to_string()));
    }

    fn begin_as(self: &Arc<Self>, key: Key) -> UnderWay {
        let cancelled = Arc::new(CancellationToken::new());
        self.lock().entry(key.clone()).or_default().push(cancelled.clone());
        UnderWay { calls: self.clone(), key, cancelled }
    }

    fn cancel_as(&self, key: &Key) {
        if let Some([only]) = self.lock().get(key).map(Vec::as_slice) {
            only.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Vec<Arc<CancellationToken>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut calls = self.calls.lock();
        if let Some(alike) = calls.get_mut(&self.key) {
            alike.retain(|token| !Arc::ptr_eq(token, &self.cancelled));
            if alike.is_empty() {
                calls.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::Calls;

    #[test]
    fn one_call_is_cancelled_and_no_other() {
        let calls = Arc::<Calls>::default();
        let key = |token: u8, id: &str| ([token; 16], id.to_owned());
        let (mine, other_id, other_token) =
            (calls.begin_as(key(1, "1")), calls.begin_as(key(1, "2")), calls.begin_as(key(2, "1")));
        calls.cancel_as(&key(1, "1"));
        assert!(mine.cancelled.is_cancelled());
        assert!(!other_id.cancelled.is_cancelled() && !other_token.cancelled.is_cancelled());
        drop((mine, other_id, other_token));
        assert!(calls.lock().is_empty());
        let (one, two) = (calls.begin_as(key(1, "1")), calls.begin_as(key(1, "1")));
        calls.cancel_as(&key(1, "1"));
        assert!(!one.cancelled.is_cancelled() && !two.cancelled.is_cancelled());
    }
}
