//! `x-kubernetes-validations`: CEL rules, evaluated with the Kubernetes function libraries of the `kube-cel` crate.
//!
//! Their cost is not estimated: a definition that a real server refuses as too expensive is accepted here.

use std::{collections::HashMap, sync::Arc};

use kube_cel::{
    KubeCelExt as _,
    cel::{
        self, Context, Program,
        objects::{Key, Map as CelMap, OptionalValue},
    },
};
use serde_json::{Map, Value};

use super::{
    Additional, Schema, SchemaError,
    validate::{OldItems, join, old_field},
};
use crate::kube_api::status::{FieldError, FieldErrorKind as Kind};

/// A compiled rule.
#[derive(Debug)]
pub struct Rule {
    text: String,
    program: Program,
    message: Option<String>,
    message_expression: Option<Program>,
    reason: Kind,
    field_path: Option<String>,
    optional_old_self: bool,
    transition: bool,
}

pub(super) fn compile_rules(raw: &Map<String, Value>, path: &str) -> Result<Vec<Rule>, SchemaError> {
    let Some(rules) = raw.get("x-kubernetes-validations").and_then(Value::as_array) else { return Ok(Vec::new()) };
    rules
        .iter()
        .enumerate()
        .map(|(i, rule)| compile_rule(rule, &format!("{path}.x-kubernetes-validations[{i}]")))
        .collect()
}

fn compile_rule(raw: &Value, path: &str) -> Result<Rule, SchemaError> {
    let text = |name: &str| raw.get(name).and_then(Value::as_str).map(str::to_owned);
    let compile = |name: &str, source: &str| {
        Program::compile(source).map_err(|error| SchemaError {
            path: format!("{path}.{name}"),
            why: format!("compilation failed: ERROR: <input>:1:1: Syntax error: {error}"),
            value: Value::String(source.to_owned()),
        })
    };
    let rule = text("rule").unwrap_or_default();
    let program = compile("rule", &rule)?;
    let message_expression =
        text("messageExpression").map(|source| compile("messageExpression", &source)).transpose()?;
    let transition = program.references().has_variable("oldSelf");
    Ok(Rule {
        transition,
        program,
        text: rule,
        message: text("message"),
        message_expression,
        reason: match text("reason").as_deref() {
            Some("FieldValueForbidden") => Kind::Forbidden,
            Some("FieldValueRequired") => Kind::Required,
            Some("FieldValueDuplicate") => Kind::Duplicate,
            _ => Kind::Invalid,
        },
        field_path: text("fieldPath"),
        optional_old_self: raw.get("optionalOldSelf").and_then(Value::as_bool).unwrap_or(false),
    })
}

/// Whether any rule stands in the schema.
pub(super) fn has_rules(schema: &Schema) -> bool {
    !schema.rules.is_empty()
        || schema.properties.values().any(|s| has_rules(s))
        || schema.items.as_ref().is_some_and(|s| has_rules(s))
        || matches!(&schema.additional, Additional::Schema(s) if has_rules(s))
}

/// Evaluates every rule of the schema that a change could have broken.
pub(super) fn evaluate(value: &Value, old: Option<&Value>, schema: &Schema, errors: &mut Vec<FieldError>) {
    thread_local! {
        static BASE: Context<'static> = Context::default().with_all();
    }
    BASE.with(|base| Walk { base, errors }.node(value, old, schema, ""));
}

struct Walk<'a> {
    base: &'a Context<'a>,
    errors: &'a mut Vec<FieldError>,
}

