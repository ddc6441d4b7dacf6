//! The question of an analyst through rmcp's client, which knows nothing of ours: what ranks first is what the administrator
//! finds nearest.

use anyhow::{Context, Result, ensure};
use rmcp::{
    model::{CallToolRequestParams, ClientConfig},
    service::{ClientLifecycleMode, serve_client_with_lifecycle},
    transport::{StreamableHttpClientTransport, streamable_http_client::StreamableHttpClientTransportConfig},
};
use serde_json::{Map, Value, json};
use storefence_tests::Shared;

use super::TOOL;

const QUESTION: &str = "waterproof electrical connectors";
/// What must be among the first three.
const FIRST: [&str; 2] = ["Waterproof Wire Connectors 25-Pack", "Waterproof Electrical Connector Kit 2-Pin"];

pub async fn question(shared: &Shared) -> Result<()> {
    let roles = [
        ("seattle-manager", &["Seattle"][..]),
        ("puget-sound-regional", &["Seattle", "Bellevue", "Tacoma", "Everett", "Redmond", "Kirkland"]),
        ("head-office", &["Seattle", "Bellevue", "Tacoma", "Spokane", "Everett", "Redmond", "Kirkland", "Online"]),
    ];
    let mut rankings = Vec::new();
    for (principal, stores) in roles {
        let token = shared.token(principal, json!({}))?;
        let config = StreamableHttpClientTransportConfig::with_uri(format!("{}/mcp", shared.stack.facts().gateway_url));
        let transport = StreamableHttpClientTransport::from_config(config.auth_header(token));
        let client =
            serve_client_with_lifecycle(ClientConfig::default(), transport, ClientLifecycleMode::Initialize).await?;
        let arguments = Map::from_iter([("query_description".to_owned(), json!(QUESTION))]);
        let answer = client.call_tool(CallToolRequestParams::new(TOOL).with_arguments(arguments)).await?;
        client.cancel().await?;
        ensure!(!answer.is_error.unwrap_or_default(), "{principal}: {answer:?}");
        let structured = answer.structured_content.context("no structured content")?;
        let products = structured["products"].as_array().context("no products")?;
        let names: Vec<String> =
            products.iter().filter_map(|product| product["name"].as_str().map(str::to_owned)).collect();
        for first in FIRST {
            ensure!(names.iter().take(3).any(|name| name == first), "{principal}: {first} is not among {names:?}");
        }
        for product in products {
            let expected = stock(shared, product, stores).await?;
            ensure!(product["stockLevel"] == json!(expected), "{principal}: {product}, not {expected}");
        }
        rankings.push(names);
    }
    // The catalogue belongs to the tenant: a different caller sees other stock but the same ranking.
    ensure!(rankings.iter().all(|names| *names == rankings[0]), "{rankings:?}");
    Ok(())
}

async fn stock(shared: &Shared, product: &Value, stores: &[&str]) -> Result<i64> {
    let sql = "SELECT sum(stock_level) FROM retail.inventory JOIN retail.stores USING (store_id) \
               WHERE product_id::text = $1 AND store_name = ANY ($2)";
    Ok(shared.database.query_one(sql, &[&product["productId"].as_str(), &stores]).await?.get(0))
}
