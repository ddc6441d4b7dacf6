//! Rows as `row_to_json` renders them, turned from objects into arrays without parsing the values: the caller gets what
//! PostgreSQL wrote, `bigint` and `numeric` to the last digit.

use std::ops::Range;

use memchr::memchr2;

/// A line that is not a JSON object; the fence never sends one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a row is not a JSON object")]
pub struct NotAnObject;

/// Rows collected so far.
#[derive(Debug, Default)]
pub struct Rows {
    /// `[…],[…]`: a JSON array of arrays, without its brackets.
    pub json: String,
    /// The same rows as lines of tab-separated values.
    pub text: String,
    /// Number of rows.
    pub count: u32,
    /// Names of the columns, from the first row, for a statement that could not be described.
    pub names: Vec<String>,
    /// Most bytes of rows.
    most: usize,
}

/// From this size on a text gets capacity for the most bytes at once. A text that grows by doubling is copied each time, and
/// the allocator keeps the former buffers; capacity that is never written to takes no memory.
const LARGE: usize = 256 * 1024;

fn grow(text: &mut String, by: usize, most: usize) {
    if text.len() + by > text.capacity() && text.len() >= LARGE {
        text.reserve(by.max((most + most / 8).saturating_sub(text.len())));
    }
}

impl Rows {
    /// No rows yet; at most `most` bytes of rows will be added.
    #[must_use]
    pub fn bounded(most: u32) -> Self {
        Self { most: most as usize, ..Self::default() }
    }

    /// Adds one line.
    ///
    /// # Errors
    /// [`NotAnObject`].
    pub fn push(&mut self, line: &str) -> Result<(), NotAnObject> {
        let first = self.count == 0;
        grow(&mut self.json, line.len() + 2, self.most);
        grow(&mut self.text, line.len() + 1, self.most);
        if !first {
            self.json.push(',');
            self.text.push('\n');
        }
        self.json.push('[');
        let mut names = Vec::new();
        let mut column = 0;
        members(line, |name, value| {
            if column > 0 {
                self.json.push(',');
                self.text.push('\t');
            }
            push_value(&mut self.json, value);
            push_cell(&mut self.text, value);
            if first {
                names.push(serde_json::from_str(name).unwrap_or_default());
            }
            column += 1;
        })?;
        if first {
            self.names = names;
        }
        self.json.push(']');
        self.count += 1;
        Ok(())
    }
}

/// Calls `each` with the raw name (quotes included) and the raw value of each member, in order, duplicates included.
fn members<'a>(line: &'a str, mut each: impl FnMut(&'a str, &'a str)) -> Result<(), NotAnObject> {
    let bytes = line.as_bytes();
    let mut at = skip_blank(bytes, 0);
    if bytes.get(at) != Some(&b'{') {
        return Err(NotAnObject);
    }
    at = skip_blank(bytes, at + 1);
    if bytes.get(at) == Some(&b'}') {
        return Ok(());
    }
    loop {
        let name = string(bytes, at)?;
        at = skip_blank(bytes, name.end);
        if bytes.get(at) != Some(&b':') {
            return Err(NotAnObject);
        }
        let value = value(bytes, skip_blank(bytes, at + 1))?;
        at = skip_blank(bytes, value.end);
        each(&line[name], &line[value]);
        match bytes.get(at) {
            Some(b',') => at = skip_blank(bytes, at + 1),
            Some(b'}') => return Ok(()),
            _ => return Err(NotAnObject),
        }
    }
}

fn skip_blank(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    at
}

fn string(bytes: &[u8], start: usize) -> Result<Range<usize>, NotAnObject> {
    if bytes.get(start) != Some(&b'"') {
        return Err(NotAnObject);
    }
    let mut at = start + 1;
    loop {
        let rest = bytes.get(at..).ok_or(NotAnObject)?;
        let found = at + memchr2(b'"', b'\\', rest).ok_or(NotAnObject)?;
        if bytes[found] == b'"' {
            return Ok(start..found + 1);
        }
        at = found + 2;
    }
}

fn value(bytes: &[u8], start: usize) -> Result<Range<usize>, NotAnObject> {
    let mut at = start;
    let mut depth = 0_u32;
    loop {
        match bytes.get(at) {
            Some(b'"') => at = string(bytes, at)?.end,
            Some(b'{' | b'[') => {
                depth += 1;
                at += 1;
            }
            Some(b'}' | b']') if depth > 0 => {
                depth -= 1;
                at += 1;
            }
            Some(b',' | b'}') if depth == 0 => break,
            Some(_) => at += 1,
            None => return Err(NotAnObject),
        }
    }
    while at > start && bytes[at - 1].is_ascii_whitespace() {
        at -= 1;
    }
    if at == start { Err(NotAnObject) } else { Ok(start..at) }
}

