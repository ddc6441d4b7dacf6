//! docs/reference/ agrees with the code about settings, metrics and log fields.

use std::{collections::BTreeSet, path::Path};

use storefence_devstack::reference::{self, Document};
use storefence_gateway::{cli, metrics::Metrics};

fn sources() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn document(page: &str) -> Document {
    Document::new(env!("CARGO_MANIFEST_DIR"), &format!("docs/reference/{page}.md"))
}

#[test]
fn every_option_stands_in_the_document() {
    document("options").generated("options of storefence-gateway", &reference::options(&cli::command()));
}

/// Variables that are read outside of the options, in all shipped code.
#[test]
fn every_variable_without_an_option_stands_in_the_document() {
    let page = std::fs::read_to_string(sources().join("../../docs/reference/options.md")).expect("the page");
    for package in ["runtime", "gateway", "operator", "tenancy"] {
        let sources = sources().join("../..").join(package).join("src");
        let mut read = reference::in_sources(&sources, r#"env::var(?:_os)?\("([A-Z_]+)"\)"#);
        // The collector's variables are read through a function.
        read.extend(reference::in_sources(&sources, r#""(OTEL_[A-Z_]+)""#));
        let missing: Vec<_> = read.iter().filter(|name| !page.contains(&format!("`{name}`"))).collect();
        assert!(missing.is_empty(), "{package}: {missing:?}");
    }
}

#[test]
fn every_metric_stands_in_the_document() {
    let scrape = Metrics::new().expect("metrics").render().expect("text");
    let families = reference::families(&scrape);
    // A metric without a value would be missing from the scrape, and so from the table.
    let named = reference::in_sources(&sources(), r#""((?:mcp|storefence)_[a-z_]+_(?:total|seconds|bytes|info))""#);
    let missing: Vec<_> = named.iter().filter(|name| !families.contains_key(*name)).collect();
    assert!(missing.is_empty(), "without a value from the start (see Metrics::begin): {missing:?}");
    assert!(families.values().all(|family| !family.help.is_empty() && !family.kind.is_empty()), "{families:#?}");
    document("metrics").generated("metrics of storefence-gateway", &reference::metrics(&scrape));
}

#[test]
fn every_log_field_stands_in_the_document() {
    document("logs").lists("log fields of storefence-gateway", &reference::log_fields(&sources()));
}

/// A field's name as serde writes it.
fn camel_case(field: &str) -> String {
    let mut words = field.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| name + &word[..1].to_uppercase() + &word[1..])
}

#[test]
fn every_audit_field_stands_in_the_document() {
    let audit = std::fs::read_to_string(sources().join("audit/mod.rs")).expect("a source");
    let chain = std::fs::read_to_string(sources().join("audit/chain.rs")).expect("a source");
    let body =
        audit.split("struct Line<'a> {").nth(1).and_then(|rest| rest.split("\n}").next()).expect("the line's fields");
    let fields = body.lines().filter_map(|line| line.split_once(':').map(|(name, _)| name.trim()));
    let mut names: BTreeSet<String> = fields.map(camel_case).collect();
    // The fields of the chain are appended by hand.
    for name in ["previous", "hash"] {
        assert!(chain.contains(&format!("\\\"{name}\\\"")), "{name} is no longer in the line");
        names.insert(name.to_owned());
    }
    document("logs").lists("audit fields", &names);
}

#[test]
fn every_field_of_the_configuration_file_stands_in_the_document() {
    let files = ["config.rs", "../../runtime/src/embeddings.rs"];
    let fields = reference::configuration(&files.map(|file| sources().join(file)));
    document("configuration").lists("configuration file of storefence-gateway", &fields);
}
