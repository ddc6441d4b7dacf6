//! The questions that an analyst of Zava asks, through `execute_sales_query`.

use anyhow::{Context, Result, ensure};
use rmcp::{
    model::{CallToolRequestParams, ClientConfig},
    service::{ClientLifecycleMode, serve_client_with_lifecycle},
    transport::{StreamableHttpClientTransport, streamable_http_client::StreamableHttpClientTransportConfig},
};
use serde_json::{Map, Value, json};
use storefence_devstack::mcp_client::Revision;
use storefence_tests::Shared;

use super::administrator::{ROLES, rows};

const TOP_PRODUCTS: &str = "SELECT p.product_name, p.sku, sum(i.total_amount) AS revenue, sum(i.quantity) AS units
    FROM order_items i JOIN orders o USING (store_id, order_id) JOIN products p USING (product_id)
    WHERE o.order_date >= date_trunc('quarter', now()) - interval '3 months' AND o.order_date < date_trunc('quarter', now())
    GROUP BY p.product_name, p.sku ORDER BY revenue DESC, p.sku LIMIT 10";
const SEATTLE: &str = "SELECT c.category_name, sum(i.total_amount) AS revenue, count(DISTINCT o.order_id) AS orders
    FROM order_items i JOIN orders o USING (store_id, order_id) JOIN stores s USING (store_id)
    JOIN products p USING (product_id) JOIN categories c ON c.category_id = p.category_id
    WHERE s.store_name = 'Seattle' AND o.order_date >= date_trunc('month', now())
    GROUP BY 1 ORDER BY revenue DESC, 1";
const BY_MONTH: &str = "SELECT to_char(date_trunc('month', o.order_date AT TIME ZONE 'UTC'), 'YYYY-MM') AS month,
    sum(i.total_amount) AS revenue, count(DISTINCT o.order_id) AS orders
    FROM orders o JOIN order_items i USING (store_id, order_id)
    WHERE o.order_date >= date_trunc('month', now()) - interval '11 months' GROUP BY 1 ORDER BY 1";
const CATEGORIES: &str =
    "SELECT c.category_name, t.type_name, count(*) AS products, round(avg(p.base_price), 2) AS average_price,
    round(avg(p.base_price - p.cost), 2) AS average_margin
    FROM categories c JOIN product_types t USING (category_id) JOIN products p ON p.type_id = t.type_id
    GROUP BY 1, 2 ORDER BY 1, 2";

pub async fn zava(shared: &Shared) -> Result<()> {
    for (principal, stores) in ROLES {
        for question in [TOP_PRODUCTS, SEATTLE, BY_MONTH, CATEGORIES] {
            let expected = rows(shared, stores, question).await?;
            ensure!(!expected.is_empty() || question == SEATTLE, "the administrator finds nothing: {question}");
            for revision in Revision::ALL {
                let answer = shared.ask(principal, revision, question).await?;
                ensure!(
                    answer.rows.len() == expected.len(),
                    "{principal}: {} rows of {}",
                    answer.rows.len(),
                    expected.len()
                );
                for (row, expected) in answer.rows.iter().zip(&expected) {
                    for (column, value) in answer.columns.iter().zip(row) {
                        ensure!(*value == expected[column], "{principal} {column}: {value}, not {expected}");
                    }
                }
            }
        }
    }
    Ok(())
}

/// The same through rmcp's client, which knows nothing of ours.
pub async fn by_rmcp(shared: &Shared) -> Result<()> {
    for (principal, stores) in ROLES {
        let token = shared.token(principal, json!({}))?;
        let config = StreamableHttpClientTransportConfig::with_uri(format!("{}/mcp", shared.stack.facts().gateway_url));
        let transport = StreamableHttpClientTransport::from_config(config.auth_header(token));
        let client =
            serve_client_with_lifecycle(ClientConfig::default(), transport, ClientLifecycleMode::Initialize).await?;
        for question in [TOP_PRODUCTS, SEATTLE, BY_MONTH, CATEGORIES] {
            let expected = rows(shared, stores, question).await?;
            let arguments = Map::from_iter([("postgresql_query".to_owned(), json!(question))]);
            let call = CallToolRequestParams::new("execute_sales_query").with_arguments(arguments);
            let answer = client.call_tool(call).await?;
            let structured = answer.structured_content.context("no structured content")?;
            let columns: Vec<&str> = structured["columns"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|column| column["name"].as_str())
                .collect();
            let found: Vec<Value> = structured["rows"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|row| columns.iter().enumerate().map(|(at, name)| ((*name).to_owned(), row[at].clone())).collect())
                .collect();
            ensure!(found == expected, "{principal}: {found:?}, not {expected:?}");
        }
        client.cancel().await?;
    }
    Ok(())
}
