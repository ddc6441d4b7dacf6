//! The tools. Each is one file: definition for the model, check of its arguments, the work.

pub(super) mod arguments;
mod current_date;
mod error;
mod failure;
pub mod own;
pub mod period;
mod recommendations;
pub(super) mod sales_query;
pub mod schema;
mod semantic_search;
mod store_performance;
pub(super) mod stores;
pub(super) mod table_schemas;
mod whoami;

use std::{sync::Arc, time::Instant};

use futures::future::BoxFuture;
use rmcp::model::{JsonObject, Tool as Definition, ToolAnnotations};
use serde_json::{Value, json};
use storefence_tenancy::Scope;
use uuid::Uuid;

pub use self::error::{Code, ToolError};
use self::schema::Schemas;
use crate::{
    audit::Audit,
    cache::Answers,
    db::{Asker, Data},
    identity::Principal,
    metrics::Metrics,
    performance::Monitor,
    questions::Questions,
    quota::Limiter,
    tenants::Tenant,
};

/// Who calls, for which tenant, and what they may see there.
#[derive(Debug)]
pub struct Caller {
    /// The verified token.
    pub principal: Arc<Principal>,
    /// The tenant.
    pub tenant: Arc<Tenant>,
    /// What the token may see in it.
    pub scope: Scope,
    /// Finds this call in the log.
    pub correlation: Uuid,
}

impl Caller {
    /// On whose behalf its statements run.
    #[must_use]
    pub fn asker(&self) -> Asker<'_> {
        Asker { principal: self.principal.id(), tenant: &self.tenant, scope: &self.scope }
    }
}

/// What tools need.
pub struct Services {
    /// The tools themselves.
    pub tools: Catalogue,
    /// Runs statements.
    pub data: Arc<Data>,
    /// Embeds questions.
    pub questions: Questions,
    /// Calls per minute and at a time.
    pub quotas: Limiter,
    /// Keeps answers.
    pub answers: Answers,
    /// Measures statements.
    pub performance: Arc<Monitor>,
    /// Records calls.
    pub audit: Arc<Audit>,
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

/// What a tool gives: raw JSON for `structuredContent`, and the same as compact text.
#[derive(Debug)]
pub struct ToolOutput {
    /// Raw JSON, an object.
    pub structured: String,
    /// Text for models and people.
    pub text: String,
}

/// One tool.
pub trait Tool: Send + Sync {
    /// What clients are told.
    fn definition(&self) -> &Definition;

    /// Its name.
    fn name(&self) -> &str {
        &self.definition().name
    }

    /// Whether its answers may be kept for callers of the same scope: they come from rows, and neither from the token nor
    /// from the clock alone.
    fn is_kept(&self) -> bool {
        false
    }

    /// Whether these arguments ask for something that moves with the clock or by chance, which is not kept.
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

/// All tools in the order of their names.
pub struct Catalogue {
    tools: Vec<Box<dyn Tool>>,
    schemas: Arc<Schemas>,
}

impl Default for Catalogue {
    fn default() -> Self {
        let schemas = Arc::<Schemas>::default();
        let mut tools: Vec<Box<dyn Tool>> = vec![
            Box::new(sales_query::SalesQuery::new(schemas.clone())),
            Box::new(current_date::CurrentDate::default()),
            Box::new(semantic_search::SemanticSearch::default()),
            Box::new(stores::ListStores::default()),
            Box::new(table_schemas::TableSchemas::new(schemas.clone())),
            Box::new(store_performance::StorePerformance::default()),
            Box::new(recommendations::Recommendations::default()),
            Box::new(whoami::Whoami::default()),
        ];
        tools.sort_by(|a, b| a.name().cmp(b.name()));
        Self { tools, schemas }
    }
}

impl Catalogue {
    /// The tool of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&dyn Tool> {
        self.tools.iter().find(|tool| tool.name() == name).map(AsRef::as_ref)
    }

    /// The schemas that the tools share.
    #[must_use]
    pub fn schemas(&self) -> &Schemas {
        &self.schemas
    }

    /// The tools of this scope, in a fixed order.
    pub fn granted<'a>(&'a self, scope: &'a Scope) -> impl Iterator<Item = &'a dyn Tool> {
        self.tools.iter().map(AsRef::as_ref).filter(|tool| scope.tools().contains(tool.name()))
    }
}

/// The schema of a field.
fn kind(name: &str) -> Value {
    json!({"type": name})
}

/// The schema of a list.
fn list(of: &str) -> Value {
    json!({"type": "array", "items": {"type": of}})
}

/// The schema of a tool's arguments or of its answer: no more than the names of the fields and their types. Clients differ in
/// what else of JSON Schema they take, and some drop all tools of a server for one keyword; a model pays for every word. So
/// nothing is required of an answer either, which lets an error stand in its place.
fn fields<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let properties: JsonObject = fields.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
    json!({"type": "object", "properties": properties})
}

/// The same with an argument that must be there.
fn required(mut schema: Value, field: &str) -> Value {
    schema["required"] = json!([field]);
    schema
}

/// The same with a sentence on the whole.
fn commented(mut schema: Value, description: &str) -> Value {
    schema["description"] = json!(description);
    schema
}

