//! The part of kubectl's JSONPath that printer columns use: fields, indexes, `[*]` and `[?(@.a=="b")]`.

use serde_json::Value;

#[derive(Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    Filter { path: Vec<Step>, equal: bool, value: Option<Value> },
}

/// The values that a path leads to; empty for a path that cannot be read.
pub fn find<'a>(object: &'a Value, path: &str) -> Vec<&'a Value> {
    let Some(steps) = parse(path.trim().trim_start_matches('{').trim_end_matches('}').trim_start_matches('$')) else {
        return Vec::new();
    };
    follow(vec![object], &steps)
}

fn follow<'a>(mut found: Vec<&'a Value>, steps: &[Step]) -> Vec<&'a Value> {
    for step in steps {
        found = found.into_iter().flat_map(|value| take(value, step)).collect();
    }
    found
}

fn take<'a>(value: &'a Value, step: &Step) -> Vec<&'a Value> {
    match step {
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::Index(index) => {
            let Some(list) = value.as_array() else { return Vec::new() };
            let at = if *index < 0 { list.len() as i64 + index } else { *index };
            usize::try_from(at).ok().and_then(|i| list.get(i)).into_iter().collect()
        }
        Step::All => match value {
            Value::Array(list) => list.iter().collect(),
            Value::Object(map) => map.values().collect(),
            _ => Vec::new(),
        },
        Step::Filter { path, equal, value: wanted } => {
            let Some(list) = value.as_array() else { return Vec::new() };
            let keeps = |item: &&Value| {
                let found = follow(vec![item], path);
                match wanted {
                    None => !found.is_empty(),
                    Some(wanted) => found.contains(&wanted) == *equal,
                }
            };
            list.iter().filter(keeps).collect()
        }
    }
}

fn parse(text: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('[') {
            let end = closing(after)?;
            steps.push(bracket(after[..end].trim())?);
            rest = &after[end + 1..];
        } else {
            let after = rest.strip_prefix('.').unwrap_or(rest);
            let mut name = String::new();
            let mut chars = after.char_indices();
            let mut end = after.len();
            while let Some((at, c)) = chars.next() {
                match c {
                    // `\.` is a dot in a name.
                    '\\' => name.extend(chars.next().map(|(_, c)| c)),
                    '.' | '[' => {
                        end = at;
                        break;
                    }
                    c => name.push(c),
                }
            }
            match name.as_str() {
                "" => {}
                "*" => steps.push(Step::All),
                _ => steps.push(Step::Field(name)),
            }
            if end == 0 && !rest.starts_with('.') {
                return None;
            }
            rest = &after[end..];
        }
    }
    Some(steps)
}

fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn bracket(text: &str) -> Option<Step> {
    if text == "*" {
        return Some(Step::All);
    }
    if let Some(filter) = text.strip_prefix("?(").and_then(|t| t.strip_suffix(')')) {
        let (left, equal, right) = match (filter.split_once("=="), filter.split_once("!=")) {
            (Some((left, right)), _) => (left, true, Some(right)),
            (None, Some((left, right))) => (left, false, Some(right)),
            (None, None) => (filter, true, None),
        };
        let path = parse(left.trim().strip_prefix('@')?)?;
        return Some(Step::Filter { path, equal, value: right.map(|r| literal(r.trim())) });
    }
    if let Some(name) = text.strip_prefix(['\'', '"']).and_then(|t| t.strip_suffix(['\'', '"'])) {
        return Some(Step::Field(name.to_owned()));
    }
    text.parse().ok().map(Step::Index)
}

fn literal(text: &str) -> Value {
    match text.strip_prefix('\'').and_then(|t| t.strip_suffix('\'')) {
        Some(text) => Value::String(text.to_owned()),
        None => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::find;

    #[test]
    fn printer_columns_find_their_values() {
        let object = json!({
            "metadata": {"annotations": {"a.b/c": "x"}},
            "status": {"n": 3, "conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]},
            "spec": {"stores": [{"name": "a"}, {"name": "b"}]},
        });
        let one = |path: &str| find(&object, path).first().map(|v| (*v).clone());
        assert_eq!(one(".status.conditions[?(@.type==\"Ready\")].status"), Some(json!("True")));
        assert_eq!(one(".status.conditions[?(@.type=='Other')].status"), Some(json!("False")));
        assert_eq!(one(".status.n"), Some(json!(3)));
        assert_eq!(one(".spec.stores[1].name"), Some(json!("b")));
        assert_eq!(one(".metadata.annotations['a.b/c']"), Some(json!("x")));
        assert_eq!(one(".metadata.annotations.a\\.b/c"), Some(json!("x")));
        assert_eq!(find(&object, ".spec.stores[*].name").len(), 2);
        assert!(find(&object, ".spec.absent.deeper").is_empty());
    }
}
