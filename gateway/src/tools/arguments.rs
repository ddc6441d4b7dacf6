//! Arguments of a tool: taken as models write them, and checked so that an error names the field, the value and the allowed form.

use rmcp::model::{JsonObject, Tool as Definition};
use serde_json::{Value, json};

use super::{Code, ToolError, ToolOutput};

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
    pub fn tell(&self, tool: &str, output: &mut ToolOutput) {
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

/// The tool's own arguments of one call, read as liberally as they can be understood.
#[derive(Debug)]
pub struct Fields(JsonObject);

impl Fields {
    /// Takes the arguments.
    pub const fn new(arguments: JsonObject) -> Self {
        Self(arguments)
    }

    /// The value of a field. What means "nothing" is left out: null, and what models write for it.
    fn take(&mut self, field: &str) -> Option<Value> {
        let value = self.0.remove(field)?;
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

    /// A string; `form` says which ones are allowed.
    pub fn text(&mut self, field: &str, form: &str) -> Result<Option<String>, ToolError> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(Value::Array(mut items)) if matches!(items.as_slice(), [Value::String(_)]) => {
                Ok(items.pop().and_then(|item| item.as_str().map(str::to_owned)))
            }
            Some(other) => Err(malformed(field, &other, form)),
        }
    }

    /// A string that must be there.
    pub fn required(&mut self, field: &str, form: &str) -> Result<String, ToolError> {
        self.text(field, form)?.ok_or_else(|| invalid(format!("{field} is missing; {form} is expected")))
    }

    /// One of a few words, in any case and with any separator.
    pub fn choice<T: Copy>(&mut self, field: &str, choices: &[(&str, T)]) -> Result<Option<T>, ToolError> {
        let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
        let form = format!("one of {}", words.join(", "));
        let Some(given) = self.text(field, &form)? else { return Ok(None) };
        let plain = given.trim().to_lowercase().replace([' ', '-'], "_");
        let known = choices.iter().find(|(word, _)| *word == plain).map(|(_, value)| *value);
        known.map(Some).ok_or_else(|| malformed(field, &Value::String(given), &form))
    }

    /// A whole number within bounds, or `default`. `"5"` is one, too.
    pub fn whole(&mut self, field: &str, bounds: (u32, u32), default: u32) -> Result<u32, ToolError> {
        let Some(value) = self.take(field) else { return Ok(default) };
        let read = value.as_str().and_then(|text| serde_json::from_str(text.trim()).ok()).filter(Value::is_number);
        let number = read.as_ref().unwrap_or(&value);
        let number = number.as_u64().and_then(|number| u32::try_from(number).ok()).or_else(|| integral(number));
        number
            .filter(|number| (bounds.0..=bounds.1).contains(number))
            .ok_or_else(|| malformed(field, &value, &format!("a whole number from {} to {}", bounds.0, bounds.1)))
    }

    /// An array of 1 to `most` strings; also as a text that holds one, or with commas between.
    pub fn texts(&mut self, field: &str, most: usize) -> Result<Option<Vec<String>>, ToolError> {
        let Some(value) = self.take(field) else { return Ok(None) };
        let texts: Option<Vec<String>> = match &value {
            Value::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
            Value::String(text) => Some(written(text)),
            _ => None,
        };
        let texts = texts.map(|texts| {
            texts.iter().map(|text| text.trim()).filter(|text| !text.is_empty()).map(str::to_owned).collect()
        });
        let texts: Option<Vec<String>> = texts.filter(|texts: &Vec<String>| (1..=most).contains(&texts.len()));
        texts.map(Some).ok_or_else(|| malformed(field, &value, &format!("an array of 1 to {most} strings")))
    }
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
    use serde_json::{Value, json};

    use super::{Fields, Ignored, ToolError, ToolOutput, part};
    use crate::tools::{Code, definition, fields as schema, kind};

    fn fields(value: Value) -> Fields {
        Fields::new(value.as_object().expect("object").clone())
    }

    #[test]
    fn problems_name_field_value_and_form() {
        let text = |value: Value| fields(value).required("q", "a string");
        assert_eq!(text(json!({"q": "x"})).as_deref(), Ok("x"));
        assert_eq!(text(json!({"q": ["x"]})).as_deref(), Ok("x"));
        for (arguments, words) in [
            (json!({}), ["q is missing", "a string"]),
            (json!({"q": null}), ["q is missing", "a string"]),
            (json!({"q": 7}), ["q is 7", "a string"]),
            (json!({"q": ["x", "y"]}), ["q is [", "a string"]),
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
            let mut given = fields(json!({"a": nothing, "b": nothing, "c": nothing, "d": nothing}));
            assert_eq!(given.text("a", "a string"), Ok(None), "{nothing}");
            assert_eq!(given.whole("b", (1, 5), 3), Ok(3), "{nothing}");
            assert_eq!(given.texts("c", 5), Ok(None), "{nothing}");
            assert_eq!(given.choice("d", &[("a", 1)]), Ok(None), "{nothing}");
        }
    }

    #[test]
    fn numbers_words_and_lists() {
        let whole = |value: Value| fields(value).whole("n", (1, 5), 3);
        assert_eq!((whole(json!({})), whole(json!({"n": 5}))), (Ok(3), Ok(5)));
        assert_eq!(fields(json!({"n": -0.0})).whole("n", (0, 5), 3), Ok(0));
        for four in [json!(4.0), json!("4"), json!(" 4 "), json!("4.0")] {
            assert_eq!(whole(json!({"n": four})), Ok(4), "{four}");
        }
        for bad in [
            json!(0),
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
            let error = whole(json!({"n": bad})).expect_err("refused");
            assert_eq!(error.message, format!("n is {bad}; a whole number from 1 to 5 is expected"));
        }
        let choice = |value: Value| fields(value).choice("k", &[("a", 1), ("b_c", 2)]);
        for b in ["b_c", "B_C", "b c", "B-c", " b_c "] {
            assert_eq!(choice(json!({"k": b})), Ok(Some(2)), "{b}");
        }
        assert_eq!(choice(json!({})), Ok(None));
        assert_eq!(choice(json!({"k": "c"})).expect_err("refused").message, "k is \"c\"; one of a, b_c is expected");
        let texts = |value: Value| fields(json!({"t": value})).texts("t", 2);
        for one in [json!(["x"]), json!("x"), json!("[\"x\"]"), json!("['x']"), json!("x,"), json!([" x "])] {
            assert_eq!(texts(one.clone()), Ok(Some(vec!["x".to_owned()])), "{one}");
        }
        assert_eq!(texts(json!("x, y")), Ok(Some(vec!["x".to_owned(), "y".to_owned()])));
        for bad in [json!(["a", "b", "c"]), json!([1]), json!(7), json!("a,b,c"), json!([""])] {
            assert!(texts(bad).is_err_and(|error| error.message.contains("an array of 1 to 2 strings")));
        }
    }

    #[test]
    fn what_a_tool_does_not_have_is_named_and_fails_nothing() {
        let tool =
            definition("t", "T", "", schema([("time_period", kind("string")), ("n", kind("integer"))]), schema([]));
        let given = json!({"timePeriod": "7d", "n": 1, "N": 2, "sessionId": "s", "action": null});
        let (own, ignored) = part(&tool, given.as_object().expect("object").clone());
        assert_eq!(Value::Object(own), json!({"time_period": "7d", "n": 1}));
        let mut output = ToolOutput { structured: r#"{"a":{"b":1}}"#.to_owned(), text: "x".to_owned() };
        ignored.tell("t", &mut output);
        let structured: Value = serde_json::from_str(&output.structured).expect("JSON");
        assert_eq!(structured["a"], json!({"b": 1}));
        assert_eq!(structured["ignoredArguments"], json!(["N", "action", "sessionId"]));
        assert_eq!(structured["knownArguments"], json!(["n", "time_period"]));
        assert!(output.text.contains("ignored N, action, sessionId, which t does not have; it takes n, time_period"));
        let mut error = ToolError::new(Code::Validation, "n is missing");
        ignored.explain("t", &mut error);
        assert!(error.message.starts_with("n is missing; ignored N, action"), "{error}");

        let mut output = ToolOutput { structured: "{}".to_owned(), text: "x".to_owned() };
        Ignored::default().tell("t", &mut output);
        assert_eq!((output.structured.as_str(), output.text.as_str()), ("{}", "x"));
        Ignored { names: vec!["q\"\n".to_owned()], known: Vec::new() }.tell("t", &mut output);
        let structured: Value = serde_json::from_str(&output.structured).expect("JSON");
        assert_eq!(structured, json!({"ignoredArguments": ["q\"\n"], "knownArguments": []}));
        assert!(output.text.ends_with("it takes no arguments)"), "{}", output.text);
    }
}
