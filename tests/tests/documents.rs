//! Documents are tested: every manifest in README, docs and examples is accepted by the API server as it stands, and every
//! relative link leads somewhere.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use storefence_devstack::{
    kube_api::{KubeApi, KubeApiOptions},
    tls::Authority,
};
use storefence_tenancy::resource::crd;
use storefence_tests::documents::{files, page_blocks, yaml_blocks};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// What a YAML block is, by its top level. Each kind has a test that takes every block of it.
enum Kind {
    /// Accepted by the API server, below.
    RetailTenant,
    /// Taken by the chart's schema and templates: `values_in_the_documents_fit` in the suite `chart`.
    Values,
    /// Taken by the operator's parser: `configurations_in_the_documents_are_accepted` in `operator/src/config.rs`.
    Configuration,
}

fn kind(document: &Value) -> Option<Kind> {
    let values: Value =
        serde_saphyr::from_str(&fs::read_to_string(root().join("charts/storefence/values.yaml")).ok()?).ok()?;
    if document["kind"] == "RetailTenant" {
        return Some(Kind::RetailTenant);
    }
    let keys: Vec<&String> = document.as_object()?.keys().collect();
    if keys.iter().all(|key| values.get(key.as_str()).is_some()) {
        return Some(Kind::Values);
    }
    keys.contains(&&"databases".to_owned()).then_some(Kind::Configuration)
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_are_accepted_as_they_stand() {
    let authority = Authority::new().unwrap();
    let api = KubeApi::start(KubeApiOptions::new(&authority)).await.unwrap();
    let token = api.token(storefence_devstack::kube_api::ADMIN).unwrap();
    let ca = reqwest::Certificate::from_pem(authority.pem().as_bytes()).unwrap();
    let http = reqwest::Client::builder().add_root_certificate(ca).build().unwrap();
    let post = |path: &str, object: Value| {
        http.post(format!("{}{path}?fieldValidation=Strict", api.url())).bearer_auth(token).json(&object).send()
    };
    let created = post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", serde_json::to_value(crd()).unwrap());
    assert!(created.await.unwrap().status().is_success());

    let mut sources = yaml_blocks();
    let examples = files(&root().join("examples"), "yaml");
    sources.extend(examples.into_iter().map(|path| (path.clone(), fs::read_to_string(&path).unwrap())));
    let mut manifests = 0;
    for (n, (path, text)) in sources.into_iter().enumerate() {
        let shown = path.display();
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{shown}: not YAML: {error}\n{text}"));
        for mut document in documents {
            match kind(&document) {
                Some(Kind::RetailTenant) => {}
                Some(Kind::Values | Kind::Configuration) => continue,
                None => panic!("{shown}: no test knows what this is\n{text}"),
            }
            manifests += 1;
            document["metadata"]["name"] = format!("document-{n}-{manifests}").into();
            document["metadata"]["namespace"] = "default".into();
            let path = "/apis/retail.storefence.dev/v1alpha1/namespaces/default/retailtenants";
            let answer = post(path, document).await.unwrap();
            let (status, said) = (answer.status(), answer.text().await.unwrap());
            assert!(status.is_success(), "{shown}: {said}\n{text}");
        }
    }
    assert!(manifests >= 2, "the examples were not found");
    api.shutdown().await;
}

/// What is wrong with a Mermaid diagram, as far as can be checked without its renderer.
fn diagram(text: &str) -> Result<(), String> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("%%"));
    let first = lines.next().ok_or("it is empty")?;
    let (opens, ends, each): (&[&str], &str, fn(&str) -> bool) = match first.split(' ').next() {
        Some("flowchart") => (&["subgraph "], "end", |_| true),
        Some("sequenceDiagram") => (&["opt ", "alt ", "loop ", "par ", "critical "], "end", |line| {
            let message = regex::Regex::new(r"^[a-z]+ ?(-?->>|-?-[)x])[+-]? ?[a-z]+: \S").unwrap();
            let word = ["participant ", "actor ", "Note ", "else ", "and ", "autonumber"];
            word.iter().any(|word| line.starts_with(word)) || message.is_match(line)
        }),
        other => return Err(format!("{other:?} is no kind of diagram that is used here")),
    };
    let (mut depth, mut named, mut used) = (0, Vec::new(), Vec::new());
    for line in lines {
        for [open, close] in [["[", "]"], ["(", ")"], ["{", "}"], ["\"", "\""]] {
            let counts = [open, close].map(|bracket| line.matches(bracket).count());
            let balanced = if open == close { counts[0] % 2 == 0 } else { counts[0] == counts[1] };
            balanced.then_some(()).ok_or_else(|| format!("{open} and {close} do not fit together: {line}"))?;
        }
        if opens.iter().any(|open| line.starts_with(open)) {
            depth += 1;
        } else if line == ends {
            depth -= 1;
            (depth >= 0).then_some(()).ok_or("an end too many")?;
        } else if !each(line) {
            return Err(format!("not a line of a {first}: {line}"));
        } else if let Some(name) = line.strip_prefix("participant ") {
            named.push(name.split(' ').next().unwrap_or_default());
        } else if let Some((arrow, _)) = line.split_once(": ").filter(|(arrow, _)| arrow.contains("->>")) {
            used.extend(arrow.split("->>").map(|name| name.trim_end_matches('-')));
        }
    }
    (depth == 0).then_some(()).ok_or(format!("{depth} ends are missing"))?;
    match used.iter().find(|name| first == "sequenceDiagram" && !named.contains(name)) {
        Some(name) => Err(format!("{name} is no participant")),
        None => Ok(()),
    }
}

