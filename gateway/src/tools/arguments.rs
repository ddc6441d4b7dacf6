//! Arguments of a tool: taken as models write them, and checked so that an error names the field, the value and the allowed form.

use rmcp::model::{JsonObject, Tool as Definition};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Code, ToolError, ToolOutput, schema_of::FORM};

/// Most names of ignored arguments that an answer repeats, and most characters of each.
const NAMED: (usize, usize) = (10, 64);

/// Arguments that a tool does not have. Frameworks add some of their own to every call, so they fail none: the answer says
/// what was ignored, and what there is.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ignored {
    names: Vec<String>,
    known: Vec<String>,
}

/// Parts a call's arguments into the tool's own and the rest. A name that differs in case and separators alone is the tool's
/// (`timePeriod`), unless the right one is there as well.
#[must_use]
pub fn part(tool: &Definition, arguments: JsonObject) -> (JsonObject, Ignored) {
    let properties = tool.input_schema.get("properties").and_then(Value::as_object);
    let known: Vec<&String> = properties.into_iter().flat_map(|properties| properties.keys()).collect();
    let plain =
        |name: &str| -> String { name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect() };
    let (mut own, rest): (JsonObject, JsonObject) = arguments.into_iter().partition(|(name, _)| known.contains(&name));
    let mut names = Vec::new();
    for (name, value) in rest {
        match known.iter().find(|known| plain(known) == plain(&name)) {
            Some(meant) if !own.contains_key(*meant) => drop(own.insert((*meant).clone(), value)),
            _ => names.push(name.chars().take(NAMED.1).collect()),
        }
    }
    names.truncate(NAMED.0);
    (own, Ignored { names, known: known.into_iter().cloned().collect() })
}

impl Ignored {
    fn sentence(&self, tool: &str) -> String {
        let takes = if self.known.is_empty() { "no arguments".to_owned() } else { self.known.join(", ") };
        format!("ignored {}, which {tool} does not have; it takes {takes}", self.names.join(", "))
    }

    /// Says it in an answer, in both forms.
    pub fn report(&self, tool: &str, output: &mut ToolOutput) {
        if self.names.is_empty() {
            return;
        }
        output.text.push_str(&format!("\n({})", self.sentence(tool)));
        if output.structured.pop() == Some('}') {
            let lists = json!({"ignoredArguments": self.names, "knownArguments": self.known}).to_string();
            let comma = if output.structured.ends_with('{') { "" } else { "," };
            output.structured.push_str(&lists.replacen('{', comma, 1));
        }
    }

    /// Says it in an error: what is missing may be what was ignored.
    pub fn explain(&self, tool: &str, error: &mut ToolError) {
        if !self.names.is_empty() {
            error.message.push_str(&format!("; {}", self.sentence(tool)));
        }
    }
}

/// An argument's type, with its bounds.
#[derive(Debug)]
enum Kind {
    Text,
    Choice(Vec<String>),
    /// From, to.
    Whole(u32, u32),
    /// At most so many strings.
    Texts(usize),
}

/// One argument of a tool.
#[derive(Debug)]
struct Field {
    name: String,
    kind: Kind,
    /// The allowed form, for errors.
    form: String,
    required: bool,
}

/// The arguments of a tool, from their derived schema: how they are read as liberally as they can be understood.
#[derive(Debug)]
pub struct Shape(Vec<Field>);

impl Shape {
    /// The arguments of this schema.
    #[must_use]
    pub fn of(schema: &JsonObject) -> Self {
        let required = schema.get("required").and_then(Value::as_array);
        let required = |name: &str| required.is_some_and(|names| names.iter().any(|known| known == name));
        let fields = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
        let fields = fields.map(|(name, field)| {
            let bound = |keyword: &str, default: u32| {
                field[keyword].as_u64().and_then(|bound| u32::try_from(bound).ok()).unwrap_or(default)
            };
            let (kind, form) = match (field["type"].as_str(), field["enum"].as_array()) {
                (Some("integer"), _) => {
                    let (least, most) = (bound("minimum", 0), bound("maximum", u32::MAX));
                    (Kind::Whole(least, most), format!("a whole number from {least} to {most}"))
                }
                (Some("array"), _) => {
                    let most = bound("maxItems", u32::MAX);
                    (Kind::Texts(most as usize), format!("an array of 1 to {most} strings"))
                }
                (_, Some(words)) => {
                    let words: Vec<_> = words.iter().filter_map(Value::as_str).map(str::to_owned).collect();
                    let form = format!("one of {}", words.join(", "));
                    (Kind::Choice(words), form)
                }
                _ => (Kind::Text, field[FORM].as_str().unwrap_or("a string").to_owned()),
            };
            Field { name: name.clone(), kind, form, required: required(name) }
        });
        Self(fields.collect())
    }

