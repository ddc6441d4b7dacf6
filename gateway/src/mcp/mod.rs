//! The Model Context Protocol: rmcp's server, and what it leaves to the application around it.

pub mod completions;
pub mod handler;
pub mod logging;
mod message;
pub mod operation;
pub mod outsider;
pub mod progress;
pub mod prompts;
pub mod protocol;
pub mod resources;
pub mod revision;
pub mod splice;

use std::sync::Arc;

use crate::{audit::Audit, cache::Answers, quota::Limiter, tools::Services};

/// The tools, and what surrounds every call.
pub struct Gateway {
    pub services: Arc<Services>,
    /// Limits calls per minute and concurrent calls.
    pub quotas: Limiter,
    /// Caches responses.
    pub answers: Answers,
    /// Records calls.
    pub audit: Arc<Audit>,
}