#[test]
fn diagrams_are_of_a_known_kind_and_whole() {
    let shown = page_blocks("mermaid");
    for (path, text) in &shown {
        diagram(text).unwrap_or_else(|error| panic!("{}: {error}\n{text}", path.display()));
    }
    let architecture = shown.iter().filter(|(path, _)| path.ends_with("docs/architecture.md"));
    assert!(architecture.count() >= 2, "one call and one apply, from end to end");
    for (text, words) in [
        ("", "it is empty"),
        ("pie\n  \"a\" : 1", "no kind of diagram"),
        ("flowchart LR\n  a[one --> b", "do not fit together"),
        ("flowchart LR\n  subgraph a\n  b --> c", "ends are missing"),
        ("flowchart LR\n  end", "an end too many"),
        ("sequenceDiagram\n  participant a\n  a->>b: asks", "b is no participant"),
        ("sequenceDiagram\n  participant a\n  a to a", "not a line of"),
    ] {
        let error = diagram(text).expect_err(text);
        assert!(error.contains(words), "{text}: {error}");
    }
}

/// Files that people and forges look for, each with what it is for.
#[test]
fn what_a_visitor_looks_for_is_there() {
    for (file, holds) in [
        ("README.md", "## Install on a cluster"),
        ("SECURITY.md", "report it privately"),
        ("CHANGELOG.md", "## Unreleased"),
        ("CONTRIBUTING.md", "cargo xtask test"),
        ("LICENSE", "Apache License"),
        (".editorconfig", "root = true"),
        ("rust-toolchain.toml", "[toolchain]"),
        (".pre-commit-config.yaml", "cargo fmt --all --check"),
        (".github/CODEOWNERS", "/migrations/"),
        (".github/PULL_REQUEST_TEMPLATE.md", "cargo xtask test"),
        (".github/ISSUE_TEMPLATE/bug.yml", "report it privately"),
        (".github/ISSUE_TEMPLATE/feature.yml", "The need"),
    ] {
        let text = fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(text.contains(holds), "{file} does not hold '{holds}'");
    }
}

/// The list of decisions has all of them, by their numbers and without a gap.
#[test]
fn every_decision_is_in_the_list() {
    let directory = root().join("docs/decisions");
    let list = fs::read_to_string(directory.join("README.md")).unwrap();
    let row = regex::Regex::new(r"(?m)^\| \[(\d{4})\]\((\d{4})(-[a-z0-9-]+\.md)\) \| \S").unwrap();
    let listed: Vec<(String, String)> =
        row.captures_iter(&list).map(|found| (found[1].to_owned(), format!("{}{}", &found[2], &found[3]))).collect();
    for (n, (number, file)) in listed.iter().enumerate() {
        assert_eq!(*number, format!("{:04}", n + 1), "{file}");
        assert!(file.starts_with(number.as_str()), "{number} leads to {file}");
        let text = fs::read_to_string(directory.join(file)).unwrap();
        assert!(text.starts_with(&format!("# {number} ")), "{file} has the number of another in its heading");
    }
    let mut present: Vec<String> = files(&directory, "md")
        .iter()
        .filter_map(|path| path.file_name()?.to_str().map(str::to_owned))
        .filter(|name| name != "README.md")
        .collect();
    present.sort();
    assert!(
        present.len() >= 16 && present == listed.into_iter().map(|(_, file)| file).collect::<Vec<_>>(),
        "{present:?}"
    );
}

