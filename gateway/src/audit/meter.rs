//! How many rows and bytes one call fetched, counted where they arrive and read where the call ends.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

tokio::task_local! {
    static CURRENT: Arc<Meter>;
}

/// Counts of one call.
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

    /// Rows.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Rows of statements that have not ended yet, too.
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

/// Adds to the meter of the call that runs; nothing where none does.
pub fn add(rows: u64, bytes: u64) {
    let _ = CURRENT.try_with(|meter| {
        meter.rows.fetch_add(rows, Ordering::Relaxed);
        meter.bytes.fetch_add(bytes, Ordering::Relaxed);
    });
}

/// A row has come for the call that runs.
pub fn arrived() {
    let _ = CURRENT.try_with(|meter| meter.arrived.fetch_add(1, Ordering::Relaxed));
}

/// Rows and bytes of the call that runs, so far.
pub fn totals() -> (u64, u64) {
    CURRENT.try_with(|meter| (meter.rows(), meter.bytes())).unwrap_or_default()
}
