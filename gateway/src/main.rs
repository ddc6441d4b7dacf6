//! `storefence-gateway`: one call into the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    storefence_gateway::cli::main(std::env::args_os())
}
