//! Cached responses for callers of the same scope, for tenants that enable them (`spec.gateway.cacheTtl`).
//!
//! Access is decided anew for every call: the scope comes from the current rules, and the fence is queried ("pulse") at
//! most a second before a cached response is served, with a context signed for that scope. So after a change of rules,
//! stores, credentials, grants, policies or tables, an earlier response has a key that no call uses any more. A tenant
//! whom the fence turns away gets its error and no cached response. Errors are never cached.

mod day;
mod key;
mod sealed;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use moka::{Expiry, future::Cache};
use rmcp::model::JsonObject;
use storefence_tenancy::resource::CACHE_TTL_MAX;

use crate::{
    audit::meter::{self, Meter},
    caller::Caller,
    metrics::Metrics,
    redis::Redis,
    tools::{Services, Tool, ToolError, ToolOutput, own, schema},
};

/// How long the fence's answer for a scope is reused, and for how many scopes.
const PULSE: (Duration, u64) = (Duration::from_secs(1), 100_000);
/// Bytes of an entry in addition to its texts.
const OVERHEAD: usize = 256;
/// The largest accepted difference between the clocks of replicas.
const SKEW_MS: u64 = 5_000;

/// A response as it is cached.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    structured: String,
    text: String,
    /// Rows and bytes that the database sent for it.
    rows: u64,
    bytes: u64,
    /// Time of creation, in Unix milliseconds.
    made_ms: u64,
}

impl Kept {
    fn age(&self) -> Duration {
        Duration::from_millis(now_ms().saturating_sub(self.made_ms))
    }
}

fn now_ms() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// The result of `call`.
#[derive(Debug)]
pub struct Answered {
    pub output: ToolOutput,
    /// Its age, if it was cached.
    pub age: Option<Duration>,
}

#[derive(Clone)]
struct Entry {
    kept: Arc<Kept>,
    left: Duration,
}

/// Each entry lives for the rest of the time that its tenant allows.
struct Life;

impl Expiry<[u8; 32], Entry> for Life {
    fn expire_after_create(&self, _: &[u8; 32], entry: &Entry, _: std::time::Instant) -> Option<Duration> {
        Some(entry.left)
    }
}

/// The cached responses: in this replica's memory, and in Redis if configured.
pub struct Answers {
    kept: Cache<[u8; 32], Entry>,
    pulses: Cache<[u8; 32], [u8; 32]>,
    redis: Option<Redis>,
    /// Whether there is nowhere to cache anything.
    off: bool,
    metrics: Arc<Metrics>,
}

impl Answers {
    /// Caches at most this many bytes in memory; with 0 it caches nothing there, whatever tenants configure.
    #[must_use]
    pub fn new(bytes: u64, redis: Option<Redis>, metrics: Arc<Metrics>) -> Self {
        let weight = |_: &[u8; 32], entry: &Entry| {
            u32::try_from(entry.kept.structured.len() + entry.kept.text.len() + OVERHEAD).unwrap_or(u32::MAX)
        };
        let kept = Cache::builder().max_capacity(bytes).weigher(weight).time_to_live(CACHE_TTL_MAX).expire_after(Life);
        let pulses = Cache::builder().max_capacity(PULSE.1).time_to_live(PULSE.0);
        let off = bytes == 0 && redis.is_none();
        Self { kept: kept.build(), pulses: pulses.build(), redis, off, metrics }
    }

    /// Bytes of cached responses in memory.
    pub async fn bytes(&self) -> u64 {
        self.kept.run_pending_tasks().await;
        self.kept.weighted_size()
    }

    fn count(&self, outcome: &str) {
        self.metrics.answer_cache.with_label_values(&[outcome]).inc();
    }

    /// What the fence shows this scope now: the version of tables, grants and policies, and the stores. Callers of the
    /// same scope wait for one query.
    async fn pulse(&self, services: &Services, caller: &Caller, scope: [u8; 32]) -> Result<[u8; 32], ToolError> {
        let asked = Box::pin(async {
            // The caller did not request this query: it does not count as theirs.
            let seen =
                Arc::<Meter>::default().measure(own::document(services, caller, "cache", &schema::pulse())).await?;
            let mut fields = key::Fields::new("pulse");
            fields.add(seen.to_string().as_bytes());
            Ok(fields.finish())
        });
        self.pulses.try_get_with(scope, asked).await.map_err(|error: Arc<ToolError>| (*error).clone())
    }

    async fn fetch(&self, caller: &Caller, services: &Services, answer: &[u8; 32], ttl: Duration) -> Option<Kept> {
        let redis = self.redis.as_ref()?;
        let loaded = services.data.pools().loaded(&caller.tenant)?;
        let name = sealed::name(&loaded.key, answer);
        let sealed: Option<Vec<u8>> = redis.run(redis::cmd("GET").arg(&name)).await.ok()?;
        let kept = sealed::open(&loaded.key, &name, &sealed?);
        if kept.is_none() {
            tracing::warn!(tenant = %caller.tenant.id(), "an answer in Redis is not what was put there");
        }
        // Redis expires entries itself; this check holds even if somebody changes the expiry there.
        kept.filter(|kept| kept.made_ms <= now_ms() + SKEW_MS && !day::left(kept.made_ms, now_ms(), ttl).is_zero())
    }

