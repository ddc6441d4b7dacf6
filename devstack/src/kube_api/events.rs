//! `events.k8s.io/v1` is another view of the core events: the same objects under other field names.

use serde_json::{Value, json};

/// `(events.k8s.io, core)`
const NAMES: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// From the newer view to the stored one. Also fits merge patches, whose keys are the fields.
pub fn to_core(mut event: Value) -> Value {
    rename(&mut event, |(new, core)| (new, core));
    if let Some(map) = event.as_object_mut()
        && map.contains_key("apiVersion")
    {
        map.insert("apiVersion".into(), json!("v1"));
    }
    event
}

/// From the stored view to the newer one.
pub fn from_core(event: &Value) -> Value {
    let mut event = event.clone();
    rename(&mut event, |(new, core)| (core, new));
    event["apiVersion"] = json!("events.k8s.io/v1");
    // Required there; core events may lack it.
    if event.get("eventTime").is_none() {
        event["eventTime"] = Value::Null;
    }
    event
}

fn rename(event: &mut Value, order: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str)) {
    let Some(map) = event.as_object_mut() else { return };
    for pair in NAMES {
        let (from, to) = order(pair);
        if let Some(value) = map.remove(from) {
            map.insert(to.into(), value);
        }
    }
}
