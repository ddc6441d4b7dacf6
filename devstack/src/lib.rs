//! What replaces the cloud on one machine: stand-ins that speak the real wire protocols, and a PostgreSQL.
//!
//! `cargo xtask up` starts them for a developer, and the tests start them in their own process. None of this is
//! meant to face a network: it listens on loopback, and its stand-in routes hand out any token that is asked for.

mod breaker;
pub mod cli;
pub mod embeddings;
pub mod entra;
pub mod http;
pub mod key_vault;
pub mod kube_api;
pub mod mcp_client;
pub mod paths;
pub mod postgres;
pub mod process;
mod random;
pub mod reference;
pub mod shared_cluster;
pub mod stack;
pub mod tls;
mod wheel;
