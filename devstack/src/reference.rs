//! Keeps the reference in a document true: tables that are written from the code, and tables of which the code says what
//! has to stand in them.
//!
//! A table stands between `<!-- reference: NAME -->` and `<!-- end of reference -->`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use regex::Regex;

const END: &str = "<!-- end of reference -->";
/// With this variable set, tables are written instead of compared.
const WRITE: &str = "STOREFENCE_WRITE_REFERENCE";

static WRITING: Mutex<()> = Mutex::new(());

/// A document with tables of reference.
pub struct Document {
    path: PathBuf,
}

impl Document {
    /// The document at a path from the repository's root, of which `package` is a package's directory: the caller's own,
    /// since this crate may have been compiled in another clone.
    pub fn new(package: &str, path: &str) -> Self {
        Self { path: Path::new(package).join("..").join(path) }
    }

    /// Where a table begins and ends in the text.
    fn place(&self, text: &str, name: &str) -> (usize, usize) {
        let start = format!("<!-- reference: {name} -->");
        let from = text.find(&start).unwrap_or_else(|| panic!("{}: '{start}' is not there", self.path.display()));
        let from = from + start.len();
        let length = text[from..].find(END).unwrap_or_else(|| panic!("'{END}' is not there after '{start}'"));
        (from, from + length)
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.path).unwrap_or_else(|error| panic!("{}: {error}", self.path.display()))
    }

    /// Compares a table with what the code says, or writes it.
    ///
    /// # Panics
    /// They differ.
    pub fn generated(&self, name: &str, table: &str) {
        // Tests run side by side, and each writes the whole file.
        let _one_at_a_time = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        let text = self.text();
        let (from, to) = self.place(&text, name);
        if text[from..to].trim() == table.trim() {
            return;
        }
        if std::env::var_os(WRITE).is_some() {
            let text = format!("{}\n{}\n{}", &text[..from], table.trim(), &text[to..]);
            return fs::write(&self.path, text).expect("the document can be written");
        }
        let (old, new): (BTreeSet<_>, BTreeSet<_>) = (text[from..to].lines().collect(), table.lines().collect());
        panic!(
            "{}: the table '{name}' is not what the code says; `cargo xtask reference` writes it.\nmissing: {:#?}\nextra: {:#?}",
            self.path.display(),
            new.difference(&old).collect::<Vec<_>>(),
            old.difference(&new).filter(|line| !line.trim().is_empty()).collect::<Vec<_>>()
        );
    }

    /// Checks that the first column of a table, which a person writes, has the names that the code uses and no others.
    ///
    /// # Panics
    /// It has not.
    pub fn lists(&self, name: &str, names: &BTreeSet<String>) {
        let text = {
            let _not_while_it_is_written = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
            self.text()
        };
        let (from, to) = self.place(&text, name);
        let ticked = Regex::new("`([^`]+)`").expect("a pattern");
        let rows = text[from..to].lines().filter_map(|line| line.trim().strip_prefix('|')?.split('|').next());
        let listed: BTreeSet<String> = rows
            .flat_map(|cell| ticked.captures_iter(cell).map(|found| found[1].to_owned()).collect::<Vec<_>>())
            .collect();
        assert!(
            listed == *names,
            "{}: the table '{name}' does not list what the code has.\nmissing: {:?}\nextra: {:?}",
            self.path.display(),
            names.difference(&listed).collect::<Vec<_>>(),
            listed.difference(names).collect::<Vec<_>>()
        );
    }
}

/// Text for a cell.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|").replace('<', "&lt;")
}

