//! Structural schemas: compiled once per kind, walked for pruning, defaults, validation, CEL and server-side apply.

mod cel;
mod formats;
mod prune;
mod validate;

use std::{collections::BTreeMap, sync::Arc};

use regex::Regex;
use serde_json::{Map, Value};

pub use cel::{CRD_LIMIT, RULE_LIMIT, Rule, RuleCost, check_rules, costs};
pub use formats::knows as knows_format;
pub use prune::{apply_defaults, prune};
pub use validate::validate;

/// JSON types that a schema can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// `object`
    Object,
    /// `array`
    Array,
    /// `string`
    String,
    /// `integer`
    Integer,
    /// `number`
    Number,
    /// `boolean`
    Boolean,
}

impl Type {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => return None,
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// `x-kubernetes-list-type`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ListType {
    /// Replaced as a whole.
    #[default]
    Atomic,
    /// Scalars, each once.
    Set,
    /// Objects told apart by the given keys.
    Map(Vec<String>),
}

/// What `additionalProperties` says.
#[derive(Debug, Clone, Default)]
pub enum Additional {
    /// Absent or `false`.
    #[default]
    None,
    /// `true`.
    Any,
    /// A schema for every value.
    Schema(Arc<Schema>),
}

/// One node of a structural schema.
#[derive(Debug, Default)]
pub struct Schema {
    /// The type; none for int-or-string and for unknown types.
    pub kind: Option<Type>,
    /// `nullable`
    pub nullable: bool,
    /// `x-kubernetes-int-or-string`
    pub int_or_string: bool,
    /// `x-kubernetes-preserve-unknown-fields`
    pub preserve_unknown: bool,
    /// `x-kubernetes-embedded-resource`
    pub embedded: bool,
    /// `properties`
    pub properties: BTreeMap<String, Arc<Schema>>,
    /// `additionalProperties`
    pub additional: Additional,
    /// `items`
    pub items: Option<Arc<Schema>>,
    /// `required`
    pub required: Vec<String>,
    /// `enum`
    pub allowed: Option<Vec<Value>>,
    /// `pattern`
    pub pattern: Option<Regex>,
    /// `format`
    pub format: Option<String>,
    /// `minLength`, `maxLength`
    pub length: (Option<u64>, Option<u64>),
    /// `minItems`, `maxItems`
    pub size: (Option<u64>, Option<u64>),
    /// `minProperties`, `maxProperties`
    pub entries: (Option<u64>, Option<u64>),
    /// `minimum` and whether it is exclusive
    pub minimum: Option<(f64, bool)>,
    /// `maximum` and whether it is exclusive
    pub maximum: Option<(f64, bool)>,
    /// `multipleOf`
    pub multiple_of: Option<f64>,
    /// `uniqueItems`
    pub unique_items: bool,
    /// `allOf`
    pub all_of: Vec<Arc<Schema>>,
    /// `anyOf`
    pub any_of: Vec<Arc<Schema>>,
    /// `oneOf`
    pub one_of: Vec<Arc<Schema>>,
    /// `not`
    pub not: Option<Arc<Schema>>,
    /// `default`
    pub default: Option<Value>,
    /// `x-kubernetes-list-type`
    pub list_type: ListType,
    /// `x-kubernetes-map-type: atomic`
    pub map_atomic: bool,
    /// `x-kubernetes-validations`
    pub rules: Vec<Rule>,
}

/// A schema that cannot be compiled: where, and why.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {why}")]
pub struct SchemaError {
    /// JSON path inside the schema.
    pub path: String,
    pub why: String,
    /// The value at fault.
    pub value: Value,
}

impl Schema {
    /// A schema that accepts and keeps everything.
    pub fn anything() -> Self {
        Self { preserve_unknown: true, nullable: true, ..Self::default() }
    }

