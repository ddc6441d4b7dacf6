//! Queries: WITH, set operations, the clauses of a SELECT.

use std::ops::Range;

use super::{
    Heavy, WEIGHT_MAX, Why,
    cost::{self, COLUMNS, Cost, QUERY},
    scope::{Columns, Scopes},
    text::Text,
};
use crate::gate::lexer::Kind;

/// Words that begin the clauses of a SELECT, which are reserved.
const CLAUSES: [&str; 10] = ["where", "group", "having", "window", "order", "limit", "offset", "fetch", "for", "into"];
/// Clauses that keep a subquery from being merged into the query around it.
const APART: [&str; 7] = ["group", "having", "window", "order", "limit", "offset", "fetch"];

/// A common table expression.
pub struct Cte {
    pub name: String,
    pub columns: Columns,
    pub cost: Cost,
    pub tables: u64,
    pub joined: u64,
    pub copy: u64,
    pub branches: u64,
    /// Planned anew for each reference.
    pub copied: bool,
    /// Never merged into the query around it.
    pub apart: bool,
    /// Has been referenced already.
    pub used: bool,
    /// Not read yet.
    pub forward: bool,
}

impl Cte {
    /// One whose query is not read; it counts as made of tables.
    fn unread(name: String, forward: bool) -> Self {
        Self {
            name,
            columns: Columns::of_table(),
            cost: Cost::default(),
            tables: 1,
            joined: 0,
            copy: 0,
            branches: 1,
            copied: false,
            apart: true,
            used: true,
            forward,
        }
    }
}

/// What is known of a query.
pub struct Query {
    pub columns: Columns,
    /// The cost of planning it.
    pub cost: Cost,
    /// Tables that the query around it will join with its own.
    pub tables: u64,
    /// The cost of joining them so far.
    pub joined: u64,
    /// The cost of copying it into the query around it.
    pub copy: u64,
    /// Branches of set operations that surrounding expressions are copied into.
    pub branches: u64,
}

/// What is counted while a query is read.
#[derive(Default)]
pub struct Counts {
    pub equalities: u64,
    pub windows: u64,
    /// Keys of windows, both their own and inherited.
    pub window_keys: u64,
    pub named_keys: u64,
    pub sorted_aggregates: u64,
    /// Tables of subqueries that become joins.
    pub tables: u64,
}

/// Reads queries.
pub struct Reader<'t, 'a> {
    pub text: &'t Text<'a>,
    pub scopes: Scopes,
    pub ctes: Vec<Cte>,
    pub counts: Vec<Counts>,
    /// Tables and subqueries so far.
    pub relations: usize,
    /// Set operations around the current position.
    sets: usize,
}

impl<'t, 'a> Reader<'t, 'a> {
    pub fn new(text: &'t Text<'a>) -> Self {
        Self { text, scopes: Scopes::default(), ctes: Vec::new(), counts: Vec::new(), relations: 0, sets: 0 }
    }

    /// A query with its WITH and set operations.
    pub fn query(&mut self, range: Range<usize>) -> Result<Query, Heavy> {
        let (known, mut start) = (self.ctes.len(), range.start);
        let with = self.text.is_word(start, "with") && start < range.end;
        let mut own = Cost { queries: QUERY, ..Cost::default() };
        if with {
            let unread = self.with(range.clone())?;
            start = unread.0;
            own += unread.1;
        }
        let text = self.text;
        let sets = ["union", "intersect", "except"];
        let branches = text.cut(start..range.end, |i| text.is_one_of(i, &sets));
        self.sets += usize::from(branches.len() > 1);
        let mut whole: Option<Query> = None;
        for branch in &branches {
            let skip = usize::from(branch.start > start && text.is_one_of(branch.start, &["all", "distinct"]));
            let query = self.branch(branch.start + skip..branch.end)?;
            whole = Some(match whole {
                None => query,
                Some(mut first) => {
                    // The columns of all branches take the names of the first branch's columns.
                    let all = first.columns.all.max(query.columns.all);
                    let compared = first.columns.count.max(query.columns.count);
                    first.columns.join(&query.columns);
                    first.columns.renamed();
                    (first.columns.all, first.columns.count) = (all, compared);
                    // Each column of a branch is looked up among those of the whole.
                    first.cost.lists = first.cost.lists.saturating_add(compared.saturating_mul(compared));
                    Query {
                        cost: first.cost + query.cost,
                        tables: 1,
                        joined: 0,
                        copy: first.copy + query.copy,
                        branches: first.branches + query.branches,
                        ..first
                    }
                }
            });
        }
        self.sets -= usize::from(branches.len() > 1);
        self.ctes.truncate(known);
        let mut query = whole.unwrap_or_else(|| Query {
            columns: Columns::none(),
            cost: Cost::default(),
            tables: 1,
            joined: 0,
            copy: 0,
            branches: 1,
        });
        query.cost += own;
        // An inner query is copied whole for each outer query that it is merged into.
        query.copy += 2 + (range.len() / 8) as u64;
        query.cost.queries = query.cost.queries.saturating_add(query.copy);
        if with {
            (query.tables, query.joined) = (1, 0);
        }
        self.within(range.start, query.cost)?;
        Ok(query)
    }

