//! What the pipelines call exists, and they ask for no more than they need.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result, ensure};
use regex::Regex;
use serde_json::Value;

use crate::root;

const WORKFLOW: &str = ".github/workflows/ci.yml";
const PIPELINES: [&str; 2] = [WORKFLOW, "infra/pipelines/azure-pipelines.yml"];

fn read(path: &str) -> Result<String> {
    fs::read_to_string(root().join(path)).with_context(|| path.to_owned())
}

fn yaml(path: &str) -> Result<Value> {
    serde_saphyr::from_str(&read(path)?).with_context(|| path.to_owned())
}

/// Commands of xtask, from the `Command` enum: CamelCase becomes kebab-case as clap does it.
fn xtask_commands() -> Result<BTreeSet<String>> {
    let source = read("xtask/src/main.rs")?;
    let body = source.split("enum Command {").nth(1).context("xtask has no enum Command")?;
    let body = body.split("\n}").next().unwrap_or_default();
    let variant = Regex::new(r"(?m)^    ([A-Z][A-Za-z]*)")?;
    let words = Regex::new("([a-z])([A-Z])")?;
    Ok(variant.captures_iter(body).map(|found| words.replace_all(&found[1], "$1-$2").to_lowercase()).collect())
}

#[test]
fn every_xtask_command_they_call_exists() -> Result<()> {
    let commands = xtask_commands()?;
    ensure!(commands.contains("test"), "{commands:?}");
    let call = Regex::new(r"cargo xtask ([a-z][a-z-]*)")?;
    for path in PIPELINES {
        let text = read(path)?;
        let called: BTreeSet<_> = call.captures_iter(&text).map(|found| found[1].to_owned()).collect();
        ensure!(called.contains("test"), "{path} does not run cargo xtask test");
        ensure!(called.is_subset(&commands), "{path} calls {:?}", called.difference(&commands).collect::<Vec<_>>());
    }
    Ok(())
}

#[test]
fn files_they_name_exist() -> Result<()> {
    let file = Regex::new(r"(?m)(?:^|[\s=])(?:\./)?(infra/[A-Za-z0-9_./-]+\.(?:sh|py|bicep|txt|json))")?;
    for path in PIPELINES {
        let text = read(path)?.replace("${{ parameters.environment }}", "dev");
        for found in file.captures_iter(&text) {
            ensure!(root().join(&found[1]).exists(), "{path} names {}, which does not exist", &found[1]);
        }
    }
    Ok(())
}

/// The workflow's scripts, each with its job's name.
fn scripts() -> Result<Vec<(String, String)>> {
    let workflow = yaml(WORKFLOW)?;
    let jobs = workflow["jobs"].as_object().context("no jobs")?;
    let steps =
        jobs.iter().flat_map(|(job, body)| body["steps"].as_array().into_iter().flatten().map(move |s| (job, s)));
    Ok(steps.filter_map(|(job, step)| Some((job.clone(), step["run"].as_str()?.to_owned()))).collect())
}

