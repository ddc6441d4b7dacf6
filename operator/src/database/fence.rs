//! The fence as a whole, looked at for all tenants of a database together and not too often: the look costs the same
//! whoever asks for it.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use sqlx::{AssertSqlSafe, PgConnection};

use super::{Database, DatabaseError};
use crate::verify::{self, Deviation, ProtectedTable, Severity, VerifyError};

/// How soon a damaged fence is looked at again: somebody is mending it.
const DAMAGED_AGE: Duration = Duration::from_secs(1);

/// What was found, and when.
pub(super) type LastLook = Option<(Instant, u64, Arc<FenceLook>)>;

/// What a look may repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mending {
    Nothing,
    /// The tenant's listed tables: they are the configuration's.
    Tables,
    /// Grants, policies and row-level security as well. Functions, roles and their memberships are for a person to look
    /// at: whoever changed those could have changed more.
    All,
}

/// What a look at the whole fence found.
#[derive(Debug, Default)]
pub struct FenceLook {
    /// What makes the fence unsafe for every tenant, whoever looks.
    pub deviations: Arc<[Deviation]>,
    /// What the configuration asks for and is not in place; the fence holds.
    pub missing: Vec<Deviation>,
    /// What is wrong with single logins.
    logins: Vec<OfLogin>,
}

/// A deviation of one tenant's login.
#[derive(Debug)]
struct OfLogin {
    /// UID of the object that the tenant belongs to.
    owner_uid: String,
    deviation: Deviation,
}

impl FenceLook {
    /// What makes the fence unsafe. What is wrong with a login is left out where passes look after its tenant: they find
    /// it, and repair or report it. Nobody else looks at the logins of a tenant that is suspended, or was let go.
    #[must_use]
    pub fn deviations(&self, looked_after: impl Fn(&str) -> bool) -> Arc<[Deviation]> {
        let left: Vec<&OfLogin> = self.logins.iter().filter(|of| !looked_after(&of.owner_uid)).collect();
        if left.is_empty() {
            return Arc::clone(&self.deviations);
        }
        self.deviations.iter().chain(left.into_iter().map(|of| &of.deviation)).cloned().collect()
    }
}

impl Database {
    /// Looks at the whole fence, repairs what it may, and returns what that was: the report is for one caller only, however
    /// many share the look.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn look_at_fence(&self, mending: Mending) -> Result<(Arc<FenceLook>, Vec<String>), DatabaseError> {
        // Held during the look: whoever comes meanwhile waits for its result.
        let mut last = self.last_look.lock().await;
        let current = self.looks.load(Ordering::Relaxed);
        if let Some((when, of, found)) = last.as_ref()
            && *of == current
        {
            let age = if found.deviations.is_empty() { self.fence_age } else { self.fence_age.min(DAMAGED_AGE) };
            if when.elapsed() < age {
                return Ok((Arc::clone(found), Vec::new()));
            }
        }
        let mut connection = self.acquire().await?;
        let mut found = self.look(&mut connection).await?;
        let mut told = Vec::new();
        if mending != Mending::Nothing && self.may_write().is_ok() {
            let mut mended = self.repair(&mut connection, &found).await;
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
        let owners = self.owners(&mut connection, &found).await?;
        let found = Arc::new(sort(found, &owners));
        if let Some(first) = found.missing.first() {
            let missing = found.missing.len();
            tracing::warn!(database = self.place(), missing, "the configuration asks for more: {first}");
        }
        *last = Some((Instant::now(), current, Arc::clone(&found)));
        Ok((found, told))
    }

    /// The tenants' logins that deviations may be about: whom each belongs to.
    async fn owners(
        &self,
        connection: &mut PgConnection,
        found: &[Deviation],
    ) -> Result<BTreeMap<String, Owner>, DatabaseError> {
        let named: Vec<&str> = found.iter().filter_map(|deviation| named_login(&deviation.object)).collect();
        if named.is_empty() {
            return Ok(BTreeMap::new());
        }
        let query = sqlx::query_as::<_, (String, String, bool)>(
            "SELECT l.login::text, t.owner_uid, coalesce(r.rolcanlogin, false) \
               FROM fence.logins l JOIN fence.tenants t USING (tenant_key) LEFT JOIN pg_roles r ON r.rolname = l.login \
              WHERE l.login::text = ANY ($1)",
        );
        let rows = self.within("fence", query.bind(named).fetch_all(connection)).await?;
        Ok(rows.into_iter().map(|(login, uid, can_log_in)| (login, Owner { uid, can_log_in })).collect())
    }

