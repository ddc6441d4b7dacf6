//! FROM: tables, subqueries, functions and joins.

use std::ops::Range;

use super::{
    Heavy, RELATIONS_MAX, Why,
    cost::{COLUMNS, Cost, RELATION},
    query::Reader,
    scope::Columns,
};

/// Words that cannot be an alias without quotes.
const NO_ALIAS: [&str; 13] =
    ["on", "using", "join", "cross", "inner", "left", "right", "full", "natural", "where", "tablesample", "with", "as"];

/// What FROM contributes.
#[derive(Default)]
pub struct From {
    pub cost: Cost,
    /// Tables that are joined, including those of subqueries.
    pub tables: u64,
    /// Items in the comma-separated list.
    pub listed: u64,
    /// The cost of the joins within subqueries.
    pub joined: u64,
    pub copy: u64,
    /// The most branches of a set operation in one item.
    pub branches: u64,
    /// Expressions in ON.
    pub conditions: Cost,
    /// Columns that USING and NATURAL compare.
    pub equalities: u64,
}

impl Reader<'_, '_> {
    /// Reads FROM, and adds its columns to the scope.
    pub fn from(&mut self, range: Range<usize>) -> Result<From, Heavy> {
        let mut from = From::default();
        self.places(range, &mut from)?;
        Ok(from)
    }

    /// Reads items and joins; returns the columns of all.
    fn places(&mut self, range: Range<usize>, from: &mut From) -> Result<Columns, Heavy> {
        let text = self.text;
        let mut all = Columns::none();
        let mut i = range.start;
        let mut listed = 0;
        let mut due = true;
        while i < range.end {
            if due {
                listed += u64::from(i == range.start || text.is(i - 1, b','));
                let (next, columns) = self.place(i, range.end, from)?;
                all.join(&columns);
                // Each join has the columns of all before it, and EXPLAIN compares their names. The log of slow
                // statements uses it.
                if i > range.start {
                    from.cost.lists = from.cost.lists.saturating_add(all.count.saturating_mul(all.count) / 72);
                }
                (i, due) = (next.max(i + 1), false);
            } else if text.is(i, b',') || text.is_word(i, "join") {
                (i, due) = (i + 1, true);
            } else if text.is_word(i, "natural") {
                from.equalities += 16;
                self.scopes.merge(None);
                from.cost += Cost::expressions(16);
                i += 1;
            } else if let Some(columns) = text.group(i + 1).filter(|_| text.is_word(i, "using")) {
                for column in text.list(columns.clone()) {
                    from.equalities += 1;
                    self.scopes.merge(Some(text.name(column.start)));
                    from.cost += self.scopes.cost(text.name(column.start)) + Cost::expressions(3);
                }
                i = columns.end + 1;
            } else {
                // ON, TABLESAMPLE and anything else between the items
                let start = i;
                let begins_next = |i| {
                    text.is(i, b',')
                        || text.is_word(i, "join")
                        || text.is_word(i, "natural")
                        || (text.is_word(i, "using") && text.is(i + 1, b'('))
                };
                while i < range.end && !begins_next(i) {
                    i = text.after(i);
                }
                let cost = self.expression(start..i)?;
                from.conditions += cost;
                from.cost += cost;
            }
        }
        from.listed = from.listed.max(listed);
        Ok(all)
    }

    /// One item: a table, a subquery, a function, or joins in parentheses. Returns the position after it and its alias.
    fn place(&mut self, start: usize, end: usize, from: &mut From) -> Result<(usize, Columns), Heavy> {
        let text = self.text;
        let mut i = start;
        while i < end && text.is_one_of(i, &["lateral", "only"]) {
            i += 1;
        }
        if i >= end {
            return Ok((end, Columns::none()));
        }
        self.relations += 1;
        if self.relations > RELATIONS_MAX {
            return Err(Heavy { at: i, why: Why::Relations });
        }
        let mut name = None;
        let mut columns;
        if let Some(inside) = text.group(i).filter(|_| text.is(i, b'(')) {
            i = inside.end + 1;
            if text.is_query(&inside) {
                let query = self.query(inside)?;
                from.cost += query.cost;
                from.tables += query.tables.max(1);
                from.joined = from.joined.saturating_add(query.joined);
                from.copy += query.copy;
                from.branches = from.branches.max(query.branches);
                columns = query.columns;
            } else {
                columns = self.places(inside, from)?;
            }
        } else if text.is_name(i) {
            while text.is(i + 1, b'.') && text.is_name(i + 2) {
                i += 2;
            }
            let plain = !text.is(i - 1, b'.');
            name = Some(i);
            let called = i;
            i += 1;
            let rows_from = text.is_word(i - 1, "rows") && text.is_word(i, "from") && text.is(i + 1, b'(');
            i += usize::from(rows_from);
            if let Some(arguments) = text.group(i).filter(|_| text.is(i, b'(')) {
                // A function's constant result is merged into the query, and the function determines its length.
                let cost = self.expression(called..arguments.end + 1)?;
                i = arguments.end + 1;
                from.cost += cost + Cost { queries: RELATION, ..Cost::default() };
                from.tables += 1;
                columns = Columns::none();
                columns.other = if self.grows(called) { cost } else { Cost::default() };
                (columns.all, columns.count) = (cost.times(COLUMNS), COLUMNS);
            } else {
                columns = self.table(i - 1, plain, from)?;
            }
        } else {
            return Ok((i, Columns::none()));
        }
        // Tokens that may precede the alias: `*`, WITH ORDINALITY.
        while i < end && (text.is_operator(i, "*") || text.is_bare(i, "ordinality") || text.is_word(i, "with")) {
            i += 1;
        }
        let as_ = i < end && text.is_as(i);
        i += usize::from(as_);
        if i < end && text.is_name(i) && !text.is_one_of(i, &NO_ALIAS) {
            name = Some(i);
            i += 1;
        }
        if let Some(list) = text.group(i).filter(|_| i < end && text.is(i, b'(')) {
            columns.renamed();
            i = list.end + 1;
        }
        self.scopes.add(name.map(|name| text.name(name)), columns.clone());
        Ok((i, columns))
    }

    /// A table, or a common table expression.
    fn table(&mut self, at: usize, plain: bool, from: &mut From) -> Result<Columns, Heavy> {
        let relation = Cost { queries: RELATION, ..Cost::default() };
        let name = self.text.name(at);
        let Some(cte) = self.ctes.iter_mut().rev().find(|cte| plain && cte.name == name) else {
            from.cost += relation;
            from.tables += 1;
            return Ok(Columns::of_table());
        };
        if cte.forward {
            return Err(Heavy { at, why: Why::Forward });
        }
        // One that is referenced once is merged at the reference; one that is referenced twice is planned once,
        // separately.
        let first = !std::mem::replace(&mut cte.used, true);
        if cte.copied || first {
            from.cost += cte.cost;
            from.copy += cte.copy;
        }
        if (cte.copied || first) && !cte.apart {
            from.tables += cte.tables.max(1);
            from.joined = from.joined.saturating_add(cte.joined);
        } else {
            from.tables += 1;
        }
        from.cost += relation;
        from.branches = from.branches.max(cte.branches);
        let mut columns = cte.columns.clone();
        if cte.apart {
            // Materialized: a name refers to a column, not to an expression.
            columns.named.clear();
            (columns.other, columns.all) = (Cost::default(), Cost::expressions(columns.count));
        }
        Ok(columns)
    }
}
