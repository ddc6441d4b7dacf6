//! What the tables of `retail` look like. The same for all tenants of a database, so it is read once per version of the
//! schema; nothing in it comes from a row.

pub mod nearest;
mod sql;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use moka::sync::Cache;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Caller, Code, Services, ToolError, own};

pub use self::sql::{VERSION, pulse};

/// Databases that are remembered, and for how long: a call that compares versions notices a migration at once, any
/// other after this time.
const CACHE: (u64, Duration) = (256, Duration::from_secs(600));

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    /// Its PostgreSQL type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it may be null.
    pub nullable: bool,
    /// Its default, as SQL.
    pub default: Option<String>,
    /// What it means.
    pub comment: Option<String>,
}

/// A primary or unique key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Whether it is the primary one.
    pub primary: bool,
    pub columns: Vec<String>,
}

/// A foreign key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relationship {
    /// Columns of this table.
    pub columns: Vec<String>,
    /// The table they refer to.
    pub table: String,
    /// The columns they refer to.
    pub references: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Its name in `retail`.
    pub name: String,
    /// What it holds.
    pub comment: Option<String>,
    /// Columns, in order.
    pub columns: Vec<Column>,
    /// Primary and unique keys.
    pub keys: Vec<Key>,
    /// Foreign keys.
    pub relationships: Vec<Relationship>,
    /// What answers about it have in common, once written.
    #[serde(skip)]
    pub common: OnceLock<Common>,
}

/// The part of an answer about a table that depends on no caller: most of it. Writing it anew for each call would take ten
/// times as long as all the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Common {
    /// Members of a JSON object, without its braces.
    pub json: String,
    /// Lines of text.
    pub text: String,
}

/// The tables that may be read.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Schema {
    /// Changes with every change of a table, column, constraint or comment.
    pub version: String,
    /// Tables by name.
    pub tables: Vec<Table>,
}

impl Schema {
    /// The table of this name, with or without its schema and quotes; in any case, where no other is exactly that.
    #[must_use]
    pub fn table(&self, name: &str) -> Option<&Table> {
        let name = name.trim().replace(['"', '`'], "");
        let own = name.get(.."retail.".len()).is_some_and(|schema| schema.eq_ignore_ascii_case("retail."));
        let name = if own { &name["retail.".len()..] } else { name.as_str() };
        let exact = self.tables.iter().find(|table| table.name == name);
        exact.or_else(|| self.tables.iter().find(|table| table.name.eq_ignore_ascii_case(name)))
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tables.iter().map(|table| table.name.as_str())
    }
}

/// The schemas of all databases, as far as they were asked for.
pub struct Schemas(Cache<String, Arc<Schema>>);

impl Default for Schemas {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(CACHE.0).time_to_live(CACHE.1).build())
    }
}

impl Schemas {
    /// The schema of the caller's database, read if it is not known.
    pub async fn of(&self, services: &Services, caller: &Caller) -> Result<Arc<Schema>, ToolError> {
        match self.0.get(&*caller.tenant.database) {
            Some(known) => Ok(known),
            None => self.read(services, caller).await,
        }
    }

    /// The schema read anew: after another version was seen.
    pub async fn read(&self, services: &Services, caller: &Caller) -> Result<Arc<Schema>, ToolError> {
        let document: Value = own::document(services, caller, "schema", &sql::schema()).await?;
        let schema: Schema = serde_json::from_value(document).map_err(|error| {
            tracing::error!(correlation_id = %caller.correlation, %error, "the schema cannot be read");
            ToolError::new(Code::Internal, "the schema of the database could not be read")
        })?;
        let schema = Arc::new(schema);
        self.0.insert(caller.tenant.database.to_string(), schema.clone());
        Ok(schema)
    }
}
