//! What the end-to-end suites share: one running stack for all tests of a suite, clients, and comparison with SQL run as
//! administrator.

pub mod damage;
pub mod documented;
pub mod documents;
mod oracle;
pub mod outside;
mod stack;
mod suite;

pub use oracle::Oracle;
pub use stack::{Answered, Shared, answered, kubectl, wait_until};
pub use suite::{Suite, skip};
