//! Every panel's query in a Prometheus that has scraped the stack under load, and Grafana's idea of a dashboard.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    load,
    prometheus::{Prometheus, program},
    render::{NAMESPACE, available, chart, read},
    rules,
};
use storefence_tests::Shared;

/// Panels that show zero while nothing is wrong. All others must show more than that after the load.
const AT_REST: [(&str, &str); 27] = [
    // Whole seconds are counted, and the load is short.
    ("Gateway", "CPU"),
    ("Operator", "CPU"),
    ("Gateway", "Under way"),
    ("Gateway", "Clients shed"),
    ("Gateway", "Replicas that do not share"),
    ("Gateway", "Operations on Redis"),
    ("Gateway", "Questions embedded"),
    ("Gateway", "Batches of spans"),
    ("Gateway", "Certificate: time left"),
    ("Gateway", "TLS handshakes"),
    ("Gateway", "Audit lines that could not be written"),
    ("Operator", "Not ready"),
    ("Operator", "Passes running"),
    ("Operator", "Passes due"),
    ("Operator", "Circuits open"),
    ("Operator", "Circuits"),
    ("Operator", "What stands in the way"),
    ("Operator", "Drift"),
    ("Operator", "Rotation overdue"),
    ("Operator", "Configuration on disk refused"),
    ("Operator", "Configurations read"),
    ("Fence", "Tenants with a deviating fence"),
    ("Fence", "Deviations by reason"),
    ("Fence", "Passes that found a deviation or a login that does what it should not"),
    ("Fence", "Drift of databases and vaults"),
    // The load brings statements that the tools refuse; the check of a store outside of the scope is the tools' own suite.
    ("Fence", "Steps to mend databases"),
    ("Identity", "Age of the oldest key set"),
];

/// The types of panel that the dashboards use; all come with Grafana.
const KINDS: [&str; 3] = ["row", "stat", "timeseries"];

fn dashboards() -> Result<Vec<Value>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(chart().join("dashboards"))? {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        found.push(serde_json::from_str(&text).with_context(|| path.display().to_string())?);
    }
    found.sort_by_key(|dashboard: &Value| dashboard["uid"].to_string());
    Ok(found)
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text<'a>(value: &'a Value, name: &str) -> Result<&'a str> {
    value[name].as_str().filter(|text| !text.is_empty()).with_context(|| format!("no {name}: {value}"))
}

