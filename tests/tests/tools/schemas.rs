//! `get_multiple_table_schemas`.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use storefence_devstack::mcp_client::Revision;
use storefence_tests::Shared;

use super::administrator::{ROLES, call, row, rows};

const TOOL: &str = "get_multiple_table_schemas";

pub async fn catalog(shared: &Shared) -> Result<()> {
    let answer = call(shared, "seattle-manager", TOOL, json!({})).await?;
    let tables = answer["tables"].as_array().context("no tables")?;
    let expected = rows(
        shared,
        &[],
        "SELECT table_name AS t, json_agg(column_name ORDER BY ordinal_position) AS columns, json_agg(is_nullable = 'YES' ORDER BY ordinal_position) AS nullable
         FROM information_schema.columns WHERE table_schema = 'retail' GROUP BY 1 ORDER BY 1",
    )
    .await?;
    ensure!(tables.len() == expected.len(), "{} tables of {}", tables.len(), expected.len());
    for (table, expected) in tables.iter().zip(&expected) {
        ensure!(table["name"] == json!(format!("retail.{}", expected["t"].as_str().unwrap_or_default())), "{table}");
        let columns = table["columns"].as_array().context("no columns")?;
        let each = |field: &str| columns.iter().map(|column| column[field].clone()).collect::<Vec<Value>>();
        ensure!(
            json!(each("name")) == expected["columns"] && json!(each("nullable")) == expected["nullable"],
            "{table}"
        );
        ensure!(
            columns.iter().all(|column| column["comment"].is_string()),
            "{}: a column without a comment",
            table["name"]
        );
    }
    let items = tables.iter().find(|table| table["name"] == "retail.order_items").context("order_items")?;
    let relationship =
        json!({"columns": ["store_id", "order_id"], "table": "orders", "references": ["store_id", "order_id"]});
    ensure!(
        items["relationships"].as_array().is_some_and(|all| all.contains(&relationship)),
        "{}",
        items["relationships"]
    );
    ensure!(
        items["keys"]
            .as_array()
            .is_some_and(|keys| keys.contains(&json!({"primary": true, "columns": ["order_item_id"]}))),
        "{}",
        items["keys"]
    );
    Ok(())
}

pub async fn scope(shared: &Shared) -> Result<()> {
    for (principal, stores) in ROLES {
        let answer =
            call(shared, principal, TOOL, json!({"table_names": ["retail.orders", "customers", "stores"]})).await?;
        let values = row(
            shared,
            stores,
            "SELECT (SELECT json_agg(store_name ORDER BY store_name) FROM stores) AS stores,
                (SELECT json_agg(category_name ORDER BY category_name) FROM categories) AS categories,
                (SELECT json_agg(y ORDER BY y) FROM (SELECT DISTINCT extract(year FROM order_date AT TIME ZONE 'UTC')::int AS y FROM orders) y) AS \"orderYears\",
                (SELECT count(*) FROM orders) AS orders, (SELECT count(*) FROM customers) AS customers",
        )
        .await?;
        for name in ["stores", "categories", "orderYears"] {
            ensure!(
                answer["validValues"][name] == values[name],
                "{principal} {name}: {}, not {}",
                answer["validValues"][name],
                values[name]
            );
        }
        let counted = |name: &str| {
            answer["tables"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|table| table["name"] == name)
                .map(|table| table["rows"].clone())
        };
        ensure!(counted("retail.orders").as_ref() == Some(&values["orders"]), "{principal}: hidden orders are counted");
        ensure!(
            counted("retail.customers").as_ref() == Some(&values["customers"]),
            "{principal}: hidden customers are counted"
        );
    }
    let contoso = call(shared, "contoso-head-office", TOOL, json!({"table_names": ["stores"]})).await?;
    let text = contoso.to_string();
    ensure!(!text.contains("Redmond") && !text.contains("POWER TOOLS"), "{}", contoso["validValues"]);
    for revision in Revision::ALL {
        for name in ["fence.tenants", "context_keys", "nothing", "pg_class"] {
            let client = shared.client("seattle-manager", revision)?;
            let answer = client.call_tool(TOOL, json!({"table_names": ["orders", name]})).await?;
            let said = answer.structured()["message"].as_str().unwrap_or_default();
            ensure!(answer.is_tool_error() && answer.structured()["code"] == "VALIDATION_ERROR", "{answer:?}");
            ensure!(said.contains(name) && said.contains("valid names are categories, customers"), "{said}");
        }
    }
    Ok(())
}

/// A migration acts on the next call: the remembered schema is of another version.
pub async fn migrated(shared: &Shared) -> Result<()> {
    let columns = |answer: &Value| answer["tables"][0]["columns"].as_array().map_or(0, Vec::len);
    let before = call(shared, "seattle-manager", TOOL, json!({"table_names": ["inventory"]})).await?;
    let (owner, connection) =
        tokio_postgres::connect(&shared.stack.facts().database_url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    owner.batch_execute("SET ROLE retail_owner; ALTER TABLE retail.inventory ADD COLUMN shelf text").await?;
    let after = call(shared, "seattle-manager", TOOL, json!({"table_names": ["inventory"]})).await;
    owner.batch_execute("ALTER TABLE retail.inventory DROP COLUMN shelf").await?;
    ensure!(columns(&after?) == columns(&before) + 1, "the new column does not show");
    let again = call(shared, "seattle-manager", TOOL, json!({"table_names": ["inventory"]})).await?;
    ensure!(columns(&again) == columns(&before), "the dropped column still shows");
    Ok(())
}
