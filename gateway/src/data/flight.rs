//! One flight: four steps sent together, so that a call takes one round trip.
//!
//! `BEGIN READ ONLY` · `fence.run_query` or another entry point · `ROLLBACK` · `fence.ticket()`. The rollback undoes
//! settings that the statement made; the ticket ends the life of the context and releases advisory locks.

use std::time::Duration;

use futures::{TryStreamExt, future::OptionFuture, join};
use tokio_postgres::{Client, Error, Statement, error::ErrorPosition, types::ToSql};

use super::{connection::Connection, rows::Rows};
use crate::audit::meter;

/// The line that the fence sends where it cut.
const TRUNCATED: &str = "!truncated";

/// A column of an answer.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// PostgreSQL's name of its type.
    #[serde(rename = "type")]
    pub kind: String,
}

/// What a statement may use.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most rows.
    pub max_rows: u32,
    /// Most bytes.
    pub max_bytes: u32,
    /// The server's own limit.
    pub timeout: Duration,
}

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

/// PostgreSQL's complaint about a statement, reduced to what concerns the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{sqlstate}: {message}")]
pub struct StatementError {
    /// SQLSTATE.
    pub sqlstate: String,
    /// The primary message.
    pub message: String,
    /// Where in the caller's statement, in characters from 1.
    pub position: Option<u32>,
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

/// A search for products by meaning.
#[derive(Clone, Debug)]
pub struct Search {
    /// The vector of what is sought.
    pub vector: Vec<f32>,
    /// The model that made it; only vectors of the same one are compared.
    pub model: String,
    /// Words that products are to hold, for a hybrid search.
    pub words: Option<String>,
    /// Least cosine, from -1 to 1.
    pub min_similarity: f64,
}

/// What runs inside the fence, by which of its entry points.
#[derive(Clone, Copy, Debug)]
pub enum Call<'a> {
    /// A SELECT, by `fence.run_query`.
    Select(&'a str),
    /// A SELECT that gathers many rows into few, by `fence.run_report`.
    Report(&'a str),
    /// By `fence.search_products`.
    Search(&'a Search),
    /// The hash of a SELECT's plan, by `fence.plan_hash`.
    Plan(&'a str),
}

impl<'a> Call<'a> {
    /// The text that positions in errors belong to.
    #[must_use]
    pub const fn sql(&self) -> &'a str {
        match self {
            Self::Select(sql) | Self::Report(sql) => sql,
            Self::Search(_) | Self::Plan(_) => "",
        }
    }

    /// What it is, for traces.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Select(_) | Self::Report(_) => "SELECT",
            Self::Search(_) => "search_products",
            Self::Plan(_) => "plan",
        }
    }
}

/// Flies, with the entry point of the call, prepared. `describe` asks for the columns of a SELECT in the same round trip.
pub async fn fly(
    connection: &mut Connection,
    entry: &Statement,
    context: &str,
    call: Call<'_>,
    bounds: Bounds,
    describe: bool,
) -> Flight {
    let client = connection.client();
    let sql = call.sql();
    let millis = bounds.timeout.as_millis();
    let begin = format!("BEGIN READ ONLY; SET LOCAL statement_timeout = {millis}");
    // Polled in this order the first time, which is the order on the wire. `futures::join!` keeps it, tokio's rotates.
    let (described, begun, ran, rolled_back, ticket) = join!(
        OptionFuture::from(describe.then(|| client.prepare(sql))),
        client.batch_execute(&begin),
        rows(client, entry, context, call, bounds),
        client.batch_execute("ROLLBACK"),
        client.query_one(connection.next_ticket(), &[]),
    );
    let columns = described.as_ref().and_then(|described| described.as_ref().ok()).map(columns);
    let position = described.and_then(Result::err).and_then(|error| position(&error, sql, true));
    // The user's text does not stay on the server: dropping the statement closes it.
    let ticket = match (begun, rolled_back, ticket) {
        (Ok(()), Ok(()), Ok(ticket)) => ticket,
        (begun, rolled_back, ticket) => {
            let error = begun.err().or(rolled_back.err()).or(ticket.err());
            return Flight::Broken(error.map_or_else(String::new, |error| super::describe(&error)));
        }
    };
    if let Err(error) = connection.renew(&ticket) {
        return Flight::Broken(super::describe(&error));
    }
    match ran {
        Ok((rows, truncated)) => Flight::Answer(Answer { rows, truncated, columns }),
        Err(RowsError::Postgres(error)) => match error.as_db_error() {
            Some(db) => Flight::Statement(StatementError {
                sqlstate: db.code().code().to_owned(),
                message: db.message().to_owned(),
                position: position_of(db.position(), sql, false).or(position),
            }),
            None => Flight::Broken(super::describe(&error)),
        },
        Err(RowsError::Malformed) => Flight::Broken("a row is not a JSON object".to_owned()),
    }
}

enum RowsError {
    Postgres(Error),
    Malformed,
}

async fn rows(
    client: &Client,
    entry: &Statement,
    context: &str,
    call: Call<'_>,
    bounds: Bounds,
) -> Result<(Rows, bool), RowsError> {
    let max_rows = i32::try_from(bounds.max_rows).unwrap_or(i32::MAX);
    let max_bytes = i32::try_from(bounds.max_bytes).unwrap_or(i32::MAX);
    let parameters: Vec<&(dyn ToSql + Sync)> = match &call {
        Call::Select(sql) | Call::Report(sql) => vec![&context, sql, &max_rows, &max_bytes],
        Call::Plan(sql) => vec![&context, sql],
        Call::Search(Search { vector, model, words, min_similarity }) => {
            vec![&context, vector, model, words, min_similarity, &max_rows]
        }
    };
    let stream = client.query_raw(entry, parameters);
    let mut stream = std::pin::pin!(stream.await.map_err(RowsError::Postgres)?);
    let (mut rows, mut truncated, mut malformed) = (Rows::default(), false, false);
    // To the end in any case: the steps behind it wait for theirs.
    while let Some(row) = stream.try_next().await.map_err(RowsError::Postgres)? {
        let line: &str = row.try_get(0).map_err(RowsError::Postgres)?;
        if line == TRUNCATED {
            truncated = true;
        } else if rows.count < bounds.max_rows && rows.json.len() <= bounds.max_bytes as usize {
            malformed |= rows.push(line).is_err();
            meter::arrived();
        } else {
            truncated = true;
        }
    }
    if malformed { Err(RowsError::Malformed) } else { Ok((rows, truncated)) }
}

fn columns(statement: &Statement) -> Vec<Column> {
    let kind = |name: &str| name.strip_prefix('_').map_or_else(|| name.to_owned(), |item| format!("{item}[]"));
    let columns = statement.columns().iter();
    columns.map(|column| Column { name: column.name().to_owned(), kind: kind(column.type_().name()) }).collect()
}

fn position(error: &Error, sql: &str, described: bool) -> Option<u32> {
    position_of(error.as_db_error()?.position(), sql, described)
}

/// A position counts in the text that it belongs to: the caller's own when the statement was described, or when the
/// fence reports it as the query it ran. Any other one is a place in our text.
fn position_of(position: Option<&ErrorPosition>, sql: &str, described: bool) -> Option<u32> {
    match position? {
        ErrorPosition::Original(at) if described => Some(*at),
        ErrorPosition::Internal { position, query } if query == sql => Some(*position),
        _ => None,
    }
}
