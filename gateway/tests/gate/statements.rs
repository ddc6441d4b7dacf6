//! Random statements made of what multiplies in a planner: references to expressions, repeated references to subqueries
//! and common table expressions, joins in lists and in trees, EXISTS, BETWEEN, IN, rows, set operations, windows,
//! grouping sets.

/// SplitMix64, so that every machine generates the same statements.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        let n = self.below(of.len() as u64);
        of[usize::try_from(n).unwrap_or(0)]
    }
}

/// The text of a statement and the parts that it is made of.
pub struct Maker {
    random: Random,
    names: u32,
}

/// A statement for this seed. Each query in it returns `a` (an integer), `b` (a boolean) and `store_id`.
pub fn statement(seed: u64) -> String {
    let mut maker = Maker { random: Random(seed), names: 0 };
    let depth = 1 + maker.random.below(8);
    maker.query(depth, &[])
}

impl Maker {
    fn name(&mut self) -> String {
        self.names += 1;
        format!("t{}", self.names)
    }

    fn often(&mut self) -> u64 {
        [1, 1, 2, 2, 3, 4, 6, 8, 12][usize::try_from(self.random.below(9)).unwrap_or(0)]
    }

    fn list(&mut self, between: &str, mut one: impl FnMut(&mut Self) -> String) -> String {
        let n = self.often();
        (0..n).map(|_| one(self)).collect::<Vec<_>>().join(between)
    }

    fn number(&mut self, row: &str, depth: u64) -> String {
        let kind = self.random.below(12);
        if depth == 0 || kind < 2 {
            return format!("{row}.a");
        }
        let inner = |maker: &mut Self| maker.number(row, depth - 1);
        match kind {
            2 | 3 => format!("({} + {})", inner(self), inner(self)),
            4 => format!("coalesce({}, {}, 7)", inner(self), inner(self)),
            5 => format!("CASE WHEN {} THEN {} ELSE {} END", self.truth(row, depth - 1), inner(self), inner(self)),
            6 => format!("greatest({})", self.list(", ", inner)),
            7 => format!("(ARRAY[{}])[1]", self.list(", ", inner)),
            8 => format!("nullif({}, {})", inner(self), inner(self)),
            9 => format!("length(concat({}))", self.list(", ", inner)),
            10 => format!("abs({})", inner(self)),
            _ => format!("({})::int", inner(self)),
        }
    }

    fn truth(&mut self, row: &str, depth: u64) -> String {
        let kind = self.random.below(12);
        if depth == 0 || kind < 2 {
            return format!("{row}.b");
        }
        let number = |maker: &mut Self| maker.number(row, depth - 1);
        let truth = |maker: &mut Self| maker.truth(row, depth - 1);
        match kind {
            2 => {
                let symmetric = self.random.one(&["", "SYMMETRIC "]);
                format!("({} BETWEEN {symmetric}{} AND {})", number(self), number(self), number(self))
            }
            3 => format!("({} BETWEEN {} AND true)", truth(self), truth(self)),
            4 => format!("({} IN ({}))", number(self), self.list(", ", number)),
            5 => format!("(({}) IN ({}, {}))", truth(self), truth(self), truth(self)),
            6 => format!("(({}, {}) IN (({}, {}), (1, 2)))", number(self), number(self), number(self), number(self)),
            7 => {
                let between = self.random.one(&[" AND ", " OR "]);
                format!("({})", self.list(between, truth))
            }
            8 => format!("({} = {})", number(self), number(self)),
            9 => format!("({} < {})", number(self), number(self)),
            10 => format!("(({}) IS NOT DISTINCT FROM ({}))", truth(self), truth(self)),
            _ => format!("(NOT {})", truth(self)),
        }
    }

    fn table(&mut self) -> String {
        let table = self.random.one(&[
            "extract(day FROM order_date)::int AS a, store_id IS NULL AS b, store_id FROM orders",
            "quantity AS a, quantity > 5 AS b, store_id FROM order_items",
            "stock_level AS a, stock_level > 3 AS b, store_id FROM inventory",
            "length(store_name) AS a, is_online AS b, store_id FROM stores",
        ]);
        format!("SELECT {table}")
    }

    fn source(&mut self, depth: u64, ctes: &[String]) -> String {
        if !ctes.is_empty() && self.random.below(2) == 0 {
            let n = self.random.below(ctes.len() as u64);
            return ctes[usize::try_from(n).unwrap_or(0)].clone();
        }
        format!("({})", self.query(depth.saturating_sub(1), ctes))
    }

    fn columns(&mut self, row: &str) -> String {
        let (a, label, b) = (self.number(row, 2), self.random.one(&["AS ", ""]), self.truth(row, 2));
        format!("{a} {label}a, {b} AS b, {row}.store_id")
    }

    fn joined(&mut self, left: &str, right: &str) -> String {
        let more = if self.random.below(2) == 0 { format!(" AND {left}.a = {right}.a") } else { String::new() };
        format!("{left}.store_id = {right}.store_id{more}")
    }

