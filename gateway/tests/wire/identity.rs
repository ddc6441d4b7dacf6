//! Accepted tokens and what they grant: versions, stores, groups, applications, and for how long.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use storefence_devstack::{
    entra::{
        TokenRequest,
        principals::{self, AUDIENCE, CONTOSO_TENANT_ID, ZAVA_TENANT_ID},
    },
    mcp_client::Revision,
};

use crate::{
    Tests,
    world::{Standing, World, ZAVA, standing, until},
};

pub fn tests(tests: &mut Tests) {
    tests.add("good_tokens_of_both_versions", good);
    tests.add("store_claims_match_exactly", store_claims);
    tests.add("the_claim_of_a_directory_extension_names_stores", extension_claim);
    tests.add("groups_overage_is_denied_with_the_way_out", overage);
    tests.add("app_only_tokens_are_denied", app_only);
    tests.add("an_application_is_served_through_its_own_rule_only", application_rule);
    tests.add("a_token_is_good_until_its_time_is_over_cached_or_not", until_expiry);
}

pub fn head_office() -> Result<TokenRequest> {
    Ok(TokenRequest::principal(principals::find("head-office").context("known")?))
}

async fn of(world: &World, request: &TokenRequest) -> Result<Standing> {
    standing(&world.client(world.entra.issue(request)?, "/mcp", Revision::V2026_07_28)).await
}

async fn status(world: &World, token: String) -> Result<(u16, Value)> {
    let answer = world.client(token, "/mcp", Revision::V2026_07_28).send("tools/list", json!({})).await?;
    Ok((answer.status.as_u16(), answer.message))
}

async fn good(world: Arc<World>) -> Result<()> {
    for request in [
        head_office()?,
        head_office()?.v1(),
        head_office()?.v1().claim("aud", json!(AUDIENCE)),
        head_office()?.claim("aud", json!(["other", AUDIENCE])),
        head_office()?.claim("scp", json!("User.Read Retail.Query")),
        head_office()?.claim("nbf", Value::Null),
        head_office()?.expires_in(-30),
    ] {
        let (status, body) = status(&world, world.entra.issue(&request)?).await?;
        ensure!(status == 200, "{request:?}: {status} {body}");
    }
    Ok(())
}

/// The clock skew is allowed, and a remembered verification does not outlive it.
async fn until_expiry(world: Arc<World>) -> Result<()> {
    let token = world.entra.issue(&head_office()?.expires_in(-45))?;
    for _ in 0..2 {
        let (status, body) = status(&world, token.clone()).await?;
        ensure!(status == 200, "within the allowance: {status} {body}");
    }
    until("the token is over", Duration::from_secs(60), || async { Ok(status(&world, token.clone()).await?.0 == 401) })
        .await
}

async fn store_claims(world: Arc<World>) -> Result<()> {
    let user = |value: Value| TokenRequest::user(ZAVA_TENANT_ID).claim("extn.storeIds", value);
    let count = async |value: Value| -> Result<(u16, Value)> {
        let token = world.entra.issue(&user(value))?;
        let answer = world
            .client(token, "/mcp", Revision::V2026_07_28)
            .send("tools/call", json!({"name": "list_stores", "arguments": {}}))
            .await?;
        Ok((
            answer.status.as_u16(),
            answer.structured()["stores"].as_array().map_or(Value::Null, |stores| json!(stores.len())),
        ))
    };
    for (value, stores) in [
        (json!("Seattle"), 1),
        (json!(["Seattle", "Online"]), 2),
        (json!(["Seattle", "Seattle", "Atlantis", "*"]), 1),
        (json!("0a000000-0000-4000-8000-000000000002"), 1),
    ] {
        ensure!(count(value.clone()).await? == (200, json!(stores)), "{value}");
    }
    let huge: Vec<_> = (0..501).map(|_| "Seattle").collect();
    for value in [
        json!("*"),
        json!("%"),
        json!("seattle"),
        json!("SEATTLE"),
        json!("Ѕeattle"),
        json!(" Seattle"),
        json!("Seattle,Redmond"),
        json!(""),
        json!([]),
        json!(["Downtown"]),
        json!(["Seattle", 1]),
        json!({"Seattle": true}),
        json!(true),
        json!(huge),
        json!("0A000000-0000-4000-8000-000000000002"),
    ] {
        let found = of(&world, &user(value.clone())).await?;
        ensure!(found.is_outsider(), "{value}: {found:?}");
    }
    Ok(())
}