#[test]
fn the_workflow_does_all_that_a_release_needs() -> Result<()> {
    let scripts = scripts()?;
    for (job, command) in [
        ("test", "cargo build --workspace --locked"),
        ("test", "cargo xtask test"),
        ("conformance", "cargo xtask conformance"),
        ("chart", "helm lint charts/storefence --strict"),
        ("images", "docker build --target ${{ matrix.part }}"),
        ("images", "--build-arg REVISION=${{ github.sha }}"),
        ("images", r#"'[.packages[].name] | contains(["tokio""#),
        ("compose", "docker compose up --build --detach"),
        ("compose", "docker compose run --rm ready"),
        ("kind", "cargo xtask kind up"),
        ("kind", "cargo xtask ask "),
        ("kind", "helm test storefence"),
        ("infra", "python infra/check/check.py"),
    ] {
        ensure!(scripts.iter().any(|(found, text)| found == job && text.contains(command)), "{job}: {command}");
    }
    let text = read(WORKFLOW)?;
    // What the SBOM's step writes is what the next one reads.
    ensure!(text.matches("storefence-${{ matrix.part }}.spdx.json").count() == 3);
    for action in ["EmbarkStudios/cargo-deny-action@", "anchore/sbom-action@"] {
        ensure!(text.contains(action), "{action}");
    }
    ensure!(root().join("deny.toml").exists());
    Ok(())
}

/// Tests, targets and files of the workflow's scripts are there, and their words are commands that exist.
#[test]
fn what_the_workflow_runs_exists() -> Result<()> {
    let (dockerfile, kind) = (read("Dockerfile")?, read("devstack/src/cli/kind/mod.rs")?);
    let test = Regex::new(r"--test ([a-z0-9_]+)")?;
    let path = Regex::new(r"(?:^|[\s=])((?:charts|tests|infra)/[A-Za-z0-9_./*-]+)")?;
    let verb = Regex::new(r"cargo xtask kind ([a-z]+)")?;
    for (job, script) in scripts()? {
        for found in test.captures_iter(&script) {
            let (file, folder) =
                (format!("tests/tests/{}.rs", &found[1]), format!("tests/tests/{}/main.rs", &found[1]));
            ensure!(root().join(file).exists() || root().join(folder).exists(), "{job}: no test {}", &found[1]);
        }
        for found in path.captures_iter(&script) {
            let directory = found[1].split('*').next().unwrap_or_default();
            ensure!(root().join(directory).exists(), "{job}: {} does not exist", &found[1]);
        }
        for found in verb.captures_iter(&script) {
            let (first, rest) = found[1].split_at(1);
            let variant = format!("    {}{rest}", first.to_uppercase());
            ensure!(kind.contains(&variant), "{job}: cargo xtask kind {}", &found[1]);
        }
    }
    let workflow = yaml(WORKFLOW)?;
    for part in workflow["jobs"]["images"]["strategy"]["matrix"]["part"].as_array().context("no matrix")? {
        let part = part.as_str().context("not a name")?;
        ensure!(dockerfile.contains(&format!("FROM base AS {part}\n")), "the Dockerfile has no target {part}");
    }
    let kubeconfig = "target/devstack/kind";
    ensure!(read(WORKFLOW)?.contains(kubeconfig), "where cargo xtask kind writes");
    Ok(())
}

#[test]
fn the_workflow_may_only_read_and_pins_its_actions() -> Result<()> {
    let workflow = yaml(WORKFLOW)?;
    ensure!(workflow["permissions"] == serde_json::json!({"contents": "read"}), "{}", workflow["permissions"]);
    let digest = Regex::new(r"^[\w./-]+@[0-9a-f]{40}$")?;
    // Dependabot reads the version from the comment, and so do people.
    let commented = Regex::new(r"(?m)^\s*(?:- )?uses: \S+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")?;
    let text = read(WORKFLOW)?;
    ensure!(
        commented.find_iter(&text).count() == text.matches("uses: ").count(),
        "a pin without its version beside it"
    );
    let jobs = workflow["jobs"].as_object().context("no jobs")?;
    for (name, job) in jobs {
        ensure!(job["timeout-minutes"].is_u64(), "job {name} has no time limit");
        ensure!(job.get("permissions").is_none(), "job {name} asks for more than contents: read; say here why");
        for step in job["steps"].as_array().context("no steps")? {
            let Some(action) = step["uses"].as_str() else { continue };
            ensure!(digest.is_match(action), "job {name}: {action} is not pinned to a commit; a tag can be moved");
            if action.starts_with("actions/checkout@") {
                ensure!(step["with"]["persist-credentials"] == false, "job {name} leaves its token in the checkout");
            }
        }
    }
    Ok(())
}

#[test]
fn dependabot_follows_everything_that_is_pinned() -> Result<()> {
    let config = yaml(".github/dependabot.yml")?;
    let kinds: BTreeSet<_> = config["updates"]
        .as_array()
        .context("no updates")?
        .iter()
        .map(|u| u["package-ecosystem"].clone().to_string())
        .collect();
    for kind in ["cargo", "github-actions", "pip", "docker", "docker-compose"] {
        ensure!(kinds.contains(&format!("\"{kind}\"")), "{kind} is missing");
    }
    Ok(())
}

/// What Azure Pipelines run for a pull request looks and changes nothing.
#[test]
fn a_pull_request_changes_nothing_in_azure() -> Result<()> {
    let pipeline = yaml("infra/pipelines/azure-pipelines.yml")?;
    let call = Regex::new(r"deploy\.sh ([a-z-]+)")?;
    let main_only = |item: &Value| {
        item["condition"].as_str().is_some_and(|condition| {
            condition.starts_with("and(succeeded(), eq(variables['Build.SourceBranch'], 'refs/heads/main')")
        })
    };
    let mut called = BTreeSet::new();
    for stage in pipeline["stages"].as_array().context("no stages")?.iter().filter(|stage| !main_only(stage)) {
        for job in stage["jobs"].as_array().context("no jobs")?.iter().filter(|job| !main_only(job)) {
            let text = job.to_string();
            called.extend(call.captures_iter(&text).map(|found| found[1].to_owned()));
        }
    }
    ensure!(called == BTreeSet::from(["preflight".to_owned(), "what-if".to_owned()]), "{called:?}");
    Ok(())
}

/// Whatever `deploy.sh` takes from variables stands in the pipeline's list and on the page, but for what azd alone sets.
#[test]
fn the_pipelines_variables_are_those_of_the_script() -> Result<()> {
    let variable = Regex::new(r"\$\{(STOREFENCE_[A-Z_]+):")?;
    let scripts = read("infra/deploy.sh")? + &read("infra/account.sh")?;
    let mut known: BTreeSet<_> = variable.captures_iter(&scripts).map(|found| found[1].to_owned()).collect();
    // An output of the deployment, and two that options and the commit give.
    for other in ["STOREFENCE_ADMIN_URL_VERSION", "STOREFENCE_NAMESPACE", "STOREFENCE_IMAGE_TAG"] {
        ensure!(known.remove(other), "{other}");
    }
    ensure!(known.len() >= 8, "{known:?}");
    for path in ["infra/pipelines/azure-pipelines.yml", "docs/azure.md"] {
        let text = read(path)?;
        let missing: Vec<_> = known.iter().filter(|name| !text.contains(name.as_str())).collect();
        ensure!(missing.is_empty(), "{path}: {missing:?}");
    }
    Ok(())
}
