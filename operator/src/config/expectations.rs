//! What a database's entry says about its fence: protected tables, the hardening level, and further roles.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::verify::{Expectations, Level, ProtectedTable};

/// One of `protectedTables`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProtectedTableEntry {
    table: String,
    store_column: Option<String>,
    tenant_column: Option<String>,
}

/// What the user writes in the database's entry.
#[derive(Debug, Default)]
pub struct FenceEntry {
    pub protected_tables: Vec<ProtectedTableEntry>,
    pub hardening: Option<String>,
    pub loaders: Vec<String>,
    pub administrators: Vec<String>,
    pub bypass_rls: Vec<String>,
}

impl FenceEntry {
    /// Checks the values.
    ///
    /// # Errors
    /// The field, relative to the database's entry, and what is wrong with it.
    pub fn check(self) -> Result<Expectations, (String, String)> {
        let Self { protected_tables, hardening, loaders, administrators, bypass_rls } = self;
        let level = match hardening.as_deref() {
            None | Some("standard") => Level::Standard,
            Some("strict") => Level::Strict,
            Some(other) => return Err(("hardening".to_owned(), format!("'{other}' is neither standard nor strict"))),
        };
        let mut protected: Vec<ProtectedTable> = Vec::new();
        for (i, entry) in protected_tables.into_iter().enumerate() {
            let at = format!("protectedTables[{i}]");
            let table = entry.check().map_err(|(field, problem)| (format!("{at}{field}"), problem))?;
            if protected.iter().any(|known| known.qualified() == table.qualified()) {
                return Err((format!("{at}.table"), format!("'{}' stands twice", table.qualified())));
            }
            protected.push(table);
        }
        Ok(Expectations {
            administrators: roles("administrators", administrators)?,
            loaders: roles("loaders", loaders)?,
            bypass_rls: roles("bypassRls", bypass_rls)?,
            protected,
            level,
        })
    }
}

impl ProtectedTableEntry {
    fn check(self) -> Result<ProtectedTable, (&'static str, String)> {
        let Self { table, store_column, tenant_column } = self;
        let (kind, field, column) = match (store_column, tenant_column) {
            (Some(column), None) => ("store", ".storeColumn", column),
            (None, Some(column)) => ("tenant", ".tenantColumn", column),
            _ => return Err(("", "exactly one of storeColumn and tenantColumn is expected".to_owned())),
        };
        let plain = "a lower-case name of letters, digits and _ is expected";
        // Each part is parsed with a valid other part, so that the error names the right field.
        let try_table: Result<ProtectedTable, _> = format!("{table}:{kind}=store_id").parse();
        if try_table.is_err() {
            let problem = format!(
                "'{table}' cannot be protected: schema.table in lower-case letters, digits and _ is expected, and none of the fence's own"
            );
            return Err((".table", problem));
        }
        format!("{table}:{kind}={column}").parse().map_err(|_| (field, format!("'{column}': {plain}")))
    }
}

fn roles(field: &str, names: Vec<String>) -> Result<BTreeSet<String>, (String, String)> {
    match names.iter().position(|name| name.is_empty()) {
        Some(i) => Err((format!("{field}[{i}]"), "the name of a role is expected".to_owned())),
        None => Ok(names.into_iter().collect()),
    }
}
