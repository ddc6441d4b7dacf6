//! A customer's own tables behind the fence: listed in the operator's configuration while everything runs, readable
//! through the gateway by store, and by nobody when they are not listed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use storefence_devstack::mcp_client::Revision;
use storefence_tests::{Shared, wait_until};

const REVISION: Revision = Revision::V2026_07_28;
const PATIENCE: Duration = Duration::from_secs(30);
const RETURNS: &str =
    "SELECT s.store_name, r.reason FROM chain.returns r JOIN retail.stores s USING (store_id) ORDER BY 1, 2";

/// Replaces the protected tables of the running operator's configuration.
fn list(shared: &Shared, tables: Value) -> Result<()> {
    let path = shared.directory().join("operator.yaml");
    let mut config: Value = serde_saphyr::from_str(&std::fs::read_to_string(&path)?)?;
    config["databases"][0]["protectedTables"] = tables;
    let new = shared.directory().join("operator.yaml.new");
    std::fs::write(&new, serde_saphyr::to_string(&config)?)?;
    Ok(std::fs::rename(new, path)?)
}

/// The code of a refusal, and what it says.
async fn refused(shared: &Shared, principal: &str, sql: &str) -> Result<(String, String)> {
    let answer = shared.query(principal, REVISION, sql).await?;
    ensure!(answer.is_tool_error(), "{principal} was answered: {}", answer.message);
    let text = |name: &str| answer.structured()[name].as_str().unwrap_or_default().to_owned();
    Ok((text("code"), text("message")))
}

