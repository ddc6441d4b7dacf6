//! Expressions: what their names refer to, and what PostgreSQL copies within them.

use std::ops::Range;

use super::{
    Heavy,
    cost::{COLUMNS, Cost},
    query::Reader,
};
use crate::gate::lexer::Kind;

/// Reserved words that cannot be a column without quotes.
const WORDS: [&str; 27] = [
    "all", "and", "any", "array", "as", "asc", "both", "case", "cast", "collate", "desc", "distinct", "else", "end",
    "false", "from", "in", "is", "not", "null", "or", "order", "some", "then", "true", "when", "where",
];
/// After one of these another operand begins.
const BOUNDARIES: [&str; 6] = ["and", "or", "when", "then", "else", "where"];
/// Functions that can be applied to a whole row by attribute notation, like columns.
const OF_ROWS: [&str; 13] = [
    "row_to_json",
    "to_json",
    "to_jsonb",
    "count",
    "array_agg",
    "json_agg",
    "jsonb_agg",
    "concat",
    "num_nulls",
    "num_nonnulls",
    "hash_record",
    "first_value",
    "last_value",
];
/// Functions whose result's size is given by a number. PostgreSQL computes them while it plans.
const GROWS: [&str; 4] = ["repeat", "lpad", "rpad", "array_fill"];

impl Reader<'_, '_> {
    /// An expression, or a list of them.
    pub fn expression(&mut self, range: Range<usize>) -> Result<Cost, Heavy> {
        let text = self.text;
        let mut total = Cost::default();
        // The cost before the operand of a BETWEEN or IN, at the latest point where that operand can begin.
        let mut operand = Cost::default();
        let mut factor = 1;
        // The number of elements in the group that ends just before.
        let mut before = 1;
        let mut i = range.start;
        while i < range.end {
            if text.is(i, b',') || text.is_one_of(i, &BOUNDARIES) {
                operand = Cost::default();
                if text.is(i, b',') || text.is_word(i, "or") {
                    factor = 1;
                }
            }
            let mut cost = match text.group(i) {
                Some(inside) => self.group(&range, i, &inside)?,
                None => self.atom(&range, i, before),
            };
            if text.is_word(i, "between") {
                // a BETWEEN b AND c becomes a >= b AND a <= c; SYMMETRIC doubles the copies of all three.
                let symmetric = text.is_bare(i + 1, "symmetric");
                cost += operand.times(if symmetric { 3 } else { 1 });
                factor = if symmetric { 2 } else { 1 };
            }
            if text.is_word(i, "in") {
                let copies = self.compared(&range, i);
                cost += operand.times(copies);
                // Compared with one element or with the rows of a query it is an equality, or one for each element of a
                // row.
                let query = text.group(i + 1).is_some_and(|list| text.is_query(&list));
                if let Some(counts) = self.counts.last_mut().filter(|_| copies == 1 || query) {
                    counts.equalities += before;
                }
            }
            if text.is_operator(i, "*") && i > range.start && text.is(i - 1, b'.') && !text.is_name(i.saturating_sub(2))
            {
                // (e).* makes one copy of e for each column.
                let columns = self.scopes.here().map_or(0, |columns| columns.count);
                cost += operand.times(columns.max(COLUMNS));
            }
            cost = cost.times(factor);
            total += cost;
            operand += cost;
            if !text.is_word(i, "not") {
                before = text.group(i).map_or(1, |inside| text.list(inside).len().max(1) as u64);
            }
            i = text.after(i);
        }
        Ok(total)
    }

