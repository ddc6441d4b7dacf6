//! Is this run worse than an earlier one?

use std::fmt;

use crate::report::{Kind, Report, Row};

/// How much worse a value may be before it counts. Ratios within a run are steadier than this on a machine of one's own;
/// absolute figures only compare on one machine.
pub const TOLERANCE: f64 = 0.25;

/// A value that got worse.
#[derive(Debug, PartialEq)]
pub struct Regression {
    what: String,
    before: f64,
    after: f64,
}

impl fmt::Display for Regression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:.3} before, {:.3} now", self.what, self.before, self.after)
    }
}

/// What became worse than the tolerance allows. Rows that only one run has are not compared, nor are absolute figures of
/// another machine.
pub fn regressions(before: &Report, after: &Report, tolerance: f64) -> Vec<Regression> {
    let same_machine =
        before.machine.processor == after.machine.processor && before.machine.cores == after.machine.cores;
    let pairs = after.rows.iter().filter_map(|row| Some((before.rows.iter().find(|old| old.id == row.id)?, row)));
    let comparable = pairs.filter(|(_, row)| row.kind == Kind::Ratio || same_machine);
    let worse = comparable.filter(|(old, row)| is_worse(old, row, tolerance));
    worse.map(|(old, row)| Regression { what: row.id.clone(), before: old.value, after: row.value }).collect()
}

fn is_worse(old: &Row, new: &Row, tolerance: f64) -> bool {
    // What the spread of the earlier rounds covers is noise.
    if new.aim.larger_is_better() {
        new.value < old.value * (1.0 - tolerance) && new.value < old.spread[0]
    } else {
        // A value near zero has no percentage: a hundredth of the unit is no difference.
        new.value > old.value + (old.value.abs() * tolerance).max(0.01) && new.value > old.spread[1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Aim;

    fn run(processor: &str, cpu: f64, rate: f64, memory: f64) -> Report {
        let mut report = Report::default();
        report.machine.processor = processor.to_owned();
        report.rows = vec![
            Row::ratio("cpu", "", "", "µs", Aim::AtMost(3.0), &[(cpu, 1.0)]),
            Row::ratio("rate", "", "", "/s", Aim::AtLeast(0.6), &[(rate, 1.0)]),
            Row::absolute("memory", "", "MiB", Aim::Smaller, &[memory]),
        ];
        report
    }

    #[test]
    fn only_what_got_worse_beyond_the_tolerance_counts() {
        let before = run("a", 2.0, 0.8, 30.0);
        assert_eq!(regressions(&before, &run("a", 2.4, 0.65, 36.0), TOLERANCE), []);
        assert_eq!(regressions(&before, &run("a", 1.0, 2.0, 10.0), TOLERANCE), [], "better is no regression");
        let worse = regressions(&before, &run("a", 2.6, 0.5, 40.0), TOLERANCE);
        assert_eq!(worse.iter().map(|r| r.what.as_str()).collect::<Vec<_>>(), ["cpu", "rate", "memory"]);
        assert_eq!(worse[0].to_string(), "cpu: 2.000 before, 2.600 now");
        let elsewhere = regressions(&before, &run("b", 2.6, 0.5, 40.0), TOLERANCE);
        assert_eq!(elsewhere.len(), 2, "another machine's absolute figures say nothing");
    }

    #[test]
    fn what_the_earlier_spread_covers_is_noise() {
        let mut before = run("a", 2.0, 0.8, 30.0);
        before.rows[0].spread = [1.5, 3.0];
        before.rows.remove(1);
        assert_eq!(regressions(&before, &run("a", 2.9, 0.1, 30.0), TOLERANCE), []);
        assert_eq!(regressions(&before, &run("a", 3.1, 0.1, 30.0), TOLERANCE).len(), 1);
    }
}
