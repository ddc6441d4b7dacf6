//! The data path: a scope and a statement become rows.

mod budget;
mod circuit;
pub mod connection;
pub mod credentials;
mod ending;
pub mod flight;
mod lease;
pub mod life;
pub mod pool;
pub mod query;
mod reports;
pub mod rows;
mod shares;
mod turns;
pub mod uri;
pub mod wire;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use moka::sync::Cache;
use sha2::{Digest, Sha256};
use storefence_tenancy::context;
use tracing::Instrument;

use self::{
    credentials::Loaded,
    flight::{Flight, fly},
    pool::{PoolError, Pools},
    query::{Bounds, Call, Column, Search, StatementError},
    reports::{Reports, Shape},
    rows::Rows,
    shares::Weight,
};
use crate::{
    audit::meter,
    caller::Caller,
    gate::{self, Checked},
    metrics::Metrics,
    telemetry::spans,
    tenants::Tenant,
};

/// What the gateway waits beyond the tenant's statement timeout before it cancels on its own account. The server's
/// timeout comes first, unless the statement switched it off.
const GRACE: Duration = Duration::from_millis(500);
/// What a statement has at least, however long its caller waited for a connection. One that is cancelled for the time that
/// its caller waited costs the connection; the next caller has to open another, which takes longer than a statement, and so
/// is later still: a queue that a database left behind by standing still for a moment would never get shorter.
const LEAST: Duration = Duration::from_secs(1);
/// Life of a signed context, in seconds. It is checked when the call begins.
const CONTEXT_SECONDS: i64 = 30;
/// Most rows and bytes of the gateway's own statements: the tenant's limits are for what callers write.
const OWN: (u32, u32) = (1_000, 8 * 1024 * 1024);
/// Longest time that planning a statement may take for the sake of the log.
const PLANNING: Duration = Duration::from_secs(2);
/// Bytes of described statements that are remembered, and for how long: a migration may change what a name means. A caller
/// chooses how many columns there are, and what they are called.
const DESCRIBED: (u64, Duration) = (16 * 1024 * 1024, Duration::from_secs(60));
/// Bytes that an entry and each of its columns take beside their texts.
const ENTRY: usize = 256;

/// The rows of one statement.
#[derive(Debug)]
pub struct QueryResult {
    /// Columns, also where there are no rows.
    pub columns: Arc<Vec<Column>>,
    /// Rows.
    pub rows: Rows,
    /// Whether there were more.
    pub truncated: bool,
    /// Time from taking a connection to the last row.
    pub elapsed: Duration,
}

/// Why a statement gave no rows.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// PostgreSQL refused it.
    #[error(transparent)]
    Statement(StatementError),
    /// It ran longer than the tenant allows.
    #[error("the statement ran longer than {0:?}")]
    Timeout(Duration),
    /// No connection.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// A connection that had served other calls broke.
    #[error("the connection broke: {0}")]
    Stale(String),
    /// The fence refused the context.
    #[error("the fence refused the context: {error}")]
    Context {
        /// What it said.
        error: String,
        /// The credentials that it was signed with.
        loaded: Arc<Loaded>,
    },
}

impl QueryError {
    /// A word for metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Statement(_) => "Statement",
            Self::Timeout(_) => "Timeout",
            Self::Pool(error) => error.reason(),
            Self::Broken(_) | Self::Stale(_) => "Broken",
            Self::Context { .. } => "Context",
        }
    }

    /// The SQLSTATE of a refusal by PostgreSQL, or the word for metrics.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Statement(error) => &error.sqlstate,
            other => other.reason(),
        }
    }
}

/// Runs statements.
pub struct Data {
    pools: Arc<Pools>,
    described: Cache<[u8; 32], Arc<Vec<Column>>>,
    reports: Reports,
    metrics: Arc<Metrics>,
}

impl Data {
    /// Runs statements over these pools.
    #[must_use]
    pub fn new(pools: Arc<Pools>, metrics: Arc<Metrics>) -> Self {
        Self { pools, described: described(), reports: Reports::new(), metrics }
    }

    /// The pools.
    #[must_use]
    pub fn pools(&self) -> &Pools {
        &self.pools
    }

