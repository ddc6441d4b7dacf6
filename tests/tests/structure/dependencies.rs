//! Every dependency that a crate declares is used by its sources.

use std::fs;

use crate::{crates, rust_files, shown};

/// Declared for their features or for a derive's expansion, and not named in the sources, with the reason.
const UNNAMED: [(&str, &str); 0] = [];

/// The names below a heading such as `[dependencies]`.
fn declared(manifest: &str, heading: &str) -> Vec<String> {
    let Some((_, section)) = manifest.split_once(&format!("\n{heading}\n")) else { return Vec::new() };
    section
        .lines()
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .map(str::to_owned)
        .collect()
}

/// Whether a crate's name stands there as a word.
fn names(text: &str, name: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(name).any(|(at, _)| {
        !text[..at].chars().next_back().is_some_and(word) && !text[at + name.len()..].chars().next().is_some_and(word)
    })
}

#[test]
fn every_declared_dependency_is_used() {
    let mut unused = Vec::new();
    for member in crates() {
        let manifest = fs::read_to_string(member.join("Cargo.toml")).expect("a manifest");
        for (heading, directories) in [
            ("[dependencies]", &["src", "build.rs"][..]),
            ("[dev-dependencies]", &["src", "tests", "benches"][..]),
            ("[build-dependencies]", &["build.rs"][..]),
        ] {
            let files = directories.iter().flat_map(|directory| match directory.ends_with(".rs") {
                true => vec![member.join(directory)],
                false => rust_files(&member.join(directory)),
            });
            let sources: String = files.filter_map(|file| fs::read_to_string(file).ok()).collect();
            for name in declared(&manifest, heading) {
                let excused = UNNAMED.iter().any(|(known, _)| *known == name);
                if !excused && !names(&sources, &name.replace('-', "_")) {
                    unused.push(format!("{}: {name} in {heading} is used by no source", shown(&member)));
                }
            }
        }
    }
    assert!(unused.is_empty(), "{}", unused.join("\n"));
}

#[test]
fn every_dependency_of_the_workspace_is_one_of_a_crate() {
    let manifests: Vec<String> =
        crates().iter().map(|member| fs::read_to_string(member.join("Cargo.toml")).expect("a manifest")).collect();
    let workspace = fs::read_to_string(crate::root().join("Cargo.toml")).expect("a manifest");
    let unused: Vec<String> = declared(&workspace, "[workspace.dependencies]")
        .into_iter()
        .filter(|name| {
            !manifests.iter().any(|manifest| {
                manifest.contains(&format!("\n{name}.workspace"))
                    || manifest.contains(&format!("\n{name} = {{ workspace"))
            })
        })
        .collect();
    assert!(unused.is_empty(), "no crate asks for {unused:?}");
}