    pub fn within(&self, at: usize, cost: Cost) -> Result<(), Heavy> {
        if cost.total() > WEIGHT_MAX { Err(Heavy { at, why: Why::Weight(cost) }) } else { Ok(()) }
    }

    /// The common table expressions; returns where the main query begins, and the cost of their other clauses.
    fn with(&mut self, range: Range<usize>) -> Result<(usize, Cost), Heavy> {
        let text = self.text;
        let mut i = range.start + 1;
        let recursive = text.is_word(i, "recursive") && !text.is_as(i + 1) && !text.is(i + 1, b'(');
        i += usize::from(recursive);
        if recursive {
            self.announce(i..range.end);
        }
        let mut other = Cost::default();
        while let Some((name, renamed, keep, body)) = self.definition(i, range.end) {
            // Within its own body it is a table of its rows.
            let known = self.ctes.len();
            if recursive {
                self.ctes.push(Cte::unread(name.clone(), false));
            }
            let query = self.query(body.clone())?;
            self.ctes.truncate(known);
            let mut columns = query.columns;
            if renamed {
                columns.renamed();
            }
            let cte = Cte {
                name,
                columns,
                cost: query.cost,
                tables: query.tables,
                joined: query.joined,
                copy: query.copy,
                branches: query.branches,
                copied: keep == Some(false),
                apart: keep == Some(true),
                used: false,
                forward: false,
            };
            self.ctes.push(cte);
            // SEARCH and CYCLE contain commas as well.
            i = body.end + 1;
            let clauses = i;
            let begins_next = |i| {
                text.is_one_of(i, &["select", "values", "table", "with"])
                    || text.is(i, b'(')
                    || (text.is(i, b',') && self.definition(i + 1, range.end).is_some())
            };
            while i < range.end && !begins_next(i) {
                i += 1;
            }
            other += Cost::expressions((i - clauses) as u64);
            if !text.is(i, b',') {
                break;
            }
            i += 1;
        }
        Ok((i.min(range.end), other))
    }

    /// In WITH RECURSIVE an expression can reference later ones, which this front-to-back reading cannot follow.
    fn announce(&mut self, range: Range<usize>) {
        let mut i = range.start;
        while i < range.end {
            if (i == range.start || self.text.is(i - 1, b','))
                && let Some((name, ..)) = self.definition(i, range.end)
            {
                self.ctes.push(Cte::unread(name, true));
            }
            i = self.text.after(i);
        }
    }

    /// `name [(columns)] AS [[NOT] MATERIALIZED] (body)`: name, whether columns are named, the MATERIALIZED option,
    /// body.
    fn definition(&self, at: usize, end: usize) -> Option<(String, bool, Option<bool>, Range<usize>)> {
        let text = self.text;
        if at >= end || !text.is_name(at) {
            return None;
        }
        let mut i = at + 1;
        let renamed = text.is(i, b'(');
        if renamed {
            i = text.after(i);
        }
        if !text.is_bare(i, "as") {
            return None;
        }
        i += 1;
        let not = text.is_bare(i, "not");
        i += usize::from(not);
        let said = text.is_bare(i, "materialized");
        i += usize::from(said);
        let body = text.group(i).filter(|body| text.is(i, b'(') && body.end <= end)?;
        Some((text.name(at).to_owned(), renamed, said.then_some(!not), body))
    }

    /// One branch of a set operation.
    fn branch(&mut self, range: Range<usize>) -> Result<Query, Heavy> {
        let (text, first) = (self.text, range.start);
        if let Some(inside) = text.group(first).filter(|_| first < range.end && text.is(first, b'(')) {
            let mut query = self.query(inside.clone())?;
            if inside.end + 1 < range.end {
                query.cost += self.bare(inside.end + 1..range.end)?;
                (query.tables, query.joined) = (1, 0);
            }
            return Ok(query);
        }
        if text.is_word(first, "select") {
            return self.select(range);
        }
        if text.is_word(first, "table") {
            self.enter();
            let from = self.from(first + 1..range.end)?;
            let columns = self.scopes.leave();
            self.counts.pop();
            return Ok(Query {
                columns,
                cost: from.cost,
                tables: from.tables,
                joined: from.joined,
                copy: from.copy,
                branches: from.branches,
            });
        }
        // VALUES, or a text that PostgreSQL will refuse. A single row is merged into the query around it, several are
        // not.
        let cost = self.bare(range.clone())?;
        let rows = text.list(first + 1..range.end);
        let row = rows.first().and_then(|row| text.group(row.start));
        let mut columns = Columns::none();
        columns.count = row.map_or(1, |row| text.list(row).len() as u64);
        if rows.len() < 2 {
            (columns.other, columns.all) = (cost, cost);
        } else {
            columns.all = Cost::expressions(columns.count);
        }
        Ok(Query { columns, cost, tables: 1, joined: 0, copy: 0, branches: 1 })
    }