/// Adds a value on one line. A value of type `json` has the line breaks that it was stored with. They mean nothing outside
/// strings, and in a stream of events they would end the event.
fn push_value(out: &mut String, value: &str) {
    if memchr2(b'\n', b'\r', value.as_bytes()).is_some() {
        out.extend(value.chars().map(|c| if matches!(c, '\n' | '\r') { ' ' } else { c }));
    } else {
        out.push_str(value);
    }
}

/// Adds a cell of the text form: a string without its quotes where that is unambiguous, any other value as JSON.
fn push_cell(out: &mut String, value: &str) {
    match value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) if is_plain(inner) => out.push_str(inner),
        _ if value == "null" => out.push_str("NULL"),
        _ => push_value(out, value),
    }
}

/// Whether a string is unambiguous without its quotes.
fn is_plain(inner: &str) -> bool {
    !inner.is_empty() && inner != "NULL" && memchr2(b'\\', b'"', inner.as_bytes()).is_none()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::Rows;

    #[test]
    fn values_pass_unread() {
        let mut rows = Rows::default();
        let line = r#"{"a":12345678901234567890.1234567890,"a":"x\ty","b":{"c":[1, {"d":"}\""}]},"e":null,"f":"NaN","g":-1e400}"#;
        rows.push(line).expect("object");
        rows.push(r#"{"a":"","a":"NULL","b":[],"e":true,"f":"plain text","g":"\""}"#).expect("object");
        assert_eq!(
            rows.json,
            r#"[12345678901234567890.1234567890,"x\ty",{"c":[1, {"d":"}\""}]},null,"NaN",-1e400],["","NULL",[],true,"plain text","\""]"#
        );
        assert_eq!(
            rows.text,
            "12345678901234567890.1234567890\t\"x\\ty\"\t{\"c\":[1, {\"d\":\"}\\\"\"}]}\tNULL\tNaN\t-1e400\n\"\"\t\"NULL\"\t[]\ttrue\tplain text\t\"\\\"\""
        );
        assert_eq!(rows.names, ["a", "a", "b", "e", "f", "g"]);
        assert_eq!(rows.count, 2);
    }

    #[test]
    fn line_breaks_of_stored_json_do_not_reach_the_wire() {
        let mut rows = Rows::default();
        rows.push("{\"a\":{\n \"b\": 1,\r\n \"c\": \"d\"\n}}").expect("object");
        assert!(!rows.json.contains(['\n', '\r']), "{}", rows.json);
    }

    #[test]
    fn no_columns_and_no_object() {
        let mut rows = Rows::default();
        rows.push("{}").expect("object");
        assert_eq!(rows.json, "[]");
        for line in ["", "[1]", "{", r#"{"a"}"#, r#"{"a":}"#, r#"{"a":1"#, r#"{"a":"x}"#, "{a:1}"] {
            assert!(Rows::default().push(line).is_err(), "{line}");
        }
    }

    fn text() -> impl Strategy<Value = String> {
        prop_oneof!["[\"\\\\,:{}\\[\\] a\u{e9}\n\t]{0,40}", "[a-z]{0,80}", Just("NULL".to_owned())]
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            text().prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            let list = prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from);
            let object = prop::collection::vec((text(), inner), 0..4);
            prop_oneof![list, object.prop_map(|members| Value::from(members.into_iter().collect::<Map<_, _>>()))]
        })
    }

    proptest! {
        #[test]
        fn rows_are_what_a_parser_reads(members in prop::collection::vec((text(), value()), 1..6)) {
            let line = members.iter().map(|(name, value)| format!("{}:{value}", Value::from(name.as_str())));
            let mut rows = Rows::default();
            rows.push(&format!("{{{}}}", line.collect::<Vec<_>>().join(","))).expect("object");
            let (names, values): (Vec<_>, Vec<_>) = members.into_iter().unzip();
            prop_assert_eq!(&rows.names, &names);
            prop_assert_eq!(&serde_json::from_str::<Vec<Value>>(&rows.json).expect("an array"), &values);
            let cells: Vec<_> = rows.text.split('\t').collect();
            prop_assert_eq!(cells.len(), values.len());
            for (cell, value) in cells.into_iter().zip(values) {
                match value {
                    Value::Null => prop_assert_eq!(cell, "NULL"),
                    Value::String(text) if !cell.starts_with('"') => prop_assert_eq!(cell, text),
                    value => prop_assert_eq!(serde_json::from_str::<Value>(cell).expect("JSON"), value),
                }
            }
        }
    }
}
