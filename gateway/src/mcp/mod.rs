//! The Model Context Protocol: rmcp's server with what it leaves to the application around it.

pub mod handler;
pub mod protocol;
pub mod splice;
pub mod tools;
