//! Periods of time as people name them, with the two that they are compared with. Days are UTC days.

use jiff::{Span, Timestamp, ToSpan, Zoned, civil::Date, tz::TimeZone};
use serde_json::Value;

use super::{ToolError, arguments::malformed};

/// The forms that `time_period` takes.
pub const FORM: &str = "7d, 30d, 90d or any number of days, mtd, qtd, ytd, yesterday, last_week, last_month, last 4 weeks, a month YYYY-MM or a quarter YYYY-Qn";
/// Longest period, in days: the answer has a line for each.
const LONGEST: i32 = 366;

/// From (inclusive) to (exclusive).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First moment.
    pub from: Timestamp,
    /// First moment after it.
    pub to: Timestamp,
}

/// A period and what it is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Period {
    /// As it was asked for.
    pub name: String,
    /// The period itself.
    pub current: Window,
    /// The one before: as long, and ending as far into it where the period is not over yet.
    pub previous: Window,
    /// The same a year before.
    pub year_before: Window,
}

/// The parts of a period's name in lower case: `last_4_weeks` and `last4weeks` are `last`, `4`, `weeks`, and `7d` is `7`, `d`.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut last = ' ';
    for c in name.to_lowercase().chars() {
        if c.is_alphanumeric() {
            match words.last_mut() {
                Some(word) if last.is_alphanumeric() && last.is_ascii_digit() == c.is_ascii_digit() => word.push(c),
                _ => words.push(c.to_string()),
            }
        } else if !matches!(c, ' ' | '_' | '-') || (c == '-' && !last.is_alphanumeric()) {
            // A sign that is in no name of a period makes the whole unknown.
            words.push(c.to_string());
        }
        last = c;
    }
    words
}

/// The Monday of this week, or of one before.
fn monday(today: Date, weeks_ago: i64) -> Result<Date, jiff::Error> {
    let days = i64::from(today.weekday().to_monday_zero_offset());
    today.checked_sub((days + weeks_ago * 7).days())
}

/// Days from the day that lies `span` before, which is not one of them, to today.
fn days_since(today: Date, span: Span) -> Option<i64> {
    let begin = today.checked_sub(span).ok()?;
    Some(i64::from(begin.until(today).ok()?.get_days()))
}

fn midnight(date: Date) -> Option<Zoned> {
    date.to_zoned(TimeZone::UTC).ok()
}

