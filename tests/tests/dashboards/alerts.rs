//! Each alert fires when it should and not before: unit tests of promtool, made from `tests/dashboards/alerts.yaml`.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result, ensure};
use regex::Regex;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    prometheus::{program, promtool},
    render::{NAMESPACE, available, read},
    rules,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    alert: String,
    series: BTreeMap<String, String>,
    quiet: String,
    firing: String,
    #[serde(default)]
    value: String,
    /// Labels of the alert beside its own, from the series.
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// A series with the namespace among its labels.
fn placed(series: &str) -> String {
    let namespace = format!("namespace=\"{NAMESPACE}\"");
    match series.split_once('{') {
        Some((name, labels)) => format!("{name}{{{namespace}, {labels}"),
        None => format!("{series}{{{namespace}}}"),
    }
}

pub async fn fire_when_they_should() -> Result<()> {
    if !available() {
        return Ok(());
    }
    let Some(tool) = tokio::task::spawn_blocking(|| program("promtool")).await?? else { return Ok(()) };
    let rules = rules();
    let cases: Vec<Case> = serde_saphyr::from_str(&read("tests/dashboards/alerts.yaml"))?;
    let alerts: Vec<&Value> = rules["groups"]
        .as_array()
        .context("groups")?
        .iter()
        .flat_map(|group| group["rules"].as_array())
        .flatten()
        .collect();
    for alert in &alerts {
        let name = alert["alert"].as_str().context("an alert has a name")?;
        ensure!(cases.iter().any(|case| case.alert == name), "tests/dashboards/alerts.yaml says nothing of {name}");
    }
    let template = Regex::new(r"\{\{[^}]*\}\}")?;
    let mut tests = Vec::new();
    for case in &cases {
        let alert = alerts.iter().find(|alert| alert["alert"] == case.alert.as_str());
        let alert = alert.with_context(|| format!("the chart has no alert {}", case.alert))?;
        let words =
            |name: &str| template.replace_all(alert["annotations"][name].as_str().unwrap_or_default(), &case.value);
        let mut labels = alert["labels"].as_object().context("labels")?.clone();
        labels.extend(case.labels.iter().map(|(name, value)| (name.clone(), json!(value))));
        let series: Vec<Value> =
            case.series.iter().map(|(series, values)| json!({"series": placed(series), "values": values})).collect();
        let test =
            |time: &str, expected: Value| json!({"eval_time": time, "alertname": case.alert, "exp_alerts": expected});
        let fired = json!([{
            "exp_labels": labels,
            "exp_annotations": {"summary": words("summary"), "description": words("description")},
        }]);
        tests.push(json!({
            "name": case.alert, "interval": "1m", "input_series": series,
            "alert_rule_test": [test(&case.quiet, json!([])), test(&case.firing, fired)],
        }));
    }
    let directory = tempfile::tempdir()?;
    fs::write(directory.path().join("rules.yaml"), rules.to_string())?;
    let file = json!({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests});
    fs::write(directory.path().join("tests.yaml"), file.to_string())?;
    promtool(&tool, &["check", "rules", "rules.yaml"], &directory)?;
    promtool(&tool, &["test", "rules", "tests.yaml"], &directory)?;
    Ok(())
}
