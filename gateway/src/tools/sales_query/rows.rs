//! The rows of a statement as an answer: what a model can hold of them, in both forms.

use std::{borrow::Cow, fmt::Write as _};

use serde_json::value::RawValue;

use super::super::{
    ToolOutput,
    budget::Budget,
    table::{has_separators, push_cell, quoted},
};
use crate::db::{QueryResult, query::Column};

/// Types whose values always pass as they are: no number of theirs is beyond a double, and none is long by nature.
const AS_THEY_ARE: [&str; 19] = [
    "bool",
    "bpchar",
    "char",
    "date",
    "float4",
    "float8",
    "int2",
    "int4",
    "interval",
    "name",
    "oid",
    "text",
    "text[]",
    "time",
    "timestamp",
    "timestamptz",
    "timetz",
    "uuid",
    "varchar",
];
/// Types of numbers that PostgreSQL writes without an exponent.
const NUMBERS: [&str; 4] = ["int8", "numeric", "int8[]", "numeric[]"];
/// Vectors: numbers that mean nothing one by one.
const VECTORS: [&str; 3] = ["vector", "halfvec", "sparsevec"];
/// Elements of a vector that are shown, and from how many on it is shortened.
const ELEMENTS: (usize, usize) = (3, 8);
/// The same for the characters of binary, `\\x` and two digits a byte.
const BINARY: (usize, usize) = (35, 131);
/// Digits of a decimal number that every double holds.
const DIGITS: usize = 15;

