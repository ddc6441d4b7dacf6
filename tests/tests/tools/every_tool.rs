//! Arguments of every tool, bad in every way that its own schema names. A tool or an argument that is added later is
//! tested without a word here.

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};
use storefence_devstack::mcp_client::Revision;
use storefence_tests::Shared;

/// Arguments that a call cannot do without.
fn good(required: &Value) -> Map<String, Value> {
    let known = [("postgresql_query", json!("SELECT 1")), ("query_description", json!("glue"))];
    let is_required =
        |name: &str| required.as_array().into_iter().flatten().any(|required| required.as_str() == Some(name));
    known.into_iter().filter(|(name, _)| is_required(name)).map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Values that a field of this schema does not take.
fn bad(field: &Value) -> Vec<Value> {
    let mut values = vec![json!({"a": 1}), json!(true)];
    match field["type"].as_str().unwrap_or_default() {
        "string" => {
            values.extend([json!(7), json!(["x", "y"])]);
            if field["enum"].is_array() {
                values.push(json!("no such word"));
            }
            if field["description"].as_str().is_some_and(|text| text.contains("YYYY-MM-DD")) {
                values.extend([json!("1.1.2026"), json!("2026-02-30")]);
            }
        }
        "integer" => {
            let (least, most) = (field["minimum"].as_i64().unwrap_or(0), field["maximum"].as_i64().unwrap_or(0));
            values.extend([json!("five"), json!(1.5), json!(least - 1), json!(most + 1), json!(u64::MAX), json!([1])]);
        }
        "array" => {
            let most = usize::try_from(field["maxItems"].as_u64().unwrap_or(0)).unwrap_or(0);
            values.extend([json!(7), json!([1]), json!(vec!["orders"; most + 1])]);
        }
        _ => {}
    }
    values
}

/// How a complaint shows a value.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 60 { text.chars().take(60).chain(['…']).collect() } else { text }
}

pub async fn arguments(shared: &Shared) -> Result<()> {
    let client = shared.client("seattle-manager", Revision::V2026_07_28)?;
    let list = client.send("tools/list", json!({})).await?;
    let tools = list.result()["tools"].as_array().cloned().context("no tools")?;
    let mut asked = 0;
    for tool in &tools {
        let name = tool["name"].as_str().context("a name")?;
        let input = &tool["inputSchema"];
        let refuse = async |arguments: &Map<String, Value>, words: &[&str]| -> Result<()> {
            let answer = client.call_tool(name, json!(arguments)).await?;
            let said = answer.structured();
            let context = || format!("{name} {}: {}", json!(arguments), answer.message);
            ensure!(answer.status == 200 && answer.is_tool_error() && said["code"] == "VALIDATION_ERROR", context());
            let message = said["message"].as_str().unwrap_or_default();
            ensure!(words.iter().all(|word| message.contains(word)), "{words:?} in {}", context());
            Ok(())
        };
        let fields: Vec<_> = input["properties"].as_object().into_iter().flatten().collect();
        // What a framework adds fails nothing and is named, and so is what there is.
        let mut unknown = good(&input["required"]);
        unknown.extend(["sessionId", "action"].map(|name| (name.to_owned(), json!("a value"))));
        let answer = client.call_tool(name, json!(unknown)).await?;
        let text = answer.result()["content"][0]["text"].as_str().unwrap_or_default();
        let all: Vec<_> = fields.iter().map(|(field, _)| field.as_str()).collect();
        let known = if all.is_empty() { "no arguments".to_owned() } else { all.join(", ") };
        let due = format!("ignored action, sessionId, which {name} does not have; it takes {known}");
        ensure!(text.contains(&due), "{due}: {}", answer.message);
        if !answer.is_tool_error() {
            let said = answer.structured();
            ensure!(said["ignoredArguments"] == json!(["action", "sessionId"]), "{said}");
            ensure!(said["knownArguments"] == json!(all), "{said}");
        }
        // And what models write for nothing is nothing.
        let optional = fields.iter().filter(|(field, _)| good(&input["required"]).get(*field).is_none());
        let optional: Vec<_> = optional.map(|(field, _)| field.as_str()).collect();
        let without = client.call_tool(name, json!(good(&input["required"]))).await?;
        for nothing in [json!(null), json!(""), json!("null"), json!([])] {
            let mut arguments = good(&input["required"]);
            arguments.extend(optional.iter().map(|field| ((*field).to_owned(), nothing.clone())));
            let answer = client.call_tool(name, json!(arguments)).await?;
            let (said, due) = (answer.structured(), without.structured());
            ensure!(answer.is_tool_error() == without.is_tool_error(), "{name} {nothing}: {}", answer.message);
            ensure!(said["message"] == due["message"], "{name} {nothing}: {said} {due}");
        }
        for required in input["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            for value in [None, Some(Value::Null)] {
                let mut arguments = good(&input["required"]);
                arguments.remove(required);
                arguments.extend(value.map(|value| (required.to_owned(), value)));
                refuse(&arguments, &[&format!("{required} is missing"), "is expected"]).await?;
            }
        }
        for (field, schema) in fields {
            for value in bad(schema) {
                let mut arguments = good(&input["required"]);
                arguments.insert(field.clone(), value.clone());
                // the two belong together
                if field == "from" || field == "to" {
                    let other = if field == "from" { "to" } else { "from" };
                    arguments.insert(other.to_owned(), json!("2026-01-02"));
                }
                refuse(&arguments, &[&format!("{field} is {}", shown(&value)), "is expected"]).await?;
                asked += 1;
            }
        }
    }
    ensure!(tools.len() >= 8 && asked > 60, "{asked} bad values for {} tools", tools.len());
    Ok(())
}

