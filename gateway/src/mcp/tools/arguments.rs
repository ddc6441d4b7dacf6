//! Arguments of a tool, checked so that the answer names the field, the value and the allowed form.

use rmcp::model::JsonObject;
use serde_json::Value;

use super::{Code, ToolError};

/// Takes the string argument `field`, which must be the only one.
pub fn only_text(mut arguments: JsonObject, field: &str) -> Result<String, ToolError> {
    let value = arguments.remove(field);
    none_of(&arguments, &format!("the only argument is {field}"))?;
    match value {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(invalid(format!("{field} is {}; a string is expected", shown(&other)))),
        None => Err(invalid(format!("{field} is missing; a string is expected"))),
    }
}

/// Refuses any argument.
pub fn none_of(arguments: &JsonObject, expected: &str) -> Result<(), ToolError> {
    match arguments.iter().next() {
        None => Ok(()),
        Some((name, value)) => {
            let name: String = name.chars().take(64).collect();
            Err(invalid(format!("unknown argument {name} (value {}); {expected}", shown(value))))
        }
    }
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

    use super::{none_of, only_text};

    #[test]
    fn problems_name_field_value_and_form() {
        let object = |value: Value| value.as_object().expect("object").clone();
        assert_eq!(only_text(object(json!({"q": "x"})), "q").as_deref(), Ok("x"));
        for (arguments, words) in [
            (json!({}), ["q is missing", "a string"]),
            (json!({"q": 7}), ["q is 7", "a string"]),
            (json!({"query": "x"}), ["unknown argument query", "the only argument is q"]),
            (json!({"q": "x", "limit": 5}), ["unknown argument limit (value 5)", "the only argument is q"]),
        ] {
            let error = only_text(object(arguments), "q").expect_err("refused");
            assert!(words.iter().all(|word| error.message.contains(word)), "{error}");
        }
        assert!(none_of(&object(json!({})), "there are no arguments").is_ok());
    }
}
