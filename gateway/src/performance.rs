//! How long statements take: by tool, and by statement for a bounded number of them. A statement is identified by its
//! SHA-256, the same as in the audit log; its text is not stored.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use jiff::Timestamp;
use moka::sync::Cache;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::{
    audit::chain,
    caller::Caller,
    db::{Data, QueryError},
    metrics::Metrics,
};

/// Number of statements with figures of their own. The ones that run most often are kept.
const STATEMENTS: u64 = 200;
/// Plans that are cached, and for how long.
const PLANS: (u64, Duration) = (500, Duration::from_secs(600));
/// Longest time that is recorded, in microseconds: an hour. Longer ones count as this.
const LONGEST: u64 = 3_600_000_000;

/// A statement as it is measured: the caller's, or one of the gateway itself.
#[derive(Clone, Copy, Debug)]
pub enum Statement<'a> {
    /// A statement that a caller wrote.
    Caller {
        /// The text as it was written; the audit log hashes the same text.
        text: &'a str,
        /// The part of it that runs.
        sql: &'a str,
    },
    /// A statement of the gateway's own. Its constants (days, stores, names) do not count for its hash.
    Own(&'a str),
    /// `fence.search_products`.
    Search,
}

impl Statement<'_> {
    fn sha256(self) -> String {
        match self {
            Self::Caller { text, .. } => chain::sha256(text.as_bytes()),
            Self::Own(sql) => chain::sha256(shape(sql).as_bytes()),
            Self::Search => chain::sha256(b"fence.search_products"),
        }
    }

    const fn text(&self) -> Option<&str> {
        match self {
            Self::Caller { sql, .. } | Self::Own(sql) => Some(sql),
            Self::Search => None,
        }
    }
}

/// A statement of the gateway's own without its constants: quoted texts, and digits. None of them has a quote within quotes.
fn shape(sql: &str) -> String {
    let mut quoted = false;
    let rest = sql.chars().filter(|c| {
        quoted ^= *c == '\'';
        !quoted && !c.is_ascii_digit()
    });
    rest.collect()
}

/// Times of one tool or statement.
struct Times {
    micros: Option<Histogram<u32>>,
    count: u64,
    total: Duration,
    max: Duration,
    slow: u64,
    failed: u64,
    plan: Option<String>,
}

impl Times {
    fn new() -> Self {
        // Two significant digits are precise enough, at 10 KiB.
        let micros = Histogram::new_with_max(LONGEST, 2).ok();
        Self { micros, count: 0, total: Duration::ZERO, max: Duration::ZERO, slow: 0, failed: 0, plan: None }
    }

    fn add(&mut self, elapsed: Duration, is_slow: bool, failed: bool) {
        if let Some(micros) = &mut self.micros {
            micros.saturating_record(u64::try_from(elapsed.as_micros()).unwrap_or(LONGEST));
        }
        self.count += 1;
        self.total += elapsed;
        self.max = self.max.max(elapsed);
        self.slow += u64::from(is_slow);
        self.failed += u64::from(failed);
    }

    #[allow(clippy::cast_precision_loss)]
    fn json(&self) -> Value {
        let millis = |time: Duration| (time.as_secs_f64() * 1_000_000.0).round() / 1000.0;
        let quantile = |q: f64| {
            let micros = self.micros.as_ref().map_or(0, |micros| micros.value_at_quantile(q));
            // A bucket's upper end may lie above the longest recorded time.
            millis(Duration::from_micros(micros).min(self.max))
        };
        let count = self.count.max(1) as f64;
        json!({
            "count": self.count, "failed": self.failed, "meanMs": millis(self.total.div_f64(count)), "maxMs": millis(self.max),
            "p50Ms": quantile(0.5), "p95Ms": quantile(0.95), "p99Ms": quantile(0.99),
            "slowShare": ((self.slow as f64 / count) * 10_000.0).round() / 10_000.0,
        })
    }
}

type StatementKey = (String, String);

