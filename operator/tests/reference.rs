//! docs/reference/ says of settings, metrics and log fields what the code says.

use std::path::{Path, PathBuf};

use storefence_devstack::reference::{self, Document};
use storefence_operator::{cli, metrics::Metrics};

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn document(page: &str) -> Document {
    Document::new(env!("CARGO_MANIFEST_DIR"), &format!("docs/reference/{page}.md"))
}

#[test]
fn every_option_stands_in_the_document() {
    document("options").generated("options of storefence-operator", &reference::options(&cli::command()));
}

#[test]
fn every_metric_stands_in_the_document() {
    let metrics = Metrics::new().expect("metrics");
    // These have values once there are tenants and databases.
    metrics.tenants([(("Ready", "True", "Reconciled"), 1)]);
    metrics.circuit("database", "retail").set(0);
    let scrape = metrics.render().expect("text");
    let families = reference::families(&scrape);
    // A metric that has no value yet would be missing from the scrape, and from the table.
    let named = reference::in_sources(&sources(), r#"(?s)\bname\(\s*"([a-z_]+)""#);
    let missing: Vec<_> =
        named.iter().filter(|name| !families.contains_key(&format!("storefence_operator_{name}"))).collect();
    assert!(missing.is_empty(), "without a value from the start: {missing:?}");
    document("metrics").generated("metrics of storefence-operator", &reference::metrics(&scrape));
}

#[test]
fn every_log_field_stands_in_the_document() {
    document("logs").lists("log fields of storefence-operator", &reference::log_fields(&sources()));
}

#[test]
fn every_field_of_the_configuration_file_stands_in_the_document() {
    let files = ["config.rs", "config/database.rs", "config/expectations.rs", "../../runtime/src/embeddings.rs"];
    let fields = reference::configuration(&files.map(|file| sources().join(file)));
    document("configuration").lists("configuration file of storefence-operator", &fields);
}
