//! `get_product_recommendations`.

mod sql;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};
use storefence_tenancy::resource::ToolName;

use super::{
    Caller, Code, Services, ToolError,
    arguments::malformed,
    failure::{self, Author},
    own,
    semantic_search::{Product, Row},
    typed::TypedTool,
};
use crate::{db::query::Search, performance::Statement};

const NAME: &str = ToolName::GetProductRecommendations.as_str();
const PRODUCT_FORM: &str = "the name, SKU or product_id of a product as a string";
/// Longest product name that is looked for.
const PRODUCT_MAX: usize = 200;

/// What makes a product worth recommending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Its description means about the same; without vectors: same type or category, and about the same price.
    #[default]
    Similar,
    /// It stands in the same orders.
    BoughtTogether,
    /// It sells more than it did.
    Trending,
}

#[derive(Deserialize, JsonSchema)]
pub struct Arguments {
    #[schemars(
        description = "Name, SKU or product_id; part of a name will do if only one product has it. May be left out with kind trending",
        extend("x-form" = PRODUCT_FORM)
    )]
    product: Option<String>,
    #[serde(default)]
    #[schemars(description = "similar where left out")]
    kind: Kind,
    #[serde(default = "ten")]
    #[schemars(description = "Most products of the answer", range(min = 1, max = 50))]
    max_results: u32,
}

const fn ten() -> u32 {
    10
}

#[derive(Serialize, JsonSchema)]
pub struct Answer {
    kind: Kind,
    #[schemars(skip)]
    product: Option<Meant>,
    recommendations: Vec<Recommendation>,
}

/// The product that recommendations are for.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Meant {
    product_id: String,
    sku: String,
    name: String,
}

/// In the order of the text's columns.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Recommendation {
    score: f64,
    name: String,
    sku: String,
    stock: i64,
    reason: String,
    price: f64,
    category: String,
    #[serde(rename = "type")]
    kind: String,
    product_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    similarity_percent: Option<f64>,
}

/// Least cosine of the descriptions of similar products. Below it they have no more in common than any two products.
const ALIKE: f64 = 0.3;

/// Products that go with one, with score and reason.
pub struct Recommendations;

/// What the statement answers.
#[derive(Debug, Default, Deserialize)]
struct Found {
    /// The product meant, where exactly one is.
    product: Option<Meant>,
    /// Its type, price and stored vector.
    #[serde(rename = "type")]
    kind: Option<String>,
    price: Option<f64>,
    vector: Option<Stored>,
    /// Names that could be meant.
    candidates: Vec<String>,
    items: Vec<Item>,
}

/// A vector as it was stored beside the product.
#[derive(Debug, Deserialize)]
struct Stored {
    model: String,
    values: Vec<f32>,
}

/// One recommended product with the figures of its kind.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    product_id: String,
    sku: String,
    name: String,
    category: String,
    #[serde(rename = "type")]
    kind: String,
    price: f64,
    stock: i64,
    score: f64,
    /// `similar`: how alike the descriptions are, in percent.
    similarity: Option<f64>,
    /// `similar`: the same type. `price_change`: percent against the product's price.
    same_type: Option<bool>,
    price_change: Option<f64>,
    /// `bought_together`: orders with both, and with the product.
    together: Option<u64>,
    orders: Option<u64>,
    /// `trending`: units of the last 30 days and of the 30 before.
    now: Option<u64>,
    before: Option<u64>,
}

impl Item {
    fn reason(&self) -> String {
        if let (Some(together), Some(orders)) = (self.together, self.orders) {
            return format!("in {together} of the {orders} orders with the product");
        }
        if let (Some(now), Some(before)) = (self.now, self.before) {
            return format!("{now} units in the last 30 days, {before} in the 30 days before");
        }
        if let Some(similarity) = self.similarity {
            return format!("described {similarity} % alike; {}", self.kinship());
        }
        self.kinship()
    }

