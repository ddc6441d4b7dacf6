//! Which statements run as reports, by `fence.run_report`: those that aggregate many rows into few, where parallel workers
//! may pay.
//!
//! All others run by `fence.run_query`, which stops at the row limit and plans once.

use std::time::Duration;

use moka::sync::Cache;
use sha2::{Digest, Sha256};
use storefence_tenancy::scope::StoreSet;

use crate::{
    caller::Caller,
    gate::{
        Checked,
        lexer::{Kind, tokens},
    },
};

/// A report that took less gains nothing from workers, and costs more for being planned twice.
const QUICK: Duration = Duration::from_millis(5);
/// A statement that took longer is no longer quick: it may have other constants, or its tables have grown.
const SLOW: Duration = Duration::from_millis(50);
/// Quick reports that are remembered, and for how long.
const REMEMBERED: (u64, Duration) = (10_000, Duration::from_secs(600));

/// A statement without its constants, for one tenant and number of stores. A dashboard that repeats a statement with the
/// time of day in it repeats the same shape. In another tenant, or with other stores, the same statement reads other rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape([u8; 32]);

impl Shape {
    /// The shape of a statement that aggregates; `None` for any other.
    pub fn of(caller: &Caller, statement: Checked<'_>) -> Option<Self> {
        let stores = match caller.scope.stores() {
            StoreSet::All => 0,
            StoreSet::Some(ids) => ids.len(),
        };
        statement.gathers.then(|| Self::new(caller.tenant.id().as_str(), stores, statement.sql))
    }

    fn new(tenant: &str, stores: usize, sql: &str) -> Self {
        let mut hash = Sha256::new().chain_update(tenant).chain_update([0]).chain_update(stores.to_le_bytes());
        // The gate has read the same tokens, so this does not fail.
        for token in tokens(sql).unwrap_or_default() {
            match token.kind {
                Kind::Text | Kind::Number => hash.update([0]),
                _ => {
                    hash.update(&sql[token.start..token.end]);
                    hash.update(b" ");
                }
            }
        }
        Self(hash.finalize().into())
    }
}

/// Statements that gain nothing from running as reports.
pub struct Reports {
    quick: Cache<Shape, ()>,
}

impl Reports {
    /// No statement is known yet.
    pub fn new() -> Self {
        Self { quick: Cache::builder().max_capacity(REMEMBERED.0).time_to_live(REMEMBERED.1).build() }
    }

    /// Whether a statement of this shape should run as a report.
    pub fn suit(&self, shape: Shape) -> bool {
        !self.quick.contains_key(&shape)
    }

    /// Remembers how long a statement took, whichever way it ran.
    pub fn learn(&self, shape: Shape, elapsed: Duration) {
        if elapsed < QUICK {
            self.quick.insert(shape, ());
        } else if elapsed > SLOW {
            self.quick.invalidate(&shape);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SQL: &str = "SELECT store_id, count(*) FROM orders WHERE order_date > '2026-01-01' GROUP BY 1";

    #[test]
    fn a_quick_report_runs_as_other_statements_do() {
        let reports = Reports::new();
        let shape = Shape::new("zava", 0, SQL);
        assert!(reports.suit(shape));
        reports.learn(shape, Duration::from_secs(1));
        assert!(reports.suit(shape));
        reports.learn(shape, Duration::from_millis(1));
        assert!(!reports.suit(shape));
        reports.learn(shape, Duration::from_millis(20));
        assert!(!reports.suit(shape), "between quick and slow nothing changes");
        reports.learn(shape, Duration::from_secs(1));
        assert!(reports.suit(shape), "with these constants it is a report again");
    }

    #[test]
    fn constants_make_no_other_statement_and_callers_do() {
        let shape = Shape::new("zava", 0, SQL);
        for same in [
            "SELECT store_id,count(*) FROM orders WHERE order_date > $$2025-07-01$$ GROUP BY 2",
            "SELECT store_id, count(*) /* again */ FROM orders WHERE order_date > E'2026-01-01 12:00:01.5' GROUP BY 1",
        ] {
            assert_eq!(Shape::new("zava", 0, same), shape, "{same}");
        }
        for other in [
            "SELECT store_id, count(*) FROM orders WHERE order_date < '2026-01-01' GROUP BY 1",
            "SELECT store_id, count(*) FROM \"orders\" WHERE order_date > '2026-01-01' GROUP BY 1",
            "SELECT store_id, count(*) FROM orders WHERE order_date > '2026-01-01' OR order_date > '2026-01-01' GROUP BY 1",
        ] {
            assert_ne!(Shape::new("zava", 0, other), shape, "{other}");
        }
        assert_ne!(Shape::new("contoso", 8, SQL), shape);
        assert_ne!(Shape::new("zava", 1, SQL), shape);
    }
}
