//! The end of connections on which something may still run.
//!
//! A cancel is a request. A loop in the server that does not look for it (`translate` with two texts of megabytes) runs to
//! its own end, whatever was cancelled, timed out or closed. Its process is there as long, so its connection keeps its
//! places for as long, the tenant's and the one in the budget: whoever repeats such a statement waits for them, instead of
//! getting one more process with each attempt.

use std::time::{Duration, Instant};

use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

use super::{
    connection::Connection,
    credentials::Loaded,
    lease::Places,
    wire::{Cancel, Wire},
};

/// Longest wait until a cancel request is sent, and for a cancelled statement to end before our side of the socket is
/// closed, too: that ends it where cancel requests do not arrive.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);
/// First and longest pause before a cancel is sent again: the first may come between two statements of a flight, where the
/// server forgets it, and the statement has to end in 200 ms nevertheless.
const AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(30));
/// When the log names the process that does not end.
const STUBBORN: Duration = Duration::from_secs(10);
/// When the places are given back though the server has not closed the socket. A server or a network that has gone is
/// noticed by TCP within a minute, so this concerns a proxy in between that keeps a socket without a server behind it, and
/// statements that really run that long: who repeats those gains one process for each place in half an hour.
const GIVE_UP: Duration = Duration::from_secs(30 * 60);

/// Connections on loan, and those that are being ended.
#[derive(Clone, Debug, Default)]
pub struct Endings(TaskTracker);

impl Endings {
    /// Counts a loan for as long as it is held.
    pub fn lent(&self) -> TaskTrackerToken {
        self.0.token()
    }

    /// Ends a connection in the background. `places` are given back when it has ended.
    pub fn begin(&self, connection: Connection, cause: &'static str, places: Option<Places>) {
        // Outside a runtime the process is ending, and its sockets with it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let ending = async move {
            connection.end(cause).await;
            drop(places);
        };
        self.0.spawn_on(ending, &runtime);
    }

    /// Waits until nothing is on loan and all that is being ended has, at most so long.
    pub async fn over(&self, limit: Duration) {
        self.0.close();
        let _ = tokio::time::timeout(limit, self.0.wait()).await;
    }
}

/// Cancels until the server has closed the connection. Closing our side alone would leave the statement running: PostgreSQL
/// looks at the socket only when it has something to say. Says whether the server has closed.
pub async fn end(wire: Wire, loaded: &Loaded, pid: i32, cause: &'static str) -> bool {
    let cancel = wire.cancel();
    tokio::select! {
        biased;
        () = wire.end(CANCEL_TIMEOUT) => true,
        () = cancelling(&cancel, loaded, pid, cause) => false,
        () = tokio::time::sleep(GIVE_UP) => {
            tracing::error!(pid, cause, "a statement did not end at the server, and is waited for no longer");
            false
        }
    }
}

/// Sends the cancel again and again; does not end.
async fn cancelling(cancel: &Cancel, loaded: &Loaded, pid: i32, cause: &'static str) {
    let (started, mut pause, mut told) = (Instant::now(), AGAIN.0, false);
    loop {
        match tokio::time::timeout(CANCEL_TIMEOUT, cancel.send(&loaded.config, &loaded.tls)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, pid, cause, "a statement could not be cancelled at the server"),
            Err(_) => tracing::warn!(pid, cause, "a statement could not be cancelled at the server in time"),
        }
        if !told && started.elapsed() >= STUBBORN {
            told = true;
            tracing::warn!(
                pid,
                cause,
                "a statement does not end at the server; its connection stays in use until it does"
            );
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(AGAIN.1);
    }
}