impl Period {
    /// The period of a name, seen from `now`.
    ///
    /// # Errors
    /// `VALIDATION_ERROR` with the allowed forms.
    pub fn named(name: &str, now: Timestamp) -> Result<Self, ToolError> {
        let wrong = || malformed("time_period", &Value::String(name.to_owned()), FORM);
        let today = now.to_zoned(TimeZone::UTC).date();
        let quarter = |year: i16, month: i8| Date::new(year, (month - 1) / 3 * 3 + 1, 1);
        let words = words(name);
        let of_words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (from, back, whole) = match of_words.as_slice() {
            ["today"] => (Ok(today), 1.days(), 1.days()),
            ["yesterday"] => (today.yesterday(), 1.days(), 1.days()),
            ["mtd"] | ["this", "month"] => (Ok(today.first_of_month()), 1.month(), 1.month()),
            ["qtd"] | ["this", "quarter"] => (quarter(today.year(), today.month()), 3.months(), 3.months()),
            ["ytd"] | ["this", "year"] => (Ok(today.first_of_year()), 1.year(), 1.year()),
            ["wtd"] | ["this", "week"] => (monday(today, 0), 7.days(), 7.days()),
            ["last" | "previous", "week"] => (monday(today, 1), 7.days(), 7.days()),
            ["last" | "previous", "month"] => (today.first_of_month().checked_sub(1.month()), 1.month(), 1.month()),
            ["last" | "previous", "quarter"] => {
                let begin = quarter(today.year(), today.month()).and_then(|date| date.checked_sub(3.months()));
                (begin, 3.months(), 3.months())
            }
            ["last" | "previous", "year"] => (today.first_of_year().checked_sub(1.year()), 1.year(), 1.year()),
            // Up to now, today included: so many days, or weeks of seven; months and years by the calendar.
            [count, unit] | ["last" | "past", count, unit]
                if count.bytes().all(|byte| byte.is_ascii_digit())
                    && unit.bytes().all(|byte| byte.is_ascii_lowercase()) =>
            {
                let count: i64 = count.parse().map_err(|_| wrong())?;
                let days = match (*unit, count) {
                    ("d" | "day" | "days", 1..=366) => count,
                    ("w" | "week" | "weeks", 1..=52) => count * 7,
                    ("m" | "month" | "months", 1..=12) => days_since(today, count.months()).ok_or_else(wrong)?,
                    ("y" | "year", 1) => days_since(today, 1.year()).ok_or_else(wrong)?,
                    _ => return Err(wrong()),
                };
                (today.checked_sub((days - 1).days()), days.days(), days.days())
            }
            _ => {
                let (year, part) = name.trim().split_once('-').ok_or_else(wrong)?;
                let year = digits(year, 4).and_then(|year| i16::try_from(year).ok()).ok_or_else(wrong)?;
                match part.strip_prefix(['Q', 'q']) {
                    Some(n) => {
                        let n = digits(n, 1).filter(|n| (1..=4).contains(n)).ok_or_else(wrong)?;
                        (quarter(year, i8::try_from(n * 3).map_err(|_| wrong())?), 3.months(), 3.months())
                    }
                    None => {
                        let month = digits(part, 2).and_then(|month| i8::try_from(month).ok()).ok_or_else(wrong)?;
                        (Date::new(year, month, 1), 1.month(), 1.month())
                    }
                }
            }
        };
        let from = from.ok().and_then(midnight).ok_or_else(wrong)?;
        let end = from.checked_add(whole).map_err(|_| wrong())?.timestamp();
        Self::between(name, from, end.min(now), back, now).ok_or_else(wrong)
    }

    /// From one day to another, both included.
    ///
    /// # Errors
    /// `VALIDATION_ERROR` that names the field.
    pub fn days(from: &str, to: &str, now: Timestamp) -> Result<Self, ToolError> {
        let form = "a day YYYY-MM-DD, not in the future";
        let day = |field: &str, text: &str| {
            let date: Option<Date> = (text.len() == 10).then(|| text.parse().ok()).flatten();
            date.filter(|date| *date <= now.to_zoned(TimeZone::UTC).date())
                .ok_or_else(|| malformed(field, &Value::String(text.to_owned()), form))
        };
        let (first, last) = (day("from", from)?, day("to", to)?);
        let latest = first.checked_add((LONGEST - 1).days()).unwrap_or(Date::MAX);
        let form = format!("a day from {first} to {latest}, which makes {LONGEST} days,");
        let wrong = || malformed("to", &Value::String(to.to_owned()), &form);
        let length = first.until(last).map_err(|_| wrong())?.get_days() + 1;
        if !(1..=LONGEST).contains(&length) {
            return Err(wrong());
        }
        let start = midnight(first).ok_or_else(wrong)?;
        let end = start.checked_add(length.days()).map_err(|_| wrong())?.timestamp();
        Self::between(&format!("{first}/{last}"), start, end.min(now), length.days(), now).ok_or_else(wrong)
    }

    /// `None` where the period begins later, or does not fit the calendar.
    fn between(name: &str, from: Zoned, to: Timestamp, back: Span, now: Timestamp) -> Option<Self> {
        // A period that begins this very second is empty, as it is a second later where nothing was sold.
        if from.timestamp() > now {
            return None;
        }
        let end = to.to_zoned(TimeZone::UTC);
        let shifted = |by: Span| {
            let (from, to) = (from.checked_sub(by).ok()?.timestamp(), end.checked_sub(by).ok()?.timestamp());
            Some(Window { from, to })
        };
        Some(Self {
            name: name.to_owned(),
            current: Window { from: from.timestamp(), to },
            previous: shifted(back)?,
            year_before: shifted(1.year())?,
        })
    }

