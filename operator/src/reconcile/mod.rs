//! One `RetailTenant` to its logins, rows, keys and secrets: observe, diff, apply.
//!
//! The decisions are pure: [`desired`], [`conflict`], [`diff`], [`drift`], [`rotation`] and [`status`] know no I/O. [`pass`]
//! puts the I/O around them, [`finalize`] is the way back.

pub mod action;
mod adjust;
pub mod conflict;
mod credentials;
mod describe;
pub mod desired;
pub mod diff;
pub mod drift;
pub mod finalize;
mod held;
pub mod pass;
pub mod rotation;
pub mod stages;
pub mod state;
pub mod status;
pub mod takeover;
