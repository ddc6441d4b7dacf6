//! What was measured: a table for people, JSON for `--compare`, and the block in docs/benchmarks.md.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Marks of the block in docs/benchmarks.md that a complete run writes.
const MARKS: [&str; 2] = ["<!-- measured: begin -->", "<!-- measured: end -->"];

/// What a value must be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Aim {
    /// Smaller is better.
    AtMost(f64),
    /// Larger is better.
    AtLeast(f64),
    /// No aim was set; smaller is better.
    Smaller,
    /// No aim was set; larger is better.
    Larger,
}

impl Aim {
    /// Whether the aim is met; nothing where there is none.
    pub fn met(self, value: f64) -> Option<bool> {
        match self {
            Self::AtMost(limit) => Some(value <= limit),
            Self::AtLeast(limit) => Some(value >= limit),
            Self::Smaller | Self::Larger => None,
        }
    }

    /// Whether larger values are better.
    pub fn larger_is_better(self) -> bool {
        matches!(self, Self::AtLeast(_) | Self::Larger)
    }
}

/// How a value follows from what was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// Measured, divided by what it is measured against.
    Ratio,
    /// Measured, less what it is measured against.
    Difference,
    /// Measured.
    Absolute,
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Stable name, for comparing with another run.
    pub id: String,
    /// What was measured.
    pub what: String,
    /// Against what; empty where nothing.
    pub against: String,
    /// Unit of `measured` and `baseline`; of `value` too unless it is a ratio.
    pub unit: String,
    /// How `value` follows.
    pub kind: Kind,
    /// What it must be.
    pub aim: Aim,
    /// Median of the rounds.
    pub value: f64,
    /// Smallest and largest of the rounds.
    pub spread: [f64; 2],
    /// Median of what was measured, on this machine.
    pub measured: f64,
    /// Median of what it was measured against, on this machine.
    pub baseline: Option<f64>,
    /// Number of rounds.
    pub rounds: usize,
}

impl Row {
    /// Pairs of measured and baseline, one per round.
    pub fn pairs(kind: Kind, id: &str, what: &str, against: &str, unit: &str, aim: Aim, rounds: &[(f64, f64)]) -> Self {
        let values = rounds.iter().map(|(ours, theirs)| match kind {
            Kind::Ratio => ours / theirs,
            Kind::Difference => ours - theirs,
            Kind::Absolute => *ours,
        });
        let values: Vec<f64> = values.collect();
        Self {
            id: id.to_owned(),
            what: what.to_owned(),
            against: against.to_owned(),
            unit: unit.to_owned(),
            kind,
            aim,
            value: median(&values),
            spread: spread(&values),
            measured: median(&rounds.iter().map(|(ours, _)| *ours).collect::<Vec<_>>()),
            baseline: (kind != Kind::Absolute).then(|| median(&rounds.iter().map(|(_, t)| *t).collect::<Vec<_>>())),
            rounds: rounds.len(),
        }
    }

    /// A ratio, smaller or larger as the aim says.
    pub fn ratio(id: &str, what: &str, against: &str, unit: &str, aim: Aim, rounds: &[(f64, f64)]) -> Self {
        Self::pairs(Kind::Ratio, id, what, against, unit, aim, rounds)
    }

    /// A value that stands alone.
    pub fn absolute(id: &str, what: &str, unit: &str, aim: Aim, rounds: &[f64]) -> Self {
        let rounds: Vec<_> = rounds.iter().map(|value| (*value, 0.0)).collect();
        Self::pairs(Kind::Absolute, id, what, "", unit, aim, &rounds)
    }

    fn value_text(&self) -> String {
        self.with_unit(self.value)
    }

    fn with_unit(&self, value: f64) -> String {
        if self.kind == Kind::Ratio { format!("{}×", short(value)) } else { quantity(value, &self.unit) }
    }

    fn aim_text(&self) -> String {
        match self.aim {
            Aim::AtMost(limit) => format!("≤ {}", self.with_unit(limit)),
            Aim::AtLeast(limit) => format!("≥ {}", self.with_unit(limit)),
            Aim::Smaller | Aim::Larger => "–".to_owned(),
        }
    }

    fn cells(&self) -> [String; 6] {
        let verdict = match self.aim.met(self.value) {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "",
        };
        let here = match self.baseline {
            Some(baseline) => format!("{} / {}", quantity(self.measured, &self.unit), quantity(baseline, &self.unit)),
            None => String::new(),
        };
        let what = if self.against.is_empty() {
            self.what.clone()
        } else {
            format!("{}, against {}", self.what, self.against)
        };
        let spread = if self.rounds > 1 {
            format!("{} to {} ({})", short(self.spread[0]), short(self.spread[1]), self.rounds)
        } else {
            "once".to_owned()
        };
        [what, self.value_text(), self.aim_text(), verdict.to_owned(), spread, here]
    }
}

/// Where and how it was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    pub processor: String,
    pub cores: usize,
    pub memory_gib: f64,
    /// Operating system.
    pub system: String,
    /// PostgreSQL.
    pub database: String,
    /// One-minute load average before the first case and after the last: what others did meanwhile.
    pub load: [f64; 2],
}

/// One run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// UTC.
    pub date: String,
    /// The commit that was built, where git knows it.
    pub commit: String,
    pub machine: Machine,
    /// Seconds that the run took.
    pub seconds: f64,
    /// What was measured.
    pub rows: Vec<Row>,
}

const HEAD: [&str; 6] =
    ["measured", "value", "aim", "", "rounds: least to most (number)", "this machine: ours / theirs"];

