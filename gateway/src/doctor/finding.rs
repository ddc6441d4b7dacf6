//! The result of one check, and its line.

use std::fmt;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// In order.
    Good,
    /// Not in order.
    Bad,
    /// Not known, because something else is missing or not in order.
    Skipped,
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The part that was checked.
    pub check: &'static str,
    /// Whether it is in order.
    pub verdict: Verdict,
    /// What was found.
    pub detail: String,
    pub remedy: &'static str,
}

impl Finding {
    pub(super) fn good(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Good, detail: detail.into(), remedy: "" }
    }

    pub(super) fn bad(check: &'static str, detail: impl Into<String>, remedy: &'static str) -> Self {
        Self { check, verdict: Verdict::Bad, detail: detail.into(), remedy }
    }

    pub(super) fn skipped(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Skipped, detail: detail.into(), remedy: "" }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let label = match self.verdict {
            Verdict::Good => "ok",
            Verdict::Bad => "FAIL",
            Verdict::Skipped => "skip",
        };
        // A single line, whatever text a server returned.
        let detail: String = self.detail.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        write!(f, "{label:<5} {:<11} {detail}", self.check)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, " -> {}", self.remedy) }
    }
}

/// One line for each finding, and whether everything is in order.
#[must_use]
pub fn report(findings: &[Finding]) -> (String, bool) {
    let text = findings.iter().map(|finding| format!("{finding}\n")).collect();
    (text, findings.iter().all(|finding| finding.verdict != Verdict::Bad))
}

#[cfg(test)]
mod tests {
    use super::{Finding, report};

    #[test]
    fn one_line_each_with_the_remedy() {
        let good = Finding::good("fence", "fine");
        let bad = Finding::bad("database", "server\nsaid no", "ask again");
        let skipped = Finding::skipped("redis", "not configured");
        let (text, well) = report(&[good.clone(), bad, skipped.clone()]);
        assert_eq!(
            text,
            "ok    fence       fine\nFAIL  database    server said no -> ask again\nskip  redis       not configured\n"
        );
        assert!(!well && report(&[good, skipped]).1);
    }
}