    /// The arguments of one call.
    ///
    /// # Errors
    /// `VALIDATION_ERROR` that names the field, the value and the allowed form.
    pub fn read<T: DeserializeOwned>(&self, mut given: JsonObject) -> Result<T, ToolError> {
        let mut read = JsonObject::new();
        for field in &self.0 {
            match take(&mut given, &field.name) {
                Some(value) => drop(read.insert(field.name.clone(), field.read(value)?)),
                None if field.required => {
                    return Err(invalid(format!("{} is missing; {} is expected", field.name, field.form)));
                }
                None => {}
            }
        }
        serde_json::from_value(Value::Object(read)).map_err(|error| {
            tracing::error!(%error, "arguments do not fit the schema that was derived from them");
            ToolError::new(Code::Internal, "the arguments could not be read")
        })
    }
}

impl Field {
    /// A value in the form that the argument's type deserializes from.
    fn read(&self, value: Value) -> Result<Value, ToolError> {
        let read = match &self.kind {
            Kind::Text => text(&value).map(Value::from),
            Kind::Choice(words) => text(&value).and_then(|text| {
                let plain = text.trim().to_lowercase().replace([' ', '-'], "_");
                words.iter().find(|word| **word == plain).cloned().map(Value::from)
            }),
            Kind::Whole(least, most) => {
                whole(&value).filter(|number| (least..=most).contains(&number)).map(Value::from)
            }
            Kind::Texts(most) => texts(&value).filter(|texts| (1..=*most).contains(&texts.len())).map(Value::from),
        };
        read.ok_or_else(|| malformed(&self.name, &value, &self.form))
    }
}

/// Takes the value of a field. What means "nothing" is left out: null, and what models write for it.
fn take(given: &mut JsonObject, field: &str) -> Option<Value> {
    let value = given.remove(field)?;
    let is_nothing = match &value {
        Value::Null => true,
        Value::String(text) => {
            let text = text.trim();
            text.is_empty() || ["null", "none", "undefined"].iter().any(|word| text.eq_ignore_ascii_case(word))
        }
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    };
    (!is_nothing).then_some(value)
}

/// A string, or a list of one.
fn text(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text),
        Value::Array(items) => match items.as_slice() {
            [Value::String(text)] => Some(text),
            _ => None,
        },
        _ => None,
    }
}

/// A whole number. `"5"` is one, too.
fn whole(value: &Value) -> Option<u32> {
    let read = value.as_str().and_then(|text| serde_json::from_str(text.trim()).ok()).filter(Value::is_number);
    let number = read.as_ref().unwrap_or(value);
    number.as_u64().and_then(|number| u32::try_from(number).ok()).or_else(|| integral(number))
}

/// Strings; also as a text that holds a list, or with commas between.
fn texts(value: &Value) -> Option<Vec<String>> {
    let texts: Vec<String> = match value {
        Value::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<_>>()?,
        Value::String(text) => written(text),
        _ => return None,
    };
    Some(texts.iter().map(|text| text.trim()).filter(|text| !text.is_empty()).map(str::to_owned).collect())
}

/// A list that was written as a text: as JSON, in Python's quotes, or with commas between.
fn written(text: &str) -> Vec<String> {
    let json = |text: &str| serde_json::from_str::<Vec<String>>(text).ok();
    json(text)
        .or_else(|| json(&text.replace('\'', "\"")))
        .unwrap_or_else(|| text.split(',').map(str::to_owned).collect())
}

/// A number such as 20.0, which is an integer to JSON Schema (2020-12, section 6.1.1) and which some clients write.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // what is cast is whole and in the range
fn integral(value: &Value) -> Option<u32> {
    let number = value.as_f64().filter(|number| number.fract() == 0.0)?;
    (0.0..=f64::from(u32::MAX)).contains(&number).then_some(number as u32)
}

/// The complaint about a value: field, value, allowed form.
pub fn malformed(field: &str, value: &Value, form: &str) -> ToolError {
    invalid(format!("{field} is {}; {form} is expected", shown(value)))
}

