//! What is to be done for one `RetailTenant`, as pure functions: no clock, no database, no vault.
//!
//! Read in this order: [`desired`] follows from the spec, [`state`] is what was observed, [`diff`] makes the steps
//! ([`action`]) between the two, or a [`refusal`]. [`rotation`] says which credentials are wanted, [`takeover`] and
//! [`conflict`] who owns what was there before, [`drift`] which steps nobody asked for, [`stages`] in which parts they
//! are taken when they fail as a whole. [`status`] is what the object shows of all that, [`problem`] what went wrong.

pub mod action;
pub mod conflict;
mod describe;
pub mod desired;
pub mod diff;
pub mod drift;
#[cfg(test)]
pub(crate) mod model;
pub mod problem;
pub mod refusal;
pub mod rotation;
pub mod stages;
pub mod state;
pub mod status;
pub mod takeover;
