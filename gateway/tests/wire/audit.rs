//! The audit log: what it contains, what it leaves out, and what `audit verify` finds.

use std::{
    path::Path,
    process::{Command, Output},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use storefence_devstack::{
    entra::principals::{SEATTLE_MANAGER_OID, ZAVA_TENANT_ID},
    process::Signal,
};

use crate::{
    Tests,
    world::{Gateway, World, until},
};

/// Requests other than tool calls that leave a line.
const OTHERS: [(&str, &str); 6] = [
    ("resources/read", r#"{"uri": "storefence://schema/orders"}"#),
    ("resources/read", r#"{"uri": "storefence://data-dictionary"}"#),
    ("resources/read", r#"{"uri": "file:///a_secret_uri"}"#),
    ("prompts/get", r#"{"name": "top_products"}"#),
    ("prompts/get", r#"{"name": "a_secret_word"}"#),
    (
        "completion/complete",
        r#"{"ref": {"type": "ref/prompt", "name": "top_products"}, "argument": {"name": "category", "value": "a"}}"#,
    ),
];

pub fn tests(tests: &mut Tests) {
    tests.add("each_call_leaves_one_audit_line_and_edits_are_found", audit);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn verify(file: &Path) -> Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_storefence-gateway"));
    Ok(command.args(["audit", "verify"]).arg(file).output()?)
}

fn read(file: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(file)?;
    Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

async fn end(mut gateway: Gateway) -> Result<()> {
    gateway.child.signal(Signal::Term);
    gateway.child.wait(Duration::from_secs(10)).await?.context("it did not end")?;
    Ok(())
}

async fn audit(world: Arc<World>) -> Result<()> {
    let file = world.path("audit.jsonl");
    let arguments = ["--audit-file", file.to_str().context("a path")?];
    let gateway = world.another_gateway("audit-1", &arguments).await?;
    let client = world.client_of(&gateway, "seattle-manager")?;
    let good = "SELECT store_id FROM retail.orders -- audited";
    let query = async |sql: &str| client.call_tool("execute_sales_query", json!({"postgresql_query": sql})).await;
    let answer = query(good).await?;
    let correlation = answer.headers["x-correlation-id"].to_str()?.to_owned();
    query("SELECT nope FROM retail.orders").await?;
    query("DROP TABLE retail.orders").await?;
    client.call_tool("list_stores", json!({})).await?;
    client.call_tool("a_secret_word", json!({})).await?;
    // A request that the client gives up.
    let slow = "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000) b";
    let arguments_of = json!({"name": "execute_sales_query", "arguments": {"postgresql_query": slow}});
    let request = client.request("tools/call", arguments_of).timeout(Duration::from_millis(300));
    ensure!(request.send().await.is_err(), "the slow statement was fast");
    until("six lines", Duration::from_secs(3), || async { Ok(read(&file)?.len() == 6) }).await?;
    // Other requests that read rows, and requests that only look like it.
    for (method, params) in OTHERS {
        let params: Value = serde_json::from_str(params)?;
        let mut request = client.request(method, params.clone());
        if let Some(uri) = params["uri"].as_str() {
            request = request.header("mcp-name", uri);
        }
        client.read(request).await?;
    }
    until("their lines", Duration::from_secs(3), || async { Ok(read(&file)?.len() == 6 + OTHERS.len()) }).await?;

    let lines = read(&file)?;
    let first = &lines[0];
    for (field, value) in [
        ("sequence", json!(1)),
        ("correlationId", json!(correlation)),
        ("tid", json!(ZAVA_TENANT_ID)),
        ("oid", json!(SEATTLE_MANAGER_OID)),
        ("tenant", json!("zava")),
        ("rules", json!(["seattle"])),
        ("tool", json!("execute_sales_query")),
        ("statementSha256", json!(hex(&Sha256::digest(good)))),
        ("rows", json!(7)),
        ("outcome", json!("ok")),
    ] {
        ensure!(first[field] == value, "{field}: {first}");
    }
    ensure!(first["bytes"].as_u64() > Some(7 * 36) && first["durationMs"].as_f64() > Some(0.0), "{first}");
    ensure!(first["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{first}");
    let outcomes: Vec<_> = lines.iter().map(|line| line["outcome"].as_str().unwrap_or_default()).collect();
    let expected = ["ok", "DATABASE_ERROR", "VALIDATION_ERROR", "ok", "UNKNOWN_TOOL", "cancelled"];
    ensure!(outcomes[..6] == expected, "{outcomes:?}");
    let others: Vec<_> = lines[6..]
        .iter()
        .map(|line| ["method", "target", "outcome"].map(|field| line[field].as_str().unwrap_or_default()))
        .collect();
    let expected = [
        ["resources/read", "storefence://schema/{table}", "ok"],
        ["resources/read", "storefence://data-dictionary", "ok"],
        ["resources/read", "unknown", "INVALID_PARAMS"],
        ["prompts/get", "top_products", "ok"],
        ["prompts/get", "unknown", "INVALID_PARAMS"],
        ["completion/complete", "top_products", "ok"],
    ];
    ensure!(others == expected, "{others:?}");
    ensure!(lines[6]["tool"].is_null() && lines[6]["rows"].as_u64() > Some(0), "{}", lines[6]);
    ensure!(lines.iter().take(6).all(|line| line["method"] == "tools/call" && line["target"].is_null()));
    let whole = std::fs::read_to_string(&file)?;
    let token = world.token("seattle-manager")?;
    for secret in [
        "audited",
        "nope",
        "DROP",
        "a_secret_word",
        "a_secret_uri",
        "generate_series",
        token.split('.').nth(1).unwrap_or("?"),
    ] {
        ensure!(!whole.contains(secret), "{secret} is in {whole}");
    }

    // A file has one writer: two writers would break the hash chain.
    let output = Command::new(env!("CARGO_BIN_EXE_storefence-gateway"))
        .env_clear()
        .args(["run", "--public-url", "http://localhost:1", "--audience", "x", "--scope", "x"])
        .args(["--credential", "client-secret", "--azure-tenant-id", "t", "--azure-client-id", "c"])
        .env("AZURE_CLIENT_SECRET", "x")
        .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .args(arguments)
        .arg("--config")
        .arg(world.path("config.yaml"))
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(2) && said.contains("STOREFENCE_AUDIT_FILE"), "{output:?}");

    // The hash chain continues after a restart.
    end(gateway).await?;
    let gateway = world.another_gateway("audit-2", &arguments).await?;
    world.client_of(&gateway, "head-office")?.call_tool("get_current_utc_date", json!({})).await?;
    until("one more line", Duration::from_secs(3), || async { Ok(read(&file)?.len() == 13) }).await?;
    end(gateway).await?;
    let output = verify(&file)?;
    ensure!(output.status.success() && String::from_utf8_lossy(&output.stdout).starts_with("13 lines"), "{output:?}");

    let text = std::fs::read_to_string(&file)?;
    let lines: Vec<_> = text.lines().collect();
    let broken = world.path("audit-broken.jsonl");
    let finds = |lines: &[String], words: &str| -> Result<()> {
        std::fs::write(&broken, lines.join("\n") + "\n")?;
        let output = verify(&broken)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1) && said.contains(words), "{words}: {output:?}");
        Ok(())
    };
    let mut edited: Vec<_> = lines.iter().map(ToString::to_string).collect();
    edited[3] = edited[3].replace("\"rows\":", "\"rows\":1");
    finds(&edited, "line 4 was edited")?;
    let mut removed: Vec<_> = lines.iter().map(ToString::to_string).collect();
    removed.remove(2);
    finds(&removed, "before line 3 something was removed")
}
