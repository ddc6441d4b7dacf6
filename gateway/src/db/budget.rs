//! The budget of connections for all tenants together.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Places for connections, idle ones included.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Places>);

#[derive(Debug)]
struct Places {
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// One more who waits, until it is dropped.
struct Waiting(Arc<Places>);

impl Waiting {
    fn new(places: &Arc<Places>) -> Self {
        places.waiting.fetch_add(1, Ordering::SeqCst);
        Self(places.clone())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Budget {
    /// So many places.
    #[must_use]
    pub fn new(total: usize) -> Self {
        Self(Arc::new(Places { free: Arc::new(Semaphore::new(total)), waiting: AtomicUsize::new(0) }))
    }

    /// Whether somebody waits for a place: a connection that comes back is then closed, not kept. Who keeps one asks
    /// afterwards, and who waits counts before looking for one to close, so that neither misses the other.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.0.waiting.load(Ordering::SeqCst) > 0
    }

    /// Takes a place, after `make_room` where there is none; waits at most so long.
    pub async fn take(&self, make_room: impl FnOnce(), limit: Duration) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = self.0.free.clone().try_acquire_owned() {
            return Some(place);
        }
        let _waiting = Waiting::new(&self.0);
        make_room();
        tokio::time::timeout(limit, self.0.free.clone().acquire_owned()).await.ok()?.ok()
    }
}
