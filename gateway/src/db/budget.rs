//! The budget of connections, for all tenants together.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Permits for connections. Idle connections hold one, too.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Permits>);

#[derive(Debug)]
struct Permits {
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// Counts a waiter until it is dropped.
struct Waiting(Arc<Permits>);

impl Waiting {
    fn new(permits: &Arc<Permits>) -> Self {
        permits.waiting.fetch_add(1, Ordering::SeqCst);
        Self(permits.clone())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Budget {
    /// A budget of `total` connections.
    #[must_use]
    pub fn new(total: usize) -> Self {
        Self(Arc::new(Permits { free: Arc::new(Semaphore::new(total)), waiting: AtomicUsize::new(0) }))
    }

    /// Whether a call waits for a permit: a connection that is returned then closes instead of becoming idle. A connection
    /// becomes idle before this is read, and a waiter counts itself before it looks for an idle connection to close, so
    /// neither misses the other.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.0.waiting.load(Ordering::SeqCst) > 0
    }

    /// Takes a permit. Where none is free it calls `make_room`, and waits for at most `limit`.
    pub async fn take(&self, make_room: impl FnOnce(), limit: Duration) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = self.0.free.clone().try_acquire_owned() {
            return Some(permit);
        }
        let _waiting = Waiting::new(&self.0);
        make_room();
        tokio::time::timeout(limit, self.0.free.clone().acquire_owned()).await.ok()?.ok()
    }
}
