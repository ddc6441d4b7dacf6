//! `execute_sales_query`.

use std::{fmt::Write as _, sync::Arc};

use futures::future::BoxFuture;
use rmcp::model::{JsonObject, Tool as Definition};

use super::{
    Caller, Code, Services, Tool, ToolError, ToolOutput,
    arguments::Fields,
    commented, definition,
    failure::{self, Author},
    fields, kind, list, required,
    schema::{Schemas, nearest},
    text,
};
use crate::{db::QueryResult, gate, performance::Statement};

/// The one argument.
pub const QUERY: &str = "postgresql_query";

/// Runs one SELECT.
pub struct SalesQuery {
    definition: Definition,
    schemas: Arc<Schemas>,
}

impl SalesQuery {
    /// Takes names from these schemas when it has to suggest some.
    pub fn new(schemas: Arc<Schemas>) -> Self {
        let definition = definition(
            "execute_sales_query",
            "Run a SELECT",
            "Runs one PostgreSQL SELECT over the tenant's data (schema retail: stores, customers, orders, order_items, \
             products, categories, product_types, inventory) and returns its rows. Row-level security limits every table \
             to the stores you answer for, so no filter on your own stores is needed. CTEs, window functions, grouping \
             sets and lateral joins work. Aggregate in SQL rather than fetching rows: answers are cut at the tenant's row \
             limit, and truncated says so. Time columns are timestamptz; compare them with timestamptz values.",
            required(
                fields([(
                    QUERY,
                    text(
                        "One SELECT in PostgreSQL's dialect, for example: SELECT s.store_name, sum(i.total_amount) AS revenue \
                         FROM retail.order_items i JOIN retail.stores s USING (store_id) GROUP BY 1 ORDER BY 2 DESC LIMIT 10",
                    ),
                )]),
                QUERY,
            ),
            commented(
                fields([
                    ("columns", list("object")),
                    ("rowCount", kind("integer")),
                    ("truncated", kind("boolean")),
                    ("elapsedMs", kind("number")),
                ]),
                // A value may be of any type, which not every client's subset of JSON Schema can say.
                "With rows: an array of arrays, values in the order of columns",
            ),
        );
        Self { definition, schemas }
    }
}

impl SalesQuery {
    /// The nearest valid names where a column or table does not exist. The schema is as a rule known already.
    async fn suggestions(&self, services: &Services, caller: &Caller, error: &ToolError, sql: &str) -> Vec<String> {
        if !matches!(error.sqlstate.as_deref(), Some("42703" | "42P01")) {
            return Vec::new();
        }
        match self.schemas.of(services, caller).await {
            Ok(schema) => nearest::suggestions(&schema, sql, &error.message),
            Err(_) => Vec::new(),
        }
    }
}

impl SalesQuery {
    /// The tables there are, and the tool that describes them: for those who ask PostgreSQL for them.
    async fn tables(&self, services: &Services, caller: &Caller) -> String {
        let describe = "get_multiple_table_schemas describes them";
        match self.schemas.of(services, caller).await {
            Ok(schema) => format!("; the tables are {}; {describe}", schema.names().collect::<Vec<_>>().join(", ")),
            Err(_) => "; get_multiple_table_schemas describes the tables".to_owned(),
        }
    }
}

impl Tool for SalesQuery {
    fn definition(&self) -> &Definition {
        &self.definition
    }

    fn is_kept(&self) -> bool {
        true
    }

    fn is_momentary(&self, arguments: &JsonObject) -> bool {
        let text = arguments.get("postgresql_query").and_then(serde_json::Value::as_str);
        text.is_none_or(|text| gate::moment::is_momentary(&gate::written::understood(text)))
    }

    fn call<'a>(
        &'a self,
        services: &'a Services,
        caller: &'a Caller,
        arguments: JsonObject,
    ) -> BoxFuture<'a, Result<ToolOutput, ToolError>> {
        Box::pin(async move {
            let form = "one SELECT statement as a string";
            let text = Fields::new(arguments).required(QUERY, form)?;
            let text = gate::written::understood(&text).into_owned();
            let checked = match gate::check(&text) {
                Ok(checked) => checked,
                Err(refusal) => {
                    services.metrics.gate.with_label_values(&[refusal.reason]).inc();
                    let mut error = ToolError::new(Code::Validation, refusal.message);
                    error.position = refusal.position;
                    if refusal.of_tables {
                        error.message.push_str(&self.tables(services, caller).await);
                    }
                    return Err(error);
                }
            };
            services.metrics.queries.with_label_values(&[self.name()]).inc();
            let sql = checked.sql;
            let work = services.data.query(caller.asker(), checked);
            let statement = Statement::Caller { text: &text, sql };
            let answer = services.performance.measure(&services.data, caller, self.name(), statement, work).await;
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    let mut error = failure::told(caller, error, Author::Caller(sql));
                    error.suggestions = self.suggestions(services, caller, &error, sql).await;
                    if error.sqlstate.as_deref() == Some("42P01") {
                        error.message.push_str(&self.tables(services, caller).await);
                    }
                    return Err(error);
                }
            };
            Ok(render(answer))
        })
    }
}

/// Puts head and tail around the rows where they are: an answer may take as much memory as the tenant's limit allows, and a
/// copy of it as much again.
fn render(answer: QueryResult) -> ToolOutput {
    let QueryResult { columns, rows, truncated, elapsed } = answer;
    let (mut structured, mut text) = (rows.json, rows.text);
    let heads = serde_json::to_string(columns.as_ref()).unwrap_or_else(|_| "[]".to_owned());
    structured.insert_str(0, &format!(r#"{{"columns":{heads},"rows":["#));
    let millis = elapsed.as_secs_f64() * 1000.0;
    let _ = write!(structured, r#"],"rowCount":{},"truncated":{truncated},"elapsedMs":{millis:.1}}}"#, rows.count);
    let names: Vec<_> = columns.iter().map(|column| column.name.as_str()).collect();
    text.insert_str(0, &(names.join("\t") + "\n"));
    let noun = if rows.count == 1 { "row" } else { "rows" };
    let cut = if truncated { "; there are more, the answer was cut" } else { "" };
    let line = if rows.count == 0 { "" } else { "\n" };
    let _ = write!(text, "{line}({} {noun}{cut})", rows.count);
    ToolOutput { structured, text }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use serde_json::{Value, json};

    use super::{QueryResult, render};
    use crate::db::{flight::Column, rows::Rows};

    fn answer(lines: &[&str], truncated: bool) -> QueryResult {
        let mut rows = Rows::default();
        lines.iter().for_each(|line| rows.push(line).expect("object"));
        let column = |name: &str, kind: &str| Column { name: name.to_owned(), kind: kind.to_owned() };
        let columns = Arc::new(vec![column("store", "text"), column("n", "int8")]);
        QueryResult { columns, rows, truncated, elapsed: Duration::from_micros(1234) }
    }

    #[test]
    fn shapes() {
        let output = render(answer(&[r#"{"store":"Seattle","n":9007199254740993}"#], true));
        assert!(output.structured.contains("9007199254740993"));
        let value: Value = serde_json::from_str(&output.structured).expect("JSON");
        assert_eq!(value["columns"][1], json!({"name": "n", "type": "int8"}));
        assert_eq!(
            (&value["rowCount"], &value["truncated"], &value["elapsedMs"]),
            (&json!(1), &json!(true), &json!(1.2))
        );
        assert_eq!(output.text, "store\tn\nSeattle\t9007199254740993\n(1 row; there are more, the answer was cut)");
        assert_eq!(render(answer(&[], false)).text, "store\tn\n(0 rows)");
    }
}
