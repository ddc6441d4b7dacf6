//! A gateway that is newer than its database.

use std::sync::Arc;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::{Tests, world::World};

const REPORT: &str = "fence.run_report(text, text, integer, integer)";

pub fn tests(tests: &mut Tests) {
    tests.add("sums_are_answered_before_their_entry_point_is_there", without_reports);
}

async fn without_reports(world: Arc<World>) -> Result<()> {
    let superuser = world.superuser().await?;
    superuser.batch_execute(&format!("ALTER FUNCTION {REPORT} RENAME TO run_report_to_come")).await?;
    let outcome = sums(&world, "older-database").await;
    let later = REPORT.replace("run_report", "run_report_to_come");
    superuser.batch_execute(&format!("ALTER FUNCTION {later} RENAME TO run_report")).await?;
    outcome?;
    sums(&world, "migrated-database").await
}

/// Aggregating statements, through a gateway that connects to this database for the first time.
async fn sums(world: &World, name: &str) -> Result<()> {
    let gateway = world.another_gateway(name, &[]).await?;
    let client = world.client_of(&gateway, "head-office")?;
    for _ in 0..2 {
        let sql = "SELECT count(*), max(order_date) IS NULL FROM retail.orders";
        let answer = client.call_tool("execute_sales_query", json!({"postgresql_query": sql})).await?;
        ensure!(!answer.is_tool_error(), "{name}: {}", answer.message);
        ensure!(answer.structured()["rows"] == json!([[15, false]]), "{name}: {}", answer.message);
        let wrong = json!({"postgresql_query": "SELECT sum(nothing) FROM retail.orders"});
        let answer = client.call_tool("execute_sales_query", wrong).await?;
        ensure!(answer.structured()["sqlstate"] == json!("42703"), "{name}: {}", answer.message);
        ensure!(answer.structured()["position"] == json!(12), "{name}: {}", answer.message);
    }
    Ok(())
}
