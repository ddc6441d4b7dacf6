//! `Table` answers: what `kubectl get` prints.

use serde_json::{Value, json};

use super::{
    jsonpath,
    resource::{Column, Resource},
    write::meta,
};

/// What each row carries besides its cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    Metadata,
    Object,
}

/// The columns of a kind.
pub fn columns(resource: &Resource) -> Vec<Value> {
    let name = column("Name", "string", "name", "Name must be unique within a namespace.", 0);
    if resource.crd.is_some() {
        let own = resource.columns.iter().map(|c| column(&c.name, &c.kind, &c.format, &c.description, c.priority));
        return std::iter::once(name).chain(own).collect();
    }
    let built_in: &[(&str, &str, i64)] = match resource.kind.as_str() {
        "Event" => {
            return [
                ("Last Seen", 0),
                ("Type", 0),
                ("Reason", 0),
                ("Object", 0),
                ("Source", 1),
                ("Message", 0),
                ("Count", 1),
                ("Name", 1),
            ]
            .iter()
            .map(|(name, priority)| column(name, "string", "", "", *priority))
            .collect();
        }
        "Namespace" => &[("Status", "string", 0), ("Age", "string", 0)],
        "Secret" => &[("Type", "string", 0), ("Data", "string", 0), ("Age", "string", 0)],
        "ConfigMap" => &[("Data", "string", 0), ("Age", "string", 0)],
        "ServiceAccount" => &[("Secrets", "string", 0), ("Age", "string", 0)],
        "Lease" => &[("Holder", "string", 0), ("Age", "string", 0)],
        "Deployment" => &[
            ("Ready", "string", 0),
            ("Up-to-date", "integer", 0),
            ("Available", "integer", 0),
            ("Age", "string", 0),
            ("Containers", "string", 1),
            ("Images", "string", 1),
        ],
        "Service" => &[
            ("Type", "string", 0),
            ("Cluster-IP", "string", 0),
            ("External-IP", "string", 0),
            ("Port(s)", "string", 0),
            ("Age", "string", 0),
        ],
        "Pod" => &[("Ready", "string", 0), ("Status", "string", 0), ("Restarts", "string", 0), ("Age", "string", 0)],
        "CustomResourceDefinition" => &[("Created At", "date", 0)],
        _ => &[("Age", "string", 0)],
    };
    std::iter::once(name)
        .chain(built_in.iter().map(|(name, kind, priority)| column(name, kind, "", "", *priority)))
        .collect()
}

fn column(name: &str, kind: &str, format: &str, description: &str, priority: i64) -> Value {
    json!({"name": name, "type": kind, "format": format, "description": description, "priority": priority})
}

pub fn row(resource: &Resource, object: &Value, include: Include) -> Value {
    let mut row = json!({"cells": cells(resource, object)});
    match include {
        Include::None => {}
        Include::Metadata => row["object"] = partial(object),
        Include::Object => row["object"] = object.clone(),
    }
    row
}

/// `PartialObjectMetadata`
pub fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object.get("metadata")})
}

