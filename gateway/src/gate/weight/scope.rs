//! What the names of columns stand for, as far as a statement itself says: expressions of a subquery, which PostgreSQL
//! copies to wherever the name stands.

use std::collections::HashMap;

use super::cost::{COLUMNS, Cost};

/// What a query, or a place in FROM, hands out.
#[derive(Clone, Debug)]
pub struct Columns {
    /// What each name costs.
    pub named: HashMap<String, Cost>,
    /// What any other name costs: columns of tables, and columns whose names PostgreSQL makes up.
    pub other: Cost,
    /// What all columns cost together, as in `*` and in a whole row.
    pub all: Cost,
    /// How many there are, about.
    pub count: u64,
}

impl Columns {
    /// None.
    pub fn none() -> Self {
        Self { named: HashMap::new(), other: Cost::default(), all: Cost::default(), count: 0 }
    }

    /// Those of a table, each of which costs its name.
    pub fn of_table() -> Self {
        Self { named: HashMap::new(), other: Cost::default(), all: Cost::expressions(COLUMNS), count: COLUMNS }
    }

    /// A column of this name, or of one that PostgreSQL makes up.
    pub fn add(&mut self, name: Option<&str>, cost: Cost) {
        match name {
            Some(name) => self.raise(name, cost),
            None => self.other = self.other.max(cost),
        }
        self.all += cost;
        self.count += 1;
    }

    /// A name costs at least this.
    pub fn raise(&mut self, name: &str, cost: Cost) {
        let known = self.named.entry(name.to_owned()).or_default();
        *known = known.max(cost);
    }

    /// Takes up another one's columns: what stands beside each other in FROM, and the branches of a set operation.
    pub fn join(&mut self, others: &Self) {
        // One side may have a column of the other side's name that it has made up itself.
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

    /// The dearest column.
    pub fn dearest(&self) -> Cost {
        self.named.values().fold(self.other, |dearest, cost| dearest.max(*cost))
    }

    /// The same columns under names of another list: which is which does not matter.
    pub fn renamed(&mut self) {
        self.other = self.dearest();
        self.named.clear();
    }

    /// What a name costs here.
    pub fn cost(&self, name: &str) -> Cost {
        self.named.get(name).copied().unwrap_or(self.other)
    }
}

/// Names in scope, the innermost query's last.
#[derive(Debug, Default)]
pub struct Scopes(Vec<(Columns, HashMap<String, Columns>)>);

impl Scopes {
    /// Opens a query.
    pub fn enter(&mut self) {
        self.0.push((Columns::none(), HashMap::new()));
    }

    /// Closes it, and returns its columns.
    pub fn leave(&mut self) -> Columns {
        self.0.pop().map_or_else(Columns::none, |(columns, _)| columns)
    }

    /// A place in FROM of the innermost query, by the name that whole rows of it go by.
    pub fn add(&mut self, alias: Option<&str>, columns: Columns) {
        if let Some((all, rows)) = self.0.last_mut() {
            all.join(&columns);
            let alias = alias.map_or_else(|| format!("\0{}", rows.len()), str::to_owned);
            rows.entry(alias).or_insert_with(Columns::none).join(&columns);
        }
    }

    /// Columns that USING or NATURAL merges: each side's expression stands in the merged one.
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

    /// The rows that go by this name.
    pub fn row(&self, name: &str) -> Option<&Columns> {
        self.0.iter().rev().find_map(|(_, rows)| rows.get(name))
    }

    /// What a name costs: the dearest thing that it may stand for.
    pub fn cost(&self, name: &str) -> Cost {
        self.0.iter().fold(Cost::default(), |dearest, (columns, rows)| {
            let row = rows.get(name).map_or_else(Cost::default, |row| row.all);
            dearest.max(columns.cost(name)).max(row)
        })
    }
}
