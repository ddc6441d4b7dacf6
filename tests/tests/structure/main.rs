//! The structure of the workspace: modules depend on each other in one direction, every declared dependency is used, no
//! file outgrows its room, and the pages name files that exist.

mod dependencies;
mod imports;
mod pages;

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The root of the workspace.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace")
}

/// The directories of the workspace's crates, from the `members` of its manifest.
fn crates() -> Vec<PathBuf> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("the workspace's manifest");
    let (_, members) = manifest.split_once("members = [").expect("members");
    let (members, _) = members.split_once(']').expect("the end of members");
    let members: Vec<PathBuf> = members
        .split(',')
        .map(|member| member.trim().trim_matches('"'))
        .filter(|member| !member.is_empty())
        .map(|member| root().join(member))
        .collect();
    assert!(members.len() >= 8, "{members:?}");
    members
}

/// All Rust files below a directory, in a fixed order; none where there is no such directory.
fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut entries: Vec<PathBuf> =
        fs::read_dir(directory).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The path as it is named in a message.
fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// A file of more lines has more than one subject.
const LONGEST: usize = 500;

#[test]
fn no_file_outgrows_its_room() {
    let mut long = Vec::new();
    for file in crates().iter().flat_map(|member| rust_files(member)) {
        let lines = fs::read_to_string(&file).expect("a file").lines().count();
        if lines > LONGEST {
            long.push(format!("{} has {lines} lines; split it by subject below {LONGEST}", shown(&file)));
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}
