//! The comparison: pure.

mod relations;
mod roles;
mod strays;
mod views;

use super::{
    Acl, Deviation, Expectations, Level, Severity, Snapshot,
    expected::{FUNCTIONS, ROLES, VIEWS_OF, body_hash},
    level,
    names::{is_plain, quoted},
};
use crate::roles::is_creator;

/// All deviations, in the order of the catalogs.
pub fn compare(snapshot: &Snapshot, expectations: &Expectations) -> Vec<Deviation> {
    let mut report = Report { snapshot, expectations, deviations: Vec::new() };
    report.roles();
    report.memberships();
    report.logins();
    report.settings();
    report.database();
    report.schemas();
    report.relations();
    report.functions();
    report.default_privileges();
    report.extensions();
    report.strays();
    report.level();
    report.deviations
}

/// Who may use a schema of views: the runner, and the logins that describe statements before they run.
const VIEWS_SCHEMA: &[(&str, &str)] = &[("fence_login", "USAGE"), ("fence_runner", "USAGE")];

/// Name, owner, and who may do what.
type SchemaExpectation = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

struct Report<'a> {
    snapshot: &'a Snapshot,
    expectations: &'a Expectations,
    deviations: Vec<Deviation>,
}

impl Report<'_> {
    fn add(
        &mut self,
        object: impl Into<String>,
        found: impl Into<String>,
        expected: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add_as(Severity::Unsafe, object, found, expected, remedy);
    }

    fn add_as(
        &mut self,
        severity: Severity,
        object: impl Into<String>,
        found: impl Into<String>,
        expected: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.deviations.push(Deviation {
            severity,
            object: object.into(),
            found: found.into(),
            expected: expected.into(),
            remedy: remedy.into(),
            mendable: false,
        });
    }

    /// A deviation of a grant, a policy or row-level security, whose remedy is a statement. `names` are the names in it
    /// that come from the catalogs: one that would need quotes is left to a person.
    fn add_statement(
        &mut self,
        object: impl Into<String>,
        found: impl Into<String>,
        expected: impl Into<String>,
        statement: impl Into<String>,
        names: &[&str],
    ) {
        self.add(object, found, expected, statement);
        if let Some(added) = self.deviations.last_mut() {
            added.mendable = names.iter().all(|name| is_plain(name));
        }
    }

    fn is_superuser(&self, role: &str) -> bool {
        self.snapshot
            .roles
            .iter()
            .any(|known| known.name == role && known.attributes.iter().any(|attribute| attribute == "SUPERUSER"))
    }

    fn is_administrator(&self, role: &str) -> bool {
        // whoever looked could change anything anyway; so could a superuser
        role == self.snapshot.observer || self.expectations.administrators.contains(role) || self.is_superuser(role)
    }

    fn is_login(&self, role: &str) -> bool {
        self.snapshot.logins.iter().any(|login| login.login == role)
    }

    fn database(&mut self) {
        let object = format!("database {}", self.snapshot.database);
        let ours: Vec<Acl> = self
            .snapshot
            .database_acl
            .iter()
            .filter(|entry| entry.grantee == "PUBLIC" || self.concerns_us(&entry.grantee))
            .cloned()
            .collect();
        self.acl(
            &object,
            &ours,
            &[("fence_login", "CONNECT")],
            &format!("DATABASE {}", quoted(&self.snapshot.database)),
        );
    }

    fn concerns_us(&self, role: &str) -> bool {
        ROLES.contains(&role) || is_creator(role) || self.is_login(role)
    }

    fn schemas(&mut self) {
        let expected: [SchemaExpectation; 3] = [
            (
                "fence",
                "fence_owner",
                &[
                    ("fence_login", "USAGE"),
                    ("fence_reader", "USAGE"),
                    ("fence_runner", "USAGE"),
                    ("retail_owner", "USAGE"),
                ],
            ),
            (
                "retail",
                "retail_owner",
                &[
                    ("fence_login", "USAGE"),
                    ("fence_owner", "USAGE"),
                    ("fence_reader", "USAGE"),
                    ("retail_loader", "USAGE"),
                ],
            ),
            ("views_retail", "fence_reader", VIEWS_SCHEMA),
        ];
        for schema in &self.snapshot.schemas {
            let object = format!("schema {}", schema.name);
            if let Some((name, owner, acl)) = expected.iter().find(|(name, ..)| *name == schema.name) {
                self.owner(&object, &schema.owner, owner, &format!("SCHEMA {name}"));
                self.acl(&object, &schema.acl, acl, &format!("SCHEMA {name}"));
                continue;
            }
            // of the views over the tenants' own tables
            if schema.name.starts_with(VIEWS_OF) && schema.owner == "fence_reader" {
                self.acl(&object, &schema.acl, VIEWS_SCHEMA, &format!("SCHEMA {}", schema.name));
                continue;
            }
            // on the readers' search path: nobody whom we do not know may put names there
            for entry in &schema.acl {
                if entry.privilege == "CREATE" && (entry.grantee == "PUBLIC" || self.concerns_us(&entry.grantee)) {
                    let remedy =
                        format!("REVOKE CREATE ON SCHEMA {} FROM {}", quoted(&schema.name), quoted(&entry.grantee));
                    self.add(
                        object.clone(),
                        format!("CREATE for {}", entry.grantee),
                        "not for PUBLIC, the fence's roles or logins",
                        remedy,
                    );
                }
            }
        }
        for (name, ..) in expected {
            if !self.snapshot.schemas.iter().any(|schema| schema.name == name) {
                self.add(format!("schema {name}"), "no such schema", "the schema", "storefence-operator migrate");
            }
        }
    }

    fn functions(&mut self) {
        for function in &self.snapshot.functions {
            let object = format!("function {}.{}({})", function.schema, function.name, function.arguments);
            let expected = FUNCTIONS.iter().find(|expected| {
                function.schema == "fence" && expected.name == function.name && expected.arguments == function.arguments
            });
            let Some(expected) = expected else {
                let found = if function.definer {
                    "a SECURITY DEFINER function that Storefence does not ship"
                } else {
                    "a function that Storefence does not ship"
                };
                let remedy = format!(
                    "DROP FUNCTION {}.{}, or REVOKE EXECUTE from PUBLIC, fence_reader and fence_runner where it is another schema's",
                    function.schema, function.name
                );
                self.add(object, found, "none in schemas fence and retail; elsewhere none that runs with its owner's rights and that fence_reader or fence_runner may execute", remedy);
                continue;
            };
            let remedy = "run the function's statement from migrations/ again";
            let vector = match self.snapshot.vector_schema.as_str() {
                "pg_catalog" | "retail" | "views_retail" => String::new(),
                schema => format!(", {schema}"),
            };
            let settings = expected.settings(&vector);
            let body = body_hash(expected.name).unwrap_or_default();
            let checks = [
                ("owner", function.owner.clone(), expected.owner.to_owned()),
                ("result", function.result.clone(), expected.result.to_owned()),
                ("language", function.language.clone(), "plpgsql".to_owned()),
                ("SECURITY DEFINER", function.definer.to_string(), "true".to_owned()),
                ("volatility", function.volatility.clone(), expected.volatility.to_owned()),
                ("parallel safety", function.parallel.clone(), expected.parallel.to_owned()),
                ("settings", function.settings.join(", ").replace('"', ""), settings),
                ("SHA-256 of the body", function.body.clone(), body),
            ];
            for (what, found, wanted) in checks {
                if found != wanted {
                    self.add(object.clone(), format!("{what} {found}"), format!("{what} {wanted}"), remedy);
                }
            }
            for attribute in &function.attributes {
                let name = format!("fence.{}", expected.name);
                let undo =
                    |clause: &str| as_owner(&format!("FUNCTION {name}"), format!("ALTER FUNCTION {name} {clause}"));
                let remedy = match attribute.as_str() {
                    "STRICT" => undo("CALLED ON NULL INPUT"),
                    "LEAKPROOF" => undo("NOT LEAKPROOF"),
                    _ => remedy.to_owned(),
                };
                self.add(object.clone(), format!("attribute {attribute}"), "no such attribute", remedy);
            }
            let mut acl: Vec<(&str, &str)> = expected.grantees.iter().map(|role| (*role, "EXECUTE")).collect();
            if expected.owner_executes {
                acl.push((expected.owner, "EXECUTE"));
            }
            self.acl(&object, &function.acl, &acl, &format!("FUNCTION fence.{}", expected.name));
        }
        for expected in FUNCTIONS {
            if !self
                .snapshot
                .functions
                .iter()
                .any(|function| function.schema == "fence" && function.name == expected.name)
            {
                self.add(
                    format!("function fence.{}", expected.name),
                    "no such function",
                    "the function",
                    "run its statement from migrations/ again",
                );
            }
        }
    }

    fn default_privileges(&mut self) {
        let expected = ["fence_owner", "fence_reader", "fence_runner", "retail_owner"]
            .map(|role| format!("{role}: f: {role}=EXECUTE"));
        for found in &self.snapshot.default_acl {
            if !expected.contains(found) {
                let remedy = "ALTER DEFAULT PRIVILEGES … REVOKE what the entry grants";
                self.add("default privileges", found.clone(), "EXECUTE of functions for their owner alone", remedy);
            }
        }
        for wanted in &expected {
            if !self.snapshot.default_acl.contains(wanted) {
                let role = wanted.split(':').next().unwrap_or_default();
                let remedy = acting_as(role, "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON ROUTINES FROM PUBLIC");
                self.add(
                    format!("default privileges of {role}"),
                    "EXECUTE of new functions for PUBLIC",
                    wanted.clone(),
                    remedy,
                );
            }
        }
    }

    fn extensions(&mut self) {
        for found in &self.snapshot.extensions {
            let remedy =
                format!("DROP {} in this database", found.to_uppercase().split(' ').next().unwrap_or_default());
            self.add(
                found.clone(),
                "installed",
                "not in a database with the fence: it runs SQL or reads files past it",
                remedy,
            );
        }
    }

    fn level(&mut self) {
        if self.expectations.level == Level::Standard {
            return;
        }
        for function in &self.snapshot.open_builtins {
            let name = function.split('(').next().unwrap_or_default();
            let closes = level::closes(name).unwrap_or("a risk that the strict level takes away");
            self.add_as(
                Severity::Missing,
                format!("built-in function {function}"),
                "EXECUTE for PUBLIC",
                format!("revoked at the strict level; it allows: {closes}"),
                "storefence-operator harden, as superuser (again after a major upgrade)",
            );
        }
    }

    fn owner(&mut self, object: &str, found: &str, expected: &str, target: &str) {
        if found != expected {
            self.add(
                object,
                format!("owner {found}"),
                format!("owner {expected}"),
                format!("as superuser: ALTER {target} OWNER TO {expected}"),
            );
        }
    }

    /// Exactly these entries, none of them grantable.
    fn acl(&mut self, object: &str, found: &[Acl], expected: &[(&str, &str)], target: &str) {
        for entry in found {
            let (grantee, privilege) = (entry.grantee.as_str(), entry.privilege.as_str());
            if !expected.contains(&(grantee, privilege)) {
                self.add_statement(
                    object,
                    format!("{privilege} for {grantee}"),
                    "no such privilege",
                    as_owner(target, format!("REVOKE {privilege} ON {target} FROM {}", quoted(grantee))),
                    &[named(target), grantee],
                );
            } else if entry.grantable && !self.is_owner_entry(object, grantee) {
                let statement = format!("REVOKE GRANT OPTION FOR {privilege} ON {target} FROM {}", quoted(grantee));
                let remedy = as_owner(target, statement);
                let found = format!("{privilege} for {grantee} WITH GRANT OPTION");
                self.add_statement(object, found, "no grant option", remedy, &[named(target), grantee]);
            }
        }
        for (grantee, privilege) in expected {
            if !found.iter().any(|entry| entry.grantee == *grantee && entry.privilege == *privilege) {
                self.add_statement(
                    object,
                    format!("no {privilege} for {grantee}"),
                    format!("{privilege} for {grantee}"),
                    as_owner(target, format!("GRANT {privilege} ON {target} TO {grantee}")),
                    &[named(target), grantee],
                );
            }
        }
    }

    /// An owner's own entry always reads as grantable.
    fn is_owner_entry(&self, object: &str, grantee: &str) -> bool {
        FUNCTIONS.iter().any(|function| {
            function.owner == grantee && object.starts_with(&format!("function fence.{}(", function.name))
        })
    }
}

/// A statement on what belongs to the reader or the runner: the administrator may act as them and has none of their rights.
fn as_owner(target: &str, statement: String) -> String {
    let name = named(target);
    let function = || FUNCTIONS.iter().find(|function| name.strip_prefix("fence.") == Some(function.name));
    let owner =
        if name.starts_with(VIEWS_OF) { "fence_reader" } else { function().map_or("", |function| function.owner) };
    match owner {
        "fence_reader" | "fence_runner" => acting_as(owner, &statement),
        _ => statement,
    }
}

fn acting_as(role: &str, statement: &str) -> String {
    format!("SET ROLE {role}; {statement}; RESET ROLE")
}

/// The name in `TABLE retail.orders`.
fn named(target: &str) -> &str {
    target.split_once(' ').map_or(target, |(_, name)| name)
}
