//! One connection of a tenant's login, with the ticket for its next batch.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use storefence_pgwire::{End, Reply, ServerError, Wire, WireError, field};
use storefence_tenancy::context::Ticket;
use tokio::sync::OwnedSemaphorePermit;
use tokio_postgres::types::Type;

use super::{credentials::Loaded, ending, life::Life};
use crate::metrics::Metrics;

/// The statements of every batch, prepared when the connection opens.
const EVERY: [(&str, &str, &[Type]); 4] = [
    ("begin", "BEGIN READ ONLY", &[]),
    (Entry::Query.name(), Entry::Query.sql(), Entry::Query.types()),
    ("rollback", "ROLLBACK", &[]),
    ("ticket", "SELECT ticket, pid, epoch FROM fence.ticket()", &[]),
];
/// Sets a new connection up. Asks whether the database has `fence.run_report`, which came with a later migration than the
/// other entry points. Takes the search path of the runner, which includes pgvector's schema, because statements are
/// described on the connection itself. Lowers the number of parallel workers to `workers`, and leaves it where the server,
/// the database or the login has fewer.
fn set_up(workers: u32) -> String {
    format!(
        "SELECT pg_catalog.to_regprocedure('fence.run_report(text,text,integer,integer)') IS NOT NULL, \
        (SELECT pg_catalog.set_config('search_path', pg_catalog.substr(c, 13), false) FROM pg_catalog.pg_proc, \
        pg_catalog.unnest(proconfig) c WHERE oid = 'fence.run_query(text,text,integer,integer)'::pg_catalog.regprocedure \
        AND c LIKE 'search\\_path=%'), \
        pg_catalog.set_config(w, LEAST(pg_catalog.current_setting(w)::int, {workers})::text, false) \
        FROM (VALUES ('max_parallel_workers_per_gather')) AS of (w)"
    )
}
/// Longest wait for a connection to be usable.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// The fence's entry points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// `fence.run_query`.
    Query,
    /// `fence.run_report`.
    Report,
    /// `fence.search_products`.
    Search,
    /// `fence.plan_hash`.
    Plan,
}

impl Entry {
    /// The name of the prepared statement.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Query => "run_query",
            Self::Report => "run_report",
            Self::Search => "search_products",
            Self::Plan => "plan_hash",
        }
    }

    const fn sql(self) -> &'static str {
        match self {
            Self::Query => "SELECT line FROM fence.run_query($1, $2, $3, $4)",
            Self::Report => "SELECT line FROM fence.run_report($1, $2, $3, $4)",
            Self::Search => "SELECT line FROM fence.search_products($1, $2, $3, $4, $5, $6)",
            Self::Plan => "SELECT line FROM fence.plan_hash($1, $2)",
        }
    }

    const fn types(self) -> &'static [Type] {
        match self {
            Self::Query | Self::Report => &[Type::TEXT, Type::TEXT, Type::INT4, Type::INT4],
            Self::Search => &[Type::TEXT, Type::FLOAT4_ARRAY, Type::TEXT, Type::TEXT, Type::FLOAT8, Type::INT4],
            Self::Plan => &[Type::TEXT, Type::TEXT],
        }
    }
}

/// An open connection between two calls.
pub struct Connection {
    wire: Wire,
    /// Entry points that are prepared.
    prepared: Vec<Entry>,
    /// Whether the database has `fence.run_report`.
    has_reports: bool,
    /// Statement timeouts that are prepared, in milliseconds, by the name of their statement. There is one for each limit
    /// that the tenant has had in the connection's life.
    timeouts: Vec<(u128, String)>,
    ticket: Ticket,
    ticket_at: Instant,
    loaded: Arc<Loaded>,
    life: Life,
    metrics: Arc<Metrics>,
    open: Open,
}

/// Why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// PostgreSQL or the network.
    #[error(transparent)]
    Postgres(#[from] WireError),
    /// The database did not answer in time.
    #[error("the database did not answer in time")]
    Timeout,
}

impl OpenError {
    /// Whether the credentials were refused: wrong password, or a login that is disabled (28P01, 28000).
    #[must_use]
    pub fn is_refused(&self) -> bool {
        let Self::Postgres(error) = self else { return false };
        matches!(error.sqlstate(), Some("28P01" | "28000"))
    }
}

/// Reads a ticket from a row in text form.
pub fn read_ticket(row: &[u8]) -> Result<Ticket, WireError> {
    fn number<T: std::str::FromStr>(row: &[u8], column: usize) -> Result<T, WireError> {
        let number = field(row, column)?.and_then(|text| text.parse().ok());
        number.ok_or(WireError::Protocol("a malformed ticket"))
    }
    Ok(Ticket { ticket: number(row, 0)?, pid: number(row, 1)?, epoch: number(row, 2)? })
}

/// The error of a group's failed step, if there is one.
fn check(end: End) -> Result<(), WireError> {
    let failed: Option<(&str, ServerError)> = end.failed;
    failed.map_or(Ok(()), |(_, error)| Err(Box::new(error).into()))
}