/// All options of a command and its subcommands. Options of the same name and meaning stand once, with the subcommands
/// that take them.
pub fn options(command: &clap::Command) -> String {
    let mut rows: BTreeMap<(String, String, String, String), Vec<String>> = BTreeMap::new();
    let mut order = Vec::new();
    collect(command, "", &mut |path, argument| {
        let Some(long) = argument.get_long() else { return };
        let value = match argument.get_action().takes_values() {
            true => argument.get_value_names().and_then(<[_]>::first).map_or(String::new(), |name| format!(" {name}")),
            false => String::new(),
        };
        let defaults: Vec<_> = argument.get_default_values().iter().map(|text| text.to_string_lossy()).collect();
        let default = if defaults.is_empty() { String::new() } else { format!("`{}`", cell(&defaults.join(","))) };
        let variable = argument.get_env().map_or(String::new(), |name| format!("`{}`", name.to_string_lossy()));
        let words = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
        let words = match argument.get_possible_values() {
            values if values.is_empty() || !argument.get_action().takes_values() => words,
            values => {
                let names: Vec<_> = values.iter().map(|value| format!("`{}`", value.get_name())).collect();
                format!("{}: {}", words.trim_end_matches('.'), names.join(", "))
            }
        };
        let key = (format!("`--{long}{value}`"), variable, default, cell(&words));
        if !rows.contains_key(&key) {
            order.push(key.clone());
        }
        rows.entry(key).or_default().push(path.to_owned());
    });
    let mut table = "| option | environment | default | of | meaning |\n|---|---|---|---|---|\n".to_owned();
    for key in order {
        let (option, variable, default, words) = &key;
        let of =
            rows[&key].iter().map(|path| if path.is_empty() { "all" } else { path }).collect::<Vec<_>>().join(", ");
        let _ = writeln!(table, "| {option} | {variable} | {default} | {of} | {words} |");
    }
    table
}

fn collect(command: &clap::Command, path: &str, each: &mut impl FnMut(&str, &clap::Arg)) {
    for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
        if !matches!(argument.get_id().as_str(), "help" | "version") {
            each(path, argument);
        }
    }
    for subcommand in command.get_subcommands().filter(|subcommand| subcommand.get_name() != "help") {
        collect(subcommand, format!("{path} {}", subcommand.get_name()).trim(), each);
    }
}

/// All metrics of a scrape, in the text exposition format.
pub fn metrics(scrape: &str) -> String {
    let mut table = "| metric | kind | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for (name, Metric { help, kind, labels }) in families(scrape) {
        let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        let _ = writeln!(table, "| `{name}` | {kind} | {labels} | {} |", cell(&help));
    }
    table
}

/// A family of a scrape.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Metric {
    /// `# HELP`.
    pub help: String,
    /// `# TYPE`.
    pub kind: String,
    /// Names of labels, `le` left out.
    pub labels: BTreeSet<String>,
}

/// The families of a scrape, by name.
pub fn families(scrape: &str) -> BTreeMap<String, Metric> {
    let mut families = BTreeMap::<String, Metric>::new();
    let label = Regex::new(r#"([a-zA-Z_]+)=""#).expect("a pattern");
    for line in scrape.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            families.entry(name.to_owned()).or_default().help = help.to_owned();
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            families.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else if !line.starts_with('#') && !line.is_empty() {
            let full = line.split(['{', ' ']).next().unwrap_or_default();
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| full.strip_suffix(end));
            let name = base.filter(|name| families.contains_key(*name)).unwrap_or(full).to_owned();
            let labels = label.captures_iter(line).map(|found| found[1].to_owned()).filter(|name| name != "le");
            families.entry(name).or_default().labels.extend(labels);
        }
    }
    families
}

/// The names of fields in the log statements below a directory of sources.
pub fn log_fields(sources: &Path) -> BTreeSet<String> {
    let statement = Regex::new(r"\b(?:tracing::)?(?:trace|debug|info|warn|error|info_span|debug_span|span|event)!\(")
        .expect("a pattern");
    let field = Regex::new(r"^\s*(?:[%?]?\s*([A-Za-z_][A-Za-z0-9_.]*)\s*$|([A-Za-z_][A-Za-z0-9_.]*)\s*=[^=])")
        .expect("a pattern");
    let mut found = BTreeSet::new();
    for text in rust_files(sources) {
        for start in statement.find_iter(&text) {
            // A span's name comes before its fields. An event's message ends them; what follows are its arguments.
            let mut names_to_come = start.as_str().contains("span");
            for argument in arguments(&text[start.end()..]) {
                if argument.trim_start().starts_with('"') {
                    if !std::mem::take(&mut names_to_come) {
                        break;
                    }
                    continue;
                }
                if let Some(names) = field.captures(&argument) {
                    let name = names.get(1).or(names.get(2)).map_or("", |name| name.as_str());
                    if !name.contains("Level") {
                        found.insert(name.to_owned());
                    }
                }
            }
        }
    }
    found
}

