//! The data path: runs a caller's statement in the database, with what the caller may see, and returns rows.

pub mod batch;
mod budget;
mod circuit;
mod concurrency;
pub mod connection;
pub mod credentials;
mod ending;
mod lease;
pub mod life;
pub mod pool;
pub mod query;
mod reports;
pub mod rows;
mod throttle;
pub mod uri;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use moka::sync::Cache;
use sha2::{Digest, Sha256};
use storefence_tenancy::context;
use tracing::Instrument;

use self::{
    batch::Outcome,
    concurrency::Weight,
    credentials::Loaded,
    pool::{PoolError, Pools},
    query::{Bounds, Call, Column, Search, StatementError},
    reports::{Reports, Shape},
    rows::Rows,
};
use crate::{
    audit::meter,
    caller::Caller,
    gate::{self, Checked},
    metrics::Metrics,
    telemetry::spans,
    tenants::Tenant,
};

/// How long after the tenant's statement timeout the gateway cancels by itself. The server's timeout comes first, unless the
/// statement switched it off.
const GRACE: Duration = Duration::from_millis(500);
/// Least time of a statement, however long its caller waited for a connection. Without it, a statement whose caller has
/// waited is cancelled at once, and its connection closed. The next caller has to open another, which takes longer than a
/// statement, and so is later still: after a short stall of the database its queue would never get shorter.
const LEAST: Duration = Duration::from_secs(1);
/// Life of a signed context, in seconds. The fence checks it when the statement begins.
const CONTEXT_SECONDS: i64 = 30;
/// Most rows and bytes of the gateway's own statements: the tenant's limits are for callers' statements.
const OWN: (u32, u32) = (1_000, 8 * 1024 * 1024);
/// Longest time for planning a statement, for the log.
const PLANNING: Duration = Duration::from_secs(2);
/// Bytes of cached descriptions of statements, and how long they are cached: a migration may change what a name means. The
/// limit counts bytes because callers choose the number and the names of the columns.
const DESCRIBED: (u64, Duration) = (16 * 1024 * 1024, Duration::from_secs(60));
/// Bytes that an entry takes beside its texts; each of its columns takes a quarter of it.
const ENTRY: usize = 256;

/// The rows of one statement.
#[derive(Debug)]
pub struct QueryResult {
    /// Columns, also of a result without rows.
    pub columns: Arc<Vec<Column>>,
    pub rows: Rows,
    /// Whether there were more rows.
    pub truncated: bool,
    /// Time from the caller's request to the last row, waits included.
    pub elapsed: Duration,
}

/// Why a statement returned no rows.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// PostgreSQL refused it.
    #[error(transparent)]
    Statement(StatementError),
    /// It ran longer than the tenant allows.
    #[error("the statement ran longer than {0:?}")]
    Timeout(Duration),
    /// There was no connection for it.
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
        /// The fence's message.
        error: String,
        /// The credentials that it was signed with.
        loaded: Arc<Loaded>,
    },
}

impl QueryError {
    /// The reason, for metrics.
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

    /// The SQLSTATE of a refusal by PostgreSQL, otherwise the reason.
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

    #[must_use]
    pub fn pools(&self) -> &Pools {
        &self.pools
    }

    /// Runs a caller's statement, which has passed the gate.
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

