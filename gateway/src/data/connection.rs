//! One connection of a tenant's login, with the ticket for its next call.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use storefence_tenancy::context::Ticket;
use tokio::{sync::OwnedSemaphorePermit, task::JoinHandle};
use tokio_postgres::{CancelToken, Client, NoTls, Statement, config::SslMode, error::SqlState};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{credentials::Loaded, life::Life};
use crate::metrics::Metrics;

const RUN: &str = "SELECT line FROM fence.run_query($1, $2, $3, $4)";
const REPORT: &str = "SELECT line FROM fence.run_report($1, $2, $3, $4)";
const SEARCH: &str = "SELECT line FROM fence.search_products($1, $2, $3, $4, $5, $6)";
const PLAN: &str = "SELECT line FROM fence.plan_hash($1, $2)";
const TICKET: &str = "SELECT ticket, pid, epoch FROM fence.ticket()";
/// Describing a statement has to look names up as the runner does, which knows where pgvector is.
const RUNNER_PATH: &str = "SELECT set_config('search_path', substr(c, 13), false) FROM pg_proc, unnest(proconfig) c \
    WHERE oid = 'fence.run_query(text,text,integer,integer)'::regprocedure AND c LIKE 'search\\_path=%'";
/// Longest wait for a connection to be usable.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for a cancelled statement to end before the socket is closed under it.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);

/// An open connection between two calls.
pub struct Connection {
    client: Client,
    driver: JoinHandle<()>,
    cancel: CancelToken,
    tls: Option<MakeRustlsConnect>,
    run: Statement,
    report: Option<Statement>,
    search: Option<Statement>,
    plan: Option<Statement>,
    next_ticket: Statement,
    ticket: Ticket,
    ticket_at: Instant,
    loaded: Arc<Loaded>,
    life: Life,
    metrics: Arc<Metrics>,
}

/// Why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// PostgreSQL or the network.
    #[error("{0}")]
    Postgres(#[from] tokio_postgres::Error),
    /// Not in time.
    #[error("the database did not answer in time")]
    Timeout,
}

impl OpenError {
    /// Whether the credentials were refused: wrong password, or a login that is disabled (28P01, 28000).
    #[must_use]
    pub fn is_refused(&self) -> bool {
        let Self::Postgres(error) = self else { return false };
        error.code().is_some_and(|code| matches!(code.code(), "28P01" | "28000"))
    }
}

fn read_ticket(row: &tokio_postgres::Row) -> Result<Ticket, tokio_postgres::Error> {
    Ok(Ticket { ticket: row.try_get(0)?, pid: row.try_get(1)?, epoch: row.try_get(2)? })
}