/// The claim's name when an application's directory extension provides it.
async fn extension_claim(world: Arc<World>) -> Result<()> {
    const CLAIM: &str = "extension_0f1e2d3c4b5a69788796a5b4c3d2e1f0_storeIds";
    let before = ZAVA.object()["spec"]["principals"].clone();
    let mut after = before.clone();
    let rule = json!({"name": "by-extension", "role": "StoreManager", "storesFromClaim": CLAIM});
    after.as_array_mut().context("rules")?.push(rule);
    world.patch_spec("zava", json!({"principals": after})).await?;
    let ask = async |value: Value| -> Result<(bool, Value)> {
        let token = world.entra.issue(&TokenRequest::user(ZAVA_TENANT_ID).claim(CLAIM, value))?;
        let client = world.client(token, "/mcp", Revision::V2026_07_28);
        let answer = client.send("tools/call", json!({"name": "list_stores", "arguments": {}})).await?;
        let stores = answer.structured()["stores"].as_array().into_iter().flatten();
        Ok((answer.is_tool_error(), stores.map(|store| store["name"].clone()).collect()))
    };
    until("the rule is in force", Duration::from_secs(5), || async { Ok(!ask(json!("Seattle")).await?.0) }).await?;
    for (value, due) in [
        (json!("Seattle"), (false, json!(["Seattle"]))),
        (json!(["Online", "Atlantis"]), (false, json!(["Online"]))),
        (json!("seattle"), (true, json!([]))),
        (json!("*"), (true, json!([]))),
        (json!([]), (true, json!([]))),
    ] {
        let seen = ask(value.clone()).await?;
        ensure!(seen == due, "{value}: {seen:?}");
    }
    // The extension of another application is another claim.
    let other = CLAIM.replace("0f1e", "1f1e");
    let request = TokenRequest::user(ZAVA_TENANT_ID).claim(&other, json!("Seattle"));
    ensure!(of(&world, &request).await?.is_outsider(), "another application's extension");
    world.patch_spec("zava", json!({"principals": before})).await?;
    until("the rule is gone", Duration::from_secs(5), || async { Ok(ask(json!("Seattle")).await?.0) }).await
}

async fn overage(world: Arc<World>) -> Result<()> {
    for request in [
        TokenRequest::user(ZAVA_TENANT_ID).group_overage(),
        TokenRequest::user(ZAVA_TENANT_ID).group_overage().claim("groups", json!([principals::REDMOND_MANAGERS_GROUP])),
    ] {
        let found = of(&world, &request).await?;
        let said = found.said()?;
        ensure!(said["message"].as_str().is_some_and(|text| text.contains("app role")), "{said}");
    }
    // Other rules still count.
    let request = head_office()?.group_overage();
    ensure!(status(&world, world.entra.issue(&request)?).await?.0 == 200);
    Ok(())
}

async fn app_only(world: Arc<World>) -> Result<()> {
    let application = TokenRequest::application(
        ZAVA_TENANT_ID,
        "11111111-1111-4111-8111-111111111111",
        &[principals::HEAD_OFFICE_ROLE],
    );
    let with_scp = head_office()?.claim("idtyp", json!("app"));
    for request in [application, with_scp] {
        let found = of(&world, &request).await?;
        ensure!(found.is_outsider(), "{found:?}");
    }
    Ok(())
}

/// A rule that names the application serves its app-only tokens of both versions, and no others.
async fn application_rule(world: Arc<World>) -> Result<()> {
    const REPORTS: &str = "33333333-3333-4333-8333-333333333333";
    const OTHER: &str = "44444444-4444-4444-8444-444444444444";
    let before = ZAVA.object()["spec"]["principals"].clone();
    let mut after = before.clone();
    after
        .as_array_mut()
        .context("rules")?
        .push(json!({"name": "reports", "role": "StoreManager", "entraApplication": REPORTS, "stores": ["Online"]}));
    world.patch_spec("zava", json!({"principals": after})).await?;
    let issue = |application: &str, roles: &[&str]| TokenRequest::application(ZAVA_TENANT_ID, application, roles);
    let grant = issue(REPORTS, &["Storefence.Reports"]);
    let granted = world.entra.issue(&grant)?;
    until("the application is let in", Duration::from_secs(2), || async {
        Ok(of(&world, &grant).await? == Standing::Served)
    })
    .await?;
    for token in [granted.clone(), world.entra.issue(&issue(REPORTS, &["Storefence.Reports"]).v1())?] {
        let client = world.client(token, "/mcp", Revision::V2026_07_28);
        let count = json!({"postgresql_query": "SELECT count(*) FROM retail.orders"});
        let answer = client.call_tool("execute_sales_query", count).await?;
        ensure!(answer.structured()["rows"] == json!([[3]]), "{}", answer.message);
    }
    // The role that lets people see everything has no effect for an application.
    let with_role = world.entra.issue(&issue(REPORTS, &[principals::HEAD_OFFICE_ROLE]))?;
    let stores = world.client(with_role, "/mcp", Revision::V2026_07_28).call_tool("list_stores", json!({})).await?;
    ensure!(stores.structured()["stores"].as_array().is_some_and(|list| list.len() == 1), "{}", stores.message);
    // Another application, the same one in another directory, one without a permission, and a user who signed in
    // through this application.
    for request in [
        issue(OTHER, &["Storefence.Reports"]),
        TokenRequest::application(CONTOSO_TENANT_ID, REPORTS, &["Storefence.Reports"]),
        TokenRequest::user(ZAVA_TENANT_ID).claim("azp", json!(REPORTS)),
        issue(OTHER, &["Storefence.Reports"]).claim("appid", json!(REPORTS)),
    ] {
        let found = of(&world, &request).await?;
        ensure!(found.is_outsider(), "{request:?}: {found:?}");
    }
    ensure!(of(&world, &issue(REPORTS, &[])).await? == Standing::Status(401), "without a permission");
    let found = of(&world, &issue(OTHER, &["x"])).await?;
    ensure!(found.said()?["claims"].to_string().contains("azp"), "{found:?}");
    world.patch_spec("zava", json!({"principals": before})).await?;
    until("the application is no longer let in", Duration::from_secs(2), || async {
        Ok(of(&world, &grant).await?.is_outsider())
    })
    .await
}
