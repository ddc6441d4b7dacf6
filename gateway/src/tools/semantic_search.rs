//! `semantic_search_products`.

use std::{fmt::Write as _, time::Duration};

use futures::future::BoxFuture;
use rmcp::model::{JsonObject, Tool as Definition};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use super::{
    Caller, Code, Services, Tool, ToolError, ToolOutput,
    arguments::Fields,
    choice, definition,
    failure::{self, Author},
    fields, kind, list, own, required, text, whole,
};
use crate::{db::flight::Search, performance::Statement, questions::QuestionError};

const NAME: &str = "semantic_search_products";
const ALLOWED: [&str; 4] = ["query_description", "max_rows", "similarity_threshold", "mode"];
/// Longest description, in characters. What a product can be compared with is a few sentences.
const QUERY_MAX: usize = 1_000;
/// Least and most rows, and what it is where left out.
const ROWS: (u32, u32, u32) = (1, 100, 20);
/// The same for the threshold, in percent.
const THRESHOLD: (u32, u32, u32) = (0, 100, 30);

/// Finds products by what they are for.
pub struct SemanticSearch(Definition);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Semantic,
    Hybrid,
}

impl Default for SemanticSearch {
    fn default() -> Self {
        Self(definition(
            NAME,
            "Products by meaning",
            "Finds products of the tenant whose name and description mean something like the text you give, the most similar \
             first, with the stock in the stores you answer for. Use it when the user describes what they need rather than \
             naming a product: words need not match. Use the product_id of an answer in execute_sales_query for sales or \
             prices. Mode hybrid also finds products that hold all the words, for part numbers and exact names.",
            required(
                fields([
                    (
                        ALLOWED[0],
                        text("What is looked for, in plain words, for example: waterproof electrical connectors"),
                    ),
                    (ALLOWED[1], whole("Most products of the answer", ROWS)),
                    (ALLOWED[2], whole("Least similarity in percent; lower it where nothing is found", THRESHOLD)),
                    (
                        ALLOWED[3],
                        choice(
                            &["semantic", "hybrid"],
                            "semantic (default): by meaning alone; hybrid: by meaning and by words",
                        ),
                    ),
                ]),
                ALLOWED[0],
            ),
            fields([("products", list("object")), ("productCount", kind("integer"))]),
        ))
    }
}

impl Tool for SemanticSearch {
    fn definition(&self) -> &Definition {
        &self.0
    }

    fn is_kept(&self) -> bool {
        true
    }

    fn call<'a>(
        &'a self,
        services: &'a Services,
        caller: &'a Caller,
        arguments: JsonObject,
    ) -> BoxFuture<'a, Result<ToolOutput, ToolError>> {
        Box::pin(async move {
            let (text, max_rows, threshold, mode) = read(arguments)?;
            let question = services.questions.embed(&text).await.map_err(|error| away(caller, &error))?;
            services.metrics.queries.with_label_values(&[NAME]).inc();
            let search = Search {
                vector: question.vector.to_vec(),
                model: question.model,
                words: (mode == Mode::Hybrid).then_some(text),
                // The vectors are single precision: a product of the very same text is at 99.99999 percent.
                min_similarity: f64::from(threshold) / 100.0 - 1e-6,
            };
            let max_rows = max_rows.min(caller.tenant.limits.max_rows);
            let work = services.data.search(caller.asker(), &search, max_rows);
            let rows = services.performance.measure(&services.data, caller, NAME, Statement::Search, work).await;
            let rows = rows.map_err(|error| failure::told(caller, error, Author::Gateway(NAME)))?;
            let products: Vec<Row> = serde_json::from_str(&format!("[{}]", rows.json)).map_err(|error| {
                tracing::error!(correlation_id = %caller.correlation, %error, "the fence's answer to a search cannot be read");
                ToolError::new(Code::Internal, format!("{NAME} could not read the database's answer"))
            })?;
            if products.is_empty() {
                none_embedded(services, caller).await?;
            }
            render(products.into_iter().map(Product::from).collect())
        })
    }
}

