//! Cutting connections on purpose: the fault that servers and proxies share.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use tokio_util::sync::CancellationToken;

/// Says whether new connections may live, and ends those that do.
///
/// Both take effect before the call returns: a connection accepted afterwards is never cut by an earlier call.
#[derive(Clone, Debug, Default)]
pub(crate) struct Breaker(Arc<State>);

#[derive(Debug, Default)]
struct State {
    down: AtomicBool,
    /// Ends the connections that were admitted since the last cut.
    current: Mutex<CancellationToken>,
}

impl Breaker {
    /// For a connection that was just accepted: the token that ends it, or nothing while the line is down.
    pub(crate) fn admit(&self) -> Option<CancellationToken> {
        // The token first: whoever reads `down` as false before it is set is cut by the token.
        let token = self.0.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (!self.0.down.load(Ordering::SeqCst)).then_some(token)
    }

    /// While down, connections are cut and new ones not admitted.
    pub(crate) fn set_down(&self, down: bool) {
        self.0.down.store(down, Ordering::SeqCst);
        if down {
            self.cut();
        }
    }

    /// Cuts every admitted connection once.
    pub(crate) fn cut(&self) {
        let mut current = self.0.current.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *current).cancel();
    }
}
