//! Which statements are reports: they gather many rows into few, and parallel workers may pay.
//!
//! The other way of running a statement stops at the cut and plans once, which suits everything else better.

use std::time::Duration;

use moka::sync::Cache;
use sha2::{Digest, Sha256};

use crate::gate::Checked;

/// A report that took less gains nothing from workers, and pays for being planned twice.
const QUICK: Duration = Duration::from_millis(5);
/// Quick reports that are remembered, and for how long: tables grow.
const REMEMBERED: (u64, Duration) = (10_000, Duration::from_secs(600));

/// What is known of statements.
pub struct Reports {
    quick: Cache<[u8; 32], ()>,
}

impl Reports {
    /// Knows of none.
    pub fn new() -> Self {
        Self { quick: Cache::builder().max_capacity(REMEMBERED.0).time_to_live(REMEMBERED.1).build() }
    }

    /// Whether the statement is to run as a report.
    pub fn suit(&self, statement: Checked<'_>) -> bool {
        statement.gathers && !self.quick.contains_key(&key(statement.sql))
    }

    /// Remembers how long a report took.
    pub fn learn(&self, sql: &str, elapsed: Duration) {
        if elapsed < QUICK {
            self.quick.insert(key(sql), ());
        }
    }
}

fn key(sql: &str) -> [u8; 32] {
    Sha256::digest(sql).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate;

    #[test]
    fn a_report_that_was_quick_is_run_as_other_statements_are() {
        let reports = Reports::new();
        let sql = "SELECT store_id, count(*) FROM orders GROUP BY 1";
        let suit = |sql| reports.suit(gate::check(sql).expect("let through"));
        assert!(suit(sql));
        reports.learn(sql, Duration::from_secs(1));
        assert!(suit(sql));
        reports.learn(sql, Duration::from_millis(1));
        assert!(!suit(sql));
        assert!(!suit("SELECT order_id FROM orders WHERE order_id = '…'"));
    }
}
