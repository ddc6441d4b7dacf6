//! Calls per minute and concurrent calls.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use serde_json::json;
use storefence_devstack::mcp_client::{Answer, McpClient};

use crate::{
    Tests,
    world::{World, ZAVA, until},
};

pub fn tests(tests: &mut Tests) {
    tests.add("quotas_refuse_with_a_time_to_come_back", quotas);
}

async fn date(client: &McpClient) -> Result<Answer> {
    Ok(client.call_tool("get_current_utc_date", json!({})).await?)
}

/// The quota in a refusal that clients understand.
fn refused(answer: &Answer, seconds: std::ops::RangeInclusive<u64>) -> Result<()> {
    let error = answer.structured();
    ensure!(answer.status == 200 && answer.is_tool_error() && error["code"] == "RATE_LIMITED", "{}", answer.message);
    ensure!(error["retryAfterSeconds"].as_u64().is_some_and(|n| seconds.contains(&n)), "{error}");
    ensure!(error["message"].as_str().is_some_and(|text| text.contains("try again in")), "{error}");
    Ok(())
}

/// Calls until one is refused; returns the number of calls before it.
async fn until_refused(client: &McpClient, most: u32) -> Result<u32> {
    for served in 0..=most {
        let answer = date(client).await?;
        if answer.is_tool_error() {
            refused(&answer, 1..=60)?;
            return Ok(served);
        }
    }
    anyhow::bail!("{most} calls and none refused");
}

async fn quotas(world: Arc<World>) -> Result<()> {
    let limits = ZAVA.object()["spec"]["gateway"].clone();
    let set = async |quota: serde_json::Value| world.patch_spec("zava", json!({"gateway": quota})).await;
    let none = json!({"requestsPerMinute": null, "tenantRequestsPerMinute": null, "concurrentCalls": 64});
    let gateway = &world.gateway;
    let refusals = async |scope: &str, quota: &str| {
        let name = format!("storefence_quota_refusals_total{{quota=\"{quota}\",scope=\"{scope}\"}}");
        world.metric(gateway, &name).await
    };
    let seattle = world.client_as("seattle-manager")?;
    let redmond = world.client_as("redmond-manager")?;
    let contoso = world.client_as("contoso-head-office")?;

    // Six per minute and principal. The change takes effect within two seconds; calls are served until then.
    set(json!({"requestsPerMinute": 6})).await?;
    until("the quota is in force", Duration::from_secs(2), || async { Ok(date(&seattle).await?.is_tool_error()) })
        .await?;
    let served = until_refused(&redmond, 7).await?;
    ensure!((6..=7).contains(&served), "{served} calls");
    ensure!(refusals("principal", "rate").await? >= 2.0);
    ensure!(!date(&contoso).await?.is_tool_error(), "another tenant is refused");

    // The tenant's quota: calls of one principal reduce it for the other.
    set(json!({"requestsPerMinute": null, "tenantRequestsPerMinute": 4})).await?;
    until("the tenant's quota is in force", Duration::from_secs(2), || async {
        Ok(refusals("tenant", "rate").await? > 0.0 || {
            date(&seattle).await?;
            false
        })
    })
    .await?;
    refused(&date(&redmond).await?, 1..=60)?;
    ensure!(!date(&contoso).await?.is_tool_error(), "another tenant is refused");

    // One at a time.
    set(json!({"requestsPerMinute": null, "tenantRequestsPerMinute": null, "concurrentCalls": 1})).await?;
    let slow = "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000) b";
    until("the tenant's quota is gone", Duration::from_secs(2), || async {
        Ok(!date(&seattle).await?.is_tool_error())
    })
    .await?;
    let busy = seattle.clone();
    let calling =
        tokio::spawn(async move { busy.call_tool("execute_sales_query", json!({"postgresql_query": slow})).await });
    until("a second call at a time is refused", Duration::from_secs(5), || async {
        let answer = date(&seattle).await?;
        Ok(answer.is_tool_error() && refused(&answer, 1..=1).is_ok())
    })
    .await?;
    ensure!(!date(&redmond).await?.is_tool_error(), "another principal is refused");
    ensure!(refusals("principal", "concurrency").await? >= 1.0);
    let answer = calling.await??;
    ensure!(answer.structured()["code"] == "QUERY_TIMEOUT", "{}", answer.message);
    ensure!(!date(&seattle).await?.is_tool_error(), "the call has ended and its place is free");

    // Two concurrent calls for the whole tenant: one each of two principals; a third is refused.
    set(json!({"concurrentCalls": 64, "tenantConcurrentCalls": 2})).await?;
    let before = refusals("tenant", "concurrency").await?;
    let puget = world.client_as("puget-sound-regional")?;
    until("a third call of the tenant is refused", Duration::from_secs(10), || async {
        let busy = [&seattle, &redmond].map(|client| {
            let client = client.clone();
            tokio::spawn(
                async move { client.call_tool("execute_sales_query", json!({"postgresql_query": slow})).await },
            )
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        let answer = date(&puget).await?;
        let other = date(&contoso).await?;
        ensure!(!other.is_tool_error(), "another tenant is refused: {}", other.message);
        for calling in busy {
            calling.await??;
        }
        Ok(answer.is_tool_error() && refused(&answer, 1..=1).is_ok())
    })
    .await?;
    ensure!(refusals("tenant", "concurrency").await? > before);
    ensure!(!date(&puget).await?.is_tool_error(), "the calls have ended and their places are free");
    set(none).await?;
    set(json!({"tenantConcurrentCalls": null})).await?;
    set(limits).await
}
