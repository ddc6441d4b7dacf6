//! The comparison: pure, so that each kind of tampering is a unit test.

use std::collections::BTreeSet;

use super::{
    Acl, Deviation, Expectations, Policy, ProtectedTable, Relation, Severity, Snapshot,
    expected::{
        FENCE_TABLES, FORBIDDEN_SETTINGS, FUNCTIONS, LOGIN_SETTINGS, ROLES, SEQUENCES, STORE_TABLES, TENANT_TABLES, body_hash,
        store_condition, tenant_condition,
    },
};

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
    report.deviations
}

struct Report<'a> {
    snapshot: &'a Snapshot,
    expectations: &'a Expectations,
    deviations: Vec<Deviation>,
}

impl Report<'_> {
    fn add(&mut self, object: impl Into<String>, found: impl Into<String>, expected: impl Into<String>, remedy: impl Into<String>) {
        self.deviations.push(Deviation {
            severity: Severity::Unsafe,
            object: object.into(),
            found: found.into(),
            expected: expected.into(),
            remedy: remedy.into(),
        });
    }

    fn is_superuser(&self, role: &str) -> bool {
        self.snapshot.roles.iter().any(|known| known.name == role && known.attributes.iter().any(|attribute| attribute == "SUPERUSER"))
    }

    fn is_administrator(&self, role: &str) -> bool {
        // whoever looked could change anything anyway; so could a superuser
        role == self.snapshot.observer || self.expectations.administrators.contains(role) || self.is_superuser(role)
    }

    fn is_login(&self, role: &str) -> bool {
        self.snapshot.logins.iter().any(|login| login.login == role)
    }

    fn roles(&mut self) {
        for name in ROLES {
            match self.snapshot.roles.iter().find(|role| role.name == name) {
                None => self.add(format!("role {name}"), "no such role", "the role", "restore the role, then check its privileges again"),
                Some(role) if !role.attributes.is_empty() => {
                    let undo: Vec<String> = role.attributes.iter().map(|attribute| format!("NO{attribute}")).collect();
                    self.add(
                        format!("role {name}"),
                        format!("attributes {}", role.attributes.join(", ")),
                        "no attribute",
                        format!("ALTER ROLE {name} {}", undo.join(" ")),
                    );
                }
                Some(_) => {}
            }
        }
        for login in &self.snapshot.logins {
            let name = &login.login;
            let Some(role) = self.snapshot.roles.iter().find(|role| &role.name == name) else {
                self.add(format!("login {name}"), "no such role", "the role", "let the operator reconcile the tenant");
                continue;
            };
            // a disabled slot has lost LOGIN: that is as it should be
            let bad: Vec<&String> = role.attributes.iter().filter(|attribute| *attribute != "LOGIN").collect();
            if !bad.is_empty() {
                let list: Vec<String> = bad.iter().map(ToString::to_string).collect();
                let undo: Vec<String> = bad.iter().map(|attribute| format!("NO{attribute}")).collect();
                self.add(
                    format!("login {name}"),
                    format!("attributes {}", list.join(", ")),
                    "at most LOGIN",
                    format!("ALTER ROLE {name} {}", undo.join(" ")),
                );
            }
        }
        for role in &self.snapshot.roles {
            let has = |wanted: &str| role.attributes.iter().any(|attribute| attribute == wanted);
            let ours = ROLES.contains(&role.name.as_str()) || self.is_login(&role.name);
            if !ours && has("BYPASSRLS") && !has("SUPERUSER") && !self.expectations.bypass_rls.contains(&role.name) {
                self.add(
                    format!("role {}", role.name),
                    "attribute BYPASSRLS",
                    "no role that ignores row-level security, but for those listed in the configuration",
                    format!("ALTER ROLE {} NOBYPASSRLS, or list it", role.name),
                );
            }
        }
    }

    fn memberships(&mut self) {
        for membership in &self.snapshot.memberships {
            let (role, member) = (membership.role.as_str(), membership.member.as_str());
            let object = format!("membership of {member} in {role}");
            let options = format!("ADMIN {}, INHERIT {}, SET {}", membership.admin, membership.inherit, membership.set);
            let revoke = format!("REVOKE {role} FROM {member}");
            if ROLES.contains(&member) {
                self.add(object, options, "no membership: the fence's roles are members of nothing", revoke);
            } else if role == "fence_login" && self.is_login(member) {
                if membership.admin || membership.set || !membership.inherit {
                    let expected = "ADMIN false, INHERIT true, SET false";
                    self.add(object, options, expected, format!("{revoke}; GRANT {role} TO {member} WITH INHERIT TRUE, SET FALSE, ADMIN FALSE"));
                }
            } else if self.is_login(member) {
                self.add(object, options, "no membership but in fence_login", revoke);
            } else if role == "fence_reader" && self.is_administrator(member) {
                if membership.inherit && !self.is_superuser(member) {
                    let remedy = format!("GRANT {role} TO {member} WITH INHERIT FALSE");
                    self.add(object, options, "INHERIT false: the readers' policies would ask the administrator for a context", remedy);
                }
            } else if role == "fence_login" && is_login_name(member) && !membership.admin && !membership.set {
                // a login of another database of this cluster; this database does not know it and refuses its calls
            } else if !(self.is_administrator(member) || role == "retail_loader" && self.expectations.loaders.contains(member)) {
                self.add(object, options, "no membership but the administrators' and, in retail_loader, the loaders' in the configuration", revoke);
            }
        }
    }

    fn logins(&mut self) {
        for login in &self.snapshot.logins {
            let name = &login.login;
            let known = self.snapshot.roles.iter().any(|role| &role.name == name);
            let member = self.snapshot.memberships.iter().any(|membership| membership.role == "fence_login" && &membership.member == name);
            if known && !member {
                let remedy = format!("GRANT fence_login TO {name} WITH INHERIT TRUE, SET FALSE, ADMIN FALSE");
                self.add(format!("membership of {name} in fence_login"), "none", "ADMIN false, INHERIT true, SET false", remedy);
            }
            if login.dependencies > 0 {
                self.add(
                    format!("login {name}"),
                    format!("owns or may use {} objects by itself", login.dependencies),
                    "none",
                    format!("in every database: REASSIGN OWNED BY {name} TO the administrator; DROP OWNED BY {name}"),
                );
            }
        }
    }

    fn settings(&mut self) {
        for kept in &self.snapshot.settings {
            let name = kept.setting.split('=').next().unwrap_or_default();
            match &kept.role {
                Some(role) if !LOGIN_SETTINGS.contains(&name) => self.add(
                    format!("login {role}"),
                    format!("setting {}", kept.setting),
                    "no setting but limits and search_path",
                    format!("ALTER ROLE {role} RESET {name}"),
                ),
                None if FORBIDDEN_SETTINGS.contains(&name) => self.add(
                    format!("database {}", self.snapshot.database),
                    format!("setting {}", kept.setting),
                    "none of that name for everybody",
                    format!("ALTER DATABASE {} RESET {name} (or ALTER ROLE ALL RESET {name})", self.snapshot.database),
                ),
                _ => {}
            }
        }
    }

    fn database(&mut self) {
        let object = format!("database {}", self.snapshot.database);
        let ours: Vec<Acl> =
            self.snapshot.database_acl.iter().filter(|entry| entry.grantee == "PUBLIC" || self.concerns_us(&entry.grantee)).cloned().collect();
        self.acl(&object, &ours, &[("fence_login", "CONNECT")], &format!("DATABASE {}", self.snapshot.database));
    }

    fn concerns_us(&self, role: &str) -> bool {
        ROLES.contains(&role) || self.is_login(role)
    }

    fn schemas(&mut self) {
        let expected: [(&str, &str, &[(&str, &str)]); 2] = [
            ("fence", "fence_owner", &[("fence_login", "USAGE"), ("fence_reader", "USAGE"), ("retail_owner", "USAGE")]),
            ("retail", "retail_owner", &[("fence_login", "USAGE"), ("fence_owner", "USAGE"), ("fence_reader", "USAGE"), ("retail_loader", "USAGE")]),
        ];
        for schema in &self.snapshot.schemas {
            let object = format!("schema {}", schema.name);
            if let Some((name, owner, acl)) = expected.iter().find(|(name, ..)| *name == schema.name) {
                self.owner(&object, &schema.owner, owner, &format!("SCHEMA {name}"));
                self.acl(&object, &schema.acl, acl, &format!("SCHEMA {name}"));
                continue;
            }
            // on the readers' search path: nobody whom we do not know may put names there
            for entry in &schema.acl {
                if entry.privilege == "CREATE" && (entry.grantee == "PUBLIC" || self.concerns_us(&entry.grantee)) {
                    let remedy = format!("REVOKE CREATE ON SCHEMA {} FROM {}", schema.name, entry.grantee);
                    self.add(object.clone(), format!("CREATE for {}", entry.grantee), "not for PUBLIC, the fence's roles or logins", remedy);
                }
            }
        }
        for (name, ..) in expected {
            if !self.snapshot.schemas.iter().any(|schema| schema.name == name) {
                self.add(format!("schema {name}"), "no such schema", "the schema", "storefence-operator migrate");
            }
        }
    }

    fn relations(&mut self) {
        for relation in &self.snapshot.relations {
            let object = object_of(relation);
            let qualified = format!("{}.{}", relation.schema, relation.name);
            let target = if relation.kind == "S" { format!("SEQUENCE {qualified}") } else { format!("TABLE {qualified}") };
            let protected = self.expectations.protected.iter().find(|table| table.schema == relation.schema && table.table == relation.name);
            if let Some(condition) = retail_condition(relation).or_else(|| protected.map(ProtectedTable::condition)) {
                let mut acl = vec![("fence_reader", "SELECT")];
                let mut policies = vec![policy(&qualified, "fence_read", "r", "fence_reader", &condition, None)];
                if protected.is_none() {
                    self.owner(&object, &relation.owner, "retail_owner", &target);
                    acl.extend(["SELECT", "INSERT", "UPDATE", "DELETE"].map(|privilege| ("retail_loader", privilege)));
                    policies.push(policy(&qualified, "loader_all", "*", "retail_loader", "true", Some("true")));
                    self.acl(&object, &relation.acl, &acl, &target);
                } else {
                    // whom else the chain lets at its own table is the chain's affair
                    let ours: Vec<Acl> =
                        relation.acl.iter().filter(|entry| entry.grantee == "PUBLIC" || self.concerns_us(&entry.grantee)).cloned().collect();
                    self.acl(&object, &ours, &acl, &target);
                }
                self.protection(relation, &object, &qualified);
                self.policies(&qualified, &policies, protected.is_some());
            } else if is_fence_relation(relation) {
                let owner = if relation.schema == "fence" { "fence_owner" } else { "retail_owner" };
                self.owner(&object, &relation.owner, owner, &target);
                self.acl(&object, &relation.acl, &[], &target);
            } else {
                self.unexpected(relation, &object, &target);
                continue;
            }
            let foreign: Vec<Acl> = relation.column_acl.iter().filter(|entry| protected.is_none() || self.concerns_us(&entry.grantee)).cloned().collect();
            self.acl(&object, &foreign, &[], &target);
            // the chain's own tables may have triggers
            for hook in relation.hooks.iter().filter(|_| protected.is_none()) {
                let mut words = hook.split(' ');
                let (kind, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
                self.add(object.clone(), hook.clone(), "no trigger or rule", format!("DROP {} {name} ON {qualified}", kind.to_uppercase()));
            }
        }
        let present: BTreeSet<(&str, &str)> =
            self.snapshot.relations.iter().map(|relation| (relation.schema.as_str(), relation.name.as_str())).collect();
        let tables = STORE_TABLES.iter().map(|table| ("retail", table.0)).chain(TENANT_TABLES.map(|table| ("retail", table)));
        let wanted: Vec<(&str, &str)> = tables.chain(FENCE_TABLES.map(|table| ("fence", table))).chain(SEQUENCES).collect();
        for (schema, name) in wanted {
            if !present.contains(&(schema, name)) {
                self.add(format!("table {schema}.{name}"), "no such table", "the table", "restore it from a backup");
            }
        }
        for table in &self.expectations.protected {
            if !present.contains(&(table.schema.as_str(), table.table.as_str())) {
                let found = "the table is missing or fence_reader may not read it";
                self.add(format!("protected table {table}"), found, "the table behind the fence", table.statements().join("; "));
            }
        }
    }

    fn protection(&mut self, relation: &Relation, object: &str, qualified: &str) {
        for (on, what, verb) in [(relation.rls, "row-level security", "ENABLE"), (relation.force, "forced row-level security", "FORCE")] {
            if !on {
                let remedy = format!("ALTER TABLE {qualified} {verb} ROW LEVEL SECURITY");
                self.add(object, format!("no {what}"), what, remedy);
            }
        }
    }

    fn policies(&mut self, qualified: &str, expected: &[Policy], others_allowed: bool) {
        let found: Vec<&Policy> = self.snapshot.policies.iter().filter(|policy| policy.table == qualified).collect();
        for wanted in expected {
            match found.iter().find(|policy| policy.name == wanted.name) {
                None => self.add(format!("policy {} on {qualified}", wanted.name), "none", describe(wanted), create(wanted)),
                Some(policy) if !same(policy, wanted) => self.add(
                    format!("policy {} on {qualified}", wanted.name),
                    describe(policy),
                    describe(wanted),
                    format!("DROP POLICY {} ON {qualified}; {}", wanted.name, create(wanted)),
                ),
                Some(_) => {}
            }
        }
        for policy in found {
            let ours = policy.roles.iter().any(|role| role == "PUBLIC" || self.concerns_us(role));
            if !expected.iter().any(|wanted| wanted.name == policy.name) && (ours || !others_allowed) {
                let remedy = format!("DROP POLICY {} ON {qualified}", policy.name);
                self.add(format!("policy {} on {qualified}", policy.name), describe(policy), "no such policy", remedy);
            }
        }
    }

    /// Deny by default: what is not behind a verified policy must not be readable, and is reported even then.
    fn unexpected(&mut self, relation: &Relation, object: &str, target: &str) {
        let readable: BTreeSet<&str> = relation
            .acl
            .iter()
            .chain(&relation.column_acl)
            .map(|entry| entry.grantee.as_str())
            .filter(|grantee| *grantee == "PUBLIC" || self.concerns_us(grantee))
            .collect();
        let expected = "no relation without a verified policy; further tables are listed as protected tables in the configuration";
        if readable.is_empty() {
            self.deviations.push(Deviation {
                severity: Severity::Notice,
                object: object.to_owned(),
                found: "a relation that Storefence does not know; no tenant can read it".to_owned(),
                expected: expected.to_owned(),
                remedy: format!("move {} to another schema, or list it", relation.name),
            });
        } else {
            let roles: Vec<&str> = readable.into_iter().collect();
            let remedy = format!("REVOKE ALL ON {target} FROM {}", roles.join(", "));
            self.add(object, format!("privileges for {}", roles.join(", ")), expected, remedy);
        }
    }

    fn functions(&mut self) {
        for function in &self.snapshot.functions {
            let object = format!("function {}.{}({})", function.schema, function.name, function.arguments);
            let expected = FUNCTIONS.iter().find(|expected| {
                function.schema == "fence" && expected.name == function.name && expected.arguments == function.arguments
            });
            let Some(expected) = expected else {
                let found = if function.definer { "a SECURITY DEFINER function that Storefence does not ship" } else { "a function that Storefence does not ship" };
                let remedy = format!("DROP FUNCTION {}.{}, or REVOKE EXECUTE from PUBLIC and fence_reader where it is another schema's", function.schema, function.name);
                self.add(object, found, "none in schemas fence and retail; elsewhere none that runs with its owner's rights and that fence_reader may execute", remedy);
                continue;
            };
            let remedy = "run the function's statement from migrations/ again";
            let vector = match self.snapshot.vector_schema.as_str() {
                "pg_catalog" | "retail" => String::new(),
                schema => format!(", {schema}"),
            };
            let search_path = format!("search_path={}", expected.search_path.replace("{vector}", &vector));
            let body = body_hash(expected.name).unwrap_or_default();
            let checks = [
                ("owner", function.owner.clone(), expected.owner.to_owned()),
                ("language", function.language.clone(), "plpgsql".to_owned()),
                ("SECURITY DEFINER", function.definer.to_string(), "true".to_owned()),
                ("volatility", function.volatility.clone(), expected.volatility.to_owned()),
                ("parallel safety", function.parallel.clone(), expected.parallel.to_owned()),
                ("settings", function.settings.join(", ").replace('"', ""), search_path),
                ("SHA-256 of the body", function.body.clone(), body),
            ];
            for (what, found, wanted) in checks {
                if found != wanted {
                    self.add(object.clone(), format!("{what} {found}"), format!("{what} {wanted}"), remedy);
                }
            }
            let mut acl = vec![(expected.grantee, "EXECUTE")];
            if expected.owner_executes {
                acl.push((expected.owner, "EXECUTE"));
            }
            self.acl(&object, &function.acl, &acl, &format!("FUNCTION fence.{}", expected.name));
        }
        for expected in FUNCTIONS {
            if !self.snapshot.functions.iter().any(|function| function.schema == "fence" && function.name == expected.name) {
                self.add(format!("function fence.{}", expected.name), "no such function", "the function", "run its statement from migrations/ again");
            }
        }
    }

    fn default_privileges(&mut self) {
        let expected = ["fence_owner", "fence_reader", "retail_owner"].map(|role| format!("{role}: f: {role}=EXECUTE"));
        for found in &self.snapshot.default_acl {
            if !expected.contains(found) {
                let remedy = "ALTER DEFAULT PRIVILEGES … REVOKE what the entry grants";
                self.add("default privileges", found.clone(), "EXECUTE of functions for their owner alone", remedy);
            }
        }
        for wanted in &expected {
            if !self.snapshot.default_acl.contains(wanted) {
                let role = wanted.split(':').next().unwrap_or_default();
                let remedy = format!("ALTER DEFAULT PRIVILEGES FOR ROLE {role} REVOKE EXECUTE ON ROUTINES FROM PUBLIC");
                self.add(format!("default privileges of {role}"), "EXECUTE of new functions for PUBLIC", wanted.clone(), remedy);
            }
        }
    }

    fn extensions(&mut self) {
        for found in &self.snapshot.extensions {
            let remedy = format!("DROP {} in this database", found.to_uppercase().split(' ').next().unwrap_or_default());
            self.add(found.clone(), "installed", "not in a database with the fence: it runs SQL or reads files past it", remedy);
        }
    }

    fn owner(&mut self, object: &str, found: &str, expected: &str, target: &str) {
        if found != expected {
            self.add(object, format!("owner {found}"), format!("owner {expected}"), format!("ALTER {target} OWNER TO {expected}"));
        }
    }

    /// Exactly these entries, none of them grantable.
    fn acl(&mut self, object: &str, found: &[Acl], expected: &[(&str, &str)], target: &str) {
        for entry in found {
            let (grantee, privilege) = (entry.grantee.as_str(), entry.privilege.as_str());
            if !expected.contains(&(grantee, privilege)) {
                self.add(object, format!("{privilege} for {grantee}"), "no such privilege", format!("REVOKE {privilege} ON {target} FROM {grantee}"));
            } else if entry.grantable && !self.is_owner_entry(object, grantee) {
                let remedy = format!("REVOKE GRANT OPTION FOR {privilege} ON {target} FROM {grantee}");
                self.add(object, format!("{privilege} for {grantee} WITH GRANT OPTION"), "no grant option", remedy);
            }
        }
        for (grantee, privilege) in expected {
            if !found.iter().any(|entry| entry.grantee == *grantee && entry.privilege == *privilege) {
                self.add(object, format!("no {privilege} for {grantee}"), format!("{privilege} for {grantee}"), format!("GRANT {privilege} ON {target} TO {grantee}"));
            }
        }
    }

    /// An owner's own entry always reads as grantable.
    fn is_owner_entry(&self, object: &str, grantee: &str) -> bool {
        FUNCTIONS.iter().any(|function| function.owner == grantee && object.starts_with(&format!("function fence.{}(", function.name)))
    }
}