/// The fields of a configuration file: those of the struct `File` in the sources, which refuses unknown ones, and below it.
pub fn configuration(sources: &[PathBuf]) -> BTreeSet<String> {
    let shape = Regex::new(r"(?s)deny_unknown_fields[^\]]*\]\s*(?:pub(?:\([a-z]+\))? )?struct (\w+) \{(.*?)\n\}")
        .expect("a pattern");
    let member = Regex::new(r"(?m)^\s*(?:pub(?:\([a-z]+\))? )?([a-z_]+): (.+),$").expect("a pattern");
    let mut shapes = BTreeMap::<String, Vec<(String, String)>>::new();
    for path in sources {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for found in shape.captures_iter(&text) {
            let members = member.captures_iter(&found[2]).map(|member| (camel_case(&member[1]), member[2].to_owned()));
            shapes.insert(found[1].to_owned(), members.collect());
        }
    }
    let mut fields = BTreeSet::new();
    below("File", "", &shapes, &mut fields);
    assert!(!fields.is_empty(), "no struct File that refuses unknown fields in {sources:?}");
    fields
}

fn below(shape: &str, path: &str, shapes: &BTreeMap<String, Vec<(String, String)>>, fields: &mut BTreeSet<String>) {
    for (name, kind) in shapes.get(shape).into_iter().flatten() {
        let list = if kind.starts_with("Vec<") { "[]" } else { "" };
        let path = format!("{path}{name}{list}");
        let inner = kind.trim_start_matches("Option<").trim_start_matches("Vec<").trim_end_matches('>');
        if shapes.contains_key(inner) {
            below(inner, &format!("{path}."), shapes, fields);
        } else {
            fields.insert(path);
        }
    }
}

fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |camel, word| camel + &word[..1].to_uppercase() + &word[1..])
}

/// Every match of a pattern's first group in the sources below a directory.
pub fn in_sources(sources: &Path, pattern: &str) -> BTreeSet<String> {
    let pattern = Regex::new(pattern).expect("a pattern");
    let files = rust_files(sources);
    files.iter().flat_map(|text| pattern.captures_iter(text).map(|found| found[1].to_owned())).collect()
}

fn rust_files(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory of sources").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(fs::read_to_string(&path).expect("a source"));
        }
    }
    found
}

/// The arguments of a macro whose opening parenthesis stands before `text`.
fn arguments(text: &str) -> Vec<String> {
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    let (mut all, mut current) = (Vec::new(), String::new());
    for character in text.chars() {
        if quoted {
            quoted = escaped || character != '"';
            escaped = !escaped && character == '\\';
        } else {
            match character {
                '"' => quoted = true,
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' if depth == 0 => break,
                ')' | ']' | '}' => depth -= 1,
                ',' if depth == 0 => {
                    all.push(std::mem::take(&mut current));
                    continue;
                }
                _ => {}
            }
        }
        current.push(character);
    }
    all.push(current);
    all
}

#[cfg(test)]
mod tests {
    use super::{arguments, families, metrics};

    #[test]
    fn arguments_end_where_the_macro_does() {
        let text = r#"a = f(1, 2), %b.c, ?d, "x, {e}", e = g); other(1)"#;
        assert_eq!(arguments(text), ["a = f(1, 2)", " %b.c", " ?d", " \"x, {e}\"", " e = g"]);
    }

    #[test]
    fn a_histogram_is_one_metric() {
        let scrape = "# HELP a_seconds Time.\n# TYPE a_seconds histogram\na_seconds_bucket{tool=\"x\",le=\"1\"} 1\n\
            a_seconds_sum{tool=\"x\"} 1\na_seconds_count{tool=\"x\"} 1\n# HELP b_total B | C.\n# TYPE b_total counter\nb_total 1\n";
        assert_eq!(families(scrape).len(), 2);
        assert!(
            metrics(scrape)
                .contains("| `a_seconds` | histogram | `tool` | Time. |\n| `b_total` | counter |  | B \\| C. |")
        );
    }
}
