//! Random queries over the retail schema: joins, set operations, subqueries, lateral, windows, grouping sets, CTEs.
//!
//! Table names are unqualified, so that the oracle can put filtered tables of the same names before the query. Every query
//! has one right answer as a multiset of rows: no floating point, no LIMIT without a total order, no clock.

use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Uuid,
    Text,
    Int,
    Numeric,
    Time,
}

use Type::{Int, Numeric, Text, Time, Uuid};

const TABLES: [(&str, &[(&str, Type)]); 10] = [
    ("tenants", &[("tenant_key", Int), ("tenant_id", Text), ("display_name", Text)]),
    ("stores", &[("store_id", Uuid), ("store_name", Text), ("tenant_key", Int)]),
    (
        "customers",
        &[
            ("customer_id", Uuid),
            ("primary_store_id", Uuid),
            ("first_name", Text),
            ("last_name", Text),
            ("email", Text),
        ],
    ),
    ("orders", &[("order_id", Uuid), ("store_id", Uuid), ("customer_id", Uuid), ("order_date", Time)]),
    (
        "order_items",
        &[
            ("order_item_id", Uuid),
            ("order_id", Uuid),
            ("store_id", Uuid),
            ("product_id", Uuid),
            ("quantity", Int),
            ("unit_price", Numeric),
            ("total_amount", Numeric),
        ],
    ),
    ("inventory", &[("store_id", Uuid), ("product_id", Uuid), ("stock_level", Int)]),
    (
        "products",
        &[("product_id", Uuid), ("sku", Text), ("product_name", Text), ("category_id", Uuid), ("base_price", Numeric)],
    ),
    ("categories", &[("category_id", Uuid), ("category_name", Text)]),
    ("product_types", &[("type_id", Uuid), ("category_id", Uuid), ("type_name", Text)]),
    (
        "product_description_embeddings",
        &[("product_id", Uuid), ("tenant_key", Int), ("model", Text), ("content_hash", Text)],
    ),
];

#[derive(Clone, Debug)]
struct Column {
    name: String,
    kind: Type,
}

/// One relation in a FROM list, with an alias and its columns.
struct Source {
    sql: String,
    columns: Vec<Column>,
}

pub struct Generator<'a> {
    rng: &'a mut StdRng,
    /// Ids that predicates name: stores of the caller and of others.
    ids: &'a [uuid::Uuid],
    aliases: u32,
}

impl<'a> Generator<'a> {
    pub fn new(rng: &'a mut StdRng, ids: &'a [uuid::Uuid]) -> Self {
        Self { rng, ids, aliases: 0 }
    }

    /// A query whose output columns are named `c0`, `c1`, ….
    pub fn query(&mut self) -> String {
        let depth = self.rng.random_range(1..=3);
        let types = self.types();
        if self.rng.random_ratio(1, 4) { self.with(depth, &types) } else { self.body(depth, &types) }
    }

    fn types(&mut self) -> Vec<Type> {
        (0..self.rng.random_range(1..=4))
            .map(|_| *[Uuid, Text, Int, Numeric, Time].choose(self.rng).expect("types"))
            .collect()
    }

    fn alias(&mut self) -> String {
        self.aliases += 1;
        format!("t{}", self.aliases)
    }

    fn with(&mut self, depth: u32, types: &[Type]) -> String {
        let (name, inner) = (self.alias(), self.types());
        let materialized = ["", "MATERIALIZED ", "NOT MATERIALIZED "].choose(self.rng).expect("words");
        let cte = self.body(depth - 1, &inner);
        let alias = self.alias();
        let columns = named(&alias, &inner);
        let other = self.source(depth - 1);
        let join = self.join(&columns, &other);
        let all: Vec<Column> = columns.into_iter().chain(other.columns.clone()).collect();
        let list = self.list(&all, types);
        format!("WITH {name} AS {materialized}({cte}) SELECT {list} FROM {name} AS {alias} {join}")
    }

    fn body(&mut self, depth: u32, types: &[Type]) -> String {
        match self.rng.random_range(0..10) {
            0 | 1 if depth > 0 => {
                let (left, right) = (self.body(depth - 1, types), self.body(depth - 1, types));
                let op = ["UNION", "UNION ALL", "INTERSECT", "EXCEPT", "EXCEPT ALL"].choose(self.rng).expect("words");
                format!("({left}) {op} ({right})")
            }
            2 | 3 => self.grouped(depth, types),
            4 => self.windowed(depth, types),
            _ => self.plain(depth, types),
        }
    }

    fn plain(&mut self, depth: u32, types: &[Type]) -> String {
        let (from, columns) = self.from(depth);
        let (list, filter) = (self.list(&columns, types), self.filter(depth, &columns));
        let distinct = if self.rng.random_ratio(1, 6) { "DISTINCT " } else { "" };
        let sql = format!("SELECT {distinct}{list} FROM {from}{filter}");
        if self.rng.random_ratio(1, 6) {
            let all: Vec<String> = (1..=types.len()).map(|n| n.to_string()).collect();
            let limit = self.rng.random_range(1..20);
            return format!("{sql} ORDER BY {} LIMIT {limit}", all.join(", "));
        }
        sql
    }

