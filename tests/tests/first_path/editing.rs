//! Applying and editing RetailTenants while everything runs.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use storefence_devstack::{mcp_client::Revision, stack::StackOptions};
use storefence_tests::{Shared, skip, wait_until};

const STORES: &str = "SELECT count(*) FROM retail.stores";

pub fn listed(shared: &Shared) -> Result<()> {
    let Some(output) = shared.kubectl(&["get", "retailtenants", "-A"]) else { return skip("kubectl is not installed") };
    let text = String::from_utf8(output.stdout)?;
    let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let header = lines.next().context("no output")?;
    ensure!(header == ["NAMESPACE", "NAME", "READY", "STORES", "PRINCIPALS", "REASON", "AGE"], "{text}");
    let rows: Vec<Vec<&str>> = lines.map(|line| line[1..6].to_vec()).collect();
    ensure!(
        rows == [vec!["contoso", "True", "4", "2", "Reconciled"], vec!["zava", "True", "8", "6", "Reconciled"]],
        "{text}"
    );
    Ok(())
}

pub async fn within_two_seconds(shared: &Shared) -> Result<()> {
    let zava = StackOptions::examples()?.remove(0).1;
    let rule = "stores: [Redmond]";
    ensure!(zava.matches(rule).count() == 1, "the example changed");
    let count = || shared.count("redmond-manager", Revision::V2026_07_28, STORES);
    ensure!(count().await? == 1, "one store at first");
    for (stores, expected) in [("stores: [Redmond, Kirkland]", 2), (rule, 1)] {
        let path = shared.directory().join("zava.yaml");
        std::fs::write(&path, zava.replace(rule, stores))?;
        match shared.kubectl(&["apply", "-f", &path.display().to_string()]) {
            Some(output) => ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
            None => drop(shared.stack.apply(&zava.replace(rule, stores)).await?),
        }
        wait_until("the edit acts", Duration::from_secs(2), || async { Ok(count().await? == expected) }).await?;
    }
    Ok(())
}

/// A tenant that is applied while its database does not answer: the condition says so; it recovers by itself.
pub async fn database_away(shared: &Shared) -> Result<()> {
    shared.stack.cut_database(true);
    let outcome =
        applied_while_away(shared, "DatabaseReady", "DatabaseUnreachable", || shared.stack.cut_database(false)).await;
    shared.stack.cut_database(false);
    outcome
}

/// The same for the vault.
pub async fn vault_away(shared: &Shared) -> Result<()> {
    shared.stack.cut_vault(true);
    let outcome =
        applied_while_away(shared, "SecretsReady", "KeyVaultUnreachable", || shared.stack.cut_vault(false)).await;
    shared.stack.cut_vault(false);
    outcome
}

async fn applied_while_away(shared: &Shared, condition: &str, reason: &str, back: impl Fn()) -> Result<()> {
    let name = if condition == "DatabaseReady" { "latecomer" } else { "newcomer" };
    let id = if condition == "DatabaseReady" { "1" } else { "2" };
    let tenant = json!({
        "apiVersion": "retail.storefence.dev/v1alpha1", "kind": "RetailTenant",
        "metadata": {"name": name},
        "spec": {
            "tenantId": name, "entra": {"tenantId": "c2f4a86e-90d7-4b3a-9e55-1b6d8f02a7c4"},
            "databaseRef": {"name": "retail"}, "keyVaultRef": {"name": "main"},
            "stores": [{"name": "Only", "id": format!("0000000{id}-0000-4000-8000-000000000000")}],
        },
    });
    shared.stack.apply(&tenant.to_string()).await?;
    let timeout = Duration::from_secs(30);
    wait_until("the condition says what is away", timeout, || async {
        let said = shared.stack.condition("default", name, condition).await?;
        Ok(said.is_some_and(|said| said["status"] == "False" && said["reason"] == reason))
    })
    .await
    .with_context(|| format!("{condition} {reason}"))?;
    back();
    wait_until("the tenant becomes Ready by itself", timeout, || async {
        let ready = shared.stack.condition("default", name, "Ready").await?;
        Ok(ready.is_some_and(|ready| ready["status"] == "True"))
    })
    .await?;
    shared.stack.delete("default", name).await?;
    wait_until("it can be deleted", timeout, || async { Ok(shared.stack.get("default", name).await?.is_none()) })
        .await?;
    Ok(())
}
