//! Semantic search through the whole stack, with a real model: what is asked for ranks first, and nobody sees more than
//! the rows of their tenant and the stock of their stores.

mod rmcp_client;
mod similar;
mod transcript;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use storefence_devstack::{
    embeddings::Fault,
    mcp_client::{Answer, Revision},
    stack::StackOptions,
};
use storefence_tests::{Shared, Suite, wait_until};

const TOOL: &str = "semantic_search_products";

fn main() -> ExitCode {
    let suite = Suite::new(|| {
        Shared::start(|options| {
            options.manifests = StackOptions::examples()?;
            options.model = true;
            Ok(())
        })
    });
    suite
        .test("expected_products_rank_first", |s| async move { ranking(&s).await })
        .test("the_conversation_in_the_readme_is_a_real_one", |s| async move { transcript::holds(&s).await })
        .test("the_documents_example_works", |s| async move {
            let called = storefence_tests::documented::tool_examples(&s, "jsonc").await?;
            ensure!(called == [TOOL], "{called:?}");
            Ok(())
        })
        .test("similar_products_are_alike_in_meaning", |s| async move { similar::by_meaning(&s).await })
        .test("without_vectors_similar_products_are_of_a_kind", |s| async move { similar::without_vectors(&s).await })
        .test("the_question_of_zava_through_rmcp_as_three_roles", |s| async move { rmcp_client::question(&s).await })
        .test("rows_threshold_and_order_are_as_asked", |s| async move { bounds(&s).await })
        .test("signs_choose_what_vectors_would", |s| async move { recall(&s).await })
        .test("hybrid_finds_exact_words_too", |s| async move { hybrid(&s).await })
        .test("no_tenant_sees_products_of_another", |s| async move { tenants(&s).await })
        .test("stock_is_that_of_the_callers_stores", |s| async move { stock(&s).await })
        .test("the_tool_describes_itself_and_refuses_wrong_arguments", |s| async move { arguments(&s).await })
        .test("a_provider_that_is_away_is_said_and_leaves_the_rest_working", |s| async move { away(&s).await })
        .test("where_no_product_has_a_vector_that_is_said", |s| async move { none_embedded(&s).await })
        .test("an_edited_product_is_found_after_embed", |s| async move { edited(&s).await })
        .test("without_a_model_it_says_that_it_is_not_configured", |_| async move { unconfigured().await })
        .run(Shared::stop)
}

async fn call(shared: &Shared, principal: &str, arguments: Value) -> Result<Answer> {
    Ok(shared.client(principal, Revision::V2026_07_28)?.call_tool(TOOL, arguments).await?)
}

async fn find(shared: &Shared, principal: &str, arguments: Value) -> Result<Vec<Value>> {
    let answer = call(shared, principal, arguments).await?;
    ensure!(answer.status.is_success() && !answer.is_tool_error(), "{answer:?}");
    let structured = answer.structured();
    let products = structured["products"].as_array().cloned().context("no products")?;
    ensure!(structured["productCount"] == json!(products.len()), "{structured}");
    Ok(products)
}

fn names(products: &[Value]) -> Vec<&str> {
    products.iter().filter_map(|product| product["name"].as_str()).collect()
}

/// What is asked for, and words of the names that must lead.
async fn ranking(shared: &Shared) -> Result<()> {
    for (query, first) in [
        ("waterproof electrical connectors", &["Waterproof Electrical Connector", "Waterproof Wire Connectors"][..]),
        ("something to drive nails into wood", &["Hammer", "Nailer", "Nails"]),
        ("measure a distance with a laser", &["Laser Distance Meter"]),
        ("smooth a rough wooden board with sandpaper", &["Sand"]),
        ("cut the lawn", &["Lawn Mower", "Mower", "Trimmer"]),
    ] {
        for principal in ["head-office", "seattle-manager", "puget-sound-regional"] {
            let products = find(shared, principal, json!({"query_description": query})).await?;
            let names = names(&products);
            ensure!(!names.is_empty(), "{query}: nothing found");
            let leads = |name: &&str| first.iter().any(|words| name.contains(words));
            ensure!(leads(&names[0]), "{query}: {:?}", &names[..names.len().min(5)]);
        }
    }
    let products =
        find(shared, "head-office", json!({"query_description": "waterproof electrical connectors"})).await?;
    let first: Vec<_> = names(&products).into_iter().take(3).collect();
    for expected in ["Waterproof Wire Connectors 25-Pack", "Waterproof Electrical Connector Kit 2-Pin"] {
        ensure!(first.contains(&expected), "{expected} is not among {first:?}");
    }
    Ok(())
}

