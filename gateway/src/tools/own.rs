//! Statements that the gateway writes itself. Each answers with one JSON document, so that a tool takes one round trip.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::{
    Caller, Code, Services, ToolError,
    failure::{self, Author},
};
use crate::performance::Statement;

/// Runs a statement of ours for a tool, with what the caller may see, and returns the one value of its one row.
pub async fn document(services: &Services, caller: &Caller, tool: &str, sql: &str) -> Result<Value, ToolError> {
    services.metrics.queries.with_label_values(&[tool]).inc();
    let work = services.data.own(caller, sql);
    let rows = services.performance.measure(&services.data, caller, tool, Statement::Own(sql), work).await;
    let rows = rows.map_err(|error| failure::to_tool_error(caller, error, Author::Gateway(tool)))?;
    let mut row: Vec<Value> = serde_json::from_str(&rows.json).unwrap_or_default();
    if rows.count == 1 && row.len() == 1 {
        return Ok(row.remove(0));
    }
    tracing::error!(correlation_id = %caller.correlation, tool, rows = rows.count, "a statement of ours gave no document");
    Err(ToolError::new(Code::Internal, format!("{tool} could not read the database's answer")))
}

/// A text literal that holds no character of the text: what a caller wrote can end no string here.
pub fn text(value: &str) -> String {
    let mut hex = String::with_capacity(value.len() * 2);
    value.bytes().for_each(|byte| {
        let _ = write!(hex, "{byte:02x}");
    });
    format!("convert_from(decode('{hex}', 'hex'), 'UTF8')")
}

/// A point in time.
pub fn timestamp(value: Timestamp) -> String {
    format!("timestamptz '{value:.6}'")
}

/// A condition that leaves one store, or none where all stores in reach are meant.
pub fn store_is(column: &str, store: Option<Uuid>) -> String {
    store.map_or_else(|| "true".to_owned(), |id| format!("{column} = '{id}'::uuid"))
}

pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use uuid::Uuid;

    use super::{identifier, store_is, text, timestamp};

    #[test]
    fn literals_hold_nothing_of_the_caller() {
        assert_eq!(text("a'; --"), "convert_from(decode('61273b202d2d', 'hex'), 'UTF8')");
        assert_eq!(timestamp(Timestamp::UNIX_EPOCH), "timestamptz '1970-01-01T00:00:00.000000Z'");
        assert_eq!(store_is("s.store_id", None), "true");
        let id = Uuid::nil();
        assert_eq!(store_is("s.store_id", Some(id)), format!("s.store_id = '{id}'::uuid"));
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
    }
}
