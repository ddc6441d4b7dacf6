//! Whole numbers arrive as they were written. Helm reads a number as a floating-point one, and a template that prints it plainly
//! writes 2000000 as 2e+06, which neither Kubernetes nor the binaries take.

use regex::Regex;
use serde_json::{Value, json};

use crate::render::{available, merge, read, render, values};

/// The values that the schema calls integers, with the largest of them up to two million.
fn integers(schema: &Value, below: &Value, path: &str, found: &mut Vec<(String, u64)>) {
    if let Some(name) = below["$ref"].as_str().and_then(|link| link.strip_prefix("#/definitions/")) {
        return integers(schema, &schema["definitions"][name], path, found);
    }
    if below["type"] == "integer" {
        found.push((path.to_owned(), below["maximum"].as_u64().unwrap_or(u64::MAX).min(2_000_000)));
    }
    for choice in below["anyOf"].as_array().into_iter().flatten() {
        integers(schema, choice, path, found);
    }
    for (key, value) in below["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        integers(schema, value, &path, found);
    }
}

#[test]
fn large_numbers_are_written_in_full() {
    if !available() {
        return;
    }
    let schema: Value = serde_json::from_str(&read("charts/storefence/values.schema.json")).unwrap();
    let mut known = Vec::new();
    integers(&schema, &schema, "", &mut known);
    assert!(known.len() > 15 && known.contains(&("gateway.pool.maxCalls".to_owned(), 2_000_000)), "{known:?}");

    let everything = json!({
        "gateway": {
            "service": {"type": "NodePort"},
            "httpRoute": {"enabled": true, "parentRefs": [{"name": "public"}]},
            "autoscaling": {"enabled": true},
        },
    });
    let scaled = merge(&values("production"), &everything);
    let fixed = merge(&scaled, &json!({"gateway": {"autoscaling": {"enabled": false}}}));
    let base = |name: &str| match name {
        "gateway.replicas" => fixed.clone(),
        name if name.starts_with("devstack.") => values("devstack"),
        _ => scaled.clone(),
    };
    let sets: Vec<Value> = known
        .iter()
        .map(|(name, number)| {
            let value = name.split('.').rev().fold(json!(number), |value, key| json!({key: value}));
            let at_most = json!({"gateway": {"autoscaling": {"maxReplicas": 2_000_000}}});
            merge(&merge(&base(name), &at_most), &value)
        })
        .collect();
    let exponent = Regex::new(r"[0-9]e\+[0-9]").unwrap();
    for ((name, number), rendered) in known.iter().zip(render(&sets)) {
        let files = rendered.unwrap_or_else(|error| panic!("{name} = {number}: {error}"));
        // Dashboards are text that Grafana reads, and hold numbers of their own.
        let text: String =
            files.iter().filter(|(path, _)| !path.contains("dashboards")).map(|(_, text)| text.as_str()).collect();
        let line = text.lines().find(|line| exponent.is_match(line));
        assert!(line.is_none(), "{name} = {number}: {line:?}");
        assert!(text.contains(&number.to_string()), "{name} = {number} is not in what is rendered");
    }
}
