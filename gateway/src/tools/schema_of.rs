//! Schemas of a tool's arguments and answer: derived from their types, then reduced to what every client takes.

use rmcp::model::JsonObject;
use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Value, json};

/// Names the allowed form of a text argument in its derived schema: `#[schemars(extend("x-form" = "a day"))]`. Errors quote it;
/// it is not part of the schema that clients get.
pub const FORM: &str = "x-form";

/// What a schema may hold on the wire. Gemini, OpenAI's strict mode, Ajv with its defaults and VS Code all take these, and
/// some of them drop every tool of a server for one keyword more.
const KEYWORDS: [&str; 10] =
    ["type", "description", "properties", "items", "required", "enum", "minimum", "maximum", "minItems", "maxItems"];

/// The schema of a tool's arguments, with [`FORM`] still in it.
#[must_use]
pub fn arguments<T: JsonSchema>() -> JsonObject {
    let settings = SchemaSettings::draft2020_12().for_deserialize();
    let mut schema = reduced(
        settings.with(|settings| settings.inline_subschemas = true).into_generator().into_root_schema_for::<T>(),
    );
    schema.remove("description");
    schema.entry("properties").or_insert_with(|| json!({}));
    schema
}

/// The same for `tools/list`.
#[must_use]
pub fn on_the_wire(mut arguments: JsonObject) -> JsonObject {
    let fields = arguments.get_mut("properties").and_then(Value::as_object_mut);
    for field in fields.into_iter().flat_map(|fields| fields.values_mut()).filter_map(Value::as_object_mut) {
        field.remove(FORM);
    }
    arguments
}

/// The schema of a tool's answer: the names of its fields and their types, one level deep, since each conversation pays for
/// the list of tools. Nothing is required, so that an error fits it as well. `note` says what the types cannot.
#[must_use]
pub fn answer<T: JsonSchema>(note: &str) -> JsonObject {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let schema = reduced(
        settings.with(|settings| settings.inline_subschemas = true).into_generator().into_root_schema_for::<T>(),
    );
    let fields = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    let fields: JsonObject = fields.map(|(name, field)| (name.clone(), shallow(field))).collect();
    let mut answer =
        JsonObject::from_iter([("type".to_owned(), json!("object")), ("properties".to_owned(), json!(fields))]);
    if !note.is_empty() {
        answer.insert("description".to_owned(), json!(note));
    }
    answer
}

fn shallow(field: &Value) -> Value {
    match field.get("items") {
        Some(items) => json!({"type": field["type"], "items": {"type": items["type"]}}),
        None => json!({"type": field["type"]}),
    }
}

fn reduced(schema: schemars::Schema) -> JsonObject {
    let mut schema = schema.to_value();
    reduce(&mut schema);
    match schema {
        Value::Object(schema) => schema,
        _ => JsonObject::new(),
    }
}

/// Reduces a derived schema to [`KEYWORDS`] and [`FORM`], at every level.
///
/// * An optional value has the type of the value: null is read as an argument left out, whatever the schema says.
/// * An enum whose variants are documented (`oneOf` of `const`) becomes a plain `enum`.
/// * The default of a number is said in its description, since `default` is not for every client.
/// * `title`, `format`, `$schema`, `additionalProperties` and the like go.
fn reduce(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    for choices in ["anyOf", "oneOf"] {
        let Some(Value::Array(mut variants)) = object.remove(choices) else { continue };
        variants.retain(|variant| variant["type"] != "null");
        let words: Option<Vec<Value>> = variants.iter().map(|variant| variant.get("const").cloned()).collect();
        match (words, variants.len()) {
            (Some(words), _) => {
                object.insert("type".to_owned(), json!("string"));
                object.insert("enum".to_owned(), Value::Array(words));
            }
            (None, 1) => {
                for (keyword, value) in variants.remove(0).as_object().into_iter().flatten() {
                    object.entry(keyword.clone()).or_insert_with(|| value.clone());
                }
            }
            // A client's subset knows no alternatives: the test of the catalogue fails for want of a type.
            (None, _) => {}
        }
    }
    if let Some(Value::Array(kinds)) = object.get("type") {
        let kind = kinds.iter().find(|kind| **kind != "null").cloned();
        object.insert("type".to_owned(), kind.unwrap_or_default());
    }
    if let Some(Value::Array(words)) = object.get_mut("enum") {
        words.retain(|word| !word.is_null());
    }
    if let Some(default) = object.get("default").filter(|default| default.is_number()) {
        let description = object.get("description").and_then(Value::as_str).unwrap_or_default();
        let description = format!("{description}; {default} where left out");
        object.insert("description".to_owned(), json!(description));
    }
    object.retain(|keyword, _| keyword == FORM || KEYWORDS.contains(&keyword.as_str()));
    if let Some(Value::Object(fields)) = object.get_mut("properties") {
        fields.values_mut().for_each(reduce);
    }
    object.get_mut("items").into_iter().for_each(reduce);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};
    use serde_json::{Value, json};

    use super::{answer, arguments, on_the_wire};

    #[derive(Default, Deserialize, Serialize, JsonSchema)]
    #[serde(rename_all = "snake_case")]
    enum Mode {
        /// One.
        #[default]
        One,
        /// Two.
        TheOther,
    }

    fn five() -> u32 {
        5
    }

    /// A comment on the whole.
    #[derive(Deserialize, Serialize, JsonSchema)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Sample {
        /// A text.
        #[schemars(extend("x-form" = "a word"))]
        text: String,
        /// Perhaps one.
        maybe: Option<String>,
        /// How many
        #[serde(default = "five")]
        #[schemars(range(min = 1, max = 9))]
        how_many: u32,
        /// Which.
        #[serde(default)]
        mode: Mode,
        /// Some.
        #[schemars(length(min = 1, max = 3))]
        names: Option<Vec<String>>,
        /// More.
        nested: Option<Vec<BTreeMap<String, f64>>>,
    }

    #[test]
    fn derived_schemas_are_reduced_to_what_every_client_takes() {
        let schema = arguments::<Sample>();
        assert_eq!(
            schema["properties"]["text"],
            json!({"type": "string", "description": "A text.", "x-form": "a word"})
        );
        let schema = Value::Object(on_the_wire(schema));
        assert_eq!(
            schema,
            json!({"type": "object", "required": ["text"], "properties": {
                "text": {"type": "string", "description": "A text."},
                "maybe": {"type": "string", "description": "Perhaps one."},
                "howMany": {"type": "integer", "minimum": 1, "maximum": 9, "description": "How many; 5 where left out"},
                "mode": {"type": "string", "enum": ["one", "the_other"], "description": "Which."},
                "names": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 3, "description": "Some."},
                "nested": {"type": "array", "items": {"type": "object"}, "description": "More."},
            }})
        );
    }

    #[test]
    fn the_schema_of_an_answer_is_one_level_deep_and_requires_nothing() {
        assert_eq!(
            Value::Object(answer::<Sample>("A note")),
            json!({"type": "object", "description": "A note", "properties": {
                "text": {"type": "string"}, "maybe": {"type": "string"}, "howMany": {"type": "integer"},
                "mode": {"type": "string"}, "names": {"type": "array", "items": {"type": "string"}},
                "nested": {"type": "array", "items": {"type": "object"}},
            }})
        );
    }
}
