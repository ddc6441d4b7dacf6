//! What column names refer to, as far as the statement itself shows: expressions of a subquery, which PostgreSQL copies
//! to wherever the name occurs.

use std::collections::HashMap;

use super::cost::{COLUMNS, Cost};

/// The columns that a query or an item in FROM provides.
#[derive(Clone, Debug)]
pub struct Columns {
    /// The cost of each name.
    pub named: HashMap<String, Cost>,
    /// The cost of any other name: columns of tables, and columns whose names PostgreSQL generates.
    pub other: Cost,
    /// The cost of all columns together, as in `*` and in a whole row.
    pub all: Cost,
    /// The approximate number of columns.
    pub count: u64,
}

impl Columns {
    /// No columns.
    pub fn none() -> Self {
        Self { named: HashMap::new(), other: Cost::default(), all: Cost::default(), count: 0 }
    }

    /// The columns of a table, each of which costs its name.
    pub fn of_table() -> Self {
        Self { named: HashMap::new(), other: Cost::default(), all: Cost::expressions(COLUMNS), count: COLUMNS }
    }

    /// A column of this name, or of a name that PostgreSQL generates.
    pub fn add(&mut self, name: Option<&str>, cost: Cost) {
        match name {
            Some(name) => self.raise(name, cost),
            None => self.other = self.other.max(cost),
        }
        self.all += cost;
        self.count += 1;
    }

    /// Raises the cost of every name to at least this.
    pub fn raise(&mut self, name: &str, cost: Cost) {
        let known = self.named.entry(name.to_owned()).or_default();
        *known = known.max(cost);
    }

    /// Adds the columns of another one: adjacent items in FROM, and the branches of a set operation.
    pub fn join(&mut self, others: &Self) {
        // One side may have a column of the other side's name, which PostgreSQL generated.
        if others.other != Cost::default() {
            for (name, cost) in &mut self.named {
                *cost = cost.max(others.cost(name));
            }
        }
        for (name, cost) in &others.named {
            let known = self.named.get(name).copied().unwrap_or(self.other);
            self.named.insert(name.clone(), known.max(*cost));
        }
        self.other = self.other.max(others.other);
        self.all += others.all;
        self.count += others.count;
    }

    /// The cost of the most expensive column.
    pub fn dearest(&self) -> Cost {
        self.named.values().fold(self.other, |dearest, cost| dearest.max(*cost))
    }

    /// The same columns under the names in another list. The assignment does not matter.
    pub fn renamed(&mut self) {
        self.other = self.dearest();
        self.named.clear();
    }

    /// The cost of a name here.
    pub fn cost(&self, name: &str) -> Cost {
        self.named.get(name).copied().unwrap_or(self.other)
    }
}

/// Names in scope, those of the innermost query last.
#[derive(Debug, Default)]
pub struct Scopes(Vec<(Columns, HashMap<String, Columns>)>);

impl Scopes {
    /// Opens the scope of a query.
    pub fn enter(&mut self) {
        self.0.push((Columns::none(), HashMap::new()));
    }

    /// Closes the scope, and returns its columns.
    pub fn leave(&mut self) -> Columns {
        self.0.pop().map_or_else(Columns::none, |(columns, _)| columns)
    }

    /// An item in FROM of the innermost query, under the name that its whole rows have.
    pub fn add(&mut self, alias: Option<&str>, columns: Columns) {
        if let Some((all, rows)) = self.0.last_mut() {
            all.join(&columns);
            let alias = alias.map_or_else(|| format!("\0{}", rows.len()), str::to_owned);
            rows.entry(alias).or_insert_with(Columns::none).join(&columns);
        }
    }

    /// Columns that USING or NATURAL merges: the merged one holds the expressions of both sides.
    pub fn merge(&mut self, name: Option<&str>) {
        let Some((all, rows)) = self.0.last_mut() else { return };
        let names: Vec<String> = name.map_or_else(|| all.named.keys().cloned().collect(), |name| vec![name.to_owned()]);
        for name in names {
            let sum = rows.values().fold(Cost::default(), |sum, columns| sum + columns.cost(&name));
            all.raise(&name, sum);
        }
        if name.is_none() {
            all.other = rows.values().fold(all.other, |sum, columns| sum + columns.other);
        }
    }

    /// The columns of the innermost query.
    pub fn here(&self) -> Option<&Columns> {
        self.0.last().map(|(columns, _)| columns)
    }

    /// The rows with this name.
    pub fn row(&self, name: &str) -> Option<&Columns> {
        self.0.iter().rev().find_map(|(_, rows)| rows.get(name))
    }

    /// The cost of a name: that of the most expensive thing that it may refer to.
    pub fn cost(&self, name: &str) -> Cost {
        self.0.iter().fold(Cost::default(), |dearest, (columns, rows)| {
            let row = rows.get(name).map_or_else(Cost::default, |row| row.all);
            dearest.max(columns.cost(name)).max(row)
        })
    }
}
