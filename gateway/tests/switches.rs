//! No option and no variable turns a check off: each is examined by its name, by its values, and in the binary's own
//! help.

use std::{path::Path, process::Command};

use clap::{Arg, ArgAction};
use storefence_devstack::reference;
use storefence_gateway::cli;

/// Common names of such options elsewhere.
const WORDS: [&str; 19] = [
    "insecure",
    "unsafe",
    "skip",
    "disable",
    "without",
    "ignore",
    "bypass",
    "permissive",
    "anonymous",
    "unverified",
    "optional",
    "trust-all",
    "allow-any",
    "allow-all",
    "accept-any",
    "debug-token",
    "danger",
    "lax",
    "unauth",
];
/// Options without a value, and why each may exist.
const SWITCHES: [(&str, &str); 1] =
    [("trace-statements", "sends more to the operator's own collector, and checks nothing")];

/// Words that an option's name must not contain.
fn suspicious(name: &str) -> Vec<&'static str> {
    let name = name.to_lowercase().replace('_', "-");
    let mut found: Vec<_> = WORDS.into_iter().filter(|word| name.contains(word)).collect();
    found.extend(["no", "off", "none"].into_iter().filter(|word| name.split('-').any(|part| part == *word)));
    found
}

/// Every argument of every command, with the command's name.
fn arguments(command: &clap::Command, path: &str) -> Vec<(String, Arg)> {
    let path = format!("{path} {}", command.get_name()).trim().to_owned();
    let own = command.get_arguments().map(|argument| (path.clone(), argument.clone()));
    own.chain(command.get_subcommands().flat_map(|sub| arguments(sub, &path))).collect()
}

#[test]
fn no_option_is_a_switch_for_a_check() {
    let all = arguments(&cli::command(), "");
    assert!(all.len() > 60, "{}", all.len());
    for (command, argument) in all {
        let name = argument.get_id().as_str().replace('_', "-");
        assert!(!argument.is_hide_set(), "{command}: --{name} is hidden from the help");
        let variable = argument.get_env().and_then(|name| name.to_str()).unwrap_or_default();
        for text in [name.as_str(), variable] {
            assert_eq!(suspicious(text), Vec::<&str>::new(), "{command}: --{name}, {variable}");
        }
        for value in argument.get_possible_values().iter().filter(|_| argument.get_action().takes_values()) {
            assert_eq!(suspicious(value.get_name()), Vec::<&str>::new(), "{command}: --{name} {}", value.get_name());
        }
        let with_a_value = matches!(argument.get_action(), ArgAction::Set | ArgAction::Append);
        let known = SWITCHES.iter().any(|(switch, why)| *switch == name && !why.is_empty());
        assert!(with_a_value || known, "{command}: --{name} turns something on or off; is it a check?");
    }
    for name in ["STOREFENCE_SKIP_NBF", "insecure", "no-nbf", "STOREFENCE_NBF_OFF"] {
        assert!(!suspicious(name).is_empty(), "{name} would not be found");
    }
}

/// The binary's own help, in case it differs from the definition.
#[test]
fn the_help_of_the_binary_names_no_such_option() {
    for command in [&["run"][..], &["doctor"], &["explain"], &["probe"], &["audit", "verify"]] {
        let output =
            Command::new(env!("CARGO_BIN_EXE_storefence-gateway")).args(command).arg("--help").output().unwrap();
        assert!(output.status.success(), "{command:?}");
        let help = String::from_utf8(output.stdout).unwrap();
        let words = help.split(|at: char| at.is_whitespace() || "[]=,;()".contains(at));
        let names: Vec<_> = words.filter(|word| word.starts_with("--") || word.contains('_')).collect();
        assert!(names.len() > 3, "{help}");
        for name in names {
            assert_eq!(suspicious(name), Vec::<&str>::new(), "{command:?}: {name}");
        }
    }
}

/// Variables that are read outside of the options.
#[test]
fn no_variable_is_a_switch_for_a_check() {
    for package in ["runtime", "gateway", "tenancy"] {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(package).join("src");
        for name in reference::in_sources(&sources, r#"env::var(?:_os)?\("([A-Za-z_]+)"\)"#) {
            assert_eq!(suspicious(&name), Vec::<&str>::new(), "{package}: {name}");
        }
    }
}
