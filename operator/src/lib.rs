//! The operator: brings every `RetailTenant` to its database logins, fence rows, context keys and Key Vault secrets.
//!
//! Start at [`plan`] for what is decided, at [`controller`] for when, at [`reconcile`] for the I/O around it, and at
//! [`database`], [`vault`] and [`credentials`] for how; [`migrate`], [`seed`], [`embed`] and [`verify`] look after the
//! database as a whole.
//!
//! Modules depend on each other in one direction: [`reason`], [`backoff`], [`kubernetes`], [`roles`] and [`quote`] use no
//! other, [`cli`] and [`controller`] may use all.

pub mod backends;
pub mod backoff;
pub mod circuit;
pub mod cli;
pub mod config;
pub mod controller;
pub mod credentials;
pub mod database;
pub mod embed;
pub mod kubernetes;
pub mod leader;
pub mod manifest;
pub mod metrics;
pub mod migrate;
pub mod plan;
pub mod quote;
pub mod reason;
pub mod reconcile;
pub mod roles;
pub mod seed;
pub mod server;
pub mod vault;
pub mod verify;
