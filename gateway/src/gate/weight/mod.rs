//! The cost of planning a statement. PostgreSQL's planner ignores timeouts and cancels while it copies a query into
//! itself, and its memory is unlimited: a kilobyte of text can take gigabytes.
//!
//! The weight is an upper bound, computed from the tokens alone: it knows no table and no type. If a text can be read
//! in several ways, the most expensive one counts ([decision
//! 23](../../../../docs/decisions/0023-statements-have-a-weight.md)).

mod cost;
mod expression;
mod from;
mod query;
mod scope;
mod text;

use self::{
    cost::Cost,
    query::Reader,
    text::{Text, Unmatched},
};
use super::lexer::{Kind, Token};

/// The weight of the heaviest statement that runs, in units of about 1.4 KB and 5 microseconds.
pub const WEIGHT_MAX: u64 = 120_000;
/// Tables, subqueries and references to common table expressions in one statement.
const RELATIONS_MAX: usize = 400;
/// The approximate number of automaton states that repetitions in regular expressions may need. PostgreSQL compiles
/// them while it plans.
const REPETITIONS_MAX: u64 = 20_000;

/// Why a statement is too heavy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heavy {
    /// The token at which the limit is exceeded.
    pub at: usize,
    /// The problem and the remedy.
    pub why: Why,
}

/// Ways of being too heavy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A parenthesis, a bracket or a CASE that is not closed, or a closing one without an opening one.
    Unmatched,
    /// Brackets within brackets.
    Deep,
    /// More than [`RELATIONS_MAX`].
    Relations,
    /// A common table expression references one that comes after it.
    Forward,
    /// Repetitions within repetitions in a regular expression.
    Repetitions,
    /// More than [`WEIGHT_MAX`].
    Weight(Cost),
}

impl Why {
    /// The label for metrics.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Unmatched => "Syntax",
            Self::Deep | Self::Relations | Self::Forward | Self::Repetitions | Self::Weight(_) => "TooHeavy",
        }
    }

    /// The sentence for the caller.
    pub fn sentence(self) -> String {
        match self {
            Self::Unmatched => {
                "a parenthesis, a bracket or a CASE is not closed, or closed where none is open".to_owned()
            }
            Self::Deep => format!("more than {} brackets stand within each other; use fewer levels", text::DEPTH_MAX),
            Self::Relations => format!(
                "the statement names more than {RELATIONS_MAX} tables and subqueries; ask in several statements"
            ),
            Self::Forward => {
                "a common table expression names one that comes after it; write those first that the others name"
                    .to_owned()
            }
            Self::Repetitions => format!(
                "the repetitions in a regular expression multiply to more than {REPETITIONS_MAX}; use smaller bounds, or * \
                 and +"
            ),
            Self::Weight(cost) => format!(
                "the statement is too heavy to plan: its weight is {}, the most is {WEIGHT_MAX}; {}",
                cost.total(),
                cost.advice()
            ),
        }
    }
}

/// Weighs a statement of at least one token.
pub fn weigh(text: &str, tokens: &[Token]) -> Result<Cost, Heavy> {
    let read = Text::new(text, tokens).map_err(|error| match error {
        Unmatched::Open(at) => Heavy { at, why: Why::Unmatched },
        Unmatched::Deep(at) => Heavy { at, why: Why::Deep },
    })?;
    repetitions(text, tokens)?;
    let mut reader = Reader::new(&read);
    let query = reader.query(0..tokens.len())?;
    let length = tokens.len() as u64;
    let cost = query.cost + Cost { lists: length * length / 40_000, ..Cost::default() };
    if cost.total() > WEIGHT_MAX { Err(Heavy { at: 0, why: Why::Weight(cost) }) } else { Ok(cost) }
}

/// Bounds in braces within one constant multiply if groups are nested. A constant that only resembles such bounds is an
/// array.
fn repetitions(text: &str, tokens: &[Token]) -> Result<(), Heavy> {
    let mut all: u64 = 0;
    for (at, token) in tokens.iter().enumerate().filter(|(_, token)| token.kind == Kind::Text) {
        let written = &text[token.start..token.end];
        let array = |c: char| {
            c.is_ascii_digit() || matches!(c, '{' | '}' | ',' | '.' | '-' | ' ' | '\'' | '"' | 'N' | 'U' | 'L')
        };
        if !written.contains('{') || written.chars().all(array) {
            continue;
        }
        let bounds = written.split('{').skip(1).filter_map(|rest| bound(rest.split_once('}')?.0));
        all = all.saturating_add(bounds.fold(1, |product: u64, most| product.saturating_mul(most.max(1))));
        if all > REPETITIONS_MAX {
            return Err(Heavy { at, why: Why::Repetitions });
        }
    }
    Ok(())
}

/// The larger bound of `2`, `2,` or `2,5`.
fn bound(inside: &str) -> Option<u64> {
    let (least, most) = inside.split_once(',').unwrap_or((inside, ""));
    let least: u64 = least.trim().parse().ok()?;
    Some(most.trim().parse().unwrap_or(least))
}

#[cfg(test)]
mod tests {
    use super::{Why, weigh};
    use crate::gate::lexer::tokens;