/// The schema of an argument that is a text.
fn text(description: &str) -> Value {
    json!({"type": "string", "description": description})
}

/// The schema of an argument that is a whole number: least, most, and what it is where left out.
fn whole(description: &str, (least, most, default): (u32, u32, u32)) -> Value {
    let description = format!("{description}; {default} where left out");
    json!({"type": "integer", "minimum": least, "maximum": most, "description": description})
}

/// The schema of an argument that is one of a few words.
fn choice(words: &[&str], description: &str) -> Value {
    json!({"type": "string", "enum": words, "description": description})
}

/// A definition of a tool that reads and changes nothing, as all of them do.
fn definition(
    name: &'static str,
    title: &'static str,
    description: &'static str,
    input: Value,
    output: Value,
) -> Definition {
    let object = |value: Value| match value {
        Value::Object(map) => Arc::new(map),
        _ => Arc::default(),
    };
    // Whether it destroys or repeats has a meaning only for tools that write.
    let annotations = ToolAnnotations::with_title(title).read_only(true).open_world(false);
    Definition::new(name, description, object(input))
        .with_title(title)
        .with_raw_output_schema(object(output))
        .with_annotations(annotations)
}

#[cfg(test)]
mod tests {
    use storefence_tenancy::resource::ToolName;

    use super::{Catalogue, Value, error, json};

    /// What Gemini, OpenAI's strict mode, Ajv with its defaults and VS Code all take.
    #[test]
    fn schemas_hold_to_what_every_client_takes() {
        fn check(place: &str, schema: &Value) {
            let schema = schema.as_object().unwrap_or_else(|| panic!("{place}: no object"));
            for keyword in schema.keys() {
                let known = ["type", "description", "properties", "items", "required", "enum"];
                let bounds = ["minimum", "maximum", "minItems", "maxItems"];
                assert!(known.iter().chain(&bounds).any(|known| known == keyword), "{place}: {keyword}");
            }
            let kind = schema.get("type").and_then(Value::as_str).unwrap_or_else(|| panic!("{place}: no type"));
            assert!(["object", "array", "string", "integer", "number", "boolean"].contains(&kind), "{place}: {kind}");
            assert_eq!(schema.contains_key("items"), kind == "array", "{place}");
            if let Some(words) = schema.get("enum") {
                assert!(
                    kind == "string" && words.as_array().is_some_and(|w| w.iter().all(Value::is_string)),
                    "{place}"
                );
            }
            schema.get("items").into_iter().for_each(|items| check(&format!("{place}[]"), items));
            for (name, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
                check(&format!("{place}.{name}"), schema);
            }
        }
        for tool in &Catalogue::default().tools {
            let tool = tool.definition();
            let input = Value::Object((*tool.input_schema).clone());
            assert!(input["type"] == "object" && input["properties"].is_object(), "{input}");
            check(&tool.name, &input);
            check(&tool.name, &Value::Object((**tool.output_schema.as_ref().expect("an output schema")).clone()));
            // Clients put the server's name before it and cut at 60 to 64 characters.
            assert!(
                tool.name.len() <= 30 && tool.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{}",
                tool.name
            );
        }
    }

    /// Each conversation pays for the list before it begins: 2,500 tokens at most, of four bytes each by rule of thumb.
    #[test]
    fn the_list_of_tools_takes_what_the_page_says() {
        let tools: Vec<_> = Catalogue::default().tools.iter().map(|tool| tool.definition().clone()).collect();
        let result = json!({"cacheScope": "private", "resultType": "complete", "tools": tools, "ttlMs": 60_000});
        let bytes = json!({"jsonrpc": "2.0", "id": 1, "result": result}).to_string().len();
        assert!(bytes.div_ceil(4) <= 2_500, "{bytes} bytes");
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/tools.md");
        let page = std::fs::read_to_string(page).expect("the page").replace(',', "");
        assert!(page.contains(&format!("`tools/list` is {bytes} bytes")), "docs/tools.md does not say {bytes} bytes");
        let tokens = format!("about {} tokens", bytes.div_ceil(4));
        assert!(page.contains(&tokens), "docs/tools.md does not say {tokens}");
    }

    #[test]
    fn every_tool_is_granted_by_name_or_everybodys() {
        let catalogue = Catalogue::default();
        let names: Vec<_> = catalogue.tools.iter().map(|tool| tool.name()).collect();
        let mut known: Vec<_> = ToolName::ALL.map(ToolName::as_str).into_iter().chain(ToolName::EVERYBODYS).collect();
        known.sort_unstable();
        assert_eq!(names, known);
    }

    /// Clients such as the Python SDK 1.12 hold `structuredContent` against the schema whether it is an answer or an error.
    #[test]
    fn an_error_fits_the_schema_of_every_answer() {
        for tool in &Catalogue::default().tools {
            let tool = tool.definition();
            let schema = tool.output_schema.as_ref().expect("an output schema");
            assert!(!schema.contains_key("required"), "{}", tool.name);
            let answer = schema["properties"].as_object().expect("the fields of an answer");
            assert!(!answer.is_empty(), "{}", tool.name);
            for name in error::FIELDS {
                assert!(!answer.contains_key(name), "{}: {name}", tool.name);
            }
        }
    }
}
