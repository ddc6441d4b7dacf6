//! `get_product_recommendations` against the administrator's counts.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use storefence_tests::Shared;

use super::administrator::{ROLES, call, row};

/// The product that most orders of Seattle hold.
async fn popular(shared: &Shared) -> Result<(String, String)> {
    let sql = "SELECT p.sku, p.product_name FROM order_items i JOIN products p USING (product_id) GROUP BY 1, 2 ORDER BY count(*) DESC, 1 LIMIT 1";
    let product = row(shared, &["Seattle"], sql).await?;
    let text = |name: &str| product[name].as_str().map(str::to_owned).context("no product");
    Ok((text("sku")?, text("product_name")?))
}

pub async fn counted(shared: &Shared) -> Result<()> {
    let (sku, name) = popular(shared).await?;
    for (principal, stores) in ROLES {
        let arguments = json!({"product": sku, "kind": "bought_together", "max_results": 5});
        let answer = call(shared, principal, "get_product_recommendations", arguments).await?;
        ensure!(answer["product"]["name"] == json!(name), "{}", answer["product"]);
        let items = answer["recommendations"].as_array().context("no list")?;
        ensure!(!items.is_empty() && items.len() <= 5, "{principal}: {answer}");
        for item in items {
            let other = item["sku"].as_str().unwrap_or_default();
            let sql = format!(
                "SELECT count(DISTINCT a.order_id) FILTER (WHERE b.order_id IS NOT NULL) AS together, count(DISTINCT a.order_id) AS orders,
                    (SELECT coalesce(sum(stock_level), 0) FROM inventory JOIN products USING (product_id) WHERE sku = '{other}') AS stock
                 FROM order_items a JOIN products p ON p.product_id = a.product_id AND p.sku = '{sku}'
                 LEFT JOIN (SELECT order_id FROM order_items JOIN products USING (product_id) WHERE sku = '{other}') b USING (order_id)"
            );
            let expected = row(shared, stores, &sql).await?;
            let reason = format!("in {} of the {} orders with the product", expected["together"], expected["orders"]);
            ensure!(
                item["reason"] == json!(reason) && item["stock"] == expected["stock"],
                "{principal}: {item}, not {expected}"
            );
        }
        let scores: Vec<_> = items.iter().filter_map(|item| item["score"].as_f64()).collect();
        ensure!(scores.len() == items.len() && scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
        trending(shared, principal, stores).await?;
    }
    Ok(())
}

async fn trending(shared: &Shared, principal: &str, stores: &[&str]) -> Result<()> {
    let answer = call(shared, principal, "get_product_recommendations", json!({"kind": "trending"})).await?;
    for item in answer["recommendations"].as_array().context("no list")? {
        let sku = item["sku"].as_str().unwrap_or_default();
        let units = |from: u32, to: u32| {
            format!(
                "coalesce(sum(quantity) FILTER (WHERE order_date >= now() - interval '{from} hours' AND order_date < now() - interval '{to} hours'), 0)"
            )
        };
        let sql = format!(
            "SELECT {} AS now, {} AS before FROM orders JOIN order_items USING (store_id, order_id) JOIN products USING (product_id) WHERE sku = '{sku}'",
            units(720, 0),
            units(1440, 720)
        );
        let expected = row(shared, stores, &sql).await?;
        let reason =
            format!("{} units in the last 30 days, {} in the 30 days before", expected["now"], expected["before"]);
        ensure!(item["reason"] == json!(reason), "{principal}: {item}, not {expected}");
    }
    Ok(())
}

pub async fn similar(shared: &Shared) -> Result<()> {
    let (_, name) = popular(shared).await?;
    let answer = call(shared, "seattle-manager", "get_product_recommendations", json!({"product": name})).await?;
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
