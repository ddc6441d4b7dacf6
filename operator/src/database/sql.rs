//! The statements behind the steps. `plan` prints the same text that `run` executes.
//!
//! Commands that change roles take no bind values, so names and texts are quoted here. Keys are not here at all: texts
//! and bound values end up in the server's log under `log_statement`, the data of a COPY does not.

use std::{collections::BTreeMap, fmt::Write as _};

use storefence_tenancy::credentials::{ContextKey, Slot};
use zeroize::Zeroizing;

use crate::{
    plan::{
        action::{DatabaseAction, Plan},
        desired::Desired,
    },
    quote::{ident, literal},
    roles::LOGIN_GROUP,
};

/// A parameter's name; extensions' parameters have a dot.
fn parameter(name: &str) -> String {
    name.split('.').map(ident).collect::<Vec<_>>().join(".")
}

/// The row of a context key: [`copy_row`] makes its data.
pub const COPY_KEY: &str = "COPY fence.context_keys (tenant_key, kid, ipad, opad) FROM STDIN";

/// A context key's row in COPY's text format.
#[must_use]
pub fn copy_row(tenant_key: i32, kid: u32, key: &ContextKey) -> Zeroizing<String> {
    let pads = key.pads();
    let mut row = Zeroizing::new(String::with_capacity(320));
    let _ = write!(row, "{tenant_key}\t{kid}");
    for pad in [&pads.inner, &pads.outer] {
        row.push_str("\t\\\\x");
        for byte in pad {
            let _ = write!(row, "{byte:02x}");
        }
    }
    row.push('\n');
    row
}

/// A statement of the transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    pub text: String,
    /// The context key whose row follows by COPY.
    pub key: Option<u32>,
    /// It locks what all tenants share, until the transaction ends.
    pub shared: bool,
}

/// The statements of some steps, in order. What can share a statement does: each costs the server a walk through all
/// the roles that their maker has made, or the planning of an insert. `verifier` is asked for the SCRAM verifier of
/// a slot's password.
#[must_use]
pub fn statements(desired: &Desired, plan: &Plan, verifier: &dyn Fn(Slot) -> String) -> Vec<Statement> {
    let actions = plan.database.as_slice();
    let by_creator = |action: &DatabaseAction| plan.creator.as_ref().filter(|creator| creator.takes(action));
    let mut statements = Vec::new();
    let mut acting = None;
    let created = actions.iter().filter_map(|action| match action {
        DatabaseAction::CreateRole { role, .. } => Some((role.as_str(), None)),
        _ => None,
    });
    let mut passwords: BTreeMap<&str, Option<Slot>> = created.collect();
    for action in actions {
        if let DatabaseAction::SetPassword { role, slot } = action
            && let Some(password) = passwords.get_mut(role.as_str())
        {
            *password = Some(*slot);
        }
    }
    let alike = |a: &DatabaseAction, b: &DatabaseAction| {
        let mergeable = matches!(
            a,
            DatabaseAction::InsertRetailStore { .. }
                | DatabaseAction::InsertFenceStore { .. }
                | DatabaseAction::InsertLogin { .. }
                | DatabaseAction::GrantLoginGroup { .. }
        );
        mergeable
            && std::mem::discriminant(a) == std::mem::discriminant(b)
            && by_creator(a).is_some() == by_creator(b).is_some()
    };
    for group in actions.chunk_by(alike) {
        let Some(first) = group.first() else { continue };
        let (mut key, mut shared) = (None, false);
        let text = match first {
            DatabaseAction::InsertRetailStore { .. }
            | DatabaseAction::InsertFenceStore { .. }
            | DatabaseAction::InsertLogin { .. } => rows(desired, group),
            DatabaseAction::GrantLoginGroup { .. } => {
                shared = true;
                let members: Vec<String> = group.iter().filter_map(DatabaseAction::role).map(ident).collect();
                format!("GRANT {LOGIN_GROUP} TO {} WITH INHERIT TRUE, SET FALSE", members.join(", "))
            }
            // It stands in the statement that makes the role.
            DatabaseAction::SetPassword { role, .. } if passwords.contains_key(role.as_str()) => continue,
            DatabaseAction::CreateRole { role, .. } => {
                let mut text = statement(desired, first, verifier);
                if let Some(slot) = passwords.get(role.as_str()).copied().flatten() {
                    let _ = write!(text, " PASSWORD {}", literal(&verifier(slot)));
                }
                text
            }
            DatabaseAction::SetContextKey { kid, .. } => {
                key = Some(*kid);
                statement(desired, first, verifier)
            }
            action => statement(desired, action, verifier),
        };
        let creator = by_creator(first).map(|creator| creator.role.as_str());
        if creator != acting {
            // Until the transaction ends at the latest.
            let text = creator.map_or_else(|| RESET_ROLE.to_owned(), |role| format!("SET LOCAL ROLE {}", ident(role)));
            statements.push(Statement { text, key: None, shared });
            acting = creator;
        }
        statements.push(Statement { text, key, shared });
    }
    if acting.is_some() {
        statements.push(Statement { text: RESET_ROLE.to_owned(), key: None, shared: true });
    }
    statements
}

