//! The fence as a whole, looked at for all tenants of a database together and not too often: the look costs the same
//! whoever asks for it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{AssertSqlSafe, PgConnection};

use super::{Database, DatabaseError};
use crate::verify::{self, Deviation, ProtectedTable, Severity, VerifyError};

/// How soon a damaged fence is looked at again: somebody is mending it.
const DAMAGED_AGE: Duration = Duration::from_secs(1);

/// What was found, and when.
pub(super) type LastLook = Option<(Instant, Arc<FenceLook>)>;

/// What a look may mend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mending {
    /// Nothing.
    Nothing,
    /// The chain's listed tables: they are the configuration's.
    Tables,
    /// Grants, policies and row-level security as well. Functions, roles and their memberships are for a person to look
    /// at: whoever changed those could have changed more.
    All,
}

/// What a look at the whole fence found. Deviations of single logins are left out: they are found, and mended or told,
/// where that login's tenant is reconciled.
#[derive(Debug, Default)]
pub struct FenceLook {
    /// What makes the fence unsafe for every tenant.
    pub deviations: Arc<[Deviation]>,
    /// What the configuration asks for and is not in place; the fence holds.
    pub missing: Vec<Deviation>,
}

impl Database {
    /// Looks at the whole fence, mends what it may, and tells what that was: the words are for one caller only, however
    /// many share the look.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn look_at_fence(&self, mending: Mending) -> Result<(Arc<FenceLook>, Vec<String>), DatabaseError> {
        // Held during the look: whoever comes meanwhile waits for its result.
        let mut last = self.last_look.lock().await;
        if let Some((when, found)) = last.as_ref() {
            let age = if found.deviations.is_empty() { self.fence_age } else { self.fence_age.min(DAMAGED_AGE) };
            if when.elapsed() < age {
                return Ok((Arc::clone(found), Vec::new()));
            }
        }
        let mut connection = self.acquire().await?;
        let mut found = self.look(&mut connection).await?;
        let mut told = Vec::new();
        if mending != Mending::Nothing && self.may_write().is_ok() {
            let mut mended = self.mend(&mut connection, &found).await;
            if mending == Mending::All {
                mended.done |= self.run_remedies(&mut connection, &found).await;
            }
            if mended.done {
                let before = std::mem::replace(&mut found, self.look(&mut connection).await?);
                let gone = before.iter().filter(|deviation| deviation.mendable && !found.contains(deviation));
                told = gone.map(|deviation| format!("{}: {}", deviation.object, deviation.remedy)).collect();
                told.iter().for_each(|told| tracing::warn!(database = self.place(), "the fence differed; ran {told}"));
            }
            for (table, problem) in mended.problems {
                for deviation in found.iter_mut().filter(|deviation| table.concerns(deviation)) {
                    deviation.remedy.clone_from(&problem);
                }
            }
        }
        found.retain(|deviation| !of_a_login(&deviation.object));
        let of = |severity: Severity| found.iter().filter(move |deviation| deviation.severity == severity).cloned();
        let found = Arc::new(FenceLook {
            deviations: of(Severity::Unsafe).collect(),
            missing: of(Severity::Missing).collect(),
        });
        if let Some(first) = found.missing.first() {
            let missing = found.missing.len();
            tracing::warn!(database = self.place(), missing, "the configuration asks for more: {first}");
        }
        *last = Some((Instant::now(), Arc::clone(&found)));
        Ok((found, told))
    }

    /// Runs the remedies of grants, policies and row-level security; gives whether any could be run. What one that ran
    /// did not mend, the next look tells.
    async fn run_remedies(&self, connection: &mut PgConnection, found: &[Deviation]) -> bool {
        let mut ran = false;
        let mendable = |deviation: &&Deviation| deviation.mendable && deviation.severity == Severity::Unsafe;
        for Deviation { object, remedy, .. } in found.iter().filter(mendable) {
            // Audited: every name from the catalogs in a mendable remedy is one that needs no quotes.
            let run = sqlx::raw_sql(AssertSqlSafe(remedy.clone())).execute(&mut *connection);
            match self.within("fence", run).await {
                Ok(_) => ran = true,
                Err(error) => tracing::warn!(database = self.place(), "{object} cannot be mended: {error}"),
            }
        }
        ran
    }

    /// The protected tables that are not behind the fence; changes nothing.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn unprotected(&self) -> Result<Vec<&ProtectedTable>, DatabaseError> {
        let mut connection = self.acquire().await?;
        let found = self.look(&mut connection).await?;
        let open = |table: &&ProtectedTable| found.iter().any(|deviation| table.concerns(deviation));
        Ok(self.expectations.protected.iter().filter(open).collect())
    }

    async fn look(&self, connection: &mut PgConnection) -> Result<Vec<Deviation>, DatabaseError> {
        let look = async {
            verify::check(connection, &self.expectations).await.map_err(|error| match error {
                VerifyError::Database(error) => self.error(error),
                error => DatabaseError::Query { place: self.place(), problem: error.to_string() },
            })
        };
        self.guarded("fence", look).await
    }

    /// Puts the chain's listed tables behind the fence where they are not, and takes the readers' rights from those that
    /// are listed no longer.
    async fn mend(&self, connection: &mut PgConnection, found: &[Deviation]) -> Mended<'_> {
        let mut mended = Mended::default();
        if found.iter().all(|deviation| deviation.severity == Severity::Notice) {
            return mended;
        }
        let listed = &self.expectations.protected;
        for table in listed {
            if !found.iter().any(|deviation| table.concerns(deviation)) {
                continue;
            }
            let problem = match tokio::time::timeout(self.deadline, verify::protect(connection, table)).await {
                Ok(Ok(())) => {
                    mended.done = true;
                    tracing::info!(database = self.place(), %table, "put behind the fence; its owner needs a policy of its own");
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("protected table {table}: no answer in time; the operator tries again"),
            };
            tracing::warn!(database = self.place(), "{problem}");
            mended.problems.push((table, problem));
        }
        match tokio::time::timeout(self.deadline, verify::withdraw(connection, listed)).await {
            Ok(Ok(tables)) => {
                for table in tables {
                    mended.done = true;
                    tracing::info!(database = self.place(), table, "no longer listed: readable by no tenant");
                }
            }
            Ok(Err(error)) => tracing::warn!(database = self.place(), "tables that are listed no longer: {error}"),
            Err(_) => tracing::warn!(database = self.place(), "tables that are listed no longer: no answer in time"),
        }
        mended
    }
}

/// What was done about protected tables, and what could not be.
#[derive(Default)]
struct Mended<'a> {
    done: bool,
    problems: Vec<(&'a ProtectedTable, String)>,
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
        for object in
            ["login sf_0123456789ab_a", "role sf_0123456789ab_b", "membership of sf_0123456789ab_a in fence_login"]
        {
            assert!(of_a_login(object), "{object}");
        }
        for object in
            ["role fence_reader", "table retail.orders", "function fence.ticket()", "role sf_a", "role sf_xyz_a"]
        {
            assert!(!of_a_login(object), "{object}");
        }
    }
}
