//! The gateway: token -> scope -> MCP tools.

pub mod admin;
pub mod audit;
pub mod cache;
pub mod caller;
pub mod cli;
pub mod config;
pub mod db;
pub mod doctor;
pub mod explain;
pub mod gate;
pub mod http;
pub mod identity;
pub mod mcp;
pub mod metrics;
pub mod performance;
pub mod questions;
pub mod quota;
pub mod redis;
pub mod run;
pub mod server;
pub mod settings;
pub mod telemetry;
pub mod tenants;
pub mod tools;
pub mod trust;
pub mod vaults;

/// How this process names itself to the Kubernetes API.
pub(crate) const USER_AGENT: &str = concat!("storefence-gateway/", env!("CARGO_PKG_VERSION"));
