//! One flight: what a call takes, sent together and answered together, so that it takes one round trip.
//!
//! `BEGIN READ ONLY` · the statement's timeout · `fence.run_query` or another entry point · `ROLLBACK` · `fence.ticket()`.
//! The rollback undoes settings that the statement made; the ticket ends the life of the context and releases advisory
//! locks. Where the statement fails, PostgreSQL leaves out what is behind it, and the last two are sent again.

use storefence_tenancy::context::Ticket;
use tokio_postgres::types::Type;

use super::{
    connection::{Connection, Entry, read_ticket},
    query::{Bounds, Call, Column, Search, StatementError},
    rows::Rows,
    wire::{self, Param, Position, Reply, ServerError, WireError, field},
};
use crate::audit::meter;

/// As much longer than the rows that were asked for may a message be: descriptions and complaints are messages, too.
const BESIDE_ROWS: usize = 1024 * 1024;
/// The name of a type that is not built in. One, since the gateway's own statements and callers' seldom have more.
const TYPE: &str = "SELECT typname FROM pg_catalog.pg_type WHERE oid = ";

/// The line that the fence sends where it cut.
const TRUNCATED: &str = "!truncated";

/// What came back.
#[derive(Debug, Default)]
pub struct Answer {
    /// Rows.
    pub rows: Rows,
    /// Whether there were more.
    pub truncated: bool,
    /// Columns, where the statement was described in this flight.
    pub columns: Option<Vec<Column>>,
}

/// How a flight ended. In every case but [`Flight::Broken`] the connection is as clean as before it.
#[derive(Debug)]
pub enum Flight {
    /// With rows.
    Answer(Answer),
    /// With an error of the statement.
    Statement(StatementError),
    /// With one of the four steps undone; the connection must not be used again.
    Broken(String),
}

/// Flies. `describe` asks for the columns of a SELECT in the same round trip.
pub async fn fly(connection: &mut Connection, context: &str, call: Call<'_>, bounds: Bounds, describe: bool) -> Flight {
    let flown = flown(connection, context, call, bounds, describe).await;
    connection.wire().rest();
    flown.unwrap_or_else(|error| Flight::Broken(error.to_string()))
}

async fn flown(
    connection: &mut Connection,
    context: &str,
    call: Call<'_>,
    bounds: Bounds,
    describe: bool,
) -> Result<Flight, WireError> {
    let sql = call.sql();
    // A statement with a zero byte cannot be described, nor run: PostgreSQL says so when it runs.
    let describe = describe && !sql.contains('\0');
    connection.wire().limit((bounds.max_bytes as usize).saturating_add(BESIDE_ROWS));
    if describe {
        let wire = connection.wire();
        wire.parse("describe", "", sql, &[])?;
        wire.describe("describe", "")?;
        // The user's text does not stay on the server.
        wire.forget("describe", "")?;
        wire.sync();
    }
    ask(connection, context, call, bounds)?;
    let described = if describe { Some(described(connection).await?) } else { None };
    let mut arrived =
        Arrived { bounds, rows: Rows::bounded(bounds.max_bytes), truncated: false, malformed: false, ticket: None };
    let end = connection.wire().group(|label, reply| arrived.take(label, reply)).await?;
    let failed = match end.failed {
        None => None,
        Some(("run", error)) => {
            // PostgreSQL has skipped what stood behind it.
            let wire = connection.wire();
            wire.call("rollback", "rollback", &[])?;
            wire.call("ticket", "ticket", &[])?;
            wire.sync();
            let end = wire.group(|label, reply| arrived.take(label, reply)).await?;
            match end.failed {
                None => Some((error, end.in_transaction)),
                Some((_, error)) => return Err(Box::new(error).into()),
            }
        }
        Some((_, error)) => return Err(Box::new(error).into()),
    };
    let open = failed.as_ref().map_or(end.in_transaction, |(_, open)| *open);
    let Some(ticket) = arrived.ticket.filter(|_| !open) else {
        return Err(WireError::Protocol("a flight that did not end as it should"));
    };
    connection.renew(ticket);
    if arrived.malformed {
        return Ok(Flight::Broken("a row is not a JSON object".to_owned()));
    }
    if let Some((error, _)) = failed {
        return Ok(Flight::Statement(complaint(error, described.and_then(Result::err), sql)));
    }
    let columns = match described {
        Some(Ok(columns)) => Some(named(connection, columns).await?),
        _ => None,
    };
    Ok(Flight::Answer(Answer { rows: arrived.rows, truncated: arrived.truncated, columns }))
}

/// Asks for the flight itself.
fn ask(connection: &mut Connection, context: &str, call: Call<'_>, bounds: Bounds) -> Result<(), WireError> {
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

/// What a flight has brought so far.
struct Arrived {
    bounds: Bounds,
    rows: Rows,
    truncated: bool,
    malformed: bool,
    ticket: Option<Ticket>,
}

impl Arrived {
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
                    // Read to the end in any case: the steps behind it wait for theirs.
                    self.truncated = true;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// The answer to the description, or PostgreSQL's complaint.
async fn described(connection: &mut Connection) -> Result<Result<Vec<wire::Column>, ServerError>, WireError> {
    let mut columns = Vec::new();
    let end = connection.wire().group(|_, reply| {
        if let Reply::Columns(body) = reply {
            columns = wire::columns(body)?;
        }
        Ok(())
    });
    Ok(end.await?.failed.map_or(Ok(columns), |(_, error)| Err(error)))
}

/// Columns with the names of their types. Those that are not built in, as `vector`, are asked for.
async fn named(connection: &mut Connection, columns: Vec<wire::Column>) -> Result<Vec<Column>, WireError> {
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

/// What is wrong with a statement. The fence runs it over views, whose names the caller has not written: where PostgreSQL found
/// the same fault when it described the text as it came, its words are of the caller's names and positions.
fn complaint(run: ServerError, described: Option<ServerError>, sql: &str) -> StatementError {
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

/// A position counts in the text that it belongs to: the caller's own when the statement was described, or when the
/// fence reports it as the query it ran. Any other one is a place in our text.
fn position_of(position: Option<&Position>, sql: &str, described: bool) -> Option<u32> {
    match position? {
        Position::Original(at) if described => Some(*at),
        Position::Internal { position, query } if query == sql => Some(*position),
        _ => None,
    }
}
