//! The lexical gate: one SELECT-like statement, free of names that could hurt others.
//!
//! The gate adds clear errors and defence in depth; the fence in the database is the actual protection. Once `U&"…"`
//! identifiers and the functions that run SQL from strings are refused, a function can only be called by a name that is
//! a token of the text. So checking the tokens is complete without a parser, and all of PostgreSQL's SELECT remains
//! available.

pub mod lexer;
pub mod moment;
pub mod names;
pub mod weight;
pub mod written;

use std::borrow::Cow;

use lexer::{Kind, Token, tokens};
use names::{Why, refused};

/// The longest statement, in bytes.
pub const STATEMENT_MAX: usize = 256 * 1024;

/// Why a statement is not run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The message for the caller; it quotes the refused part.
    pub message: String,
    /// The position in characters, from 1 as PostgreSQL counts; absent if the whole statement is refused.
    pub position: Option<u32>,
    /// The label for metrics.
    pub reason: &'static str,
    /// Whether the statement asks which tables exist.
    pub of_tables: bool,
}

/// A statement that may be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked<'a> {
    /// The part to run: without trailing semicolons and comments, otherwise unchanged, so that positions in
    /// PostgreSQL's errors match the caller's text.
    pub sql: &'a str,
    /// See [`gathers`].
    pub gathers: bool,
}

/// Checks a statement.
///
/// # Errors
/// [`Refusal`] names the first word that is not allowed.
pub fn check(text: &str) -> Result<Checked<'_>, Refusal> {
    if text.len() > STATEMENT_MAX {
        let message = format!("the statement is longer than {} KiB", STATEMENT_MAX / 1024);
        return Err(Refusal { message, position: None, reason: "TooLong", of_tables: false });
    }
    if let Some(at) = text.find(|c: char| !c.is_whitespace()).filter(|at| text[*at..].starts_with('\\')) {
        let message = "commands of psql cannot be run: write one SELECT".to_owned();
        return Err(Refusal { of_tables: true, ..refuse(text, at, "NotASelect", message) });
    }
    let all = tokens(text).map_err(|error| refuse(text, error.offset(), "Syntax", error.to_string()))?;
    let last = all.iter().rposition(|token| token.kind != Kind::Punctuation(b';'));
    let Some(last) = last else {
        let message = "the statement is empty; write one SELECT".to_owned();
        return Err(Refusal { message, position: None, reason: "Empty", of_tables: false });
    };
    let tokens = &all[..=last];
    one_select(text, tokens)?;
    for (i, token) in tokens.iter().enumerate() {
        check_token(text, tokens, i, *token)?;
    }
    weight::weigh(text, tokens).map_err(|heavy| {
        let at = tokens.get(heavy.at).map_or(0, |token| token.start);
        refuse(text, at, heavy.why.reason(), heavy.why.sentence())
    })?;
    Ok(Checked { sql: &text[..tokens[last].end], gathers: any_gathers(text, tokens) })
}

fn one_select(text: &str, tokens: &[Token]) -> Result<(), Refusal> {
    let first = tokens.iter().find(|token| token.kind != Kind::Punctuation(b'('));
    let word = first.map(|token| name(text, token)).unwrap_or_default();
    if !matches!(word.as_ref(), "select" | "with" | "values" | "table") {
        let at = first.map_or(0, |token| token.start);
        let shown: String = word.chars().take(40).collect();
        let message = match word.as_ref() {
            "insert" | "update" | "delete" | "merge" => writes(&word),
            _ => format!("'{shown}' cannot be run: write one SELECT (it may begin with WITH, VALUES or TABLE)"),
        };
        let of_tables = matches!(word.as_ref(), "show" | "describe" | "desc");
        return Err(Refusal { of_tables, ..refuse(text, at, "NotASelect", message) });
    }
    // After a parenthesis a new statement can begin: in WITH, or after it.
    let writing = (1..tokens.len()).find(|&i| {
        let next = tokens.get(i + 1).map(|token| name(text, token)).unwrap_or_default();
        // UPDATE, a table with its schema and alias, SET
        let sets =
            || tokens[i + 1..].iter().take(8).any(|token| token.kind == Kind::Word && name(text, token) == "set");
        matches!(tokens[i - 1].kind, Kind::Punctuation(b'(' | b')'))
            && tokens[i].kind == Kind::Word
            && match name(text, &tokens[i]).as_ref() {
                "insert" | "merge" => next == "into",
                "delete" => next == "from",
                "update" => sets(),
                _ => false,
            }
    });
    if let Some(i) = writing {
        return Err(refuse(text, tokens[i].start, "NotASelect", writes(&name(text, &tokens[i]))));
    }
    match tokens.iter().find(|token| token.kind == Kind::Punctuation(b';')) {
        Some(token) => {
            Err(refuse(text, token.start, "SeveralStatements", "only one statement can be run at a time".into()))
        }
        None => Ok(()),
    }
}

