//! For each random token and query: the gateway's rows are the rows of the same query over tables that the oracle filtered.

use std::env;

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Map, Value, json};
use storefence_devstack::mcp_client::Revision;
use storefence_tests::answered;
use uuid::Uuid;

use super::{World, data, generator::Generator};

/// How many are compared with the oracle; about a tenth of all is refused and comes on top.
const CASES: u64 = 2_000;
const AT_ONCE: usize = 4;

enum Outcome {
    Compared { rows: usize },
    Refused,
    BothFailed,
}

/// How many cases an ordinary run compares.
pub fn cases() -> u64 {
    env::var("STOREFENCE_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(CASES)
}

pub async fn run(world: &World, cases: u64) -> Result<()> {
    let mut outcomes: Vec<Outcome> = Vec::new();
    let mut compared: Vec<usize> = Vec::new();
    while let Some(missing) = cases.checked_sub(compared.len() as u64).filter(|missing| *missing > 0) {
        let begun = outcomes.len() as u64;
        // How many are refused is the seed's; where hardly any is compared, the mix below is what is wrong.
        if begun >= cases * 2 {
            break;
        }
        let more: Vec<Outcome> =
            stream::iter(begun..begun + missing)
                .map(|case| async move {
                    one(world, case).await.with_context(|| format!("seed {} case {case}", world.seed))
                })
                .buffer_unordered(AT_ONCE)
                .try_collect()
                .await?;
        let rows = more.iter().filter_map(|o| if let Outcome::Compared { rows } = o { Some(*rows) } else { None });
        compared.extend(rows);
        outcomes.extend(more);
    }
    super::whole(world).await?;
    let refused = outcomes.iter().filter(|o| matches!(o, Outcome::Refused)).count();
    let failed = outcomes.iter().filter(|o| matches!(o, Outcome::BothFailed)).count();
    let with_rows = compared.iter().filter(|rows| **rows > 0).count();
    println!("{} compared ({with_rows} with rows), {refused} refused, {failed} failed on both sides", compared.len());
    ensure!(compared.len() as u64 >= cases, "only {} cases were compared", compared.len());
    // A generator that only makes empty or broken cases would prove nothing.
    ensure!(with_rows * 3 > outcomes.len(), "too few cases have rows");
    ensure!(refused > 0 && refused * 3 < outcomes.len() && failed * 20 < outcomes.len(), "the mix of cases is off");
    Ok(())
}

async fn one(world: &World, case: u64) -> Result<Outcome> {
    let mut rng = StdRng::seed_from_u64(world.seed ^ (case + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let tenant = world.tenants.choose(&mut rng).context("tenants")?;
    let claims = data::claims(&mut rng, &world.tenants, tenant);
    let visible = tenant.visible(&claims);
    let ids: Vec<Uuid> = world.tenants.iter().flat_map(|t| t.stores.iter().map(|(_, id)| *id)).collect();
    let sql = Generator::new(&mut rng, &ids).query();
    let revision = if rng.random_bool(0.5) { Revision::V2026_07_28 } else { Revision::V2025_11_25 };

    let directory = Uuid::parse_str(claims["tid"].as_str().context("tid")?)?;
    let token = world.shared.stack.issue(&directory.to_string(), claims.clone(), 600)?;
    let client = world.shared.client_with(Some(token), &format!("/{}/mcp", tenant.id), revision);
    let answer = client.call_tool("execute_sales_query", json!({"postgresql_query": sql})).await?;
    if visible.is_empty() {
        let refused = answer.is_tool_error() && answer.structured()["code"] == "AUTHORIZATION_ERROR";
        let rowless = answer.structured()["rows"].is_null() && answer.structured()["columns"].is_null();
        ensure!(answer.status == 200 && refused && rowless, "no store is the caller's, yet {answer:?}\n{claims:?}");
        return Ok(Outcome::Refused);
    }
    let expected = expected(world, tenant.key, &visible, &sql).await;
    match (answer.is_tool_error(), expected) {
        (true, Err(_)) => Ok(Outcome::BothFailed),
        (true, Ok(_)) => bail!("only the gateway fails: {}\n{sql}", answer.structured()),
        (false, Err(error)) => bail!("only the oracle fails: {error:#}\n{sql}"),
        (false, Ok(mut expected)) => {
            let answered = answered(&answer).with_context(|| sql.clone())?;
            ensure!(!answered.truncated, "cut: {sql}");
            let mut seen: Vec<String> = answered.rows.iter().map(|row| json!(row).to_string()).collect();
            seen.sort_unstable();
            expected.sort_unstable();
            ensure!(
                seen == expected,
                "{} rows, the oracle has {}\n{sql}\n{visible:?}\n{claims:?}",
                seen.len(),
                expected.len()
            );
            Ok(Outcome::Compared { rows: seen.len() })
        }
    }
}

/// The same query as administrator, with each table replaced by its rows that the oracle lets through.
async fn expected(world: &World, tenant_key: i32, stores: &[Uuid], sql: &str) -> Result<Vec<String>> {
    let stores: Vec<String> = stores.iter().map(|id| format!("'{id}'")).collect();
    let by_store = format!("store_id IN ({})", stores.join(", "));
    let by_tenant = format!("tenant_key = {tenant_key}");
    let tables = ["stores", "orders", "order_items", "inventory"].map(|table| (table, by_store.clone()));
    let tables = tables.into_iter().chain([("customers", format!("primary_{by_store}"))]);
    let of_the_tenant = ["tenants", "products", "categories", "product_types", "product_description_embeddings"];
    let tables = tables.chain(of_the_tenant.map(|table| (table, by_tenant.clone())));
    let filtered: Vec<String> =
        tables.map(|(table, filter)| format!("{table} AS (SELECT * FROM retail.{table} WHERE {filter})")).collect();
    let sql = format!("WITH {} SELECT row_to_json(q)::text FROM (\n{sql}\n) q", filtered.join(", "));
    let rows = world.shared.database.query(&sql, &[]).await?;
    rows.iter()
        .map(|row| {
            let object: Map<String, Value> = serde_json::from_str(row.get(0))?;
            let values: Vec<&Value> = (0..object.len()).map(|n| &object[&format!("c{n}")]).collect();
            Ok(json!(values).to_string())
        })
        .collect()
}
