//! The views that callers name in place of tables.

use std::collections::BTreeSet;

use super::Report;
use crate::verify::{
    Relation, Severity,
    expected::{VIEWS, VIEWS_OF},
};

/// What a view should be.
pub(super) struct Expected {
    /// The table, `schema.name`.
    table: String,
    /// Its columns that the view has.
    columns: Vec<String>,
    /// Whether it must be a security barrier, and why.
    barrier: Option<String>,
    /// Whether the operator makes it anew by itself.
    protected: bool,
}

impl Report<'_> {
    /// What this relation should be if it is a view for callers.
    pub(super) fn expected_view(&self, relation: &Relation) -> Option<Expected> {
        let schema = relation.schema.strip_prefix(VIEWS_OF).filter(|_| relation.kind == "v")?;
        let name = relation.name.as_str();
        let table = self.snapshot.relations.iter().find(|table| table.schema == schema && table.name == name);
        let indexes = table.map(|table| table.approximate.join(", ")).unwrap_or_default();
        let approximate = (!indexes.is_empty()).then(|| format!("index {indexes} gives neighbours of all tenants"));
        let shipped = VIEWS.iter().find(|view| schema == "retail" && view.name == name);
        let protected = self.expectations.protected.iter().any(|table| table.schema == schema && table.table == name);
        let columns = match shipped {
            Some(view) => view.columns.split(", ").map(str::to_owned).collect(),
            None if protected => table?.columns.clone(),
            None => return None,
        };
        let vectors = shipped.filter(|view| view.barrier).map(|_| "it is over vectors".to_owned());
        Some(Expected { table: format!("{schema}.{name}"), columns, barrier: approximate.or(vectors), protected })
    }

    pub(super) fn view(&mut self, relation: &Relation, object: &str, expected: &Expected) {
        let qualified = format!("{}.{}", relation.schema, relation.name);
        let target = format!("TABLE {qualified}");
        self.owner(object, &relation.owner, "fence_reader", &format!("VIEW {qualified}"));
        self.acl(object, &relation.acl, &[("fence_runner", "SELECT")], &target);
        let barrier = relation.options.iter().any(|option| option == "security_barrier=true");
        if let Some(reason) = expected.barrier.as_ref().filter(|_| !barrier) {
            self.add(
                object,
                format!("no security barrier, and {reason}"),
                "a security barrier, which the order of an index does not pass",
                as_reader(&format!("ALTER VIEW {qualified} SET (security_barrier)")),
            );
        }
        for option in relation.options.iter().filter(|option| *option != "security_barrier=true") {
            let name = option.split('=').next().unwrap_or_default();
            let remedy = as_reader(&format!("ALTER VIEW {qualified} RESET ({name})"));
            self.add(object, format!("option {option}"), "no option but security_barrier", remedy);
        }
        let query = format!("SELECT {} FROM {}", expected.columns.join(", "), expected.table);
        let found = relation.definition.as_deref().unwrap_or_default();
        if squeezed(found) != squeezed(&query) {
            // A column more or less in the table opens nothing; another query may.
            let known = format!("SELECT {} FROM {}", relation.columns.join(", "), expected.table);
            let severity = if expected.protected && squeezed(found) == squeezed(&known) {
                Severity::Missing
            } else {
                Severity::Unsafe
            };
            let found = found.split_whitespace().collect::<Vec<_>>().join(" ");
            let remedy = create(&qualified, &query, expected.barrier.is_some());
            self.add_as(severity, object, found, query, remedy);
        }
    }

    /// Callers cannot read a table without its view.
    pub(super) fn missing_views(&mut self, present: &BTreeSet<(&str, &str)>) {
        for view in VIEWS.iter().filter(|view| !present.contains(&("views_retail", view.name))) {
            let qualified = format!("views_retail.{}", view.name);
            let query = format!("SELECT {} FROM retail.{}", view.columns, view.name);
            let remedy = create(&qualified, &query, view.barrier);
            self.add(format!("view {qualified}"), "no such view", "the view", remedy);
        }
        for table in &self.expectations.protected {
            let schema = format!("{VIEWS_OF}{}", table.schema);
            let table_known = present.contains(&(table.schema.as_str(), table.table.as_str()));
            if table_known && !present.contains(&(schema.as_str(), table.table.as_str())) {
                self.add_as(
                    Severity::Missing,
                    format!("view {schema}.{}", table.table),
                    "no such view",
                    "the view that callers name in place of the table",
                    table.statements().join("; "),
                );
            }
        }
    }
}

fn create(view: &str, query: &str, barrier: bool) -> String {
    let barrier = if barrier { " WITH (security_barrier)" } else { "" };
    as_reader(&format!(
        "DROP VIEW IF EXISTS {view}; CREATE VIEW {view}{barrier} AS {query}; GRANT SELECT ON {view} TO fence_runner"
    ))
}

fn as_reader(statements: &str) -> String {
    format!("SET ROLE fence_reader; {statements}; RESET ROLE")
}

/// Without white space, and without the semicolon that PostgreSQL prints behind a view's query.
fn squeezed(query: &str) -> String {
    query.chars().filter(|character| !character.is_whitespace() && *character != ';').collect()
}
