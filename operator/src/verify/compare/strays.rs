//! What was changed outside of the fence's own schemas.

use super::Report;
use crate::verify::{Severity, Stray};

impl Report<'_> {
    pub(super) fn strays(&mut self) {
        for Stray { kind, object, found, remedy } in &self.snapshot.strays {
            let (severity, expected) = judged(kind);
            self.add_as(severity, object, found, expected, remedy);
        }
    }
}

/// What a kind of stray means, and what there should be instead.
fn judged(kind: &str) -> (Severity, &'static str) {
    match kind {
        "leakproof" => (
            Severity::Unsafe,
            "not leakproof: it would see hidden rows before the policies do, and its errors would tell their values",
        ),
        "definer" => (Severity::Unsafe, "no function that runs with its owner's rights in pg_catalog"),
        "function" => {
            (Severity::Notice, "no function in pg_catalog but PostgreSQL's own: it answers in place of another")
        }
        "made" => (
            Severity::Unsafe,
            "nothing in pg_catalog, and no cast or operator class of built-in types, but PostgreSQL's own",
        ),
        "privilege" => (Severity::Unsafe, "no privilege in pg_catalog but those that PostgreSQL ships (pg_init_privs)"),
        "parameter" => (Severity::Unsafe, "no right to set a parameter for PUBLIC, the fence's roles or the logins"),
        "setting" => (Severity::Unsafe, "no setting of a role of the fence's"),
        "login" => (Severity::Unsafe, "no event trigger at login: it runs in the tenants' sessions"),
        "ddl" => (Severity::Notice, "no event trigger: migrations run it with the administrator's rights"),
        "published keys" => (Severity::Unsafe, "no publication of schema fence: whoever receives it has the keys"),
        "published" => (Severity::Notice, "that all who may subscribe may see the rows of every tenant"),
        "texts" => (
            Severity::Notice,
            "callers cannot read it: with pg_stat_statements.track = all it has the statements of all tenants",
        ),
        _ => (Severity::Unsafe, "no view of an extension over tables behind the fence"),
    }
}
