//! Tenants from a directory, without a cluster.

use std::{process::Command, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::{
    Tests,
    world::{CONTOSO, World, ZAVA, until},
};

pub fn tests(tests: &mut Tests) {
    tests.add("tenants_from_a_directory_need_no_cluster", directory);
}

async fn directory(world: Arc<World>) -> Result<()> {
    let tenants = world.path("directory");
    std::fs::create_dir_all(&tenants)?;
    // Written atomically, as editors and kubelets do.
    let write = |name: &str, text: String| -> Result<()> {
        let temporary = tenants.join(format!(".{name}.new"));
        std::fs::write(&temporary, text)?;
        Ok(std::fs::rename(temporary, tenants.join(name))?)
    };
    let mut contoso = CONTOSO.object();
    contoso["status"] = json!({"credentials": {"activeSlot": "b", "activeKid": 1}});
    write("zava.yaml", ZAVA.object().to_string())?;
    write("contoso.yaml", contoso.to_string())?;
    world.kube.set_down(true);
    let path = tenants.to_str().context("a path")?;
    let gateway = world.another_gateway("directory", &["--tenants", path]).await;
    world.kube.set_down(false);
    let gateway = gateway?;
    let count = async |principal: &str| -> Result<serde_json::Value> {
        let query = json!({"postgresql_query": "SELECT count(*) FROM retail.orders"});
        let answer = world.client_of(&gateway, principal)?.call_tool("execute_sales_query", query).await?;
        Ok(if answer.status == 200 { answer.structured()["rows"].clone() } else { json!(answer.status.as_u16()) })
    };
    ensure!(count("seattle-manager").await? == json!([[7]]) && count("contoso-head-office").await? == json!([[6]]));

    // A change takes effect, a broken file is reported and changes nothing, and removing a file removes its tenant.
    let mut changed = ZAVA.object();
    changed["spec"]["principals"][1]["stores"] = json!(["Seattle", "Online"]);
    write("zava.yaml", changed.to_string())?;
    until("the change acts", Duration::from_secs(2), || async { Ok(count("seattle-manager").await? == json!([[10]])) })
        .await?;
    for broken in ["spec: [".to_owned(), ZAVA.object().to_string().replace("Seattle", "")] {
        write("zava.yaml", broken)?;
        until("it is reported", Duration::from_secs(2), || async {
            Ok(world.metric(&gateway, "storefence_tenants{state=\"broken\"}").await? == 1.0)
        })
        .await?;
        ensure!(count("seattle-manager").await? == json!([[10]]), "the last good state is gone");
        write("zava.yaml", changed.to_string())?;
        until("it is whole again", Duration::from_secs(2), || async {
            Ok(world.metric(&gateway, "storefence_tenants{state=\"broken\"}").await? == 0.0)
        })
        .await?;
    }
    let log = gateway.child.log_text();
    ensure!(log.contains("zava.yaml") && log.contains("last good state"), "the log names no file");
    std::fs::remove_file(tenants.join("contoso.yaml"))?;
    until("contoso is gone", Duration::from_secs(2), || async {
        Ok(count("contoso-head-office").await? == json!(401))
    })
    .await?;
    ensure!(count("seattle-manager").await? == json!([[10]]));

    let config = world.path("config.yaml");
    let output = Command::new(env!("CARGO_BIN_EXE_storefence-gateway"))
        .env_clear()
        .args([
            "run",
            "--public-url",
            "http://localhost:1",
            "--audience",
            "x",
            "--scope",
            "x",
            "--credential",
            "client-secret",
        ])
        .args([
            "--azure-tenant-id",
            "t",
            "--azure-client-id",
            "c",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
        ])
        .env("AZURE_CLIENT_SECRET", "x")
        .args(["--tenants", "/no/such/directory", "--config"])
        .arg(config)
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(2) && text.contains("STOREFENCE_TENANTS"), "{text}");
    Ok(())
}
