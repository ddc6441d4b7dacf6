//! Isolation on PostgreSQL 16.

mod isolation;

fn main() -> std::process::ExitCode {
    isolation::run(16)
}