async fn metrics(shared: &Shared) -> Result<String> {
    let url = format!("{}/metrics", shared.stack.facts().admin_url);
    Ok(shared.stack.http().get(url).send().await?.text().await?)
}

/// Errors of a tool with this code so far.
pub async fn counted(shared: &Shared, tool: &str, code: &str) -> Result<f64> {
    let name = format!("mcp_tool_errors_total{{code=\"{code}\",gen_ai_tool_name=\"{tool}\"}} ");
    let text = metrics(shared).await?;
    Ok(text.lines().find_map(|line| line.strip_prefix(&name)?.trim().parse().ok()).unwrap_or(0.0))
}

/// Each error is counted under its tool and code, never under a label that a caller chose.
pub async fn by_code(shared: &Shared) -> Result<()> {
    let query = "execute_sales_query";
    let endless = "SELECT count(*) FROM generate_series(1,1000000) a, generate_series(1,1000000) b";
    for (tool, arguments, code) in [
        (query, json!({"postgresql_query": "DROP TABLE orders"}), "VALIDATION_ERROR"),
        (query, json!({"postgresql_query": "SELECT nope FROM orders"}), "DATABASE_ERROR"),
        (query, json!({"postgresql_query": endless}), "QUERY_TIMEOUT"),
        ("get_store_performance", json!({"store": "Redmond"}), "AUTHORIZATION_ERROR"),
        ("semantic_search_products", json!({"query_description": "glue"}), "UNAVAILABLE"),
    ] {
        let before = counted(shared, tool, code).await?;
        let answer = shared.client("seattle-manager", Revision::V2026_07_28)?.call_tool(tool, arguments).await?;
        ensure!(answer.structured()["code"] == code, "{}", answer.message);
        ensure!((counted(shared, tool, code).await? - before - 1.0).abs() < 0.5, "{tool} {code} is not counted");
    }
    shared.client("seattle-manager", Revision::V2026_07_28)?.call_tool("my_own_word", json!({})).await?;
    ensure!(!metrics(shared).await?.contains("my_own_word"), "a caller's word is a label");
    Ok(())
}
