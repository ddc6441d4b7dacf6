//! `get_multiple_table_schemas`.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use storefence_tenancy::resource::ToolName;

use super::{
    Caller, Code, Services, ToolError, ToolOutput,
    budget::Budget,
    own,
    schema::{Common, Schema, Schemas, Table, VERSION, nearest},
    typed::{Answer, TypedTool},
};

/// Rows are counted up to here: the answer helps to choose a statement, and counting millions would cost more than it.
const COUNTED: u32 = 100_000;
const NAME: &str = ToolName::GetMultipleTableSchemas.as_str();

/// What to know about a table beyond its columns.
const HINTS: [(&str, &str); 8] = [
    (
        "orders",
        "order_date is timestamptz in UTC terms: filter with order_date >= timestamptz '2026-01-01T00:00Z' AND order_date < …, and group with date_trunc('month', order_date).",
    ),
    (
        "order_items",
        "Revenue is sum(total_amount), after discounts. Join orders by store_id and order_id; both columns make the index usable.",
    ),
    (
        "order_items",
        "Average order is sum(total_amount) / count(DISTINCT order_id). Margin is sum(total_amount - quantity * products.cost).",
    ),
    ("products", "category_id and type_id lead to categories and product_types; search names with ILIKE."),
    (
        "customers",
        "A customer belongs to primary_store_id and may buy elsewhere: join orders by customer_id without expecting every customer to be visible.",
    ),
    ("inventory", "Stock now, without history; stock_level = 0 means out of stock."),
    ("product_description_embeddings", "Vectors of 1536 numbers: do not select description_embedding."),
    ("stores", "Row-level security shows your stores only; no filter is needed to exclude others."),
];

/// Says what the tables look like, with the values that this caller's rows hold.
pub struct TableSchemas {
    schemas: Arc<Schemas>,
}

#[derive(Deserialize, JsonSchema)]
pub struct Arguments {
    #[schemars(
        description = "Names such as orders or retail.orders; leave it out for all tables",
        length(min = 1, max = 20)
    )]
    table_names: Option<Vec<String>>,
}

/// Tables with the values of the caller's rows. The parts that are the same for every caller are written once.
#[derive(JsonSchema)]
pub struct Described {
    #[schemars(skip)]
    schema: Arc<Schema>,
    /// Positions in the schema.
    #[schemars(with = "Vec<BTreeMap<String, String>>")]
    tables: Vec<usize>,
    #[schemars(rename = "validValues", with = "BTreeMap<String, String>")]
    seen: Seen,
}

impl Described {
    fn both(&self) -> ToolOutput {
        let tables: Vec<_> = self.tables.iter().filter_map(|at| self.schema.tables.get(*at)).collect();
        ToolOutput { structured: structured(&tables, &self.seen), text: text(&tables, &self.seen) }
    }
}

impl Answer for Described {
    fn output(self, budget: Budget, rest: &str) -> Result<ToolOutput, ToolError> {
        let unwritten = |_| ToolError::new(Code::Internal, "the answer could not be written");
        budget.keep(self.both(), rest).map_err(unwritten)
    }
}

impl TableSchemas {
    /// Looks tables up here.
    pub const fn new(schemas: Arc<Schemas>) -> Self {
        Self { schemas }
    }
}

/// The part of the answer that depends on the caller.
#[derive(Debug, Deserialize)]
struct Seen {
    version: String,
    stores: Vec<String>,
    categories: Vec<String>,
    types: BTreeMap<String, Vec<String>>,
    years: Vec<i32>,
    rows: BTreeMap<String, u32>,
}

impl TypedTool for TableSchemas {
    const NAME: &'static str = NAME;
    const TITLE: &'static str = "Table schemas";
    const DESCRIPTION: &'static str = "Describes tables of the schema retail: columns with type and meaning, keys, relationships for joins, how many rows \
         you can see, hints for queries, and the valid values of stores, categories, product types and years as they \
         stand in your rows. Call it before you write SQL.";
    const REST: &'static str = "name fewer tables in table_names, or SELECT the values with execute_sales_query";
    const IS_CACHED: bool = true;
    type Answer = Described;
    type Arguments = Arguments;

    async fn run(&self, services: &Services, caller: &Caller, arguments: Arguments) -> Result<Described, ToolError> {
        describe(&self.schemas, services, caller, arguments.table_names.as_deref()).await
    }
}

