//! The client of the Kubernetes API, and a watch that does not press a server that refuses.

use std::time::Duration;

use futures::{Stream, StreamExt};
use kube::{Client, Config, runtime::watcher::Event};
use reqwest::header::{HeaderValue, USER_AGENT};

use crate::Backoff;

/// A client that says who it is. The API server names the writer of a field after it (the part before the slash) where a
/// request has no `fieldManager`, and `unknown` where it has no `User-Agent`.
///
/// # Errors
/// kube's, for a configuration that makes no client.
pub fn kubernetes_client(mut config: Config, agent: &'static str) -> Result<Client, kube::Error> {
    config.headers.push((USER_AGENT, HeaderValue::from_static(agent)));
    Client::try_from(config)
}

/// The events of a watch, for ever. A failure is waited out, and the waits grow until the server has answered with
/// something; a new try alone proves nothing, though kube's own backoff takes its `Init` for a success and starts over.
/// Each wait that is longer than the last is logged, with `consequence`.
pub fn patient_watch<K, E>(
    events: impl Stream<Item = Result<Event<K>, E>>,
    backoff: Backoff,
    consequence: &'static str,
) -> impl Stream<Item = Event<K>>
where
    E: std::fmt::Display,
{
    futures::stream::unfold((Box::pin(events), backoff), move |(mut events, mut backoff)| async move {
        loop {
            match events.next().await? {
                Ok(event) => {
                    if !matches!(event, Event::Init) && backoff.succeeded() {
                        tracing::info!("the watch of RetailTenants works again");
                    }
                    return Some((event, (events, backoff)));
                }
                Err(error) => {
                    let pause = backoff.failed();
                    let wait_ms = u64::try_from(pause.length.as_millis()).unwrap_or(u64::MAX);
                    if pause.grew {
                        tracing::warn!(%error, wait_ms, "the watch of RetailTenants broke; {consequence}");
                    } else {
                        tracing::debug!(%error, wait_ms, "the watch of RetailTenants broke");
                    }
                    tokio::time::sleep(pause.length).await;
                }
            }
        }
    })
}

/// From a fifth of a second to ten: a tenant's change has to act within seconds once the server is back.
#[must_use]
pub const fn watch_backoff() -> Backoff {
    Backoff::new(Duration::from_millis(200), Duration::from_secs(10))
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    /// A server that refuses every list: `Init`, an error, `Init`, an error. The waits grow all the same, and end with a
    /// list that is complete.
    #[tokio::test(start_paused = true)]
    async fn waits_grow_until_the_server_answers() {
        let refused = || stream::iter([Ok(Event::<u8>::Init), Err("401")]);
        let listed = || stream::iter([Ok(Event::Init), Ok(Event::InitDone)]);
        let events = stream::iter((0..20).map(|_| refused().left_stream()).chain([listed().right_stream()])).flatten();
        let begun = tokio::time::Instant::now();
        let seen: Vec<_> = patient_watch(events, watch_backoff(), "nothing changes").collect().await;
        assert_eq!(seen.len(), 22);
        // 0.2, 0.4, … 6.4 and then 10 seconds fourteen times, each within a fifth.
        let waited = begun.elapsed().as_secs_f64();
        assert!((120.0..190.0).contains(&waited), "{waited}");
    }
}
