//! `cargo xtask test`: formatting, lints, then every test, with one line of totals at the end.

use std::{io::Write, process::Stdio, time::Instant};

use anyhow::{Result, bail, ensure};

use crate::{build, runner};

/// What to run.
#[derive(clap::Args)]
pub struct Options {
    /// Only tests whose name contains this
    filter: Option<String>,
    /// Skip formatting and lints
    #[arg(long)]
    no_lint: bool,
    /// Only this package (repeatable)
    #[arg(short, long)]
    package: Vec<String>,
}

/// Runs the tests. The last line is `N passed, N failed`.
pub fn run(options: &Options) -> Result<()> {
    build::binaries()?;
    if !options.no_lint {
        lint()?;
    }
    let begun = Instant::now();
    let mut totals = Totals::default();
    let mut out = std::io::stdout().lock();
    match runner::jobs(&options.package, options.filter.as_deref())? {
        Some(jobs) => runner::run(jobs, |ended| {
            writeln!(out, "\n{}, {} s\n{}", ended.name, ended.took.as_secs(), ended.output.trim_end())?;
            totals.add(&ended.output, ended.status.success());
            Ok(out.flush()?)
        })?,
        None => totals.failed = 1,
    }
    writeln!(out, "tests took {} s", begun.elapsed().as_secs())?;
    writeln!(out, "{} passed, {} failed", totals.passed, totals.failed)?;
    out.flush()?;
    ensure!(totals.passed + totals.failed > 0 || options.filter.is_some(), "no test ran");
    if totals.failed > 0 {
        std::process::exit(1);
    }
    Ok(())
}

fn lint() -> Result<()> {
    for (component, args) in [
        ("rustfmt", &["fmt", "--all", "--check"][..]),
        ("clippy", &["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"][..]),
    ] {
        let present = build::cargo()
            .args([args[0], "--version"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !present {
            let required = std::env::var_os("STOREFENCE_TEST_REQUIRE_ALL").is_some_and(|value| value == "1");
            left_out(component, required)?;
            continue;
        }
        eprintln!("cargo {}", args.join(" "));
        let status = build::cargo().args(args).status()?;
        if !status.success() {
            bail!("cargo {} does not pass", args.join(" "));
        }
    }
    Ok(())
}

/// As in the tests: said aloud, and an error where everything is required.
fn left_out(component: &str, required: bool) -> Result<()> {
    let way = format!("{component} is not installed (rustup component add {component})");
    ensure!(!required, "{way}, and STOREFENCE_TEST_REQUIRE_ALL is set");
    eprintln!("skipped: {way}");
    Ok(())
}

#[derive(Default)]
struct Totals {
    passed: u64,
    failed: u64,
}

impl Totals {
    /// Adds what one process wrote. One that dies without a result line has failed, whatever the counts say.
    fn add(&mut self, output: &str, success: bool) {
        let failed = self.failed;
        output.lines().for_each(|line| self.read(line));
        if !success {
            self.failed = self.failed.max(failed + 1);
        }
    }

    /// Adds a line such as `test result: ok. 14 passed; 0 failed; 0 ignored; …`.
    fn read(&mut self, line: &str) {
        let Some((_, counts)) = line.split_once("test result: ") else { return };
        let words: Vec<&str> = counts.split([' ', ';', '.']).filter(|word| !word.is_empty()).collect();
        for pair in words.windows(2) {
            match (pair[0].parse::<u64>(), pair[1]) {
                (Ok(n), "passed") => self.passed += n,
                (Ok(n), "failed") => self.failed += n,
                _ => {}
            }
        }
    }
}

/// Kept beside the reader of its output so that a change of libtest's wording shows.
#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn totals_add_up_over_test_binaries() {
        let mut totals = Totals::default();
        totals.read("test result: ok. 14 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        totals.read("test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out");
        totals.read("test something ... ok");
        assert_eq!((totals.passed, totals.failed), (17, 2));
    }

    #[test]
    fn a_binary_that_dies_has_failed() {
        let mut totals = Totals::default();
        totals.add("running 2 tests\n", false);
        totals.add("test result: FAILED. 3 passed; 2 failed; 0 ignored", false);
        totals.add("test result: ok. 1 passed; 0 failed; 0 ignored", false);
        assert_eq!((totals.passed, totals.failed), (4, 4));
    }

    #[test]
    fn a_lint_is_left_out_only_where_that_is_allowed() {
        left_out("clippy", false).unwrap();
        assert!(left_out("clippy", true).unwrap_err().to_string().contains("rustup component add clippy"));
    }

    #[test]
    fn libtest_still_says_test_result() {
        let this = std::env::current_exe().unwrap();
        let output = Command::new(this).args(["--exact", "test::tests::totals_add_up_over_test_binaries"]).output();
        let mut totals = Totals::default();
        String::from_utf8(output.unwrap().stdout).unwrap().lines().for_each(|line| totals.read(line));
        assert_eq!((totals.passed, totals.failed), (1, 0));
    }
}
