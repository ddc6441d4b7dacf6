//! `semantic_search_products`.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};
use storefence_tenancy::resource::ToolName;

use super::{
    Caller, Code, Services, ToolError,
    arguments::malformed,
    failure::{self, Author},
    own,
    typed::TypedTool,
};
use crate::{db::query::Search, performance::Statement, questions::QuestionError};

const NAME: &str = ToolName::SemanticSearchProducts.as_str();
/// Longest description, in characters. What a product can be compared with is a few sentences.
const QUERY_MAX: usize = 1_000;
const QUERY_FORM: &str = "a text of 1 to 1000 characters";

/// Finds products by what they are for.
pub struct SemanticSearch;

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Mode {
    #[default]
    Semantic,
    Hybrid,
}

#[derive(Debug, Deserialize, JsonSchema, PartialEq, Eq)]
pub struct Arguments {
    #[schemars(
        description = "What is looked for, in plain words, for example: waterproof electrical connectors",
        extend("x-form" = QUERY_FORM)
    )]
    query_description: String,
    #[serde(default = "twenty")]
    #[schemars(description = "Most products of the answer", range(min = 1, max = 100))]
    max_rows: u32,
    #[serde(default = "thirty")]
    #[schemars(
        description = "Least similarity in percent; lower it where nothing is found",
        range(min = 0, max = 100)
    )]
    similarity_threshold: u32,
    #[serde(default)]
    #[schemars(description = "semantic (default): by meaning alone; hybrid: by meaning and by words")]
    mode: Mode,
}

const fn twenty() -> u32 {
    20
}

const fn thirty() -> u32 {
    30
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Found {
    product_count: usize,
    products: Vec<Product>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    note: Option<&'static str>,
}

impl Found {
    fn new(products: Vec<Product>) -> Self {
        let none = "no product is similar enough; a lower similarity_threshold may find some";
        Self { product_count: products.len(), note: products.is_empty().then_some(none), products }
    }
}

impl TypedTool for SemanticSearch {
    const NAME: &'static str = NAME;
    const TITLE: &'static str = "Products by meaning";
    const DESCRIPTION: &'static str = "Finds products of the tenant whose name and description mean something like the text you give, the most similar \
         first, with the stock in the stores you answer for. Use it when the user describes what they need rather than \
         naming a product: words need not match. Use the product_id of an answer in execute_sales_query for sales or \
         prices. Mode hybrid also finds products that hold all the words, for part numbers and exact names.";
    const REST: &'static str =
        "ask for fewer with max_rows, or take the figures of one product from execute_sales_query";
    const IS_CACHED: bool = true;
    type Answer = Found;
    type Arguments = Arguments;

    async fn run(&self, services: &Services, caller: &Caller, arguments: Arguments) -> Result<Found, ToolError> {
        let Arguments { query_description: text, max_rows, similarity_threshold, mode } = arguments.checked()?;
        let question = services.questions.embed(&text).await.map_err(|error| away(caller, &error))?;
        services.metrics.queries.with_label_values(&[NAME]).inc();
        let search = Search {
            vector: question.vector.to_vec(),
            model: question.model,
            words: (mode == Mode::Hybrid).then_some(text),
            // The vectors are single precision: a product of the very same text is at 99.99999 percent.
            min_similarity: f64::from(similarity_threshold) / 100.0 - 1e-6,
        };
        let max_rows = max_rows.min(caller.tenant.limits.max_rows);
        let work = services.data.search(caller, &search, max_rows);
        let rows = services.performance.measure(&services.data, caller, NAME, Statement::Search, work).await;
        let rows = rows.map_err(|error| failure::to_tool_error(caller, error, Author::Gateway(NAME)))?;
        let products: Vec<Row> = serde_json::from_str(&format!("[{}]", rows.json)).map_err(|error| {
            tracing::error!(correlation_id = %caller.correlation, %error, "the fence's answer to a search cannot be read");
            ToolError::new(Code::Internal, format!("{NAME} could not read the database's answer"))
        })?;
        if products.is_empty() {
            none_embedded(services, caller).await?;
        }
        Ok(Found::new(products.into_iter().map(Product::from).collect()))
    }
}

impl Arguments {
    fn checked(self) -> Result<Self, ToolError> {
        // NUL is no character to PostgreSQL, and means nothing to a model.
        let text = self.query_description.replace('\0', " ").trim().to_owned();
        if text.is_empty() || text.chars().count() > QUERY_MAX {
            return Err(malformed("query_description", &json!(text), QUERY_FORM));
        }
        Ok(Self { query_description: text, ..self })
    }
}

fn away(caller: &Caller, error: &QuestionError) -> ToolError {
    let (message, wait) = match error {
        QuestionError::NotConfigured => {
            let message = "semantic search is not configured here; find products by their words with execute_sales_query, \
                           for example WHERE product_name ILIKE '%connector%'";
            (message, None)
        }
        QuestionError::Provider(error) => {
            tracing::error!(correlation_id = %caller.correlation, reason = error.reason(), %error, "a question could not be embedded");
            let message = "semantic search is not available at the moment; try again later, or find products by their \
                           words with execute_sales_query";
            (message, error.retry().flatten())
        }
    };
    ToolError { retry_after_seconds: wait.map(seconds), ..ToolError::new(Code::Unavailable, message) }
}

/// Whole seconds, none too few.
fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// Why nothing was found where no product has been embedded yet, which is another matter than nothing being alike.
async fn none_embedded(services: &Services, caller: &Caller) -> Result<(), ToolError> {
    let model = own::text(services.questions.model());
    let any = format!("SELECT EXISTS (SELECT FROM retail.product_description_embeddings WHERE model = {model}) AS any");
    if own::document(services, caller, NAME, &any).await? == json!(true) {
        return Ok(());
    }
    let message = "no product of the tenant can be found by meaning yet: the operator has not embedded them with the model in \
                   force; find products by their words with execute_sales_query";
    Err(ToolError::new(Code::Unavailable, message))
}

/// One line of `fence.search_products`. Amounts pass unread, to the last digit.
pub(super) type Row = (
    String,
    String,
    String,
    String,
    String,
    String,
    Box<RawValue>,
    Box<RawValue>,
    bool,
    Box<RawValue>,
    Vec<(String, i64)>,
);

/// In the order of the text's columns.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Product {
    #[schemars(with = "f64")]
    pub(super) similarity_percent: Box<RawValue>,
    pub(super) name: String,
    pub(super) category: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[schemars(with = "f64")]
    pub(super) base_price: Box<RawValue>,
    #[schemars(with = "i64")]
    pub(super) stock_level: Box<RawValue>,
    pub(super) product_id: String,
    pub(super) sku: String,
    pub(super) stores: Vec<Stock>,
    pub(super) has_words: bool,
    pub(super) description: String,
}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stock {
    store: String,
    stock_level: i64,
}

