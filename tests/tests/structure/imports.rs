//! No circle between the top-level modules of a crate: each can be read, and tested, knowing only those below it.
//!
//! The graph is read from the text: `crate::module`, and `super::module` where `super` is the crate's root, outside of
//! comments and strings. Unit tests inside a module count; a circle that only they close is one for the reader, too.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use crate::{crates, root, rust_files, shown};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Path,
    Open,
    Close,
    Comma,
    Other(char),
}

/// The tokens of a Rust source with their line numbers, without comments, strings and characters.
fn tokens(source: &str) -> Vec<(usize, Token)> {
    let text: Vec<char> = source.chars().collect();
    let (mut tokens, mut at, mut line) = (Vec::new(), 0, 1);
    let starts = |at: usize, what: &str| what.chars().enumerate().all(|(n, c)| text.get(at + n) == Some(&c));
    while at < text.len() {
        let begun = at;
        let token = match text[at] {
            '/' if starts(at, "//") => {
                at += text[at..].iter().position(|c| *c == '\n').unwrap_or(text.len() - at);
                None
            }
            '/' if starts(at, "/*") => {
                let mut depth = 0;
                loop {
                    depth += usize::from(starts(at, "/*"));
                    let end = starts(at, "*/");
                    at += if end || starts(at, "/*") { 2 } else { 1 };
                    depth -= usize::from(end);
                    if depth == 0 || at >= text.len() {
                        break;
                    }
                }
                None
            }
            'r' if raw_string(&text[at..]).is_some() => {
                at += raw_string(&text[at..]).unwrap_or(1);
                None
            }
            '"' => {
                at += 1;
                while at < text.len() && text[at] != '"' {
                    at += if text[at] == '\\' { 2 } else { 1 };
                }
                at += 1;
                None
            }
            // A character, and no lifetime.
            '\'' if text.get(at + 1) == Some(&'\\') || text.get(at + 2) == Some(&'\'') => {
                at += if text[at + 1] == '\\' { 3 } else { 2 };
                at += text[at..].iter().position(|c| *c == '\'').map_or(1, |more| more + 1);
                None
            }
            c if c.is_alphanumeric() || c == '_' => {
                while at < text.len() && (text[at].is_alphanumeric() || text[at] == '_') {
                    at += 1;
                }
                Some(Token::Word(text[begun..at].iter().collect()))
            }
            ':' if starts(at, "::") => {
                at += 2;
                Some(Token::Path)
            }
            c => {
                at += 1;
                match c {
                    '{' => Some(Token::Open),
                    '}' => Some(Token::Close),
                    ',' => Some(Token::Comma),
                    c if c.is_whitespace() => None,
                    c => Some(Token::Other(c)),
                }
            }
        };
        if let Some(token) = token {
            tokens.push((line, token));
        }
        line += text[begun..at.min(text.len())].iter().filter(|c| **c == '\n').count();
    }
    tokens
}

