//! `get_product_recommendations` of kind `similar` over the stored vectors.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use storefence_devstack::mcp_client::Revision;
use storefence_tests::Shared;

const TOOL: &str = "get_product_recommendations";

async fn similar(shared: &Shared, principal: &str, product: &str, most: u32) -> Result<Vec<Value>> {
    let client = shared.client(principal, Revision::V2026_07_28)?;
    let answer = client.call_tool(TOOL, json!({"product": product, "kind": "similar", "max_results": most})).await?;
    ensure!(answer.status.is_success() && !answer.is_tool_error(), "{}", answer.message);
    answer.structured()["recommendations"].as_array().cloned().context("no list")
}

fn scores(items: &[Value]) -> Vec<f64> {
    items.iter().filter_map(|item| item["score"].as_f64()).collect()
}

pub async fn by_meaning(shared: &Shared) -> Result<()> {
    let name = "Waterproof Electrical Connector Kit 2-Pin";
    for (principal, stores) in [("seattle-manager", &["Seattle"][..]), ("claim-user", &["Seattle", "Redmond"])] {
        let items = similar(shared, principal, name, 5).await?;
        // The order of the vectors themselves, computed by the administrator.
        let expected: Vec<String> = shared
            .database
            .query(
                "SELECT p.product_name FROM retail.product_description_embeddings e JOIN retail.products p USING (product_id)
                   JOIN retail.product_description_embeddings x ON x.model = e.model AND x.tenant_key = e.tenant_key
                   JOIN retail.products w ON w.product_id = x.product_id AND w.product_name = $1
                  WHERE p.product_id <> w.product_id ORDER BY e.description_embedding <=> x.description_embedding LIMIT 5",
                &[&name],
            )
            .await?
            .iter()
            .map(|row| row.get(0))
            .collect();
        let found: Vec<_> = items.iter().filter_map(|item| item["name"].as_str()).collect();
        ensure!(found == expected, "{found:?} instead of {expected:?}");
        ensure!(scores(&items).is_sorted_by(|a, b| a >= b) && scores(&items).len() == 5, "{items:?}");
        for item in &items {
            let percent = item["similarityPercent"].as_f64().context("no similarity")?;
            let reason = item["reason"].as_str().unwrap_or_default();
            ensure!(reason.starts_with(&format!("described {percent} % alike; ")), "{item}");
            let stock: i64 = shared
                .database
                .query_one(
                    "SELECT sum(stock_level) FROM retail.inventory JOIN retail.stores USING (store_id) \
                     WHERE product_id::text = $1 AND store_name = ANY ($2)",
                    &[&item["productId"].as_str(), &stores],
                )
                .await?
                .get(0);
            ensure!(item["stock"] == json!(stock), "{principal}: {item}, not {stock}");
        }
    }
    // As many as were asked for, though not so many are alike.
    let many = similar(shared, "head-office", name, 50).await?;
    ensure!(many.len() > 20 && scores(&many).is_sorted_by(|a, b| a >= b), "{} products", many.len());
    let mut ids: Vec<_> = many.iter().map(|item| item["productId"].to_string()).collect();
    ids.sort();
    ids.dedup();
    ensure!(ids.len() == many.len(), "a product stands twice");
    Ok(())
}

/// A product without a vector, as it is between an import and the next run of embed.
pub async fn without_vectors(shared: &Shared) -> Result<()> {
    let name = "Claw Hammer 16 oz";
    let row = shared
        .database
        .query_opt(
            "SELECT p.product_name FROM retail.products p WHERE p.product_name ILIKE '%hammer%' ORDER BY 1 LIMIT 1",
            &[],
        )
        .await?;
    let name = row.map_or_else(|| name.to_owned(), |row| row.get(0));
    let gone = "UPDATE retail.product_description_embeddings e SET model = $2 FROM retail.products p \
                WHERE p.product_id = e.product_id AND p.product_name = $1";
    let model: String = shared
        .database
        .query_one("SELECT DISTINCT model FROM retail.product_description_embeddings", &[])
        .await?
        .get(0);
    shared.database.execute(gone, &[&name, &"another model"]).await?;
    let items = similar(shared, "seattle-manager", &name, 5).await;
    shared.database.execute(gone, &[&name, &model]).await?;
    let items = items?;
    ensure!(items.len() == 5 && items.iter().all(|item| item["similarityPercent"].is_null()), "{items:?}");
    ensure!(
        items.iter().all(|item| item["reason"].as_str().is_some_and(|reason| !reason.contains("alike"))),
        "{items:?}"
    );
    Ok(())
}
