//! Which tenant serves whom, and how changes take effect.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use storefence_devstack::{
    entra::{
        TokenRequest,
        principals::{SEATTLE_MANAGER_OID, ZAVA_TENANT_ID},
    },
    mcp_client::Revision,
};

use crate::{
    Tests,
    world::{CONTOSO, Standing, World, ZAVA, standing, until},
};

pub fn tests(tests: &mut Tests) {
    tests.add("unknown_and_forbidden_tenants_cannot_be_told_apart", alike);
    tests.add("a_rule_change_acts_within_two_seconds", rule_change);
    tests.add("a_broken_object_disturbs_nobody", broken);
    tests.add("several_tenants_need_a_path", several);
    tests.add("losing_the_kubernetes_api_does_not_stop_service", api_away);
    tests.add("a_watch_that_is_dropped_resumes", watch_resumes);
    tests.add("a_tenant_that_becomes_invalid_keeps_its_last_good_state", becomes_invalid);
}

async fn of(world: &World, token: &str, path: &str) -> Result<Standing> {
    standing(&world.client(token.to_owned(), path, Revision::V2026_07_28)).await
}

/// The bytes of an answer, except for what identifies the request: the time, the correlation id and the path.
async fn bytes(world: &World, token: &str, path: &str, method: &str, params: Value) -> Result<String> {
    let client = world.client(token.to_owned(), path, Revision::V2026_07_28);
    let response = client.request(method, params).send().await?;
    let mut head: Vec<_> = response.headers().iter().map(|(name, value)| format!("{name}: {value:?}")).collect();
    head.retain(|line| !line.starts_with("date: "));
    head.sort();
    let answer = format!("{}\n{}\n\n{}", response.status(), head.join("\n"), response.text().await?);
    let id = answer.split_once("x-correlation-id: \"").and_then(|(_, rest)| rest.get(..36)).context("an id")?;
    Ok(answer.replace(id, "ID").replace(path, "/PATH"))
}

async fn alike(world: Arc<World>) -> Result<()> {
    let seattle = world.token("seattle-manager")?;
    let nobody = world.entra.issue(&TokenRequest::user(ZAVA_TENANT_ID))?;
    ensure!(of(&world, &seattle, "/zava/mcp").await? == Standing::Served);
    let sql = json!({"postgresql_query": "SELECT count(*) FROM retail.orders"});
    for token in [&seattle, &nobody] {
        let mut answers = Vec::new();
        for path in ["/contoso/mcp", "/no-such-tenant/mcp", "/NoSuch%20Chain/mcp"] {
            let found = of(&world, token, path).await?;
            let said = found.said().with_context(|| path.to_owned())?;
            let id = said["correlationId"].as_str().filter(|id| id.len() == 36).context("an id")?;
            let log = std::fs::read_to_string(world.path("gateway.log"))?;
            ensure!(log.contains(id), "the log does not know {said}");
            ensure!(said["claims"] == json!(["extn.storeIds", "groups", "oid", "roles"]), "{said}");
            ensure!(!said.to_string().contains("contoso"));
            let mut all = String::new();
            for (method, params) in [
                ("tools/list", json!({})),
                ("tools/call", json!({"name": "whoami", "arguments": {}})),
                ("tools/call", json!({"name": "execute_sales_query", "arguments": sql})),
                ("tools/call", json!({"name": "no_such_tool", "arguments": {}})),
                ("server/discover", json!({})),
                ("prompts/list", json!({})),
                ("prompts/get", json!({"name": "top_products"})),
            ] {
                all += &bytes(&world, token, path, method, params).await?;
                all += "\n\n";
            }
            answers.push(all);
        }
        ensure!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
    }
    for path in ["/zava/mcp", "/mcp"] {
        ensure!(of(&world, &nobody, path).await?.is_outsider(), "{path}");
    }
    Ok(())
}