/// Describes tables, all of them where no names are given.
pub async fn described(
    schemas: &Schemas,
    services: &Services,
    caller: &Caller,
    names: Option<&[String]>,
) -> Result<ToolOutput, ToolError> {
    Ok(describe(schemas, services, caller, names).await?.both())
}

/// One round trip once the schema is known.
async fn describe(
    schemas: &Schemas,
    services: &Services,
    caller: &Caller,
    names: Option<&[String]>,
) -> Result<Described, ToolError> {
    let mut schema = schemas.of(services, caller).await?;
    let mut fresh = false;
    loop {
        let chosen = chosen(&schema, names);
        let tables = match chosen {
            Ok(tables) => tables,
            // The table may be newer than what is remembered.
            Err(_) if !fresh => {
                (schema, fresh) = (schemas.read(services, caller).await?, true);
                continue;
            }
            Err(error) => return Err(error),
        };
        let seen = own::document(services, caller, NAME, &statement(&schema, &tables)).await;
        let stale = match &seen {
            Ok(seen) => seen["version"] != json!(schema.version),
            Err(error) => error.code == Code::Database,
        };
        if stale && !fresh {
            (schema, fresh) = (schemas.read(services, caller).await?, true);
            continue;
        }
        let seen: Seen = serde_json::from_value(seen?).map_err(|error| {
            tracing::error!(correlation_id = %caller.correlation, %error, "valid values cannot be read");
            ToolError::new(Code::Internal, "the values of the tables could not be read")
        })?;
        tracing::debug!(version = seen.version, "tables described");
        return Ok(Described { schema, tables, seen });
    }
}

/// Positions of the tables asked for. Names that do not exist and names that may not be seen get the same answer.
fn chosen(schema: &Schema, names: Option<&[String]>) -> Result<Vec<usize>, ToolError> {
    let all = 0..schema.tables.len();
    let Some(names) = names else { return Ok(all.collect()) };
    let unknown: Vec<_> = names.iter().filter(|name| schema.table(name).is_none()).collect();
    if let Some(first) = unknown.first() {
        let shown: Vec<String> = unknown.iter().map(|name| name.chars().take(64).collect()).collect();
        let valid: Vec<_> = schema.names().collect();
        let message = format!("table_names: no table {}; valid names are {}", shown.join(", "), valid.join(", "));
        let suggestions = nearest::tables(schema, first);
        return Err(ToolError { suggestions, ..ToolError::new(Code::Validation, message) });
    }
    let named = |table: &Table| names.iter().any(|name| schema.table(name) == Some(table));
    Ok(all.filter(|at| named(&schema.tables[*at])).collect())
}

fn statement(schema: &Schema, tables: &[usize]) -> String {
    let mut rows = String::new();
    for (i, table) in tables.iter().filter_map(|at| schema.tables.get(*at)).enumerate() {
        let comma = if i == 0 { "" } else { ", " };
        let name = own::identifier(&table.name);
        let label = table.name.replace('\'', "''");
        let _ = write!(
            rows,
            "{comma}'{label}', (SELECT count(*) FROM (SELECT FROM retail.{name} LIMIT {}) x)",
            COUNTED + 1
        );
    }
    // The years come from the first and last order of each store, and from whether there is one between, which an index
    // knows; not from all orders. OFFSET keeps the planner from making a join over all of them out of it.
    format!(
        "SELECT json_build_object('version', {VERSION},
    'stores', (SELECT coalesce(json_agg(store_name ORDER BY store_name), '[]') FROM retail.stores),
    'categories', (SELECT coalesce(json_agg(category_name ORDER BY category_name), '[]') FROM retail.categories),
    'types', (SELECT coalesce(json_object_agg(category_name, types ORDER BY category_name), '{{}}') FROM (
        SELECT c.category_name, json_agg(t.type_name ORDER BY t.type_name) AS types
          FROM retail.categories c JOIN retail.product_types t USING (category_id) GROUP BY c.category_name) t),
    'years', (SELECT coalesce(json_agg(y ORDER BY y), '[]') FROM (
        SELECT generate_series(extract(year FROM min(d.first AT TIME ZONE 'UTC'))::int, extract(year FROM max(d.last AT TIME ZONE 'UTC'))::int) AS y
          FROM retail.stores s CROSS JOIN LATERAL (
              SELECT min(o.order_date) AS first, max(o.order_date) AS last FROM retail.orders o WHERE o.store_id = s.store_id) d) y
        WHERE EXISTS (SELECT FROM retail.stores s WHERE EXISTS (
            SELECT FROM retail.orders o WHERE o.store_id = s.store_id AND o.order_date >= make_timestamptz(y, 1, 1, 0, 0, 0, 'UTC')
               AND o.order_date < make_timestamptz(y + 1, 1, 1, 0, 0, 0, 'UTC') OFFSET 0) OFFSET 0)),
    'rows', json_build_object({rows}))"
    )
}

