//! Further tables of the chain's own behind the fence's policies.

use std::{fmt, str::FromStr};

use sqlx::{AssertSqlSafe, Connection, SqlSafeStr, postgres::PgConnection};

use super::{
    Deviation,
    expected::{ROLES, STORE_TABLES, TENANT_TABLES, VIEWS_OF, store_condition, tenant_condition},
};

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
    pub schema: String,
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
            let ours = ["fence", "pg_catalog", "information_schema"].contains(&schema)
                || schema.starts_with(VIEWS_OF)
                || (schema == "retail" && is_shipped(table));
            // the schema of its view has the longer name
            let fits = VIEWS_OF.len() + schema.len() <= 63;
            (fits && plain(schema) && plain(table) && plain(column) && !ours).then(|| Self {
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
    #[must_use]
    pub fn statements(&self) -> Vec<String> {
        let mut statements = vec![self.schema_grant()];
        statements.extend(self.table_statements());
        statements.extend(self.view_statements(false));
        statements
    }

    /// `views_schema.table`: what callers name in place of the table.
    fn view(&self) -> String {
        format!("{VIEWS_OF}{}.{}", self.schema, self.table)
    }

    /// What makes the view, of all columns that the table has by then. A barrier, where an index gives some of the rows in place
    /// of all: which ones would depend on the hidden ones.
    fn view_statements(&self, barrier: bool) -> [String; 6] {
        let (view, table, schema) = (self.view(), self.qualified(), &self.schema);
        let barrier = if barrier { " WITH (security_barrier)" } else { "" };
        [
            format!("CREATE SCHEMA IF NOT EXISTS {VIEWS_OF}{schema} AUTHORIZATION fence_reader"),
            "SET ROLE fence_reader".to_owned(),
            format!("GRANT USAGE ON SCHEMA {VIEWS_OF}{schema} TO fence_login, fence_runner"),
            format!(
                "DROP VIEW IF EXISTS {view}; CREATE VIEW {view}{barrier} AS SELECT * FROM {table}; \
                 REVOKE ALL ON {view} FROM PUBLIC; GRANT SELECT ON {view} TO fence_runner"
            ),
            format!("COMMENT ON VIEW {view} IS 'What callers see of table {table}.'"),
            "RESET ROLE".to_owned(),
        ]
    }

    /// Whether a deviation is about this table.
    #[must_use]
    pub fn concerns(&self, deviation: &Deviation) -> bool {
        let object = deviation.object.as_str();
        let qualified = self.qualified();
        object.strip_prefix("protected table ").is_some_and(|named| named == self.to_string())
            || object.strip_prefix("table ").is_some_and(|named| named == qualified)
            || object.strip_prefix("view ").is_some_and(|named| named == self.view())
            || object
                .strip_prefix("policy ")
                .and_then(|rest| rest.split_once(" on "))
                .is_some_and(|(_, on)| on == qualified)
    }

    /// `schema.table`.
    #[must_use]
    pub fn qualified(&self) -> String {
        format!("{}.{}", self.schema, self.table)
    }

    fn schema_grant(&self) -> String {
        format!("GRANT USAGE ON SCHEMA {} TO fence_reader", self.schema)
    }

    fn table_statements(&self) -> [String; 5] {
        let table = self.qualified();
        [
            format!("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"),
            format!("DROP POLICY IF EXISTS fence_read ON {table}"),
            format!("CREATE POLICY fence_read ON {table} FOR SELECT TO fence_reader USING {}", self.condition()),
            format!("REVOKE ALL ON TABLE {table} FROM PUBLIC, fence_reader, fence_runner, fence_login, fence_owner"),
            format!("GRANT SELECT ON TABLE {table} TO fence_reader"),
        ]
    }
}

/// Why a table cannot be put behind the fence.
#[derive(Debug, thiserror::Error)]
pub enum ProtectError {
    /// No such table.
    #[error("protected table {table}: there is no such table; create it, or take it off protectedTables")]
    Missing {
        /// `schema.table`.
        table: String,
    },
    /// A view, a foreign table, …
    #[error("protected table {table}: it is not a table; views and foreign tables cannot carry the policy")]
    NotATable {
        /// `schema.table`.
        table: String,
    },
    /// The column is missing or of another type.
    #[error("protected table {table}: column {column} is {found}, {expected} is expected")]
    Column {
        /// `schema.table`.
        table: String,
        column: String,
        /// Its type, or `missing`.
        found: String,
        /// The types that compare with the fence's.
        expected: &'static str,
    },
    /// The administrator has not the owner's rights.
    #[error(
        "protected table {table}: role {role} may not change it, it belongs to {owner}; GRANT {owner} TO {role}, or ALTER TABLE {table} OWNER TO {role}"
    )]
    NotOwner {
        /// `schema.table`.
        table: String,
        owner: String,
        /// The administrator.
        role: String,
    },
    /// The administrator may not let the readers into the schema.
    #[error(
        "protected table {table}: role {role} may not grant USAGE on schema {schema}; its owner {owner} does it: GRANT USAGE ON SCHEMA {schema} TO fence_reader"
    )]
    NotSchemaOwner {
        /// `schema.table`.
        table: String,
        schema: String,
        owner: String,
        /// The administrator.
        role: String,
    },
    /// Opening the schema would open another relation in it too.
    #[error(
        "protected table {table}: with USAGE on its schema the tenants could read {neighbour} too, without a policy; REVOKE ALL ON {neighbour} FROM PUBLIC, fence_reader, or protect it too"
    )]
    Neighbour {
        /// `schema.table`.
        table: String,
        /// The other relation.
        neighbour: String,
    },
    /// Policies are joined by OR: another one that binds the readers would let every tenant read what it lets through.
    #[error(
        "protected table {table}: policy {policy} is for {roles} as well, so that the tenants would read what it lets through; ALTER POLICY {policy} ON {table} TO the roles of the chain's own jobs"
    )]
    OtherPolicy {
        /// `schema.table`.
        table: String,
        /// The policy, quoted where it needs it.
        policy: String,
        /// `PUBLIC`, or roles of the fence.
        roles: String,
    },
    /// Any other error, a lock that was not to be had in time among them.
    #[error("protected table {table}: {source}")]
    Database {
        /// `schema.table`.
        table: String,
        /// The driver's message.
        source: sqlx::Error,
    },
}