impl Connection {
    /// Connects, prepares the statements of every batch, and draws the first ticket. `workers` is the most parallel workers
    /// that a statement may have. `budget` is held until the connection is closed.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(
        loaded: Arc<Loaded>,
        life: Life,
        workers: u32,
        budget: OwnedSemaphorePermit,
        metrics: Arc<Metrics>,
    ) -> Result<Self, OpenError> {
        let opening = Self::open_now(loaded, life, workers, budget, metrics);
        tokio::time::timeout(OPEN_TIMEOUT, opening).await.unwrap_or(Err(OpenError::Timeout))
    }

    async fn open_now(
        loaded: Arc<Loaded>,
        life: Life,
        workers: u32,
        budget: OwnedSemaphorePermit,
        metrics: Arc<Metrics>,
    ) -> Result<Self, OpenError> {
        let mut wire = Wire::connect(&loaded.config, &loaded.tls).await?;
        let open = Open::new(metrics.clone(), budget);
        for (name, sql, types) in EVERY {
            wire.parse(name, name, sql, types)?;
        }
        wire.parse("set up", "", &set_up(workers), &[])?;
        wire.call("set up", "", &[])?;
        wire.call("ticket", "ticket", &[])?;
        wire.sync();
        let (mut ticket, mut has_reports) = (None, false);
        let end = wire.group(|label, reply| {
            match (label, reply) {
                ("ticket", Reply::Row(row)) => ticket = Some(read_ticket(row)?),
                ("set up", Reply::Row(row)) => has_reports = field(row, 0)? == Some("t"),
                _ => {}
            }
            Ok(())
        });
        check(end.await?)?;
        let ticket = ticket.ok_or(WireError::Protocol("no ticket"))?;
        metrics.connection_events.with_label_values(&["opened"]).inc();
        let (prepared, timeouts) = (vec![Entry::Query], Vec::new());
        let ticket_at = Instant::now();
        Ok(Self { wire, prepared, has_reports, timeouts, ticket, ticket_at, loaded, life, metrics, open })
    }

    /// The client of the wire protocol.
    pub const fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    /// Runs a statement outside the fence, and returns the first value of its first row.
    ///
    /// # Errors
    /// [`WireError`].
    pub async fn query(&mut self, sql: &str) -> Result<Option<String>, WireError> {
        self.wire.query(sql).await
    }

    /// Whether the database has `fence.run_report`. A database that is older than this gateway gets it with its next
    /// migration; connections that are opened after that find it.
    #[must_use]
    pub const fn has_reports(&self) -> bool {
        self.has_reports
    }

    /// Prepares an entry point in the batch that first needs it: most connections never run a search.
    ///
    /// # Errors
    /// None: the texts are constants without zero bytes.
    pub fn prepare(&mut self, entry: Entry) -> Result<(), WireError> {
        if !self.prepared.contains(&entry) {
            self.wire.parse("prepare", entry.name(), entry.sql(), entry.types())?;
            self.prepared.push(entry);
        }
        Ok(())
    }

    /// Sets the statement timeout of the batch. A timeout that is new to this connection is prepared first.
    ///
    /// # Errors
    /// None: the texts are constants without zero bytes.
    pub fn set_timeout(&mut self, timeout: Duration) -> Result<(), WireError> {
        let millis = timeout.as_millis();
        let known = self.timeouts.iter().position(|(known, _)| *known == millis);
        let index = match known {
            Some(index) => index,
            None => {
                let name = format!("timeout_{millis}");
                self.wire.parse("timeout", &name, &format!("SET LOCAL statement_timeout = {millis}"), &[])?;
                self.timeouts.push((millis, name));
                self.timeouts.len() - 1
            }
        };
        self.wire.call("timeout", &self.timeouts[index].1, &[])
    }

    /// The credentials it was opened with.
    #[must_use]
    pub const fn loaded(&self) -> &Arc<Loaded> {
        &self.loaded
    }

    /// The ticket of the next batch.
    #[must_use]
    pub const fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// The server's time, in Unix seconds, computed from the last ticket: the clocks of gateway and database may differ.
    #[must_use]
    pub fn server_now(&self) -> i64 {
        self.ticket.epoch + i64::try_from(self.ticket_at.elapsed().as_secs()).unwrap_or(i64::MAX / 2)
    }

    /// Takes the ticket that ended a batch.
    pub fn renew(&mut self, ticket: Ticket) {
        (self.ticket, self.ticket_at) = (ticket, Instant::now());
    }

    /// The rest of its life.
    pub const fn life(&mut self) -> &mut Life {
        &mut self.life
    }

    /// Whether the connection is at the end of its life and should serve no other call.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.life.is_over()
    }

    /// Closes a sound connection at the end of its life.
    pub fn retire(self) {
        self.metrics.connection_events.with_label_values(&["recycled"]).inc();
    }

    /// Whether a call found the connection broken.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.wire.is_closed()
    }

    /// Whether the server closed the connection while it was idle.
    pub fn is_gone(&mut self) -> bool {
        self.wire.is_gone()
    }

    /// Cancels the statement that runs at the server, and closes the connection. Returns when the server has closed it too.
    pub async fn end(self, cause: &'static str) {
        let Self { wire, loaded, ticket, metrics, open, .. } = self;
        metrics.cancels.with_label_values(&[cause]).inc();
        let ending = metrics.connections.with_label_values(&["ending"]);
        ending.inc();
        if !ending::end(wire, &loaded, ticket.pid, cause).await {
            metrics.connection_events.with_label_values(&["abandoned"]).inc();
        }
        ending.dec();
        drop(open);
    }
}

/// Counts an open connection and holds its permit of the budget, until it is dropped.
struct Open {
    metrics: Arc<Metrics>,
    _budget: OwnedSemaphorePermit,
}

impl Open {
    fn new(metrics: Arc<Metrics>, budget: OwnedSemaphorePermit) -> Self {
        metrics.connections.with_label_values(&["open"]).inc();
        Self { metrics, _budget: budget }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.metrics.connections.with_label_values(&["open"]).dec();
        self.metrics.connection_events.with_label_values(&["closed"]).inc();
    }
}
