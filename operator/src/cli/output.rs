//! Standard output: a reader that has seen enough (`| head`) is no error.

use std::io::{ErrorKind, Write as _, stdout};

use anyhow::Context as _;

use super::CliError;

/// Writes a command's result.
pub fn write(text: std::fmt::Arguments<'_>) -> Result<(), CliError> {
    let mut out = stdout().lock();
    match out.write_fmt(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        outcome => Ok(outcome.context("standard output")?),
    }
}

/// `println!` for a command's result.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::output::write(format_args!("{}\n", format_args!($($text)*)))
    };
}

pub(super) use say;
