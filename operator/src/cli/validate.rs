//! `validate`: whether the RetailTenants of a file would be admitted and served, without a cluster.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;

use super::{CliError, output::write};
use crate::manifest::{self, Checked};

/// Exit code of a manifest that has problems.
const REFUSED: u8 = 1;

/// `validate`.
#[derive(Debug, Args)]
pub struct Validate {
    /// YAML or JSON file with RetailTenants; - for standard input.
    #[arg(short, long, env = "STOREFENCE_VALIDATE_FILE", value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Prints what is wrong with each RetailTenant of the file.
pub fn validate(arguments: Validate) -> Result<ExitCode, CliError> {
    let Validate { file } = arguments;
    let (flag, variable) = ("--file", "STOREFENCE_VALIDATE_FILE");
    let file = file.ok_or(CliError::Missing { flag, variable, what: "a YAML file with RetailTenants" })?;
    let checked = read(&file, flag, variable)?;
    let mut text = String::new();
    for one in &checked {
        let _ = write!(text, "{}", report(one));
    }
    write(format_args!("{text}"))?;
    let good = checked.iter().all(|one| one.problems.is_empty());
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) })
}

/// Reads and checks the manifests of a file, or of standard input.
pub fn read(file: &Path, flag: &'static str, variable: &'static str) -> Result<Vec<Checked>, CliError> {
    let unusable =
        |problem: String| CliError::Invalid { flag, variable, problem: format!("{}: {problem}", file.display()) };
    let text = match file.to_str() {
        Some("-") => std::io::read_to_string(std::io::stdin()),
        _ => std::fs::read_to_string(file),
    };
    let text = text.map_err(|error| unusable(error.to_string()))?;
    manifest::check(&text).map_err(|error| unusable(error.to_string()))
}

/// What there is to say of one document.
pub fn report(checked: &Checked) -> String {
    let Checked { number, name, problems, notes, .. } = checked;
    let name = name.as_deref().map_or_else(|| format!("document {number}"), str::to_owned);
    let mut text = String::new();
    match problems.len() {
        0 => {
            let _ = writeln!(text, "{name}: valid");
        }
        count => {
            let _ = writeln!(text, "{name}: {count} problem{}", if count == 1 { "" } else { "s" });
        }
    }
    for problem in problems {
        let _ = writeln!(text, "  {problem}");
    }
    for note in notes {
        let _ = writeln!(text, "  note: {note}");
    }
    text
}