async fn rule_change(world: Arc<World>) -> Result<()> {
    let nobody = world
        .entra
        .issue(&TokenRequest::user(ZAVA_TENANT_ID).claim("oid", json!("22222222-2222-4222-8222-222222222222")))?;
    ensure!(of(&world, &nobody, "/mcp").await?.is_outsider());
    let before = ZAVA.object()["spec"]["principals"].clone();
    let mut after = before.clone();
    after.as_array_mut().expect("rules").push(
        json!({"name": "new", "role": "StoreManager", "entraUser": "22222222-2222-4222-8222-222222222222", "stores": ["Online"]}),
    );
    world.patch_spec("zava", json!({"principals": after})).await?;
    until("the new rule grants", Duration::from_secs(2), || async {
        Ok(of(&world, &nobody, "/mcp").await? == Standing::Served)
    })
    .await?;
    let client = world.client(nobody.clone(), "/mcp", Revision::V2026_07_28);
    let count = client
        .call_tool("execute_sales_query", json!({"postgresql_query": "SELECT count(*) FROM retail.orders"}))
        .await?;
    ensure!(count.structured()["rows"] == json!([[3]]), "{}", count.message);
    world.patch_spec("zava", json!({"principals": before})).await?;
    until("the rule no longer grants", Duration::from_secs(2), || async {
        Ok(of(&world, &nobody, "/mcp").await?.is_outsider())
    })
    .await
}

async fn broken(world: Arc<World>) -> Result<()> {
    let api = world.tenants().await?;
    // Bypasses the schema, like an object that was stored before a rule was tightened.
    let mut object = CONTOSO.object();
    object["metadata"]["name"] = json!("broken");
    object["spec"]["tenantId"] = json!("broken");
    object["spec"]["principals"] = json!([]);
    let created: DynamicObject = serde_json::from_value(object)?;
    api.create(&PostParams::default(), &created).await?;
    world.set_credentials("broken", storefence_tenancy::credentials::Slot::A, 1).await?;
    // A user whom only an earlier, valid rule names still gets in while the current object is unusable.
    for principal in ["seattle-manager", "contoso-head-office"] {
        ensure!(of(&world, &world.token(principal)?, "/mcp").await? == Standing::Served, "{principal}");
    }
    api.delete("broken", &DeleteParams::default()).await?;
    Ok(())
}

async fn several(world: Arc<World>) -> Result<()> {
    let api = world.tenants().await?;
    let mut object = ZAVA.object();
    object["metadata"]["name"] = json!("zava-outlet");
    object["spec"]["tenantId"] = json!("zava-outlet");
    object["spec"]["stores"] = json!([{"name": "Outlet", "id": "0b000000-0000-4000-8000-000000000001"}]);
    object["spec"]["principals"] = json!([
        {"name": "seattle", "role": "StoreManager", "entraUser": SEATTLE_MANAGER_OID, "stores": ["Outlet"]},
    ]);
    let object: DynamicObject = serde_json::from_value(object)?;
    api.create(&PostParams::default(), &object).await?;
    let seattle = world.token("seattle-manager")?;
    // Without credentials in its status it is not served yet.
    ensure!(of(&world, &seattle, "/mcp").await? == Standing::Served);
    world.set_credentials("zava-outlet", storefence_tenancy::credentials::Slot::A, 1).await?;
    until("two tenants match", Duration::from_secs(2), || async {
        Ok(of(&world, &seattle, "/mcp").await?.is_outsider())
    })
    .await?;
    let found = of(&world, &seattle, "/mcp").await?;
    ensure!(found.said()?["endpoints"] == json!(["/zava/mcp", "/zava-outlet/mcp"]), "{found:?}");
    let stores = world
        .client(seattle.clone(), "/zava-outlet/mcp", Revision::V2026_07_28)
        .call_tool("list_stores", json!({}))
        .await?;
    ensure!(stores.structured()["stores"][0]["name"] == "Outlet", "{}", stores.message);
    // Other objects are valid and unaffected.
    ensure!(of(&world, &world.token("head-office")?, "/mcp").await? == Standing::Served);
    // A database without this tenant: an error, and never another tenant's rows.
    let client = world.client(seattle.clone(), "/zava-outlet/mcp", Revision::V2026_07_28);
    let rows = client.call_tool("execute_sales_query", json!({"postgresql_query": "SELECT 1"})).await?;
    ensure!(rows.structured()["code"] == "UNAVAILABLE", "{}", rows.message);
    api.patch("zava-outlet", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"finalizers": null}}))).await?;
    api.delete("zava-outlet", &DeleteParams::default()).await?;
    until("one tenant matches", Duration::from_secs(2), || async {
        Ok(of(&world, &seattle, "/mcp").await? == Standing::Served)
    })
    .await
}

