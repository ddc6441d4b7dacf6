//! `notifications/progress` for long calls whose client asked for it with `_meta.progressToken`.
//!
//! The first notification turns the answer into an event stream; a call that ends before it is answered as plain JSON.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use rmcp::{
    RoleServer,
    model::{ProgressNotificationParam, ProgressToken},
    service::RequestContext,
};

use super::revision::{Client, Revision};
use crate::audit::meter::Meter;

/// From the start of the call to the first notification, and from one to the next.
const PAUSE: Duration = Duration::from_secs(1);

/// Reports for as long as the call runs, if the client asked for it. Boxed only then: rmcp moves the frame of every
/// call several times, and most calls do not report.
pub async fn report(context: &RequestContext<RoleServer>, meter: &Meter, started: Instant) -> Infallible {
    match context.meta.get_progress_token().filter(|_| Client::of(context).streams) {
        None => std::future::pending().await,
        Some(token) => Box::pin(reports(context, token, meter, started)).await,
    }
}

/// Progress is the elapsed time in seconds: the duration of a statement is unknown.
async fn reports(
    context: &RequestContext<RoleServer>,
    token: ProgressToken,
    meter: &Meter,
    started: Instant,
) -> Infallible {
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::from_std(started) + PAUSE, PAUSE);
    // If the client reads slowly, missed ticks are not made up for.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let seconds = started.elapsed().as_secs_f64();
        let mut notification = ProgressNotificationParam::new(token.clone(), (seconds * 1000.0).round() / 1000.0);
        if Client::of(context).knows(Revision::V2025_03_26) {
            notification = notification.with_message(message(seconds, meter.arrived()));
        }
        // A client that is gone has cancelled the call as well.
        let _ = context.peer.notify_progress(notification).await;
    }
}

fn message(seconds: f64, rows: u64) -> String {
    match rows {
        0 => format!("running for {seconds:.0} s"),
        1 => format!("running for {seconds:.0} s, 1 row so far"),
        rows => format!("running for {seconds:.0} s, {rows} rows so far"),
    }
}

#[cfg(test)]
mod tests {
    use super::message;

    #[test]
    fn rows_are_named_once_there_are_some() {
        assert_eq!(message(1.04, 0), "running for 1 s");
        assert_eq!(message(2.0, 1), "running for 2 s, 1 row so far");
        assert_eq!(message(61.6, 1200), "running for 62 s, 1200 rows so far");
    }
}