fn writes(word: &str) -> String {
    format!("'{word}' changes rows, and this only reads: write one SELECT")
}

fn check_token(text: &str, tokens: &[Token], i: usize, token: Token) -> Result<(), Refusal> {
    match token.kind {
        Kind::UnicodeQuoted => {
            let message = "identifiers of the form U&\"…\" are not available here; write the name itself".to_owned();
            Err(refuse(text, token.start, "UnicodeIdentifier", message))
        }
        Kind::Parameter => {
            let message =
                format!("the parameter {} has no value; write the value itself", &text[token.start..token.end]);
            Err(refuse(text, token.start, "Parameter", message))
        }
        Kind::Word | Kind::Quoted => {
            let name = name(text, &token);
            let next = tokens.get(i + 1).map(|token| token.kind);
            // `(value).name` calls a function as well, and so does TREAT(value AS name).
            let opens = |at: usize, byte| tokens.get(at).is_some_and(|token| token.kind == Kind::Punctuation(byte));
            let called = opens(i + 1, b'(') || (i > 1 && opens(i - 1, b'.') && opens(i - 2, b')'));
            if name == "treat" && opens(i + 1, b'(') {
                let message =
                    "'treat' calls a function by the name of a type and is not available here; cast the value";
                return Err(refuse(text, token.start, "ForbiddenName", message.into()));
            }
            if name == "pg_typeof" && !is_text(text, tokens, i) {
                let message = "'pg_typeof' is available as a text only; write pg_typeof(…)::text";
                return Err(refuse(text, token.start, "ForbiddenName", message.into()));
            }
            if let Some(why) = refused(&name, called) {
                let message = format!("'{name}' {}", why.sentence());
                let of_tables = why == Why::Catalog && !called;
                return Err(Refusal { of_tables, ..refuse(text, token.start, "ForbiddenName", message) });
            }
            if name == "fence" && next == Some(Kind::Punctuation(b'.')) {
                return Err(refuse(
                    text,
                    token.start,
                    "ForbiddenName",
                    "the schema 'fence' is not available here".into(),
                ));
            }
            // With two arguments the second one is a query.
            if name == "ts_rewrite" && arguments(&tokens[i + 1..]) != 3 {
                let message = "'ts_rewrite' is available with three arguments only: with two it runs SQL from a string";
                return Err(refuse(text, token.start, "ForbiddenName", message.into()));
            }
            Ok(())
        }
        Kind::Text | Kind::Number | Kind::Operator | Kind::Punctuation(_) => Ok(()),
    }
}

/// Whether the statement aggregates: it groups, drops duplicates, or calls an aggregate. This is a hint for how to run
/// it; it is wrong for a column or function with an aggregate's name, which does no harm.
#[must_use]
pub fn gathers(text: &str) -> bool {
    tokens(text).is_ok_and(|tokens| any_gathers(text, &tokens))
}

fn any_gathers(text: &str, tokens: &[Token]) -> bool {
    tokens.iter().enumerate().any(|(i, token)| {
        let called = || tokens.get(i + 1).is_some_and(|next| next.kind == Kind::Punctuation(b'('));
        match (token.kind, name(text, token).as_ref()) {
            (Kind::Word, "group" | "distinct") => true,
            (Kind::Word | Kind::Quoted, name) => names::is_aggregate(name) && called(),
            _ => false,
        }
    })
}

/// Whether the call at `i` is cast to text directly: `f(…)::text` or `CAST(f(…) AS text)`. Otherwise a value of another
/// type beside it would determine the result's type, and a number could become the name of the object that it
/// identifies.
fn is_text(text: &str, tokens: &[Token], i: usize) -> bool {
    let is = |at: usize, written: &str| {
        tokens.get(at).is_some_and(|token| text[token.start..token.end].eq_ignore_ascii_case(written))
    };
    let mut depth = 0_usize;
    let end = tokens.iter().enumerate().skip(i + 1).find_map(|(at, token)| {
        match token.kind {
            Kind::Punctuation(b'(') => depth += 1,
            Kind::Punctuation(b')') => depth = depth.saturating_sub(1),
            _ => {}
        }
        (depth == 0).then_some(at)
    });
    let Some(end) = end.filter(|end| *end > i + 1) else { return false };
    let text_at = |at: usize| is(at, "text") || is(at, "varchar");
    let cast =
        i > 1 && is(i - 1, "(") && is(i - 2, "cast") && is(end + 1, "as") && text_at(end + 2) && is(end + 3, ")");
    (is(end + 1, "::") && text_at(end + 2)) || cast
}

