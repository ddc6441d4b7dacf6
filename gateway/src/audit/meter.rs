//! The rows and bytes that one call fetched, counted as they arrive and read when the call ends.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

tokio::task_local! {
    static CURRENT: Arc<Meter>;
}

#[derive(Debug, Default)]
pub struct Meter {
    rows: AtomicU64,
    bytes: AtomicU64,
    arrived: AtomicU64,
}

impl Meter {
    /// Runs `call` with this meter.
    pub async fn measure<F: Future>(self: Arc<Self>, call: F) -> F::Output {
        CURRENT.scope(self, call).await
    }

    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Rows, including those of statements that have not ended yet.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Bytes of rows.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Adds to the meter of the current call; does nothing outside of a call.
pub fn add(rows: u64, bytes: u64) {
    let _ = CURRENT.try_with(|meter| {
        meter.rows.fetch_add(rows, Ordering::Relaxed);
        meter.bytes.fetch_add(bytes, Ordering::Relaxed);
    });
}

/// Counts a row for the current call.
pub fn arrived() {
    let _ = CURRENT.try_with(|meter| meter.arrived.fetch_add(1, Ordering::Relaxed));
}

/// Rows and bytes of the current call, so far.
pub fn totals() -> (u64, u64) {
    CURRENT.try_with(|meter| (meter.rows(), meter.bytes())).unwrap_or_default()
}
