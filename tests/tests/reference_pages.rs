//! docs/tenants.md has every field of the CustomResourceDefinition, and an example of each; docs/troubleshooting.md
//! and docs/reference/conditions.md have every reason and every code of the code's closed lists.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use regex::Regex;
use serde_json::Value;
use storefence_tenancy::resource::crd;

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Paths of fields below a schema: `spec.principals[].claim.name`. Leaves only, unless a map or list has no more to say.
fn fields(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    let properties = |schema: &Value| schema["properties"].as_object().cloned();
    for (name, below) in properties(schema).into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        if properties(&below).is_some() {
            fields(&below, &path, found);
        } else if properties(&below["items"]).is_some() {
            fields(&below["items"], &format!("{path}[]"), found);
        } else {
            found.insert(path);
        }
    }
}

fn crd_fields(part: &str) -> BTreeSet<String> {
    let crd = serde_json::to_value(crd()).unwrap();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"][part];
    let mut found = BTreeSet::new();
    fields(schema, part, &mut found);
    assert!(found.len() > 10, "{found:?}");
    found
}

/// Fields that a document sets, as paths.
fn set_in(document: &Value, path: &str, found: &mut BTreeSet<String>) {
    match document {
        Value::Object(map) => map.iter().for_each(|(name, value)| set_in(value, &format!("{path}.{name}"), found)),
        Value::Array(items) => {
            _ = found.insert(path.to_owned());
            items.iter().for_each(|item| set_in(item, &format!("{path}[]"), found));
        }
        _ => _ = found.insert(path.to_owned()),
    }
}

#[test]
fn tenants_page_has_every_field_of_the_spec_and_an_example_of_it() {
    let page = read("docs/tenants.md");
    let mut examples = BTreeSet::new();
    for block in page.split("```yaml\n").skip(1) {
        let document: Value = serde_saphyr::from_str(block.split("```").next().unwrap()).unwrap();
        set_in(&document["spec"], "spec", &mut examples);
    }
    let wanted = crd_fields("spec");
    for field in &wanted {
        assert!(page.contains(&format!("`{field}`")), "docs/tenants.md does not describe {field}");
        assert!(examples.contains(field), "no example in docs/tenants.md sets {field}");
    }
    let described = Regex::new(r"`(spec\.[A-Za-z.\[\]]+)`").unwrap();
    for found in described.captures_iter(&page) {
        let known = wanted.iter().any(|field| field == &found[1] || field.starts_with(&format!("{}[]", &found[1])));
        assert!(known, "docs/tenants.md describes {}, which is no field", &found[1]);
    }
}

#[test]
fn tenants_page_has_every_field_of_the_status() {
    let page = read("docs/tenants.md");
    let status = page.split("## Status").nth(1).unwrap();
    for field in crd_fields("status") {
        // Conditions are Kubernetes' own.
        let Some((parent, name)) = field.rsplit_once('.').filter(|(parent, _)| !parent.ends_with("conditions[]"))
        else {
            assert!(status.contains("`status.conditions[]`"));
            continue;
        };
        let row = status.lines().find(|line| line.starts_with(&format!("| `{parent}`")));
        let described =
            status.contains(&format!("`{field}`")) || row.is_some_and(|row| row.contains(&format!("`{name}`")));
        assert!(described, "docs/tenants.md does not describe {field}");
    }
}

/// First cells of the page's tables.
fn rows(page: &str) -> BTreeSet<String> {
    let first = Regex::new(r"(?m)^\| `([^`]+)`").unwrap();
    first.captures_iter(page).map(|found| found[1].to_owned()).collect()
}

/// String values of a function or a list in a source file, from its beginning to the closing brace in the same column.
fn words(source: &str, beginning: &str, pattern: &str) -> BTreeSet<String> {
    let text = read(source);
    let from = text.find(beginning).unwrap_or_else(|| panic!("{source} has no {beginning}"));
    let body = text[from..].split("\n    }\n").next().unwrap();
    let found: BTreeSet<String> =
        Regex::new(pattern).unwrap().captures_iter(body).map(|found| found[1].to_owned()).collect();
    assert!(found.len() > 3, "{source}: {found:?}");
    found
}

#[test]
fn troubleshooting_page_has_every_reason_and_code() {
    let page = read("docs/troubleshooting.md") + &read("docs/reference/conditions.md");
    let rows = rows(&page);
    let arm = r#"Self::[A-Za-z0-9]+(?: \{[^}]*\}|\([^)]*\))? => "([^"]+)""#;
    let mut known = BTreeSet::new();
    for (what, source, beginning) in [
        ("reason of conditions", "operator/src/reason.rs", "pub const fn as_str(self)"),
        ("code of tools", "gateway/src/tools/error.rs", "pub const fn as_str(self)"),
        ("refusal of tokens", "gateway/src/identity/mod.rs", "pub const fn reason(self)"),
        ("refusal of scopes", "tenancy/src/scope.rs", "pub const fn reason(&self)"),
    ] {
        for word in words(source, beginning, arm) {
            assert!(rows.contains(&word), "docs/troubleshooting.md has no row for the {what} {word}");
            known.insert(word);
        }
    }
    let more: BTreeSet<_> = page
        .split("## ")
        .skip(1)
        .filter(|section| !section.starts_with("Symptoms") && !section.starts_with("Conditions"))
        .flat_map(self::rows)
        .filter(|word| !known.contains(word))
        .collect();
    assert!(more.is_empty(), "docs/troubleshooting.md explains what the code does not say: {more:?}");
}

