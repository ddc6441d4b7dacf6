//! What planning costs, in units of about 1.4 KB of PostgreSQL's memory and 5 microseconds of its time, and where the
//! units come from. The figures were measured on PostgreSQL 16 and 18; decision 23 has them.

use std::ops::{Add, AddAssign};

/// A query and a table in it: their own structures, paths and policies.
pub const QUERY: u64 = 60;
/// As above.
pub const RELATION: u64 = 60;
/// Assumed columns of a table, since the gate does not know the actual number.
pub const COLUMNS: u64 = 20;

/// The cost of planning, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Expressions, copied to wherever their names occur.
    pub expressions: u64,
    /// Queries and tables.
    pub queries: u64,
    /// Possible join orders.
    pub joins: u64,
    /// Pairwise comparisons: equalities, sort keys, aggregates, windows, grouping sets.
    pub lists: u64,
    /// Conditions between AND and OR among the expressions: counted, but not part of the sum.
    pub conditions: u64,
}

impl Cost {
    /// A cost of expressions alone.
    pub const fn expressions(expressions: u64) -> Self {
        Self { expressions, queries: 0, joins: 0, lists: 0, conditions: 0 }
    }

    /// The sum.
    pub const fn total(&self) -> u64 {
        self.expressions.saturating_add(self.queries).saturating_add(self.joins).saturating_add(self.lists)
    }

    /// The cost of this many repetitions.
    #[must_use]
    pub const fn times(self, n: u64) -> Self {
        Self {
            expressions: self.expressions.saturating_mul(n),
            queries: self.queries.saturating_mul(n),
            joins: self.joins.saturating_mul(n),
            lists: self.lists.saturating_mul(n),
            conditions: self.conditions.saturating_mul(n),
        }
    }

    /// The maximum of each part.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            expressions: self.expressions.max(other.expressions),
            queries: self.queries.max(other.queries),
            joins: self.joins.max(other.joins),
            lists: self.lists.max(other.lists),
            conditions: self.conditions.max(other.conditions),
        }
    }

    /// Advice about the largest part.
    pub fn advice(&self) -> &'static str {
        let greatest = self.expressions.max(self.queries).max(self.joins).max(self.lists);
        if greatest == self.expressions {
            "its expressions are copied to wherever their names stand, and these names stand several times on each level; \
             use fewer levels, or write WITH … AS MATERIALIZED"
        } else if greatest == self.queries {
            "it has too many queries, tables or common table expressions, some of them planned several times; use fewer \
             levels, leave NOT MATERIALIZED out, or ask in several statements"
        } else if greatest == self.joins {
            "it joins too many tables at once; join fewer, or join some of them in WITH … AS MATERIALIZED first"
        } else {
            "it has too many equalities between columns, sort keys, windows, DISTINCT or ordered aggregates, grouping sets, \
             or words; use fewer, or ask in several statements"
        }
    }
}

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            expressions: self.expressions.saturating_add(other.expressions),
            queries: self.queries.saturating_add(other.queries),
            joins: self.joins.saturating_add(other.joins),
            lists: self.lists.saturating_add(other.lists),
            conditions: self.conditions.saturating_add(other.conditions),
        }
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// The search for the best join order. Up to eight tables are searched exhaustively (`join_collapse_limit`), more in
/// groups of eight whose columns can still be in the same equivalence class; a list with commas is searched
/// exhaustively up to eleven. Each condition is checked for each pair that is tried.
pub fn joins(tables: u64, listed: u64, equalities: u64, conditions: u64) -> u64 {
    if tables < 2 {
        return 0;
    }
    let whole = |n: u64| 3_u64.saturating_pow(u32::try_from(n).unwrap_or(u32::MAX)).saturating_mul(17) / 6;
    let beyond = tables.saturating_sub(8);
    let groups = if tables <= 8 { whole(tables) } else { 2_200 * tables + 55 * beyond * beyond };
    let search = groups.max(if listed > 8 { whole(listed.min(12)) } else { 0 });
    let search = search.saturating_mul((equalities / (3 * (tables - 1))).max(1));
    search.saturating_add(search.saturating_mul(conditions) / 100)
}

/// Each equality is compared with each other one, for each table that it may join.
pub const fn equalities(equalities: u64, tables: u64) -> u64 {
    equalities.saturating_mul(equalities).saturating_mul(tables)
}

/// Sort keys, including those of aggregates that sort.
pub const fn lists(keys: u64, sorted_aggregates: u64) -> u64 {
    let sorted = sorted_aggregates.saturating_mul(sorted_aggregates).saturating_mul(2);
    (keys.saturating_mul(keys) / 30).saturating_add(sorted)
}

/// Each window passes on all columns, and its keys are compared with those of the other windows, inherited keys
/// included.
pub const fn windows(windows: u64, columns: u64, keys: u64, named_keys: u64) -> u64 {
    let all = keys.saturating_add(windows.saturating_mul(named_keys));
    windows
        .saturating_mul(windows.saturating_add(columns))
        .saturating_add(keys.saturating_mul(keys) / 16)
        .saturating_add(all.saturating_mul(all) / 1_600)
}