/// A folder that an owner is named for exists: a rule for one that has moved protects nothing.
#[test]
fn every_path_with_an_owner_exists() {
    let text = fs::read_to_string(root().join(".github/CODEOWNERS")).unwrap();
    let paths: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix('/')?.split(' ').next()).collect();
    assert!(paths.len() >= 5, "{paths:?}");
    for path in paths {
        assert!(root().join(path).is_dir(), "{path}");
    }
}

/// A table of the reference names each thing once: two rows of one name say two things, and one of them is stale.
/// Options are left out: several commands may have one of the same name.
#[test]
fn reference_tables_have_no_row_twice() {
    let pages = files(&root().join("docs/reference"), "md");
    let text: String = pages.iter().map(|page| fs::read_to_string(page).unwrap()).collect();
    let mut tables = 0;
    for table in text.split("<!-- reference: ").skip(1).filter(|table| !table.starts_with("options of")) {
        let table = table.split("<!-- end of reference -->").next().unwrap();
        let mut names: Vec<&str> =
            table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all, "a row stands twice in: {}", table.lines().next().unwrap_or_default());
        tables += 1;
    }
    assert!(tables >= 4, "{tables} tables");
}

#[test]
fn relative_links_lead_somewhere() {
    let documents = files(&root(), "md");
    let link = regex::Regex::new(r"\]\(([^)#\s]+)(#[^)]*)?\)").unwrap();
    let mut broken = Vec::new();
    for path in &documents {
        for found in link.captures_iter(&fs::read_to_string(path).unwrap()) {
            let target = &found[1];
            if !target.contains("://")
                && !target.starts_with("mailto:")
                && !path.parent().unwrap().join(target).exists()
            {
                broken.push(format!("{}: {target}", path.strip_prefix(root()).unwrap().display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// The anchors of a page: those that its headings get on a forge, and those that it sets itself.
fn anchors(markdown: &str) -> BTreeSet<String> {
    let own = markdown.split("<a id=\"").skip(1).filter_map(|rest| rest.split('"').next());
    let mut found: BTreeSet<String> = own.map(str::to_owned).collect();
    let mut fenced = false;
    for line in markdown.lines() {
        fenced ^= line.trim_start().starts_with("```");
        if let Some(heading) =
            line.trim_start_matches('#').strip_prefix(' ').filter(|_| !fenced && line.starts_with('#'))
        {
            let heading = heading.trim().to_lowercase();
            let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | ' '));
            found.insert(kept.map(|c| if c == ' ' { '-' } else { c }).collect());
        }
    }
    found
}

#[test]
fn links_to_sections_lead_to_one() {
    let link = regex::Regex::new(r"\]\(([^)#\s]*)#([^)\s]+)\)").unwrap();
    let mut broken = Vec::new();
    for path in files(&root(), "md") {
        for found in link.captures_iter(&fs::read_to_string(&path).unwrap()) {
            let (page, section) = (&found[1], &found[2]);
            if page.contains("://") || !(page.is_empty() || page.ends_with(".md")) {
                continue;
            }
            let target = if page.is_empty() { path.clone() } else { path.parent().unwrap().join(page) };
            if !fs::read_to_string(target).is_ok_and(|text| anchors(&text).contains(section)) {
                broken.push(format!("{}: {page}#{section}", path.strip_prefix(root()).unwrap().display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// Tables, code and the line that a run of the bench writes are as wide as they have to be.
#[test]
fn prose_fits_into_120_columns() {
    let mut pages = files(&root().join("docs"), "md");
    pages.extend(["README.md", "CONTRIBUTING.md", "SECURITY.md"].map(|page| root().join(page)));
    let mut wide = Vec::new();
    for path in pages {
        let mut fenced = false;
        for (n, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            let text = line.trim_start();
            fenced ^= text.starts_with("```");
            let free = fenced || text.starts_with('|') || text.starts_with("Measured 2");
            if !free && line.chars().count() > 120 {
                wide.push(format!("{}:{}", path.strip_prefix(root()).unwrap().display(), n + 1));
            }
        }
    }
    assert!(wide.is_empty(), "wider than 120 columns: {wide:#?}");
}
