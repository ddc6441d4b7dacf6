//! The database without a gateway: the same batch over tokio-postgres, and plain statements as the superuser.

use std::{sync::Arc, time::Instant};

use anyhow::{Context, Result};
use storefence_devstack::stack::Stack;
use storefence_tenancy::{
    TenantId,
    context::{Ticket, sign},
    credentials::{ContextKey, Slot, context_secret_name, database_secret_name},
    scope::StoreSet,
};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls, Statement, types::ToSql};

use crate::load::{BlockingCaller, Caller};

/// What it takes to make a tenant's calls.
#[derive(Clone)]
pub struct Tenant {
    /// Its identifier.
    pub id: TenantId,
    /// URI of its login.
    pub url: String,
    /// Signs contexts.
    pub key: Arc<ContextKey>,
    /// Number of the key.
    pub kid: u32,
}

impl Tenant {
    /// A tenant of a stack, with the credentials that the operator left in the vault.
    pub fn of(stack: &Stack, id: &str) -> Result<Self> {
        let id: TenantId = id.parse()?;
        let read = |name: String| stack.key_vault().secret(&name).with_context(|| format!("no secret {name}"));
        let url = read(database_secret_name(&id, Slot::A))?.value;
        let key = ContextKey::from_base64(&read(context_secret_name(&id, 1))?.value)?;
        Ok(Self { id, url, key: Arc::new(key), kid: 1 })
    }
}

/// Connects; the connection lives as long as the client.
pub async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// A connection of a tenant that makes calls as the gateway does: four steps in one round trip.
pub struct Session {
    client: Client,
    entry: Statement,
    next: Statement,
    ticket: Ticket,
    ticket_at: Instant,
    tenant: Tenant,
    stores: StoreSet,
    sql: Arc<str>,
    /// Rows, bytes of the last answer.
    pub received: (usize, usize),
}

impl Session {
    /// Opens a connection for calls of one statement in one scope.
    pub async fn open(tenant: &Tenant, stores: StoreSet, sql: &str) -> Result<Self> {
        Self::open_for(tenant, stores, sql, "fence.run_query").await
    }

    /// The same by the entry point for statements that gather many rows into few, which the gateway takes for these.
    pub async fn gathering(tenant: &Tenant, stores: StoreSet, sql: &str) -> Result<Self> {
        Self::open_for(tenant, stores, sql, "fence.run_report").await
    }

    async fn open_for(tenant: &Tenant, stores: StoreSet, sql: &str, entry: &str) -> Result<Self> {
        let entry = format!("SELECT line FROM {entry}($1, $2, $3, $4)");
        let client = connect(&tenant.url).await?;
        // As the gateway sets it on each connection.
        client.batch_execute("SET jit = off").await?;
        let (entry, next) = futures::try_join!(
            client.prepare(&entry),
            client.prepare("SELECT ticket, pid, epoch FROM fence.ticket()"),
        )?;
        let ticket = ticket(&client.query_one(&next, &[]).await?)?;
        let (ticket_at, tenant, sql) = (Instant::now(), tenant.clone(), sql.into());
        Ok(Self { client, entry, next, ticket, ticket_at, tenant, stores, sql, received: (0, 0) })
    }

    /// Several, each of which has made a call.
    pub async fn many(tenant: &Tenant, stores: &StoreSet, sql: &str, count: usize) -> Result<Vec<Self>> {
        futures::future::try_join_all((0..count).map(|_| async {
            let mut session = Self::open(tenant, stores.clone(), sql).await?;
            session.call().await?;
            Ok(session)
        }))
        .await
    }

    /// The context of the next call.
    pub fn context(&self) -> String {
        let Tenant { id, key, kid, .. } = &self.tenant;
        let now = self.ticket.epoch + i64::try_from(self.ticket_at.elapsed().as_secs()).unwrap_or_default();
        sign(key, *kid, id, self.ticket, now + 30, &self.stores)
    }

    /// One batch of any entry point whose first argument is the context.
    pub async fn fly(&mut self, entry: &Statement, rest: &[&(dyn ToSql + Sync)]) -> Result<Vec<String>> {
        let context = self.context();
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&context];
        parameters.extend(rest);
        let (begun, rows, ended, next) = futures::join!(
            self.client.batch_execute("BEGIN READ ONLY"),
            self.client.query(entry, &parameters),
            self.client.batch_execute("ROLLBACK"),
            self.client.query_one(&self.next, &[]),
        );
        (self.ticket, self.ticket_at) = (ticket(&next?)?, Instant::now());
        begun.and(ended)?;
        rows?.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Prepares another entry point.
    pub async fn prepare(&self, sql: &str) -> Result<Statement> {
        Ok(self.client.prepare(sql).await?)
    }
}

impl Caller for Session {
    async fn call(&mut self) -> Result<()> {
        let (entry, sql) = (self.entry.clone(), self.sql.clone());
        let lines = self.fly(&entry, &[&&*sql, &100_000_i32, &67_108_864_i32]).await?;
        self.received = (lines.len(), lines.iter().map(String::len).sum());
        Ok(())
    }
}

/// The same for a thread of its own. The call itself drives the connection, as in the `postgres` crate.
pub struct BlockingSession {
    session: Session,
    runtime: Runtime,
}

impl BlockingSession {
    /// Opens a connection for calls of one statement in one scope.
    pub fn open(tenant: &Tenant, stores: StoreSet, sql: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { session: runtime.block_on(Session::open(tenant, stores, sql))?, runtime })
    }
}

impl BlockingCaller for BlockingSession {
    fn call(&mut self) -> Result<()> {
        self.runtime.block_on(self.session.call())
    }
}

fn ticket(row: &tokio_postgres::Row) -> Result<Ticket> {
    Ok(Ticket { ticket: row.try_get(0)?, pid: row.try_get(1)?, epoch: row.try_get(2)? })
}

/// A connection that sends one statement as it stands: parsed and planned each time, as an analyst's would be, in one
/// round trip.
pub struct Plain {
    client: Client,
    sql: String,
    /// Rows of the last answer.
    pub rows: usize,
}

impl Plain {
    /// A statement on a connection.
    pub fn new(client: Client, sql: &str) -> Self {
        Self { client, sql: sql.to_owned(), rows: 0 }
    }
}

impl Caller for Plain {
    async fn call(&mut self) -> Result<()> {
        self.rows = self.client.query_typed(&self.sql, &[]).await.with_context(|| self.sql.clone())?.len();
        Ok(())
    }
}
