//! Isolation on PostgreSQL 18.

mod isolation;

fn main() -> std::process::ExitCode {
    isolation::run(18)
}
