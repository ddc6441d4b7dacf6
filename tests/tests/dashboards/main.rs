//! Dashboards and alerts in a real Prometheus (Debian's package) that scrapes the running stack under a short load.

mod alerts;
mod load;
mod panels;
mod prometheus;
// Helm's own engine renders the rules; the rest of what is there is the chart's own suite.
#[allow(dead_code)]
#[path = "../chart/render.rs"]
mod render;

use std::process::ExitCode;

use serde_json::Value;
use storefence_tests::{Shared, Suite};

/// The rules as the chart installs them.
fn rules() -> Value {
    let objects = render::objects(&render::values("production"));
    let rules = objects.into_iter().find(|object| object["kind"] == "PrometheusRule");
    rules.map(|rules| rules["spec"].clone()).unwrap_or_default()
}

fn main() -> ExitCode {
    let suite = Suite::new(Shared::with_examples);
    suite
        .test("dashboards_are_what_grafana_reads", |_| async { panels::schema().await })
        .test("the_page_tells_of_every_alert_and_dashboard", |_| async { panels::page().await })
        .test("alerts_fire_when_they_should", |_| async { alerts::fire_when_they_should().await })
        .test(
            "panels_and_alerts_answer_in_a_real_prometheus",
            |s| async move { panels::answer_in_prometheus(&s).await },
        )
        .run(Shared::stop)
}
