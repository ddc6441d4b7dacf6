//! Definitions, `whoami`, prompts, resources and completions, in both revisions.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use storefence_devstack::{
    mcp_client::{Answer, McpClient, Revision},
    stack::StackOptions,
};
use storefence_tests::Shared;

use super::administrator::{call, rows};

pub async fn whoami(shared: &Shared) -> Result<()> {
    let seattle = call(shared, "seattle-manager", "whoami", json!({})).await?;
    ensure!(seattle["role"] == "StoreManager" && seattle["stores"] == json!(["Seattle"]), "{seattle}");
    ensure!(
        seattle["tenantId"] == "zava" && seattle["rules"].as_array().is_some_and(|rules| rules.len() == 1),
        "{seattle}"
    );
    ensure!(
        seattle["limits"] == json!({"maxRows": 500, "maxResultBytes": 1048576, "statementTimeoutSeconds": 5.0}),
        "{}",
        seattle["limits"]
    );
    let head = call(shared, "head-office", "whoami", json!({})).await?;
    ensure!(
        head["role"] == "HeadOffice" && head["stores"].as_array().is_some_and(|stores| stores.len() == 8),
        "{head}"
    );
    let row = shared
        .database
        .query_one(
            "SELECT $1::text::timestamptz BETWEEN now() + interval '50 minutes' AND now() + interval '61 minutes'",
            &[&head["expires"].as_str()],
        )
        .await?;
    ensure!(row.get::<_, bool>(0), "the token is good for an hour: {}", head["expires"]);
    Ok(())
}

pub async fn definitions(shared: &Shared) -> Result<()> {
    for revision in Revision::ALL {
        let answer = send(&shared.client("seattle-manager", revision)?, "tools/list", json!({}), None).await?;
        let tools = answer.result()["tools"].as_array().context("no tools")?;
        ensure!(tools.len() >= 7, "{tools:?}");
        for tool in tools {
            let name = &tool["name"];
            ensure!(
                tool["description"].as_str().is_some_and(|text| text.len() > 40) && tool["title"].is_string(),
                "{name}"
            );
            ensure!(tool["annotations"]["readOnlyHint"] == json!(true), "{name}");
            ensure!(tool["inputSchema"]["type"] == "object", "{name}");
            ensure!(tool["outputSchema"]["properties"].as_object().is_some_and(|all| !all.is_empty()), "{name}");
            for (field, schema) in tool["inputSchema"]["properties"].as_object().into_iter().flatten() {
                let said = schema["description"].as_str().is_some_and(|text| text.len() > 10);
                ensure!(said, "{name}: nothing says what {field} is for");
            }
        }
    }
    // What a tool promises to answer, it answers.
    for (tool, arguments) in [
        ("get_store_performance", json!({})),
        ("get_product_recommendations", json!({"kind": "trending"})),
        ("get_multiple_table_schemas", json!({})),
        ("whoami", json!({})),
        ("list_stores", json!({})),
    ] {
        let list = send(&shared.client("head-office", Revision::V2026_07_28)?, "tools/list", json!({}), None).await?;
        let definition =
            list.result()["tools"].as_array().into_iter().flatten().find(|known| known["name"] == tool).cloned();
        let promised = definition.context(tool)?["outputSchema"]["properties"].clone();
        let answer = call(shared, "head-office", tool, arguments).await?;
        for (field, _) in promised.as_object().into_iter().flatten() {
            ensure!(answer.get(field).is_some(), "{tool} promises {field}: {answer}");
        }
    }
    cost(shared).await
}

