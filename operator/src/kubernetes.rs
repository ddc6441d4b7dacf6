//! What every call to the Kubernetes API has: a deadline, and a field manager where it writes.

use std::time::Duration;

/// Field manager of every write.
pub const FIELD_MANAGER: &str = "storefence-operator";

/// The outcome of a call to the Kubernetes API, or an error when there is none in time.
pub async fn in_time<T>(
    deadline: Duration,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, kube::Error> {
    let problem = || format!("no answer within {} ms", deadline.as_millis());
    tokio::time::timeout(deadline, call).await.unwrap_or_else(|_| Err(kube::Error::Service(problem().into())))
}
