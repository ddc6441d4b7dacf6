//! `deny.toml` holds for the lock file, as far as can be checked without cargo-deny: licences, bans and sources. What it
//! says of advisories needs a database from outside.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use regex::Regex;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn deny() -> String {
    fs::read_to_string(root().join("deny.toml")).unwrap()
}

/// Crates of the targets that deny.toml names, with their licence.
fn crates() -> BTreeMap<(String, String), String> {
    let mut found = BTreeMap::new();
    let targets = Regex::new(r#"targets = \[([^\]]*)\]"#).unwrap();
    for target in targets.captures(&deny()).expect("[graph] targets")[1].split(',') {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .current_dir(root())
            .args(["tree", "--workspace", "--all-features", "--offline", "--edges", "normal,build,dev"])
            .args(["--prefix", "none", "--format", "{p}|{l}", "--target", target.trim().trim_matches('"')])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for line in String::from_utf8(output.stdout).unwrap().lines().filter(|line| !line.is_empty()) {
            let (package, licence) = line.split_once('|').unwrap();
            let mut words = package.split(' ');
            let (name, version) = (words.next().unwrap(), words.next().unwrap());
            // Repeated ones are marked so.
            let licence = licence.trim_end_matches(" (*)");
            found.insert((name.to_owned(), version.trim_start_matches('v').to_owned()), licence.to_owned());
        }
    }
    assert!(found.len() > 300, "cargo tree shows {} crates", found.len());
    found
}

/// Whether an SPDX expression can be met with the allowed licences: `AND` binds closer than `OR`; the older `/` is `OR`.
fn met(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let answer = any(&words, &mut at, allowed);
    assert_eq!(at, words.len(), "cannot read the licence {expression}");
    answer
}

fn any(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut answer = all(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        answer |= all(words, at, allowed);
    }
    answer
}

fn all(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut answer = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        answer &= one(words, at, allowed);
    }
    answer
}

fn one(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let word = words.get(*at).copied().unwrap_or_default();
    *at += 1;
    if word == "(" {
        let answer = any(words, at, allowed);
        *at += 1;
        return answer;
    }
    let mut name = word.to_owned();
    if words.get(*at) == Some(&"WITH") {
        name = format!("{word} WITH {}", words[*at + 1]);
        *at += 2;
    }
    allowed.contains(&name)
}

#[test]
fn every_licence_is_allowed_and_every_allowed_one_is_needed() {
    let text = deny();
    let list = text.split("[licenses]").nth(1).unwrap().split("]\n").next().unwrap();
    let quoted = Regex::new(r#""([^"]+)""#).unwrap();
    let allowed: Vec<String> = quoted.captures_iter(list).map(|found| found[1].to_owned()).collect();
    assert!(allowed.contains(&"MIT".to_owned()) && allowed.is_sorted(), "{allowed:?}");
    let crates = crates();
    for ((name, version), licence) in &crates {
        assert!(met(licence, &allowed), "{name} {version}: {licence}");
    }
    for licence in &allowed {
        let fewer: Vec<String> = allowed.iter().filter(|other| *other != licence).cloned().collect();
        assert!(
            crates.values().any(|expression| expression.contains(licence.as_str())),
            "no crate has the licence {licence}"
        );
        let needed = crates.values().any(|expression| !met(expression, &fewer));
        // These two are met by others' OR as long as the rest is allowed; without them the choice is gone.
        assert!(needed || licence == "MIT", "{licence} is allowed and nothing needs it");
    }
}

#[test]
fn no_banned_crate_is_built() {
    let text = deny();
    let entry = Regex::new(r#"\{ crate = "([^"]+)"(, deny-multiple-versions = true)?, reason = "([^"]+)" \}"#).unwrap();
    let crates = crates();
    let mut entries = 0;
    for found in entry.captures_iter(&text) {
        entries += 1;
        let versions: Vec<&String> =
            crates.keys().filter(|(name, _)| *name == found[1]).map(|(_, version)| version).collect();
        let most = usize::from(found.get(2).is_some());
        assert_eq!(versions.len(), most, "{}: {versions:?}: {}", &found[1], &found[3]);
    }
    assert_eq!(entries, text.matches("{ crate = ").count(), "an entry has another shape");
    for name in ["openssl", "openssl-sys", "ring", "serde_yaml"] {
        assert!(text.contains(&format!("{{ crate = \"{name}\", reason")), "{name} is not banned");
    }
}

#[test]
fn every_crate_comes_from_crates_io() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let wanted = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    for source in lock.lines().filter(|line| line.starts_with("source = ")) {
        assert_eq!(source, wanted);
    }
    assert!(deny().contains("allow-registry = [\"https://github.com/rust-lang/crates.io-index\"]"));
}