fn hints(table: &str) -> Vec<&'static str> {
    HINTS.iter().filter(|(name, _)| *name == table).map(|(_, hint)| *hint).collect()
}

fn counted(table: &Table, seen: &Seen) -> (u32, bool) {
    let rows = seen.rows.get(&table.name).copied().unwrap_or_default();
    (rows.min(COUNTED), rows > COUNTED)
}

fn common(table: &Table) -> &Common {
    table.common.get_or_init(|| Common { json: members(table), text: lines(table) })
}

fn members(table: &Table) -> String {
    let object = json!({
        "name": format!("retail.{}", table.name), "comment": table.comment, "columns": table.columns,
        "keys": table.keys, "relationships": table.relationships, "hints": hints(&table.name),
    })
    .to_string();
    object.trim_start_matches('{').strip_suffix('}').unwrap_or_default().to_owned()
}

fn lines(table: &Table) -> String {
    let mut out = String::new();
    for column in &table.columns {
        let null = if column.nullable { "" } else { " NOT NULL" };
        let default = column.default.as_ref().map(|text| format!(" DEFAULT {text}")).unwrap_or_default();
        let comment = column.comment.as_ref().map(|text| format!(" -- {text}")).unwrap_or_default();
        let _ = writeln!(out, "  {} {}{null}{default}{comment}", column.name, column.kind);
    }
    for key in &table.keys {
        let kind = if key.primary { "PRIMARY KEY" } else { "UNIQUE" };
        let _ = writeln!(out, "  {kind} ({})", key.columns.join(", "));
    }
    for relationship in &table.relationships {
        let (columns, references) = (relationship.columns.join(", "), relationship.references.join(", "));
        let _ = writeln!(out, "  ({columns}) -> retail.{} ({references})", relationship.table);
    }
    hints(&table.name).iter().for_each(|hint| {
        let _ = writeln!(out, "  * {hint}");
    });
    out
}

fn structured(tables: &[&Table], seen: &Seen) -> String {
    let values = json!({
        "stores": seen.stores, "categories": seen.categories, "productTypes": seen.types, "orderYears": seen.years,
    });
    let size: usize = tables.iter().map(|table| common(table).json.len() + 48).sum();
    let mut out = String::with_capacity(size + 4096);
    out.push_str(r#"{"tables":["#);
    for (i, table) in tables.iter().enumerate() {
        let (rows, at_least) = counted(table, seen);
        let comma = if i == 0 { "" } else { "," };
        let _ = write!(out, r#"{comma}{{{},"rows":{rows},"rowsAtLeast":{at_least}}}"#, common(table).json);
    }
    let _ = write!(out, r#"],"validValues":{values}}}"#);
    out
}

fn text(tables: &[&Table], seen: &Seen) -> String {
    let mut out = String::with_capacity(tables.iter().map(|table| common(table).text.len() + 128).sum());
    for table in tables {
        let (rows, at_least) = counted(table, seen);
        let more = if at_least { "more than " } else { "" };
        let _ = writeln!(out, "retail.{} ({more}{rows} rows): {}", table.name, table.comment.as_deref().unwrap_or(""));
        out.push_str(&common(table).text);
    }
    let _ = writeln!(out, "stores: {}", seen.stores.join(", "));
    for (category, types) in &seen.types {
        let _ = writeln!(out, "category {category}: {}", types.join(", "));
    }
    let years: Vec<_> = seen.years.iter().map(ToString::to_string).collect();
    let _ = write!(out, "years with orders: {}", years.join(", "));
    out
}
