//! The text of an answer, from its structured content: the same data in fewer tokens. Tools do not write texts of their own,
//! apart from the rows of SQL and the description of tables, which are large and written once.
//!
//! A field is a line (`role: StoreManager`), an object a table of one row, a list of objects a table with its count. Numbers
//! pass as they were written, to the last digit.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// JSON with its members in order and its scalars unread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node<'a> {
    Object(Vec<(String, Node<'a>)>),
    /// An array.
    List(Vec<Node<'a>>),
    /// Anything else, as JSON.
    Scalar(Cow<'a, str>),
}

/// The members of an object, in order.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

impl<'a> Node<'a> {
    /// Reads JSON.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(json: &'a str) -> serde_json::Result<Self> {
        let json = json.trim();
        match json.as_bytes().first() {
            Some(b'{') => {
                let members = serde_json::from_str::<Members<'a>>(json)?.0.into_iter();
                members
                    .map(|(name, value)| Ok((name, Self::parse(value.get())?)))
                    .collect::<Result<_, _>>()
                    .map(Self::Object)
            }
            Some(b'[') => {
                let items = serde_json::from_str::<Vec<&'a RawValue>>(json)?.into_iter();
                items.map(|item| Self::parse(item.get())).collect::<Result<_, _>>().map(Self::List)
            }
            _ => Ok(Self::Scalar(json.into())),
        }
    }

    /// Writes it as JSON.
    pub fn write_json(&self, out: &mut String) {
        match self {
            Self::Object(members) => {
                out.push('{');
                for (at, (name, value)) in members.iter().enumerate() {
                    out.push_str(if at == 0 { "" } else { "," });
                    out.push_str(&quoted(name));
                    out.push(':');
                    value.write_json(out);
                }
                out.push('}');
            }
            Self::List(items) => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    out.push_str(if at == 0 { "" } else { "," });
                    item.write_json(out);
                }
                out.push(']');
            }
            Self::Scalar(json) => out.push_str(json),
        }
    }

    /// The same as JSON.
    #[must_use]
    pub fn json(&self) -> String {
        let mut out = String::new();
        self.write_json(&mut out);
        out
    }

    /// The same as text, without a line break at the end.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        self.section("", &mut out);
        out.truncate(out.trim_end_matches('\n').len());
        out
    }

    fn section(&self, path: &str, out: &mut String) {
        match self {
            Self::Object(members) if path.is_empty() => {
                members.iter().for_each(|(name, value)| value.section(name, out))
            }
            Self::Object(members) => {
                let (flat, deep): (Vec<_>, Vec<_>) = members.iter().partition(|(_, value)| value.is_flat());
                if !flat.is_empty() {
                    let row: Vec<_> = flat.iter().map(|(name, value)| (name.as_str(), value)).collect();
                    out.push_str(&format!("{path}:\n"));
                    rows(&[row], out);
                }
                deep.iter().for_each(|(name, value)| value.section(&format!("{path}.{name}"), out));
            }
            Self::List(items) if !items.is_empty() && items.iter().all(|item| matches!(item, Self::Object(_))) => {
                out.push_str(&format!("{path} ({}):\n", items.len()));
                let table: Vec<Vec<_>> = items
                    .iter()
                    .map(|item| match item {
                        Self::Object(members) => members.iter().map(|(name, value)| (name.as_str(), value)).collect(),
                        _ => Vec::new(),
                    })
                    .collect();
                rows(&table, out);
            }
            other => {
                out.push_str(path);
                out.push_str(": ");
                other.push_cell(out);
                out.push('\n');
            }
        }
    }

    /// Whether it fits one cell: a scalar, or a list of scalars.
    fn is_flat(&self) -> bool {
        match self {
            Self::Scalar(_) => true,
            Self::List(items) => items.iter().all(|item| matches!(item, Self::Scalar(_))),
            Self::Object(_) => false,
        }
    }

    fn push_cell(&self, out: &mut String) {
        match self {
            Self::Scalar(json) => push_cell(out, json),
            Self::List(items) if items.is_empty() => out.push_str("none"),
            Self::List(items) if self.is_flat() => {
                for (at, item) in items.iter().enumerate() {
                    out.push_str(if at == 0 { "" } else { ", " });
                    match item {
                        // A comma inside an item would part it.
                        Self::Scalar(json) if json.contains(',') => out.push_str(json),
                        other => other.push_cell(out),
                    }
                }
            }
            other => other.write_json(out),
        }
    }
}

