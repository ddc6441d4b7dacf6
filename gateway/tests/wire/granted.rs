//! Rules that grant only some of the tools: the others are not listed, and calls to them are refused with a plain sentence.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use storefence_devstack::{
    entra::{TokenRequest, principals::ZAVA_TENANT_ID},
    mcp_client::{McpClient, Revision},
};

use crate::{
    Tests,
    world::{World, ZAVA, denied, standing, until},
};

const OID: &str = "33333333-3333-4333-8333-333333333333";
const EVERYBODYS: [&str; 3] = ["get_current_utc_date", "list_stores", "whoami"];

pub fn tests(tests: &mut Tests) {
    tests.add("a_tool_that_is_not_granted_is_not_there", granted);
}

fn names(list: &Value, what: &str) -> Vec<String> {
    let items = list[what].as_array().into_iter().flatten();
    items.filter_map(|item| item["name"].as_str().map(str::to_owned)).collect()
}

/// The bytes of an answer, except for what identifies the request: time, correlation id, and `name`.
async fn bytes(client: &McpClient, method: &str, params: Value, name: &str) -> Result<String> {
    let response = client.request(method, params).send().await?;
    let mut head: Vec<_> = response.headers().iter().map(|(name, value)| format!("{name}: {value:?}")).collect();
    // The length differs only by that of the names: the body is compared.
    head.retain(|line| !["date: ", "x-correlation-id: ", "content-length: "].iter().any(|own| line.starts_with(own)));
    head.sort();
    let answer = format!("{}\n{}\n\n{}", response.status(), head.join("\n"), response.text().await?);
    ensure!(answer.contains(name), "{answer}");
    Ok(answer.replace(name, "NAME"))
}

async fn tools_of(client: &McpClient) -> Result<Vec<String>> {
    Ok(names(client.send("tools/list", json!({})).await?.result(), "tools"))
}

async fn granted(world: Arc<World>) -> Result<()> {
    let before = ZAVA.object()["spec"]["principals"].clone();
    let rules = |more: Value| {
        let mut rules = before.clone();
        rules.as_array_mut().expect("rules").extend(more.as_array().expect("rules").clone());
        rules
    };
    let figures = json!({"name": "figures", "role": "StoreManager", "entraUser": OID, "stores": ["Seattle"],
        "tools": ["get_store_performance"]});
    world.patch_spec("zava", json!({"principals": rules(json!([figures]))})).await?;
    let token = world.entra.issue(&TokenRequest::user(ZAVA_TENANT_ID).claim("oid", json!(OID)))?;
    let clients = Revision::ALL.map(|revision| world.client(token.clone(), "/mcp", revision));
    let expected = ["get_current_utc_date", "get_store_performance", "list_stores", "whoami"];
    until("the rule grants one tool", Duration::from_secs(5), || async {
        Ok(tools_of(&clients[0]).await? == expected)
    })
    .await?;
    for client in &clients {
        ensure!(tools_of(client).await? == expected);
        let me = client.call_tool("whoami", json!({})).await?;
        ensure!(me.structured()["tools"] == json!(expected), "{}", me.message);
        for (method, what) in [
            ("prompts/list", "prompts"),
            ("resources/list", "resources"),
            ("resources/templates/list", "resourceTemplates"),
        ] {
            let list = client.send(method, json!({})).await?;
            ensure!(list.result()[what] == json!([]), "{method}: {}", list.message);
        }
        let complete =
            |reference: Value, argument: &str| json!({"ref": reference, "argument": {"name": argument, "value": ""}});
        let prompt = |name: &str| json!({"type": "ref/prompt", "name": name});
        let resource = |uri: &str| json!({"type": "ref/resource", "uri": uri});
        // Tool names are documented, so the refusal of one that is not granted says so.
        let refused = client.call_tool("execute_sales_query", json!({"postgresql_query": "SELECT 1"})).await?;
        let said = denied(&refused)?["message"].as_str().unwrap_or_default();
        ensure!(
            said.contains("execute_sales_query is not granted to you") && said.contains("get_store_performance"),
            "{said}"
        );
        let unknown = client.send("tools/call", json!({"name": "drop_tables", "arguments": {}})).await?;
        ensure!(unknown.status == 200 && unknown.message["error"]["code"] == -32602, "{}", unknown.message);
        let refused = bytes(client, "prompts/get", json!({"name": "top_products"}), "top_products").await?;
        ensure!(refused.contains("-32602"), "{refused}");
        ensure!(refused == bytes(client, "prompts/get", json!({"name": "no_such"}), "no_such").await?, "{refused}");
        for uri in ["storefence://schema", "storefence://data-dictionary", "storefence://schema/orders"] {
            let refused = read(client, uri).await?;
            ensure!(refused.contains("Resource not found"), "{refused}");
            ensure!(refused == read(client, "storefence://no-such").await?, "{uri}: {refused}");
        }
        for (known, unknown) in [
            (complete(prompt("top_products"), "store"), complete(prompt("no_such"), "store")),
            (
                complete(resource("storefence://schema/{table}"), "table"),
                complete(resource("storefence://no-such/{table}"), "table"),
            ),
        ] {
            let refused = client.send("completion/complete", known).await?;
            let unknown = client.send("completion/complete", unknown).await?;
            ensure!(
                refused.message["error"]["code"] == -32602 && refused.message == unknown.message,
                "{}",
                refused.message
            );
        }
        let figures = client.call_tool("get_store_performance", json!({})).await?;
        ensure!(!figures.is_tool_error() && figures.structured()["code"].is_null(), "{}", figures.message);
    }
    // Others keep their tools.
    ensure!(tools_of(&world.client_as("head-office")?).await?.len() == 8);
    let broken = json!([figures, {"name": "odd", "role": "StoreManager", "entraUser": OID, "stores": ["Online"],
        "tools": ["execute_sales_query", "no_such_tool"]}]);
    // The schema refuses it at apply.
    ensure!(
        world.patch_spec("zava", json!({"principals": rules(broken)})).await.is_err(),
        "a tool of no name was taken"
    );

    // Two rules: the union of their tools.
    let both = json!([figures, {"name": "query", "role": "StoreManager", "entraUser": OID, "stores": ["Online"],
        "tools": ["execute_sales_query"]}]);
    world.patch_spec("zava", json!({"principals": rules(both)})).await?;
    until("the union", Duration::from_secs(5), || async {
        Ok(tools_of(&clients[0]).await?.len() == EVERYBODYS.len() + 2)
    })
    .await?;
    let prompts = names(clients[0].send("prompts/list", json!({})).await?.result(), "prompts");
    ensure!(prompts == ["category_performance", "monthly_trends", "stock_at_risk", "top_products"], "{prompts:?}");
    world.patch_spec("zava", json!({"principals": before})).await?;
    until("no rule grants", Duration::from_secs(5), || async { Ok(standing(&clients[0]).await?.is_outsider()) }).await
}

async fn read(client: &McpClient, uri: &str) -> Result<String> {
    let request = client.request("resources/read", json!({"uri": uri})).header("mcp-name", uri);
    let answer = client.read(request).await?;
    let error = answer.message["error"].as_object().context("an error")?;
    Ok(format!("{} {}", answer.status, Value::Object(error.clone()).to_string().replace(uri, "URI")))
}