    fn grouped(&mut self, depth: u32, types: &[Type]) -> String {
        let (from, columns) = self.from(depth);
        let filter = self.filter(depth, &columns);
        let keys: Vec<Column> = columns.choose_multiple(self.rng, 2).cloned().collect();
        let list: Vec<String> = types
            .iter()
            .enumerate()
            .map(|(n, kind)| format!("{} AS c{n}", self.aggregate(&keys, &columns, *kind)))
            .collect();
        let names: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
        let group = match self.rng.random_range(0..4) {
            0 => format!("ROLLUP ({})", names.join(", ")),
            1 => format!("CUBE ({})", names.join(", ")),
            2 => format!("GROUPING SETS (({}), ())", names.join(", ")),
            _ => names.join(", "),
        };
        let having = if self.rng.random_ratio(1, 3) { " HAVING count(*) > 1" } else { "" };
        format!("SELECT {} FROM {from}{filter} GROUP BY {group}{having}", list.join(", "))
    }

    /// A key of that type, or an aggregate over any column.
    fn aggregate(&mut self, keys: &[Column], columns: &[Column], kind: Type) -> String {
        let fitting: Vec<&Column> = keys.iter().filter(|key| key.kind == kind).collect();
        if let Some(key) = fitting.choose(self.rng) {
            return key.name.clone();
        }
        let of = |wanted: Type| columns.iter().find(|column| column.kind == wanted).map(|column| column.name.clone());
        match kind {
            Int => ["count(*)".to_owned(), format!("count(DISTINCT {})", columns[0].name)]
                .choose(self.rng)
                .expect("two")
                .clone(),
            Numeric => of(Numeric).or_else(|| of(Int)).map_or("count(*)::numeric".to_owned(), |name| {
                format!("{}({name})::numeric", ["sum", "min", "max"].choose(self.rng).expect("words"))
            }),
            Text => of(Text).map_or("min('-')".to_owned(), |name| format!("string_agg({name}, ',' ORDER BY {name})")),
            Time => of(Time).map_or("NULL::timestamptz".to_owned(), |name| format!("max({name})")),
            Uuid => of(Uuid).map_or("NULL::uuid".to_owned(), |name| format!("min({name}::text)::uuid")),
        }
    }

    fn windowed(&mut self, depth: u32, types: &[Type]) -> String {
        let (from, columns) = self.from(depth);
        let filter = self.filter(depth, &columns);
        let (by, order) =
            (columns.choose(self.rng).expect("columns").clone(), columns.choose(self.rng).expect("columns").clone());
        let list: Vec<String> = types
            .iter()
            .enumerate()
            .map(|(n, kind)| {
                let value = match kind {
                    Int => format!(
                        "{} OVER (PARTITION BY {} ORDER BY {})",
                        ["count(*)", "rank()", "dense_rank()"].choose(self.rng).expect("words"),
                        by.name,
                        order.name
                    ),
                    _ => self.value(&columns, *kind),
                };
                format!("{value} AS c{n}")
            })
            .collect();
        format!("SELECT {} FROM {from}{filter}", list.join(", "))
    }

    /// A FROM list of one to three relations, and the columns it offers.
    fn from(&mut self, depth: u32) -> (String, Vec<Column>) {
        let first = self.source(depth);
        let (mut sql, mut columns) = (first.sql, first.columns);
        for _ in 0..self.rng.random_range(0..=2) {
            if depth > 0 && self.rng.random_ratio(1, 5) {
                let (lateral, offered) = self.lateral(&columns);
                sql += &format!(" {lateral}");
                columns.extend(offered);
                continue;
            }
            let next = self.source(depth.saturating_sub(1));
            sql += &format!(" {}", self.join(&columns, &next));
            columns.extend(next.columns);
        }
        (sql, columns)
    }

    fn source(&mut self, depth: u32) -> Source {
        let alias = self.alias();
        if depth > 0 && self.rng.random_ratio(1, 4) {
            let types = self.types();
            let sql = format!("({}) AS {alias}", self.body(depth - 1, &types));
            return Source { sql, columns: named(&alias, &types) };
        }
        let (table, columns) = TABLES.choose(self.rng).expect("tables");
        let columns =
            columns.iter().map(|(name, kind)| Column { name: format!("{alias}.{name}"), kind: *kind }).collect();
        Source { sql: format!("{table} AS {alias}"), columns }
    }

    /// A table and its column of that kind; nearly every table has one.
    fn source_with_an_id(&mut self) -> (Source, String) {
        loop {
            let source = self.source(0);
            if let Some(id) = source.columns.iter().find(|column| column.kind == Uuid) {
                let id = id.name.clone();
                return (source, id);
            }
        }
    }