/// A head and lines of tab-separated cells. Rows may differ in their members; a missing one is an empty cell.
fn rows(table: &[Vec<(&str, &Node<'_>)>], out: &mut String) {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in table.iter().flatten() {
        if !names.contains(name) {
            names.push(name);
        }
    }
    out.push_str(&names.join("\t"));
    out.push('\n');
    for row in table {
        for (at, name) in names.iter().enumerate() {
            out.push_str(if at == 0 { "" } else { "\t" });
            if let Some((_, value)) = row.iter().find(|(known, _)| known == name) {
                value.push_cell(out);
            }
        }
        out.push('\n');
    }
}

/// What some readers take for the end of a line, and JSON does not escape.
const SEPARATORS: [char; 3] = ['\u{85}', '\u{2028}', '\u{2029}'];

/// Whether a text has one of [`SEPARATORS`].
#[must_use]
pub fn has_separators(text: &str) -> bool {
    !text.is_ascii() && text.contains(SEPARATORS)
}

/// A text as JSON.
#[must_use]
pub fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

/// One cell: a string without its quotes where that is unambiguous, `NULL`, or JSON. JSON escapes tabs and line breaks, and
/// the line separators of Unicode are escaped here: no value can look like the end of its cell or of its row.
pub fn push_cell(out: &mut String, json: &str) {
    match json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        _ if has_separators(json) => {
            for c in json.chars() {
                match SEPARATORS.contains(&c) {
                    true => out.push_str(&format!("\\u{:04x}", u32::from(c))),
                    false => out.push(c),
                }
            }
        }
        Some(inner) if !inner.is_empty() && inner != "NULL" && !inner.contains(['\\', '"']) => out.push_str(inner),
        _ if json == "null" => out.push_str("NULL"),
        _ if json.contains(['\n', '\r']) => {
            out.extend(json.chars().map(|c| if matches!(c, '\n' | '\r') { ' ' } else { c }))
        }
        _ => out.push_str(json),
    }
}

#[cfg(test)]
mod tests {
    use super::{Node, push_cell};

    #[test]
    fn text_and_json_are_the_same_data() {
        let json = r#"{"role":"A, B","stores":["x","y, z"],"limits":{"maxRows":500,"names":["a"],"more":{"deep":true}},"products":[{"name":"Glue","price":12.50,"stores":[{"s":1}]},{"name":"a\tb","note":null}],"none":[],"n":12345678901234567890}"#;
        let node = Node::parse(json).expect("JSON");
        assert_eq!(node.json(), json);
        assert_eq!(
            node.text(),
            "role: A, B\nstores: x, \"y, z\"\nlimits:\nmaxRows\tnames\n500\ta\nlimits.more:\ndeep\ntrue\n\
             products (2):\nname\tprice\tstores\tnote\nGlue\t12.50\t[{\"s\":1}]\t\n\"a\\tb\"\t\t\tNULL\n\
             none: none\nn: 12345678901234567890"
        );
        assert!(Node::parse("{").is_err());
    }

    #[test]
    fn no_value_can_look_like_the_end_of_its_cell() {
        for (json, cell) in [
            (r#""plain""#, "plain"),
            (r#""""#, r#""""#),
            (r#""NULL""#, r#""NULL""#),
            ("null", "NULL"),
            (r#""a\tb\nc""#, r#""a\tb\nc""#),
            ("\"a\u{2028}b\u{e9}\"", "\"a\\u2028b\u{e9}\""),
            ("{\"a\":\n 1}", "{\"a\":  1}"),
        ] {
            let mut out = String::new();
            push_cell(&mut out, json);
            assert_eq!(out, cell);
        }
    }
}