    async fn share(&self, caller: &Caller, services: &Services, answer: &[u8; 32], kept: &Kept, left: Duration) {
        let Some(redis) = &self.redis else { return };
        let Some(loaded) = services.data.pools().loaded(&caller.tenant) else { return };
        let name = sealed::name(&loaded.key, answer);
        let Some(sealed) = sealed::seal(&loaded.key, &name, kept) else { return };
        let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
        let _: Result<(), _> = redis.run(redis::cmd("SET").arg(&name).arg(sealed).arg("PX").arg(millis)).await;
    }

    /// Calls a tool, or returns its cached response. Concurrent callers with the same question wait for one response;
    /// if the caller who began goes away, the next takes over.
    ///
    /// # Errors
    /// The tool's error, or the error of querying the fence.
    pub async fn call(
        &self,
        services: &Services,
        tool: &dyn Tool,
        caller: &Caller,
        arguments: JsonObject,
    ) -> Result<Answered, ToolError> {
        let Some(ttl) =
            caller.tenant.limits.cache_ttl.filter(|_| tool.is_kept() && !self.off && !tool.is_momentary(&arguments))
        else {
            let output = tool.call(services, caller, arguments).await?;
            return Ok(Answered { output, age: None });
        };
        let scope = key::scope(caller);
        let pulse = Box::pin(self.pulse(services, caller, scope)).await?;
        let key = key::answer(&scope, &pulse, services.questions.model(), tool.name(), &arguments);
        let mut outcome = "hit";
        // Boxed: the futures of a database, a cache and Redis in one frame would take too much of a thread's stack.
        let made = Box::pin(async {
            if let Some(kept) = Box::pin(self.fetch(caller, services, &key, ttl)).await {
                outcome = "redis_hit";
                let left = day::left(kept.made_ms, now_ms(), ttl);
                return Ok(Entry { kept: Arc::new(kept), left });
            }
            outcome = "miss";
            let (before, begun) = (meter::totals(), now_ms());
            let ToolOutput { structured, text } = tool.call(services, caller, arguments).await?;
            let after = meter::totals();
            let (rows, bytes) = (after.0 - before.0, after.1 - before.1);
            // The relevant day is the one when the call began, however long it took.
            let kept = Kept { structured, text, rows, bytes, made_ms: begun };
            let left = day::left(begun, now_ms(), ttl);
            if !left.is_zero() {
                Box::pin(self.share(caller, services, &key, &kept, left)).await;
            }
            Ok(Entry { kept: Arc::new(kept), left })
        });
        let entry = self.kept.try_get_with(key, made).await.map_err(|error: Arc<ToolError>| (*error).clone());
        self.count(outcome);
        let kept = entry?.kept;
        if outcome != "miss" {
            // The audit records what the caller received, whatever its source.
            meter::add(kept.rows, kept.bytes);
        }
        let age = (outcome != "miss").then(|| kept.age());
        let mut output = ToolOutput { structured: kept.structured.clone(), text: kept.text.clone() };
        if let Some(age) = age {
            day::dated(&mut output, age);
        }
        Ok(Answered { output, age })
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::{Answers, Entry, Kept, now_ms};
    use crate::metrics::Metrics;

    fn entry(length: usize, left: Duration) -> Entry {
        let (structured, text) = ("x".repeat(length), String::new());
        Entry { kept: Arc::new(Kept { structured, text, rows: 1, bytes: 1, made_ms: now_ms() }), left }
    }

    fn answers(bytes: u64) -> Answers {
        Answers::new(bytes, None, Arc::new(Metrics::new().expect("metrics")))
    }

    #[tokio::test]
    async fn memory_is_bounded_whatever_comes() {
        let answers = answers(100_000);
        for n in 0..2_000_u32 {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&n.to_be_bytes());
            answers.kept.insert(key, entry(1_000, Duration::from_secs(60))).await;
        }
        let bytes = answers.bytes().await;
        assert!(bytes > 0 && bytes <= 100_000, "{bytes}");
        answers.kept.insert([255; 32], entry(200_000, Duration::from_secs(60))).await;
        assert!(answers.bytes().await <= 100_000, "one that is larger than all the room");
    }

    #[tokio::test]
    async fn each_answer_has_its_own_time() {
        let answers = answers(100_000);
        answers.kept.insert([1; 32], entry(10, Duration::from_millis(1))).await;
        answers.kept.insert([2; 32], entry(10, Duration::from_secs(60))).await;
        let begun = std::time::Instant::now();
        while answers.kept.get(&[1; 32]).await.is_some() {
            assert!(begun.elapsed() < Duration::from_secs(5), "it is still there");
            tokio::task::yield_now().await;
        }
        assert!(answers.kept.get(&[2; 32]).await.is_some());
        assert!(super::Answers::new(0, None, Arc::new(Metrics::new().expect("metrics"))).off && !answers.off);
    }
}