    /// Searches for products. The rows have the columns of `fence.search_products`.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn search(&self, caller: &Caller, search: &Search, max_rows: u32) -> Result<Rows, QueryError> {
        let bounds = Bounds { max_rows, max_bytes: OWN.1, timeout: caller.tenant.limits.timeout };
        Ok(self.run(Request::new(caller, Call::Search(search), bounds)).await?.rows)
    }

    /// Runs a statement of the gateway's own. It must hold no text of a caller.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn own(&self, caller: &Caller, sql: &str) -> Result<Rows, QueryError> {
        let bounds = Bounds { max_rows: OWN.0, max_bytes: OWN.1, timeout: caller.tenant.limits.timeout };
        let statement = Checked { sql, gathers: gate::gathers(sql) };
        Ok(self.select(caller, statement, bounds, false).await?.rows)
    }

    /// The hash of a statement's plan. It is for the log only: the plan depends on rows that the caller must not know of.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn plan(&self, caller: &Caller, sql: &str) -> Result<String, QueryError> {
        let bounds = Bounds { max_rows: 1, max_bytes: OWN.1, timeout: PLANNING };
        Ok(self.run(Request::new(caller, Call::Plan(sql), bounds)).await?.rows.text)
    }

    /// Runs a SELECT by the entry point that suits it.
    async fn select(
        &self,
        caller: &Caller,
        statement: Checked<'_>,
        bounds: Bounds,
        describe: bool,
    ) -> Result<QueryResult, QueryError> {
        let (sql, shape) = (statement.sql, Shape::of(caller, statement));
        let select = Request { describe, ..Request::new(caller, Call::Select(sql), bounds) };
        let learn = |result: &QueryResult| {
            if let Some(shape) = shape {
                self.reports.learn(shape, result.elapsed);
            }
        };
        // A throttled principal has one processor.
        let workers = || !self.pools.is_throttled(&caller.tenant, caller.id());
        if !shape.is_some_and(|shape| self.reports.suit(shape) && workers()) {
            return self.run(select).await.inspect(learn);
        }
        match self.run(Request { call: Call::Report(sql), ..select }).await {
            // An error without a position in the caller's text: the statement's columns do not let it be a subquery, which
            // `fence.run_report` makes of it. Some types fail only while it runs, so both runs share one deadline.
            Err(QueryError::Statement(error)) if error.sqlstate.starts_with("42") && error.position.is_none() => {
                self.run(select).await
            }
            other => other.inspect(learn),
        }
    }

    /// Runs a request in a span of its own.
    async fn run(&self, request: Request<'_>) -> Result<QueryResult, QueryError> {
        let span = spans::statement(request.call.kind(), request.call.sql());
        let result = self.measured(request).instrument(span.clone()).await;
        spans::rows(&span, result.as_ref().map(|result| u64::from(result.rows.count)).map_err(QueryError::code));
        result
    }

    /// Runs a request, and counts it and its rows.
    async fn measured(&self, request: Request<'_>) -> Result<QueryResult, QueryError> {
        let result = self.retried(request).await;
        let outcome = result.as_ref().map_or_else(QueryError::reason, |_| "ok");
        let seconds = request.started.elapsed().as_secs_f64();
        self.metrics.query_seconds.with_label_values(&[outcome]).observe(seconds);
        if let Ok(result) = &result {
            meter::add(u64::from(result.rows.count), result.rows.json.len() as u64);
            self.metrics.rows.inc_by(u64::from(result.rows.count));
            self.metrics.bytes.inc_by(result.rows.json.len() as u64);
            self.metrics.truncations.inc_by(u64::from(result.truncated));
        }
        result
    }

    /// Runs a request, and once more where an idle connection was closed by the server, or where credentials were rotated.
    /// The transaction is read-only and the caller has seen no row, so the second attempt repeats nothing.
    async fn retried(&self, request: Request<'_>) -> Result<QueryResult, QueryError> {
        let tenant = &request.caller.tenant;
        match self.attempt(request).await {
            Err(QueryError::Stale(error)) => {
                tracing::info!(tenant = %tenant.id(), error, "an idle connection was dead; opening another one");
                self.pools.distrust_idle(tenant);
                self.attempt(request).await
            }
            Err(QueryError::Context { error, loaded }) => {
                tracing::warn!(tenant = %tenant.id(), error, "the fence refused the context; reading credentials again");
                self.pools.reload(tenant, &loaded).await;
                self.attempt(request).await
            }
            other => other,
        }
    }

    async fn attempt(&self, request: Request<'_>) -> Result<QueryResult, QueryError> {
        let Request { caller, call, bounds, describe, started } = request;
        let tenant = &caller.tenant;
        // One deadline for everything: the caller also waits for a connection, for its opening, and for a second attempt.
        let deadline = started + bounds.timeout + GRACE;
        let weight = if matches!(call, Call::Report(_)) { Weight::Parallel } else { Weight::Serial };
        let mut lease = self.pools.lend(tenant, caller.id(), weight, deadline).await?;
        let call = if lease.weight() == Weight::Serial { call.serial() } else { call };
        let key = described_as(tenant, call);
        let known = if describe { self.described.get(&key) } else { Some(Arc::default()) };
        let connection = lease.connection();
        let loaded = connection.loaded().clone();
        let (ticket, expires) = (connection.ticket(), connection.server_now() + CONTEXT_SECONDS);
        let context = context::sign(&loaded.key, loaded.kid, tenant.id(), ticket, expires, caller.scope.stores());
        let batch = batch::run(connection, &context, call, bounds, known.is_none());
        let until = deadline.max(Instant::now() + bounds.timeout.min(LEAST));
        let Ok(outcome) = tokio::time::timeout_at(until.into(), batch).await else {
            lease.kill("timeout");
            return Err(QueryError::Timeout(bounds.timeout));
        };
        match outcome {
            Outcome::Answer(mut answer) => {
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
            Outcome::Statement(error) => {
                lease.give_back();
                Err(match error.sqlstate.as_str() {
                    "SF001" => QueryError::Context { error: error.message, loaded },
                    "57014" => QueryError::Timeout(bounds.timeout),
                    _ => QueryError::Statement(error),
                })
            }
            Outcome::Broken(error) => {
                let reused = lease.is_reused();
                lease.kill("broken");
                Err(if reused { QueryError::Stale(error) } else { QueryError::Broken(error) })
            }
        }
    }
}

/// One query with everything that its attempts need.
#[derive(Clone, Copy)]
struct Request<'a> {
    caller: &'a Caller,
    call: Call<'a>,
    bounds: Bounds,
    /// Whether the caller wants the columns.
    describe: bool,
    /// When the caller came: all attempts share one deadline.
    started: Instant,
}

impl<'a> Request<'a> {
    /// A request that begins now, without columns.
    fn new(caller: &'a Caller, call: Call<'a>, bounds: Bounds) -> Self {
        Self { caller, call, bounds, describe: false, started: Instant::now() }
    }
}

fn described() -> Cache<[u8; 32], Arc<Vec<Column>>> {
    let weight = |_: &[u8; 32], columns: &Arc<Vec<Column>>| {
        let texts: usize = columns.iter().map(|column| column.name.len() + column.kind.len() + ENTRY / 4).sum();
        u32::try_from(texts + ENTRY).unwrap_or(u32::MAX)
    };
    Cache::builder().max_capacity(DESCRIBED.0).weigher(weight).time_to_live(DESCRIBED.1).build()
}

/// The key under which the columns of a statement are cached.
fn described_as(tenant: &Tenant, call: Call<'_>) -> [u8; 32] {
    let sql = call.sql();
    Sha256::new()
        .chain_update(tenant.database.as_bytes())
        .chain_update([0])
        .chain_update(sql.as_bytes())
        .finalize()
        .into()
}

/// Columns of a statement that ran but could not be described: the names are in the rows.
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
        // One entry: 1,600 names of 64 bytes, and as much again around them.
        let (entries, bytes) = (described.entry_count(), described.weighted_size());
        assert!(bytes <= DESCRIBED.0 && (1..100).contains(&entries), "{entries} entries, {bytes} bytes");
    }
}
