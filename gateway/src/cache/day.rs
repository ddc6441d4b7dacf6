//! How long a cached response may be served, and how it shows its age.

use std::{fmt::Write as _, time::Duration};

use crate::tools::ToolOutput;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// The end of the day in which a response was made, in Unix milliseconds: from then on "today", "this month" and "the
/// last 30 days" mean something else. Days are in UTC, as in the tools, until tenants have time zones of their own.
const fn ends(made_ms: u64) -> u64 {
    (made_ms / DAY_MS + 1) * DAY_MS
}

/// The remaining lifetime of a response that was made then.
pub fn left(made_ms: u64, now_ms: u64, ttl: Duration) -> Duration {
    let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    let until = made_ms.saturating_add(ttl).min(ends(made_ms));
    Duration::from_millis(until.saturating_sub(now_ms))
}

/// Adds the age where models and people read it.
pub fn dated(output: &mut ToolOutput, age: Duration) {
    let seconds = age.as_secs();
    let _ = write!(output.text, "\n(from the cache, {seconds} s old)");
    if output.structured.ends_with('}') && output.structured.len() > 2 {
        output.structured.pop();
        let _ = write!(output.structured, r#","cacheAgeSeconds":{seconds}}}"#);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{DAY_MS, ToolOutput, dated, left};

    #[test]
    fn an_answer_ends_with_its_day() {
        let (noon, ttl) = (DAY_MS * 20_000 + DAY_MS / 2, Duration::from_secs(300));
        assert_eq!(left(noon, noon, ttl), ttl);
        assert_eq!(left(noon, noon + 299_000, ttl), Duration::from_secs(1));
        assert_eq!(left(noon, noon + 300_000, ttl), Duration::ZERO);
        let late = DAY_MS * 20_001 - 10_000;
        assert_eq!(left(late, late, ttl), Duration::from_secs(10));
        assert_eq!(left(late, late + 10_000, ttl), Duration::ZERO, "midnight");
        assert_eq!(left(late, late - 2_000, ttl), Duration::from_secs(12), "another clock");
    }

    #[test]
    fn the_age_is_said_twice() {
        let mut output = ToolOutput { structured: r#"{"rows":[[1]]}"#.to_owned(), text: "n\n1\n(1 row)".to_owned() };
        dated(&mut output, Duration::from_millis(42_700));
        assert_eq!(output.text, "n\n1\n(1 row)\n(from the cache, 42 s old)");
        assert_eq!(output.structured, r#"{"rows":[[1]],"cacheAgeSeconds":42}"#);
    }
}
