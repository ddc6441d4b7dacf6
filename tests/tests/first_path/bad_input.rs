//! Bad input: each a clear error, and nothing half done.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use storefence_devstack::{mcp_client::Revision, stack::StackOptions};
use storefence_tests::{Shared, skip, wait_until};

const ASK: &str = "SELECT count(*) FROM retail.orders";

pub async fn unauthorized(shared: &Shared) -> Result<()> {
    let graph = json!({"aud": "00000003-0000-0000-c000-000000000000"});
    let cases = [
        ("no token", None, false),
        ("garbage", Some("garbage".to_owned()), true),
        ("wrong audience", Some(shared.token("seattle-manager", graph)?), true),
        ("expired", Some(shared.token_expiring("seattle-manager", json!({}), -120)?), true),
    ];
    for (what, token, sent) in cases {
        let client = shared.client_with(token, "/mcp", Revision::V2026_07_28);
        let answer = client
            .send("tools/call", json!({"name": "execute_sales_query", "arguments": {"postgresql_query": ASK}}))
            .await?;
        ensure!(answer.status == 401, "{what}: {answer:?}");
        let challenge = answer.headers.get("www-authenticate").context("no WWW-Authenticate")?.to_str()?.to_owned();
        ensure!(challenge.starts_with("Bearer ") && challenge.contains("resource_metadata="), "{what}: {challenge}");
        ensure!(challenge.contains("error=\"invalid_token\"") == sent, "{what}: {challenge}");
        if !sent {
            let url = challenge.split("resource_metadata=\"").nth(1).and_then(|rest| rest.split('"').next());
            let document: serde_json::Value =
                shared.stack.http().get(url.context("no URL")?).send().await?.error_for_status()?.json().await?;
            ensure!(
                document["authorization_servers"].as_array().is_some_and(|servers| !servers.is_empty()),
                "{document}"
            );
            let resource = format!("{}/mcp", shared.stack.facts().gateway_url);
            ensure!(document["resource"] == json!(resource), "{document}");
        }
    }
    Ok(())
}

pub async fn forbidden(shared: &Shared) -> Result<()> {
    let stranger = json!({"oid": "99999999-9999-4999-8999-999999999999", "groups": [], "roles": null});
    let token = shared.token("seattle-manager", stranger)?;
    for revision in Revision::ALL {
        let client = shared.client_with(Some(token.clone()), "/mcp", revision);
        let answer = client.call_tool("execute_sales_query", json!({"postgresql_query": ASK})).await?;
        ensure!(answer.status == 200 && answer.is_tool_error(), "{answer:?}");
        ensure!(answer.structured()["code"] == "AUTHORIZATION_ERROR" && answer.structured()["rows"].is_null());
        let me = client.call_tool("whoami", json!({})).await?;
        ensure!(me.status == 200 && !me.is_tool_error(), "{me:?}");
        for said in [answer.message.to_string(), me.message.to_string()] {
            ensure!(said.contains("No rule grants your account access") && said.contains("correlation ID"), "{said}");
            let said = said.to_lowercase();
            ensure!(!said.contains("seattle") && !said.contains("zava"), "tells what exists: {said}");
        }
    }
    Ok(())
}

pub async fn sql(shared: &Shared) -> Result<()> {
    let cases = [
        ("DELETE FROM retail.orders", "VALIDATION_ERROR DATABASE_ERROR"),
        ("SELECT 1; SELECT 2", "VALIDATION_ERROR"),
        ("COMMIT", "VALIDATION_ERROR DATABASE_ERROR"),
        ("", "VALIDATION_ERROR"),
        ("SELEC 1", "VALIDATION_ERROR DATABASE_ERROR"),
        ("SELECT nothing FROM retail.orders", "DATABASE_ERROR"),
        ("SELECT 1/0", "DATABASE_ERROR"),
        ("SELECT pg_sleep(1)", "VALIDATION_ERROR"),
    ];
    for (sql, codes) in cases {
        let answer = shared.query("seattle-manager", Revision::V2026_07_28, sql).await?;
        let code = answer.structured()["code"].as_str().unwrap_or_default();
        ensure!(
            answer.status == 200 && answer.is_tool_error() && codes.contains(code) && !code.is_empty(),
            "{sql}: {answer:?}"
        );
    }
    let endless = "SELECT count(*) FROM generate_series(1,1000000) a, generate_series(1,1000000) b";
    let begun = Instant::now();
    let answer = shared.query("seattle-manager", Revision::V2026_07_28, endless).await?;
    ensure!(answer.is_tool_error() && answer.structured()["code"] == "QUERY_TIMEOUT", "{answer:?}");
    ensure!(begun.elapsed() < Duration::from_secs(6), "the tenant's 5 s and one more: {:?}", begun.elapsed());
    let after = shared.count("seattle-manager", Revision::V2026_07_28, ASK).await?;
    ensure!(after > 0, "the next call answers");
    Ok(())
}

