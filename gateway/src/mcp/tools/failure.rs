//! What a caller is told when a statement could not be run.

use super::{Caller, Code, ToolError};
use crate::data::{QueryError, flight::StatementError, pool::PoolError};

/// When to come back where all connections were busy, in seconds: nobody knows how long the statements take.
const AFTER_BUSY: u64 = 2;

/// Logs a failure under its correlation id and puts it into the caller's words. Timeouts and complaints about a
/// statement are the caller's own business; anything else is an operator's.
pub fn told(caller: &Caller, error: QueryError, sql: &str) -> ToolError {
    let reason = error.reason();
    match &error {
        QueryError::Statement(_) | QueryError::Timeout(_) | QueryError::Pool(PoolError::Busy) => {
            tracing::debug!(correlation_id = %caller.correlation, reason, "the statement failed");
        }
        other => tracing::error!(
            correlation_id = %caller.correlation, tenant = %caller.tenant.id(), reason, error = %other,
            "the statement could not be run"
        ),
    }
    explain(error, sql)
}

fn explain(error: QueryError, sql: &str) -> ToolError {
    match error {
        QueryError::Statement(error) => statement(error),
        QueryError::Timeout(limit) => {
            let start: String = sql.chars().take(100).collect();
            let message = format!(
                "the statement ran longer than {} s and was cancelled; narrow it or aggregate more. It begins: {start}",
                limit.as_secs_f64()
            );
            ToolError::new(Code::Timeout, message)
        }
        QueryError::Pool(PoolError::Busy) => {
            let message = "too many statements of this chain are running at once; try again in a few seconds";
            ToolError { retry_after_seconds: Some(AFTER_BUSY), ..ToolError::new(Code::RateLimited, message) }
        }
        QueryError::Pool(_) | QueryError::Broken(_) | QueryError::Stale(_) | QueryError::Context { .. } => {
            ToolError::new(
                Code::Unavailable,
                "the chain's database is not available at the moment; try again in a few seconds",
            )
        }
    }
}

/// SQLSTATE, primary message and position concern the caller's own statement. Names of the machinery do not.
fn statement(error: StatementError) -> ToolError {
    let StatementError { sqlstate, message, position } = error;
    let code = if sqlstate == "42501" { Code::Authorization } else { Code::Database };
    let ours = ["fence", "run_query", "sf_"].iter().any(|word| message.contains(word));
    let message = if ours {
        "the statement is not allowed here; write one SELECT over the tables of the schema retail".to_owned()
    } else {
        message
    };
    ToolError { sqlstate: Some(sqlstate), position, ..ToolError::new(code, message) }
}

#[cfg(test)]
mod tests {
    use super::{Code, QueryError, StatementError, explain};

    #[test]
    fn names_of_the_machinery_stay_inside() {
        let error = |sqlstate: &str, message: &str| {
            let (sqlstate, message) = (sqlstate.to_owned(), message.to_owned());
            explain(QueryError::Statement(StatementError { sqlstate, message, position: Some(3) }), "SELECT")
        };
        let column = error("42703", "column \"x\" does not exist");
        assert_eq!((column.code, column.position), (Code::Database, Some(3)));
        assert_eq!(column.message, "column \"x\" does not exist");
        let hidden = error("42501", "permission denied for table fence_tenants of sf_0123456789ab_a");
        assert_eq!(hidden.code, Code::Authorization);
        assert!(!hidden.message.contains("sf_") && !hidden.message.contains("fence"), "{hidden}");
    }
}
