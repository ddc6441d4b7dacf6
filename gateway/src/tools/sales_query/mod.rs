//! `execute_sales_query`.

mod advice;
mod rows;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rmcp::model::JsonObject;
use schemars::JsonSchema;
use serde::Deserialize;
use storefence_tenancy::resource::ToolName;

use super::{
    Caller, Code, Services, ToolError, ToolOutput,
    budget::Budget,
    failure::{self, Author},
    schema::{Schemas, nearest},
    typed::{Answer, TypedTool},
};
use crate::{
    db::{QueryResult, query::Column},
    gate,
    performance::Statement,
};

/// The one argument.
pub const QUERY: &str = "postgresql_query";

/// Runs one SELECT.
pub struct SalesQuery {
    schemas: Arc<Schemas>,
}

#[derive(Deserialize, JsonSchema)]
pub struct Arguments {
    #[schemars(
        description = "One SELECT in PostgreSQL's dialect, for example: SELECT s.store_name, sum(i.total_amount) AS revenue \
                       FROM retail.order_items i JOIN retail.stores s USING (store_id) GROUP BY 1 ORDER BY 2 DESC LIMIT 10",
        extend("x-form" = "one SELECT statement as a string")
    )]
    postgresql_query: String,
}

/// Rows, whose values may be of any type: not every client's subset of JSON Schema can say that.
#[derive(JsonSchema)]
pub struct Rows {
    #[schemars(with = "Vec<BTreeMap<String, String>>")]
    columns: Arc<Vec<Column>>,
    #[schemars(rename = "rowCount", with = "u32")]
    rows: crate::db::rows::Rows,
    truncated: bool,
    #[schemars(rename = "elapsedMs", with = "f64")]
    elapsed: Duration,
}

impl Answer for Rows {
    fn output(self, budget: Budget, _: &str) -> Result<ToolOutput, ToolError> {
        let Self { columns, rows, truncated, elapsed } = self;
        Ok(rows::render(QueryResult { columns, rows, truncated, elapsed }, budget))
    }
}

impl SalesQuery {
    /// Takes names from these schemas when it has to suggest some.
    pub const fn new(schemas: Arc<Schemas>) -> Self {
        Self { schemas }
    }

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

    /// The tables there are, and the tool that describes them: for a statement that asks PostgreSQL for them.
    async fn tables(&self, services: &Services, caller: &Caller) -> String {
        let describe = "get_multiple_table_schemas describes them";
        match self.schemas.of(services, caller).await {
            Ok(schema) => format!("; the tables are {}; {describe}", schema.names().collect::<Vec<_>>().join(", ")),
            Err(_) => "; get_multiple_table_schemas describes the tables".to_owned(),
        }
    }
}

impl TypedTool for SalesQuery {
    const NAME: &'static str = ToolName::ExecuteSalesQuery.as_str();
    const TITLE: &'static str = "Run a SELECT";
    const DESCRIPTION: &'static str = "Runs one PostgreSQL SELECT over the tenant's data (schema retail: stores, customers, orders, order_items, \
         products, categories, product_types, inventory) and returns its rows. Row-level security limits every table \
         to the stores you answer for, so no filter on your own stores is needed. CTEs, window functions, grouping \
         sets and lateral joins work. Aggregate in SQL rather than fetching rows: answers are cut at the tenant's row \
         limit, and truncated says so. Time columns are timestamptz; compare them with timestamptz values.";
    const ANSWER: &'static str = "With rows: an array of arrays, values in the order of columns";
    const IS_CACHED: bool = true;
    type Answer = Rows;
    type Arguments = Arguments;

    fn is_momentary(&self, arguments: &JsonObject) -> bool {
        let text = arguments.get(QUERY).and_then(serde_json::Value::as_str);
        text.is_none_or(|text| gate::moment::is_momentary(&gate::written::understood(text)))
    }

    async fn run(&self, services: &Services, caller: &Caller, arguments: Arguments) -> Result<Rows, ToolError> {
        let text = gate::written::understood(&arguments.postgresql_query).into_owned();
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
        services.metrics.queries.with_label_values(&[Self::NAME]).inc();
        let sql = checked.sql;
        let work = services.data.query(caller, checked);
        let statement = Statement::Caller { text: &text, sql };
        let answer = services.performance.measure(&services.data, caller, Self::NAME, statement, work).await;
        match answer {
            Ok(QueryResult { columns, rows, truncated, elapsed }) => Ok(Rows { columns, rows, truncated, elapsed }),
            Err(error) => {
                let mut error = failure::to_tool_error(caller, error, Author::Caller(sql));
                error.suggestions = self.suggestions(services, caller, &error, sql).await;
                match error.sqlstate.as_deref() {
                    Some("42P01") => error.message.push_str(&self.tables(services, caller).await),
                    Some(sqlstate) if error.code == Code::Database => {
                        error.message = format!("{}; {}", error.message, advice::next(sqlstate));
                    }
                    _ => {}
                }
                Err(error)
            }
        }
    }
}
