//! A tool as it is written: typed arguments and a typed answer. Schemas, structured content and text follow from the types.

use std::sync::Arc;

use futures::future::BoxFuture;
use rmcp::model::{JsonObject, Tool as Definition, ToolAnnotations};
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};

use super::{Caller, Code, Services, Tool, ToolError, ToolOutput, arguments::Shape, budget::Budget, schema_of};

/// One tool, in one file or folder. [`super::registry`] lists them all.
pub trait TypedTool: Send + Sync + 'static {
    /// Its name: of [`storefence_tenancy::resource::ToolName`], or one of `EVERYBODYS`.
    const NAME: &'static str;
    /// A title for people.
    const TITLE: &'static str;
    /// What the model reads to choose it.
    const DESCRIPTION: &'static str;
    /// What the types of the answer's fields cannot say; stands in the output schema.
    const ANSWER: &'static str = "";
    /// How a caller gets what an answer had to leave out.
    const REST: &'static str = "ask for less at once";
    /// Whether an answer may be cached for callers of the same scope: it comes from rows, and neither from the token nor from
    /// the clock alone.
    const IS_CACHED: bool = false;

    /// What a call holds: strings, whole numbers with a `range`, lists of strings with a `length`, and enums.
    type Arguments: DeserializeOwned + JsonSchema + Send;
    /// What it answers.
    type Answer: Answer + Send;

    /// Whether these arguments ask for something that moves with the clock or by chance, which is not cached.
    fn is_momentary(&self, _arguments: &JsonObject) -> bool {
        false
    }

    /// Does it. Dropping the future ends the work.
    fn run(
        &self,
        services: &Services,
        caller: &Caller,
        arguments: Self::Arguments,
    ) -> impl Future<Output = Result<Self::Answer, ToolError>> + Send;
}

/// An answer in both of its forms, which hold the same data. Whatever serializes to an object is one.
pub trait Answer: JsonSchema {
    /// Structured content and text, within the budget. `rest` says how to get what is left out.
    fn output(self, budget: Budget, rest: &str) -> Result<ToolOutput, ToolError>;
}

impl<T: Serialize + JsonSchema> Answer for T {
    fn output(self, budget: Budget, rest: &str) -> Result<ToolOutput, ToolError> {
        let unwritten = |_| ToolError::new(Code::Internal, "the answer could not be written");
        budget.fit(serde_json::to_string(&self).map_err(unwritten)?, rest).map_err(unwritten)
    }
}

/// A tool with what follows from its types.
pub struct Registered<T> {
    tool: T,
    definition: Definition,
    shape: Shape,
    budget: Budget,
}

impl<T: TypedTool> Registered<T> {
    /// Registers a tool whose answers keep to this budget.
    pub fn new(tool: T, budget: Budget) -> Self {
        let arguments = schema_of::arguments::<T::Arguments>();
        let shape = Shape::of(&arguments);
        // All tools read and change nothing. Whether one destroys or repeats has a meaning only for tools that write.
        let annotations = ToolAnnotations::with_title(T::TITLE).read_only(true).open_world(false);
        let definition = Definition::new(T::NAME, T::DESCRIPTION, Arc::new(schema_of::on_the_wire(arguments)))
            .with_title(T::TITLE)
            .with_raw_output_schema(Arc::new(schema_of::answer::<T::Answer>(T::ANSWER)))
            .with_annotations(annotations);
        Self { tool, definition, shape, budget }
    }
}

impl<T: TypedTool> Tool for Registered<T> {
    fn definition(&self) -> &Definition {
        &self.definition
    }

    fn is_kept(&self) -> bool {
        T::IS_CACHED
    }

    fn is_momentary(&self, arguments: &JsonObject) -> bool {
        self.tool.is_momentary(arguments)
    }

    fn call<'a>(
        &'a self,
        services: &'a Services,
        caller: &'a Caller,
        arguments: JsonObject,
    ) -> BoxFuture<'a, Result<ToolOutput, ToolError>> {
        Box::pin(async move {
            let arguments = self.shape.read(arguments)?;
            self.tool.run(services, caller, arguments).await?.output(self.budget, T::REST)
        })
    }
}
