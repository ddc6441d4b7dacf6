//! The structural schema: types, required and unknown fields, bounds, patterns, unique keys.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::Value;
use storefence_tenancy::rules::SpecProblem;

use super::problem;

/// Adds every place where the document does not fit the schema.
pub fn check(document: &Value, schema: &Value, problems: &mut Vec<SpecProblem>) {
    let Some(fields) = document.as_object() else {
        problems.push(problem("(document)", "an object is expected".to_owned()));
        return;
    };
    for (name, value) in fields {
        match (name.as_str(), schema["properties"].get(name)) {
            // The server looks after these, and after a status that comes with a manifest.
            ("apiVersion" | "kind" | "metadata" | "status", _) => {}
            (_, Some(schema)) => Walk { problems }.value(name, value, schema),
            (_, None) => problems.push(problem(name, "unknown field".to_owned())),
        }
    }
    if !fields.contains_key("spec") {
        problems.push(problem("spec", "required value".to_owned()));
    }
}

struct Walk<'a> {
    problems: &'a mut Vec<SpecProblem>,
}

impl Walk<'_> {
    fn add(&mut self, path: &str, text: impl Into<String>) {
        self.problems.push(problem(path, text.into()));
    }

    fn value(&mut self, path: &str, value: &Value, schema: &Value) {
        let kind = schema["type"].as_str().unwrap_or_default();
        let fits = match kind {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            _ => true,
        };
        if !fits {
            let article = if ["a", "i", "o"].iter().any(|vowel| kind.starts_with(vowel)) { "an" } else { "a" };
            self.add(path, format!("{article} {kind} is expected, not {value}"));
            return;
        }
        if let Some(allowed) = schema["enum"].as_array().filter(|allowed| !allowed.contains(value)) {
            let allowed: Vec<String> = allowed.iter().map(|one| one.to_string().replace('"', "'")).collect();
            self.add(path, format!("{value} is not one of {}", allowed.join(", ")));
        }
        match value {
            Value::Object(fields) => {
                for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                    if !fields.contains_key(required) {
                        self.add(&format!("{path}.{required}"), "required value");
                    }
                }
                for (name, value) in fields {
                    let path = format!("{path}.{name}");
                    match schema["properties"].get(name) {
                        Some(schema) => self.value(&path, value, schema),
                        None => self.add(&path, "unknown field"),
                    }
                }
            }
            Value::Array(items) => self.list(path, items, schema),
            Value::String(text) => self.text(path, text, schema),
            Value::Number(number) => {
                let number = number.as_f64().unwrap_or_default();
                if schema["minimum"].as_f64().is_some_and(|min| number < min) {
                    self.add(path, format!("{value} is less than {}", schema["minimum"]));
                }
                if schema["maximum"].as_f64().is_some_and(|max| number > max) {
                    self.add(path, format!("{value} is more than {}", schema["maximum"]));
                }
            }
            Value::Bool(_) | Value::Null => {}
        }
    }

    fn list(&mut self, path: &str, items: &[Value], schema: &Value) {
        let count = u64::try_from(items.len()).unwrap_or(u64::MAX);
        if let Some(max) = schema["maxItems"].as_u64().filter(|max| count > *max) {
            self.add(path, format!("{count} entries, at most {max} are expected"));
        }
        if let Some(min) = schema["minItems"].as_u64().filter(|min| count < *min) {
            self.add(path, format!("{count} entries, at least {min} is expected"));
        }
        let keys: Vec<&str> =
            schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut seen = BTreeSet::new();
        for (i, item) in items.iter().enumerate() {
            let path = format!("{path}[{i}]");
            let identity = match schema["x-kubernetes-list-type"].as_str() {
                Some("set") => Some(item.to_string()),
                Some("map") => Some(keys.iter().map(|key| item[key].to_string()).collect::<Vec<_>>().join(", ")),
                _ => None,
            };
            if let Some(identity) = identity
                && !seen.insert(identity.clone())
            {
                self.add(&path, format!("{} stands twice", identity.replace('"', "'")));
            }
            self.value(&path, item, &schema["items"]);
        }
    }

    fn text(&mut self, path: &str, text: &str, schema: &Value) {
        let length = u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
        if let Some(max) = schema["maxLength"].as_u64().filter(|max| length > *max) {
            self.add(path, format!("{length} characters, at most {max} are possible"));
        }
        if let Some(min) = schema["minLength"].as_u64().filter(|min| length < *min) {
            self.add(path, format!("{length} characters, at least {min} is expected"));
        }
        // A handful of patterns that the schema repeats; compiling one takes longer than a thousand matches.
        let Some(pattern) = schema["pattern"].as_str() else { return };
        thread_local! {
            static PATTERNS: std::cell::RefCell<std::collections::HashMap<String, Option<Regex>>> =
                std::cell::RefCell::default();
        }
        let matches = PATTERNS.with_borrow_mut(|known| {
            let compiled = known.entry(pattern.to_owned()).or_insert_with(|| Regex::new(pattern).ok());
            compiled.as_ref().is_none_or(|pattern| pattern.is_match(text))
        });
        if !matches {
            self.add(path, format!("'{text}' should match {pattern}"));
        }
    }
}