/// `sf_`, twelve hexadecimal digits, `_a` or `_b`.
fn is_login_name(name: &str) -> bool {
    name.strip_prefix("sf_")
        .and_then(|rest| rest.strip_suffix("_a").or_else(|| rest.strip_suffix("_b")))
        .is_some_and(|hex| hex.len() == 12 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn retail_condition(relation: &Relation) -> Option<String> {
    if relation.schema != "retail" || relation.kind != "r" {
        return None;
    }
    let store = STORE_TABLES.iter().find(|table| table.0 == relation.name).map(|table| store_condition(table.1));
    store.or_else(|| TENANT_TABLES.contains(&relation.name.as_str()).then(|| tenant_condition("tenant_key")))
}

fn is_fence_relation(relation: &Relation) -> bool {
    let table = relation.schema == "fence" && relation.kind == "r" && FENCE_TABLES.contains(&relation.name.as_str());
    table || relation.kind == "S" && SEQUENCES.contains(&(relation.schema.as_str(), relation.name.as_str()))
}

fn object_of(relation: &Relation) -> String {
    let kind = match relation.kind.as_str() {
        "S" => "sequence",
        "v" => "view",
        "m" => "materialized view",
        "f" => "foreign table",
        _ => "table",
    };
    format!("{kind} {}.{}", relation.schema, relation.name)
}

fn policy(table: &str, name: &str, command: &str, role: &str, using: &str, check: Option<&str>) -> Policy {
    Policy {
        table: table.to_owned(),
        name: name.to_owned(),
        permissive: true,
        command: command.to_owned(),
        roles: vec![role.to_owned()],
        using: Some(using.to_owned()),
        check: check.map(str::to_owned),
    }
}

/// PostgreSQL's versions differ in white space and parentheses alone.
fn normalised(text: Option<&String>) -> Option<String> {
    text.map(|text| text.chars().filter(|character| !character.is_whitespace() && !"()".contains(*character)).collect())
}

fn same(found: &Policy, wanted: &Policy) -> bool {
    (found.permissive, &found.command, &found.roles) == (wanted.permissive, &wanted.command, &wanted.roles)
        && normalised(found.using.as_ref()) == normalised(wanted.using.as_ref())
        && normalised(found.check.as_ref()) == normalised(wanted.check.as_ref())
}

fn describe(policy: &Policy) -> String {
    let command = match policy.command.as_str() {
        "r" => "SELECT",
        "a" => "INSERT",
        "w" => "UPDATE",
        "d" => "DELETE",
        _ => "ALL",
    };
    let kind = if policy.permissive { "" } else { "AS RESTRICTIVE " };
    let using = policy.using.as_ref().map_or(String::new(), |text| format!(" USING ({text})"));
    let check = policy.check.as_ref().map_or(String::new(), |text| format!(" WITH CHECK ({text})"));
    format!("{kind}FOR {command} TO {}{using}{check}", policy.roles.join(", "))
}

fn create(policy: &Policy) -> String {
    format!("CREATE POLICY {} ON {} {}", policy.name, policy.table, describe(policy))
}
