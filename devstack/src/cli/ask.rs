//! `ask`: one question through the gateway, the answer as a table.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{StackFile, token};
use crate::cli::output::{say, write};
use crate::mcp_client::{McpClient, Revision};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The sample principal who asks
    #[arg(long = "as", value_name = "PRINCIPAL")]
    principal: String,
    /// The question: one SELECT statement
    sql: String,
    /// Ask on the tenant's own endpoint, /TENANT/mcp
    #[arg(long)]
    tenant: Option<String>,
    /// Claims to add, replace or (null) remove, as a JSON object in a file
    #[arg(long, value_name = "FILE")]
    claims: Option<PathBuf>,
    /// The structured answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    stack: StackFile,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    let facts = options.stack.read()?;
    let bearer = token::issue(&facts, &options.principal, options.claims.as_deref(), None).await?;
    let path = options.tenant.as_ref().map_or_else(|| "/mcp".to_owned(), |tenant| format!("/{tenant}/mcp"));
    let url = format!("{}{path}", facts.gateway_url);
    let client = McpClient::new(reqwest::Client::new(), url, Some(bearer), Revision::V2026_07_28);
    let answer = client.call_tool("execute_sales_query", json!({"postgresql_query": options.sql})).await?;
    if answer.message["result"].is_null() {
        bail!("the gateway answered {}: {}", answer.status, answer.message);
    }
    let structured = answer.structured();
    if options.json {
        say!("{structured}");
    }
    if answer.is_tool_error() {
        let text = |key: &str| structured[key].as_str().unwrap_or_default().to_owned();
        bail!("{}: {}", text("code"), text("message"));
    }
    if !options.json {
        write(format_args!("{}", table(structured).context("the answer has no columns and rows")?));
    }
    Ok(())
}

/// Columns padded to their widest value, numbers to the right, and a line that counts the rows.
fn table(answer: &Value) -> Option<String> {
    let columns: Vec<&str> = answer["columns"].as_array()?.iter().map(|c| c["name"].as_str()).collect::<Option<_>>()?;
    let rows: Vec<Vec<String>> = answer["rows"]
        .as_array()?
        .iter()
        .map(|row| Some(row.as_array()?.iter().map(cell).collect()))
        .collect::<Option<_>>()?;
    let numeric = |i: usize| answer["rows"].as_array().is_some_and(|rows| rows.iter().all(|row| row[i].is_number()));
    let width = |i: usize| rows.iter().map(|row| row[i].chars().count()).chain([columns[i].chars().count()]).max();
    let widths: Vec<usize> = (0..columns.len()).map(|i| width(i).unwrap_or(0)).collect();
    let mut out = String::new();
    let mut line = |cells: &[String]| {
        let padded =
            cells.iter().zip(&widths).enumerate().map(|(i, (cell, width))| {
                if numeric(i) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            });
        out.push_str(padded.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    };
    line(&columns.iter().map(ToString::to_string).collect::<Vec<_>>());
    line(&widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>());
    rows.iter().for_each(|row| line(row));
    let cut = if answer["truncated"] == json!(true) { ", more were cut" } else { "" };
    let plural = if rows.len() == 1 { "" } else { "s" };
    out.push_str(&format!("({} row{plural}{cut})\n", rows.len()));
    Some(out)
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.replace('\n', " "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_and_count() {
        let answer = json!({
            "columns": [{"name": "store"}, {"name": "orders"}],
            "rows": [["Seattle", 1205], ["Redmond", 7]], "truncated": true,
        });
        let expected = "store    orders\n-------  ------\nSeattle    1205\nRedmond       7\n(2 rows, more were cut)\n";
        assert_eq!(table(&answer).unwrap(), expected);
    }

    #[test]
    fn an_empty_answer_keeps_its_column_names() {
        let answer = json!({"columns": [{"name": "a"}], "rows": [], "truncated": false});
        assert_eq!(table(&answer).unwrap(), "a\n-\n(0 rows)\n");
    }
}
