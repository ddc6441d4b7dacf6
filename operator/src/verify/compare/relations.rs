//! Tables and what protects them.

use std::collections::BTreeSet;

use super::Report;
use crate::verify::{
    Acl, Deviation, Policy, ProtectedTable, Relation, Severity,
    expected::{FENCE_TABLES, SEQUENCES, STORE_TABLES, TENANT_TABLES, store_condition, tenant_condition},
    names::quoted,
};

impl Report<'_> {
    pub(super) fn relations(&mut self) {
        for relation in &self.snapshot.relations {
            let object = object_of(relation);
            let qualified = format!("{}.{}", quoted(&relation.schema), quoted(&relation.name));
            let target =
                if relation.kind == "S" { format!("SEQUENCE {qualified}") } else { format!("TABLE {qualified}") };
            let protected = self
                .expectations
                .protected
                .iter()
                .find(|table| table.schema == relation.schema && table.table == relation.name);
            if let Some(condition) = retail_condition(relation).or_else(|| protected.map(ProtectedTable::condition)) {
                let mut acl = vec![("fence_reader", "SELECT")];
                let mut policies = vec![policy(&qualified, "fence_read", "r", "fence_reader", &condition, None)];
                if protected.is_none() {
                    self.owner(&object, &relation.owner, "retail_owner", &target);
                    acl.extend(["SELECT", "INSERT", "UPDATE", "DELETE"].map(|privilege| ("retail_loader", privilege)));
                    policies.push(policy(&qualified, "loader_all", "*", "retail_loader", "true", Some("true")));
                    self.acl(&object, &relation.acl, &acl, &target);
                } else {
                    // whom else the tenant lets at its own table is the tenant's affair
                    let ours: Vec<Acl> = relation
                        .acl
                        .iter()
                        .filter(|entry| entry.grantee == "PUBLIC" || self.concerns_us(&entry.grantee))
                        .cloned()
                        .collect();
                    self.acl(&object, &ours, &acl, &target);
                }
                self.protection(relation, &object, &qualified);
                self.policies(&qualified, &policies, protected.is_some());
            } else if let Some(expected) = self.expected_view(relation) {
                self.view(relation, &object, &expected);
            } else if is_fence_relation(relation) {
                let owner = if relation.schema == "fence" { "fence_owner" } else { "retail_owner" };
                self.owner(&object, &relation.owner, owner, &target);
                self.acl(&object, &relation.acl, &[], &target);
            } else {
                self.unexpected(relation, &object, &target);
                continue;
            }
            let foreign: Vec<Acl> = relation
                .column_acl
                .iter()
                .filter(|entry| protected.is_none() || self.concerns_us(&entry.grantee))
                .cloned()
                .collect();
            self.acl(&object, &foreign, &[], &target);
            // the tenant's own tables may have triggers
            for hook in relation.hooks.iter().filter(|_| protected.is_none()) {
                let mut words = hook.split(' ');
                let (kind, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
                self.add(
                    object.clone(),
                    hook.clone(),
                    "no trigger or rule",
                    format!("DROP {} {} ON {qualified}", kind.to_uppercase(), quoted(name)),
                );
            }
        }
        let present: BTreeSet<(&str, &str)> =
            self.snapshot.relations.iter().map(|relation| (relation.schema.as_str(), relation.name.as_str())).collect();
        let tables =
            STORE_TABLES.iter().map(|table| ("retail", table.0)).chain(TENANT_TABLES.map(|table| ("retail", table)));
        let wanted: Vec<(&str, &str)> =
            tables.chain(FENCE_TABLES.map(|table| ("fence", table))).chain(SEQUENCES).collect();
        for (schema, name) in wanted {
            if !present.contains(&(schema, name)) {
                self.add(format!("table {schema}.{name}"), "no such table", "the table", "restore it from a backup");
            }
        }
        self.missing_views(&present);
        for table in &self.expectations.protected {
            if !present.contains(&(table.schema.as_str(), table.table.as_str())) {
                let found = "the table is missing or fence_reader may not read it";
                self.add_as(
                    Severity::Missing,
                    format!("protected table {table}"),
                    found,
                    "the table behind the fence",
                    table.statements().join("; "),
                );
            }
        }
    }

    fn protection(&mut self, relation: &Relation, object: &str, qualified: &str) {
        for (on, what, verb) in
            [(relation.rls, "row-level security", "ENABLE"), (relation.force, "forced row-level security", "FORCE")]
        {
            if !on {
                let remedy = format!("ALTER TABLE {qualified} {verb} ROW LEVEL SECURITY");
                self.add_statement(object, format!("no {what}"), what, remedy, &[qualified]);
            }
        }
    }

    fn policies(&mut self, qualified: &str, expected: &[Policy], others_allowed: bool) {
        let found: Vec<&Policy> = self.snapshot.policies.iter().filter(|policy| policy.table == qualified).collect();
        for wanted in expected {
            match found.iter().find(|policy| policy.name == wanted.name) {
                None => {
                    let object = format!("policy {} on {qualified}", wanted.name);
                    self.add_statement(object, "none", describe(wanted), create(wanted), &[qualified]);
                }
                Some(policy) if !same(policy, wanted) => self.add_statement(
                    format!("policy {} on {qualified}", wanted.name),
                    describe(policy),
                    describe(wanted),
                    format!("DROP POLICY {} ON {qualified}; {}", wanted.name, create(wanted)),
                    &[qualified],
                ),
                Some(_) => {}
            }
        }
        for policy in found {
            let ours = policy.roles.iter().any(|role| role == "PUBLIC" || self.concerns_us(role));
            if !expected.iter().any(|wanted| wanted.name == policy.name) && (ours || !others_allowed) {
                let remedy = format!("DROP POLICY {} ON {qualified}", quoted(&policy.name));
                let object = format!("policy {} on {qualified}", policy.name);
                self.add_statement(object, describe(policy), "no such policy", remedy, &[qualified, &policy.name]);
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
        let expected =
            "no relation without a verified policy; further tables are listed as protected tables in the configuration";
        if readable.is_empty() {
            self.deviations.push(Deviation {
                severity: Severity::Notice,
                object: object.to_owned(),
                found: "a relation that Storefence does not know; no tenant can read it".to_owned(),
                expected: expected.to_owned(),
                remedy: format!("move {} to another schema, or list it", relation.name),
                mendable: false,
            });
        } else {
            let roles: Vec<&str> = readable.into_iter().collect();
            let remedy = format!(
                "REVOKE ALL ON {target} FROM {}",
                roles.iter().map(|role| quoted(role)).collect::<Vec<_>>().join(", ")
            );
            self.add(object, format!("privileges for {}", roles.join(", ")), expected, remedy);
        }
    }
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
