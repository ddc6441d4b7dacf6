//! The chart's README is generated from `values.yaml`, and its CustomResourceDefinition is the repository's.

use std::{env, fmt::Write as _, fs};

use serde_json::Value;

use crate::render::{chart, read};

/// Set to anything, it writes generated files instead of comparing them.
pub const BLESS: &str = "STOREFENCE_BLESS";

/// A documented value: its path, its default, what stands above it.
pub struct Documented {
    pub path: Vec<String>,
    pub default: Value,
    pub text: String,
}

pub fn defaults() -> Value {
    serde_saphyr::from_str(&read("charts/storefence/values.yaml")).unwrap()
}

/// Reads the comments that start with two hyphens.
pub fn documented() -> Vec<Documented> {
    let all = defaults();
    let mut found = Vec::new();
    let mut path: Vec<String> = Vec::new();
    let mut comment: Option<String> = None;
    for line in read("charts/storefence/values.yaml").lines() {
        let text = line.trim_start();
        if let Some(rest) = text.strip_prefix("# -- ") {
            comment = Some(rest.to_owned());
        } else if let (Some(rest), Some(comment)) = (text.strip_prefix("# "), comment.as_mut()) {
            comment.push(' ');
            comment.push_str(rest);
        } else if let Some((key, _)) = text.split_once(':').filter(|_| !text.starts_with('#')) {
            path.truncate((line.len() - text.len()) / 2);
            path.push(key.to_owned());
            if let Some(text) = comment.take() {
                let default = all.pointer(&format!("/{}", path.join("/"))).unwrap().clone();
                found.push(Documented { path: path.clone(), default, text });
            }
        }
    }
    found
}

/// Every value is documented, itself or as part of one that is.
#[test]
fn every_value_is_documented() {
    fn leaves(value: &Value, path: &str, found: &mut Vec<String>) {
        match value.as_object().filter(|map| !map.is_empty()) {
            Some(map) => map.iter().for_each(|(key, value)| leaves(value, &format!("{path}/{key}"), found)),
            None => found.push(path.to_owned()),
        }
    }
    let known: Vec<String> = documented().iter().map(|value| format!("/{}", value.path.join("/"))).collect();
    let mut all = Vec::new();
    leaves(&defaults(), "", &mut all);
    for leaf in all {
        let found = known.iter().any(|path| leaf == *path || leaf.starts_with(&format!("{path}/")));
        assert!(found, "{leaf} has no comment that starts with two hyphens");
    }
}

#[test]
fn the_readme_is_generated_from_the_values() {
    let mut text = read("tests/chart/README.in.md");
    text.push_str("\n| Key | Default | |\n|---|---|---|\n");
    for Documented { path, default, text: comment } in documented() {
        let default = match default {
            Value::String(text) if text.is_empty() => String::new(),
            Value::String(text) => format!("`{text}`"),
            other => format!("`{other}`"),
        };
        writeln!(text, "| `{}` | {default} | {} |", path.join("."), comment.replace('|', "\\|")).unwrap();
    }
    generated("charts/storefence/README.md", &text);
}

/// Templates cannot read `values.yaml`, so what they put back where a value was left empty stands beside it.
#[test]
fn the_defaults_are_those_of_the_values() {
    let text = serde_json::to_string_pretty(&defaults()).unwrap() + "\n";
    generated("charts/storefence/files/defaults.json", &text);
}

/// Compares a generated file with the one that stands there, or writes it.
pub fn generated(path: &str, text: &str) {
    let file = crate::render::root().join(path);
    if env::var_os(BLESS).is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
    }
    let present = fs::read_to_string(&file).unwrap_or_default();
    let differs = present.lines().zip(text.lines()).position(|(left, right)| left != right);
    assert!(
        present == text,
        "{path} is not up to date, first in line {}: {BLESS}=1 cargo test -p storefence-tests --test chart",
        differs.map_or(present.lines().count().min(text.lines().count()), |line| line) + 1
    );
}

#[test]
fn the_crd_is_the_repositorys() {
    assert_eq!(fs::read_to_string(chart().join("crds/retailtenant.yaml")).unwrap(), read("crds/retailtenant.yaml"));
    assert_eq!(fs::read_dir(chart().join("crds")).unwrap().count(), 1);
}

#[test]
fn the_versions_are_the_workspaces() {
    let meta: Value = serde_saphyr::from_str(&read("charts/storefence/Chart.yaml")).unwrap();
    assert_eq!(meta["appVersion"], env!("CARGO_PKG_VERSION"));
}