impl Walk<'_> {
    fn node(&mut self, value: &Value, old: Option<&Value>, schema: &Schema, path: &str) {
        if old == Some(value) || value.is_null() {
            return;
        }
        if !schema.rules.is_empty() {
            self.rules(value, old, schema, path);
        }
        match value {
            Value::Object(map) => {
                for (name, child) in map {
                    if let Some(field) = schema.field(name) {
                        self.node(child, old_field(old, name), field, &join(path, name));
                    }
                }
            }
            Value::Array(items) => {
                if let Some(item_schema) = &schema.items {
                    let old = OldItems::new(old, schema);
                    for (index, item) in items.iter().enumerate() {
                        self.node(item, old.get(schema, item), item_schema, &format!("{path}[{index}]"));
                    }
                }
            }
            _ => {}
        }
    }

    fn rules(&mut self, value: &Value, old: Option<&Value>, schema: &Schema, path: &str) {
        let converter = Converter { base: self.base };
        let mut scope = self.base.new_inner_scope();
        scope.add_variable_from_value("self", converter.convert(value, Some(schema)));
        let old = old.filter(|o| !o.is_null()).map(|o| converter.convert(o, Some(schema)));
        for rule in &schema.rules {
            let mut scope = scope.new_inner_scope();
            match (&old, rule.optional_old_self) {
                (Some(old), false) => scope.add_variable_from_value("oldSelf", old.clone()),
                (None, false) if rule.transition => continue,
                (None, false) => {}
                (old, true) => {
                    let optional = old.clone().map_or_else(OptionalValue::none, OptionalValue::of);
                    scope.add_variable_from_value("oldSelf", cel::Value::Opaque(Arc::new(optional)));
                }
            }
            if let Some(message) = rule.failure(&scope) {
                self.errors.push(rule.error(path, schema, message));
            }
        }
    }
}

impl Rule {
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn is_transition(&self) -> bool {
        self.transition
    }

    pub(super) fn old_is_optional(&self) -> bool {
        self.optional_old_self
    }

    pub(super) fn programs(&self) -> impl Iterator<Item = &Program> {
        std::iter::once(&self.program).chain(&self.message_expression)
    }

    fn failure(&self, scope: &Context<'_>) -> Option<String> {
        match self.program.execute(scope) {
            Ok(cel::Value::Bool(true)) => None,
            Ok(cel::Value::Bool(false)) => Some(self.explain(scope)),
            Ok(other) => Some(format!("cel expression evaluated to {other:?}, not to a bool")),
            Err(error) => {
                let what = self.message.as_deref().unwrap_or(&self.text);
                Some(format!("{error} evaluating rule: {what}"))
            }
        }
    }

    fn explain(&self, scope: &Context<'_>) -> String {
        let dynamic = self.message_expression.as_ref().and_then(|program| match program.execute(scope) {
            Ok(cel::Value::String(text)) if !text.trim().is_empty() && !text.contains('\n') => Some(text.to_string()),
            _ => None,
        });
        dynamic.or_else(|| self.message.clone()).unwrap_or_else(|| format!("failed rule: {}", self.text))
    }

    fn error(&self, path: &str, schema: &Schema, message: String) -> FieldError {
        let path = match &self.field_path {
            Some(relative) if path.is_empty() => relative.trim_start_matches('.').to_owned(),
            Some(relative) if relative.starts_with(['.', '[']) => format!("{path}{relative}"),
            Some(relative) => format!("{path}.{relative}"),
            None => path.to_owned(),
        };
        FieldError::new(self.reason, path, Value::String(schema.type_name().into()), message)
    }
}

/// JSON to CEL. Field names are escaped, map keys are not; formats become timestamps, durations and bytes.
struct Converter<'a> {
    base: &'a Context<'a>,
}

