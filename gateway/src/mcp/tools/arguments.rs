//! Arguments of a tool, checked so that the answer names the field, the value and the allowed form.

use rmcp::model::JsonObject;
use serde_json::Value;

use super::{Code, ToolError};

/// The arguments of one call; none is unknown.
#[derive(Debug)]
pub struct Fields(JsonObject);

impl Fields {
    /// Takes the arguments, refusing any that is not in `allowed`. A `null` counts as left out.
    pub fn new(mut arguments: JsonObject, allowed: &[&str]) -> Result<Self, ToolError> {
        let expected = match allowed {
            [] => "there are no arguments".to_owned(),
            [one] => format!("the only argument is {one}"),
            more => format!("the arguments are {}", more.join(", ")),
        };
        if let Some((name, value)) = arguments.iter().find(|(name, _)| !allowed.contains(&name.as_str())) {
            let name: String = name.chars().take(64).collect();
            return Err(invalid(format!("unknown argument {name} (value {}); {expected}", shown(value))));
        }
        arguments.retain(|_, value| !value.is_null());
        Ok(Self(arguments))
    }

    /// A string; `form` says which ones are allowed.
    pub fn text(&mut self, field: &str, form: &str) -> Result<Option<String>, ToolError> {
        match self.0.remove(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(malformed(field, &other, form)),
        }
    }

    /// A string that must be there.
    pub fn required(&mut self, field: &str, form: &str) -> Result<String, ToolError> {
        self.text(field, form)?.ok_or_else(|| invalid(format!("{field} is missing; {form} is expected")))
    }

    /// One of a few words; the first one where it is left out.
    pub fn choice<T: Copy>(&mut self, field: &str, choices: &[(&str, T)]) -> Result<Option<T>, ToolError> {
        let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
        let form = format!("one of {}", words.join(", "));
        let Some(given) = self.text(field, &form)? else { return Ok(None) };
        let known = choices.iter().find(|(word, _)| *word == given).map(|(_, value)| *value);
        known.map(Some).ok_or_else(|| malformed(field, &Value::String(given), &form))
    }

    /// A whole number within bounds, or `default`.
    pub fn whole(&mut self, field: &str, bounds: (u32, u32), default: u32) -> Result<u32, ToolError> {
        let Some(value) = self.0.remove(field) else { return Ok(default) };
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok()).or_else(|| integral(&value));
        number
            .filter(|number| (bounds.0..=bounds.1).contains(number))
            .ok_or_else(|| malformed(field, &value, &format!("a whole number from {} to {}", bounds.0, bounds.1)))
    }

    /// An array of 1 to `most` strings.
    pub fn texts(&mut self, field: &str, most: usize) -> Result<Option<Vec<String>>, ToolError> {
        let Some(value) = self.0.remove(field) else { return Ok(None) };
        let items = value.as_array().filter(|items| (1..=most).contains(&items.len()));
        let texts = items.and_then(|items| items.iter().map(|item| item.as_str().map(str::to_owned)).collect());
        texts.map(Some).ok_or_else(|| malformed(field, &value, &format!("an array of 1 to {most} strings")))
    }
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

    use super::{Fields, ToolError};

    fn fields(value: Value, allowed: &[&str]) -> Result<Fields, ToolError> {
        Fields::new(value.as_object().expect("object").clone(), allowed)
    }

    #[test]
    fn problems_name_field_value_and_form() {
        let text = |value: Value| fields(value, &["q"])?.required("q", "a string");
        assert_eq!(text(json!({"q": "x"})).as_deref(), Ok("x"));
        for (arguments, words) in [
            (json!({}), ["q is missing", "a string"]),
            (json!({"q": null}), ["q is missing", "a string"]),
            (json!({"q": 7}), ["q is 7", "a string"]),
            (json!({"query": "x"}), ["unknown argument query", "the only argument is q"]),
            (json!({"q": "x", "limit": 5}), ["unknown argument limit (value 5)", "the only argument is q"]),
        ] {
            let error = text(arguments).expect_err("refused");
            assert!(words.iter().all(|word| error.message.contains(word)), "{error}");
        }
        assert!(fields(json!({"a": 1}), &[]).is_err_and(|error| error.message.contains("there are no arguments")));
    }

    #[test]
    fn numbers_words_and_lists() {
        let whole = |value: Value| fields(value, &["n"])?.whole("n", (1, 5), 3);
        assert_eq!((whole(json!({})), whole(json!({"n": 5}))), (Ok(3), Ok(5)));
        assert_eq!(whole(json!({"n": 4.0})), Ok(4));
        assert_eq!(fields(json!({"n": -0.0}), &["n"]).and_then(|mut fields| fields.whole("n", (0, 5), 3)), Ok(0));
        for bad in [
            json!(0),
            json!(6),
            json!(-1),
            json!(1.5),
            json!(6.0),
            json!(-1.0),
            json!(1e300),
            json!("2"),
            json!(4_294_967_297_u64),
        ] {
            let error = whole(json!({"n": bad})).expect_err("refused");
            assert_eq!(error.message, format!("n is {bad}; a whole number from 1 to 5 is expected"));
        }
        let choice = |value: Value| fields(value, &["k"])?.choice("k", &[("a", 1), ("b", 2)]);
        assert_eq!((choice(json!({"k": "b"})), choice(json!({}))), (Ok(Some(2)), Ok(None)));
        assert_eq!(choice(json!({"k": "c"})).expect_err("refused").message, "k is \"c\"; one of a, b is expected");
        let texts = |value: Value| fields(value, &["t"])?.texts("t", 2);
        assert_eq!(texts(json!({"t": ["x"]})), Ok(Some(vec!["x".to_owned()])));
        for bad in [json!([]), json!(["a", "b", "c"]), json!([1]), json!("a")] {
            assert!(texts(json!({"t": bad})).is_err_and(|error| error.message.contains("an array of 1 to 2 strings")));
        }
    }
}