/// A model that is shown the text alone knows as much as a program: every figure and name of the structured content is in it.
pub async fn same_data(shared: &Shared) -> Result<()> {
    fn leaves(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::String(text) => found.push(json!(text).to_string().trim_matches('"').to_owned()),
            Value::Number(number) => found.push(number.to_string()),
            Value::Array(items) => items.iter().for_each(|item| leaves(item, found)),
            Value::Object(members) => members.values().for_each(|member| leaves(member, found)),
            Value::Null | Value::Bool(_) => {}
        }
    }
    let client = shared.client("puget-sound-regional", Revision::V2026_07_28)?;
    let sql = "SELECT order_id, store_id, order_date, E'a\\tb' AS t, 9007199254740993 AS n FROM retail.orders LIMIT 20";
    for (tool, arguments) in [
        ("execute_sales_query", json!({"postgresql_query": sql})),
        ("get_store_performance", json!({"time_period": "qtd"})),
        ("get_product_recommendations", json!({"kind": "trending"})),
        ("get_multiple_table_schemas", json!({})),
        ("whoami", json!({})),
        ("list_stores", json!({})),
        ("get_current_utc_date", json!({})),
    ] {
        let answer = client.call_tool(tool, arguments).await?;
        ensure!(answer.status == 200 && !answer.is_tool_error(), "{tool}: {}", answer.message);
        let text = answer.result()["content"][0]["text"].as_str().context("a text")?;
        let mut structured = answer.structured().clone();
        if tool == "execute_sales_query" {
            // The text has the columns' names, and how long it took is of no use to a model.
            structured = json!([structured["rows"], structured["rowCount"]]);
        }
        let mut found = Vec::new();
        leaves(&structured, &mut found);
        let missing: Vec<_> = found.iter().filter(|leaf| !text.contains(*leaf)).collect();
        ensure!(found.len() > 1 && missing.is_empty(), "{tool}: the text lacks {missing:?}:\n{text}");
    }
    Ok(())
}

/// Bytes of a token: what tokenizers make of English and JSON, as a rule of thumb. None of them can be had offline.
const BYTES_PER_TOKEN: usize = 4;
const TOKENS_MAX: usize = 2_500;

/// Each conversation pays for the list of tools before it begins.
async fn cost(shared: &Shared) -> Result<()> {
    for revision in Revision::ALL {
        let answer = send(&shared.client("head-office", revision)?, "tools/list", json!({}), None).await?;
        let bytes = answer.message.to_string().len();
        let tokens = bytes.div_ceil(BYTES_PER_TOKEN);
        println!("tools/list of {}: {bytes} bytes, {tokens} tokens", revision.as_str());
        ensure!(tokens <= TOKENS_MAX, "tools/list takes {tokens} tokens ({bytes} bytes)");
    }
    Ok(())
}

/// The suites strip it, to see what the database says now: that the examples have it is seen here.
pub fn examples_keep_answers() -> Result<()> {
    let mut tenants = Vec::new();
    for (file, manifest) in StackOptions::examples()? {
        for document in serde_saphyr::from_multiple::<Value>(&manifest)? {
            if document["kind"] == "RetailTenant" {
                ensure!(document["spec"]["gateway"]["cacheTtl"] == "5m", "{file}: {}", document["spec"]["gateway"]);
                tenants.push(document["spec"]["tenantId"].as_str().unwrap_or_default().to_owned());
            }
        }
    }
    tenants.sort();
    ensure!(tenants == ["contoso", "zava"], "{tenants:?}");
    Ok(())
}

async fn send(client: &McpClient, method: &str, params: Value, name: Option<&str>) -> Result<Answer> {
    let mut request = client.request(method, params);
    if let Some(name) = name {
        request = request.header("Mcp-Name", name);
    }
    let answer = client.read(request).await?;
    ensure!(answer.status.is_success() || answer.message["error"].is_object(), "{method}: {answer:?}");
    Ok(answer)
}

pub async fn by_scope(shared: &Shared) -> Result<()> {
    for revision in Revision::ALL {
        let client = shared.client("seattle-manager", revision)?;
        if revision == Revision::V2025_11_25 {
            let capabilities = client.initialize().await?.result()["capabilities"].clone();
            ensure!(
                ["tools", "prompts", "resources", "completions"].iter().all(|name| capabilities[name].is_object()),
                "{capabilities}"
            );
        }
        prompts(&client, revision).await?;
        resources(&client, revision).await?;
        completions(shared, &client).await?;
    }
    Ok(())
}

/// Only the caller may cache the result; for clients of the older revision the field is absent.
fn private(result: &Value, revision: Revision) -> Result<()> {
    let expected = if revision == Revision::V2026_07_28 { json!("private") } else { Value::Null };
    ensure!(result["cacheScope"] == expected, "{}", result["cacheScope"]);
    Ok(())
}

