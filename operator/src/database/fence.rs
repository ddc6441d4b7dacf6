//! The fence as a whole, looked at for all tenants of a database together and not too often: the look costs the same
//! whoever asks for it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Database, DatabaseError};
use crate::verify::{self, Deviation, Expectations, Severity, VerifyError};

/// How soon a damaged fence is looked at again: somebody is mending it.
const DAMAGED_AGE: Duration = Duration::from_secs(1);

/// What was found, and when.
pub(super) type LastLook = Option<(Instant, Arc<[Deviation]>)>;

impl Database {
    /// Deviations that make the fence unsafe for every tenant. Those of single logins are left out: they are found, and
    /// mended or told, where that login's tenant is reconciled.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn unsafe_deviations(&self) -> Result<Arc<[Deviation]>, DatabaseError> {
        // Held during the look: whoever comes meanwhile waits for its result.
        let mut last = self.last_look.lock().await;
        if let Some((when, found)) = last.as_ref() {
            let age = if found.is_empty() { self.fence_age } else { self.fence_age.min(DAMAGED_AGE) };
            if when.elapsed() < age {
                return Ok(Arc::clone(found));
            }
        }
        let mut connection = self.acquire().await?;
        let expectations = Expectations::default();
        let look = verify::check(&mut connection, &expectations);
        let found = match tokio::time::timeout(self.deadline, look).await {
            Ok(Ok(found)) => found,
            Ok(Err(VerifyError::Database(error))) => return Err(self.error(error)),
            Ok(Err(error)) => return Err(DatabaseError::Query { place: self.place(), problem: error.to_string() }),
            Err(_) => return Err(self.error(sqlx::Error::PoolTimedOut)),
        };
        let relevant = |deviation: &Deviation| deviation.severity == Severity::Unsafe && !of_a_login(&deviation.object);
        let found: Arc<[Deviation]> = found.into_iter().filter(relevant).collect();
        *last = Some((Instant::now(), Arc::clone(&found)));
        Ok(found)
    }
}

/// Whether an object as `verify` names it is a tenant's login, or a membership of one.
fn of_a_login(object: &str) -> bool {
    let words = object.split([' ', '"', ',']);
    words.into_iter().any(|word| {
        let hex = word.strip_prefix("sf_").and_then(|rest| rest.strip_suffix("_a").or_else(|| rest.strip_suffix("_b")));
        hex.is_some_and(|hex| hex.len() == 12 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_told_from_the_rest_of_the_fence() {
        for object in ["login sf_0123456789ab_a", "role sf_0123456789ab_b", "membership of sf_0123456789ab_a in fence_login"] {
            assert!(of_a_login(object), "{object}");
        }
        for object in ["role fence_reader", "table retail.orders", "function fence.ticket()", "role sf_a", "role sf_xyz_a"] {
            assert!(!of_a_login(object), "{object}");
        }
    }
}