/// What Grafana's dashboard schema of version 39 asks of the members that the dashboards use:
/// <https://github.com/grafana/grafana/blob/v10.4.0/kinds/dashboard/dashboard_kind.cue>.
pub async fn schema() -> Result<()> {
    let dashboards = dashboards()?;
    let (mut uids, mut titles) = (BTreeSet::new(), BTreeSet::new());
    for dashboard in &dashboards {
        let title = text(dashboard, "title")?;
        ensure!(titles.insert(title) && uids.insert(text(dashboard, "uid")?), "{title} is there twice");
        ensure!(text(dashboard, "uid")?.len() <= 40, "{title}: Grafana takes 40 characters of a uid");
        ensure!(dashboard["schemaVersion"] == 39 && dashboard["id"].is_null(), "{title}");
        let variables: Vec<&str> =
            list(&dashboard["templating"], "list").iter().filter_map(|variable| variable["name"].as_str()).collect();
        ensure!(variables == ["datasource", "namespace"], "{title}: {variables:?}");
        let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
        for panel in list(dashboard, "panels") {
            let name = format!("{title}: {}", text(panel, "title")?);
            ensure!(ids.insert(panel["id"].as_u64().context("id")?), "{name}: its id is there twice");
            let kind = text(panel, "type")?;
            ensure!(KINDS.contains(&kind), "{name}: {kind}");
            let grid: Vec<u64> =
                ["x", "y", "w", "h"].iter().filter_map(|side| panel["gridPos"][side].as_u64()).collect();
            let [x, y, w, h] = grid[..] else { anyhow::bail!("{name}: gridPos") };
            ensure!(w > 0 && h > 0 && x + w <= 24, "{name}: {grid:?}");
            for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                ensure!(taken.insert(cell), "{name} lies on another panel");
            }
            if kind == "row" {
                ensure!(panel["collapsed"] == false && list(panel, "panels").is_empty(), "{name}");
                continue;
            }
            ensure!(
                panel["datasource"]["uid"] == "${datasource}" && panel["datasource"]["type"] == "prometheus",
                "{name}"
            );
            ensure!(panel["fieldConfig"]["defaults"]["unit"].is_string() && panel["options"].is_object(), "{name}");
            let mut references = BTreeSet::new();
            for target in list(panel, "targets") {
                ensure!(references.insert(text(target, "refId")?), "{name}: a refId is there twice");
                ensure!(target["datasource"] == panel["datasource"], "{name}");
                ensure!(text(target, "expr")?.contains(r#"namespace=~"$namespace""#), "{name}: not of one namespace");
            }
            ensure!(!references.is_empty(), "{name}: no query");
        }
    }
    ensure!(titles.len() == 4, "{titles:?}");
    Ok(())
}

/// docs/monitoring.md describes every alert and every dashboard.
pub async fn page() -> Result<()> {
    if !available() {
        return Ok(());
    }
    let page = read("docs/monitoring.md");
    for group in list(&rules(), "groups") {
        for rule in list(group, "rules") {
            let (name, severity) = (text(rule, "alert")?, text(&rule["labels"], "severity")?);
            let line = page.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
            let line = line.with_context(|| format!("docs/monitoring.md says nothing of {name}"))?;
            ensure!(line.contains(&format!("| {severity} |")), "{name} is {severity}");
        }
    }
    for dashboard in dashboards()? {
        let title = text(&dashboard, "title")?;
        ensure!(page.contains(&format!("**{title}**")), "docs/monitoring.md says nothing of {title}");
        for row in list(&dashboard, "panels").iter().filter(|panel| panel["type"] == "row") {
            let name = text(row, "title")?.to_lowercase();
            ensure!(page.to_lowercase().contains(&name), "docs/monitoring.md says nothing of {title}: {name}");
        }
    }
    Ok(())
}

/// The load, then every panel and every alert.
pub async fn answer_in_prometheus(shared: &Shared) -> Result<()> {
    if !available() {
        return Ok(());
    }
    let Some(program) = tokio::task::spawn_blocking(|| program("prometheus")).await?? else { return Ok(()) };
    let rules = rules();
    let prometheus = Prometheus::start(&program, shared.stack.facts(), &rules).await?;
    // A rate needs a sample from before.
    prometheus.scraped(3).await?;
    load::everything(shared).await?;
    prometheus.scraped(4).await?;

    let mut wrong = Vec::new();
    let mut panels = 0;
    for dashboard in dashboards()? {
        for panel in list(&dashboard, "panels") {
            let title = text(&dashboard, "title")?;
            let name = (title.trim_start_matches("Storefence / "), text(panel, "title")?);
            for target in list(panel, "targets") {
                panels += 1;
                let expression =
                    text(target, "expr")?.replace("$__rate_interval", "2m").replace("$namespace", NAMESPACE);
                let found = prometheus.query(&expression).await?;
                let most = found.iter().map(|(_, value)| *value).fold(f64::NEG_INFINITY, f64::max);
                if found.is_empty() || (most <= 0.0 && !AT_REST.contains(&name)) {
                    wrong.push(format!("{} / {}: {expression}: {found:?}", name.0, name.1));
                }
            }
        }
    }
    ensure!(panels > 40, "{panels}");
    ensure!(wrong.is_empty(), "no data, or nothing but zero after the load: {wrong:#?}");

    let evaluated = prometheus.rules().await?;
    let named = |rule: &Value| rule["name"].as_str().unwrap_or_default().to_owned();
    ensure!(
        evaluated.len()
            == rules["groups"].as_array().map_or(0, |groups| groups.iter().map(|g| list(g, "rules").len()).sum())
    );
    for rule in &evaluated {
        ensure!(rule["health"] == "ok", "{}: {} {}", named(rule), rule["health"], rule["lastError"]);
        // The load is over too soon for alerts that wait; those that do not wait must not fire on a stack that is well.
        ensure!(rule["state"] != "firing", "{} fires", named(rule));
    }
    // What an alert compares is there to be compared. Of what never happened there are no series: then of its opposite.
    for rule in &evaluated {
        let name = named(rule);
        let left = text(rule, "query")?.split(" and ").next().unwrap_or_default();
        let left = left.rsplit_once([' ']).map_or(left, |(left, _)| left.trim_end_matches(['<', '>', ' ']));
        let left = left
            .replace(r#"status="false""#, r#"status="true""#)
            .replace(r#"outcome="throttled""#, r#"outcome="ok""#)
            .replace("} > 0", "}");
        // absent() is empty as long as something is there.
        let expected = !left.starts_with("absent(");
        ensure!(prometheus.query(&left).await?.is_empty() != expected, "{name}: {left}");
    }
    Ok(())
}