impl From<Row> for Product {
    fn from(row: Row) -> Self {
        let (
            product_id,
            sku,
            name,
            category,
            kind,
            description,
            base_price,
            similarity_percent,
            has_words,
            stock_level,
            stores,
        ) = row;
        let stores = stores.into_iter().map(|(store, stock_level)| Stock { store, stock_level }).collect();
        Self {
            product_id,
            sku,
            name,
            category,
            kind,
            description,
            base_price,
            similarity_percent,
            has_words,
            stock_level,
            stores,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Arguments, Found, Mode, Product, Row};
    use crate::tools::{ToolError, arguments::Shape, budget::Budget, schema_of, typed::Answer};

    fn read(value: &Value) -> Result<Arguments, ToolError> {
        let shape = Shape::of(&schema_of::arguments::<Arguments>());
        shape.read::<Arguments>(value.as_object().expect("object").clone())?.checked()
    }

    #[test]
    fn arguments_have_defaults_and_bounds() {
        let expected = |max_rows, similarity_threshold, mode| Arguments {
            query_description: "glue".to_owned(),
            max_rows,
            similarity_threshold,
            mode,
        };
        assert_eq!(read(&json!({"query_description": "  glue "})), Ok(expected(20, 30, Mode::Semantic)));
        let full = json!({"query_description": "glue", "max_rows": 100, "similarity_threshold": 0, "mode": "hybrid"});
        assert_eq!(read(&full), Ok(expected(100, 0, Mode::Hybrid)));
        for (value, words) in [
            (json!({}), "query_description is missing; a text of 1 to 1000 characters is expected"),
            (json!({"query_description": " "}), "query_description is"),
            (json!({"query_description": "x".repeat(1_001)}), "1 to 1000 characters"),
            (json!({"query_description": "x", "max_rows": 0}), "max_rows is 0; a whole number from 1 to 100"),
            (json!({"query_description": "x", "similarity_threshold": 101}), "from 0 to 100"),
            (json!({"query_description": "x", "mode": "fuzzy"}), "semantic, hybrid"),
        ] {
            let error = read(&value).expect_err("refused");
            assert!(error.message.contains(words), "{error}");
        }
    }

    #[test]
    fn amounts_pass_unread() {
        let line = r#"["id","S-1","Glue","C","T","D",12.50,61.0,false,7,[["Seattle",5],["Online",2]]]"#;
        let row: Row = serde_json::from_str(line).expect("row");
        let output = Found::new(vec![Product::from(row)]).output(Budget::default(), "").expect("rendered");
        assert!(output.structured.contains(r#""basePrice":12.50,"#), "{}", output.structured);
        let value: Value = serde_json::from_str(&output.structured).expect("JSON");
        assert_eq!(value["products"][0]["stores"][1], json!({"store": "Online", "stockLevel": 2}));
        assert!(output.text.contains("\n61.0\tGlue\tC\tT\t12.50\t7\tid\tS-1\t"), "{}", output.text);
        let none = Found::new(Vec::new()).output(Budget::default(), "").expect("rendered");
        assert!(none.text.contains("no product is similar enough"), "{}", none.text);
    }
}
