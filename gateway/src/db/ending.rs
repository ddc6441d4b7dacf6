//! The end of connections on which something may still run.
//!
//! A cancel is a request. A loop in the server that does not look for it (`translate` with two texts of megabytes) runs to
//! its own end, whatever was cancelled, timed out or closed. Its process exists until then, so its connection keeps its
//! permits until then, the tenant's and the one in the budget: a caller who repeats such a statement waits for them, instead
//! of getting one more process with each attempt.

use std::time::{Duration, Instant};

use storefence_pgwire::{Cancel, Wire};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

use super::{connection::Connection, credentials::Loaded, lease::Permits};

/// Longest wait for a cancel request to be sent, and for a cancelled statement to end before our side of the socket is
/// closed as well. The close ends the statement where cancel requests do not arrive.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);
/// First and longest pause before a cancel is sent again. The first cancel may arrive between two statements of a batch,
/// where the server ignores it, and the statement has to end within 200 ms nevertheless.
const AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(30));
/// After this time the log names the process that does not end.
const STUBBORN: Duration = Duration::from_secs(10);
/// After this time the permits are returned though the server has not closed the socket. TCP notices a server or a network
/// that is gone within a minute. So this concerns a proxy that keeps a socket without a server behind it, and statements
/// that really run that long: a caller who repeats those gains one process per permit in half an hour.
const GIVE_UP: Duration = Duration::from_secs(30 * 60);

/// Connections that are leased, and connections that are being ended.
#[derive(Clone, Debug, Default)]
pub struct Endings(TaskTracker);

impl Endings {
    /// Counts a lease for as long as the token is held.
    pub fn lent(&self) -> TaskTrackerToken {
        self.0.token()
    }

    /// Ends a connection in the background. `permits` are returned when it has ended.
    pub fn begin(&self, connection: Connection, cause: &'static str, permits: Option<Permits>) {
        // Without a runtime the process is ending, and its sockets with it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let ending = async move {
            connection.end(cause).await;
            drop(permits);
        };
        self.0.spawn_on(ending, &runtime);
    }

    /// Waits until no connection is leased or being ended, for at most `limit`.
    pub async fn over(&self, limit: Duration) {
        self.0.close();
        let _ = tokio::time::timeout(limit, self.0.wait()).await;
    }
}

/// Cancels until the server has closed the connection. Closing our side alone would leave the statement running: PostgreSQL
/// looks at the socket only when it writes. Returns whether the server has closed.
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

/// Sends the cancel again and again; does not return.
async fn cancelling(cancel: &Cancel, loaded: &Loaded, pid: i32, cause: &'static str) {
    let (started, mut pause, mut reported) = (Instant::now(), AGAIN.0, false);
    loop {
        match tokio::time::timeout(CANCEL_TIMEOUT, cancel.send(&loaded.config, &loaded.tls)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, pid, cause, "a statement could not be cancelled at the server"),
            Err(_) => tracing::warn!(pid, cause, "a statement could not be cancelled at the server in time"),
        }
        if !reported && started.elapsed() >= STUBBORN {
            reported = true;
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
