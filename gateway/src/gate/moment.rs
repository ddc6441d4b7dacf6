//! Whether a statement's value depends on the clock or on chance: run again a second later, it gives another result
//! although no row has changed.

use super::{
    lexer::{Kind, tokens},
    name,
};

/// Keywords that are values.
const WORDS: [&str; 5] = ["current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"];
/// Functions of the clock and of randomness, including those of pgcrypto and uuid-ossp.
const CALLS: [&str; 18] = [
    "array_sample",
    "array_shuffle",
    "clock_timestamp",
    "crypt",
    "gen_random_bytes",
    "gen_random_uuid",
    "gen_salt",
    "now",
    "random",
    "random_normal",
    "statement_timestamp",
    "timeofday",
    "transaction_timestamp",
    "uuid_generate_v1",
    "uuid_generate_v1mc",
    "uuid_generate_v4",
    "uuidv4",
    "uuidv7",
];
/// Input texts that stand for a date or time relative to now.
const TEXTS: [&str; 4] = ["now", "today", "tomorrow", "yesterday"];

/// Whether the value depends on the clock or on chance. False positives are acceptable: they cost one more run.
#[must_use]
pub fn is_momentary(sql: &str) -> bool {
    let Ok(tokens) = tokens(sql) else { return true };
    let opens = |at: usize| tokens.get(at).is_some_and(|token| token.kind == Kind::Punctuation(b'('));
    tokens.iter().enumerate().any(|(i, token)| match token.kind {
        Kind::Word | Kind::Quoted => {
            let name = name(sql, token);
            let name = name.as_ref();
            let written = || token.kind == Kind::Word && !(i > 0 && tokens[i - 1].kind == Kind::Punctuation(b'.'));
            (WORDS.contains(&name) && written())
                || (CALLS.contains(&name) && opens(i + 1))
                // With one argument, `age` measures up to now.
                || (name == "age" && super::arguments(&tokens[i + 1..]) == 1)
                || (name == "tablesample" && token.kind == Kind::Word)
        }
        Kind::Text => {
            let written = &sql[token.start..token.end];
            let hidden = matches!(written.as_bytes()[0] | 0x20, b'e' | b'u') && written.contains('\\');
            let mut words = written.split(|c: char| !c.is_ascii_alphanumeric());
            hidden || words.any(|word| TEXTS.iter().any(|text| word.eq_ignore_ascii_case(text)))
        }
        Kind::UnicodeQuoted => true,
        Kind::Number | Kind::Parameter | Kind::Operator | Kind::Punctuation(_) => false,
    })
}

#[cfg(test)]
mod tests {
    use super::is_momentary;

    #[test]
    fn what_moves_is_seen() {
        for text in [
            "SELECT now()",
            "SELECT Now ( )",
            "SELECT pg_catalog.\"now\"()",
            "SELECT current_date - 1",
            "SELECT CURRENT_TIMESTAMP(3), localtime",
            "SELECT * FROM orders WHERE order_date > now() - interval '1 day'",
            "SELECT age(order_date) FROM orders",
            "SELECT 'now'::timestamptz",
            "SELECT date 'Today'",
            "SELECT timestamptz ' yesterday 04:05'",
            "SELECT '[today,tomorrow)'::daterange",
            r"SELECT E'n\157w'::timestamptz",
            "SELECT random(), gen_random_uuid()",
            "SELECT random(1, 6), uuidv7()",
            "SELECT array_shuffle(ARRAY[1, 2])",
            "SELECT count(*) FROM orders TABLESAMPLE bernoulli (10)",
            "SELECT timeofday()",
            "WITH t AS (SELECT clock_timestamp() AS c) TABLE t",
        ] {
            assert!(is_momentary(text), "{text}");
        }
    }

    #[test]
    fn what_rows_alone_decide_is_kept() {
        for text in [
            "SELECT count(*) FROM orders WHERE order_date >= '2026-01-01'",
            "SELECT age(order_date, timestamptz '2026-01-01') FROM orders",
            "SELECT now, random FROM x",
            "SELECT x.current_date FROM x",
            "SELECT 'nowhere', 'snow' -- now()",
            "SELECT 'known' FROM x",
        ] {
            assert!(!is_momentary(text), "{text}");
        }
    }
}
