//! The valid names nearest to one that does not exist.

use super::{Schema, Table};
use crate::gate::lexer::{Kind, tokens};

/// How many names are suggested at most.
const MOST: usize = 3;

/// Valid names for the column or table that PostgreSQL's message names. Tables that the statement uses come first.
#[must_use]
pub fn suggestions(schema: &Schema, sql: &str, message: &str) -> Vec<String> {
    if let Some(name) = between(message, "relation ") {
        return tables(schema, &name);
    }
    if let Some(name) = message.strip_prefix("missing FROM-clause entry for table ") {
        return tables(schema, &name.replace('"', "").to_lowercase());
    }
    let Some(name) = between(message, "column ") else { return Vec::new() };
    let name = name.rsplit('.').next().unwrap_or(&name).to_owned();
    let used = used(schema, sql);
    let near = |tables: &[&Table]| {
        let columns = tables.iter().flat_map(|table| table.columns.iter().map(|column| (*table, column.name.as_str())));
        let mut near: Vec<_> = columns
            .filter_map(|(table, column)| Some((distance(&name, column)?, format!("{}.{column}", table.name))))
            .collect();
        near.sort();
        near.into_iter().map(|(_, name)| name).take(MOST).collect::<Vec<_>>()
    };
    let within = near(&used);
    if within.is_empty() { near(&schema.tables.iter().collect::<Vec<_>>()) } else { within }
}

/// Names of tables near one that does not exist.
#[must_use]
pub fn tables(schema: &Schema, name: &str) -> Vec<String> {
    let name = name.rsplit('.').next().unwrap_or(name);
    let mut near: Vec<_> =
        schema.names().filter_map(|table| Some((distance(name, table)?, format!("retail.{table}")))).collect();
    near.sort();
    near.into_iter().map(|(_, name)| name).take(MOST).collect()
}

/// The name in `column o.x does not exist`, `relation "x" does not exist`.
fn between(message: &str, kind: &str) -> Option<String> {
    let rest = message.strip_prefix(kind)?;
    let name = rest.split(" does not exist").next()?.split(" of relation").next()?;
    Some(name.replace('"', "").to_lowercase())
}

/// The tables that the statement names.
fn used<'a>(schema: &'a Schema, sql: &str) -> Vec<&'a Table> {
    let tokens = tokens(sql).unwrap_or_default();
    let words = tokens.iter().filter(|token| matches!(token.kind, Kind::Word | Kind::Quoted));
    let words: Vec<_> = words.map(|token| sql[token.start..token.end].trim_matches('"').to_lowercase()).collect();
    schema.tables.iter().filter(|table| words.contains(&table.name)).collect()
}

/// How far apart two names are, where one may be meant by the other: edits, or as many as the parts that one has and the other
/// lacks (`revenue` is not near `total_amount`, `date` is near `order_date`).
fn distance(wrong: &str, valid: &str) -> Option<usize> {
    let wrong = wrong.to_lowercase();
    let shorter = wrong.len().min(valid.len());
    let edits = edits(&wrong, valid);
    if edits <= (wrong.chars().count() / 3).max(1) {
        return Some(edits);
    }
    let part =
        shorter >= 3 && (valid.split('_').any(|word| word == wrong) || wrong.split('_').any(|word| word == valid));
    let contained = shorter >= 4 && (valid.contains(&wrong) || wrong.contains(valid));
    (part || contained).then_some(edits.max(2))
}

/// Levenshtein's distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let cost = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Schema, edits, suggestions};

    fn schema() -> Schema {
        let table = |name: &str, columns: &[&str]| {
            let column = |name: &&str| json!({"name": name, "type": "text", "nullable": false, "default": null, "comment": null});
            let columns: Vec<Value> = columns.iter().map(column).collect();
            json!({"name": name, "comment": null, "columns": columns, "keys": [], "relationships": []})
        };
        serde_json::from_value(json!({"version": "1", "tables": [
            table("customers", &["customer_id", "created_at"]),
            table("order_items", &["order_id", "total_amount"]),
            table("orders", &["order_id", "order_date", "customer_id"]),
        ]}))
        .expect("a schema")
    }

    #[test]
    fn near_names_of_the_tables_in_use() {
        let ask = |sql: &str, message: &str| suggestions(&schema(), sql, message);
        let column = ask("SELECT order_dat FROM retail.orders", "column \"order_dat\" does not exist");
        assert_eq!(column.first().map(String::as_str), Some("orders.order_date"));
        let qualified = ask("SELECT o.date FROM orders o", "column o.date does not exist");
        assert_eq!(qualified, ["orders.order_date"]);
        let elsewhere = ask("SELECT total_amount FROM orders", "column \"total_amount\" does not exist");
        assert_eq!(elsewhere, ["order_items.total_amount"], "no table in use has a near one");
        let table = ask("SELECT 1 FROM retail.order", "relation \"retail.order\" does not exist");
        assert_eq!(table, ["retail.orders", "retail.order_items"]);
        let from =
            ask("SELECT order_items.total_amount FROM orders", "missing FROM-clause entry for table \"order_items\"");
        assert_eq!(from.first().map(String::as_str), Some("retail.order_items"));
        assert!(ask("SELECT zzz FROM orders", "column \"zzz\" does not exist").is_empty());
        assert!(ask("SELECT 1", "division by zero").is_empty());
    }

    #[test]
    fn edit_distance() {
        for (a, b, n) in [("", "abc", 3), ("abc", "abc", 0), ("abc", "abd", 1), ("kitten", "sitting", 3)] {
            assert_eq!((edits(a, b), edits(b, a)), (n, n));
        }
    }
}