    fn kinship(&self) -> String {
        let same =
            if self.same_type == Some(true) { format!("also {}", self.kind) } else { format!("in {}", self.category) };
        match self.price_change {
            Some(change) if change >= 1.0 => format!("{same}, {change:.0} % dearer"),
            Some(change) if change <= -1.0 => format!("{same}, {:.0} % cheaper", -change),
            Some(_) => format!("{same} at the same price"),
            None => same,
        }
    }

    fn recommended(self) -> Recommendation {
        Recommendation {
            reason: self.reason(),
            score: self.score,
            name: self.name,
            sku: self.sku,
            stock: self.stock,
            price: self.price,
            category: self.category,
            kind: self.kind,
            product_id: self.product_id,
            similarity_percent: self.similarity,
        }
    }
}

impl TypedTool for Recommendations {
    const NAME: &'static str = NAME;
    const TITLE: &'static str = "Product recommendations";
    const DESCRIPTION: &'static str = "Products that go with a product: similar (in what they are for; by type, category and price where descriptions have \
         not been compared), bought_together (in the same \
         orders of your stores) or trending (sold more in your stores in the last 30 days than in the 30 before, in the \
         product's category). Each with a score, the reason in words, and the stock in your stores.";
    const ANSWER: &'static str = "With product: the one that was meant, or null";
    const REST: &'static str = "ask for fewer with max_results";
    const IS_CACHED: bool = true;
    type Answer = Answer;
    type Arguments = Arguments;

    async fn run(&self, services: &Services, caller: &Caller, arguments: Arguments) -> Result<Answer, ToolError> {
        let Arguments { product, kind, max_results: most } = arguments;
        let product = product.map(|text| text.trim().to_owned());
        let acceptable = |text: &String| !text.is_empty() && text.len() <= PRODUCT_MAX && !text.contains('\0');
        if let Some(text) = product.as_ref().filter(|text| !acceptable(text)) {
            let form = format!("{PRODUCT_FORM} of at most {PRODUCT_MAX} bytes");
            return Err(malformed("product", &json!(text), &form));
        }
        if product.is_none() && kind != Kind::Trending {
            let message = format!("product is missing; {PRODUCT_FORM} is expected");
            return Err(ToolError::new(Code::Validation, message));
        }
        let statement = sql::statement(kind, product.as_deref(), most, Timestamp::now());
        let document = own::document(services, caller, NAME, &statement).await?;
        let mut found: Found = serde_json::from_value(document).map_err(|error| {
            tracing::error!(correlation_id = %caller.correlation, %error, "recommendations cannot be read");
            ToolError::new(Code::Internal, "the recommendations could not be read")
        })?;
        if let (Some(asked), None) = (product, &found.product) {
            return Err(not_one(&asked, &found.candidates));
        }
        if let Some(stored) = found.vector.take() {
            by_meaning(services, caller, stored, &mut found, most).await?;
        }
        let recommendations = found.items.into_iter().map(Item::recommended).collect();
        Ok(Answer { kind, product: found.product, recommendations })
    }
}

/// Puts the products whose descriptions mean about the same before those of the same category, up to `most`.
async fn by_meaning(
    services: &Services,
    caller: &Caller,
    stored: Stored,
    found: &mut Found,
    most: u32,
) -> Result<(), ToolError> {
    let search = Search { vector: stored.values, model: stored.model, words: None, min_similarity: ALIKE };
    // One more: the product itself is the nearest.
    let work = services.data.search(caller, &search, most + 1);
    let rows = services.performance.measure(&services.data, caller, NAME, Statement::Search, work).await;
    let rows = rows.map_err(|error| failure::to_tool_error(caller, error, Author::Gateway(NAME)))?;
    let near: Vec<Row> = serde_json::from_str(&format!("[{}]", rows.json)).map_err(|error| {
        tracing::error!(correlation_id = %caller.correlation, %error, "the fence's answer to a search cannot be read");
        ToolError::new(Code::Internal, format!("{NAME} could not read the database's answer"))
    })?;
    let own = found.product.as_ref().map(|product| product.product_id.clone()).unwrap_or_default();
    let near = near.into_iter().map(Product::from).filter(|product| product.product_id != own);
    let items: Vec<_> = near.map(|product| alike(product, found.kind.as_deref(), found.price)).collect();
    *found = Found { items: merged(items, std::mem::take(&mut found.items), most), ..std::mem::take(found) };
    Ok(())
}