impl Connection {
    /// Connects, prepares what every call needs, and draws the first ticket. `budget` is held until the server's side
    /// is gone.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(
        loaded: Arc<Loaded>,
        life: Life,
        budget: OwnedSemaphorePermit,
        metrics: Arc<Metrics>,
    ) -> Result<Self, OpenError> {
        let opening = Self::open_now(loaded, life, budget, metrics);
        tokio::time::timeout(OPEN_TIMEOUT, opening).await.unwrap_or(Err(OpenError::Timeout))
    }

    async fn open_now(
        loaded: Arc<Loaded>,
        life: Life,
        budget: OwnedSemaphorePermit,
        metrics: Arc<Metrics>,
    ) -> Result<Self, OpenError> {
        let (client, driver, tls);
        if loaded.config.get_ssl_mode() == SslMode::Disable {
            let (opened, connection) = loaded.config.connect(NoTls).await?;
            (client, tls) = (opened, None);
            driver = tokio::spawn(drive(connection, budget, metrics.clone()));
        } else {
            let (opened, connection) = loaded.config.connect(loaded.tls.clone()).await?;
            (client, tls) = (opened, Some(loaded.tls.clone()));
            driver = tokio::spawn(drive(connection, budget, metrics.clone()));
        }
        let (run, next_ticket, path) =
            futures::join!(client.prepare(RUN), client.prepare(TICKET), client.batch_execute(RUNNER_PATH));
        let (run, next_ticket) = (run?, next_ticket?);
        path?;
        let ticket = read_ticket(&client.query_one(&next_ticket, &[]).await?)?;
        let (cancel, ticket_at) = (client.cancel_token(), Instant::now());
        metrics.connection_events.with_label_values(&["opened"]).inc();
        Ok(Self {
            client,
            driver,
            cancel,
            tls,
            run,
            report: None,
            search: None,
            plan: None,
            next_ticket,
            ticket,
            ticket_at,
            loaded,
            life,
            metrics,
        })
    }

    /// The protocol's client.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// `fence.run_query`, prepared.
    #[must_use]
    pub const fn run(&self) -> &Statement {
        &self.run
    }

    /// `fence.run_report`, prepared when first asked for. A database that is not migrated yet lacks it: `fence.run_query`
    /// gives the same rows there, and connections that are opened after the migration find it.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn report(&mut self) -> Result<Statement, tokio_postgres::Error> {
        if let Some(report) = &self.report {
            return Ok(report.clone());
        }
        let report = match self.client.prepare(REPORT).await {
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_FUNCTION) => self.run.clone(),
            other => other?,
        };
        Ok(self.report.insert(report).clone())
    }

    /// `fence.search_products`, prepared: when first asked for, since most connections never search.
    ///
    /// # Errors
    /// The connection broke, or the database is older than this version.
    pub async fn search(&mut self) -> Result<Statement, tokio_postgres::Error> {
        if let Some(search) = &self.search {
            return Ok(search.clone());
        }
        let search = self.client.prepare(SEARCH).await?;
        Ok(self.search.insert(search).clone())
    }

    /// `fence.plan_hash`, prepared when first asked for.
    ///
    /// # Errors
    /// The connection broke, or the database is older than this version.
    pub async fn plan(&mut self) -> Result<Statement, tokio_postgres::Error> {
        if let Some(plan) = &self.plan {
            return Ok(plan.clone());
        }
        let plan = self.client.prepare(PLAN).await?;
        Ok(self.plan.insert(plan).clone())
    }

    /// `fence.ticket()`, prepared.
    #[must_use]
    pub const fn next_ticket(&self) -> &Statement {
        &self.next_ticket
    }

    /// The credentials it was opened with.
    #[must_use]
    pub const fn loaded(&self) -> &Arc<Loaded> {
        &self.loaded
    }

    /// The ticket of the next call.
    #[must_use]
    pub const fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// The server's clock, in Unix seconds, reckoned from the last ticket: the clocks of gateway and database need not
    /// agree.
    #[must_use]
    pub fn server_now(&self) -> i64 {
        self.ticket.epoch + i64::try_from(self.ticket_at.elapsed().as_secs()).unwrap_or(i64::MAX / 2)
    }

    /// Takes over the ticket that ended a flight.
    ///
    /// # Errors
    /// The row is not a ticket.
    pub fn renew(&mut self, row: &tokio_postgres::Row) -> Result<(), tokio_postgres::Error> {
        self.ticket = read_ticket(row)?;
        self.ticket_at = Instant::now();
        Ok(())
    }

    /// What is left of its life.
    pub const fn life(&mut self) -> &mut Life {
        &mut self.life
    }

    /// Whether there should be no other call on it, though it is sound.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.life.is_over()
    }

    /// Closes a sound connection at the end of its life.
    pub fn retire(self) {
        self.metrics.connection_events.with_label_values(&["recycled"]).inc();
    }

    /// Whether the server has gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Ends whatever runs on it, at the server, and closes it. Dropping the client alone would leave the statement
    /// running: PostgreSQL looks at the socket only when it has something to say.
    pub fn kill(self, cause: &'static str) {
        let Self { client, driver, cancel, tls, metrics, .. } = self;
        metrics.cancels.with_label_values(&[cause]).inc();
        // Outside a runtime the process is ending, and its sockets with it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            let abort = driver.abort_handle();
            drop(client);
            let cancelling = async {
                let sent = match tls {
                    Some(tls) => cancel.cancel_query(tls).await,
                    None => cancel.cancel_query(NoTls).await,
                };
                if let Err(error) = sent {
                    tracing::warn!(%error, cause, "a statement could not be cancelled at the server");
                }
                let _ = driver.await;
            };
            if tokio::time::timeout(CANCEL_TIMEOUT, cancelling).await.is_err() {
                abort.abort();
            }
        });
    }
}

async fn drive<S, T>(connection: tokio_postgres::Connection<S, T>, budget: OwnedSemaphorePermit, metrics: Arc<Metrics>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let _open = OpenGauge::new(metrics);
    if let Err(error) = connection.await {
        tracing::debug!(error = %super::describe(&error), "a database connection ended");
    }
    drop(budget);
}

/// Counts the connection for as long as its task lives, aborted or not.
struct OpenGauge(Arc<Metrics>);

impl OpenGauge {
    fn new(metrics: Arc<Metrics>) -> Self {
        metrics.connections.with_label_values(&["open"]).inc();
        Self(metrics)
    }
}

impl Drop for OpenGauge {
    fn drop(&mut self) {
        self.0.connections.with_label_values(&["open"]).dec();
        self.0.connection_events.with_label_values(&["closed"]).inc();
    }
}