async fn prompts(client: &McpClient, revision: Revision) -> Result<()> {
    let list = send(client, "prompts/list", json!({}), None).await?;
    private(list.result(), revision)?;
    let names: Vec<_> = list.result()["prompts"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|prompt| prompt["name"].as_str())
        .collect();
    ensure!(
        names == ["category_performance", "customer_value", "monthly_trends", "stock_at_risk", "top_products"],
        "{names:?}"
    );
    for name in names {
        let prompt =
            send(client, "prompts/get", json!({"name": name, "arguments": {"store": "seattle"}}), None).await?;
        let text = prompt.result()["messages"][0]["content"]["text"].as_str().context("no text")?;
        ensure!(text.contains("the store Seattle") && !text.contains('{'), "{text}");
    }
    for (arguments, word) in [
        (json!({"store": "Redmond"}), "none of yours"),
        (json!({"period": "soon"}), "YYYY-Qn"),
        (json!({"x": "y"}), "unknown argument x"),
    ] {
        let refused =
            send(client, "prompts/get", json!({"name": "top_products", "arguments": arguments}), None).await?;
        let error = &refused.message["error"];
        ensure!(
            error["code"] == -32602 && error["message"].as_str().is_some_and(|text| text.contains(word)),
            "{error}"
        );
    }
    Ok(())
}

async fn resources(client: &McpClient, revision: Revision) -> Result<()> {
    let list = send(client, "resources/list", json!({}), None).await?;
    private(list.result(), revision)?;
    let templates = send(client, "resources/templates/list", json!({}), None).await?;
    ensure!(
        templates.result()["resourceTemplates"][0]["uriTemplate"] == "storefence://schema/{table}",
        "{:?}",
        templates.message
    );
    let mut texts = Vec::new();
    for uri in ["storefence://data-dictionary", "storefence://schema", "storefence://schema/orders"] {
        let read = send(client, "resources/read", json!({"uri": uri}), Some(uri)).await?;
        private(read.result(), revision)?;
        texts.push(
            read.result()["contents"][0]["text"]
                .as_str()
                .with_context(|| format!("{uri}: {}", read.message))?
                .to_owned(),
        );
    }
    ensure!(texts[0].contains("## retail.orders") && texts[0].contains("When the order was placed."), "{}", texts[0]);
    for text in &texts[1..] {
        let schema: Value = serde_json::from_str(text)?;
        ensure!(schema["validValues"]["stores"] == json!(["Seattle"]), "{}", schema["validValues"]["stores"]);
    }
    for uri in ["storefence://schema/tenants_of_others", "file:///etc/passwd"] {
        let refused = send(client, "resources/read", json!({"uri": uri}), Some(uri)).await?;
        let code = if revision == Revision::V2026_07_28 { -32602 } else { -32002 };
        ensure!(refused.message["error"]["code"] == code, "{uri}: {}", refused.message);
    }
    Ok(())
}

async fn completions(shared: &Shared, client: &McpClient) -> Result<()> {
    let ask = |argument: &'static str, value: &'static str| async move {
        let params = json!({"ref": {"type": "ref/prompt", "name": "top_products"}, "argument": {"name": argument, "value": value}});
        let answer = send(client, "completion/complete", params, None).await?;
        anyhow::Ok(answer.result()["completion"]["values"].clone())
    };
    ensure!(
        ask("store", "").await? == json!(["Seattle"]) && ask("store", "red").await? == json!([]),
        "stores of others"
    );
    let categories = rows(shared, &[], "SELECT category_name FROM categories ORDER BY 1").await?;
    let names: Vec<_> = categories.iter().map(|row| row["category_name"].clone()).collect();
    ensure!(ask("category", "").await? == json!(names), "categories");
    // Another tenant has its own, and none of these.
    let contoso = shared.client("contoso-head-office", Revision::V2026_07_28)?;
    let params =
        json!({"ref": {"type": "ref/prompt", "name": "top_products"}, "argument": {"name": "category", "value": ""}});
    let theirs = send(&contoso, "completion/complete", params, None).await?.result()["completion"]["values"].clone();
    let of_contoso = "SELECT json_agg(category_name ORDER BY category_name)::text FROM retail.categories \
                      JOIN retail.tenants USING (tenant_key) WHERE tenant_id = 'contoso'";
    let expected: String = shared.database.query_one(of_contoso, &[]).await?.get(0);
    ensure!(theirs == serde_json::from_str::<Value>(&expected)? && theirs != json!(names), "{theirs}, not {expected}");
    ensure!(ask("period", "m").await? == json!(["mtd"]), "periods");
    let table = json!({"ref": {"type": "ref/resource", "uri": "storefence://schema/{table}"}, "argument": {"name": "table", "value": "order"}});
    let tables = send(client, "completion/complete", table, None).await?;
    ensure!(tables.result()["completion"]["values"] == json!(["order_items", "orders"]), "{}", tables.message);
    Ok(())
}