/// Number of arguments in the parentheses that follow; 0 if there are none.
fn arguments(tokens: &[Token]) -> usize {
    let mut depth = 0_usize;
    let mut commas = 0;
    for token in tokens {
        match token.kind {
            Kind::Punctuation(b'(' | b'[') => depth += 1,
            Kind::Punctuation(b')' | b']') if depth <= 1 => return commas + 1,
            Kind::Punctuation(b')' | b']') => depth -= 1,
            Kind::Punctuation(b',') if depth == 1 => commas += 1,
            _ if depth == 0 => return 0,
            _ => {}
        }
    }
    0
}

/// The name that an identifier token stands for.
fn name<'a>(text: &'a str, token: &Token) -> Cow<'a, str> {
    let written = &text[token.start..token.end];
    match token.kind {
        Kind::Quoted => {
            let inner = &written[1..written.len() - 1];
            if inner.contains("\"\"") { inner.replace("\"\"", "\"").into() } else { inner.into() }
        }
        Kind::Word if written.bytes().any(|byte| byte.is_ascii_uppercase()) => written.to_ascii_lowercase().into(),
        _ => written.into(),
    }
}

fn refuse(text: &str, at: usize, reason: &'static str, message: String) -> Refusal {
    let position = text.get(..at).and_then(|before| u32::try_from(before.chars().count() + 1).ok());
    Refusal { message, position, reason, of_tables: false }
}

#[cfg(test)]
mod tests {
    use super::{check, gathers};

    #[test]
    fn trailing_semicolons_and_comments_go() {
        let sql = |text| check(text).map(|checked| checked.sql);
        assert_eq!(sql("SELECT 1; -- done\n ;"), Ok("SELECT 1"));
        assert_eq!(sql("  (SELECT 1) /* x */"), Ok("  (SELECT 1)"));
        assert_eq!(sql("SELECT ';'"), Ok("SELECT ';'"));
    }

    #[test]
    fn refusals_name_the_word_and_the_place() {
        for (text, reason, word, position) in [
            ("", "Empty", "empty", None),
            (" ; -- x", "Empty", "empty", None),
            ("SET ROLE x", "NotASelect", "'set'", Some(1)),
            (" \\dt retail.*", "NotASelect", "psql", Some(2)),
            ("DELETE FROM orders", "NotASelect", "only reads", Some(1)),
            ("WITH x AS (DELETE FROM orders RETURNING 1) TABLE x", "NotASelect", "only reads", Some(12)),
            ("WITH x AS (UPDATE orders SET a = 1 RETURNING 1) TABLE x", "NotASelect", "only reads", Some(12)),
            ("WITH x AS (SELECT 1) INSERT INTO orders TABLE x", "NotASelect", "only reads", Some(22)),
            ("WITH x AS (MERGE INTO orders USING y ON true) TABLE x", "NotASelect", "only reads", Some(12)),
            ("((EXPLAIN SELECT 1", "NotASelect", "'explain'", Some(3)),
            ("SELECT 1; SELECT 2", "SeveralStatements", "one statement", Some(9)),
            ("SELECT 1 /* x", "Syntax", "comment", Some(10)),
            ("SELECT 'ü', Pg_Sleep(1)", "ForbiddenName", "'pg_sleep'", Some(13)),
            ("SELECT \"pg_sleep\"(1)", "ForbiddenName", "'pg_sleep'", Some(8)),
            ("SELECT pg_catalog.pg_sleep(1)", "ForbiddenName", "'pg_catalog'", Some(8)),
            ("SELECT U&\"pg\\005fsleep\"(1)", "UnicodeIdentifier", "U&", Some(8)),
            ("SELECT $1", "Parameter", "$1", Some(8)),
            ("SELECT * FROM fence.tenants", "ForbiddenName", "'fence'", Some(15)),
            ("SELECT * FROM \"fence\" . tenants", "ForbiddenName", "'fence'", Some(15)),
            ("SELECT ts_rewrite(q, 'SELECT 1')", "ForbiddenName", "ts_rewrite", Some(8)),
            ("SELECT E'\\'' || pg_sleep(1) || ''", "ForbiddenName", "pg_sleep", Some(17)),
            ("SELECT '\\' || pg_sleep(1) --'", "ForbiddenName", "pg_sleep", Some(15)),
        ] {
            let refusal = check(text).expect_err(text);
            assert_eq!((refusal.reason, refusal.position), (reason, position), "{text}: {refusal}");
            assert!(refusal.message.contains(word), "{text}: {refusal}");
        }
    }

