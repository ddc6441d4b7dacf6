//! Hardening levels. `standard` needs no superuser and is what a managed server can have; there the gateway's lexical gate
//! refuses the same words. `strict` takes built-in functions away from PUBLIC, which only a superuser can do.
//!
//! A major upgrade (pg_upgrade keeps the privileges, a dump and restore may not) or a new version's new overloads can undo
//! it: the check names what is open.

use sqlx::{AssertSqlSafe, Connection, SqlSafeStr, postgres::PgConnection};

use super::VerifyError;

/// How much is taken away from the users' SQL beyond what the fence refuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// The fence alone: any administrator, any server.
    #[default]
    Standard,
    /// Risky built-in functions revoked from PUBLIC.
    Strict,
}

/// Built-in functions that the strict level revokes from PUBLIC, and why.
#[derive(Clone, Copy, Debug)]
pub struct Revocation {
    /// Names in `pg_catalog`; every overload (of `ts_rewrite` the one with two arguments).
    pub functions: &'static [&'static str],
    /// The attack that it closes.
    pub closes: &'static str,
    /// Roles that keep them.
    pub kept_by: &'static [&'static str],
}

/// What `strict` revokes. `fence_owner` keeps what the fence itself and the migrator need.
pub const STRICT: [Revocation; 11] = [
    Revocation {
        functions: &["set_config"],
        closes: "a statement that switches statement_timeout off or work_mem up for itself",
        kept_by: &["fence_owner"],
    },
    Revocation {
        functions: &[
            "pg_advisory_lock",
            "pg_advisory_lock_shared",
            "pg_advisory_unlock",
            "pg_advisory_unlock_all",
            "pg_advisory_unlock_shared",
            "pg_advisory_xact_lock",
            "pg_advisory_xact_lock_shared",
            "pg_try_advisory_lock",
            "pg_try_advisory_lock_shared",
            "pg_try_advisory_xact_lock",
            "pg_try_advisory_xact_lock_shared",
        ],
        closes: "filling the lock table that all databases share, after which nobody can connect",
        kept_by: &["fence_owner"],
    },
    Revocation {
        functions: &["pg_logical_emit_message"],
        closes: "writing WAL without end from a read-only transaction",
        kept_by: &["fence_owner"],
    },
    Revocation {
        functions: &["pg_notify", "pg_export_snapshot", "pg_current_xact_id", "txid_current"],
        closes: "leaving traces outside the transaction: files, transaction ids, a queue shared by all databases",
        kept_by: &["fence_owner"],
    },
    Revocation {
        functions: &["currtid2"],
        closes: "counting rows past row-level security, one address after another",
        kept_by: &["fence_owner"],
    },
    Revocation {
        functions: &["setseed"],
        closes: "choosing what random() draws, within the statement (the ticket seeds anew for the next one)",
        kept_by: &["fence_owner"],
    },
    Revocation {
        functions: &["pg_sleep", "pg_sleep_for", "pg_sleep_until"],
        closes: "holding a pooled connection without using the processor",
        kept_by: &["fence_owner"],
    },
    Revocation {
        functions: &["pg_cancel_backend", "pg_terminate_backend"],
        closes: "ending other sessions, should a later version's role check differ",
        kept_by: &["fence_owner", "pg_signal_backend"],
    },
    Revocation {
        functions: &[
            "pg_stat_get_activity",
            "pg_stat_get_backend_activity",
            "pg_lock_status",
            "pg_prepared_statement",
            "pg_cursor",
            "pg_relation_filepath",
        ],
        closes: "looking at other tenants' sessions: when they work, under which role, from where",
        kept_by: &["fence_owner", "pg_monitor"],
    },
    Revocation {
        functions: &[
            "query_to_xml",
            "query_to_xmlschema",
            "query_to_xml_and_xmlschema",
            "cursor_to_xml",
            "cursor_to_xmlschema",
            "table_to_xml",
            "table_to_xmlschema",
            "table_to_xml_and_xmlschema",
            "schema_to_xml",
            "schema_to_xmlschema",
            "schema_to_xml_and_xmlschema",
            "database_to_xml",
            "database_to_xmlschema",
            "database_to_xml_and_xmlschema",
            "ts_stat",
            "ts_rewrite",
        ],
        closes: "SQL inside strings, which the gateway's lexical gate does not see",
        kept_by: &["fence_owner"],
    },
    Revocation {
        functions: &[
            "lo_creat",
            "lo_create",
            "lo_from_bytea",
            "lo_get",
            "lo_open",
            "lo_put",
            "lo_unlink",
            "lo_truncate",
            "lo_truncate64",
            "lo_lseek",
            "lo_lseek64",
            "lo_tell",
            "lo_tell64",
            "lo_close",
            "loread",
            "lowrite",
        ],
        closes: "large objects, which belong to no store",
        kept_by: &["fence_owner"],
    },
];