fn invalid(message: String) -> ToolError {
    ToolError::new(Code::Validation, message)
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 60 { text.chars().take(60).chain(['…']).collect() } else { text }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rmcp::model::{JsonObject, Tool as Definition};
    use schemars::JsonSchema;
    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::{Ignored, Shape, ToolError, ToolOutput, part};
    use crate::tools::{Code, schema_of};

    #[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq)]
    #[serde(rename_all = "snake_case")]
    enum Word {
        A,
        BC,
    }

    fn three() -> u32 {
        3
    }

    #[derive(Debug, Deserialize, JsonSchema, PartialEq)]
    struct Sample {
        q: Option<String>,
        k: Option<Word>,
        #[serde(default = "three")]
        #[schemars(range(min = 1, max = 5))]
        n: u32,
        #[schemars(length(min = 1, max = 2))]
        t: Option<Vec<String>>,
    }

    #[derive(Debug, Deserialize, JsonSchema, PartialEq)]
    struct Needed {
        #[schemars(extend("x-form" = "a word"))]
        q: String,
    }

    fn object(value: &Value) -> JsonObject {
        value.as_object().expect("object").clone()
    }

    fn sample(value: &Value) -> Result<Sample, ToolError> {
        Shape::of(&schema_of::arguments::<Sample>()).read(object(value))
    }

    fn refused(value: &Value) -> String {
        sample(value).expect_err("refused").message
    }

    #[test]
    fn problems_name_field_value_and_form() {
        let text = |value: Value| {
            let needed: Result<Needed, _> = Shape::of(&schema_of::arguments::<Needed>()).read(object(&value));
            needed.map(|needed| needed.q)
        };
        assert_eq!(text(json!({"q": "x"})).as_deref(), Ok("x"));
        assert_eq!(text(json!({"q": ["x"]})).as_deref(), Ok("x"));
        for (arguments, words) in [
            (json!({}), ["q is missing", "a word is expected"]),
            (json!({"q": null}), ["q is missing", "a word is expected"]),
            (json!({"q": 7}), ["q is 7", "a word is expected"]),
            (json!({"q": ["x", "y"]}), ["q is [", "a word is expected"]),
        ] {
            let error = text(arguments).expect_err("refused");
            assert!(words.iter().all(|word| error.message.contains(word)), "{error}");
        }
    }

    #[test]
    fn what_models_write_for_nothing_is_left_out() {
        for nothing in
            [json!(null), json!(""), json!(" "), json!("null"), json!("None"), json!("undefined"), json!([]), json!({})]
        {
            let read = sample(&json!({"q": nothing, "k": nothing, "n": nothing, "t": nothing}));
            assert_eq!(read, Ok(Sample { q: None, k: None, n: 3, t: None }), "{nothing}");
        }
    }

    #[test]
    fn numbers_words_and_lists() {
        let whole = |value: Value| sample(&json!({"n": value})).map(|sample| sample.n);
        assert_eq!(whole(json!(5)), Ok(5));
        for four in [json!(4.0), json!("4"), json!(" 4 "), json!("4.0")] {
            assert_eq!(whole(four.clone()), Ok(4), "{four}");
        }
        for bad in [
            json!(0),
            json!(-0.0),
            json!(6),
            json!(-1),
            json!(1.5),
            json!(6.0),
            json!(-1.0),
            json!(1e300),
            json!("6"),
            json!("two"),
            json!(true),
            json!(4_294_967_297_u64),
        ] {
            assert_eq!(refused(&json!({"n": bad})), format!("n is {bad}; a whole number from 1 to 5 is expected"));
        }
        for b in ["b_c", "B_C", "b c", "B-c", " b_c "] {
            assert_eq!(sample(&json!({"k": b})).map(|sample| sample.k), Ok(Some(Word::BC)), "{b}");
        }
        assert_eq!(refused(&json!({"k": "c"})), "k is \"c\"; one of a, b_c is expected");
        let texts = |value: &Value| sample(&json!({"t": value})).map(|sample| sample.t);
        for one in [json!(["x"]), json!("x"), json!("[\"x\"]"), json!("['x']"), json!("x,"), json!([" x "])] {
            assert_eq!(texts(&one), Ok(Some(vec!["x".to_owned()])), "{one}");
        }
        assert_eq!(texts(&json!("x, y")), Ok(Some(vec!["x".to_owned(), "y".to_owned()])));
        for bad in [json!(["a", "b", "c"]), json!([1]), json!(7), json!("a,b,c"), json!([""])] {
            assert!(refused(&json!({"t": bad})).contains("an array of 1 to 2 strings"));
        }
    }

    #[test]
    fn what_a_tool_does_not_have_is_named_and_fails_nothing() {
        let schema = object(&json!({"properties": {"time_period": {"type": "string"}, "n": {"type": "integer"}}}));
        let tool = Definition::new("t", "", Arc::new(schema));
        let given = json!({"timePeriod": "7d", "n": 1, "N": 2, "sessionId": "s", "action": null});
        let (own, ignored) = part(&tool, given.as_object().expect("object").clone());
        assert_eq!(Value::Object(own), json!({"time_period": "7d", "n": 1}));
        let mut output = ToolOutput { structured: r#"{"a":{"b":1}}"#.to_owned(), text: "x".to_owned() };
        ignored.report("t", &mut output);
        let structured: Value = serde_json::from_str(&output.structured).expect("JSON");
        assert_eq!(structured["a"], json!({"b": 1}));
        assert_eq!(structured["ignoredArguments"], json!(["N", "action", "sessionId"]));
        assert_eq!(structured["knownArguments"], json!(["n", "time_period"]));
        assert!(output.text.contains("ignored N, action, sessionId, which t does not have; it takes n, time_period"));
        let mut error = ToolError::new(Code::Validation, "n is missing");
        ignored.explain("t", &mut error);
        assert!(error.message.starts_with("n is missing; ignored N, action"), "{error}");

        let mut output = ToolOutput { structured: "{}".to_owned(), text: "x".to_owned() };
        Ignored::default().report("t", &mut output);
        assert_eq!((output.structured.as_str(), output.text.as_str()), ("{}", "x"));
        Ignored { names: vec!["q\"\n".to_owned()], known: Vec::new() }.report("t", &mut output);
        let structured: Value = serde_json::from_str(&output.structured).expect("JSON");
        assert_eq!(structured, json!({"ignoredArguments": ["q\"\n"], "knownArguments": []}));
        assert!(output.text.ends_with("it takes no arguments)"), "{}", output.text);
    }
}
