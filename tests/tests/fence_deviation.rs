//! A fence that was damaged on purpose: `verify` names it, the operator takes the tenants' readiness, and the gateway answers
//! nobody until it is repaired. The operator repairs policies and grants itself, unless it is to observe only; and a login that
//! was given too much.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use storefence_devstack::{
    mcp_client::Revision,
    postgres::AdminKind,
    stack::{DatabaseSource, StackOptions},
};
use storefence_tenancy::RetailTenant;
use storefence_tests::{Shared, wait_until};

const TIMEOUT: Duration = Duration::from_secs(40);

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_fence_is_named_and_nobody_is_served_until_it_is_mended() -> Result<()> {
    let shared = Shared::start(|options| {
        options.database = DatabaseSource::Start { version: Some(18), admin: AdminKind::Superuser };
        options.manifests = StackOptions::examples()?;
        options.operator_env.push(("STOREFENCE_RESYNC".into(), "1s".into()));
        Ok(())
    })
    .await?;
    let admin = shared.stack.cluster().context("a cluster of our own")?.connect("retail").await?;
    let login: String = admin.query_one("SELECT login::text FROM fence.logins ORDER BY 1 LIMIT 1", &[]).await?.get(0);
    let body: String =
        admin.query_one("SELECT pg_get_functiondef('fence.visible_stores()'::regprocedure)", &[]).await?.get(0);
    let trusting =
        "CREATE OR REPLACE FUNCTION fence.visible_stores() RETURNS uuid[] LANGUAGE plpgsql STABLE SECURITY DEFINER
        PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp
        AS $$ BEGIN RETURN string_to_array(current_setting('fence.context', true), ',')::uuid[]; END $$";
    let policy = "CREATE POLICY fence_read ON retail.orders FOR SELECT TO fence_reader USING (store_id = ANY ((SELECT fence.visible_stores())::uuid[]))";
    let damages = [
        ("a policy dropped", "DROP POLICY fence_read ON retail.orders".to_owned(), policy.to_owned()),
        ("a function that trusts the setting", trusting.to_owned(), body),
        (
            "FORCE removed",
            "ALTER TABLE retail.orders NO FORCE ROW LEVEL SECURITY".to_owned(),
            "ALTER TABLE retail.orders FORCE ROW LEVEL SECURITY".to_owned(),
        ),
    ];
    ensure!(verify(&shared)?.0, "whole at first");
    let tenants = Api::<RetailTenant>::default_namespaced(shared.stack.kube().clone());
    let mode = async |mode: &str| -> Result<()> {
        for name in ["zava", "contoso"] {
            let patch = Patch::Merge(json!({"spec": {"mode": mode}}));
            let generation = tenants.patch(name, &PatchParams::default(), &patch).await?.metadata.generation;
            wait_until("the mode is known", TIMEOUT, || async {
                let status = tenants.get(name).await?.status.unwrap_or_default();
                Ok(status.observed_generation == generation)
            })
            .await?;
        }
        Ok(())
    };
    // Damage that stays until somebody repairs it.
    mode("Observe").await?;
    for (what, damage, repair) in &damages {
        admin.batch_execute(damage).await.context(*what)?;
        let (whole, said) = verify(&shared)?;
        let named = !whole && !said.is_empty();
        let stopped = wait_until("the gateway stops", TIMEOUT, || async { Ok(!served(&shared).await?) }).await;
        admin.batch_execute(repair).await.context(*what)?;
        ensure!(named, "{what}: verify says nothing");
        stopped.context(*what)?;
        wait_until("it serves again", TIMEOUT, || async { served(&shared).await }).await.context(*what)?;
        ensure!(verify(&shared)?.0, "{what}: whole again");
    }
    mode("Enforce").await?;
    admin.batch_execute(&damages[0].1).await?;
    wait_until("the operator makes the policy again", TIMEOUT, || async { Ok(verify(&shared)?.0) }).await?;
    wait_until("it serves", TIMEOUT, || async { served(&shared).await }).await?;
    // What belongs to one tenant's login likewise.
    admin.batch_execute(&format!("GRANT retail_owner TO {login}")).await?;
    wait_until("the membership is taken back", TIMEOUT, || async {
        let sql = "SELECT count(*) FROM pg_auth_members WHERE member = $1::text::regrole AND roleid = 'retail_owner'::regrole";
        Ok(admin.query_one(sql, &[&login]).await?.get::<_, i64>(0) == 0)
    })
    .await?;
    wait_until("all are served", TIMEOUT, || async { served(&shared).await }).await?;
    shared.stop().await;
    Ok(())
}

/// `storefence-operator verify`: whether it finds nothing, and what it prints.
fn verify(shared: &Shared) -> Result<(bool, String)> {
    let config = shared.directory().join("operator.yaml");
    let mut command = std::process::Command::new(shared.stack.binary("storefence-operator"));
    command.args(["verify", "--database", "retail", "--config"]).arg(config).env_clear();
    // The database's TLS is served by this process: waiting must not take its thread away.
    let output = tokio::task::block_in_place(|| command.output())?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(matches!(output.status.code(), Some(0 | 1)), "verify: {:?} {said}", output.status);
    Ok((output.status.success(), said))
}

/// Whether somebody of each tenant gets an answer; a login of either may be the damaged one.
async fn served(shared: &Shared) -> Result<bool> {
    for principal in ["head-office", "contoso-head-office"] {
        let client = shared.client(principal, Revision::V2026_07_28)?;
        let question = json!({"postgresql_query": "SELECT count(*) FROM retail.stores"});
        let answer = client.call_tool("execute_sales_query", question).await?;
        if answer.status != 200 || answer.is_tool_error() {
            return Ok(false);
        }
    }
    Ok(true)
}