/// Puts head and tail around the rows. Where nothing has to be changed or left out they stay where they are: an answer may
/// take as much memory as the tenant's limit allows, and a copy as much again.
pub fn render(answer: QueryResult, budget: Budget) -> ToolOutput {
    let QueryResult { columns, rows, truncated, elapsed } = answer;
    let heads = serde_json::to_string(columns.as_ref()).unwrap_or_else(|_| "[]".to_owned());
    let names: Vec<_> = columns.iter().map(|column| column.name.as_str()).collect();
    let names = names.join("\t");
    let beside = heads.len().max(names.len()) + 100;
    let fits = rows.json.len().max(rows.text.len()) + beside <= budget.bytes();
    let (mut structured, mut text, count) =
        match fits && pass_unchanged(&columns, &rows.json) && !has_separators(&rows.text) {
            true => (rows.json, rows.text, rows.count),
            false => changed(&rows.json, &columns, budget.bytes_beside_a_note().saturating_sub(beside)),
        };
    let left_out = rows.count.saturating_sub(count);
    let note = note(count, left_out, truncated, budget);
    structured.insert_str(0, &format!(r#"{{"columns":{heads},"rows":["#));
    let millis = elapsed.as_secs_f64() * 1000.0;
    let cut = truncated || left_out > 0;
    let _ = write!(structured, r#"],"rowCount":{count},"truncated":{cut},"elapsedMs":{millis:.1}"#);
    if left_out > 0 {
        let _ = write!(structured, r#","leftOut":{{"rows":{left_out}}}"#);
    }
    if let Some(note) = &note {
        let _ = write!(structured, r#","note":{}"#, quoted(note));
    }
    structured.push('}');
    text.insert_str(0, &(names + "\n"));
    let noun = if count == 1 { "row" } else { "rows" };
    let line = if count == 0 { "" } else { "\n" };
    let note = note.map(|note| format!("; {note}")).unwrap_or_default();
    let _ = write!(text, "{line}({count} {noun}{note})");
    ToolOutput { structured, text }
}

/// What is missing and how to get it.
fn note(count: u32, left_out: u32, truncated: bool, budget: Budget) -> Option<String> {
    let page = "aggregate, select fewer columns, or page with ORDER BY, LIMIT and OFFSET";
    let more = if truncated { "; there are more, the answer was cut at the tenant's limit" } else { "" };
    match (count, left_out) {
        (_, 0) => truncated.then(|| format!("there are more, the answer was cut at the tenant's limit; {page}")),
        (0, _) => Some(budget.sentence(
            "the rows are",
            "the first alone takes more: select fewer columns, or parts of texts with left(column, 200)",
        )),
        (_, 1) => Some(budget.sentence("1 row is", &format!("{page}{more}"))),
        (_, rows) => Some(budget.sentence(&format!("{rows} rows are"), &format!("{page}{more}"))),
    }
}

/// Whether no value has to be shortened or written as a string. Most answers have a count or a sum, few a number that is long.
fn pass_unchanged(columns: &[Column], rows: &str) -> bool {
    let of = |kinds: &[&str], column: &Column| kinds.contains(&column.kind.as_str());
    let plain = |column: &Column| of(&AS_THEY_ARE, column);
    columns.iter().all(plain)
        || columns.iter().all(|column| plain(column) || of(&NUMBERS, column)) && !has_long_number(rows)
}

/// Whether a number may be longer than every double of that length holds. A date or an identifier may look like one, which
/// costs a second look.
fn has_long_number(json: &str) -> bool {
    let mut length = 0;
    json.bytes().any(|byte| {
        length = if matches!(byte, b'0'..=b'9' | b'-' | b'.') { length + 1 } else { 0 };
        length > DIGITS
    })
}

/// Rows in both forms, as many as fit into so many bytes, each value shortened and exact. `rows` is the inside of an array of
/// arrays.
fn changed(rows: &str, columns: &[Column], most: usize) -> (String, String, u32) {
    let (mut structured, mut text, mut count) = (String::new(), String::new(), 0);
    let mut rest = rows;
    while !rest.is_empty() {
        let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<Vec<&RawValue>>();
        let Some(Ok(row)) = stream.next() else { break };
        rest = rest[stream.byte_offset()..].trim_start_matches(',');
        let ends = (structured.len(), text.len());
        structured.push_str(if count == 0 { "[" } else { ",[" });
        text.push_str(if count == 0 { "" } else { "\n" });
        for (at, raw) in row.iter().enumerate() {
            let separators = if at == 0 { ("", "") } else { (",", "\t") };
            structured.push_str(separators.0);
            text.push_str(separators.1);
            let kind = columns.get(at).map_or("", |column| column.kind.as_str());
            let shortened = shortened(raw.get(), kind);
            push_cell(&mut text, &shortened);
            structured.push_str(&exact(&shortened));
        }
        structured.push(']');
        if structured.len().max(text.len()) > most {
            structured.truncate(ends.0);
            text.truncate(ends.1);
            break;
        }
        count += 1;
    }
    (structured, text, count)
}

/// A vector or binary value cut short, with what it takes to see all of it.
fn shortened<'a>(json: &'a str, kind: &str) -> Cow<'a, str> {
    let inner = json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match inner {
        Some(inner) if VECTORS.contains(&kind) => {
            let count = inner.split(',').count();
            if count <= ELEMENTS.1 {
                return json.into();
            }
            let first: Vec<_> = inner.split(',').take(ELEMENTS.0).collect();
            let end = if inner.starts_with('[') { "]" } else { "" };
            format!("\"{},… {count} elements, cast to text for all{end}\"", first.join(",")).into()
        }
        Some(inner) if kind == "bytea" && inner.len() > BINARY.1 => {
            let bytes = inner.trim_start_matches(['\\', 'x']).len() / 2;
            format!("\"{}… {bytes} bytes, cast to text for all\"", &inner[..BINARY.0]).into()
        }
        _ => json.into(),
    }
}

/// JSON whose numbers a double holds: any other number becomes a string of the same digits, since most clients read numbers as
/// doubles. The type is in `columns`.
fn exact(json: &str) -> Cow<'_, str> {
    let bytes = json.as_bytes();
    let mut out = String::new();
    let (mut at, mut copied) = (0, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at = after_string(bytes, at),
            b'-' | b'0'..=b'9' => {
                let start = at;
                while bytes.get(at).is_some_and(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')) {
                    at += 1;
                }
                let number = &json[start..at];
                if !is_double(number) {
                    out.push_str(&json[copied..start]);
                    out.push('"');
                    out.push_str(number);
                    out.push('"');
                    copied = at;
                }
            }
            _ => at += 1,
        }
    }
    if copied == 0 {
        return json.into();
    }
    out.push_str(&json[copied..]);
    out.into()
}

fn after_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Whether a double has exactly this value, as far as its shortest decimal form says.
fn is_double(number: &str) -> bool {
    const INTEGERS: f64 = 9_007_199_254_740_992.0; // 2^53
    let has_point = number.contains(['.', 'e', 'E']);
    if number.len() <= DIGITS && !number.contains(['e', 'E']) {
        return true;
    }
    match number.parse::<f64>() {
        Ok(double) if !double.is_finite() => false,
        Ok(double) if !has_point => double.abs() <= INTEGERS && format!("{double:.0}") == number,
        Ok(double) => digits(number) == digits(&format!("{double:e}")),
        Err(_) => false,
    }
}

/// The significant digits of a number and the power of ten of the first: equal for equal numbers, however they are written.
fn digits(number: &str) -> (String, i64) {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let exponent: i64 = exponent.parse().unwrap_or(0);
    let mantissa = mantissa.trim_start_matches('-');
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{fraction}");
    let zeros = all.len() - all.trim_start_matches('0').len();
    let significant = all.trim_matches('0').to_owned();
    let point = i64::try_from(whole.len()).unwrap_or(0) - i64::try_from(zeros).unwrap_or(0);
    let power = if significant.is_empty() { 0 } else { point + exponent };
    (significant, power)
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::{Budget, QueryResult, exact, is_double, render, shortened};
    use crate::db::{query::Column, rows::Rows};

    fn answer(columns: &[(&str, &str)], lines: &[String], truncated: bool) -> QueryResult {
        let mut rows = Rows::default();
        lines.iter().for_each(|line| rows.push(line).expect("object"));
        let column = |(name, kind): &(&str, &str)| Column { name: (*name).to_owned(), kind: (*kind).to_owned() };
        let columns = Arc::new(columns.iter().map(column).collect());
        QueryResult { columns, rows, truncated, elapsed: Duration::from_micros(1234) }
    }

    #[test]
    fn shapes() {
        let columns = [("store", "text"), ("n", "int8")];
        let lines = [r#"{"store":"Seattle","n":9007199254740993}"#.to_owned()];
        let output = render(answer(&columns, &lines, true), Budget::default());
        let value: Value = serde_json::from_str(&output.structured).expect("JSON");
        assert_eq!(value["columns"][1], json!({"name": "n", "type": "int8"}));
        assert_eq!(value["rows"], json!([["Seattle", "9007199254740993"]]));
        assert_eq!(
            (&value["rowCount"], &value["truncated"], &value["elapsedMs"]),
            (&json!(1), &json!(true), &json!(1.2))
        );
        let note = value["note"].as_str().expect("a note");
        assert!(note.starts_with("there are more, the answer was cut") && note.contains("OFFSET"), "{note}");
        assert_eq!(output.text, format!("store\tn\nSeattle\t9007199254740993\n(1 row; {note})"));
        assert_eq!(render(answer(&columns, &[], false), Budget::default()).text, "store\tn\n(0 rows)");
        let plain = render(answer(&[("a", "int4")], &[r#"{"a":1}"#.to_owned()], false), Budget::default());
        assert_eq!(
            plain.structured,
            r#"{"columns":[{"name":"a","type":"int4"}],"rows":[[1]],"rowCount":1,"truncated":false,"elapsedMs":1.2}"#
        );
    }

    #[test]
    fn rows_beyond_the_budget_are_left_out_and_counted() {
        for kind in ["text", "json"] {
            let lines: Vec<_> = (0..1_000).map(|n| format!(r#"{{"a":"{n} {}"}}"#, "x".repeat(50))).collect();
            let budget = Budget::new(2_000);
            let output = render(answer(&[("a", kind)], &lines, false), budget);
            assert!(output.structured.len().max(output.text.len()) <= budget.bytes(), "{}", output.structured.len());
            assert!(output.structured.len() > budget.bytes() / 2, "{}", output.structured.len());
            let value: Value = serde_json::from_str(&output.structured).expect("JSON");
            let (count, left_out) = (value["rowCount"].as_u64().expect("a count"), value["leftOut"]["rows"].as_u64());
            assert_eq!(left_out, Some(1_000 - count));
            assert_eq!(value["rows"].as_array().map(Vec::len), usize::try_from(count).ok());
            assert_eq!(value["truncated"], true);
            let note = value["note"].as_str().expect("a note");
            assert!(
                note.starts_with(&format!("{} rows are left out", 1_000 - count)) && note.contains("LIMIT"),
                "{note}"
            );
            assert!(output.text.ends_with(&format!("({count} rows; {note})")));
            assert_eq!(output.text.lines().count(), usize::try_from(count).expect("few") + 2);
        }
        let long = [format!(r#"{{"a":"{}"}}"#, "x".repeat(10_000))];
        let value = render(answer(&[("a", "text")], &long, false), Budget::new(1_000));
        assert!(
            value.text.contains("left(column, 200)") && value.structured.contains(r#""rows":[],"rowCount":0"#),
            "{}",
            value.text
        );
    }

    #[test]
    fn vectors_and_long_binary_are_shortened_unless_cast() {
        let vector = format!("\"[{}]\"", vec!["0.5"; 1536].join(","));
        assert_eq!(shortened(&vector, "vector"), r#""[0.5,0.5,0.5,… 1536 elements, cast to text for all]""#);
        assert_eq!(shortened(&vector, "text"), vector);
        assert_eq!(shortened("\"[1,2]\"", "vector"), "\"[1,2]\"");
        let binary = format!(r#""\\x{}""#, "ab".repeat(100));
        let short = shortened(&binary, "bytea");
        assert!(
            short.starts_with(r#""\\xababab"#) && short.ends_with("… 100 bytes, cast to text for all\""),
            "{short}"
        );
        assert!(serde_json::from_str::<String>(&short).is_ok());
        assert_eq!(shortened(r#""\\xabcd""#, "bytea"), r#""\\xabcd""#);
    }

    #[test]
    fn numbers_beyond_a_double_become_strings() {
        for (json, expected) in [
            ("9007199254740992", "9007199254740992"),
            ("-9007199254740993", r#""-9007199254740993""#),
            ("9223372036854775807", r#""9223372036854775807""#),
            ("0.1", "0.1"),
            ("123456789.123456789", r#""123456789.123456789""#),
            ("123456789.1234567", "123456789.1234567"),
            ("0.30000000000000004", "0.30000000000000004"),
            ("0.1000000000000000000000000001", r#""0.1000000000000000000000000001""#),
            ("1234.50000000000000000000", "1234.50000000000000000000"),
            ("1e-7", "1e-7"),
            ("-1e400", r#""-1e400""#),
            (r#""9007199254740993""#, r#""9007199254740993""#),
            (
                r#"{"a":[9007199254740993,1,"x\"9007199254740993"],"b":null}"#,
                r#"{"a":["9007199254740993",1,"x\"9007199254740993"],"b":null}"#,
            ),
            ("true", "true"),
        ] {
            assert_eq!(exact(json), expected);
        }
    }

    proptest! {
        #[test]
        fn doubles_pass_and_strings_hold_the_digits(double in any::<f64>().prop_filter("finite", |d| d.is_finite()), integer in any::<i64>()) {
            prop_assert!(is_double(&format!("{double:e}")), "{double:e}");
            prop_assert!(is_double(&format!("{double}")) || double.abs() > 9e15, "{double}");
            let text = integer.to_string();
            let held = serde_json::from_str::<Value>(&exact(&text)).expect("JSON");
            prop_assert!(held == json!(integer) && integer.abs() <= 1 << 53 || held == json!(text) && integer.abs() > 1 << 53, "{held}");
        }
    }
}
