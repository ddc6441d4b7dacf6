//! `execute_sales_query`.

use std::fmt::Write as _;

use futures::future::BoxFuture;
use rmcp::model::{JsonObject, Tool as Definition};
use serde_json::json;

use super::{Caller, Code, Services, Tool, ToolError, ToolOutput, arguments, definition};
use crate::{
    data::{QueryError, QueryResult, flight::StatementError, pool::PoolError},
    gate,
};

/// Runs one SELECT.
pub struct SalesQuery(Definition);

impl Default for SalesQuery {
    fn default() -> Self {
        Self(definition(
            "execute_sales_query",
            "Run a SELECT",
            "Runs one PostgreSQL SELECT over the chain's data (schema retail: stores, customers, orders, order_items, \
             products, categories, product_types, inventory) and returns its rows. Row-level security limits every table \
             to the stores you answer for, so no filter on your own stores is needed. CTEs, window functions, grouping \
             sets and lateral joins work. Aggregate in SQL rather than fetching rows: answers are cut at the chain's row \
             limit, and truncated says so. Time columns are timestamptz; compare them with timestamptz values.",
            json!({
                "type": "object",
                "properties": {
                    "postgresql_query": {
                        "type": "string",
                        "description": "One SELECT in PostgreSQL's dialect, for example: SELECT s.store_name, sum(i.total_amount) AS revenue FROM retail.order_items i JOIN retail.stores s USING (store_id) GROUP BY 1 ORDER BY 2 DESC LIMIT 10",
                    },
                },
                "required": ["postgresql_query"],
                "additionalProperties": false,
            }),
            json!({
                "type": "object",
                "properties": {
                    "columns": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {"name": {"type": "string"}, "type": {"type": "string", "description": "PostgreSQL type"}},
                            "required": ["name", "type"],
                        },
                    },
                    "rows": {"type": "array", "items": {"type": "array"}, "description": "Values in the order of columns; numbers are exact"},
                    "rowCount": {"type": "integer"},
                    "truncated": {"type": "boolean", "description": "Whether there were more rows than the limit allows"},
                    "elapsedMs": {"type": "number"},
                },
                "required": ["columns", "rows", "rowCount", "truncated", "elapsedMs"],
            }),
        ))
    }
}

impl Tool for SalesQuery {
    fn definition(&self) -> &Definition {
        &self.0
    }

    fn call<'a>(
        &'a self,
        services: &'a Services,
        caller: &'a Caller,
        arguments: JsonObject,
    ) -> BoxFuture<'a, Result<ToolOutput, ToolError>> {
        Box::pin(async move {
            let text = arguments::only_text(arguments, "postgresql_query")?;
            let sql = gate::check(&text).map_err(|refusal| {
                services.metrics.gate.with_label_values(&[refusal.reason]).inc();
                let error = ToolError::new(Code::Validation, refusal.message);
                ToolError { position: refusal.position, ..error }
            })?;
            services.metrics.queries.with_label_values(&[self.name()]).inc();
            let answer = services.data.query(&caller.tenant, &caller.scope, sql).await;
            let answer = answer.map_err(|error| {
                let reason = error.reason();
                match &error {
                    QueryError::Statement(_) | QueryError::Timeout(_) => {
                        tracing::debug!(correlation_id = %caller.correlation, reason, "the statement failed");
                    }
                    other => tracing::error!(
                        correlation_id = %caller.correlation, tenant = %caller.tenant.id(), reason, error = %other,
                        "the statement could not be run"
                    ),
                }
                explain(error, sql)
            })?;
            Ok(render(&answer))
        })
    }
}

fn render(answer: &QueryResult) -> ToolOutput {
    let QueryResult { columns, rows, truncated, elapsed } = answer;
    let heads = serde_json::to_string(columns.as_ref()).unwrap_or_else(|_| "[]".to_owned());
    let mut structured = String::with_capacity(rows.json.len() + heads.len() + 96);
    let millis = elapsed.as_secs_f64() * 1000.0;
    let _ = write!(
        structured,
        r#"{{"columns":{heads},"rows":[{}],"rowCount":{},"truncated":{truncated},"elapsedMs":{millis:.1}}}"#,
        rows.json, rows.count
    );
    let names: Vec<_> = columns.iter().map(|column| column.name.as_str()).collect();
    let mut text = String::with_capacity(rows.text.len() + 128);
    let _ = write!(text, "{}\n{}", names.join("\t"), rows.text);
    let noun = if rows.count == 1 { "row" } else { "rows" };
    let cut = if *truncated { "; there are more, the answer was cut" } else { "" };
    let line = if rows.count == 0 { "" } else { "\n" };
    let _ = write!(text, "{line}({} {noun}{cut})", rows.count);
    ToolOutput { structured, text }
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
            ToolError::new(Code::RateLimited, message)
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
    ToolError { code, message, sqlstate: Some(sqlstate), position }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use serde_json::{Value, json};

    use super::{Code, QueryError, QueryResult, StatementError, explain, render};
    use crate::data::{flight::Column, rows::Rows};

    fn answer(lines: &[&str], truncated: bool) -> QueryResult {
        let mut rows = Rows::default();
        lines.iter().for_each(|line| rows.push(line).expect("object"));
        let column = |name: &str, kind: &str| Column { name: name.to_owned(), kind: kind.to_owned() };
        let columns = Arc::new(vec![column("store", "text"), column("n", "int8")]);
        QueryResult { columns, rows, truncated, elapsed: Duration::from_micros(1234) }
    }

    #[test]
    fn shapes() {
        let output = render(&answer(&[r#"{"store":"Seattle","n":9007199254740993}"#], true));
        assert!(output.structured.contains("9007199254740993"));
        let value: Value = serde_json::from_str(&output.structured).expect("JSON");
        assert_eq!(value["columns"][1], json!({"name": "n", "type": "int8"}));
        assert_eq!(
            (&value["rowCount"], &value["truncated"], &value["elapsedMs"]),
            (&json!(1), &json!(true), &json!(1.2))
        );
        assert_eq!(output.text, "store\tn\nSeattle\t9007199254740993\n(1 row; there are more, the answer was cut)");
        assert_eq!(render(&answer(&[], false)).text, "store\tn\n(0 rows)");
    }

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