    fn weight(sql: &str) -> u64 {
        weigh(sql, &tokens(sql).expect("tokens")).unwrap_or_else(|heavy| panic!("{sql}: {heavy:?}")).total()
    }

    fn heavy(sql: &str) -> Why {
        weigh(sql, &tokens(sql).expect("tokens")).expect_err(sql).why
    }

    fn nested(levels: usize, item: &str) -> String {
        (0..levels)
            .fold("SELECT quantity a FROM order_items".to_owned(), |sql, _| format!("SELECT {item} FROM ({sql}) x"))
    }

    #[test]
    fn each_level_doubles_whatever_the_name_is_called() {
        for item in [
            "a + a a",
            "a + a AS a",
            "x.a + \"a\" AS a",
            "(SELECT a + a) a",
            "CASE WHEN a > 1 THEN a END a",
            "a + a AS a, 1 AS as",
        ] {
            let (few, more) = (weight(&nested(5, item)), weight(&nested(7, item)));
            assert!(more > 2 * few, "{item}: {few}, {more}");
            assert!(matches!(heavy(&nested(24, item)), Why::Weight(_)), "{item}");
        }
        // A column referenced by a name that PostgreSQL generates, through a list of names, or in a row.
        for levels in [
            (0..20).fold("SELECT 1 + quantity FROM order_items".to_owned(), |sql, _| {
                format!("SELECT \"?column?\" + \"?column?\" FROM ({sql}) x")
            }),
            (0..20).fold("SELECT quantity FROM order_items".to_owned(), |sql, _| {
                format!("SELECT b + b FROM ({sql}) x (b)")
            }),
            (0..20).fold("SELECT quantity a FROM order_items".to_owned(), |sql, i| {
                format!("SELECT ROW(x{i}, x{i}) a FROM ({sql}) x{i}")
            }),
            (0..20).fold("SELECT quantity a FROM order_items".to_owned(), |sql, _| {
                format!("SELECT a FROM ({sql}) x, LATERAL (SELECT x.a + x.a) y (a)")
            }),
        ] {
            assert!(matches!(heavy(&levels), Why::Weight(_)), "{levels}");
        }
    }

    #[test]
    fn labels_hide_no_clause() {
        let list = (0..12).map(|i| format!("orders t{i}")).collect::<Vec<_>>().join(", ");
        for sql in [
            format!("SELECT 1 AS as FROM {list}"),
            format!("SELECT 1 case FROM {list}"),
            format!("SELECT x.from, 1 AS select FROM {list}"),
            format!("SELECT 1 IS DISTINCT FROM 2 AS \"from\" FROM {list}"),
            format!("SELECT extract(day FROM now()) FROM {list}"),
            format!("SELECT 1 end FROM orders UNION ALL SELECT 2 FROM {list}").replace(" end", " AS end"),
            format!("SELECT * FROM (SELECT 1 FROM {list}) x"),
            format!("SELECT * FROM ((orders a CROSS JOIN (SELECT 1 FROM {list}) b) CROSS JOIN orders c)"),
            format!("WITH x AS (SELECT 1 FROM {list}) SELECT 1 FROM x"),
            format!("SELECT (SELECT 1 FROM {list})"),
            format!("SELECT 1 FROM orders ORDER BY (SELECT 1 FROM {list})"),
        ] {
            assert!(matches!(heavy(&sql), Why::Weight(_)), "{sql}");
        }
        // A clause that PostgreSQL does not know is refused rather than guessed.
        assert_eq!(heavy("SELECT 1 end FROM orders"), Why::Unmatched);
        assert_eq!(heavy("SELECT (1"), Why::Unmatched);
        assert_eq!(heavy("WITH RECURSIVE a AS (SELECT 1 FROM b), b AS (SELECT 1) TABLE a"), Why::Forward);
        assert!(weight("WITH RECURSIVE a AS (SELECT 1 n UNION ALL SELECT n + 1 FROM a) TABLE a") > 0);
        assert_eq!(heavy(&format!("SELECT {}1{}", "(".repeat(200), ")".repeat(200))), Why::Deep);
        assert_eq!(heavy(&vec!["SELECT 1 FROM a"; 500].join(" UNION ALL ")), Why::Relations);
        assert_eq!(heavy("SELECT 'x' ~ '((a{1,200}){1,200}){1,9}'"), Why::Repetitions);
        assert!(weight("SELECT '{{1000,2000},{3000,4000}}'::int[], 'x' ~ '[0-9]{4}-[0-9]{2}'") > 0);
    }

    #[test]
    fn materialized_is_a_way_out() {
        let chain = |keep: &str| {
            let levels: String =
                (1..20).map(|i| format!(", c{i} AS {keep} (SELECT a + a a FROM c{})", i - 1)).collect();
            format!("WITH c0 AS (SELECT quantity a FROM order_items){levels} SELECT a FROM c19")
        };
        assert!(matches!(heavy(&chain("")), Why::Weight(_)));
        assert!(matches!(heavy(&chain("NOT MATERIALIZED")), Why::Weight(_)));
        assert!(weight(&chain("MATERIALIZED")) < 10_000);
        assert!(heavy(&chain("")).sentence().contains("AS MATERIALIZED"));
    }
}
