//! One pipelined batch: all statements of a call in one write, and their replies in one round trip.
//!
//! `BEGIN READ ONLY` · the statement's timeout · `fence.run_query` or another entry point · `ROLLBACK` · `fence.ticket()`.
//! The rollback undoes settings that the statement made. The ticket ends the life of the signed context and releases
//! advisory locks. After an error PostgreSQL skips the rest of the batch, so the last two are sent again.

use storefence_pgwire::{self as wire, Param, Position, Reply, ServerError, WireError, field};
use storefence_tenancy::context::Ticket;
use tokio_postgres::types::Type;

use super::{
    connection::{Connection, Entry, read_ticket},
    query::{Bounds, Call, Column, Search, StatementError},
    rows::Rows,
};
use crate::audit::meter;

/// Bytes that a message may have beyond the row limit: descriptions and errors are messages as well.
const BESIDE_ROWS: usize = 1024 * 1024;
/// Looks up the name of a type that is not built in. One type per query: few statements have such a type, and seldom two.
const TYPE: &str = "SELECT typname FROM pg_catalog.pg_type WHERE oid = ";

/// The line that the fence sends where it cut the rows.
const TRUNCATED: &str = "!truncated";

/// The rows of a statement.
#[derive(Debug, Default)]
pub struct Answer {
    /// Rows, up to the limits.
    pub rows: Rows,
    /// Whether there were more rows.
    pub truncated: bool,
    /// Columns, where this batch described the statement.
    pub columns: Option<Vec<Column>>,
}

/// How a batch ended. In every case but [`Outcome::Broken`] the connection is as clean as before.
#[derive(Debug)]
pub enum Outcome {
    /// The statement returned rows.
    Answer(Answer),
    /// PostgreSQL refused the statement.
    Statement(StatementError),
    /// A step around the statement failed, or the connection did. It must not be used again.
    Broken(String),
}

/// Runs a batch. `describe` also returns the columns of a SELECT, in the same round trip.
pub async fn run(
    connection: &mut Connection,
    context: &str,
    call: Call<'_>,
    bounds: Bounds,
    describe: bool,
) -> Outcome {
    let outcome = exchange(connection, context, call, bounds, describe).await;
    connection.wire().trim();
    outcome.unwrap_or_else(|error| Outcome::Broken(error.to_string()))
}

async fn exchange(
    connection: &mut Connection,
    context: &str,
    call: Call<'_>,
    bounds: Bounds,
    describe: bool,
) -> Result<Outcome, WireError> {
    let sql = call.sql();
    // A statement with a zero byte can be neither described nor run. PostgreSQL reports it when it runs the statement.
    let describe = describe && !sql.contains('\0');
    connection.wire().limit((bounds.max_bytes as usize).saturating_add(BESIDE_ROWS));
    if describe {
        let wire = connection.wire();
        wire.parse("describe", "", sql, &[])?;
        wire.describe("describe", "")?;
        // The caller's text does not stay on the server.
        wire.forget("describe", "")?;
        wire.sync();
    }
    send(connection, context, call, bounds)?;
    let described = if describe { Some(read_description(connection).await?) } else { None };
    let mut received =
        Received { bounds, rows: Rows::bounded(bounds.max_bytes), truncated: false, malformed: false, ticket: None };
    let end = connection.wire().group(|label, reply| received.take(label, reply)).await?;
    let failed = match end.failed {
        None => None,
        Some(("run", error)) => {
            // PostgreSQL has skipped the steps behind the statement.
            let wire = connection.wire();
            wire.call("rollback", "rollback", &[])?;
            wire.call("ticket", "ticket", &[])?;
            wire.sync();
            let end = wire.group(|label, reply| received.take(label, reply)).await?;
            match end.failed {
                None => Some((error, end.in_transaction)),
                Some((_, error)) => return Err(Box::new(error).into()),
            }
        }
        Some((_, error)) => return Err(Box::new(error).into()),
    };
    let open = failed.as_ref().map_or(end.in_transaction, |(_, open)| *open);
    let Some(ticket) = received.ticket.filter(|_| !open) else {
        return Err(WireError::Protocol("a batch without a ticket, or with a transaction left open"));
    };
    connection.renew(ticket);
    if received.malformed {
        return Ok(Outcome::Broken("a row is not a JSON object".to_owned()));
    }
    if let Some((error, _)) = failed {
        return Ok(Outcome::Statement(statement_error(error, described.and_then(Result::err), sql)));
    }
    let columns = match described {
        Some(Ok(columns)) => Some(with_type_names(connection, columns).await?),
        _ => None,
    };
    Ok(Outcome::Answer(Answer { rows: received.rows, truncated: received.truncated, columns }))
}