    fn enter(&mut self) {
        self.scopes.enter();
        self.counts.push(Counts::default());
    }

    /// Expressions outside of any SELECT.
    fn bare(&mut self, range: Range<usize>) -> Result<Cost, Heavy> {
        self.counts.push(Counts::default());
        let cost = self.expression(range);
        self.counts.pop();
        cost
    }

    fn is_from(&self, i: usize) -> bool {
        let text = self.text;
        let compares = i >= 2 && text.is_word(i - 1, "distinct") && text.is_one_of(i - 2, &["is", "not"]);
        text.is_word(i, "from") && !compares
    }

    fn is_clause(&self, i: usize) -> bool {
        let text = self.text;
        let by = || text.is_word(i + 1, "by") || text.is_bare(i + 1, "by");
        text.is_one_of(i, &CLAUSES) && (!text.is_one_of(i, &["group", "order"]) || by())
    }

    fn select(&mut self, range: Range<usize>) -> Result<Query, Heavy> {
        let (text, head) = (self.text, range.start);
        let parts = text.cut(head + 1..range.end, |i| self.is_from(i) || self.is_clause(i));
        self.enter();
        let from = match parts.get(1).filter(|part| self.is_from(part.start - 1)) {
            Some(part) => self.from(part.clone())?,
            None => super::from::From::default(),
        };
        // Expressions around a set operation are copied into each of its branches.
        let around = |cost: Cost| Cost { expressions: cost.expressions.saturating_mul(from.branches.max(1)), ..cost };
        let mut cost = from.cost + around(Cost::expressions(from.conditions.expressions));
        let mut conditions = from.conditions.conditions;
        let mut keys = 0;
        let mut apart = false;
        let clauses: Vec<_> = parts.iter().skip(1).filter(|part| !self.is_from(part.start - 1)).cloned().collect();
        for part in clauses {
            let clause = part.start - 1;
            apart |= text.is_one_of(clause, &APART);
            let written = self.expression(part.clone())?;
            conditions = conditions.saturating_add(written.conditions);
            cost += around(written);
            if text.is_one_of(clause, &["group", "order"]) {
                keys += text.list(part.clone()).len() as u64;
            }
            if text.is_word(clause, "group") {
                let (sets, pairs) = self.sets(part.start + 1..part.end);
                let made = if sets > 1 { sets.saturating_mul(40) } else { 0 };
                cost.lists = cost.lists.saturating_add(made).saturating_add(pairs);
            }
        }
        let mut list = parts[0].clone();
        if text.is_one_of(list.start, &["distinct", "all"]) && !list.is_empty() {
            apart |= text.is_word(list.start, "distinct");
            list.start += 1;
            if let Some(on) = text.group(list.start + 1).filter(|_| text.is_word(list.start, "on")) {
                keys += text.list(on.clone()).len() as u64;
                cost += around(self.expression(on.clone())?);
                list.start = on.end + 1;
            }
        }
        let distinct = apart && list.start > head + 1 && text.is_word(head + 1, "distinct");
        let mut columns = Columns::none();
        for item in text.list(list) {
            cost += around(self.item(&item, &mut columns)?);
        }
        let counts = self.counts.pop().unwrap_or_default();
        if distinct {
            keys += columns.count;
        }
        let tables = from.tables + counts.tables / 2;
        let equalities = counts.equalities + from.equalities;
        // The cost of inner queries is already counted and is not counted again.
        let search = cost::joins(tables, from.listed, equalities, conditions);
        cost.joins = cost.joins.saturating_add(search.saturating_sub(from.joined));
        let lists = cost::lists(keys, counts.sorted_aggregates).saturating_add(cost::windows(
            counts.windows,
            columns.count,
            counts.window_keys,
            counts.named_keys,
        ));
        if self.sets > 0 || from.branches > 1 {
            // Each condition on a branch is compared with each other one, to detect contradictions.
            let pairs = conditions.saturating_mul(conditions).saturating_mul(from.branches.max(1));
            cost.lists = cost.lists.saturating_add(pairs / 12);
        }
        cost.lists = cost.lists.saturating_add(lists).saturating_add(cost::equalities(equalities, tables));
        self.scopes.leave();
        let (tables, joined) = if apart { (1, 0) } else { (tables, search.max(from.joined)) };
        self.within(head, cost)?;
        Ok(Query { columns, cost, tables, joined, copy: from.copy, branches: from.branches.max(1) })
    }