/// Measures statements.
pub struct Monitor {
    slow_after: Duration,
    since: Timestamp,
    tools: Mutex<BTreeMap<String, Times>>,
    statements: Cache<StatementKey, Arc<Mutex<Times>>>,
    plans: Cache<StatementKey, Arc<str>>,
    planning: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Monitor {
    /// Logs statements that take `slow_after` or longer.
    #[must_use]
    pub fn new(slow_after: Duration, metrics: Arc<Metrics>) -> Self {
        Self {
            slow_after,
            since: Timestamp::now(),
            tools: Mutex::default(),
            statements: Cache::new(STATEMENTS),
            plans: Cache::builder().max_capacity(PLANS.0).time_to_live(PLANS.1).build(),
            planning: Arc::new(Semaphore::new(1)),
            metrics,
        }
    }

    /// Runs `work` and measures it. A statement whose caller goes away does not count: its full duration is unknown.
    pub async fn measure<T>(
        self: &Arc<Self>,
        data: &Arc<Data>,
        caller: &Caller,
        tool: &str,
        statement: Statement<'_>,
        work: impl Future<Output = Result<T, QueryError>>,
    ) -> Result<T, QueryError> {
        let started = Instant::now();
        let result = work.await;
        let elapsed = started.elapsed();
        let is_slow = elapsed >= self.slow_after;
        // Without a connection nothing was measured.
        if matches!(&result, Err(QueryError::Pool(_))) {
            return result;
        }
        let sha256 = statement.sha256();
        let failed = result.is_err();
        locked(&self.tools).entry(tool.to_owned()).or_insert_with(Times::new).add(elapsed, is_slow, failed);
        let key = (tool.to_owned(), sha256);
        let times = self.statements.get_with_by_ref(&key, || Arc::new(Mutex::new(Times::new())));
        locked(&times).add(elapsed, is_slow, failed);
        if is_slow {
            self.metrics.slow_statements.with_label_values(&[tool]).inc();
            let outcome = result.as_ref().err().map_or("ok", QueryError::reason);
            let slow = Slow {
                key,
                times,
                elapsed,
                outcome,
                text: statement.text().map(str::to_owned),
                caller: caller.clone(),
            };
            self.report(data, slow);
        }
        result
    }

    /// Logs a slow statement, with the hash of its plan if the database returns it. The caller does not wait for this.
    /// It costs one planning per statement in ten minutes, one statement at a time.
    fn report(self: &Arc<Self>, data: &Arc<Data>, slow: Slow) {
        let (monitor, data) = (self.clone(), data.clone());
        tokio::spawn(async move {
            let plan = monitor.plan(&data, &slow).await;
            if let Some(plan) = &plan {
                locked(&slow.times).plan = Some(plan.to_string());
            }
            tracing::warn!(
                correlation_id = %slow.caller.correlation, tenant = %slow.caller.tenant.id(), tool = slow.key.0,
                statement_sha256 = slow.key.1, plan_sha256 = plan.as_deref().unwrap_or("unknown"),
                elapsed_ms = slow.elapsed.as_millis(), outcome = slow.outcome, "slow statement"
            );
        });
    }

    async fn plan(&self, data: &Data, slow: &Slow) -> Option<Arc<str>> {
        if let Some(known) = self.plans.get(&slow.key) {
            return Some(known);
        }
        let text = slow.text.as_deref()?;
        let _one = self.planning.try_acquire().ok()?;
        match data.plan(&slow.caller, text).await {
            Ok(plan) => {
                let plan: Arc<str> = plan.into();
                self.plans.insert(slow.key.clone(), plan.clone());
                Some(plan)
            }
            Err(error) => {
                tracing::debug!(correlation_id = %slow.caller.correlation, %error, "the plan of a slow statement is not to be had");
                None
            }
        }
    }

    /// The figures, for `GET /debug/performance`. Statements with the most time in total come first.
    #[must_use]
    pub fn json(&self) -> Value {
        let tools: Vec<_> = locked(&self.tools).iter().map(|(tool, times)| named(times, tool, None)).collect();
        let mut statements: Vec<_> = self
            .statements
            .iter()
            .map(|(key, times)| {
                let times = locked(&times);
                (times.total, named(&times, &key.0, Some(&key.1)))
            })
            .collect();
        statements.sort_by_key(|(total, _)| Reverse(*total));
        let statements: Vec<_> = statements.into_iter().map(|(_, line)| line).collect();
        json!({
            "since": self.since.to_string(), "slowAfterMs": self.slow_after.as_millis() as u64,
            "tools": tools, "statements": statements, "statementsMax": STATEMENTS,
        })
    }
}

fn named(times: &Times, tool: &str, sha256: Option<&str>) -> Value {
    let mut line = times.json();
    line["tool"] = json!(tool);
    if let Some(sha256) = sha256 {
        line["statementSha256"] = json!(sha256);
        line["planSha256"] = json!(times.plan);
    }
    line
}

/// A slow statement on its way into the log.
struct Slow {
    key: StatementKey,
    times: Arc<Mutex<Times>>,
    elapsed: Duration,
    outcome: &'static str,
    text: Option<String>,
    caller: Caller,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{STATEMENTS, Statement, Times, shape};

    #[test]
    fn figures_follow_from_the_times() {
        let mut times = Times::new();
        for millis in 1..=100 {
            times.add(Duration::from_millis(millis), millis > 95, millis == 100);
        }
        let figures = times.json();
        let figure = |name: &str| figures[name].as_f64().unwrap_or_default();
        assert_eq!(
            (figure("count"), figure("failed"), figure("maxMs"), figure("slowShare")),
            (100.0, 1.0, 100.0, 0.05)
        );
        assert!((figure("meanMs") - 50.5).abs() < 0.01, "{figures}");
        for (name, expected) in [("p50Ms", 50.0), ("p95Ms", 95.0), ("p99Ms", 99.0)] {
            assert!((figure(name) - expected).abs() / expected < 0.02, "{figures}");
        }
        assert_eq!(Times::new().json()["meanMs"], 0.0);
    }

    #[test]
    fn our_own_statements_are_known_by_their_shape() {
        assert_eq!(shape("SELECT 1, 'a' FROM t"), shape("SELECT 22, 'bc' FROM t"));
        assert_ne!(shape("SELECT a FROM t"), shape("SELECT b FROM t"));
        let own = |sql| Statement::Own(sql).sha256();
        assert_eq!(own("SELECT timestamptz '2026-01-01'"), own("SELECT timestamptz '2026-01-02'"));
        let caller = |text| Statement::Caller { text, sql: "SELECT" }.sha256();
        assert_ne!(caller("SELECT 1"), caller("SELECT 2"));
    }

    #[test]
    fn a_flood_of_statements_takes_bounded_room() {
        let statements = moka::sync::Cache::<String, ()>::new(STATEMENTS);
        (0..10_000).for_each(|n| statements.insert(n.to_string(), ()));
        statements.run_pending_tasks();
        assert!(statements.entry_count() <= STATEMENTS);
    }
}
