//! What a caller is told when a statement could not be run.

use super::{Caller, Code, ToolError};
use crate::db::{QueryError, pool::PoolError, query::StatementError};

/// When to come back where all connections were busy, in seconds: nobody knows how long the statements take.
const AFTER_BUSY: u64 = 2;

/// Roles and objects of the fence, which a caller's own tables may not be called by mistake: `fence_price` is no part of it.
const ROLES: [&str; 4] = ["fence_owner", "fence_reader", "fence_runner", "fence_login"];
const OBJECTS: [&str; 16] = [
    "accept",
    "context_keys",
    "logins",
    "over_views",
    "plan_hash",
    "run_query",
    "run_report",
    "schema_history",
    "search_products",
    "settings",
    "tenant_key",
    "tenant_stores",
    "tenants",
    "ticket",
    "ticket_seq",
    "visible_stores",
];

/// Whose statement failed.
#[derive(Clone, Copy, Debug)]
pub enum Author<'a> {
    /// The caller's: they can write another one.
    Caller(&'a str),
    /// Ours, for this tool: the caller has never seen it.
    Gateway(&'a str),
}

/// Logs a failure under its correlation id and puts it into the caller's words. Timeouts and complaints about a
/// statement are the caller's own business; anything else is an operator's.
pub fn to_tool_error(caller: &Caller, error: QueryError, author: Author<'_>) -> ToolError {
    let reason = error.reason();
    match &error {
        QueryError::Statement(_)
        | QueryError::Timeout(_)
        | QueryError::Pool(PoolError::Busy | PoolError::PrincipalBusy | PoolError::Throttled) => {
            tracing::debug!(correlation_id = %caller.correlation, reason, "the statement failed");
        }
        other => tracing::error!(
            correlation_id = %caller.correlation, tenant = %caller.tenant.id(), reason, error = %other,
            "the statement could not be run"
        ),
    }
    explain(error, author)
}

fn explain(error: QueryError, author: Author<'_>) -> ToolError {
    match error {
        QueryError::Statement(error) => statement(error),
        QueryError::Timeout(limit) => ToolError::new(Code::Timeout, too_long(limit.as_secs_f64(), author)),
        QueryError::Pool(PoolError::Busy) => {
            busy("too many statements of this tenant are running at once; try again in a few seconds")
        }
        QueryError::Pool(PoolError::PrincipalBusy) => {
            busy("other statements of yours are still running; wait for their answers, and ask for fewer at once")
        }
        QueryError::Pool(PoolError::Throttled) => busy(
            "statements of yours ran long lately, so they run one after the other, and another one runs; try again in a few \
             seconds, and narrow statements or aggregate more",
        ),
        QueryError::Pool(_) | QueryError::Broken(_) | QueryError::Stale(_) | QueryError::Context { .. } => {
            ToolError::new(
                Code::Unavailable,
                "the tenant's database is not available at the moment; try again in a few seconds",
            )
        }
    }
}

fn busy(message: &str) -> ToolError {
    ToolError { retry_after_seconds: Some(AFTER_BUSY), ..ToolError::new(Code::RateLimited, message) }
}

fn too_long(seconds: f64, author: Author<'_>) -> String {
    match author {
        Author::Caller(sql) => {
            let start: String = sql.chars().take(100).collect();
            format!(
                "the statement ran longer than {seconds} s and was cancelled; narrow it or aggregate more. It begins: {start}"
            )
        }
        Author::Gateway(tool) => format!(
            "{tool} took longer than {seconds} s and was cancelled; ask for less, such as a shorter period or one store, or \
             try again in a few seconds"
        ),
    }
}

/// SQLSTATE, primary message and position concern the caller's own statement. Names of the machinery do not.
fn statement(error: StatementError) -> ToolError {
    let StatementError { sqlstate, message, position } = error;
    let code = if sqlstate == "42501" { Code::Authorization } else { Code::Database };
    let message = if names_the_machinery(&message) {
        "the statement is not allowed here; write one SELECT over the tables of the schema retail".to_owned()
    } else {
        of_the_tables(&message)
    };
    ToolError { sqlstate: Some(sqlstate), position, ..ToolError::new(code, message) }
}

/// A message about a view, in the caller's words: `views_retail.orders` is what the caller wrote as `retail.orders`.
fn of_the_tables(message: &str) -> String {
    let mut told = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(at) = rest.find("views_") {
        let (before, name) = rest.split_at(at);
        told.push_str(before);
        let schema = name.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or_default();
        let begins = !before.ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | '.'));
        let of_schema = begins && name[schema.len()..].starts_with('.') && schema.len() > "views_".len();
        told.push_str(if of_schema { &schema["views_".len()..] } else { schema });
        rest = &name[schema.len()..];
    }
    told + rest
}