    /// Runs the remedies of grants, policies and row-level security; gives whether any could be run. What one that ran
    /// did not repair, the next look reports.
    async fn run_remedies(&self, connection: &mut PgConnection, found: &[Deviation]) -> bool {
        let mut ran = false;
        let mendable = |deviation: &&Deviation| deviation.mendable && deviation.severity == Severity::Unsafe;
        for Deviation { object, remedy, .. } in found.iter().filter(mendable) {
            // What waits for a reader makes every call wait that comes after it: it gives way, and is tried again with
            // the next look. One message, so one transaction.
            let run = format!("SET LOCAL lock_timeout = '1s'; {remedy}");
            // Audited: every name from the catalogs in a mendable remedy is one that needs no quotes.
            let run = sqlx::raw_sql(AssertSqlSafe(run)).execute(&mut *connection);
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

    /// Puts the tenant's listed tables behind the fence where they are not, and takes the readers' rights from those that
    /// are listed no longer.
    async fn repair(&self, connection: &mut PgConnection, found: &[Deviation]) -> Mended<'_> {
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

/// Whom a login belongs to, and whether it lets anybody in.
struct Owner {
    uid: String,
    can_log_in: bool,
}

/// Tells what concerns all tenants from what concerns the login of one. Only what `fence.logins` has counts as a login,
/// whatever an object's name looks like.
fn sort(found: Vec<Deviation>, owners: &BTreeMap<String, Owner>) -> FenceLook {
    let (mut deviations, mut missing, mut logins) = (Vec::new(), Vec::new(), Vec::new());
    for deviation in found {
        let owner = named_login(&deviation.object).and_then(|login| owners.get(login));
        match (deviation.severity, owner) {
            (Severity::Unsafe, None) => deviations.push(deviation),
            (Severity::Missing, None) => missing.push(deviation),
            // A role that is gone, that may not log in, or that lacks its membership, opens nothing.
            (Severity::Unsafe, Some(owner)) if owner.can_log_in && deviation.found != NO_MEMBERSHIP => {
                logins.push(OfLogin { owner_uid: owner.uid.clone(), deviation });
            }
            (..) => {}
        }
    }
    FenceLook { deviations: deviations.into(), missing, logins }
}

/// How `verify` says that a login is not a member of the group.
const NO_MEMBERSHIP: &str = "none";

/// The role in an object as `verify` names it, where that may be a tenant's login.
fn named_login(object: &str) -> Option<&str> {
    let member = || object.strip_prefix("membership of ")?.rsplit_once(" in ").map(|(member, _)| member);
    object.strip_prefix("login ").or_else(member)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGIN: &str = "sf_0123456789ab_a";

    fn look(object: &str, found: &str, can_log_in: bool) -> FenceLook {
        let deviation = Deviation {
            severity: Severity::Unsafe,
            object: object.to_owned(),
            found: found.to_owned(),
            expected: String::new(),
            remedy: String::new(),
            mendable: false,
        };
        let owner = Owner { uid: "zava".to_owned(), can_log_in };
        sort(vec![deviation], &[(LOGIN.to_owned(), owner)].into())
    }

    #[test]
    fn only_a_login_of_a_tenant_that_is_looked_after_is_left_to_its_passes() {
        for object in [format!("login {LOGIN}"), format!("membership of {LOGIN} in retail_owner")] {
            let look = look(&object, "attributes BYPASSRLS", true);
            assert!(look.deviations(|uid| uid == "zava").is_empty(), "{object}");
            assert_eq!(look.deviations(|_| false).len(), 1, "{object}");
        }
        // Names that look like a login's, or have one in them.
        for object in [
            "policy sf_0123456789ab_a on retail.orders",
            "login sf_ba9876543210_a",
            "role sf_0123456789ab_a",
            "table retail.sf_0123456789ab_a",
            "membership of stranger in sf_0123456789ab_a",
            "membership of sf_0123456789ab_a in x in retail_owner",
            "function public.f(sf_0123456789ab_a text)",
        ] {
            assert_eq!(look(object, "whatever", true).deviations(|_| true).len(), 1, "{object}");
        }
    }

    #[test]
    fn a_login_that_lets_nobody_in_is_no_danger() {
        for (object, found, can_log_in) in [
            (format!("login {LOGIN}"), "no such role", false),
            (format!("login {LOGIN}"), "attributes BYPASSRLS", false),
            (format!("membership of {LOGIN} in fence_login"), "none", true),
        ] {
            assert!(look(&object, found, can_log_in).deviations(|_| false).is_empty(), "{object} {found}");
        }
    }
}