/// Queues the steps of the batch.
fn send(connection: &mut Connection, context: &str, call: Call<'_>, bounds: Bounds) -> Result<(), WireError> {
    let entry = match call {
        Call::Report(_) if connection.has_reports() => Entry::Report,
        Call::Select(_) | Call::Report(_) => Entry::Query,
        Call::Search(_) => Entry::Search,
        Call::Plan(_) => Entry::Plan,
    };
    connection.prepare(entry)?;
    connection.wire().call("begin", "begin", &[])?;
    connection.set_timeout(bounds.timeout)?;
    let wire = connection.wire();
    let max_rows = Param::Int4(i32::try_from(bounds.max_rows).unwrap_or(i32::MAX));
    let max_bytes = Param::Int4(i32::try_from(bounds.max_bytes).unwrap_or(i32::MAX));
    let context = Param::Text(Some(context));
    match call {
        Call::Select(sql) | Call::Report(sql) => {
            wire.call("run", entry.name(), &[context, Param::Text(Some(sql)), max_rows, max_bytes])?;
        }
        Call::Plan(sql) => wire.call("run", entry.name(), &[context, Param::Text(Some(sql))])?,
        Call::Search(Search { vector, model, words, min_similarity }) => {
            let (vector, model) = (Param::Float4s(vector), Param::Text(Some(model)));
            let (words, least) = (Param::Text(words.as_deref()), Param::Float8(*min_similarity));
            wire.call("run", entry.name(), &[context, vector, model, words, least, max_rows])?;
        }
    }
    wire.call("rollback", "rollback", &[])?;
    wire.call("ticket", "ticket", &[])?;
    wire.sync();
    Ok(())
}

/// The replies of a batch so far.
struct Received {
    bounds: Bounds,
    rows: Rows,
    truncated: bool,
    malformed: bool,
    ticket: Option<Ticket>,
}

impl Received {
    fn take(&mut self, label: &str, reply: Reply<'_>) -> Result<(), WireError> {
        match (label, reply) {
            ("ticket", Reply::Row(row)) => self.ticket = Some(read_ticket(row)?),
            ("run", Reply::Row(row)) => {
                let line = field(row, 0)?.ok_or(WireError::Protocol("a row without a line"))?;
                if line == TRUNCATED {
                    self.truncated = true;
                } else if self.rows.count < self.bounds.max_rows
                    && self.rows.json.len() <= self.bounds.max_bytes as usize
                {
                    self.malformed |= self.rows.push(line).is_err();
                    meter::arrived();
                } else {
                    // Rows beyond the limits are read and dropped: the replies of the later steps come after them.
                    self.truncated = true;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// The columns of the described statement, or PostgreSQL's error.
async fn read_description(connection: &mut Connection) -> Result<Result<Vec<wire::Column>, ServerError>, WireError> {
    let mut columns = Vec::new();
    let end = connection.wire().group(|_, reply| {
        if let Reply::Columns(body) = reply {
            columns = wire::columns(body)?;
        }
        Ok(())
    });
    Ok(end.await?.failed.map_or(Ok(columns), |(_, error)| Err(error)))
}

/// Columns with the names of their types. Types that are not built in, such as `vector`, cost a query each.
async fn with_type_names(connection: &mut Connection, columns: Vec<wire::Column>) -> Result<Vec<Column>, WireError> {
    let mut named = Vec::with_capacity(columns.len());
    for wire::Column { name, oid } in columns {
        let kind = match Type::from_oid(oid) {
            Some(known) => known.name().to_owned(),
            None => connection.query(&format!("{TYPE}{oid}")).await?.unwrap_or_default(),
        };
        let kind = kind.strip_prefix('_').map(|item| format!("{item}[]")).unwrap_or(kind);
        named.push(Column { name, kind });
    }
    Ok(named)
}

/// The error as it concerns the caller. The fence runs the statement over views, whose names the caller has not written.
/// Where PostgreSQL found the same fault when it described the caller's own text, that message has the caller's names and
/// positions, and is returned instead.
fn statement_error(run: ServerError, described: Option<ServerError>, sql: &str) -> StatementError {
    let position = position_of(run.position.as_ref(), sql, false);
    match described {
        Some(described) if position.is_none() => {
            let position = position_of(described.position.as_ref(), sql, true);
            let same = described.sqlstate == run.sqlstate && run.sqlstate.starts_with("42") && run.sqlstate != "42501";
            let message = if same { described.message } else { run.message };
            StatementError { sqlstate: run.sqlstate, message, position }
        }
        _ => StatementError { sqlstate: run.sqlstate, message: run.message, position },
    }
}

/// The position in the caller's text: of a statement that was described, or of one that the fence names as the query it ran.
/// Any other position belongs to the gateway's own text, and is left out.
fn position_of(position: Option<&Position>, sql: &str, described: bool) -> Option<u32> {
    match position? {
        Position::Original(at) if described => Some(*at),
        Position::Internal { position, query } if query == sql => Some(*position),
        _ => None,
    }
}
