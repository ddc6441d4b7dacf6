//! The Dockerfile without Docker: its stages, who runs in the images, and that what it copies is what the build reads.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use regex::Regex;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A stage: what it is from, its name, its instructions with continued lines joined.
struct Stage {
    from: String,
    name: String,
    steps: Vec<String>,
}

fn stages() -> Vec<Stage> {
    let text = read("Dockerfile").replace("\\\n", " ");
    let mut found: Vec<Stage> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(rest) = line.strip_prefix("FROM ") {
            let (from, name) = rest.split_once(" AS ").unwrap_or_else(|| panic!("a stage without a name: {line}"));
            found.push(Stage { from: from.to_owned(), name: name.to_owned(), steps: Vec::new() });
        } else if let Some(stage) = found.last_mut() {
            stage.steps.push(line.to_owned());
        }
    }
    found
}

fn stage(name: &str) -> Stage {
    stages().into_iter().find(|stage| stage.name == name).unwrap_or_else(|| panic!("no stage {name}"))
}

#[test]
fn images_are_one_binary_on_a_distroless_base_and_not_root() {
    let base = stage("base");
    assert!(base.from.starts_with("gcr.io/distroless/") && base.from.ends_with(":nonroot"), "{}", base.from);
    assert!(base.steps.contains(&"USER 65532:65532".to_owned()), "as the chart's podSecurityContext");
    for label in ["source", "licenses", "vendor", "version", "revision"] {
        let wanted = format!("org.opencontainers.image.{label}=");
        assert!(base.steps.iter().any(|step| step.starts_with("LABEL ") && step.contains(&wanted)), "{label}");
    }
    for part in ["operator", "gateway", "devstack"] {
        let image = stage(part);
        assert_eq!(image.from, "base", "{part}");
        let copied: Vec<&String> = image.steps.iter().filter(|step| step.starts_with("COPY ")).collect();
        let binary = format!("/usr/local/bin/storefence-{part}");
        assert_eq!(
            *copied[0],
            format!("COPY --from=build /storefence/target/release/storefence-{part} {binary}"),
            "{part}"
        );
        assert_eq!(
            copied.len(),
            if part == "devstack" { 2 } else { 1 },
            "{part}: the model comes with the stand-ins only"
        );
        assert!(image.steps.contains(&format!("ENTRYPOINT [\"{binary}\"]")), "{part}");
        assert!(!image.steps.iter().any(|step| step.starts_with("RUN ") || step.starts_with("USER ")), "{part}");
        for label in ["title", "description"] {
            assert!(image.steps.iter().any(|step| step.contains(&format!("org.opencontainers.image.{label}="))));
        }
    }
    assert_eq!(stages().last().map(|stage| stage.name.clone()).as_deref(), Some("gateway"), "what no target means");
}

