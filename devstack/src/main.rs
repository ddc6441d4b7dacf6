//! The binary is one call into its library.

use std::process::ExitCode;

fn main() -> ExitCode {
    storefence_devstack::cli::run()
}
