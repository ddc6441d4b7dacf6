//! Further tables of the chain's own behind the fence's policies.

use std::{fmt, str::FromStr};

use sqlx::{AssertSqlSafe, Connection, SqlSafeStr, postgres::PgConnection};

use super::expected::{store_condition, tenant_condition};

/// Whom a row of a protected table belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Belongs {
    /// To the store in this column (uuid).
    Store(String),
    /// To the tenant in this column (integer, as `retail.tenants.tenant_key`).
    Tenant(String),
}

/// A table that the fence protects although the migrations did not make it: `schema.table:store=column` or
/// `schema.table:tenant=column`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtectedTable {
    /// Schema.
    pub schema: String,
    /// Table.
    pub table: String,
    /// Whom its rows belong to.
    pub belongs: Belongs,
}

/// Not the description of a protected table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not of the form schema.table:store=column or schema.table:tenant=column (lower-case names of letters, digits and _)"
)]
pub struct InvalidProtectedTable(String);

impl FromStr for ProtectedTable {
    type Err = InvalidProtectedTable;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (relation, column) = text.split_once(':')?;
            let (schema, table) = relation.split_once('.')?;
            let (kind, column) = column.split_once('=')?;
            let belongs = match kind {
                "store" => Belongs::Store(column.to_owned()),
                "tenant" => Belongs::Tenant(column.to_owned()),
                _ => return None,
            };
            // names that need no quoting: they go into statements and into the comparison of policies
            let plain = |name: &str| {
                name.len() <= 63
                    && name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
                    && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            };
            let ours = ["fence", "pg_catalog", "information_schema"].contains(&schema);
            (plain(schema) && plain(table) && plain(column) && !ours).then(|| Self {
                schema: schema.to_owned(),
                table: table.to_owned(),
                belongs,
            })
        };
        parse().ok_or_else(|| InvalidProtectedTable(text.to_owned()))
    }
}

impl fmt::Display for ProtectedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, column) = match &self.belongs {
            Belongs::Store(column) => ("store", column),
            Belongs::Tenant(column) => ("tenant", column),
        };
        write!(f, "{}.{}:{kind}={column}", self.schema, self.table)
    }
}

impl ProtectedTable {
    /// The policy's condition, as PostgreSQL prints it.
    pub(super) fn condition(&self) -> String {
        match &self.belongs {
            Belongs::Store(column) => store_condition(column),
            Belongs::Tenant(column) => tenant_condition(column),
        }
    }

    /// What puts the table behind the fence; may be run again.
    pub fn statements(&self) -> Vec<String> {
        let table = format!("{}.{}", self.schema, self.table);
        vec![
            format!("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"),
            format!("DROP POLICY IF EXISTS fence_read ON {table}"),
            format!("CREATE POLICY fence_read ON {table} FOR SELECT TO fence_reader USING {}", self.condition()),
            format!("GRANT USAGE ON SCHEMA {} TO fence_reader, fence_login", self.schema),
            format!("REVOKE ALL ON TABLE {table} FROM PUBLIC, fence_reader, fence_login, fence_owner"),
            format!("GRANT SELECT ON TABLE {table} TO fence_reader"),
        ]
    }
}

/// Puts a table behind the fence in one transaction. The role must own the table, or be superuser.
///
/// The table's owner no longer sees its rows unless a policy lets it (FORCE): the chain adds one for its own jobs.
pub async fn protect(connection: &mut PgConnection, table: &ProtectedTable) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    for statement in table.statements() {
        sqlx::raw_sql(AssertSqlSafe(statement).into_sql_str()).execute(&mut *transaction).await?;
    }
    transaction.commit().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for text in ["loyalty.points:store=store_id", "crm.segments:tenant=chain"] {
            assert_eq!(text.parse::<ProtectedTable>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_names_that_need_quoting_and_its_own_schemas() {
        for text in [
            "points:store=s",
            "a.b",
            "a.b:row=c",
            "A.b:store=c",
            "a.b:store=c; drop",
            "fence.keys:store=c",
            "a.b:store=1c",
            "a.:store=c",
        ] {
            assert!(text.parse::<ProtectedTable>().is_err(), "{text}");
        }
    }
}