    /// A join on two columns of one type; on nothing where there is no such pair.
    fn join(&mut self, left: &[Column], right: &Source) -> String {
        let mut pairs = Vec::new();
        for a in left {
            for b in right.columns.iter().filter(|b| b.kind == a.kind && matches!(a.kind, Uuid | Text)) {
                // Columns of one name belong together more often than not.
                let same = a.name.split('.').nth(1) == b.name.split('.').nth(1);
                pairs.extend(std::iter::repeat_n((a, b), if same { 8 } else { 1 }));
            }
        }
        let Some((a, b)) = pairs.choose(self.rng) else { return format!("LEFT JOIN {} ON false", right.sql) };
        let kind = ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"].choose(self.rng).expect("words");
        format!("{kind} {} ON {} = {}", right.sql, a.name, b.name)
    }

    fn lateral(&mut self, outer: &[Column]) -> (String, Vec<Column>) {
        let inner = self.source(0);
        let alias = self.alias();
        let pair = inner.columns.iter().find_map(|b| outer.iter().find(|a| a.kind == b.kind).map(|a| (a, b)));
        let filter = pair.map_or("true".to_owned(), |(a, b)| format!("{} = {}", b.name, a.name));
        let sql = format!("CROSS JOIN LATERAL (SELECT count(*) AS c0 FROM {} WHERE {filter}) AS {alias}", inner.sql);
        (sql, named(&alias, &[Int]))
    }

    fn list(&mut self, columns: &[Column], types: &[Type]) -> String {
        let values: Vec<String> =
            types.iter().enumerate().map(|(n, kind)| format!("{} AS c{n}", self.value(columns, *kind))).collect();
        values.join(", ")
    }

    /// An expression of that type.
    fn value(&mut self, columns: &[Column], kind: Type) -> String {
        let fitting: Vec<&Column> = columns.iter().filter(|column| column.kind == kind).collect();
        if let Some(column) = fitting.choose(self.rng) {
            return match kind {
                Text if self.rng.random_ratio(1, 5) => format!("upper({})", column.name),
                Int if self.rng.random_ratio(1, 5) => format!("({} % 7)", column.name),
                _ => column.name.clone(),
            };
        }
        match kind {
            Int => format!("length({}::text)", columns.choose(self.rng).expect("columns").name),
            Text => format!("{}::text", columns.choose(self.rng).expect("columns").name),
            Numeric => "(SELECT sum(total_amount) FROM order_items)".to_owned(),
            Time => "(SELECT min(order_date) FROM orders)".to_owned(),
            Uuid => "(SELECT min(store_id::text)::uuid FROM stores)".to_owned(),
        }
    }

    fn filter(&mut self, depth: u32, columns: &[Column]) -> String {
        let mut terms = Vec::new();
        for _ in 0..self.rng.random_range(0..=2) {
            let column = columns.choose(self.rng).expect("columns").clone();
            terms.push(self.predicate(depth, &column));
        }
        if terms.is_empty() {
            return String::new();
        }
        format!(" WHERE {}", terms.join([" AND ", " OR "].choose(self.rng).expect("words")))
    }

    fn predicate(&mut self, depth: u32, column: &Column) -> String {
        let name = &column.name;
        if self.rng.random_ratio(1, 8) {
            return format!("{name} IS NOT NULL");
        }
        match column.kind {
            Uuid if depth > 0 && self.rng.random_bool(0.5) => {
                let (inner, other) = self.source_with_an_id();
                match self.rng.random_range(0..3) {
                    0 => format!("{name} IN (SELECT {other} FROM {})", inner.sql),
                    1 => format!("NOT EXISTS (SELECT FROM {} WHERE {other} = {name})", inner.sql),
                    _ => format!("EXISTS (SELECT FROM {} WHERE {other} = {name})", inner.sql),
                }
            }
            Uuid => {
                let ids: Vec<String> = self.ids.choose_multiple(self.rng, 3).map(|id| format!("'{id}'")).collect();
                format!("{name} {}IN ({})", if self.rng.random_bool(0.3) { "NOT " } else { "" }, ids.join(", "))
            }
            Text => format!("{name} LIKE '%{}%'", ["1", "o", "S", "example", "zz"].choose(self.rng).expect("words")),
            Int => format!("{name} > {}", self.rng.random_range(0..20)),
            Numeric => format!("{name} BETWEEN 10 AND {}", self.rng.random_range(20..500)),
            Time => format!("{name} >= timestamptz '2025-06-01Z'"),
        }
    }
}

fn named(alias: &str, types: &[Type]) -> Vec<Column> {
    types.iter().enumerate().map(|(n, kind)| Column { name: format!("{alias}.c{n}"), kind: *kind }).collect()
}
