//! Standard output: a reader that has seen enough (`| head`) is no error.

use std::io::{Write as _, stdout};

/// Writes what a command has to say. Who does not listen any more misses it.
pub fn write(text: std::fmt::Arguments<'_>) {
    let mut out = stdout().lock();
    let _ = out.write_fmt(text).and_then(|()| out.flush());
}

/// `println!` for readers that may have gone.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::output::write(format_args!("{}\n", format_args!($($text)*)))
    };
}

pub(crate) use say;