/// The table and its column as the catalogs have them, in the order of [`FIND`]'s columns.
type Found = (String, String, String, bool, Option<String>, String, bool, bool);

const FIND: &str = "SELECT current_user::text AS role, c.relkind::text AS kind, pg_get_userbyid(c.relowner)::text AS owner, \
           pg_has_role(c.relowner, 'USAGE') AS owns, format_type(a.atttypid, NULL) AS column_type, \
           pg_get_userbyid(n.nspowner)::text AS schema_owner, has_schema_privilege(n.oid, 'USAGE WITH GRANT OPTION') AS may_grant, \
           has_schema_privilege('fence_reader', n.oid, 'USAGE') AS reader_enters \
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
      LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = $3 AND a.attnum > 0 AND NOT a.attisdropped \
     WHERE n.nspname = $1 AND c.relname = $2";

/// Relations of the schema that the readers could read without our policy.
const NEIGHBOUR: &str = "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND has_any_column_privilege('fence_reader', c.oid, 'SELECT') \
       AND NOT (c.relrowsecurity AND EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'fence_read')) \
     ORDER BY 1 LIMIT 1";

/// Policies of the table beside ours that are for everybody, for a role of the fence or for a tenant's login. Not only
/// those that let somebody read: whatever is for one of these is reported, and dropped, once the table is open.
const OTHER_POLICY: &str = "SELECT quote_ident(p.polname), string_agg(coalesce(r.rolname::text, 'PUBLIC'), ', ' ORDER BY r.rolname) \
      FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace, \
           unnest(p.polroles) AS o(role) LEFT JOIN pg_roles r ON r.oid = o.role \
     WHERE n.nspname = $1 AND c.relname = $2 AND p.polname <> 'fence_read' \
       AND (o.role = 0 OR r.rolname = ANY ($3) OR r.rolname IN (SELECT login FROM fence.logins)) \
     GROUP BY p.polname ORDER BY p.polname LIMIT 1";

/// Whether an index of the table is by an access method that PostgreSQL does not ship, as HNSW and IVFFlat.
const APPROXIMATE: &str = "SELECT EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
      JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam \
     WHERE n.nspname = $1 AND c.relname = $2 AND m.amname NOT IN ('btree', 'hash', 'gist', 'gin', 'spgist', 'brin'))";