    /// One token.
    fn atom(&mut self, range: &Range<usize>, i: usize, before: u64) -> Cost {
        let text = self.text;
        if text.is_operator(i, "=") {
            let sign = usize::from(text.is_operator(i + 1, "-"));
            let constant =
                text.tokens.get(i + 1 + sign).is_some_and(|token| matches!(token.kind, Kind::Text | Kind::Number));
            if let Some(counts) = self.counts.last_mut().filter(|_| !constant) {
                let row = i + 1 + usize::from(text.is_bare(i + 1, "row"));
                let elements = text.group(row).map_or(1, |inside| text.list(inside).len() as u64);
                counts.equalities += before.max(elements).max(1);
            }
        }
        let own = Cost::expressions(text.units(i));
        if text.is_one_of(i, &["and", "or"]) {
            return Cost { conditions: 1, ..own };
        }
        if !text.is_name(i) || (text.is_one_of(i, &WORDS) && text.tokens[i].kind == Kind::Word) {
            return own;
        }
        let name = text.name(i);
        if text.is(i + 1, b'.') {
            // A table, unless the whole row is meant.
            let whole = text.is_operator(i + 2, "*");
            return if whole { own + self.scopes.row(name).map_or_else(Cost::default, |row| row.all) } else { own };
        }
        if text.is(i + 1, b'(') && i + 1 < range.end {
            return own;
        }
        let mut cost = own + self.scopes.cost(name);
        if i >= range.start + 2 && text.is(i - 1, b'.') && OF_ROWS.contains(&name) {
            cost += self.scopes.row(text.name(i - 2)).map_or_else(Cost::default, |row| row.all);
        }
        cost
    }

    /// A group: a subquery, a list of arguments, a window, an expression in parentheses, an array, a CASE.
    fn group(&mut self, range: &Range<usize>, open: usize, inside: &Range<usize>) -> Result<Cost, Heavy> {
        let text = self.text;
        let before = |word: &str| open > range.start && text.is_bare(open - 1, word);
        if text.is(open, b'(') && text.is_query(inside) {
            let query = self.query(inside.clone())?;
            let joins = ["exists", "in", "any", "some"].iter().any(|word| before(word));
            if let Some(counts) = self.counts.last_mut().filter(|_| joins) {
                counts.tables += query.tables;
            }
            // EXISTS is planned twice: for one row, and for all rows.
            return Ok(query.cost.times(if before("exists") { 2 } else { 1 }));
        }
        let mut cost = self.expression(inside.clone())?;
        if text.is_word(open, "case") {
            // A constant between CASE and WHEN is copied into each comparison.
            let parts = text.cut(inside.clone(), |i| text.is_word(i, "when"));
            cost += self.expression(parts[0].clone())?.times(parts.len() as u64);
        }
        let (over, named) = (before("over"), before("as"));
        let windows = over || named;
        let keys = text.list(inside.clone()).len() as u64;
        let sorts = text.is_word(inside.start, "distinct")
            || text.cut(inside.clone(), |i| text.is_word(i, "order") && text.is_word(i + 1, "by")).len() > 1;
        if let Some(counts) = self.counts.last_mut() {
            counts.windows += u64::from(windows);
            counts.window_keys += if over { keys } else { 0 };
            counts.named_keys += if named { keys } else { 0 };
            counts.sorted_aggregates += if !windows && sorts && text.is(open, b'(') { keys.max(1) } else { 0 };
        }
        if open > range.start && self.grows(open - 1) {
            let times =
                inside.clone().filter_map(|i| text.number(i)).fold(1, |all: u64, n| all.saturating_mul(n.max(1)));
            return Ok(cost + Cost::expressions(times / 700));
        }
        Ok(cost)
    }

    /// Whether a number in the call to this function determines the size of its result.
    pub fn grows(&self, i: usize) -> bool {
        self.text.is_name(i) && GROWS.contains(&self.text.name(i))
    }

    /// How often the operand before IN is copied. A list of constants alone becomes one comparison with an array; a
    /// row, or a list with a column in it, becomes one comparison for each element.
    fn compared(&self, range: &Range<usize>, i: usize) -> u64 {
        let text = self.text;
        let Some(list) = text.group(i + 1).filter(|list| text.is(i + 1, b'(') && !text.is_query(list)) else {
            return 0;
        };
        let before = i - usize::from(i > range.start && text.is_word(i - 1, "not"));
        let row = before > range.start && text.is(before - 1, b')');
        let column = |j: usize| {
            let typed = text.tokens.get(j + 1).is_some_and(|token| token.kind == Kind::Text)
                || (j > 0 && text.is_operator(j - 1, "::"));
            text.is_name(j) && !typed && !text.is_one_of(j, &["null", "true", "false"])
        };
        let elements = text.list(list.clone()).len() as u64;
        if row || list.clone().any(column) { elements } else { 0 }
    }
}
