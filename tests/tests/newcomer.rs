//! Written soon.
fn main() {}