pub async fn truncated(shared: &Shared) -> Result<()> {
    let many = shared.ask("head-office", Revision::V2026_07_28, "SELECT order_id FROM retail.orders").await?;
    ensure!(many.truncated && many.rows.len() == 500, "{} rows, truncated: {}", many.rows.len(), many.truncated);
    let wide = shared
        .ask("head-office", Revision::V2026_07_28, "SELECT repeat('x', 400000) FROM generate_series(1, 9)")
        .await?;
    ensure!(wide.truncated && wide.rows.is_empty(), "{} rows of 400 kB, which no model can hold", wide.rows.len());
    Ok(())
}

/// Each edit of an example is refused by kubectl with words that say what to do, and the tenant is as before.
pub async fn manifests(shared: &Shared) -> Result<()> {
    let zava = StackOptions::examples()?.remove(0).1;
    let edits = [
        ("tenantId: zava", "tenantId: Zava!", "spec.tenantId"),
        ("role: HeadOffice", "role: Boss", "Unsupported value: \"Boss\""),
        ("stores: [Seattle]", "stores: [Sea]", "must be the name of a store"),
        ("displayName:", "displayNam:", "unknown field"),
        ("tenantId: zava", "tenantId: other", "tenantId cannot be changed"),
    ];
    for (from, to, expected) in edits {
        ensure!(zava.contains(from), "the example has no '{from}' any more");
        let path = shared.directory().join("bad.yaml");
        std::fs::write(&path, zava.replacen(from, to, 1))?;
        let Some(output) = shared.kubectl(&["apply", "-f", &path.display().to_string()]) else {
            return skip("kubectl is not installed");
        };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && said.contains(expected), "{to}: {said}");
    }
    ensure!(shared.count("seattle-manager", Revision::V2026_07_28, ASK).await? > 0, "Zava is served as before");
    Ok(())
}

pub async fn conflict(shared: &Shared) -> Result<()> {
    let second = StackOptions::examples()?.remove(0).1.replace("name: zava\n", "name: zava-again\n");
    shared.stack.apply(&second).await?;
    let timeout = Duration::from_secs(20);
    wait_until("Ready is False for the conflict", timeout, || async {
        let ready = shared.stack.condition("default", "zava-again", "Ready").await?;
        Ok(ready.is_some_and(|ready| ready["status"] == "False" && ready["reason"] == "ConflictingTenant"))
    })
    .await?;
    let first = shared.stack.condition("default", "zava", "Ready").await?.context("no condition")?;
    ensure!(first["status"] == "True", "{first}");
    ensure!(shared.count("seattle-manager", Revision::V2026_07_28, ASK).await? > 0, "the first keeps working");
    shared.stack.delete("default", "zava-again").await?;
    wait_until("the second is gone", timeout, || async {
        Ok(shared.stack.get("default", "zava-again").await?.is_none())
    })
    .await?;
    ensure!(shared.count("seattle-manager", Revision::V2026_07_28, ASK).await? > 0, "and still does");
    Ok(())
}

/// Each required setting left out in turn: start-up stops with exit code 2 and a sentence that names it.
pub fn settings(shared: &Shared) -> Result<()> {
    let config = shared.directory().join("settings.yaml");
    std::fs::write(&config, "keyVaults: [{name: main, url: 'https://vault.example'}]\n")?;
    let config = config.display().to_string();
    let gateway = [
        ("STOREFENCE_CONFIG", config.as_str()),
        ("STOREFENCE_PUBLIC_URL", "http://127.0.0.1:1"),
        ("STOREFENCE_AUDIENCE", "3f8a1c6e-52d9-4e7b-a1f0-6c2b9d84e735"),
        ("STOREFENCE_SCOPE", "api://storefence/Retail.Query"),
        ("AZURE_FEDERATED_TOKEN_FILE", "/nonexistent"),
    ];
    let operator = [("STOREFENCE_CONFIG", config.as_str())];
    for (binary, settings) in [("storefence-gateway", &gateway[..]), ("storefence-operator", &operator[..])] {
        for (left_out, _) in settings {
            let given = settings.iter().filter(|(name, _)| name != left_out);
            let mut command = Command::new(shared.stack.binary(binary));
            command.arg("run").env_clear().envs(given.copied());
            let output = command.output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.code() == Some(2) && said.contains(left_out), "{binary}: {:?} {said}", output.status);
        }
    }
    Ok(())
}
