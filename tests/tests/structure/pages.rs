//! Pages for maintainers name files that exist.

use std::fs;

use crate::root;

/// The rows of the table below the heading that says where things are.
fn where_is_it() -> Vec<String> {
    let page = fs::read_to_string(root().join("docs/architecture.md")).expect("docs/architecture.md");
    let (_, section) = page.split_once("\n## Where is it\n").expect("docs/architecture.md has \"## Where is it\"");
    section
        .lines()
        .take_while(|line| !line.starts_with("## "))
        .filter(|line| line.starts_with('|'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_table_of_files_holds() {
    // Without the heading and its rule.
    let rows: Vec<String> = where_is_it().split_off(2);
    assert!(rows.len() >= 20, "twenty questions, and the table has {}", rows.len());
    for row in rows {
        let answer = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default().to_owned();
        let paths: Vec<&str> = answer.split('`').skip(1).step_by(2).filter(|text| text.contains('/')).collect();
        assert!(!paths.is_empty(), "no file answers {row}");
        for path in paths {
            assert!(root().join(path).exists(), "{path} of docs/architecture.md does not exist: {row}");
        }
    }
}
