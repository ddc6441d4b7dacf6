//! `storefence-operator`: one call into the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    storefence_operator::cli::main(std::env::args_os())
}
