//! What the catalogs say, as plain values.

use serde::Deserialize;

/// One entry of an access control list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Acl {
    /// Role, or `PUBLIC`.
    pub grantee: String,
    /// `SELECT`, `USAGE`, …
    pub privilege: String,
    /// Whether the role may pass it on.
    pub grantable: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Schema {
    pub name: String,
    pub owner: String,
    /// Privileges.
    pub acl: Vec<Acl>,
}

/// A table, view or sequence of schema `retail` or `fence`, or a protected table elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Relation {
    pub schema: String,
    pub name: String,
    /// `pg_class.relkind`.
    pub kind: String,
    pub owner: String,
    /// Row-level security enabled.
    pub rls: bool,
    /// Row-level security forced.
    pub force: bool,
    /// Privileges of the whole relation.
    pub acl: Vec<Acl>,
    /// Privileges of single columns; the privilege reads `SELECT (email)`.
    pub column_acl: Vec<Acl>,
    /// Triggers that are not PostgreSQL's own, and rewrite rules.
    pub hooks: Vec<String>,
    /// Columns in order, quoted where SQL needs it.
    pub columns: Vec<String>,
    /// Options, `name=value`: of a view `security_barrier`, `security_invoker`.
    pub options: Vec<String>,
    /// Of a view: its query, as PostgreSQL prints it.
    pub definition: Option<String>,
    /// Indexes that give some of the rows in place of all (HNSW, IVFFlat): by an access method that PostgreSQL does not ship.
    pub approximate: Vec<String>,
}

/// A row-level security policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Policy {
    /// `schema.table`.
    pub table: String,
    pub name: String,
    /// Permissive, not restrictive.
    pub permissive: bool,
    /// `pg_policy.polcmd`: `r` SELECT, `*` ALL, …
    pub command: String,
    /// Roles, sorted; `PUBLIC` for all.
    pub roles: Vec<String>,
    /// `USING`, as PostgreSQL prints it.
    pub using: Option<String>,
    /// `WITH CHECK`, as PostgreSQL prints it.
    pub check: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Function {
    pub schema: String,
    pub name: String,
    /// Argument types, as PostgreSQL prints them.
    pub arguments: String,
    pub owner: String,
    pub language: String,
    /// SECURITY DEFINER.
    pub definer: bool,
    /// `pg_proc.provolatile`.
    pub volatility: String,
    /// `pg_proc.proparallel`.
    pub parallel: String,
    /// Result type, as PostgreSQL prints it.
    pub result: String,
    /// What none of ours has: `STRICT`, `LEAKPROOF`, a kind other than an ordinary function, a support function, defaults of
    /// arguments.
    pub attributes: Vec<String>,
    /// Settings fixed for the function, `name=value`.
    pub settings: Vec<String>,
    /// SHA-256 of the body, hexadecimal.
    pub body: String,
    /// Privileges.
    pub acl: Vec<Acl>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Role {
    pub name: String,
    /// Attributes that it has: `SUPERUSER`, `BYPASSRLS`, `CREATEROLE`, `CREATEDB`, `REPLICATION`, `LOGIN`, `INHERIT`.
    pub attributes: Vec<String>,
}

/// A role's membership in another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Membership {
    /// The group.
    pub role: String,
    pub member: String,
    /// The member may grant it.
    pub admin: bool,
    /// The member has its privileges.
    pub inherit: bool,
    /// The member may become it.
    pub set: bool,
    /// Who granted it; the same membership may have been granted by several.
    #[serde(default)]
    pub grantors: Vec<String>,
}

/// A row of `fence.logins` and what hangs on that role.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Login {
    /// The role.
    pub login: String,
    /// Objects that the role owns, has privileges on of its own, or is named by in a policy; in any database of the cluster.
    pub dependencies: i64,
}

/// A setting kept for a role, for the database, or for both.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Setting {
    /// The role; none: every role.
    pub role: Option<String>,
    /// `name=value`.
    pub setting: String,
}

/// Something outside of the fence's own schemas by which it leaks.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Stray {
    /// What kind of thing it is.
    pub kind: String,
    /// The object, as PostgreSQL names it.
    pub object: String,
    /// What the catalogs say.
    pub found: String,
    /// The statement that undoes it.
    pub remedy: String,
}

/// Everything that [`mod@super::compare`] looks at.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Snapshot {
    pub database: String,
    /// The role that looked.
    pub observer: String,
    /// Privileges of the database.
    pub database_acl: Vec<Acl>,
    /// The schema that pgvector lives in.
    pub vector_schema: String,
    /// Schemas `retail`, `fence`, `public`, pgvector's, and those of the callers' views.
    pub schemas: Vec<Schema>,
    /// Relations of `retail`, `fence` and the views' schemas, and those anywhere that `fence_reader` or `fence_runner` holds a
    /// privilege on.
    pub relations: Vec<Relation>,
    /// Policies on these.
    pub policies: Vec<Policy>,
    /// Functions of `retail`, `fence` and the views' schemas, and those elsewhere that are SECURITY DEFINER and executable by
    /// `fence_reader` or `fence_runner`.
    pub functions: Vec<Function>,
    /// Default privileges, as `role: schema.kind: grantee=privilege`, those of our roles and those that name one of them.
    pub default_acl: Vec<String>,
    /// Our roles, the tenants' logins, and every role that ignores row-level security.
    pub roles: Vec<Role>,
    /// Memberships in our roles and of our roles and logins.
    pub memberships: Vec<Membership>,
    /// `fence.logins`.
    pub logins: Vec<Login>,
    /// Settings of the database and of the logins.
    pub settings: Vec<Setting>,
    /// Built-in functions that [`super::STRICT`] revokes and that PUBLIC may execute, with their argument types.
    pub open_builtins: Vec<String>,
    /// Extensions and untrusted languages by which SQL leaves the fence.
    pub extensions: Vec<String>,
    /// What was changed in `pg_catalog`, in extensions, of roles and parameters.
    #[serde(default)]
    pub strays: Vec<Stray>,
}