#[test]
fn dependencies_are_compiled_in_a_layer_of_their_own() {
    let build = stage("build");
    let place = |start: &str| build.steps.iter().position(|step| step.starts_with(start)).unwrap();
    let [cook, copy, compile] = ["RUN cargo chef cook", "COPY . .", "RUN cargo auditable build"].map(place);
    assert!(cook < copy && copy < compile, "sources come after the dependencies");
    for step in [&build.steps[cook], &build.steps[compile]] {
        assert!(step.contains("--release") && step.contains("--locked"), "{step}");
        for part in ["operator", "gateway", "devstack"] {
            assert!(step.contains(&format!("--package storefence-{part}")), "{step}");
        }
    }
    assert!(!read("Dockerfile").contains("--mount="), "registries' own builders have no BuildKit");
    let version = Regex::new(r"ARG RUST_VERSION=(\d+\.\d+)").unwrap();
    let minimum = Regex::new(r#"rust-version = "(\d+\.\d+)""#).unwrap();
    let (dockerfile, manifest) = (read("Dockerfile"), read("Cargo.toml"));
    assert_eq!(version.captures(&dockerfile).unwrap()[1], minimum.captures(&manifest).unwrap()[1]);
}

/// Syft reads the crates of a Rust binary from what cargo-auditable writes into it; without that the SBOM names none of them.
#[test]
fn binaries_carry_the_list_of_their_crates() {
    let pinned = Regex::new(r"cargo install cargo-auditable --version \d+\.\d+\.\d+ --locked").unwrap();
    assert!(stage("tools").steps.iter().any(|step| pinned.is_match(step)));
    let built: Vec<String> =
        stages().into_iter().flat_map(|stage| stage.steps).filter(|step| step.contains("build --release")).collect();
    assert!(built.len() == 1 && built[0].starts_with("RUN cargo auditable build --release"), "{built:?}");
}

#[test]
fn the_version_on_the_label_is_the_workspaces() {
    let base = stage("base");
    assert!(base.steps.contains(&format!("ARG VERSION={}", env!("CARGO_PKG_VERSION"))), "{:?}", base.steps);
}

/// The image's model is the one that the code would fetch, so that it finds it.
#[test]
fn the_model_is_the_codes() {
    let code = read("devstack/src/embeddings/model.rs");
    let of = |name: &str| {
        let pattern = Regex::new(&format!(r#"const {name}: &str = "([^"]+)""#)).unwrap();
        pattern.captures(&code).unwrap_or_else(|| panic!("no {name}"))[1].to_owned()
    };
    let revision = Regex::new(r"revision: (\d+)").unwrap().captures(&code).unwrap()[1].to_owned();
    let run = &stage("model").steps[0];
    assert!(run.contains(&format!("{}=={} --hash=sha256:{}", of("NAME"), of("VERSION"), of("SHA256"))), "{run}");
    assert!(run.contains(&format!("devstack/{}-{}-r{revision}/", of("NAME"), of("VERSION"))), "{run}");
    for file in ["model.safetensors", "tokenizer.json"] {
        assert!(run.contains(file) && code.contains(file));
    }
    assert!(stage("devstack").steps.contains(&"ENV STOREFENCE_DEVSTACK_DIR=/usr/local/share/storefence".to_owned()));
}

/// Paths that the build context has.
fn context() -> BTreeSet<String> {
    read(".dockerignore").lines().filter_map(|line| line.strip_prefix('!')).map(str::to_owned).collect()
}

#[test]
fn the_build_context_has_what_the_build_reads_and_little_else() {
    let context = context();
    assert!(read(".dockerignore").lines().any(|line| line == "*"), "everything else is left out");
    let manifest = read("Cargo.toml");
    let members = Regex::new(r"members = \[([^\]]*)\]").unwrap().captures(&manifest).unwrap()[1].to_owned();
    for member in members.split(',').map(|member| member.trim().trim_matches('"')) {
        assert!(context.contains(member), "cargo needs the manifest of {member}");
    }
    for path in &context {
        assert!(root().join(path).exists(), "{path} is not there");
    }
    // Files that a binary carries in itself.
    let include = Regex::new(r#"(?:include_str|include_bytes|include_dir|migrate)!\(\s*(?:concat!\(env!\("CARGO_MANIFEST_DIR"\), )?"([^"]+)""#).unwrap();
    for member in ["tenancy", "runtime", "pgwire", "operator", "gateway", "devstack"] {
        let mut sources = Vec::new();
        collect(&root().join(member).join("src"), &mut sources);
        for source in sources {
            // Tests are not in the image.
            let text = fs::read_to_string(&source).unwrap();
            for found in include.captures_iter(text.split("#[cfg(test)]").next().unwrap()) {
                let relative = found[1].trim_start_matches('/');
                let from_file = source.parent().unwrap().join(relative);
                let path = if from_file.exists() { from_file } else { root().join(member).join(relative) };
                let path =
                    path.canonicalize().unwrap_or_else(|error| panic!("{}: {relative}: {error}", source.display()));
                let root = root().canonicalize().unwrap();
                let first = path.strip_prefix(&root).unwrap().iter().next().unwrap().to_string_lossy().into_owned();
                assert!(
                    context.contains(&first),
                    "{} includes {relative}, which is not in the context",
                    source.display()
                );
            }
        }
    }
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}
