//! The tools. Each is one file or folder: what the model reads, typed arguments, the work, a typed answer. CONTRIBUTING.md says
//! how to add one.

pub(super) mod arguments;
pub mod budget;
mod current_date;
mod error;
mod failure;
pub mod own;
pub mod period;
mod recommendations;
mod registry;
pub(super) mod sales_query;
pub mod schema;
mod schema_of;
mod semantic_search;
mod store_performance;
pub(super) mod stores;
mod table;
pub(super) mod table_schemas;
mod typed;
mod whoami;

use std::{sync::Arc, time::Instant};

use futures::future::BoxFuture;
use rmcp::model::{JsonObject, Tool as Definition};

pub use self::{
    error::{Code, ToolError},
    registry::Catalogue,
};
use crate::{caller::Caller, db::Data, metrics::Metrics, performance::Monitor, questions::Questions};

/// What tools need.
pub struct Services {
    /// The tools themselves.
    pub tools: Catalogue,
    /// Runs statements.
    pub data: Arc<Data>,
    /// Embeds questions.
    pub questions: Questions,
    /// Measures statements.
    pub performance: Arc<Monitor>,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

impl Services {
    /// Counts an error of a tool.
    pub fn refused(&self, tool: &str, error: &ToolError) {
        self.metrics.tool_errors.with_label_values(&[tool, error.code.as_str()]).inc();
    }

    /// Records one operation.
    pub fn observe(&self, method: &str, tool: &str, error: &str, started: Instant) {
        let seconds = started.elapsed().as_secs_f64();
        self.metrics.operations.with_label_values(&[method, tool, error]).observe(seconds);
    }
}

/// What a tool answers: raw JSON for `structuredContent`, and the same as compact text.
#[derive(Debug)]
pub struct ToolOutput {
    /// Raw JSON, an object.
    pub structured: String,
    /// Text for models and people.
    pub text: String,
}

/// One tool, as the registry holds it; `TypedTool` is how one is written.
pub trait Tool: Send + Sync {
    /// What `tools/list` has of it.
    fn definition(&self) -> &Definition;

    fn name(&self) -> &str {
        &self.definition().name
    }

    /// Whether its answers may be cached for callers of the same scope: they come from rows, and neither from the token nor
    /// from the clock alone.
    fn is_kept(&self) -> bool {
        false
    }

    /// Whether these arguments ask for something that moves with the clock or by chance, which is not cached.
    fn is_momentary(&self, _arguments: &JsonObject) -> bool {
        false
    }

    /// Does it. Dropping the future ends the work.
    fn call<'a>(
        &'a self,
        services: &'a Services,
        caller: &'a Caller,
        arguments: JsonObject,
    ) -> BoxFuture<'a, Result<ToolOutput, ToolError>>;
}
