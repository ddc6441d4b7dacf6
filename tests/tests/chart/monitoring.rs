//! Alerts and dashboards ask for metrics and labels that the binaries have. What Prometheus makes of them, and what Grafana
//! asks of a dashboard, is the suite `dashboards`.

use std::{collections::BTreeSet, fs};

use regex::Regex;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    objects::of_kind,
    render::{available, chart, objects, read, values},
};

/// Names of metrics and labels as they stand in the binaries' sources.
fn known() -> (BTreeSet<String>, BTreeSet<String>) {
    let word = Regex::new(r#""([a-z_0-9]+)""#).unwrap();
    let prefixed = Regex::new(r#"name\(\s*"([a-z_0-9]+)""#).unwrap();
    let (gateway, operator) = (read("gateway/src/metrics.rs"), read("operator/src/metrics.rs"));
    let mut words: BTreeSet<String> = [&gateway, &operator]
        .iter()
        .flat_map(|text| word.captures_iter(text))
        .map(|found| found[1].to_owned())
        .collect();
    let labels = words.clone();
    words.extend(prefixed.captures_iter(&operator).map(|found| format!("storefence_operator_{}", &found[1])));
    // The collector of the prometheus crate.
    words.extend(
        [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_start_time_seconds",
            "process_open_fds",
        ]
        .map(str::to_owned),
    );
    (words, labels)
}

fn check(expression: &str, place: &str) {
    let (metrics, labels) = known();
    let metric = Regex::new(r"\b(?:storefence|mcp|process)_[a-z0-9_]+").unwrap();
    // Inside of quotes stand values, such as names of pods.
    let bare = Regex::new(r#""[^"]*""#).unwrap().replace_all(expression, "\"\"");
    let mut any = false;
    for found in metric.find_iter(&bare) {
        let rest = &bare[found.end()..];
        let is_label =
            rest.trim_start().starts_with(['=', '!']) || labels.contains(found.as_str()) && !rest.starts_with('{');
        if is_label {
            continue;
        }
        any = true;
        let name = ["_bucket", "_sum", "_count"].iter().find_map(|end| found.as_str().strip_suffix(end));
        assert!(
            metrics.contains(found.as_str()) || name.is_some_and(|name| metrics.contains(name)),
            "{place}: no metric {}",
            found.as_str()
        );
    }
    assert!(any, "{place}: no metric in {expression}");
    let label = Regex::new(r"([a-z_]+)\s*(?:=~|!=|!~|=)\s*\x22").unwrap();
    for found in label.captures_iter(&bare) {
        let name = &found[1];
        assert!(["namespace", "pod"].contains(&name) || labels.contains(name), "{place}: no label {name}");
    }
    assert_eq!(expression.matches('(').count(), expression.matches(')').count(), "{place}");
}

/// <https://prometheus-operator.dev/docs/api-reference/api/>, as far as the chart uses it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    #[serde(rename = "name")]
    _name: String,
    rules: Vec<Alert>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Alert {
    alert: String,
    expr: String,
    #[serde(rename = "for")]
    lasting: String,
    labels: Value,
    annotations: Value,
}

#[test]
fn alerts_ask_for_metrics_that_exist() {
    if !available() {
        return;
    }
    let objects = objects(&values("production"));
    let rules: Rules =
        serde_json::from_value(of_kind(&objects, "PrometheusRule").next().unwrap()["spec"].clone()).unwrap();
    let alerts: Vec<Alert> = rules.groups.into_iter().flat_map(|group| group.rules).collect();
    assert!(alerts.len() >= 10);
    for alert in alerts {
        check(&alert.expr, &alert.alert);
        assert!(alert.lasting.ends_with('m'), "{}", alert.alert);
        assert!(["warning", "critical"].contains(&alert.labels["severity"].as_str().unwrap()));
        for text in ["summary", "description"] {
            assert!(alert.annotations[text].as_str().is_some_and(|text| text.len() > 10), "{}", alert.alert);
        }
    }
}

#[test]
fn panels_ask_for_metrics_that_exist() {
    let mut uids = BTreeSet::new();
    for entry in fs::read_dir(chart().join("dashboards")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let dashboard: Value = serde_json::from_str(&text).unwrap();
        let title = dashboard["title"].as_str().unwrap();
        assert_eq!(dashboard["schemaVersion"], 39, "{title}");
        assert!(uids.insert(dashboard["uid"].as_str().unwrap().to_owned()), "{title}: uid twice");
        let (mut ids, mut queries) = (BTreeSet::new(), 0);
        for panel in dashboard["panels"].as_array().unwrap() {
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: panel id twice");
            let grid = &panel["gridPos"];
            assert!(grid["x"].as_u64().unwrap() + grid["w"].as_u64().unwrap() <= 24, "{title}: {panel}");
            for target in panel["targets"].as_array().into_iter().flatten() {
                queries += 1;
                check(target["expr"].as_str().unwrap(), &format!("{title}: {}", panel["title"]));
                assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            }
        }
        assert!(queries > 4, "{title}");
        // Helm's templates do not run over dashboards, so Grafana's own braces may stand there.
        assert!(text.contains("{{"), "{title}");
    }
    assert_eq!(uids.len(), 4);
}

#[test]
fn dashboards_reach_grafana_as_they_stand() {
    if !available() {
        return;
    }
    let objects = objects(&values("production"));
    let mut found = 0;
    for config in
        of_kind(&objects, "ConfigMap").filter(|object| object["metadata"]["labels"]["grafana_dashboard"] == "1")
    {
        for (name, text) in config["data"].as_object().unwrap() {
            let file = chart().join("dashboards").join(name.strip_prefix("storefence-").unwrap());
            let rendered: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
            let present: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
            assert_eq!(rendered, present);
            found += 1;
        }
    }
    assert_eq!(found, 4);
}
