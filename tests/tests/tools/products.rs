//! `get_product_recommendations` against the administrator's counts: the whole list, in its order.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use storefence_tests::Shared;

use super::administrator::{ROLES, call, row, rows};

const TOOL: &str = "get_product_recommendations";

/// A product with what is counted of it, as the administrator sees it.
struct Expected {
    sku: String,
    category: String,
    reason: String,
    /// Ten thousand times the score, which has four decimals.
    score: i64,
    /// Where its name stands among all: names that score alike come in this order.
    place: i64,
}

impl Expected {
    fn new(row: &Value, score: f64, reason: String) -> Result<Self> {
        let text = |field: &str| row[field].as_str().map(str::to_owned).with_context(|| format!("no {field}: {row}"));
        let place = row["place"].as_i64().context("no place")?;
        #[allow(clippy::cast_possible_truncation)]
        let score = (score * 10_000.0).round() as i64;
        Ok(Self { sku: text("sku")?, category: text("category")?, reason, score, place })
    }
}

/// The product that most orders of Seattle hold.
async fn popular(shared: &Shared) -> Result<(String, String)> {
    let sql = "SELECT p.sku, p.product_name FROM order_items i JOIN products p USING (product_id) GROUP BY 1, 2 ORDER BY count(*) DESC, 1 LIMIT 1";
    let product = row(shared, &["Seattle"], sql).await?;
    let text = |name: &str| product[name].as_str().map(str::to_owned).context("no product");
    Ok((text("sku")?, text("product_name")?))
}

/// The answer is the expected list: the best ones, in their order, no more than were asked for and no fewer than there are.
async fn is(shared: &Shared, stores: &[&str], answer: &Value, mut expected: Vec<Expected>, most: usize) -> Result<()> {
    expected.sort_by_key(|one| (-one.score, one.place));
    expected.truncate(most);
    ensure!(!expected.is_empty(), "the administrator finds nothing to recommend");
    let stock = rows(
        shared,
        stores,
        "SELECT sku, sum(stock_level) AS stock FROM inventory JOIN products USING (product_id) GROUP BY 1",
    )
    .await?;
    let items = answer["recommendations"].as_array().context("no list")?;
    let skus: Vec<_> = items.iter().filter_map(|item| item["sku"].as_str()).collect();
    let wanted: Vec<_> = expected.iter().map(|one| one.sku.as_str()).collect();
    ensure!(skus == wanted, "{skus:?}, not {wanted:?}");
    for (item, one) in items.iter().zip(&expected) {
        #[allow(clippy::cast_precision_loss)]
        let score = one.score as f64 / 10_000.0;
        ensure!(item["score"].as_f64().is_some_and(|found| (found - score).abs() < 1e-9), "{item}: not {score}");
        ensure!(
            item["category"] == json!(one.category) && item["reason"] == json!(one.reason),
            "{item}: {}",
            one.reason
        );
        let stock = stock.iter().find(|row| row["sku"] == json!(one.sku)).map_or(json!(0), |row| row["stock"].clone());
        ensure!(item["stock"] == stock, "{item}: not {stock}");
    }
    Ok(())
}

const PLACED: &str = "(SELECT p.product_id, p.sku, c.category_name AS category, row_number() OVER (ORDER BY p.product_name, p.sku) AS place
                         FROM products p JOIN categories c USING (category_id)) q";

pub async fn counted(shared: &Shared) -> Result<()> {
    let (sku, name) = popular(shared).await?;
    for (principal, stores) in ROLES {
        let ask = async |arguments: Value| call(shared, principal, TOOL, arguments).await;
        let answer = ask(json!({"product": sku, "kind": "bought_together", "max_results": 5})).await?;
        ensure!(answer["product"]["name"] == json!(name), "{}", answer["product"]);
        let expected = together(shared, stores, &sku).await?;
        is(shared, stores, &answer, expected, 5).await.with_context(|| format!("{principal}: bought together"))?;

        let answer = ask(json!({"kind": "trending"})).await?;
        let expected = trending(shared, stores, None).await?;
        is(shared, stores, &answer, expected, 10).await.with_context(|| format!("{principal}: trending"))?;
        // With a product, what else is of its category.
        let answer = ask(json!({"kind": "trending", "product": sku, "max_results": 50})).await?;
        let expected = trending(shared, stores, Some(&sku)).await?;
        is(shared, stores, &answer, expected, 50)
            .await
            .with_context(|| format!("{principal}: trending in a category"))?;
    }
    Ok(())
}