impl Report {
    /// Adds a row, and shows it.
    pub fn add(&mut self, row: Row) {
        let [what, value, aim, verdict, ..] = row.cells();
        println!("  {what}: {value} (aim {aim}) {}", verdict.replace('*', ""));
        self.rows.push(row);
    }

    /// The table in Markdown.
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "| {} |", HEAD.join(" | "));
        let _ = writeln!(out, "|{}", "---|".repeat(HEAD.len()));
        for row in &self.rows {
            let _ = writeln!(out, "| {} |", row.cells().join(" | "));
        }
        out
    }

    /// The table in columns, for a terminal.
    pub fn table(&self) -> String {
        let mut lines = vec![HEAD.map(str::to_owned)];
        lines.extend(self.rows.iter().map(|row| row.cells().map(|cell| cell.replace('*', ""))));
        let widths: Vec<usize> =
            (0..HEAD.len()).map(|i| lines.iter().map(|line| line[i].chars().count()).max().unwrap_or(0)).collect();
        let mut out = String::new();
        for line in lines {
            let cells: Vec<String> = line
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell}{}", " ".repeat(width - cell.chars().count())))
                .collect();
            let _ = writeln!(out, "{}", cells.join("  ").trim_end());
        }
        out
    }

    /// Reads a run.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} holds no run of this bench", path.display()))
    }

    /// Writes it.
    pub fn write(&self, path: &Path) -> Result<()> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Puts the table into the page, between its marks.
    pub fn document(&self, page: &str) -> Result<String> {
        let (head, rest) = page.split_once(MARKS[0]).context("the page has no place for the table")?;
        let (_, tail) = rest.split_once(MARKS[1]).context("the place for the table has no end")?;
        let Machine { processor, cores, memory_gib, system, database, load } = &self.machine;
        Ok(format!(
            "{head}{}\nMeasured {} at commit {}, in {:.0} s, on {cores} cores of {processor}, {memory_gib:.0} GiB, {system}, \
             {database}; load average {:.1} before and {:.1} after.\n\n{}{}{tail}",
            MARKS[0],
            self.date,
            self.commit,
            self.seconds,
            load[0],
            load[1],
            self.markdown(),
            MARKS[1],
        ))
    }
}

/// The middle value; the mean of the two in the middle of an even number.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

fn spread(values: &[f64]) -> [f64; 2] {
    [values.iter().copied().fold(f64::INFINITY, f64::min), values.iter().copied().fold(f64::NEG_INFINITY, f64::max)]
}

fn quantity(value: f64, unit: &str) -> String {
    if unit.is_empty() { short(value) } else { format!("{} {unit}", short(value)) }
}

/// Three digits that say something.
fn short(value: f64) -> String {
    let text = match value.abs() {
        size if size >= 1000.0 => return grouped(value),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    if value < 0.0 { format!("-{out}") } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report { date: "2026-01-02".to_owned(), commit: "abc".to_owned(), ..Report::default() };
        report.add(Row::ratio(
            "date.cpu",
            "date tool",
            "hyper",
            "µs",
            Aim::AtMost(3.0),
            &[(30.0, 10.0), (44.0, 11.0), (20.0, 10.0)],
        ));
        report.add(Row::pairs(Kind::Difference, "cheap.p50", "query", "driver", "ms", Aim::AtMost(0.3), &[(1.5, 1.0)]));
        report.add(Row::absolute("seed", "seed", "s", Aim::Smaller, &[12345.6]));
        report
    }

    #[test]
    fn a_value_is_the_median_of_the_rounds_ratios() {
        let rows = report().rows;
        assert_eq!(
            (rows[0].value, rows[0].spread, rows[0].measured, rows[0].baseline),
            (3.0, [2.0, 4.0], 30.0, Some(10.0))
        );
        assert_eq!(rows[0].aim.met(rows[0].value), Some(true));
        assert_eq!((rows[1].value, rows[1].aim.met(rows[1].value)), (0.5, Some(false)));
        assert_eq!((rows[2].value, rows[2].aim.met(rows[2].value), rows[2].baseline), (12345.6, None, None));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(
            ["0", "0.05", "1.5", "23", "12,346", "1,234,568"],
            [0.0, 0.05, 1.5, 23.0, 12345.6, 1_234_567.8].map(short).each_ref().map(String::as_str)
        );
    }

    #[test]
    fn tables_say_what_was_met_and_json_comes_back() {
        let report = report();
        let markdown = report.markdown();
        assert!(
            markdown.contains("| date tool, against hyper | 3× | ≤ 3× | met | 2 to 4 (3) | 30 µs / 10 µs |"),
            "{markdown}"
        );
        assert!(
            markdown.contains("| query, against driver | 0.5 ms | ≤ 0.3 ms | **missed** | once | 1.5 ms / 1 ms |"),
            "{markdown}"
        );
        assert!(markdown.contains("| seed | 12,346 s | – |  | once |  |"), "{markdown}");
        let table = report.table();
        assert_eq!(table.lines().count(), 4);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/run.json");
        report.write(&path).unwrap();
        assert_eq!(Report::read(&path).unwrap(), report);
        fs::write(&path, "{}").unwrap();
        assert!(Report::read(&path).is_err());
    }

    #[test]
    fn the_page_keeps_what_people_wrote() {
        let page = format!("# Title\n{}old{}\nafter\n", MARKS[0], MARKS[1]);
        let once = report().document(&page).unwrap();
        assert!(once.starts_with("# Title\n") && once.ends_with("\nafter\n") && !once.contains("old"), "{once}");
        assert_eq!(report().document(&once).unwrap(), once);
        assert!(report().document("# Title\n").is_err());
    }

    #[test]
    fn the_repository_s_page_has_a_place_for_the_table() {
        let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks.md")).unwrap();
        report().document(&page).unwrap();
    }
}