/// Puts a table behind the fence in one transaction. The role must have the rights of the table's owner.
///
/// The table's owner no longer sees its rows unless a policy lets it (FORCE): the chain adds one for its own jobs.
///
/// # Errors
/// [`ProtectError`] names the table and what helps; the table is as before.
pub async fn protect(connection: &mut PgConnection, table: &ProtectedTable) -> Result<(), ProtectError> {
    let database = |source| ProtectError::Database { table: table.qualified(), source };
    let (column, types, expected) = match &table.belongs {
        Belongs::Store(column) => (column, &["uuid"][..], "uuid"),
        Belongs::Tenant(column) => (column, &["integer", "bigint", "smallint"][..], "integer"),
    };
    let find = sqlx::query_as::<_, Found>(FIND).bind(&table.schema).bind(&table.table).bind(column);
    let found = find.fetch_optional(&mut *connection).await.map_err(database)?;
    let name = table.qualified();
    let Some(found) = found else { return Err(ProtectError::Missing { table: name }) };
    let (role, kind, owner, owns, column_type, schema_owner, may_grant, reader_enters) = found;
    if !["r", "p"].contains(&kind.as_str()) {
        return Err(ProtectError::NotATable { table: name });
    }
    let column_type = column_type.unwrap_or_else(|| "missing".to_owned());
    if !types.contains(&column_type.as_str()) {
        return Err(ProtectError::Column { table: name, column: column.clone(), found: column_type, expected });
    }
    if !owns {
        return Err(ProtectError::NotOwner { table: name, owner, role });
    }
    if !reader_enters && !may_grant {
        return Err(ProtectError::NotSchemaOwner {
            table: name,
            schema: table.schema.clone(),
            owner: schema_owner,
            role,
        });
    }
    let mut transaction = connection.begin().await.map_err(database)?;
    // Waiting for the exclusive lock keeps everybody else off the table, so not for long.
    let mut statements = vec!["SET LOCAL lock_timeout = '1s'".to_owned()];
    if !reader_enters {
        statements.push(table.schema_grant());
    }
    statements.extend(table.table_statements());
    let approximate = sqlx::query_scalar::<_, bool>(APPROXIMATE).bind(&table.schema).bind(&table.table);
    let approximate = approximate.fetch_one(&mut *transaction).await.map_err(database)?;
    statements.extend(table.view_statements(approximate));
    for statement in statements {
        let run = sqlx::raw_sql(AssertSqlSafe(statement).into_sql_str()).execute(&mut *transaction);
        run.await.map_err(database)?;
    }
    // Under the exclusive lock: none can be added before the readers have their right.
    let other = sqlx::query_as::<_, (String, String)>(OTHER_POLICY).bind(&table.schema).bind(&table.table);
    let other = other.bind(&ROLES[..]).fetch_optional(&mut *transaction).await.map_err(database)?;
    if let Some((policy, roles)) = other {
        return Err(ProtectError::OtherPolicy { table: name, policy, roles });
    }
    if !reader_enters {
        let neighbour = sqlx::query_scalar::<_, String>(NEIGHBOUR).bind(&table.schema);
        if let Some(neighbour) = neighbour.fetch_optional(&mut *transaction).await.map_err(database)? {
            return Err(ProtectError::Neighbour { table: name, neighbour });
        }
    }
    transaction.commit().await.map_err(database)
}

/// Tables that carry our policy, let the readers in by name, and are changeable by the role that asks.
const OPENED: &str = "SELECT n.nspname::text, c.relname::text \
      FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE p.polname = 'fence_read' AND n.nspname <> 'fence' AND pg_has_role(c.relowner, 'USAGE') \
       AND EXISTS (SELECT FROM aclexplode(c.relacl) a JOIN pg_roles r ON r.oid = a.grantee WHERE r.rolname = 'fence_reader') \
     ORDER BY 1, 2";

/// Takes the readers' rights from tables that [`protect`] once opened and that are listed no longer; returns their
/// names. The policy and FORCE stay: the chain's own jobs go on as before.
///
/// # Errors
/// What the server answers; tables before that one are done.
pub async fn withdraw(connection: &mut PgConnection, listed: &[ProtectedTable]) -> Result<Vec<String>, sqlx::Error> {
    let opened: Vec<(String, String)> = sqlx::query_as(OPENED).fetch_all(&mut *connection).await?;
    let mut withdrawn = Vec::new();
    for (schema, table) in opened {
        let ours = schema == "retail" && is_shipped(&table);
        if ours || listed.iter().any(|known| known.schema == schema && known.table == table) {
            continue;
        }
        let quoted = |name: &str| name.replace('"', "\"\"");
        let name = format!("\"{}\".\"{}\"", quoted(&schema), quoted(&table));
        let view = format!("\"{VIEWS_OF}{}\".\"{}\"", quoted(&schema), quoted(&table));
        let revoke = format!(
            "REVOKE ALL ON TABLE {name} FROM fence_reader; SET ROLE fence_reader; DROP VIEW IF EXISTS {view}; RESET ROLE"
        );
        sqlx::raw_sql(AssertSqlSafe(revoke).into_sql_str()).execute(&mut *connection).await?;
        withdrawn.push(format!("{schema}.{table}"));
    }
    Ok(withdrawn)
}

/// Whether the migrations make a table of that name in `retail`.
fn is_shipped(table: &str) -> bool {
    STORE_TABLES.iter().map(|(name, _)| name).chain(&TENANT_TABLES).any(|name| *name == table)
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
            "retail.orders:store=store_id",
            "a.b:store=1c",
            "a.:store=c",
        ] {
            assert!(text.parse::<ProtectedTable>().is_err(), "{text}");
        }
    }
}
