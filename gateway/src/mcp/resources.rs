//! Resources: the schema as this caller sees it, one table of it, and the data dictionary.

use std::fmt::Write as _;

use rmcp::{
    ErrorData,
    model::{ReadResourceResult, Resource, ResourceContents, ResourceTemplate},
};
use storefence_tenancy::{resource::ToolName, rules::ToolSet};

use crate::{
    caller::Caller,
    tools::{Code, Services, ToolError, table_schemas},
};

const SCHEMA: &str = "storefence://schema";
const DICTIONARY: &str = "storefence://data-dictionary";
const TABLE: &str = "storefence://schema/";
/// The template of one table.
pub const TABLE_TEMPLATE: &str = "storefence://schema/{table}";

/// Whether a caller with these tools has resources: all of them show what the schema tool shows.
#[must_use]
pub fn granted(tools: &ToolSet) -> bool {
    tools.contains(ToolName::GetMultipleTableSchemas.as_str())
}

/// The fixed resources.
#[must_use]
pub fn list(tools: &ToolSet) -> Vec<Resource> {
    if !granted(tools) {
        return Vec::new();
    }
    vec![
        Resource::new(DICTIONARY, "data-dictionary")
            .with_title("Data dictionary")
            .with_description("What each table and column means")
            .with_mime_type("text/markdown"),
        Resource::new(SCHEMA, "schema")
            .with_title("Schema")
            .with_description(
                "All tables with keys and relationships, and the valid values in the rows that you can see",
            )
            .with_mime_type("application/json"),
    ]
}

/// The resource with a parameter.
#[must_use]
pub fn templates(tools: &ToolSet) -> Vec<ResourceTemplate> {
    if !granted(tools) {
        return Vec::new();
    }
    vec![
        ResourceTemplate::new(TABLE_TEMPLATE, "table")
            .with_title("One table")
            .with_description("One table of the schema, for example storefence://schema/orders")
            .with_mime_type("application/json"),
    ]
}

/// The resource's own name, or the label for an unknown one.
#[must_use]
pub fn known(uri: &str) -> &'static str {
    match uri {
        DICTIONARY => DICTIONARY,
        SCHEMA => SCHEMA,
        other if other.starts_with(TABLE) => TABLE_TEMPLATE,
        _ => "unknown",
    }
}

/// Reads a resource.
///
/// # Errors
/// Not found, also for every resource if the caller lacks the schema tool; or the failure of the database.
pub async fn read(uri: &str, services: &Services, caller: &Caller) -> Result<ReadResourceResult, ErrorData> {
    if !granted(caller.scope.tools()) {
        return Err(not_found(uri));
    }
    let schemas = services.tools.schemas();
    let (text, kind) = match uri {
        DICTIONARY => (dictionary(services, caller).await.map_err(|error| refused(uri, &error))?, "text/markdown"),
        SCHEMA => {
            let described = table_schemas::described(schemas, services, caller, None).await;
            (described.map_err(|error| refused(uri, &error))?.structured, "application/json")
        }
        other => {
            let table = other.strip_prefix(TABLE).ok_or_else(|| not_found(uri))?;
            let described = table_schemas::described(schemas, services, caller, Some(&[table.to_owned()])).await;
            (described.map_err(|error| refused(uri, &error))?.structured, "application/json")
        }
    };
    Ok(ReadResourceResult::new(vec![ResourceContents::text(text, uri).with_mime_type(kind)]))
}

fn not_found(uri: &str) -> ErrorData {
    let uri: String = uri.chars().take(200).collect();
    ErrorData::resource_not_found("Resource not found", Some(serde_json::json!({"uri": uri})))
}

fn refused(uri: &str, error: &ToolError) -> ErrorData {
    match error.code {
        Code::Validation => not_found(uri),
        _ => ErrorData::internal_error(error.message.clone(), Some(error.structured())),
    }
}

/// The comments on tables and columns.
async fn dictionary(services: &Services, caller: &Caller) -> Result<String, ToolError> {
    let schema = services.tools.schemas().of(services, caller).await?;
    let mut out = String::from("# Data dictionary\n");
    for table in &schema.tables {
        let _ = write!(out, "\n## retail.{}\n\n{}\n\n", table.name, table.comment.as_deref().unwrap_or_default());
        for column in &table.columns {
            let comment = column.comment.as_deref().unwrap_or_default();
            let _ = writeln!(out, "* `{}` ({}): {comment}", column.name, column.kind);
        }
    }
    Ok(out)
}