fn alike(product: Product, kind: Option<&str>, price: Option<f64>) -> Item {
    let number = |raw: &RawValue| raw.get().parse::<f64>().unwrap_or(0.0);
    let (own, similarity) = (number(&product.base_price), number(&product.similarity_percent));
    let change = price.filter(|price| *price > 0.0).map(|price| ((own - price) / price * 1000.0).round() / 10.0);
    Item {
        same_type: Some(kind == Some(product.kind.as_str())),
        price_change: change,
        price: own,
        stock: product.stock_level.get().parse().unwrap_or(0),
        score: (similarity * 10.0).round() / 1000.0,
        similarity: Some(similarity),
        product_id: product.product_id,
        sku: product.sku,
        name: product.name,
        category: product.category,
        kind: product.kind,
        together: None,
        orders: None,
        now: None,
        before: None,
    }
}

/// The ones compared by meaning, then the others, whose scores are brought below: scores compare within one answer.
fn merged(mut near: Vec<Item>, rest: Vec<Item>, most: u32) -> Vec<Item> {
    let least = near.last().map_or(1.0, |item| item.score);
    let known: std::collections::HashSet<_> = near.iter().map(|item| item.product_id.clone()).collect();
    near.extend(rest.into_iter().filter(|item| !known.contains(&item.product_id)).map(|mut item| {
        item.score = (item.score * least * 10_000.0).round() / 10_000.0;
        item
    }));
    near.truncate(most as usize);
    near
}

fn not_one(asked: &str, candidates: &[String]) -> ToolError {
    let asked: String = asked.chars().take(64).collect();
    let message = match candidates {
        [] => format!(
            "product is {asked:?}; no product of the tenant has that name, SKU or product_id. Find its name with \
             execute_sales_query, for example WHERE product_name ILIKE '%connector%'"
        ),
        names => format!("product is {asked:?}, which several products match; name one of {}", names.join(", ")),
    };
    ToolError::new(Code::Validation, message)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::Item;

    fn item(more: &Value) -> Item {
        let mut item = json!({"productId": "1", "sku": "s", "name": "n", "category": "TOOLS", "type": "DRILLS", "price": 1, "stock": 2, "score": 0.5});
        item.as_object_mut().expect("object").extend(more.as_object().expect("object").clone());
        serde_json::from_value(item).expect("an item")
    }

    #[test]
    fn what_was_compared_by_meaning_comes_first() {
        let of = |id: &str, score: f64| item(&json!({"productId": id, "score": score}));
        let both = super::merged(vec![of("a", 0.8), of("b", 0.5)], vec![of("b", 0.9), of("c", 1.0), of("d", 0.7)], 3);
        let ids: Vec<_> = both.iter().map(|item| (item.product_id.as_str(), item.score)).collect();
        assert_eq!(ids, [("a", 0.8), ("b", 0.5), ("c", 0.5)]);
        assert_eq!(super::merged(Vec::new(), vec![of("c", 0.9)], 3)[0].score, 0.9);
    }

    #[test]
    fn reasons_say_why() {
        for (more, reason) in [
            (json!({"sameType": true, "priceChange": -12.3}), "also DRILLS, 12 % cheaper"),
            (json!({"sameType": false, "priceChange": 0.2}), "in TOOLS at the same price"),
            (
                json!({"similarity": 71.5, "sameType": true, "priceChange": 5.0}),
                "described 71.5 % alike; also DRILLS, 5 % dearer",
            ),
            (json!({"together": 3, "orders": 40}), "in 3 of the 40 orders with the product"),
            (json!({"now": 9, "before": 2}), "9 units in the last 30 days, 2 in the 30 days before"),
        ] {
            assert_eq!(item(&more).reason(), reason);
        }
    }
}