fn cells(resource: &Resource, object: &Value) -> Vec<Value> {
    let name = json!(meta(object, "name"));
    if resource.crd.is_some() {
        return std::iter::once(name).chain(resource.columns.iter().map(|c| custom_cell(c, object))).collect();
    }
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or("<none>").to_owned();
    let count = |name: &str| object.get(name).and_then(Value::as_object).map_or(0, serde_json::Map::len);
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or_default();
    let age = json!(age(meta(object, "creationTimestamp")));
    match resource.kind.as_str() {
        "Event" => event_cells(object),
        "Namespace" => vec![name, json!(text("/status/phase")), age],
        "Secret" => vec![name, json!(text("/type")), json!(count("data")), age],
        "ConfigMap" => vec![name, json!(count("data") + count("binaryData")), age],
        "ServiceAccount" => vec![name, json!(object["secrets"].as_array().map_or(0, Vec::len)), age],
        "Lease" => {
            vec![name, json!(object.pointer("/spec/holderIdentity").and_then(Value::as_str).unwrap_or_default()), age]
        }
        "Deployment" => {
            let containers =
                object.pointer("/spec/template/spec/containers").and_then(Value::as_array).cloned().unwrap_or_default();
            let join = |field: &str| containers.iter().filter_map(|c| c[field].as_str()).collect::<Vec<_>>().join(",");
            vec![
                name,
                json!(format!("{}/{}", number("/status/readyReplicas"), number("/spec/replicas"))),
                json!(number("/status/updatedReplicas")),
                json!(number("/status/availableReplicas")),
                age,
                json!(join("name")),
                json!(join("image")),
            ]
        }
        "Service" => {
            let ports: Vec<String> = object
                .pointer("/spec/ports")
                .and_then(Value::as_array)
                .map(|ports| {
                    ports.iter().map(|p| format!("{}/{}", p["port"], p["protocol"].as_str().unwrap_or("TCP"))).collect()
                })
                .unwrap_or_default();
            vec![
                name,
                json!(text("/spec/type")),
                json!(text("/spec/clusterIP")),
                json!("<none>"),
                json!(ports.join(",")),
                age,
            ]
        }
        "Pod" => vec![name, json!("0/1"), json!(text("/status/phase")), json!("0"), age],
        "CustomResourceDefinition" => vec![name, json!(meta(object, "creationTimestamp"))],
        _ => vec![name, age],
    }
}

fn event_cells(event: &Value) -> Vec<Value> {
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let seen = ["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"]
        .into_iter()
        .map(text)
        .find(|t| !t.is_empty())
        .unwrap_or_default();
    let count = event.pointer("/series/count").or_else(|| event.get("count")).and_then(Value::as_i64).unwrap_or(1);
    let source =
        if text("/source/component").is_empty() { text("/reportingComponent") } else { text("/source/component") };
    vec![
        json!(age(seen)),
        json!(text("/type")),
        json!(text("/reason")),
        json!(format!("{}/{}", text("/involvedObject/kind").to_lowercase(), text("/involvedObject/name"))),
        json!(source),
        json!(text("/message").trim()),
        json!(count.to_string()),
        json!(meta(event, "name")),
    ]
}

fn custom_cell(column: &Column, object: &Value) -> Value {
    let found = jsonpath::find(object, &column.json_path);
    let Some(first) = found.first() else { return Value::Null };
    match (column.kind.as_str(), first) {
        (_, Value::Null) => Value::Null,
        ("date", Value::String(time)) => json!(age(time)),
        ("integer", Value::Number(n)) => json!(n.as_i64().unwrap_or_else(|| n.as_f64().unwrap_or_default() as i64)),
        ("number" | "boolean", value) => (*value).clone(),
        ("string", Value::String(text)) => json!(text),
        ("string", _) => {
            let texts: Vec<String> =
                found.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect();
            json!(texts.join(" "))
        }
        _ => Value::Null,
    }
}

/// The time since a timestamp, as kubectl shortens it.
fn age(since: &str) -> String {
    let Ok(then) = since.parse::<jiff::Timestamp>() else { return "<unknown>".into() };
    human(jiff::Timestamp::now().as_second() - then.as_second())
}

/// `k8s.io/apimachinery/pkg/util/duration.HumanDuration`
fn human(seconds: i64) -> String {
    let two = |big: i64, unit: char, small: i64, small_unit: char| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{small_unit}") }
    };
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        i64::MIN..-1 => "<invalid>".into(),
        -1..0 => "0s".into(),
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, 'm', seconds % 60, 's'),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, 'h', minutes % 60, 'm'),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, 'd', hours % 24, 'h'),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => two(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::human;

    #[test]
    fn ages_read_as_in_kubectl() {
        let all: Vec<String> =
            [-5, 0, 119, 121, 600, 10_800, 10_861, 86_400, 172_800, 900_000, 63_072_000].map(human).into();
        assert_eq!(all, ["<invalid>", "0s", "119s", "2m1s", "10m", "3h", "3h1m", "24h", "2d", "10d", "2y"]);
    }
}