async fn api_away(world: Arc<World>) -> Result<()> {
    world.kube.set_down(true);
    for _ in 0..3 {
        ensure!(world.rows("seattle-manager", "SELECT count(*) FROM retail.orders").await? == json!([[7]]));
    }
    world.kube.set_down(false);
    // Later changes arrive.
    arrives(&world, 17).await
}

/// Another limit of Zava's, which `whoami` reports, reaches the gateway; then the former one again.
async fn arrives(world: &World, rows: u32) -> Result<()> {
    let client = world.client_as("seattle-manager")?;
    let before = ZAVA.object()["spec"]["gateway"]["maxRows"].clone();
    for rows in [json!(rows), before] {
        // The API server's events reach us with a moment's delay, like the gateway.
        until("the object is changed", Duration::from_secs(10), || async {
            world.patch_spec("zava", json!({"gateway": {"maxRows": rows}})).await.map(|()| true)
        })
        .await?;
        until("the change is in force", Duration::from_secs(60), || async {
            let me = client.call_tool("whoami", json!({})).await?;
            Ok(me.structured()["limits"]["maxRows"] == rows)
        })
        .await?;
    }
    Ok(())
}

async fn watch_resumes(world: Arc<World>) -> Result<()> {
    arrives(&world, 21).await?;
    for rows in 22..25 {
        world.kube.faults().drop_watches();
        arrives(&world, rows).await?;
    }
    // A watch that the server can no longer continue: everything is listed again.
    world.kube.faults().compact_history();
    arrives(&world, 25).await?;
    // Changes in between are not missed: an object deleted or changed while there is no watch.
    world.kube.set_down(true);
    world.kube.faults().compact_history();
    world.kube.set_down(false);
    arrives(&world, 26).await
}

async fn becomes_invalid(world: Arc<World>) -> Result<()> {
    let states =
        async |state: &str| world.metric(&world.gateway, &format!("storefence_tenants{{state=\"{state}\"}}")).await;
    let (broken, served) = (states("broken").await?, states("served").await?);
    let seattle = world.token("seattle-manager")?;
    let before = ZAVA.object()["spec"]["principals"].clone();
    // As an API server with a former schema may send it: a rule that names a store which does not exist.
    world.loosen_crd(true).await?;
    let mut after = before.clone();
    after.as_array_mut().context("rules")?.push(
        json!({"name": "astray", "role": "StoreManager", "entraUser": "33333333-3333-4333-8333-333333333333", "stores": ["Atlantis"]}),
    );
    let patched = world.patch_spec("zava", json!({"principals": after})).await;
    world.loosen_crd(false).await?;
    patched?;
    until("the object is reported", Duration::from_secs(10), || async { Ok(states("broken").await? == broken + 1.0) })
        .await?;
    ensure!(states("served").await? == served, "the tenant is no longer served");
    ensure!(of(&world, &seattle, "/mcp").await? == Standing::Served);
    ensure!(world.rows("seattle-manager", "SELECT count(*) FROM retail.orders").await? == json!([[7]]));
    let log = std::fs::read_to_string(world.path("gateway.log"))?;
    let told = log.lines().any(|line| line.contains("Atlantis") && line.contains("zava"));
    ensure!(told, "the log does not say what is wrong with zava");
    world.patch_spec("zava", json!({"principals": before})).await?;
    until("the object is whole again", Duration::from_secs(10), || async { Ok(states("broken").await? == broken) })
        .await
}
