//! One call as the gateway makes it: BEGIN READ ONLY, run_query, ROLLBACK, ticket, with a deadline from outside.

use std::time::Duration;

use storefence_tenancy::{
    context::{Ticket, sign},
    scope::StoreSet,
};
use tokio_postgres::{Client, NoTls};

use super::{Tenant, World, connect};

/// A pooled connection of a tenant.
pub struct Session {
    pub client: Client,
    pub ticket: Ticket,
    /// When a running statement is cancelled from outside.
    pub deadline: Duration,
    /// The entry point of the fence that runs statements.
    pub entry: &'static str,
    url: String,
}

/// Why a call gave no rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// SQLSTATE.
    pub code: String,
    pub message: String,
}

/// What a call gave.
pub type Answer = Result<Vec<String>, Refusal>;

impl Session {
    pub async fn open(world: &World, tenant: &Tenant) -> Self {
        Self::open_url(tenant.url(world)).await
    }

    pub async fn open_url(url: String) -> Self {
        let client = connect(&url).await.unwrap();
        let ticket = ticket(&client).await;
        Self { client, ticket, deadline: Duration::from_secs(20), entry: "run_query", url }
    }

    /// A connection in doubt is closed, not used again.
    pub async fn reopen_if_closed(&mut self) {
        if self.client.is_closed() {
            *self = Self { deadline: self.deadline, entry: self.entry, ..Self::open_url(self.url.clone()).await };
        }
    }

    /// A context for the next call.
    pub fn context(&self, tenant: &Tenant, stores: &StoreSet) -> String {
        sign(&tenant.key, tenant.kid, &tenant.id, self.ticket, self.ticket.epoch + 30, stores)
    }

    /// One call within ordinary limits.
    pub async fn call(&mut self, tenant: &Tenant, stores: &StoreSet, query: &str) -> Answer {
        let context = self.context(tenant, stores);
        self.call_with(&context, query, 10_000, 1 << 20).await
    }

    /// One call with any context.
    pub async fn call_with(&mut self, context: &str, query: &str, max_rows: i32, max_bytes: i32) -> Answer {
        self.client.batch_execute("BEGIN READ ONLY").await.map_err(refusal)?;
        let cancel = self.client.cancel_token();
        let answer = {
            let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 4] = [&context, &query, &max_rows, &max_bytes];
            let call = format!("SELECT line FROM fence.{}($1, $2, $3, $4)", self.entry);
            let query = self.client.query(&call, &parameters);
            tokio::pin!(query);
            tokio::select! {
                answer = &mut query => answer,
                () = tokio::time::sleep(self.deadline) => {
                    cancel.cancel_query(NoTls).await.unwrap();
                    query.await
                }
            }
        };
        if !self.client.is_closed() {
            self.roll_back().await?;
            self.ticket = ticket(&self.client).await;
        }
        Ok(answer.map_err(refusal)?.iter().map(|row| row.get(0)).collect())
    }
}

impl Session {
    /// Rolls back, again where a `statement_timeout` of a millisecond that the statement has set ends the ROLLBACK itself on a
    /// busy machine. The gateway closes such a connection.
    async fn roll_back(&self) -> Result<(), Refusal> {
        loop {
            match self.client.batch_execute("ROLLBACK").await.map_err(refusal) {
                Err(refusal) if refusal.code == "57014" => {}
                ended => return ended,
            }
        }
    }
}

/// The ticket for the next call on this connection.
pub async fn ticket(client: &Client) -> Ticket {
    let row = client.query_one("SELECT ticket, pid, epoch FROM fence.ticket()", &[]).await.unwrap();
    Ticket { ticket: row.get(0), pid: row.get(1), epoch: row.get(2) }
}

pub fn refusal(error: tokio_postgres::Error) -> Refusal {
    match error.as_db_error() {
        Some(error) => Refusal { code: error.code().code().to_owned(), message: error.message().to_owned() },
        None => Refusal { code: "closed".to_owned(), message: error.to_string() },
    }
}
