//! The lexical gate: one SELECT-like statement, free of names that could hurt others.
//!
//! It is courtesy and depth; the fence in the database is what holds. A function can only be called by a name that
//! stands as a token in the text, once `U&"…"` identifiers and the functions that run SQL from strings are refused.
//! That makes a look at the tokens complete without a parser, and it lets all of PostgreSQL's SELECT through.

pub mod lexer;
pub mod names;

use std::borrow::Cow;

use lexer::{Kind, Token, tokens};
use names::refused;

/// The longest statement, in bytes.
pub const STATEMENT_MAX: usize = 256 * 1024;

/// Why a statement is not run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// For the caller; names the word.
    pub message: String,
    /// Where, in characters from 1 as PostgreSQL counts; absent where the whole statement is meant.
    pub position: Option<u32>,
    /// One word for metrics.
    pub reason: &'static str,
}

/// A statement that may be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked<'a> {
    /// The part to run: without trailing semicolons and comments, otherwise as it came, so that positions in
    /// PostgreSQL's errors are the caller's own.
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
        return Err(Refusal { message, position: None, reason: "TooLong" });
    }
    let all = tokens(text).map_err(|error| refuse(text, error.offset(), "Syntax", error.to_string()))?;
    let last = all.iter().rposition(|token| token.kind != Kind::Punctuation(b';'));
    let Some(last) = last else {
        let message = "the statement is empty; write one SELECT".to_owned();
        return Err(Refusal { message, position: None, reason: "Empty" });
    };
    let tokens = &all[..=last];
    one_select(text, tokens)?;
    for (i, token) in tokens.iter().enumerate() {
        check_token(text, tokens, i, *token)?;
    }
    Ok(Checked { sql: &text[..tokens[last].end], gathers: any_gathers(text, tokens) })
}

fn one_select(text: &str, tokens: &[Token]) -> Result<(), Refusal> {
    let first = tokens.iter().find(|token| token.kind != Kind::Punctuation(b'('));
    let word = first.map(|token| name(text, token)).unwrap_or_default();
    if !matches!(word.as_ref(), "select" | "with" | "values" | "table") {
        let at = first.map_or(0, |token| token.start);
        let shown: String = word.chars().take(40).collect();
        let message = format!("'{shown}' cannot be run: write one SELECT (it may begin with WITH, VALUES or TABLE)");
        return Err(refuse(text, at, "NotASelect", message));
    }
    match tokens.iter().find(|token| token.kind == Kind::Punctuation(b';')) {
        Some(token) => {
            Err(refuse(text, token.start, "SeveralStatements", "only one statement can be run at a time".into()))
        }
        None => Ok(()),
    }
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
            if let Some(why) = refused(&name, next == Some(Kind::Punctuation(b'('))) {
                return Err(refuse(text, token.start, "ForbiddenName", format!("'{name}' {}", why.sentence())));
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

/// Whether the statement gathers rows: it groups, drops duplicates, or calls an aggregate. A hint for how to run it; wrong
/// for a column or a function of such a name, which does no harm.
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

/// Number of arguments in the parentheses that follow; 0 where none do.
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
    Refusal { message, position, reason }
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
