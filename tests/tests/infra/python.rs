//! The checks that are written in Python, in a virtual environment under `target/`.

use std::{fs, path::PathBuf, process::Command, sync::OnceLock};

use anyhow::{Context, Result, anyhow, ensure};
use storefence_tests::outside::or_skipped;

use crate::root;

/// The virtual environment's programs, or why there are none.
fn environment() -> &'static Result<PathBuf, String> {
    static MADE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    MADE.get_or_init(|| make().map_err(|error| format!("{error:#}")))
}

fn make() -> Result<PathBuf> {
    let requirements = root().join("infra/check/requirements.txt");
    let wanted = fs::read_to_string(&requirements)?;
    let directory = root().join("target/infra-venv");
    let (bin, mark) = (directory.join("bin"), directory.join("requirements.txt"));
    if fs::read_to_string(&mark).is_ok_and(|made| made == wanted) && bin.join("python").exists() {
        return Ok(bin);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&directory))?;
    run(Command::new(bin.join("python"))
        .args(["-m", "pip", "install", "--quiet", "--requirement"])
        .arg(&requirements))?;
    fs::write(&mark, &wanted)?;
    Ok(bin)
}

/// Runs a program to its end; its output is the error when it fails.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{} failed:\n{text}", command.get_program().to_string_lossy());
    Ok(text)
}

/// The environment's programs; `None`, said aloud, where Python, venv or the package index is not to be had.
pub fn bin() -> Result<Option<&'static PathBuf>> {
    or_skipped("a Python environment for infra/check", environment().as_ref().map_err(|why| anyhow!("{why}")))
}

#[test]
fn each_rule_finds_what_breaks_it() -> Result<()> {
    let Some(bin) = bin()? else { return Ok(()) };
    let text = run(Command::new(bin.join("python")).current_dir(root()).args([
        "-m",
        "unittest",
        "discover",
        "-s",
        "infra/check",
    ]))?;
    ensure!(text.contains("OK") && !text.contains("Ran 0 tests"), "{text}");
    Ok(())
}

#[test]
fn bicep_parameters_templates_and_hooks_keep_the_rules() -> Result<()> {
    let Some(bin) = bin()? else { return Ok(()) };
    let text = run(Command::new(bin.join("python")).arg(root().join("infra/check/check.py")))?;
    ensure!(text.trim_end().ends_with(" 0 problems"), "{text}");
    Ok(())
}

#[test]
fn shell_scripts_are_clean() -> Result<()> {
    let scripts = ["infra/account.sh", "infra/deploy.sh", "infra/entra-app.sh"].map(|script| root().join(script));
    for script in &scripts {
        run(Command::new("bash").arg("-n").arg(script))?;
    }
    let Some(bin) = bin()? else { return Ok(()) };
    run(Command::new(bin.join("shellcheck")).args(&scripts))?;
    Ok(())
}

#[test]
fn pipelines_fit_their_schemas() -> Result<()> {
    let Some(bin) = bin()? else { return Ok(()) };
    for (schema, file) in [
        ("vendor.github-workflows", ".github/workflows/ci.yml"),
        ("vendor.dependabot", ".github/dependabot.yml"),
        ("vendor.azure-pipelines", "infra/pipelines/azure-pipelines.yml"),
    ] {
        // The Azure Pipelines schema has patterns that only Python's expressions take.
        run(Command::new(bin.join("check-jsonschema"))
            .args(["--regex-variant", "python", "--builtin-schema", schema])
            .arg(root().join(file)))?;
    }
    Ok(())
}