    /// Runs one statement, which the gate has let through, with what the scope may see.
    ///
    /// Dropping the future cancels the statement at the server.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn query(&self, caller: &Caller, statement: Checked<'_>) -> Result<QueryResult, QueryError> {
        let limits = caller.tenant.limits;
        let bounds = Bounds { max_rows: limits.max_rows, max_bytes: limits.max_bytes, timeout: limits.timeout };
        self.select(caller, statement, bounds, true).await
    }

    /// Searches for products; the rows have the columns that `fence.search_products` gives.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn search(&self, caller: &Caller, search: &Search, max_rows: u32) -> Result<Rows, QueryError> {
        let bounds = Bounds { max_rows, max_bytes: OWN.1, timeout: caller.tenant.limits.timeout };
        Ok(self.run(caller, Call::Search(search), bounds, false, Instant::now()).await?.rows)
    }

    /// Runs one statement of the gateway's own, with what the scope may see. No text of a caller may stand in it.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn own(&self, caller: &Caller, sql: &str) -> Result<Rows, QueryError> {
        let bounds = Bounds { max_rows: OWN.0, max_bytes: OWN.1, timeout: caller.tenant.limits.timeout };
        let statement = Checked { sql, gathers: gate::gathers(sql) };
        Ok(self.select(caller, statement, bounds, false).await?.rows)
    }

    /// The hash of a statement's plan. For the log alone: which plan is chosen follows from rows that the caller must not
    /// know of.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn plan(&self, caller: &Caller, sql: &str) -> Result<String, QueryError> {
        let bounds = Bounds { max_rows: 1, max_bytes: OWN.1, timeout: PLANNING };
        let rows = self.run(caller, Call::Plan(sql), bounds, false, Instant::now()).await?.rows;
        Ok(rows.text)
    }

    /// Runs a SELECT by the entry point that suits it.
    async fn select(
        &self,
        caller: &Caller,
        statement: Checked<'_>,
        bounds: Bounds,
        describe: bool,
    ) -> Result<QueryResult, QueryError> {
        let (sql, shape, started) = (statement.sql, Shape::of(caller, statement), Instant::now());
        let learn = |result: &QueryResult| {
            if let Some(shape) = shape {
                self.reports.learn(shape, result.elapsed);
            }
        };
        // Turns are for one processor's work.
        let workers = || !self.pools.takes_turns(&caller.tenant, caller.id());
        if !shape.is_some_and(|shape| self.reports.suit(shape) && workers()) {
            return self.run(caller, Call::Select(sql), bounds, describe, started).await.inspect(learn);
        }
        match self.run(caller, Call::Report(sql), bounds, describe, started).await {
            // No place in the caller's text is wrong: its columns are such that it cannot be a subquery. Or it failed late,
            // by a type that it met at work: so both runs have one deadline.
            Err(QueryError::Statement(error)) if error.sqlstate.starts_with("42") && error.position.is_none() => {
                self.run(caller, Call::Select(sql), bounds, describe, started).await
            }
            other => other.inspect(learn),
        }
    }

    async fn run(
        &self,
        caller: &Caller,
        call: Call<'_>,
        bounds: Bounds,
        describe: bool,
        started: Instant,
    ) -> Result<QueryResult, QueryError> {
        let span = spans::statement(call.kind(), call.sql());
        let result = self.flown(caller, call, bounds, describe, started).instrument(span.clone()).await;
        spans::rows(&span, result.as_ref().map(|result| u64::from(result.rows.count)).map_err(QueryError::code));
        result
    }

    async fn flown(
        &self,
        caller: &Caller,
        call: Call<'_>,
        bounds: Bounds,
        describe: bool,
        started: Instant,
    ) -> Result<QueryResult, QueryError> {
        let result = match self.attempt(caller, call, bounds, describe, started).await {
            // A connection that the server closed while it lay idle, or credentials that were rotated under it. The
            // transaction is read-only and sent no row, so another attempt repeats nothing.
            Err(QueryError::Stale(error)) => {
                tracing::info!(tenant = %caller.tenant.id(), error, "an idle connection was dead; opening another one");
                self.pools.distrust_idle(&caller.tenant);
                self.attempt(caller, call, bounds, describe, started).await
            }
            Err(QueryError::Context { error, loaded }) => {
                tracing::warn!(tenant = %caller.tenant.id(), error, "the fence refused the context; reading credentials again");
                self.pools.reload(&caller.tenant, &loaded).await;
                self.attempt(caller, call, bounds, describe, started).await
            }
            other => other,
        };
        let outcome = result.as_ref().map_or_else(QueryError::reason, |_| "ok");
        self.metrics.query_seconds.with_label_values(&[outcome]).observe(started.elapsed().as_secs_f64());
        if let Ok(result) = &result {
            meter::add(u64::from(result.rows.count), result.rows.json.len() as u64);
            self.metrics.rows.inc_by(u64::from(result.rows.count));
            self.metrics.bytes.inc_by(result.rows.json.len() as u64);
            self.metrics.truncations.inc_by(u64::from(result.truncated));
        }
        result
    }

    async fn attempt(
        &self,
        caller: &Caller,
        call: Call<'_>,
        bounds: Bounds,
        describe: bool,
        started: Instant,
    ) -> Result<QueryResult, QueryError> {
        // One deadline for all of it: waiting for a connection, opening one, and a second attempt are the caller's time, too.
        let deadline = started + bounds.timeout + GRACE;
        let (principal, tenant, scope) = (caller.id(), &caller.tenant, &caller.scope);
        let weight = if matches!(call, Call::Report(_)) { Weight::Parallel } else { Weight::Serial };
        let mut lease = self.pools.lend(tenant, principal, weight, deadline).await?;
        let call = if lease.weight() == Weight::Serial { call.serial() } else { call };
        let key = described_as(tenant, call);
        let known = if describe { self.described.get(&key) } else { Some(Arc::default()) };
        let connection = lease.connection();
        let loaded = connection.loaded().clone();
        let expires = connection.server_now() + CONTEXT_SECONDS;
        let signed = context::sign(&loaded.key, loaded.kid, tenant.id(), connection.ticket(), expires, scope.stores());
        let flight = fly(connection, &signed, call, bounds, known.is_none());
        let until = deadline.max(Instant::now() + bounds.timeout.min(LEAST));
        let Ok(flight) = tokio::time::timeout_at(until.into(), flight).await else {
            lease.kill("timeout");
            return Err(QueryError::Timeout(bounds.timeout));
        };
        match flight {
            Flight::Answer(mut answer) => {
                lease.give_back();
                let columns = match (answer.columns.take(), known) {
                    (Some(columns), _) => {
                        let columns = Arc::new(columns);
                        self.described.insert(key, columns.clone());
                        columns
                    }
                    (None, Some(known)) => known,
                    (None, None) => Arc::new(undescribed(&mut answer.rows)),
                };
                let (rows, truncated) = (answer.rows, answer.truncated);
                Ok(QueryResult { columns, rows, truncated, elapsed: started.elapsed() })
            }
            Flight::Statement(error) => {
                lease.give_back();
                Err(match error.sqlstate.as_str() {
                    "SF001" => QueryError::Context { error: error.message, loaded },
                    "57014" => QueryError::Timeout(bounds.timeout),
                    _ => QueryError::Statement(error),
                })
            }
            Flight::Broken(error) => {
                let reused = lease.is_reused();
                lease.kill("broken");
                Err(if reused { QueryError::Stale(error) } else { QueryError::Broken(error) })
            }
        }
    }
}