async fn bounds(shared: &Shared) -> Result<()> {
    let query = "paint for the outside of a house";
    let all =
        find(shared, "head-office", json!({"query_description": query, "max_rows": 100, "similarity_threshold": 0}))
            .await?;
    ensure!(all.len() == 100, "{} rows instead of 100", all.len());
    let percents: Vec<f64> = all.iter().filter_map(|product| product["similarityPercent"].as_f64()).collect();
    ensure!(percents.len() == 100 && percents.is_sorted_by(|a, b| a >= b), "{percents:?}");
    let five =
        find(shared, "head-office", json!({"query_description": query, "max_rows": 5, "similarity_threshold": 0}))
            .await?;
    ensure!(names(&five) == names(&all)[..5], "{five:?}");
    ensure!(
        find(shared, "head-office", json!({"query_description": query})).await?.len() <= 20,
        "the default is 20 rows"
    );
    let threshold = 40;
    let above = json!({"query_description": query, "max_rows": 100, "similarity_threshold": threshold});
    let above = find(shared, "head-office", above).await?;
    let expected = percents.iter().filter(|percent| **percent >= f64::from(threshold)).count();
    ensure!(!above.is_empty() && above.len().abs_diff(expected) <= 1, "{} instead of {expected}", above.len());
    Ok(())
}

/// The text of a product has the product's own vector, so the administrator can say what lies nearest without any index,
/// and without the signs by which the search chooses whom to compare.
async fn recall(shared: &Shared) -> Result<()> {
    let zava = "p.tenant_key = (SELECT tenant_key FROM retail.tenants WHERE tenant_id = 'zava')";
    let asked = format!(
        "SELECT p.product_id::text, p.product_name || E'\\n' || c.category_name || ', ' || t.type_name || E'\\n' || p.product_description \
           FROM retail.products p JOIN retail.categories c USING (category_id) JOIN retail.product_types t USING (type_id) \
          WHERE {zava} ORDER BY md5(p.sku) LIMIT 40"
    );
    let nearest = format!(
        "SELECT product_id::text FROM (SELECT product_id, description_embedding FROM retail.product_description_embeddings p WHERE {zava} OFFSET 0) e \
          ORDER BY description_embedding <=> (SELECT description_embedding FROM retail.product_description_embeddings WHERE product_id::text = $1) LIMIT 20"
    );
    let (mut hits, mut wanted) = (0, 0);
    for row in shared.database.query(&asked, &[]).await? {
        let (product, text): (String, String) = (row.get(0), row.get(1));
        let arguments = json!({"query_description": text, "similarity_threshold": 0});
        let found = find(shared, "head-office", arguments).await?;
        ensure!(found.len() == 20, "{} rows of 20", found.len());
        ensure!(found[0]["productId"] == json!(product), "{text}: {:?}", names(&found));
        for row in shared.database.query(&nearest, &[&product]).await? {
            let expected = json!(row.get::<_, String>(0));
            wanted += 1;
            hits += usize::from(found.iter().any(|product| product["productId"] == expected));
        }
    }
    println!("recall of the real model: {hits} of {wanted}");
    ensure!(wanted == 800 && hits * 100 >= wanted * 95, "recall {hits} of {wanted}");
    Ok(())
}

async fn hybrid(shared: &Shared) -> Result<()> {
    let sku: String = shared
        .database
        .query_one("SELECT sku FROM retail.products WHERE product_name = 'Rubber Mallet'", &[])
        .await?
        .get(0);
    let ask = |mode: &str| json!({"query_description": sku, "mode": mode, "max_rows": 5});
    let found = find(shared, "head-office", ask("hybrid")).await?;
    ensure!(found[0]["name"] == "Rubber Mallet" && found[0]["hasWords"] == true, "{found:?}");
    let plain = find(shared, "head-office", ask("semantic")).await?;
    ensure!(plain.iter().all(|product| product["hasWords"] == false), "{plain:?}");
    Ok(())
}

