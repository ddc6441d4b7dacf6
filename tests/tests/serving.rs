//! Who is served while the operator stands aside, and who no longer is: suspension and observation keep a tenant in service,
//! a deletion ends it at once whatever its policy, and a tenant of the same name comes back.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use storefence_devstack::{mcp_client::Revision, stack::StackOptions};
use storefence_tenancy::RetailTenant;
use storefence_tests::{Shared, wait_until};

const TIMEOUT: Duration = Duration::from_secs(40);
const QUESTION: &str = "SELECT count(*) FROM retail.stores";

async fn served(shared: &Shared, principal: &str) -> Result<bool> {
    let client = shared.client(principal, Revision::V2026_07_28)?;
    let answer = client.call_tool("execute_sales_query", json!({"postgresql_query": QUESTION})).await?;
    Ok(answer.status == 200 && !answer.is_tool_error())
}

#[tokio::test(flavor = "multi_thread")]
async fn standing_aside_keeps_a_tenant_in_service_and_deleting_it_does_not() -> Result<()> {
    let shared = Shared::start(|options| {
        options.manifests = StackOptions::examples()?;
        options.operator_env.push(("STOREFENCE_RESYNC".into(), "500ms".into()));
        Ok(())
    })
    .await?;
    let tenants = Api::<RetailTenant>::default_namespaced(shared.stack.kube().clone());
    let patch = async |name: &str, spec: Value| -> Result<()> {
        let merge = Patch::Merge(json!({"spec": spec}));
        tenants.patch(name, &PatchParams::default(), &merge).await?;
        Ok(())
    };
    let becomes = async |name: &str, condition: &str, wanted: &str| {
        wait_until(&format!("{name} {condition}={wanted}"), TIMEOUT, || async {
            let status = tenants.get(name).await?.status.unwrap_or_default();
            Ok(status.conditions.iter().any(|found| found.type_ == condition && found.status == wanted))
        })
        .await
    };
    let admin = shared.stack.cluster().context("a cluster of our own")?.connect("retail").await?;
    let login: String = admin
        .query_one(
            "SELECT login::text FROM fence.logins JOIN fence.tenants USING (tenant_key) WHERE tenant_id = 'zava' AND slot = 'a'",
            &[],
        )
        .await?
        .get(0);
    ensure!(served(&shared, "head-office").await?, "at first");

    patch("zava", json!({"suspend": true})).await?;
    becomes("zava", "Suspended", "True").await?;
    ensure!(served(&shared, "head-office").await?, "suspended");
    // What the spec says of principals holds at once, with or without the operator.
    let rules = serde_json::to_value(&tenants.get("zava").await?.spec.principals)?;
    patch("zava", json!({"principals": []})).await?;
    wait_until("nobody is let in", TIMEOUT, || async { Ok(!served(&shared, "head-office").await?) }).await?;
    patch("zava", json!({"principals": rules})).await?;
    wait_until("let in again", TIMEOUT, || async { served(&shared, "head-office").await }).await?;

    patch("zava", json!({"suspend": false, "mode": "Observe"})).await?;
    becomes("zava", "Suspended", "False").await?;
    admin.batch_execute(&format!("ALTER ROLE {login} CREATEDB")).await?;
    becomes("zava", "Drifted", "True").await?;
    becomes("zava", "Ready", "False").await?;
    ensure!(served(&shared, "head-office").await?, "observed, with a difference that is not mended");
    patch("zava", json!({"mode": "Enforce"})).await?;
    becomes("zava", "Drifted", "False").await?;
    becomes("zava", "Ready", "True").await?;

    let manifests = StackOptions::examples()?;
    for policy in ["Revoke", "Delete", "Retain"] {
        patch("zava", json!({"deletionPolicy": policy})).await?;
        tenants.delete("zava", &DeleteParams::default()).await?;
        wait_until(&format!("{policy} ends service"), TIMEOUT, || async { Ok(!served(&shared, "head-office").await?) })
            .await?;
        wait_until(&format!("{policy} is done"), TIMEOUT, || async { Ok(tenants.get_opt("zava").await?.is_none()) })
            .await?;
        ensure!(served(&shared, "contoso-head-office").await?, "{policy}: the other tenant");
        for (_, manifest) in manifests.iter().filter(|(_, manifest)| manifest.contains("tenantId: zava")) {
            // What Retain left is taken over only by who says so.
            let adopting = manifest.replace("  keyVaultRef:", "  adoptionPolicy: Adopt\n  keyVaultRef:");
            shared.stack.apply(if policy == "Retain" { &adopting } else { manifest }).await?;
        }
        wait_until(&format!("served again after {policy}"), TIMEOUT, || async { served(&shared, "head-office").await })
            .await?;
    }
    shared.stop().await;
    Ok(())
}
