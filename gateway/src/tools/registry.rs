//! The registry: every tool, once. Names come from the tenancy's `ToolName`; the tests below name the place that a new tool
//! has not reached yet.

use std::sync::Arc;

use storefence_tenancy::Scope;

use super::{
    Tool, budget::Budget, current_date::CurrentDate, recommendations::Recommendations, sales_query::SalesQuery,
    schema::Schemas, semantic_search::SemanticSearch, store_performance::StorePerformance, stores::ListStores,
    table_schemas::TableSchemas, typed::Registered, whoami::Whoami,
};

/// All tools in the order of their names.
pub struct Catalogue {
    tools: Vec<Box<dyn Tool>>,
    schemas: Arc<Schemas>,
}

impl Default for Catalogue {
    fn default() -> Self {
        Self::new(Budget::default())
    }
}

impl Catalogue {
    /// All tools, with answers that keep to this budget.
    #[must_use]
    pub fn new(budget: Budget) -> Self {
        let schemas = Arc::<Schemas>::default();
        let tools: Vec<Box<dyn Tool>> = vec![
            Box::new(Registered::new(SalesQuery::new(schemas.clone()), budget)),
            Box::new(Registered::new(CurrentDate, budget)),
            Box::new(Registered::new(TableSchemas::new(schemas.clone()), budget)),
            Box::new(Registered::new(Recommendations, budget)),
            Box::new(Registered::new(StorePerformance, budget)),
            Box::new(Registered::new(ListStores, budget)),
            Box::new(Registered::new(SemanticSearch, budget)),
            Box::new(Registered::new(Whoami, budget)),
        ];
        Self { tools, schemas }
    }

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

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use serde_json::{Value, json};
    use storefence_tenancy::resource::ToolName;

    use super::Catalogue;
    use crate::tools::error;

    fn file(name: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn names() -> BTreeSet<String> {
        Catalogue::default().tools.iter().map(|tool| tool.name().to_owned()).collect()
    }

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
        let page = file("docs/tools.md").replace(',', "");
        assert!(page.contains(&format!("`tools/list` is {bytes} bytes")), "docs/tools.md does not say {bytes} bytes");
        let tokens = format!("about {} tokens", bytes.div_ceil(4));
        assert!(page.contains(&tokens), "docs/tools.md does not say {tokens}");
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

    #[test]
    fn the_registry_is_in_order_and_holds_what_rules_can_grant() {
        let catalogue = Catalogue::default();
        let listed: Vec<_> = catalogue.tools.iter().map(|tool| tool.name().to_owned()).collect();
        assert!(listed.is_sorted(), "gateway/src/tools/registry.rs: not in the order of names: {listed:?}");
        let known = ToolName::ALL.map(ToolName::as_str).into_iter().chain(ToolName::EVERYBODYS);
        let known: BTreeSet<_> = known.map(str::to_owned).collect();
        if let Some(name) = known.difference(&names()).next() {
            panic!("gateway/src/tools/registry.rs: no tool {name}, which tenancy/src/resource/tools.rs knows");
        }
        if let Some(name) = names().difference(&known).next() {
            panic!("tenancy/src/resource/tools.rs: neither ToolName nor EVERYBODYS has {name}");
        }
    }

    #[test]
    fn the_page_has_a_line_and_a_section_for_every_tool() {
        let page = file("docs/tools.md");
        for name in names() {
            assert!(page.contains(&format!("[{name}](#{name})")), "docs/tools.md: the table has no line for {name}");
            assert!(page.contains(&format!("\n## {name}\n")), "docs/tools.md: no section ## {name}");
        }
        let sections = page.lines().filter_map(|line| line.strip_prefix("## ")).filter(|name| name.contains('_'));
        for name in sections {
            assert!(names().contains(name), "docs/tools.md: a section for {name}, which is no tool");
        }
    }

    #[test]
    fn the_custom_resource_grants_every_tool_by_name() {
        fn lists<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
            match value {
                Value::Object(map) => {
                    let words = map.get("items").and_then(|items| items.get("enum")).and_then(Value::as_array);
                    if words.is_some_and(|words| words.contains(&json!(ToolName::ALL[0]))) {
                        found.push(value);
                    }
                    map.values().for_each(|value| lists(value, found));
                }
                Value::Array(items) => items.iter().for_each(|value| lists(value, found)),
                _ => {}
            }
        }
        let mut seen = 0;
        for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds")).expect("crds/") {
            let path = entry.expect("a file").path();
            let crd: Value = serde_saphyr::from_str(&fs::read_to_string(&path).expect("a text")).expect("YAML");
            let mut found = Vec::new();
            lists(&crd, &mut found);
            for list in &found {
                let words: BTreeSet<_> =
                    list["items"]["enum"].as_array().into_iter().flatten().map(Value::to_string).collect();
                let known: BTreeSet<_> = ToolName::ALL.map(|tool| json!(tool).to_string()).into();
                let place = path.display();
                assert_eq!(words, known, "{place}: the enum of tools; cargo xtask crds writes it");
                assert_eq!(list["maxItems"], json!(known.len()), "{place}: maxItems, from tenancy/src/resource.rs");
            }
            seen += found.len();
        }
        assert!(seen > 0, "crds/: no enum of tools");
    }
}