    #[test]
    fn questions_for_tables_are_known_as_such() {
        for text in [
            "SHOW TABLES",
            "\\d",
            "DESCRIBE orders",
            "desc orders",
            "SELECT * FROM information_schema.tables",
            "TABLE pg_class",
        ] {
            assert!(check(text).expect_err(text).of_tables, "{text}");
        }
        for text in ["SET ROLE x", "SELECT pg_sleep(1)", "SELECT 1; SELECT 2", "SELECT to_regclass('x')"] {
            assert!(!check(text).expect_err(text).of_tables, "{text}");
        }
    }

    #[test]
    fn catalogue_names_are_refused_in_every_spelling() {
        for (text, word) in [
            ("SELECT to_regtypemod('varchar(3)')", "to_regtypemod"),
            ("SELECT '{a=r/b}'::_aclitem", "_aclitem"),
            ("SELECT '{a}'::\"_regrole\"", "_regrole"),
            ("SELECT RegRoleIn('a'::cstring)", "regrolein"),
            ("SELECT aclitemout(x)", "aclitemout"),
            ("SELECT Format_Type /* x */ (23, NULL)", "format_type"),
            ("SELECT \"format_type\"(23, NULL)", "format_type"),
            ("SELECT currtid('1'::oid, '(0,1)')", "currtid"),
            ("SELECT (1.0).setseed", "setseed"),
            ("SELECT array_in('{10}'::cstring, 4096, -1)", "array_in"),
            ("SELECT \"array_in\" ('{10}', 4096, -1)", "array_in"),
            ("SELECT oidvectorin('10')", "oidvectorin"),
            ("SELECT domain_in('10', 16400, -1)", "domain_in"),
            ("SELECT (x).record_out FROM x", "record_out"),
            ("SELECT plpgsql_validator(1)", "plpgsql_validator"),
            ("SELECT vector_in('[1]', 0, -1)", "vector_in"),
            ("SELECT CASE WHEN g IS NULL THEN pg_typeof(1) ELSE g END::text FROM g", "pg_typeof"),
            ("SELECT (pg_typeof(1))::text", "pg_typeof"),
            ("SELECT coalesce(pg_typeof(1), g)::text FROM g", "pg_typeof"),
            ("SELECT x.pg_typeof FROM x", "pg_typeof"),
            ("SELECT get_current_ts_config()", "get_current_ts_config"),
            ("SELECT TREAT(0 AS oidin)", "treat"),
            ("SELECT session_user", "session_user"),
            ("SELECT \"session_user\"()", "session_user"),
            ("SELECT System_User", "system_user"),
            ("SELECT current_catalog", "current_catalog"),
            ("SELECT current_database()", "current_database"),
            ("SELECT current_query()", "current_query"),
        ] {
            let refusal = check(text).expect_err(text);
            assert!(refusal.reason == "ForbiddenName" && refusal.message.contains(&format!("'{word}'")), "{refusal}");
        }
    }

    #[test]
    fn what_people_call_their_columns_is_free() {
        for text in [
            "SELECT format_type, to_region, from_region, description FROM x",
            "SELECT x.format_type FROM (SELECT 'pdf' AS format_type) x",
            "SELECT regin, region, register, registered_in, aclu, txid, xmin FROM x",
            "SELECT seed, set_seed, random() FROM x",
            "SELECT (update + 1), (x).delete, (update IS NULL), (insert) FROM x",
            "SELECT time_in, x.date_out, stock_in - stock_out, is_support, current_database FROM x",
            "SELECT pg_typeof(f(1, (2)))::text, CAST(pg_typeof(1) AS text), current_user",
            "SELECT count(*) FROM x TABLESAMPLE system (10) WHERE a LIKE ('x')",
        ] {
            assert!(check(text).is_ok(), "{text}: {:?}", check(text));
        }
    }

    #[test]
    fn gathering_is_seen_in_the_words() {
        for text in [
            "SELECT Count(*) FROM orders",
            "SELECT store_id FROM orders GROUP  BY 1",
            "WITH x AS (SELECT DISTINCT store_id FROM orders) TABLE x",
            "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY total) FROM x",
            "SELECT regr_slope(a, b) FROM x",
        ] {
            assert!(gathers(text), "{text}");
        }
        for text in [
            "SELECT * FROM orders WHERE order_id = 'group by'",
            "SELECT count FROM x -- sum(1)",
            "SELECT \"group\" FROM x",
            "SELECT 1 /*",
        ] {
            assert!(!gathers(text), "{text}");
        }
    }

    #[test]
    fn three_arguments_of_ts_rewrite_run_no_sql() {
        assert!(check("SELECT ts_rewrite(to_tsquery('a,b'), (SELECT f(1,2)), x[1,2])").is_ok());
    }
}