impl Converter<'_> {
    fn convert(&self, value: &Value, schema: Option<&Schema>) -> cel::Value {
        match value {
            Value::Null => cel::Value::Null,
            Value::Bool(b) => cel::Value::Bool(*b),
            Value::Number(n) => match (n.as_i64(), schema.and_then(|s| s.kind)) {
                (Some(i), kind) if kind != Some(super::Type::Number) => cel::Value::Int(i),
                _ => cel::Value::Float(n.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => self.string(text, schema),
            Value::Array(items) => {
                let item_schema = schema.and_then(|s| s.items.as_deref());
                cel::Value::List(Arc::new(items.iter().map(|item| self.convert(item, item_schema)).collect()))
            }
            Value::Object(map) => {
                let is_map =
                    schema.is_some_and(|s| s.properties.is_empty() && !matches!(s.additional, Additional::None));
                let entries: HashMap<Key, cel::Value> = map
                    .iter()
                    .filter(|(_, child)| !child.is_null())
                    .map(|(name, child)| {
                        let field = schema.and_then(|s| s.field(name)).map(AsRef::as_ref);
                        let key = if is_map { name.clone() } else { escape(name) };
                        (Key::String(Arc::new(key)), self.convert(child, field))
                    })
                    .collect();
                cel::Value::Map(CelMap { map: Arc::new(entries) })
            }
        }
    }

    fn string(&self, text: &str, schema: Option<&Schema>) -> cel::Value {
        let plain = cel::Value::String(Arc::new(text.to_owned()));
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

const RESERVED: [&str; 18] = [
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
];

pub(super) fn escape(name: &str) -> String {
    if RESERVED.contains(&name) {
        return format!("__{name}__");
    }
    if !name.contains(['.', '-', '/']) && !name.contains("__") {
        return name.to_owned();
    }
    name.replace("__", "__underscores__").replace('.', "__dot__").replace('-', "__dash__").replace('/', "__slash__")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Schema, validate};

    fn run(rule: serde_json::Value, new: &serde_json::Value, old: Option<&serde_json::Value>) -> Vec<String> {
        let raw = json!({"type": "object", "properties": {"spec": {
            "type": "object",
            "x-kubernetes-validations": [rule],
            "properties": {
                "names": {"type": "array", "items": {"type": "string"}},
                "namespace": {"type": "string"},
                "a-b": {"type": "string"},
                "at": {"type": "string", "format": "date-time"},
                "size": {"type": "integer"},
            },
        }}});
        let schema = Schema::compile(&raw, "schema").expect("schema");
        validate(new, old, &schema).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rules_see_escaped_names_formats_and_libraries() {
        let object = json!({"spec": {"names": ["b", "a"], "namespace": "x", "a-b": "y", "at": "2026-01-01T00:00:00Z", "size": 3}});
        for rule in [
            "self.__namespace__ == 'x' && self.a__dash__b == 'y'",
            "self.at < timestamp('2027-01-01T00:00:00Z')",
            "sets.contains(self.names, ['a'])",
            "self.names.all(n, n.matches('^[a-z]$')) && !self.names.isSorted()",
            "!has(self.absent)",
            "self.names.exists_one(n, n == 'a') && size(self.names) == 2 && self.size in [1, 3]",
            "self.names.map(n, n + '!').join(',') == 'b!,a!'",
            "duration('5s') <= duration('60s') && quantity('1Gi').isGreaterThan(quantity('1Mi'))",
            "isURL('https://a.example/b') && url('https://a.example/b').getHost() == 'a.example'",
        ] {
            assert_eq!(run(json!({"rule": rule}), &object, None), Vec::<String>::new(), "{rule}");
        }
    }

    #[test]
    fn failures_carry_message_reason_and_path() {
        let object = json!({"spec": {"size": 3}});
        let rule = json!({"rule": "self.size < 3", "messageExpression": "'size is ' + string(self.size)", "fieldPath": ".size"});
        assert_eq!(run(rule, &object, None), ["spec.size: Invalid value: \"object\": size is 3"]);
        let rule = json!({"rule": "self.size < 3", "message": "no", "reason": "FieldValueForbidden"});
        assert_eq!(run(rule, &object, None), ["spec: Forbidden: no"]);
        assert_eq!(
            run(json!({"rule": "self.size < 3"}), &object, None),
            ["spec: Invalid value: \"object\": failed rule: self.size < 3"]
        );
    }

    #[test]
    fn transition_rules_need_an_old_value() {
        let (old, new) = (json!({"spec": {"size": 3}}), json!({"spec": {"size": 4}}));
        let rule = json!({"rule": "self.size == oldSelf.size", "message": "immutable"});
        assert!(run(rule.clone(), &new, None).is_empty());
        assert_eq!(run(rule, &new, Some(&old)), ["spec: Invalid value: \"object\": immutable"]);
        let rule = json!({"rule": "!oldSelf.hasValue() || oldSelf.value().size == self.size", "optionalOldSelf": true});
        assert!(run(rule.clone(), &new, None).is_empty());
        assert_eq!(run(rule, &new, Some(&old)).len(), 1);
    }
}