/// Orders with both over the geometric mean of the orders with each.
async fn together(shared: &Shared, stores: &[&str], sku: &str) -> Result<Vec<Expected>> {
    let sql = format!(
        "SELECT q.*, (SELECT count(DISTINCT order_id) FROM order_items JOIN products USING (product_id) WHERE sku = '{sku}') AS carts,
                count(DISTINCT i.order_id) AS orders,
                count(DISTINCT i.order_id) FILTER (WHERE EXISTS (SELECT FROM order_items x JOIN products p ON p.product_id = x.product_id
                    WHERE x.order_id = i.order_id AND p.sku = '{sku}')) AS together
           FROM {PLACED} JOIN order_items i USING (product_id) WHERE q.sku <> '{sku}' GROUP BY q.product_id, q.sku, q.category, q.place"
    );
    let mut expected = Vec::new();
    for row in rows(shared, stores, &sql).await? {
        let count = |field: &str| row[field].as_f64().with_context(|| format!("no {field}"));
        let (together, carts, orders) = (count("together")?, count("carts")?, count("orders")?);
        if together > 0.0 {
            let reason = format!("in {together} of the {carts} orders with the product");
            expected.push(Expected::new(&row, together / (carts * orders).sqrt(), reason)?);
        }
    }
    Ok(expected)
}

/// The difference of two counts in units of its own scatter, where the later one is the greater.
async fn trending(shared: &Shared, stores: &[&str], product: Option<&str>) -> Result<Vec<Expected>> {
    let units = |from: u32, to: u32| {
        format!(
            "coalesce(sum(quantity) FILTER (WHERE order_date >= now() - interval '{from} hours' AND order_date < now() - interval '{to} hours'), 0)"
        )
    };
    let sql = format!(
        "SELECT q.*, {} AS now, {} AS before FROM {PLACED} JOIN order_items USING (product_id) JOIN orders USING (store_id, order_id)
          GROUP BY q.product_id, q.sku, q.category, q.place",
        units(720, 0),
        units(1440, 720)
    );
    let rows = rows(shared, stores, &sql).await?;
    let category = product.and_then(|sku| rows.iter().find(|row| row["sku"] == json!(sku))).map(|row| &row["category"]);
    let mut expected = Vec::new();
    for row in &rows {
        let among = category.is_none_or(|category| row["category"] == *category)
            && Some(&row["sku"]) != product.map(|sku| json!(sku)).as_ref();
        let (now, before) = row["now"].as_f64().zip(row["before"].as_f64()).context("no units")?;
        if among && now > before {
            let reason = format!("{now} units in the last 30 days, {before} in the 30 days before");
            expected.push(Expected::new(row, (now - before) / (now + before).sqrt(), reason)?);
        }
    }
    Ok(expected)
}

pub async fn similar(shared: &Shared) -> Result<()> {
    let (_, name) = popular(shared).await?;
    let answer = call(shared, "seattle-manager", TOOL, json!({"product": name})).await?;
    let sql = format!(
        "SELECT category_name FROM products JOIN categories USING (category_id) WHERE product_name = '{}'",
        name.replace('\'', "''")
    );
    let category = row(shared, &[], &sql).await?["category_name"].clone();
    let items = answer["recommendations"].as_array().context("no list")?;
    ensure!(!items.is_empty() && items.iter().all(|item| item["category"] == category), "{answer}");
    ensure!(items.iter().all(|item| item["name"] != json!(name)), "a product is not similar to itself");
    Ok(())
}
