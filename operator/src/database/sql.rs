//! The statement behind each step. `plan` prints the same text that `run` executes.
//!
//! Commands that change roles take no bind values, so names and texts are quoted here. Keys are not here at all: texts
//! and bound values end up in the server's log under `log_statement`, the data of a COPY does not.

use std::fmt::Write as _;

use storefence_tenancy::credentials::{ContextKey, Slot};
use zeroize::Zeroizing;

use crate::reconcile::{
    action::DatabaseAction,
    desired::{Desired, LOGIN_GROUP},
};

/// A name in double quotes.
#[must_use]
pub fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text in single quotes, whatever `standard_conforming_strings` says.
#[must_use]
pub fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

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

/// The text of a step. `verifier` is asked for the SCRAM verifier of a slot's password.
#[must_use]
pub fn statement(desired: &Desired, action: &DatabaseAction, verifier: &dyn Fn(Slot) -> String) -> String {
    let tenant = literal(desired.tenant_id.as_str());
    let uid = literal(&desired.owner_uid);
    let key = format!("(SELECT tenant_key FROM retail.tenants WHERE tenant_id = {tenant})");
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
        DatabaseAction::InsertRetailStore { id, name, display_name } => format!(
            "INSERT INTO retail.stores (store_id, tenant_key, store_name, display_name) VALUES ('{id}', {key}, {}, {})",
            literal(name),
            literal(display_name)
        ),
        DatabaseAction::RenameRetailStore { id, name, display_name } => format!(
            "UPDATE retail.stores SET store_name = {}, display_name = {} WHERE store_id = '{id}' AND tenant_key = {key}",
            literal(name),
            literal(display_name)
        ),
        DatabaseAction::RemoveFenceStore { id } => {
            format!("DELETE FROM fence.tenant_stores WHERE store_id = '{id}' AND tenant_key = {key}")
        }
        DatabaseAction::InsertFenceStore { id, name } => format!(
            "INSERT INTO fence.tenant_stores (store_id, tenant_key, store_name) VALUES ('{id}', {key}, {})",
            literal(name)
        ),
        DatabaseAction::VacateFenceStore { id, name } | DatabaseAction::RenameFenceStore { id, name } => {
            format!(
                "UPDATE fence.tenant_stores SET store_name = {} WHERE store_id = '{id}' AND tenant_key = {key}",
                literal(name)
            )
        }
        DatabaseAction::InsertLogin { role, slot } => {
            format!("INSERT INTO fence.logins (login, tenant_key, slot) VALUES ({}, {key}, '{slot}')", literal(role))
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
        DatabaseAction::GrantLoginGroup { role } => {
            format!("GRANT {LOGIN_GROUP} TO {} WITH INHERIT TRUE, SET FALSE", ident(role))
        }
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

    #[test]
    fn a_keys_row_is_what_copy_reads() {
        let row = copy_row(7, 1, &ContextKey::new([0; 32]));
        assert_eq!(row.as_str(), format!("7\t1\t\\\\x{}\t\\\\x{}\n", "36".repeat(64), "5c".repeat(64)));
    }

    #[test]
    fn quoting_leaves_no_way_out() {
        assert_eq!(ident(r#"a"b"#), r#""a""b""#);
        assert_eq!(literal("O'Brien"), "'O''Brien'");
        assert_eq!(literal(r"a\'b"), r"E'a\\''b'");
        assert_eq!(parameter("pg_stat.x"), r#""pg_stat"."x""#);
    }
}
