//! The project's Markdown, for the tests that hold it to what it says.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Files below a directory, generated and fetched ones left out.
#[must_use]
pub fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if path.is_dir() && !name.starts_with('.') && name != "target" && name != "node_modules" {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found
}

/// The fenced blocks of a language in a Markdown text.
fn blocks(markdown: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut block: Option<String> = None;
    for line in markdown.lines() {
        let trimmed = line.trim_start();
        match &mut block {
            None if trimmed.strip_prefix("```").is_some_and(|rest| rest.trim() == language) => {
                block = Some(String::new())
            }
            Some(_) if trimmed.starts_with("```") => found.extend(block.take()),
            Some(text) => {
                text.push_str(line);
                text.push('\n');
            }
            None => {}
        }
    }
    found
}

/// All YAML blocks of the checkout's Markdown, with the page that each stands in.
#[must_use]
pub fn yaml_blocks() -> Vec<(PathBuf, String)> {
    page_blocks("yaml")
}

/// All blocks of a language in the checkout's Markdown, with the page that each stands in.
#[must_use]
pub fn page_blocks(language: &str) -> Vec<(PathBuf, String)> {
    let pages = files(&root(), "md").into_iter();
    pages
        .flat_map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            blocks(&text, language).into_iter().map(move |block| (path.clone(), block))
        })
        .collect()
}