/// The length of a raw string that begins here.
fn raw_string(text: &[char]) -> Option<usize> {
    let hashes = text[1..].iter().take_while(|c| **c == '#').count();
    if text.get(1 + hashes) != Some(&'"') {
        return None;
    }
    let body = 2 + hashes;
    let end = (body..text.len())
        .find(|at| text[*at] == '"' && text[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes)?;
    Some(end + 1 + hashes)
}

/// What a file names at the crate's root, with the line. `depth` is how many `super` lead from the file to the root.
fn names(source: &str, depth: usize) -> Vec<(usize, String)> {
    let tokens = tokens(source);
    let token = |at: usize| tokens.get(at).map(|(_, token)| token);
    let is_word = |at: usize, word: &str| token(at).is_some_and(|token| *token == Token::Word(word.into()));
    let (mut names, mut inline, mut braces, mut at) = (Vec::new(), Vec::new(), 0_usize, 0);
    while at < tokens.len() {
        match &tokens[at].1 {
            Token::Open => {
                braces += 1;
                if at >= 2 && is_word(at - 2, "mod") {
                    inline.push(braces);
                }
            }
            Token::Close => {
                if inline.last() == Some(&braces) {
                    inline.pop();
                }
                braces = braces.saturating_sub(1);
            }
            Token::Word(word)
                if (word == "crate" || word == "super") && !matches!(token(at.wrapping_sub(1)), Some(Token::Path)) =>
            {
                let mut up = usize::from(word == "super");
                let mut next = at + 1;
                while up > 0 && token(next) == Some(&Token::Path) && is_word(next + 1, "super") {
                    (up, next) = (up + 1, next + 2);
                }
                let at_root = word == "crate" || up == depth + inline.len();
                if at_root && token(next) == Some(&Token::Path) {
                    names.extend(first_segments(&tokens, next + 1));
                }
            }
            _ => {}
        }
        at += 1;
    }
    names
}

/// The first words of the path, or of the paths in braces, that begins here.
fn first_segments(tokens: &[(usize, Token)], at: usize) -> Vec<(usize, String)> {
    match tokens.get(at) {
        Some((line, Token::Word(word))) => vec![(*line, word.clone())],
        Some((_, Token::Open)) => {
            let (mut found, mut depth, mut begins) = (Vec::new(), 1, true);
            for (line, token) in &tokens[at + 1..] {
                match token {
                    Token::Open => depth += 1,
                    Token::Close => depth -= 1,
                    Token::Comma if depth == 1 => begins = true,
                    Token::Word(word) if depth == 1 && begins => {
                        found.push((*line, word.clone()));
                        begins = false;
                    }
                    _ => {}
                }
                if depth == 0 {
                    break;
                }
            }
            found
        }
        _ => Vec::new(),
    }
}

/// For each module what it names, with the first position.
type Graph = BTreeMap<String, BTreeMap<String, String>>;

fn graph(source: &Path) -> Graph {
    let files = rust_files(source);
    let top = |path: &Path| {
        let first = path.strip_prefix(source).ok()?.components().next()?.as_os_str().to_str()?.to_owned();
        Some(first.strip_suffix(".rs").unwrap_or(&first).to_owned())
    };
    let roots = ["lib", "main", "bin"];
    let modules: BTreeSet<String> =
        files.iter().filter_map(|file| top(file)).filter(|name| !roots.contains(&name.as_str())).collect();
    let mut graph = Graph::new();
    for file in &files {
        let Some(module) = top(file).filter(|name| modules.contains(name)) else { continue };
        // src/a.rs and src/a/mod.rs are one below the root, src/a/b.rs two.
        let inside = file.strip_prefix(source).expect("below").components().count();
        let depth = if file.ends_with("mod.rs") { inside - 1 } else { inside };
        for (line, name) in names(&fs::read_to_string(file).expect("a file"), depth) {
            if name != module && modules.contains(&name) {
                let place = format!("{}:{line}", shown(file));
                graph.entry(module.clone()).or_default().entry(name).or_insert(place);
            }
        }
    }
    graph
}

/// The modules that can be reached from this one.
fn reached<'a>(graph: &'a Graph, from: &str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&str> = vec![from];
    while let Some(module) = open.pop() {
        for next in graph.get(module).into_iter().flat_map(BTreeMap::keys) {
            if reached.insert(next.as_str()) {
                open.push(next);
            }
        }
    }
    reached
}

/// One line for each import that is part of a circle.
fn circles(graph: &Graph) -> Vec<String> {
    let mut lines = Vec::new();
    for (module, uses) in graph {
        for (used, place) in uses.iter().filter(|(used, _)| reached(graph, used).contains(module.as_str())) {
            lines.push(format!("{module} -> {used} ({place})"));
        }
    }
    lines
}

#[test]
fn no_circle_between_the_modules_of_a_crate() {
    let mut found = Vec::new();
    for member in crates() {
        for line in circles(&graph(&member.join("src"))) {
            found.push(format!("{}: {line}", shown(&member)));
        }
    }
    assert!(
        found.is_empty(),
        "modules use each other in a circle; move what both need to a module below them:\n{}",
        found.join("\n")
    );
}

#[test]
fn the_graph_is_read_as_rust_reads_it() {
    let source = r##"
        //! crate::comment
        use crate::{a, b::{c, crate_inside}, d as e};
        /* crate::block /* crate::nested */ crate::block */
        fn f<'x>(x: &'x str) -> char { let _ = "crate::string"; let _ = r#"crate::"raw"#; crate::g::h(); '"' }
        mod tests { use super::{own}; use super::super::k; fn g() { super::own(); } }
        use super::l;
    "##;
    let found: Vec<String> = names(source, 1).into_iter().map(|(_, name)| name).collect();
    assert_eq!(found, ["a", "b", "d", "g", "k", "l"]);
    let deeper: Vec<String> =
        names("use super::{m}; use super::super::n;", 2).into_iter().map(|(_, name)| name).collect();
    assert_eq!(deeper, ["n"]);
}

#[test]
fn a_circle_is_found_and_a_chain_is_none() {
    let of = |edges: &[(&str, &str)]| {
        let mut graph = Graph::new();
        for (from, to) in edges {
            graph.entry((*from).into()).or_default().insert((*to).into(), format!("{from}.rs:1"));
        }
        circles(&graph)
    };
    assert_eq!(of(&[("a", "b"), ("b", "c"), ("a", "c")]), [""; 0]);
    assert_eq!(of(&[("a", "b"), ("b", "c"), ("c", "b")]), ["b -> c (b.rs:1)", "c -> b (c.rs:1)"]);
}

#[test]
fn the_pure_crate_stands_below_all_others() {
    for member in ["tenancy", "runtime"] {
        let manifest = fs::read_to_string(root().join(member).join("Cargo.toml")).expect("a manifest");
        let (_, dependencies) = manifest.split_once("[dependencies]").expect("dependencies");
        let dependencies = dependencies.split("[dev-dependencies]").next().unwrap_or_default();
        let ours: Vec<&str> = dependencies.lines().filter(|line| line.starts_with("storefence-")).collect();
        assert!(ours.is_empty(), "{member} depends on {ours:?}");
    }
}