/// The administrator acts as itself again.
const RESET_ROLE: &str = "RESET ROLE";

/// One INSERT for steps that each add a row to the same table.
fn rows(desired: &Desired, actions: &[DatabaseAction]) -> String {
    let mut columns = "";
    let rows: Vec<String> = actions
        .iter()
        .filter_map(|action| {
            let (into, row) = match action {
                DatabaseAction::InsertRetailStore { id, name, display_name } => (
                    "retail.stores (tenant_key, store_id, store_name, display_name)",
                    format!("'{id}'::uuid, {}, {}", literal(name), literal(display_name)),
                ),
                DatabaseAction::InsertFenceStore { id, name } => (
                    "fence.tenant_stores (tenant_key, store_id, store_name)",
                    format!("'{id}'::uuid, {}", literal(name)),
                ),
                DatabaseAction::InsertLogin { role, slot } => {
                    ("fence.logins (tenant_key, login, slot)", format!("{}::name, '{slot}'", literal(role)))
                }
                _ => return None,
            };
            columns = into;
            Some(format!("({row})"))
        })
        .collect();
    let tenant = literal(desired.tenant_id.as_str());
    let rows = rows.join(", ");
    format!(
        "INSERT INTO {columns} SELECT t.tenant_key, new.* FROM retail.tenants t, (VALUES {rows}) new WHERE t.tenant_id = {tenant}"
    )
}

/// The text of a step.
fn statement(desired: &Desired, action: &DatabaseAction, verifier: &dyn Fn(Slot) -> String) -> String {
    let tenant = literal(desired.tenant_id.as_str());
    let uid = literal(&desired.owner_uid);
    let key = tenant_key(desired);
    match action {
        DatabaseAction::InsertTenant { display_name } => {
            format!("INSERT INTO retail.tenants (tenant_id, display_name) VALUES ({tenant}, {})", literal(display_name))
        }
        DatabaseAction::RenameTenant { display_name } => {
            format!("UPDATE retail.tenants SET display_name = {} WHERE tenant_id = {tenant}", literal(display_name))
        }
        DatabaseAction::InsertFence => format!(
            "INSERT INTO fence.tenants (tenant_key, tenant_id, owner_uid, enabled) VALUES ({key}, {tenant}, {uid}, false)"
        ),
        DatabaseAction::ClaimFence => {
            format!("UPDATE fence.tenants SET owner_uid = {uid} WHERE tenant_id = {tenant} AND NOT enabled")
        }
        DatabaseAction::AdoptFence { from } => {
            format!(
                "UPDATE fence.tenants SET owner_uid = {uid} WHERE tenant_id = {tenant} AND owner_uid = {}",
                literal(from)
            )
        }
        DatabaseAction::EnableFence => {
            format!("UPDATE fence.tenants SET enabled = true WHERE tenant_id = {tenant} AND owner_uid = {uid}")
        }
        DatabaseAction::VacateRetailStore { id, name } => {
            format!(
                "UPDATE retail.stores SET store_name = {} WHERE store_id = '{id}' AND tenant_key = {key}",
                literal(name)
            )
        }
        DatabaseAction::RenameRetailStore { id, name, display_name } => format!(
            "UPDATE retail.stores SET store_name = {}, display_name = {} WHERE store_id = '{id}' AND tenant_key = {key}",
            literal(name),
            literal(display_name)
        ),
        DatabaseAction::RemoveFenceStore { id } => {
            format!("DELETE FROM fence.tenant_stores WHERE store_id = '{id}' AND tenant_key = {key}")
        }
        DatabaseAction::VacateFenceStore { id, name } | DatabaseAction::RenameFenceStore { id, name } => {
            format!(
                "UPDATE fence.tenant_stores SET store_name = {} WHERE store_id = '{id}' AND tenant_key = {key}",
                literal(name)
            )
        }
        DatabaseAction::RemoveLogin { role } => format!("DELETE FROM fence.logins WHERE login = {}", literal(role)),
        // The new row follows by COPY.
        DatabaseAction::SetContextKey { kid, .. } | DatabaseAction::RemoveContextKey { kid } => {
            format!("DELETE FROM fence.context_keys WHERE tenant_key = {key} AND kid = {kid}")
        }
        DatabaseAction::SetKeyEnd { kid, not_after } => {
            let end = not_after.map_or_else(|| "NULL".to_owned(), |seconds| format!("to_timestamp({seconds})"));
            format!("UPDATE fence.context_keys SET not_after = {end} WHERE tenant_key = {key} AND kid = {kid}")
        }
        action => role_statement(desired, action, verifier),
    }
}