/// Every row of the page ends with something to do, and the commands in it are ones that exist.
#[test]
fn troubleshooting_page_has_a_command_or_a_step_in_every_row() {
    let page = read("docs/troubleshooting.md") + &read("docs/reference/conditions.md");
    let operator = read("operator/src/cli.rs");
    let gateway = read("gateway/src/cli.rs");
    for line in page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| |")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
        assert!(cells.len() == 3 && cells.iter().all(|cell| !cell.trim().is_empty()), "{line}");
    }
    let command = Regex::new(r"storefence-(operator|gateway) ([a-z]+)").unwrap();
    for found in command.captures_iter(&page) {
        let variant = format!("{}{}", found[2][..1].to_uppercase(), &found[2][1..]);
        let source = if &found[1] == "operator" { &operator } else { &gateway };
        assert!(source.contains(&format!("    {variant}")), "storefence-{} {} is no command", &found[1], &found[2]);
    }
}

/// The text that a program of ours prints for `--help`, once each.
fn help(seen: &mut BTreeMap<Vec<String>, String>, words: &[&str]) -> String {
    let key: Vec<String> = words.iter().map(ToString::to_string).collect();
    if let Some(text) = seen.get(&key) {
        return text.clone();
    }
    let binary: PathBuf = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join(words[0]);
    let output = Command::new(&binary).args(&words[1..]).arg("--help").output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", binary.display()));
    assert!(output.status.success(), "{words:?} --help: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    seen.insert(key, text.clone());
    text
}

/// Commands in the shell blocks of every page: those of our own programs exist, with the flags that they are given.
#[test]
fn commands_in_the_documents_exist_with_their_flags() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut pages = vec![root.join("README.md"), root.join("CONTRIBUTING.md")];
    pages.extend(fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    pages.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    let ours =
        Regex::new(r"(?:cargo (xtask)|(?:^|[ /])(storefence-(?:operator|gateway|devstack)))((?: [a-z][a-z-]*)*)(.*)")
            .unwrap();
    let flag = Regex::new(r" (--[a-z][a-z-]+)").unwrap();
    let block = Regex::new(r"```(?:sh|bash|console)\n((?s).*?)```").unwrap();
    let (mut seen, mut checked) = (BTreeMap::new(), 0);
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for found in block.captures_iter(&text) {
            for line in found[1].replace("\\\n", " ").lines() {
                let line = line.split(" # ").next().unwrap().trim();
                // What follows -- is the command that runs in the pod.
                let line = line.rsplit_once(" -- ").map_or(line, |(_, command)| command);
                let image = line.contains("docker ") || line.contains("kubectl ") || line.contains("--namespace");
                let Some(found) = ours.captures(line).filter(|_| !image) else { continue };
                let program = found.get(1).or(found.get(2)).unwrap().as_str();
                let nested = ["kind", "audit"];
                let mut words = vec![program];
                for verb in found[3].split_whitespace() {
                    words.push(verb);
                    if !nested.contains(&verb) {
                        break;
                    }
                }
                // xtask hands these over; bench would build for release to say what it takes.
                if program == "xtask" && words.len() > 1 {
                    match words[1] {
                        "up" | "status" | "down" | "token" | "ask" | "kind" => words[0] = "storefence-devstack",
                        "bench" => {
                            assert!(help(&mut seen, &["xtask"]).contains("  bench "), "{line}");
                            continue;
                        }
                        _ => {}
                    }
                }
                let text = help(&mut seen, &words);
                for flag in flag.captures_iter(&found[4]) {
                    assert!(text.contains(&flag[1]), "{}: {line}: no {}", page.display(), &flag[1]);
                }
                checked += 1;
            }
        }
    }
    assert!(checked > 20, "only {checked} commands were found");
}

/// Names of metrics in the pages are those of the code.
#[test]
fn metrics_in_the_troubleshooting_page_exist() {
    let known = read("gateway/src/metrics.rs") + &read("operator/src/metrics.rs");
    let metric = Regex::new(r"`(storefence_[a-z_]+)`").unwrap();
    for found in metric.captures_iter(&read("docs/troubleshooting.md")) {
        let short = found[1].trim_start_matches("storefence_operator_");
        assert!(
            known.contains(&format!("\"{}\"", &found[1])) || known.contains(&format!("\"{short}\"")),
            "{}",
            &found[1]
        );
    }
}
