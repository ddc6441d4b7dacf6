//! The Model Context Protocol: rmcp's server with what it leaves to the application around it.

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