async fn tenants(shared: &Shared) -> Result<()> {
    for (principal, tenant) in [
        ("contoso-head-office", "contoso"),
        ("contoso-downtown-manager", "contoso"),
        ("head-office", "zava"),
        ("redmond-manager", "zava"),
    ] {
        let own: Vec<String> = shared
            .database
            .query(
                "SELECT product_name FROM retail.products JOIN retail.tenants USING (tenant_key) WHERE tenant_id = $1",
                &[&tenant],
            )
            .await?
            .iter()
            .map(|row| row.get(0))
            .collect();
        for query in ["waterproof electrical connectors", "fresh fruit and vegetables", "%' OR true --"] {
            for mode in ["semantic", "hybrid"] {
                let all = json!({"query_description": query, "max_rows": 100, "similarity_threshold": 0, "mode": mode});
                let found = find(shared, principal, all).await?;
                ensure!(!found.is_empty(), "{principal}: {query}");
                let foreign: Vec<_> =
                    names(&found).into_iter().filter(|name| !own.iter().any(|own| own == name)).collect();
                ensure!(foreign.is_empty(), "{principal} sees {foreign:?}");
            }
        }
    }
    Ok(())
}

async fn stock(shared: &Shared) -> Result<()> {
    let ask = json!({"query_description": "waterproof electrical connectors", "max_rows": 10});
    for (principal, stores) in [
        ("seattle-manager", &["Seattle"][..]),
        ("redmond-manager", &["Redmond"]),
        ("claim-user", &["Seattle", "Redmond"]),
        ("head-office", &["Seattle", "Bellevue", "Tacoma", "Spokane", "Everett", "Redmond", "Kirkland", "Online"]),
    ] {
        for product in find(shared, principal, ask.clone()).await? {
            let expected: i64 = shared
                .database
                .query_one(
                    "SELECT sum(stock_level) FROM retail.inventory JOIN retail.stores USING (store_id) \
                     WHERE product_id::text = $1 AND store_name = ANY ($2)",
                    &[&product["productId"].as_str(), &stores],
                )
                .await?
                .get(0);
            ensure!(product["stockLevel"] == json!(expected), "{principal}: {product} instead of {expected}");
            for store in product["stores"].as_array().context("no stores")? {
                ensure!(stores.iter().any(|name| store["store"] == *name), "{principal} sees {store}");
            }
        }
    }
    Ok(())
}

async fn arguments(shared: &Shared) -> Result<()> {
    let client = shared.client("seattle-manager", Revision::V2026_07_28)?;
    let list = client.send("tools/list", json!({})).await?;
    let tool = list.result()["tools"].as_array().into_iter().flatten().find(|tool| tool["name"] == TOOL);
    let tool = tool.context("the tool is not listed")?;
    ensure!(tool["inputSchema"]["properties"]["max_rows"]["maximum"] == 100, "{tool}");
    ensure!(tool["outputSchema"]["properties"]["products"]["type"] == "array", "{tool}");
    for (arguments, field) in [
        (json!({}), "query_description"),
        (json!({"query_description": ""}), "query_description"),
        (json!({"query_description": "x", "max_rows": 101}), "max_rows"),
        (json!({"query_description": "x", "similarity_threshold": -1}), "similarity_threshold"),
        (json!({"query_description": "x", "mode": "fast"}), "mode"),
        (json!({"limit": 5}), "ignored limit"),
    ] {
        let answer = call(shared, "seattle-manager", arguments.clone()).await?;
        let structured = answer.structured();
        ensure!(answer.is_tool_error() && structured["code"] == "VALIDATION_ERROR", "{arguments}: {answer:?}");
        ensure!(structured["message"].as_str().is_some_and(|text| text.contains(field)), "{arguments}: {structured}");
    }
    Ok(())
}