pub(super) fn names() -> Vec<&'static str> {
    STRICT.iter().flat_map(|revocation| revocation.functions).copied().collect()
}

/// The attack that revoking a function closes.
pub(super) fn closes(name: &str) -> Option<&'static str> {
    STRICT.iter().find(|revocation| revocation.functions.contains(&name)).map(|revocation| revocation.closes)
}

/// One statement of the strict level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HardenStep {
    /// The statement, without a semicolon.
    pub sql: String,
    /// The attack that it closes; none for the grant to the roles that keep the functions.
    pub closes: Option<&'static str>,
}

/// The statements that bring this server's version to the strict level; changes nothing and needs no superuser.
///
/// # Errors
/// [`VerifyError::Database`].
pub async fn harden_steps(connection: &mut PgConnection) -> Result<Vec<HardenStep>, VerifyError> {
    let mut steps = Vec::new();
    for Revocation { functions, closes, kept_by } in STRICT {
        // A built-in that this version does not have is no error.
        let functions: Vec<String> = sqlx::query_scalar(
            "SELECT 'pg_catalog.' || quote_ident(p.proname) || '(' || pg_get_function_identity_arguments(p.oid) || ')' FROM pg_proc p \
              WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = ANY ($1) AND (p.proname <> 'ts_rewrite' OR p.pronargs = 2) \
              ORDER BY 1",
        )
        .bind(functions)
        .fetch_all(&mut *connection)
        .await?;
        if functions.is_empty() {
            continue;
        }
        let (functions, kept_by) = (functions.join(", "), kept_by.join(", "));
        let revoke = format!("REVOKE EXECUTE ON FUNCTION {functions} FROM PUBLIC");
        steps.push(HardenStep { sql: revoke, closes: Some(closes) });
        steps.push(HardenStep { sql: format!("GRANT EXECUTE ON FUNCTION {functions} TO {kept_by}"), closes: None });
    }
    Ok(steps)
}

/// Brings a database to the strict level, as superuser, in one transaction, and returns what was run. May be run again.
///
/// It concerns every role of the database but superusers and those kept: other applications in the same database may miss
/// `set_config` or advisory locks.
///
/// # Errors
/// [`VerifyError::NotSuperuser`] before anything is changed.
pub async fn harden(connection: &mut PgConnection) -> Result<Vec<HardenStep>, VerifyError> {
    // anybody else would get a warning for each function, and success
    let (role, superuser): (String, bool) =
        sqlx::query_as("SELECT rolname::text, rolsuper FROM pg_roles WHERE rolname = current_user")
            .fetch_one(&mut *connection)
            .await?;
    if !superuser {
        return Err(VerifyError::NotSuperuser { role });
    }
    let mut transaction = connection.begin().await?;
    let steps = harden_steps(&mut transaction).await?;
    for step in &steps {
        sqlx::raw_sql(AssertSqlSafe(step.sql.clone()).into_sql_str()).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(steps)
}