/// What `verify` prints with the configuration in force, and its exit code.
async fn verify(shared: &Shared) -> Result<(Option<i32>, String)> {
    let output = tokio::process::Command::new(shared.stack.binary("storefence-operator"))
        .args(["verify", "--database", "retail", "--config"])
        .arg(shared.directory().join("operator.yaml"))
        .output()
        .await?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// The names of stores whose rows a principal reads.
async fn stores_read(shared: &Shared, principal: &str) -> Result<Vec<String>> {
    let mut answered = shared.ask(principal, REVISION, RETURNS).await?.rows;
    Ok(answered.iter_mut().map(|row| row[0].as_str().unwrap_or_default().to_owned()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_table_is_read_by_store_and_an_unlisted_one_by_nobody() -> Result<()> {
    let shared = Shared::with_examples().await?;
    // A table as the customer creates it: another owner, granted to everybody, rows of every store of both tenants.
    let (admin, connection) =
        tokio_postgres::connect(&shared.stack.facts().database_url, tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    let name: String = admin.query_one("SELECT current_user::text", &[]).await?.get(0);
    admin
        .batch_execute(&format!(
            "CREATE ROLE chain_owner; GRANT chain_owner TO {name} WITH SET TRUE, INHERIT FALSE; \
             CREATE SCHEMA chain AUTHORIZATION chain_owner"
        ))
        .await
        .context("the chain's schema")?;
    let ids: Vec<String> = shared
        .database
        .query("SELECT format('(%L::uuid, %L)', store_id, 'broken in ' || store_name) FROM retail.stores", &[])
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    ensure!(ids.len() > 10, "{ids:?}");
    admin
        .batch_execute(&format!(
            "SET ROLE chain_owner; CREATE TABLE chain.returns (store_id uuid, reason text); \
             CREATE TABLE chain.complaints (store_id uuid, text text); \
             INSERT INTO chain.returns VALUES {0}; INSERT INTO chain.complaints VALUES {0}; \
             GRANT SELECT ON chain.returns TO PUBLIC; RESET ROLE",
            ids.join(", ")
        ))
        .await
        .context("the chain's table")?;
    let (code, message) = refused(&shared, "head-office", RETURNS).await?;
    ensure!(code == "AUTHORIZATION_ERROR" && !message.contains("broken"), "{code} {message}");

    // Listed, but the administrator has not the owner's rights: the status names the table and what helps.
    list(&shared, json!([{"table": "chain.returns", "storeColumn": "store_id"}]))?;
    // Tenants are served meanwhile.
    let help = format!("GRANT chain_owner TO {name}");
    wait_until("verify says what is missing", PATIENCE, || async { Ok(verify(&shared).await?.0 == Some(1)) }).await?;
    wait_until("the operator says what helps", PATIENCE, || async {
        Ok(shared.stack.operator().log_text().contains(&help))
    })
    .await?;
    refused(&shared, "head-office", RETURNS).await?;

    // Nor does it open the schema while a neighbour in it is open to everybody.
    admin.batch_execute("SET ROLE chain_owner; GRANT SELECT ON chain.complaints TO PUBLIC; RESET ROLE").await?;
    admin.batch_execute(&format!("GRANT chain_owner TO {name} WITH INHERIT TRUE")).await?;
    list(
        &shared,
        json!([{"table": "chain.complaints", "storeColumn": "nothing"}, {"table": "chain.returns", "storeColumn": "store_id"}]),
    )?;
    wait_until("the operator says what else would open", PATIENCE, || async {
        Ok(shared.stack.operator().log_text().contains("the tenants could read chain.complaints too"))
    })
    .await?;
    refused(&shared, "head-office", RETURNS).await?;
    admin.batch_execute("REVOKE ALL ON chain.complaints FROM PUBLIC").await?;

    // Nor a table whose job has a policy that is for everybody: it would let every tenant read every row.
    let everybodys = "SET ROLE chain_owner; CREATE POLICY job ON chain.returns USING (true); RESET ROLE";
    admin.batch_execute(everybodys).await?;
    list(&shared, json!([{"table": "chain.returns", "storeColumn": "store_id"}]))?;
    wait_until("the operator says which policy would let everybody read", PATIENCE, || async {
        Ok(shared.stack.operator().log_text().contains("ALTER POLICY job ON chain.returns TO"))
    })
    .await?;
    refused(&shared, "head-office", RETURNS).await?;
    let policies = "SELECT array_agg(polname::text) FROM pg_policy WHERE polrelid = 'chain.returns'::regclass";
    ensure!(admin.query_one(policies, &[]).await?.get::<_, Vec<String>>(0) == ["job"], "nothing is half applied");
    admin.batch_execute("ALTER POLICY job ON chain.returns TO chain_owner").await?;
    // Another list, so that the configuration is read again.
    list(
        &shared,
        json!([{"table": "chain.returns", "storeColumn": "store_id"}, {"table": "chain.complaints", "storeColumn": "nothing"}]),
    )?;
    wait_until("the table is behind the fence", PATIENCE, || async {
        Ok(stores_read(&shared, "head-office").await.is_ok())
    })
    .await?;
    // The job keeps its policy and sees what it wrote.
    admin.batch_execute("SET ROLE chain_owner").await?;
    let rows: i64 = admin.query_one("SELECT count(*) FROM chain.returns", &[]).await?.get(0);
    admin.batch_execute("RESET ROLE").await?;
    ensure!(rows == i64::try_from(ids.len())?, "{rows}");
    let managers_own = stores_read(&shared, "seattle-manager").await?;
    ensure!(managers_own.len() == 1 && managers_own[0].contains("Seattle"), "{managers_own:?}");
    // Rows without the join too, and not by a detour.
    for sql in
        ["SELECT reason FROM chain.returns", "SELECT reason FROM \"chain\".\"returns\" WHERE true OR store_id IS NULL"]
    {
        let rows = shared.ask("seattle-manager", REVISION, sql).await?.rows;
        ensure!(rows.len() == 1 && rows[0][0].as_str().is_some_and(|text| text.contains("Seattle")), "{rows:?}");
    }
    let (ours, theirs) =
        (stores_read(&shared, "head-office").await?, stores_read(&shared, "contoso-head-office").await?);
    ensure!(ours.len() == 8 && !theirs.is_empty() && ours.len() + theirs.len() == ids.len(), "{ours:?} {theirs:?}");

    // Its neighbour is not listed.
    refused(&shared, "head-office", "SELECT text FROM chain.complaints").await?;

    // Damaged by hand: the operator repairs it at the next pass, because the configuration asks for it.
    admin.batch_execute("ALTER POLICY fence_read ON chain.returns USING (true)").await?;
    list(
        &shared,
        json!([{"table": "chain.returns", "storeColumn": "store_id"}, {"table": "chain.complaints", "storeColumn": "store_id"}]),
    )?;
    wait_until("the policy is back", PATIENCE, || async {
        let complaints = shared.query("seattle-manager", REVISION, "SELECT text FROM chain.complaints").await?;
        Ok(!complaints.is_tool_error() && stores_read(&shared, "seattle-manager").await? == managers_own)
    })
    .await?;

    // Listed no longer: readable by nobody, and its neighbour as before.
    list(&shared, json!([{"table": "chain.complaints", "storeColumn": "store_id"}]))?;
    wait_until("the table is closed", PATIENCE, || async {
        Ok(shared.query("head-office", REVISION, RETURNS).await?.is_tool_error())
    })
    .await?;
    ensure!(shared.count("seattle-manager", REVISION, "SELECT count(*) FROM chain.complaints").await? == 1);

    // A table in retail that nobody listed: reported, and readable by nobody.
    admin.batch_execute("SET ROLE retail_owner; CREATE TABLE retail.returns (store_id uuid); RESET ROLE").await?;
    refused(&shared, "head-office", "SELECT count(*) FROM retail.returns").await?;
    let (code, printed) = verify(&shared).await?;
    ensure!(code == Some(0) && printed.contains("notice table retail.returns"), "{printed}");
    ensure!(!printed.contains("chain."), "{printed}");
    drop(admin);
    connection.await??;
    shared.stop().await;
    Ok(())
}
