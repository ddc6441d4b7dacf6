//! Label and field selectors.

use serde_json::Value;

use super::{resource::Resource, status::ApiError};

/// Which objects a list or watch is about.
#[derive(Debug, Clone, Default)]
pub struct Selector {
    labels: Vec<LabelTerm>,
    fields: Vec<(String, String, bool)>,
}

#[derive(Debug, Clone)]
enum LabelTerm {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

impl Selector {
    /// Parses both query parameters.
    pub fn parse(labels: Option<&str>, fields: Option<&str>, resource: &Resource) -> Result<Self, ApiError> {
        let labels = match labels {
            Some(text) => split_terms(text).into_iter().map(label_term).collect::<Result<_, _>>()?,
            None => Vec::new(),
        };
        let fields = match fields {
            Some(text) => text
                .split(',')
                .map(str::trim)
                .filter(|t| !t.is_empty())
                .map(|term| field_term(term, resource))
                .collect::<Result<_, _>>()?,
            None => Vec::new(),
        };
        Ok(Self { labels, fields })
    }

    /// The name, if the selector asks for one.
    pub fn name(&self) -> Option<&str> {
        self.fields
            .iter()
            .find(|(path, _, equal)| path == "metadata.name" && *equal)
            .map(|(_, value, _)| value.as_str())
    }

    /// Whether an object is selected.
    pub fn matches(&self, object: &Value) -> bool {
        let labels = object.pointer("/metadata/labels");
        let label = |key: &str| labels.and_then(|l| l.get(key)).and_then(Value::as_str);
        self.labels.iter().all(|term| match term {
            LabelTerm::In(key, values) => label(key).is_some_and(|v| values.iter().any(|w| w == v)),
            LabelTerm::NotIn(key, values) => label(key).is_none_or(|v| values.iter().all(|w| w != v)),
            LabelTerm::Exists(key) => label(key).is_some(),
            LabelTerm::Absent(key) => label(key).is_none(),
        }) && self.fields.iter().all(|(path, value, equal)| (field(object, path) == *value) == *equal)
    }
}

fn field(object: &Value, path: &str) -> String {
    match object.pointer(&format!("/{}", path.replace('.', "/"))) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// Commas inside parentheses belong to the term.
fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms.into_iter().map(str::trim).filter(|t| !t.is_empty()).collect()
}

fn label_term(term: &str) -> Result<LabelTerm, ApiError> {
    let values = |list: &str| list.trim_matches(['(', ')']).split(',').map(|v| v.trim().to_owned()).collect();
    if let Some((key, list)) = term.split_once(" notin ") {
        return Ok(LabelTerm::NotIn(key.trim().into(), values(list.trim())));
    }
    if let Some((key, list)) = term.split_once(" in ") {
        return Ok(LabelTerm::In(key.trim().into(), values(list.trim())));
    }
    if let Some((key, value)) = term.split_once("!=") {
        return Ok(LabelTerm::NotIn(key.trim().into(), vec![value.trim().into()]));
    }
    if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return Ok(LabelTerm::In(key.trim().into(), vec![value.trim().into()]));
    }
    if let Some(key) = term.strip_prefix('!') {
        return Ok(LabelTerm::Absent(key.trim().into()));
    }
    if term.contains([' ', '(', ')']) {
        return Err(ApiError::bad_request(format!(
            "unable to parse requirement: found {term:?}, expected: in, notin, =, ==, !="
        )));
    }
    Ok(LabelTerm::Exists(term.into()))
}

const EVENT_FIELDS: [&str; 14] = [
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
    "regarding.name",
    "regarding.kind",
    "regarding.uid",
];

fn field_term(term: &str, resource: &Resource) -> Result<(String, String, bool), ApiError> {
    let (path, value, equal) = if let Some((path, value)) = term.split_once("!=") {
        (path, value, false)
    } else if let Some((path, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        (path, value, true)
    } else {
        return Err(ApiError::bad_request(format!("invalid selector: '{term}'; can't understand '{term}'")));
    };
    let known = match path {
        "metadata.name" => true,
        "metadata.namespace" => resource.namespaced,
        "type" if resource.is("", "Secret") => true,
        "status.phase" => matches!(resource.kind.as_str(), "Namespace" | "Pod"),
        "spec.nodeName" | "spec.serviceAccountName" => resource.is("", "Pod"),
        _ => resource.kind == "Event" && EVENT_FIELDS.contains(&path),
    };
    if !known {
        let message = if resource.crd.is_some() {
            format!("field label not supported: {path}")
        } else {
            format!(
                "Unable to find {:?} that match label selector \"\", field selector \"{term}\": field label not \
                 supported: {path}",
                resource.api_version()
            )
        };
        return Err(ApiError::bad_request(message));
    }
    // Events are stored in their core form.
    let path = path.replacen("regarding.", "involvedObject.", 1);
    Ok((path, value.to_owned(), equal))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{LabelTerm, label_term, split_terms};

    #[test]
    fn label_terms_are_told_apart() {
        assert_eq!(split_terms("a in (x,y),b!=c,!d, e"), ["a in (x,y)", "b!=c", "!d", "e"]);
        assert!(matches!(label_term("a in (x, y)"), Ok(LabelTerm::In(k, v)) if k == "a" && v == ["x", "y"]));
        assert!(matches!(label_term("e"), Ok(LabelTerm::Exists(k)) if k == "e"));
        let selector = super::Selector { labels: vec![label_term("a notin (x)").expect("term")], fields: vec![] };
        assert!(selector.matches(&json!({"metadata": {}})));
        assert!(!selector.matches(&json!({"metadata": {"labels": {"a": "x"}}})));
    }
}