/// The number of the tenant, as a subquery.
#[must_use]
pub fn tenant_key(desired: &Desired) -> String {
    format!("(SELECT tenant_key FROM retail.tenants WHERE tenant_id = {})", literal(desired.tenant_id.as_str()))
}

fn role_statement(desired: &Desired, action: &DatabaseAction, verifier: &dyn Fn(Slot) -> String) -> String {
    match action {
        DatabaseAction::CreateRole { role, attributes, connection_limit } => {
            // What is left out is off by default; naming it would ask for the right to switch it.
            let login = if attributes.login { "LOGIN" } else { "NOLOGIN" };
            format!("CREATE ROLE {} {login} NOINHERIT CONNECTION LIMIT {connection_limit}", ident(role))
        }
        DatabaseAction::AlterRole { role, from, to, connection_limit } => {
            let mut text = format!("ALTER ROLE {}", ident(role));
            for words in from.changes_to(to) {
                let _ = write!(text, " {words}");
            }
            if from.login && !to.login {
                // Whoever lets the role log in again must not bring the old password back to life.
                text.push_str(" PASSWORD NULL");
            }
            if let Some(limit) = connection_limit {
                let _ = write!(text, " CONNECTION LIMIT {limit}");
            }
            text
        }
        DatabaseAction::CommentRole { role } => {
            format!("COMMENT ON ROLE {} IS {}", ident(role), literal(&desired.role_comment()))
        }
        DatabaseAction::SetRoleSetting { role, name, value } => {
            format!("ALTER ROLE {} SET {} = {}", ident(role), parameter(name), literal(value))
        }
        DatabaseAction::ResetRoleSetting { role, name } => {
            format!("ALTER ROLE {} RESET {}", ident(role), parameter(name))
        }
        DatabaseAction::ResetDatabaseSettings { role, database } => {
            format!("ALTER ROLE {} IN DATABASE {} RESET ALL", ident(role), ident(database))
        }
        // Names of roles in a membership come from regrole: they are quoted already where they need it.
        DatabaseAction::RevokeMembership { role, membership } => {
            format!("REVOKE {} FROM {} GRANTED BY {}", membership.group, ident(role), membership.grantor)
        }
        DatabaseAction::RevokeMember { role, member } => {
            format!("REVOKE {} FROM {} GRANTED BY {}", ident(role), member.name, member.grantor)
        }
        // Made by the server with its own quoting.
        DatabaseAction::RevokeGrant { role, grant } => format!("REVOKE {grant} FROM {}", ident(role)),
        DatabaseAction::SetPassword { role, slot } => {
            format!("ALTER ROLE {} PASSWORD {}", ident(role), literal(&verifier(*slot)))
        }
        DatabaseAction::ForgetPassword { role } => format!("ALTER ROLE {} PASSWORD NULL", ident(role)),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{
        diff::diff,
        model::{desired, desired_with, take},
        state::{Attributes, Member, Observed},
    };

    #[test]
    fn a_keys_row_is_what_copy_reads() {
        let row = copy_row(7, 1, &ContextKey::new([0; 32]));
        assert_eq!(row.as_str(), format!("7\t1\t\\\\x{}\t\\\\x{}\n", "36".repeat(64), "5c".repeat(64)));
    }

    /// What a new tenant takes, and how much of it others wait for.
    #[test]
    fn a_new_tenant_takes_few_statements_and_locks_what_is_shared_last() {
        let desired = desired_with(&[(1, "Seattle"), (2, "Redmond"), (3, "O'Fallon")], Slot::A, 1);
        let plan = diff(&desired, &Observed::default()).unwrap();
        let statements = statements(&desired, &plan, &|slot| format!("verifier-{slot}"));
        let text = |begin: &str| {
            let found: Vec<&str> =
                statements.iter().map(|found| found.text.as_str()).filter(|text| text.starts_with(begin)).collect();
            assert_eq!(found.len(), 1, "{begin}: {found:?}");
            found[0].to_owned()
        };
        assert_eq!(
            text("INSERT INTO fence.tenant_stores"),
            "INSERT INTO fence.tenant_stores (tenant_key, store_id, store_name) SELECT t.tenant_key, new.* FROM retail.tenants t, \
             (VALUES ('00000000-0000-0000-0000-000000000001'::uuid, 'Seattle'), \
             ('00000000-0000-0000-0000-000000000002'::uuid, 'Redmond'), \
             ('00000000-0000-0000-0000-000000000003'::uuid, 'O''Fallon')) new WHERE t.tenant_id = 'zava'"
        );
        assert!(text("INSERT INTO retail.stores").contains("'O''Fallon', 'O''FALLON'"));
        assert!(text("INSERT INTO fence.logins").contains("'sf_000000000000_b'::name, 'b'"));
        // The password comes with the role, and the role that may not log in has none.
        assert!(text("CREATE ROLE \"sf_000000000000_a\"").ends_with(" PASSWORD 'verifier-a'"));
        assert!(
            text("CREATE ROLE \"sf_000000000000_b\"").contains(" NOLOGIN ")
                && !text("CREATE ROLE \"sf_000000000000_b\"").contains("PASSWORD")
        );
        assert_eq!(statements.iter().filter(|found| found.text.contains("PASSWORD")).count(), 1);
        assert_eq!(
            text("GRANT"),
            "GRANT fence_login TO \"sf_000000000000_a\", \"sf_000000000000_b\" WITH INHERIT TRUE, SET FALSE"
        );
        let shared = statements.iter().position(|found| found.shared).unwrap();
        let (before, after) = statements.split_at(shared);
        assert!(before.iter().any(|found| found.key == Some(1)));
        let after: Vec<&str> = after.iter().filter_map(|found| found.text.split(' ').next()).collect();
        assert_eq!(after, ["GRANT", "UPDATE"], "whoever waits for the group waits for these two");
    }

    /// Where the administrator has a creator of logins, steps on roles are the creator's, and nothing else is.
    #[test]
    fn a_creator_makes_the_logins() {
        let desired = desired_with(&[(1, "Seattle")], Slot::A, 1);
        let mut observed = Observed::default();
        observed.database.has_creator = true;
        observed.database.may_set.insert("temp_file_limit".into());
        let plan = diff(&desired, &observed).unwrap();
        let mut acting = "";
        for Statement { text, .. } in statements(&desired, &plan, &|_| "verifier".into()) {
            match text.as_str() {
                "SET LOCAL ROLE \"fence_creator_07\"" => acting = "creator",
                "RESET ROLE" => acting = "",
                text => {
                    // The right to set it is the administrator's.
                    let on_role = text.contains(" ROLE ") && !text.contains("temp_file_limit");
                    let expected = if on_role || text.starts_with("GRANT ") { "creator" } else { "" };
                    assert_eq!(acting, expected, "{text}");
                }
            }
        }
        assert_eq!(acting, "", "the transaction ends as the administrator");
    }

    #[test]
    fn what_another_one_made_or_needs_a_right_of_ones_own_stays_with_the_administrator() {
        let desired = desired_with(&[(1, "Seattle")], Slot::A, 1);
        let mut observed = Observed::default();
        observed.database.has_creator = true;
        let plan = diff(&desired, &observed).unwrap();
        take(&desired, &mut observed, &plan);
        observed.database.roles.get_mut("sf_000000000000_b").unwrap().by_creator = false;
        let creator = diff(&desired, &observed).unwrap().creator.unwrap();
        let alter = |role: &str, attribute: fn(&mut Attributes)| {
            let to = Attributes::login(true);
            let mut from = to;
            attribute(&mut from);
            DatabaseAction::AlterRole { role: role.into(), from, to, connection_limit: None }
        };
        assert!(creator.takes(&alter("sf_000000000000_a", |from| from.login = false)));
        assert!(!creator.takes(&alter("sf_000000000000_a", |from| from.createdb = true)), "asks for CREATEDB");
        assert!(!creator.takes(&alter("sf_000000000000_b", |from| from.login = false)), "the administrator's own");
        let revoke = |grantor: &str| {
            let member = Member { name: "stranger".into(), grantor: grantor.into() };
            DatabaseAction::RevokeMember { role: "sf_000000000000_a".into(), member }
        };
        assert!(creator.takes(&revoke("fence_creator_07")));
        assert!(!creator.takes(&revoke("postgres")));
    }

    #[test]
    fn a_password_of_a_role_that_is_there_is_a_statement_of_its_own() {
        let action = DatabaseAction::SetPassword { role: "sf_000000000000_a".into(), slot: Slot::A };
        let plan = Plan { database: vec![action], ..Plan::default() };
        let found = statements(&desired(), &plan, &|_| "verifier".into());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].text, "ALTER ROLE \"sf_000000000000_a\" PASSWORD 'verifier'");
    }

    #[test]
    fn quoting_leaves_no_way_out() {
        assert_eq!(ident(r#"a"b"#), r#""a""b""#);
        assert_eq!(literal("O'Brien"), "'O''Brien'");
        assert_eq!(literal(r"a\'b"), r"E'a\\''b'");
        assert_eq!(parameter("pg_stat.x"), r#""pg_stat"."x""#);
    }
}