    /// Names for completion: the relative ones, then the last months and quarters.
    #[must_use]
    pub fn names(now: Timestamp) -> Vec<String> {
        let today = now.to_zoned(TimeZone::UTC).date().first_of_month();
        let mut names: Vec<String> = ["7d", "30d", "90d", "mtd", "qtd", "ytd"].map(str::to_owned).into();
        let back = |months: i64| today.checked_sub(months.months()).ok();
        names.extend((0..24).filter_map(back).map(|date| format!("{:04}-{:02}", date.year(), date.month())));
        names.extend((0..24).step_by(3).filter_map(back).map(|d| format!("{:04}-Q{}", d.year(), (d.month() + 2) / 3)));
        names
    }
}

fn digits(text: &str, length: usize) -> Option<u16> {
    (text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{Period, Window};

    fn now() -> Timestamp {
        "2026-03-31T12:00:00Z".parse().expect("a time")
    }

    fn shown(window: Window) -> String {
        format!("{} {}", window.from, window.to)
    }

    #[test]
    fn windows_of_names() {
        for (name, current, previous, year_before) in [
            (
                "7d",
                "2026-03-25T00:00:00Z 2026-03-31T12:00:00Z",
                "2026-03-18T00:00:00Z 2026-03-24T12:00:00Z",
                "2025-03-25T00:00:00Z 2025-03-31T12:00:00Z",
            ),
            // February has no 31st: the comparison ends with its last day, at the same hour
            (
                "mtd",
                "2026-03-01T00:00:00Z 2026-03-31T12:00:00Z",
                "2026-02-01T00:00:00Z 2026-02-28T12:00:00Z",
                "2025-03-01T00:00:00Z 2025-03-31T12:00:00Z",
            ),
            (
                "qtd",
                "2026-01-01T00:00:00Z 2026-03-31T12:00:00Z",
                "2025-10-01T00:00:00Z 2025-12-31T12:00:00Z",
                "2025-01-01T00:00:00Z 2025-03-31T12:00:00Z",
            ),
            (
                "ytd",
                "2026-01-01T00:00:00Z 2026-03-31T12:00:00Z",
                "2025-01-01T00:00:00Z 2025-03-31T12:00:00Z",
                "2025-01-01T00:00:00Z 2025-03-31T12:00:00Z",
            ),
            (
                "2025-12",
                "2025-12-01T00:00:00Z 2026-01-01T00:00:00Z",
                "2025-11-01T00:00:00Z 2025-12-01T00:00:00Z",
                "2024-12-01T00:00:00Z 2025-01-01T00:00:00Z",
            ),
            (
                "2025-Q4",
                "2025-10-01T00:00:00Z 2026-01-01T00:00:00Z",
                "2025-07-01T00:00:00Z 2025-10-01T00:00:00Z",
                "2024-10-01T00:00:00Z 2025-01-01T00:00:00Z",
            ),
            (
                "2026-Q1",
                "2026-01-01T00:00:00Z 2026-03-31T12:00:00Z",
                "2025-10-01T00:00:00Z 2025-12-31T12:00:00Z",
                "2025-01-01T00:00:00Z 2025-03-31T12:00:00Z",
            ),
        ] {
            let period = Period::named(name, now()).expect(name);
            assert_eq!(shown(period.current), current, "{name}");
            assert_eq!(shown(period.previous), previous, "{name}");
            assert_eq!(shown(period.year_before), year_before, "{name}");
        }
    }

    /// It is a Tuesday.
    #[test]
    fn periods_as_people_say_them() {
        let days = |name: &str| {
            let window = Period::named(name, now()).expect(name).current;
            format!("{:.10} {:.10}", window.from.to_string(), window.to.to_string())
        };
        for (names, current) in [
            (&["MTD", "mtd", " Mtd ", "this month", "This_Month"][..], "2026-03-01 2026-03-31"),
            (
                &["7d", "7D", "7 days", "last 7 days", "last_7_days", "past 7 days", "last7days", "1w", "last 1 week"],
                "2026-03-25 2026-03-31",
            ),
            (&["last 4 weeks", "last_4_weeks", "4w", "28d"], "2026-03-04 2026-03-31"),
            (&["yesterday", "Yesterday"], "2026-03-30 2026-03-31"),
            (&["today"], "2026-03-31 2026-03-31"),
            (&["this week", "wtd"], "2026-03-30 2026-03-31"),
            (&["last_week", "last week", "Last-Week", "previous week"], "2026-03-23 2026-03-30"),
            (&["last month", "last_month"], "2026-02-01 2026-03-01"),
            (&["last quarter"], "2025-10-01 2026-01-01"),
            (&["last year"], "2025-01-01 2026-01-01"),
            (&["last 3 months"], "2026-01-01 2026-03-31"),
            (&["last 12 months", "1 year"], "2025-04-01 2026-03-31"),
            (&["2025-q4", "2025-Q4"], "2025-10-01 2026-01-01"),
        ] {
            for name in names {
                assert_eq!(days(name), current, "{name}");
            }
        }
    }

    #[test]
    fn days_are_included() {
        let period = Period::days("2025-05-01", "2025-05-10", now()).expect("a period");
        assert_eq!(shown(period.current), "2025-05-01T00:00:00Z 2025-05-11T00:00:00Z");
        assert_eq!(shown(period.previous), "2025-04-21T00:00:00Z 2025-05-01T00:00:00Z");
        let longest = Period::days("2024-03-01", "2025-03-01", now()).expect("366 days");
        assert_eq!(shown(longest.current), "2024-03-01T00:00:00Z 2025-03-02T00:00:00Z");
        let longer = Period::days("2024-03-01", "2025-03-02", now()).expect_err("367 days");
        assert!(longer.message.contains("a day from 2024-03-01 to 2025-03-01, which makes 366 days"), "{longer}");
        for (from, to, field) in [
            ("2025-05-01", "2025-04-30", "to"),
            ("2024-01-01", "2025-05-01", "to"),
            ("2026-03-31", "2026-04-01", "to"),
            ("01.05.2025", "2025-05-10", "from"),
            ("2025-02-30", "2025-05-10", "from"),
        ] {
            let error = Period::days(from, to, now()).expect_err(from);
            assert!(error.message.starts_with(&format!("{field} is ")), "{error}");
        }
    }

    #[test]
    fn a_period_that_begins_this_second_is_empty() {
        let midnight: Timestamp = "2026-04-01T00:00:00Z".parse().expect("a time");
        let new_year: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        for (name, now) in [("mtd", midnight), ("qtd", midnight), ("2026-Q2", midnight), ("ytd", new_year)] {
            let period = Period::named(name, now).expect(name);
            assert_eq!((period.current.from, period.current.to), (now, now), "{name}");
            assert_eq!(period.previous.from, period.previous.to, "{name}");
        }
        assert!(Period::days("2026-04-01", "2026-04-01", midnight).is_ok());
        assert!(Period::named("2026-05", midnight).is_err());
        assert!(Period::names(midnight).iter().all(|name| Period::named(name, midnight).is_ok()));
    }

    #[test]
    fn anything_else_is_refused_with_the_forms() {
        for name in [
            "",
            "0d",
            "367d",
            "-7d",
            "7.5d",
            "last fortnight",
            "last 99999999999999999999 days",
            "next week",
            "5 years",
            "2026-13",
            "2026-4",
            "2026-Q5",
            "2026-Q",
            "2027-01",
            "2026-Q2",
            "0000-00",
            "+026-01",
        ] {
            let error = Period::named(name, now()).expect_err(name);
            assert!(error.message.contains("YYYY-Qn"), "{error}");
        }
        assert!(Period::names(now()).iter().all(|name| Period::named(name, now()).is_ok()));
    }
}