    /// The number of grouping sets in a GROUP BY list, and the number of pairs that are compared, of sets or of columns
    /// in a ROLLUP.
    fn sets(&self, range: Range<usize>) -> (u64, u64) {
        self.text
            .list(range)
            .iter()
            .map(|part| self.sets_of(part))
            .fold((1, 0), |(sets, pairs): (u64, u64), more| (sets.saturating_mul(more.0), pairs.saturating_add(more.1)))
    }

    fn sets_of(&self, part: &Range<usize>) -> (u64, u64) {
        let text = self.text;
        let start = part.start + usize::from(text.is_one_of(part.start, &["distinct", "all"]));
        let inside = |i: usize| text.group(i).map(|inside| text.list(inside)).unwrap_or_default();
        let square = |n: usize| (n * n) as u64;
        if text.is_bare(start, "cube") {
            let columns = inside(start + 1).len();
            return (u32::try_from(columns).ok().and_then(|n| 1_u64.checked_shl(n)).unwrap_or(u64::MAX), 0);
        }
        if text.is_bare(start, "rollup") {
            let columns = inside(start + 1).len();
            return (columns as u64 + 1, square(columns));
        }
        if text.is_bare(start, "grouping") && text.is_bare(start + 1, "sets") {
            let parts = inside(start + 2);
            return parts
                .iter()
                .map(|part| self.sets_of(part))
                .fold((0, square(parts.len())), |sum: (u64, u64), more| {
                    (sum.0.saturating_add(more.0), sum.1.saturating_add(more.1))
                });
        }
        (1, 0)
    }

    /// Whether an item certainly ends with a label without AS: after an operand.
    fn is_labelled(&self, item: &Range<usize>) -> bool {
        let (text, last) = (self.text, item.end - 1);
        if item.len() < 2 || !text.is_name(last) {
            return false;
        }
        let before = last - 1;
        match text.tokens[before].kind {
            Kind::Number | Kind::Text | Kind::Punctuation(b')' | b']') => true,
            Kind::Word | Kind::Quoted if before == item.start => !text.is_one_of(before, &["not", "array", "row"]),
            Kind::Word | Kind::Quoted => {
                matches!(text.tokens[before - 1].kind, Kind::Operator | Kind::Punctuation(b'.'))
            }
            _ => false,
        }
    }

    /// One item of a select list: its cost, and the columns that it provides.
    fn item(&mut self, item: &Range<usize>, columns: &mut Columns) -> Result<Cost, Heavy> {
        let (text, last) = (self.text, item.end.saturating_sub(1));
        if item.is_empty() {
            return Ok(Cost::default());
        }
        let chain = |range: &Range<usize>| {
            range.len() % 2 == 1
                && range
                    .clone()
                    .all(|i| if (i - range.start).is_multiple_of(2) { text.is_name(i) } else { text.is(i, b'.') })
        };
        if text.is_operator(last, "*") && (item.len() == 1 || (item.len() > 2 && chain(&(item.start..last - 1)))) {
            let all = if item.len() == 1 { self.scopes.here() } else { self.scopes.row(text.name(last - 2)) };
            let all = all.cloned().unwrap_or_else(Columns::of_table);
            columns.join(&all);
            return Ok(all.all + Cost::expressions(all.count.max(COLUMNS)));
        }
        let parts = text.cut(item.clone(), |i| text.is_as(i));
        let named = parts.len() > 1 && text.is_name(parts[parts.len() - 1].start);
        if named || self.is_labelled(item) {
            let end = if named { parts[parts.len() - 1].start - 1 } else { last };
            let cost = self.expression(item.start..end)? + Cost::expressions(1);
            columns.add(Some(text.name(if named { end + 1 } else { last })), cost);
            return Ok(cost);
        }
        let (label, made) = if chain(item) {
            (Some(last), false)
        } else {
            // PostgreSQL generates the name of `a COLLATE b`; other words may be labels.
            (Some(last).filter(|last| text.is_name(*last)), true)
        };
        let cost = self.expression(item.clone())?;
        match label {
            Some(label) if made => {
                columns.add(None, cost);
                columns.raise(text.name(label), cost);
            }
            Some(label) => columns.add(Some(text.name(label)), cost),
            None => columns.add(None, cost),
        }
        Ok(cost)
    }
}
