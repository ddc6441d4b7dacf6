//! Cached responses that replicas share through Redis: what Redis stores, and what happens if somebody tampers with it.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use serde_json::json;
use storefence_devstack::mcp_client::Answer;
use storefence_tests::skip;

use crate::{
    Tests,
    quota_shared::RedisServer,
    world::{Gateway, World, until},
};

pub fn tests(tests: &mut Tests) {
    tests.add("replicas_share_answers_through_redis_sealed", shared);
}

const ORDERS: &str = "SELECT count(*) AS orders_in_redis FROM retail.orders";

async fn ask(world: &World, gateway: &Gateway, principal: &str) -> Result<Answer> {
    let client = world.client_of(gateway, principal)?;
    Ok(client.call_tool("execute_sales_query", json!({"postgresql_query": ORDERS})).await?)
}

fn is_kept(answer: &Answer) -> bool {
    answer.result()["_meta"]["retail.storefence.dev/cacheAgeSeconds"].is_u64()
}

async fn redis_hits(world: &World, gateway: &Gateway) -> Result<f64> {
    world.metric(gateway, "storefence_answer_cache_total{outcome=\"redis_hit\"}").await
}

async fn shared(world: Arc<World>) -> Result<()> {
    let Some(server) = RedisServer::start(&world).await? else { return skip("there is no Redis here") };
    let mut redis = server.connect().await?;
    world.patch_spec("zava", json!({"gateway": {"cacheTtl": "10m"}})).await?;
    let url = server.url();
    let arguments = ["--redis-url", url.as_str()];
    let first = world.another_gateway("answers-1", &arguments).await?;
    for (principal, orders) in [("seattle-manager", 7), ("redmond-manager", 5)] {
        until("an answer is kept", Duration::from_secs(3), || async {
            Ok(is_kept(&ask(&world, &first, principal).await?))
        })
        .await?;
        let answer = ask(&world, &first, principal).await?;
        ensure!(answer.structured()["rows"] == json!([[orders]]), "{}", answer.message);
    }
    // Another replica answers without ever having run the statement.
    let second = world.another_gateway("answers-2", &arguments).await?;
    for (principal, orders) in [("seattle-manager", 7), ("redmond-manager", 5)] {
        let answer = ask(&world, &second, principal).await?;
        ensure!(
            answer.structured()["rows"] == json!([[orders]]) && is_kept(&answer),
            "{principal}: {}",
            answer.message
        );
    }
    ensure!((redis_hits(&world, &second).await? - 2.0).abs() < 0.5);
    let ran = world.metric(&second, "mcp_queries_total{query_type=\"execute_sales_query\"}").await?;
    ensure!(ran < 0.5, "{ran} statements");
    let answer = ask(&world, &second, "head-office").await?;
    ensure!(answer.structured()["rows"] == json!([[15]]) && !is_kept(&answer), "{}", answer.message);

    // A replica without a cache in memory serves the shared responses, and no others.
    let bare = world.another_gateway("answers-bare", &[&arguments[..], &["--cache-bytes", "0"]].concat()).await?;
    for (principal, orders) in [("seattle-manager", 7), ("redmond-manager", 5)] {
        let answer = ask(&world, &bare, principal).await?;
        ensure!(answer.structured()["rows"] == json!([[orders]]) && is_kept(&answer), "{}", answer.message);
    }
    ensure!((redis_hits(&world, &bare).await? - 2.0).abs() < 0.5);

    // What an operator of Redis can see.
    let names: Vec<String> = redis::cmd("KEYS").arg("storefence:answer:*").query_async(&mut redis).await?;
    ensure!(names.len() == 3, "{names:?}");
    let mut values = Vec::new();
    for name in &names {
        let value: Vec<u8> = redis::cmd("GET").arg(name).query_async(&mut redis).await?;
        let left: i64 = redis::cmd("PTTL").arg(name).query_async(&mut redis).await?;
        ensure!((1..=600_000).contains(&left), "{name} lives for {left} ms");
        for word in ["orders_in_redis", "zava", "Seattle", "retail", "rows", "execute_sales_query"] {
            let stands = value.windows(word.len()).any(|window| window == word.as_bytes());
            ensure!(!stands && !name.contains(word), "{word} stands in Redis");
        }
        values.push(value);
    }
    // Responses that are moved to other keys, edited or cut are not served.
    values.rotate_left(1);
    values[1][20] ^= 1;
    values[2].truncate(5);
    for (name, value) in names.iter().zip(&values) {
        let _: () = redis::cmd("SET").arg(name).arg(value).arg("PX").arg(600_000).query_async(&mut redis).await?;
    }
    let third = world.another_gateway("answers-3", &arguments).await?;
    for (principal, orders) in [("seattle-manager", 7), ("redmond-manager", 5), ("head-office", 15)] {
        let answer = ask(&world, &third, principal).await?;
        ensure!(
            answer.structured()["rows"] == json!([[orders]]) && !is_kept(&answer),
            "{principal}: {}",
            answer.message
        );
    }
    ensure!(redis_hits(&world, &third).await? < 0.5, "an answer that was moved is given");
    let log = std::fs::read_to_string(world.path("answers-3.log"))?;
    ensure!(log.contains("not what was put there"), "nobody is told");
    world.patch_spec("zava", json!({"gateway": {"cacheTtl": null}})).await
}