fn read(arguments: JsonObject) -> Result<(String, u32, u32, Mode), ToolError> {
    let allowed = ALLOWED;
    let mut fields = Fields::new(arguments);
    let form = format!("a text of 1 to {QUERY_MAX} characters");
    let text = fields.required(allowed[0], &form)?;
    // NUL is no character to PostgreSQL, and means nothing to a model.
    let text = text.replace('\0', " ").trim().to_owned();
    if text.is_empty() || text.chars().count() > QUERY_MAX {
        return Err(super::arguments::malformed(allowed[0], &json!(text), &form));
    }
    let max_rows = fields.whole(allowed[1], (ROWS.0, ROWS.1), ROWS.2)?;
    let threshold = fields.whole(allowed[2], (THRESHOLD.0, THRESHOLD.1), THRESHOLD.2)?;
    let modes = [("semantic", Mode::Semantic), ("hybrid", Mode::Hybrid)];
    let mode = fields.choice(allowed[3], &modes)?.unwrap_or(Mode::Semantic);
    Ok((text, max_rows, threshold, mode))
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
    if own::document(services, caller, NAME, &any).await? == Value::Bool(true) {
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

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Product {
    pub(super) product_id: String,
    pub(super) sku: String,
    pub(super) name: String,
    pub(super) category: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) description: String,
    pub(super) base_price: Box<RawValue>,
    pub(super) similarity_percent: Box<RawValue>,
    pub(super) has_words: bool,
    pub(super) stock_level: Box<RawValue>,
    pub(super) stores: Vec<Stock>,
}

#[derive(Debug, Deserialize, Serialize)]
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

fn render(products: Vec<Product>) -> Result<ToolOutput, ToolError> {
    let failed = |_| ToolError::new(Code::Internal, format!("{NAME} could not write its answer"));
    let structured = format!(
        r#"{{"products":{},"productCount":{}}}"#,
        serde_json::to_string(&products).map_err(failed)?,
        products.len()
    );
    let mut text = String::from("similarity\tname\tcategory\ttype\tprice\tstock\tproduct_id");
    for product in &products {
        let Product { product_id, name, category, kind, base_price, similarity_percent, stock_level, .. } = product;
        let _ = write!(
            text,
            "\n{similarity_percent} %\t{name}\t{category}\t{kind}\t{base_price}\t{stock_level}\t{product_id}"
        );
    }
    let _ = match products.len() {
        0 => write!(text, "\n(no product is similar enough; a lower similarity_threshold may find some)"),
        1 => write!(text, "\n(1 product)"),
        count => write!(text, "\n({count} products)"),
    };
    Ok(ToolOutput { structured, text })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Mode, Product, Row, read, render};

    fn arguments(value: Value) -> rmcp::model::JsonObject {
        value.as_object().expect("object").clone()
    }

    #[test]
    fn arguments_have_defaults_and_bounds() {
        let read = |value: Value| read(arguments(value));
        let plain = read(json!({"query_description": "  glue "}));
        assert_eq!(plain, Ok(("glue".to_owned(), 20, 30, Mode::Semantic)));
        let full = json!({"query_description": "glue", "max_rows": 100, "similarity_threshold": 0, "mode": "hybrid"});
        assert_eq!(read(full), Ok(("glue".to_owned(), 100, 0, Mode::Hybrid)));
        for (value, words) in [
            (json!({}), "query_description is missing"),
            (json!({"query_description": " "}), "query_description is"),
            (json!({"query_description": "x".repeat(1_001)}), "1 to 1000 characters"),
            (json!({"query_description": "x", "max_rows": 0}), "max_rows is 0; a whole number from 1 to 100"),
            (json!({"query_description": "x", "similarity_threshold": 101}), "from 0 to 100"),
            (json!({"query_description": "x", "mode": "fuzzy"}), "semantic, hybrid"),
        ] {
            let error = read(value).expect_err("refused");
            assert!(error.message.contains(words), "{error}");
        }
    }

    #[test]
    fn amounts_pass_unread() {
        let line = r#"["id","S-1","Glue","C","T","D",12.50,61.0,false,7,[["Seattle",5],["Online",2]]]"#;
        let row: Row = serde_json::from_str(line).expect("row");
        let output = render(vec![Product::from(row)]).expect("rendered");
        assert!(output.structured.contains(r#""basePrice":12.50,"similarityPercent":61.0"#), "{}", output.structured);
        let value: Value = serde_json::from_str(&output.structured).expect("JSON");
        assert_eq!(value["products"][0]["stores"][1], json!({"store": "Online", "stockLevel": 2}));
        assert!(output.text.ends_with("61.0 %\tGlue\tC\tT\t12.50\t7\tid\n(1 product)"), "{}", output.text);
        assert!(render(Vec::new()).expect("rendered").text.contains("no product is similar enough"));
    }
}