/// Whether a message has the name of a login, or of a role or an object of the fence. The tenant's own names may begin alike:
/// some sell fences.
fn names_the_machinery(message: &str) -> bool {
    let words = message.split(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.' | '$')));
    let mut before = "";
    for word in words.filter(|word| !word.is_empty()) {
        let object = word.strip_prefix("fence.").is_some_and(|name| OBJECTS.contains(&name.trim_end_matches('.')));
        if object || ROLES.contains(&word) || is_login(word) || (before, word) == ("schema", "fence") {
            return true;
        }
        before = word;
    }
    false
}

/// Logins are called `sf_`, twelve hexadecimal digits, and the slot.
fn is_login(word: &str) -> bool {
    let inner = word.strip_prefix("sf_").and_then(|rest| rest.strip_suffix("_a").or_else(|| rest.strip_suffix("_b")));
    inner.is_some_and(|hex| hex.len() == 12 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, time::Duration};

    use super::{Author, Code, OBJECTS, QueryError, StatementError, explain};

    fn refused(sqlstate: &str, message: &str) -> super::ToolError {
        let (sqlstate, message) = (sqlstate.to_owned(), message.to_owned());
        let error = StatementError { sqlstate, message, position: Some(3) };
        explain(QueryError::Statement(error), Author::Caller("SELECT"))
    }

    #[test]
    fn names_of_the_machinery_stay_inside() {
        let hidden = refused("42501", "permission denied for table fence_tenants of sf_0123456789ab_a");
        assert_eq!((hidden.code, hidden.position), (Code::Authorization, Some(3)));
        for message in [
            "permission denied for table fence_tenants of sf_0123456789ab_a",
            "role \"sf_0123456789ab_b\" does not exist",
            "relation \"fence.tenants\" does not exist",
            "function fence.run_query(text, integer) does not exist",
            "permission denied for schema fence",
            "must be member of role \"fence_reader\"",
        ] {
            let said = refused("42501", message).message;
            assert!(!said.contains("sf_") && !said.contains("fence") && said.contains("schema retail"), "{said}");
        }
    }

    #[test]
    fn names_of_the_tenant_pass() {
        for message in [
            "column \"fence_revenu\" does not exist",
            "relation \"retail.fences\" does not exist",
            "column fence.pric does not exist",
            "column garden_fence.tenants does not exist",
            "column \"sf_sales\" does not exist",
            "invalid input syntax for type integer: \"Picket Fence 6 ft\"",
            "column \"run_query_count\" does not exist",
        ] {
            let said = refused("42703", message);
            assert_eq!((said.code, said.message.as_str()), (Code::Database, message));
        }
    }

    #[test]
    fn views_are_called_as_the_caller_calls_them() {
        for (message, said) in [
            ("relation \"views_retail.orderz\" does not exist", "relation \"retail.orderz\" does not exist"),
            ("views_chain.a, views_retail.b", "chain.a, retail.b"),
            ("column \"views_count\" does not exist", "column \"views_count\" does not exist"),
            ("column page_views_x.y does not exist", "column page_views_x.y does not exist"),
            ("column v.views_retail.x and views_.x", "column v.views_retail.x and views_.x"),
        ] {
            assert_eq!(refused("42P01", message).message, said);
        }
    }

    #[test]
    fn every_object_of_the_fence_is_known() {
        let migrations = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations");
        for file in fs::read_dir(migrations).expect("migrations") {
            let text = fs::read_to_string(file.expect("a file").path()).expect("a text");
            for (kind, rest) in text.lines().filter_map(|line| line.split_once(" fence.")) {
                let name: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                let made = kind.starts_with("CREATE")
                    && ["FUNCTION", "TABLE", "SEQUENCE", "VIEW"].iter().any(|what| kind.ends_with(what));
                assert!(!made || OBJECTS.contains(&name.as_str()), "fence.{name}");
            }
        }
    }

    #[test]
    fn only_an_author_is_told_to_write_something_else() {
        let late = |author| explain(QueryError::Timeout(Duration::from_secs(2)), author);
        let (theirs, ours) = (late(Author::Caller("SELECT 7")), late(Author::Gateway("get_store_performance")));
        assert_eq!((theirs.code, ours.code), (Code::Timeout, Code::Timeout));
        assert!(theirs.message.ends_with("It begins: SELECT 7"), "{theirs}");
        assert!(ours.message.contains("shorter period or one store") && !ours.message.contains("statement"), "{ours}");
    }
}