    fn query(&mut self, depth: u64, ctes: &[String]) -> String {
        if depth == 0 {
            return self.table();
        }
        let row = self.name();
        match self.random.below(13) {
            0..=2 => {
                let distinct = self.random.one(&["", "", "DISTINCT "]);
                let (columns, source) = (self.columns(&row), self.source(depth, ctes));
                let whole = format!("SELECT {distinct}{columns} FROM {source} {row}");
                if self.random.below(2) == 0 { format!("{whole} WHERE {}", self.truth(&row, 2)) } else { whole }
            }
            3 => self.listed(depth, ctes),
            4 => self.tree(depth, ctes),
            5 => {
                let set = self.random.one(&[" UNION ALL ", " UNION ALL ", " UNION ", " EXCEPT ", " INTERSECT "]);
                let n = self.often();
                let depth = if n > 3 { 0 } else { depth - 1 };
                (0..n).map(|_| format!("({})", self.query(depth, ctes))).collect::<Vec<_>>().join(set)
            }
            6 => self.with(depth, ctes),
            7 => {
                let (outer, inner) = (self.source(depth, ctes), self.source(depth, ctes));
                let deeper = self.exists(depth - 1, "u");
                format!(
                    "SELECT {row}.a, EXISTS (SELECT 1 FROM {inner} u WHERE u.a = {row}.a AND (u.b OR {deeper})) AS b, \
                     {row}.store_id FROM {outer} {row}"
                )
            }
            8 => {
                let (outer, inner, b) = (self.source(depth, ctes), self.source(depth, ctes), self.truth(&row, 2));
                format!(
                    "SELECT (SELECT max(u.a) FROM {inner} u WHERE u.b = {row}.b) AS a, {b} AS b, {row}.store_id FROM \
                     {outer} {row}"
                )
            }
            9 => {
                let (source, a, b) = (self.source(depth, ctes), self.number(&row, 2), self.truth(&row, 2));
                let n = self.often();
                let cube = (0..n).map(|i| format!("{row}.a + {i}")).collect::<Vec<_>>().join(", ");
                let more = self.random.one(&["", " HAVING true", "cube"]);
                let more = if more == "cube" { format!(", CUBE ({cube})") } else { more.to_owned() };
                format!(
                    "SELECT sum({a})::int AS a, bool_or({b}) AS b, {row}.store_id FROM {source} {row} GROUP BY \
                     {row}.store_id{more}"
                )
            }
            10 => {
                let sums = self.list(" + ", |maker| {
                    let (sum, by) = (maker.number(&row, 1), maker.number(&row, 1));
                    format!("sum({sum}) OVER (PARTITION BY {by} ORDER BY {row}.a)")
                });
                format!("SELECT ({sums})::int AS a, {row}.b, {row}.store_id FROM {} {row}", self.source(depth, ctes))
            }
            11 => format!(
                "SELECT (z.q).a AS a, (z.q).b AS b, (z.q).store_id AS store_id FROM (SELECT {row} AS q FROM {} {row}) z",
                self.source(depth, ctes)
            ),
            _ => {
                let side = self.name();
                let (source, a, b) = (self.source(depth, ctes), self.number(&row, 2), self.truth(&row, 2));
                let apart = self.random.one(&["", " OFFSET 0"]);
                format!(
                    "SELECT {side}.a, {side}.b, {row}.store_id FROM {source} {row} CROSS JOIN LATERAL (SELECT {a} AS a, \
                     {b} AS b{apart}) {side}"
                )
            }
        }
    }

    fn listed(&mut self, depth: u64, ctes: &[String]) -> String {
        let rows: Vec<_> = (0..self.often()).map(|_| self.name()).collect();
        let depth = if rows.len() > 4 { 0 } else { depth };
        let from: Vec<_> = rows.iter().map(|row| format!("{} {row}", self.source(depth, ctes))).collect();
        let on: Vec<_> = rows.windows(2).map(|pair| self.joined(&pair[0], &pair[1])).collect();
        let on = if on.is_empty() { "true".to_owned() } else { on.join(" AND ") };
        format!("SELECT {} FROM {} WHERE {on}", self.columns(&rows[0]), from.join(", "))
    }

    fn tree(&mut self, depth: u64, ctes: &[String]) -> String {
        let rows: Vec<_> = (0..=self.often()).map(|_| self.name()).collect();
        let depth = if rows.len() > 4 { 0 } else { depth };
        let mut from = format!("{} {}", self.source(depth, ctes), rows[0]);
        for pair in rows.windows(2) {
            let join = self.random.one(&["JOIN", "LEFT JOIN", "FULL JOIN", "JOIN"]);
            let (source, on) = (self.source(depth, ctes), self.joined(&pair[0], &pair[1]));
            from.push_str(&format!(" {join} {source} {} ON {on}", pair[1]));
        }
        format!("SELECT {} FROM {from}", self.columns(&rows[rows.len() - 1]))
    }

    fn with(&mut self, depth: u64, ctes: &[String]) -> String {
        let mut known = ctes.to_vec();
        let n = self.often();
        let mut parts = Vec::new();
        for _ in 0..n {
            let name = self.name();
            let keep = self.random.one(&["", "", "NOT MATERIALIZED ", "NOT MATERIALIZED ", "MATERIALIZED "]);
            let depth = if n > 4 && self.random.below(2) == 0 { 0 } else { depth - 1 };
            parts.push(format!("{name} AS {keep}({})", self.query(depth, &known)));
            known.push(name);
        }
        let pick = |maker: &mut Self| {
            let n = maker.random.below(known.len() as u64);
            known[usize::try_from(n).unwrap_or(0)].clone()
        };
        let (row, other, one, two) = (self.name(), self.name(), pick(self), pick(self));
        format!("WITH {} SELECT {} FROM {one} {row}, {two} {other}", parts.join(", "), self.columns(&row))
    }

    fn exists(&mut self, depth: u64, outer: &str) -> String {
        if depth == 0 {
            return format!("{outer}.b");
        }
        let row = self.name();
        let (source, deeper) = (self.table(), self.exists(depth - 1, &row));
        format!("EXISTS (SELECT 1 FROM ({source}) {row} WHERE {row}.a = {outer}.a AND ({row}.b OR {deeper}))")
    }
}