async fn away(shared: &Shared) -> Result<()> {
    let api = shared.stack.embeddings().context("no embeddings stand-in")?;
    let known = json!({"query_description": "waterproof electrical connectors"});
    find(shared, "head-office", known.clone()).await?;
    let calls = api.calls();
    find(shared, "seattle-manager", known.clone()).await?;
    ensure!(api.calls() == calls, "the vector of a known question is asked for again");

    let unavailable = async |query: &str| -> Result<()> {
        let answer = call(shared, "head-office", json!({"query_description": query})).await?;
        ensure!(answer.is_tool_error() && answer.structured()["code"] == "UNAVAILABLE", "{answer:?}");
        let text = answer.structured().to_string();
        ensure!(!text.contains("127.0.0.1") && !text.contains("deployments"), "{text}");
        Ok(())
    };
    // When to come back is passed on where the provider says so, in whole seconds.
    for (fault, seconds) in [
        (Fault::Throttle(60), json!(60)),
        (Fault::ThrottleMillis(1_500), json!(2)),
        (Fault::Status(500, "500"), Value::Null),
    ] {
        api.inject(fault.clone());
        let answer =
            call(shared, "head-office", json!({"query_description": format!("come back after {fault:?}")})).await?;
        ensure!(answer.structured()["code"] == "UNAVAILABLE", "{fault:?}: {answer:?}");
        ensure!(answer.structured()["retryAfterSeconds"] == seconds, "{fault:?}: {}", answer.structured());
    }
    for fault in [Fault::Throttle(60), Fault::Status(500, "500"), Fault::Garbage, Fault::Hang] {
        api.inject(fault.clone());
        let begun = std::time::Instant::now();
        unavailable(&format!("new question for {fault:?}")).await?;
        ensure!(begun.elapsed() < Duration::from_secs(9), "{fault:?}: {:?}", begun.elapsed());
    }
    api.server().set_down(true);
    unavailable("a question while the provider is away").await?;
    find(shared, "redmond-manager", known).await.context("a known question needs no provider")?;
    ensure!(shared.count("head-office", Revision::V2026_07_28, "SELECT count(*) FROM retail.orders").await? > 0);
    api.server().set_down(false);
    let again = json!({"query_description": "a question while the provider is away", "similarity_threshold": 0});
    wait_until("the provider is back", Duration::from_secs(10), async || {
        Ok(!call(shared, "head-office", again.clone()).await?.is_tool_error())
    })
    .await?;
    Ok(())
}

/// Nothing is alike, or nothing has been compared: two answers.
async fn none_embedded(shared: &Shared) -> Result<()> {
    let query = json!({"query_description": "a question about the price of tea", "similarity_threshold": 100});
    ensure!(find(shared, "head-office", query.clone()).await?.is_empty(), "something is that much alike");
    let zava = "tenant_key = (SELECT tenant_key FROM retail.tenants WHERE tenant_id = 'zava')";
    let model: String = shared
        .database
        .query_one("SELECT DISTINCT model FROM retail.product_description_embeddings", &[])
        .await?
        .get(0);
    let set = format!("UPDATE retail.product_description_embeddings SET model = $1 WHERE {zava}");
    shared.database.execute(&set, &[&"another model"]).await?;
    let answer = call(shared, "head-office", query.clone()).await;
    let contoso = find(shared, "contoso-head-office", query.clone()).await;
    shared.database.execute(&set, &[&model]).await?;
    let answer = answer?;
    let said = answer.structured();
    ensure!(answer.is_tool_error() && said["code"] == "UNAVAILABLE", "{answer:?}");
    ensure!(said["message"].as_str().is_some_and(|text| text.contains("not embedded them")), "{said}");
    ensure!(contoso?.is_empty(), "another tenant has its vectors");
    ensure!(find(shared, "head-office", query).await?.is_empty(), "they are back");
    Ok(())
}

async fn edited(shared: &Shared) -> Result<()> {
    let text = "An inflatable kayak for two paddlers on calm lakes.";
    shared
        .database
        .execute("UPDATE retail.products SET product_description = $1 WHERE product_name = 'Rubber Mallet'", &[&text])
        .await?;
    let query = json!({"query_description": "a boat to paddle on a lake", "max_rows": 1, "similarity_threshold": 0});
    let before = find(shared, "head-office", query.clone()).await?;
    ensure!(before[0]["name"] != "Rubber Mallet", "{before:?}");
    let output = shared.stack.run_operator(&["embed", "--database", "retail", "--tenant", "zava"]).await?;
    ensure!(output.contains("embedded 1 of"), "{output}");
    let after = find(shared, "head-office", query).await?;
    ensure!(after[0]["name"] == "Rubber Mallet" && after[0]["description"] == text, "{after:?}");
    Ok(())
}

async fn unconfigured() -> Result<()> {
    let shared = Shared::with_examples().await?;
    let answer = call(&shared, "seattle-manager", json!({"query_description": "glue"})).await;
    shared.stop().await;
    let answer = answer?;
    let structured = answer.structured();
    ensure!(answer.is_tool_error() && structured["code"] == "UNAVAILABLE", "{answer:?}");
    ensure!(structured["message"].as_str().is_some_and(|text| text.contains("not configured")), "{structured}");
    Ok(())
}