    /// Compiles an OpenAPI v3 schema (of a CRD, or of a built-in kind with `$ref`s already resolved).
    pub fn compile(raw: &Value, path: &str) -> Result<Self, SchemaError> {
        let Some(raw) = raw.as_object() else { return Ok(Self::anything()) };
        let child = |name: &str| -> Result<Option<Arc<Self>>, SchemaError> {
            raw.get(name).map(|s| Self::compile(s, &format!("{path}.{name}")).map(Arc::new)).transpose()
        };
        let many = |name: &str| -> Result<Vec<Arc<Self>>, SchemaError> {
            let Some(list) = raw.get(name).and_then(Value::as_array) else { return Ok(Vec::new()) };
            list.iter()
                .enumerate()
                .map(|(i, s)| Self::compile(s, &format!("{path}.{name}[{i}]")).map(Arc::new))
                .collect()
        };
        let flag = |name: &str| raw.get(name).and_then(Value::as_bool).unwrap_or(false);
        let number = |name: &str| raw.get(name).and_then(Value::as_f64);
        let count = |name: &str| raw.get(name).and_then(Value::as_u64);
        let text = |name: &str| raw.get(name).and_then(Value::as_str);

        let mut properties = BTreeMap::new();
        if let Some(map) = raw.get("properties").and_then(Value::as_object) {
            for (name, schema) in map {
                let at = format!("{path}.properties[{name}]");
                properties.insert(name.clone(), Arc::new(Self::compile(schema, &at)?));
            }
        }
        let additional = match raw.get("additionalProperties") {
            None | Some(Value::Bool(false)) => Additional::None,
            Some(Value::Bool(true)) => Additional::Any,
            Some(schema) => {
                Additional::Schema(Arc::new(Self::compile(schema, &format!("{path}.additionalProperties"))?))
            }
        };
        let pattern = text("pattern").map(|p| compile_pattern(p, path)).transpose()?;
        Ok(Self {
            kind: text("type").and_then(Type::parse),
            nullable: flag("nullable"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            properties,
            additional,
            items: child("items")?,
            required: strings(raw, "required"),
            allowed: raw.get("enum").and_then(Value::as_array).cloned(),
            pattern,
            format: text("format").map(str::to_owned),
            length: (count("minLength"), count("maxLength")),
            size: (count("minItems"), count("maxItems")),
            entries: (count("minProperties"), count("maxProperties")),
            minimum: number("minimum").map(|n| (n, flag("exclusiveMinimum"))),
            maximum: number("maximum").map(|n| (n, flag("exclusiveMaximum"))),
            multiple_of: number("multipleOf"),
            unique_items: flag("uniqueItems"),
            all_of: many("allOf")?,
            any_of: many("anyOf")?,
            one_of: many("oneOf")?,
            not: child("not")?,
            default: raw.get("default").cloned(),
            list_type: match text("x-kubernetes-list-type") {
                Some("set") => ListType::Set,
                Some("map") => ListType::Map(strings(raw, "x-kubernetes-list-map-keys")),
                _ => ListType::Atomic,
            },
            map_atomic: text("x-kubernetes-map-type") == Some("atomic"),
            rules: cel::compile_rules(raw, path)?,
        })
    }

    /// The schema of a field of an object.
    pub fn field(&self, name: &str) -> Option<&Arc<Self>> {
        self.properties.get(name).or(match &self.additional {
            Additional::Schema(schema) => Some(schema),
            _ => None,
        })
    }

    /// Whether fields that no schema names are kept.
    pub fn keeps_unknown(&self) -> bool {
        self.preserve_unknown || matches!(self.additional, Additional::Any)
    }

    /// The type's name for CEL errors.
    pub fn type_name(&self) -> &'static str {
        self.kind.map_or("", Type::name)
    }

    /// The identity of an item in a map list; none when a key is missing and has no default.
    pub fn item_key(&self, keys: &[String], item: &Value) -> Option<Map<String, Value>> {
        let mut identity = Map::new();
        for key in keys {
            let value = item
                .get(key)
                .cloned()
                .or_else(|| self.items.as_ref().and_then(|s| s.field(key)).and_then(|s| s.default.clone()));
            match value {
                Some(value) => identity.insert(key.clone(), value),
                None => continue,
            };
        }
        (!identity.is_empty()).then_some(identity)
    }
}

fn strings(raw: &Map<String, Value>, name: &str) -> Vec<String> {
    raw.get(name)
        .and_then(Value::as_array)
        .map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        .unwrap_or_default()
}

fn compile_pattern(pattern: &str, path: &str) -> Result<Regex, SchemaError> {
    Regex::new(pattern).map_err(|error| SchemaError {
        path: format!("{path}.pattern"),
        why: format!("must be a valid regular expression, but isn't: {error}"),
        value: Value::String(pattern.to_owned()),
    })
}
