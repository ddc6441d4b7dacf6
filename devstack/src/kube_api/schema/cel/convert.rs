//! JSON to CEL.

use std::{collections::HashMap, sync::Arc};

use kube_cel::cel::{
    Context, Program, Value as Cel,
    objects::{Key, Map as CelMap},
};
use serde_json::Value;

use crate::kube_api::schema::{Additional, Schema, Type};

/// Field names are escaped, map keys are not; formats become timestamps, durations and bytes.
pub(super) struct Converter<'a> {
    pub base: &'a Context<'a>,
}

impl Converter<'_> {
    pub fn convert(&self, value: &Value, schema: Option<&Schema>) -> Cel {
        match value {
            Value::Null => Cel::Null,
            Value::Bool(b) => Cel::Bool(*b),
            Value::Number(n) => match (n.as_i64(), schema.and_then(|s| s.kind)) {
                (Some(i), kind) if kind != Some(Type::Number) => Cel::Int(i),
                _ => Cel::Float(n.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => self.string(text, schema),
            Value::Array(items) => {
                let item_schema = schema.and_then(|s| s.items.as_deref());
                Cel::List(Arc::new(items.iter().map(|item| self.convert(item, item_schema)).collect()))
            }
            Value::Object(map) => {
                let is_map =
                    schema.is_some_and(|s| s.properties.is_empty() && !matches!(s.additional, Additional::None));
                let entries: HashMap<Key, Cel> = map
                    .iter()
                    .filter(|(_, child)| !child.is_null())
                    .map(|(name, child)| {
                        let field = schema.and_then(|s| s.field(name)).map(AsRef::as_ref);
                        let key = if is_map { name.clone() } else { escape(name).unwrap_or_else(|| name.clone()) };
                        (Key::String(Arc::new(key)), self.convert(child, field))
                    })
                    .collect();
                Cel::Map(CelMap { map: Arc::new(entries) })
            }
        }
    }

    fn string(&self, text: &str, schema: Option<&Schema>) -> Cel {
        let plain = Cel::String(Arc::new(text.to_owned()));
        let Some(schema) = schema.filter(|s| !s.int_or_string) else { return plain };
        let function = match schema.format.as_deref() {
            Some("date-time") => "timestamp(text)",
            Some("duration") => "duration(text)",
            Some("byte") => "base64.decode(text)",
            _ => return plain,
        };
        let mut scope = self.base.new_inner_scope();
        scope.add_variable_from_value("text", plain.clone());
        Program::compile(function).ok().and_then(|program| program.execute(&scope).ok()).unwrap_or(plain)
    }
}

const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// The name of a field in expressions; none where it has none.
pub(super) fn escape(name: &str) -> Option<String> {
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(fits) {
        return None;
    }
    let escaped = name.replace("__", "__underscores__");
    Some(escaped.replace('.', "__dot__").replace('-', "__dash__").replace('/', "__slash__"))
}