fn described() -> Cache<[u8; 32], Arc<Vec<Column>>> {
    let weight = |_: &[u8; 32], columns: &Arc<Vec<Column>>| {
        let texts: usize = columns.iter().map(|column| column.name.len() + column.kind.len() + ENTRY / 4).sum();
        u32::try_from(texts + ENTRY).unwrap_or(u32::MAX)
    };
    Cache::builder().max_capacity(DESCRIBED.0).weigher(weight).time_to_live(DESCRIBED.1).build()
}

/// What the columns of a statement are remembered under.
fn described_as(tenant: &Tenant, call: Call<'_>) -> [u8; 32] {
    let sql = call.sql();
    Sha256::new()
        .chain_update(tenant.database.as_bytes())
        .chain_update([0])
        .chain_update(sql.as_bytes())
        .finalize()
        .into()
}

/// Columns of a statement that ran and could not be described: the names are in the rows.
fn undescribed(rows: &mut Rows) -> Vec<Column> {
    let names = std::mem::take(&mut rows.names).into_iter();
    names.map(|name| Column { name, kind: "unknown".to_owned() }).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Column, DESCRIBED, described};

    #[test]
    fn described_statements_are_bounded_by_bytes() {
        let described = described();
        let column = |n: usize| Column { name: format!("{n:0>64}"), kind: "text".to_owned() };
        let wide: Arc<Vec<Column>> = Arc::new((0..1_600).map(column).collect());
        for n in 0..1_000_u32 {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&n.to_be_bytes());
            described.insert(key, wide.clone());
        }
        described.run_pending_tasks();
        // 1,600 names of 64 bytes and as much again around them.
        let (entries, bytes) = (described.entry_count(), described.weighted_size());
        assert!(bytes <= DESCRIBED.0 && (1..100).contains(&entries), "{entries} entries, {bytes} bytes");
    }
}
