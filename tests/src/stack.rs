//! The stack of a suite, with what its tests ask of it.

use std::{
    future::Future,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};
use storefence_devstack::{
    entra::principals,
    mcp_client::{Answer, McpClient, Revision},
    shared_cluster::{self, Turn},
    stack::{ClusterSource, Stack, StackOptions, cluster},
};
use tempfile::TempDir;

/// A running stack and the administrator's view of its database.
pub struct Shared {
    pub stack: Stack,
    /// The database as administrator who may read every row.
    pub database: tokio_postgres::Client,
    directory: TempDir,
    /// The cluster of `STOREFENCE_TEST_KUBECONFIG`, if there is one.
    _turn: Option<Turn>,
}

/// An answer of `execute_sales_query`.
#[derive(Debug)]
pub struct Answered {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Value>>,
    /// Whether rows were cut.
    pub truncated: bool,
}

/// The RetailTenants of manifests, by name.
fn tenant_names(manifests: &[(String, String)]) -> Vec<String> {
    let documents = manifests.iter().flat_map(|(_, manifest)| manifest.split("\n---"));
    let objects = documents.filter_map(|text| serde_saphyr::from_str::<Value>(text).ok());
    let tenants = objects.filter(|object| object["kind"] == "RetailTenant");
    tenants.filter_map(|object| Some(object["metadata"]["name"].as_str()?.to_owned())).collect()
}

async fn take_away(kubeconfig: Option<&Path>, tenants: &[String]) -> Result<()> {
    let Some(kubeconfig) = kubeconfig else { return Ok(()) };
    let client = cluster::client(kubeconfig).await?;
    shared_cluster::sweep(&client).await?;
    Ok(shared_cluster::release_tenants(&client, "default", tenants).await?)
}

impl Shared {
    /// Starts the stack with the repository's examples.
    pub async fn with_examples() -> Result<Self> {
        Self::start(|options| {
            options.manifests = StackOptions::examples()?;
            Ok(())
        })
        .await
    }

    /// Starts a stack after changing its options. No answer is kept: the suites look at what the database says now.
    pub async fn start(change: impl FnOnce(&mut StackOptions) -> Result<()>) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut options = StackOptions::new(directory.path().to_owned())?;
        options.progress = |line| eprintln!("{line}");
        // The same suites against a real cluster, where a divergence of the stand-in shows.
        let mut turn = None;
        let cluster = shared_cluster::kubeconfig();
        if let Some(kubeconfig) = &cluster {
            options.cluster = ClusterSource::Kubeconfig(kubeconfig.clone());
            turn = Some(Turn::take(&std::fs::read_to_string(kubeconfig)?).await?);
        }
        change(&mut options)?;
        for (_, manifest) in &mut options.manifests {
            *manifest = manifest.lines().filter(|line| !line.contains("cacheTtl:")).collect::<Vec<_>>().join("\n");
        }
        // A suite that was killed has left its tenants, and one that fails to start leaves them, too.
        let own = tenant_names(&options.manifests);
        take_away(cluster.as_deref(), &own).await?;
        let stack = match Stack::start(options).await {
            Ok(stack) => stack,
            Err(error) => {
                take_away(cluster.as_deref(), &own).await?;
                return Err(error);
            }
        };
        let database = oracle(&stack.facts().database_url).await?;
        Ok(Self { stack, database, directory, _turn: turn })
    }

    pub async fn stop(self) {
        self.stack.stop().await;
        drop(self.directory);
    }

    /// A directory that goes with the stack.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A token for a sample principal, with these claims added, replaced or (null) removed.
    pub fn token(&self, principal: &str, claims: Value) -> Result<String> {
        self.token_expiring(principal, claims, 3600)
    }

    /// The same with a life in seconds.
    pub fn token_expiring(&self, principal: &str, claims: Value, expires_in: i64) -> Result<String> {
        let known = principals::all().iter().find(|known| known.name == principal).context("no such principal")?;
        let mut merged: Map<String, Value> = known.claims();
        merged.extend(claims.as_object().cloned().unwrap_or_default());
        self.stack.issue(known.tenant_id, merged, expires_in)
    }

    /// A client as a sample principal.
    pub fn client(&self, principal: &str, revision: Revision) -> Result<McpClient> {
        Ok(self.client_with(Some(self.token(principal, json!({}))?), "/mcp", revision))
    }

    /// A client with this token on this path.
    pub fn client_with(&self, token: Option<String>, path: &str, revision: Revision) -> McpClient {
        let url = format!("{}{path}", self.stack.facts().gateway_url);
        McpClient::new(self.stack.http().clone(), url, token, revision)
    }

    /// Runs SQL through the gateway and expects rows.
    pub async fn ask(&self, principal: &str, revision: Revision, sql: &str) -> Result<Answered> {
        answered(&self.query(principal, revision, sql).await?).with_context(|| format!("{principal}: {sql}"))
    }

    /// Runs SQL through the gateway, whatever comes back.
    pub async fn query(&self, principal: &str, revision: Revision, sql: &str) -> Result<Answer> {
        let client = self.client(principal, revision)?;
        Ok(client.call_tool("execute_sales_query", json!({"postgresql_query": sql})).await?)
    }

    /// One number through the gateway.
    pub async fn count(&self, principal: &str, revision: Revision, sql: &str) -> Result<i64> {
        let answer = self.ask(principal, revision, sql).await?;
        answer.rows[0][0].as_i64().context("a number is expected")
    }

    /// One number as administrator.
    pub async fn oracle(&self, sql: &str) -> Result<i64> {
        Ok(self.database.query_one(sql, &[]).await.with_context(|| sql.to_owned())?.get(0))
    }

    /// Runs kubectl against the stack's cluster; `None` where kubectl is not installed.
    pub fn kubectl(&self, args: &[&str]) -> Option<Output> {
        kubectl(&self.stack.facts().kubeconfig, args)
    }
}

/// Reads the rows out of an answer.
pub fn answered(answer: &Answer) -> Result<Answered> {
    ensure!(answer.status.is_success(), "HTTP {}: {}", answer.status, answer.message);
    ensure!(!answer.is_tool_error(), "tool error: {}", answer.structured());
    let structured = answer.structured();
    let columns = structured["columns"].as_array().context("no columns")?;
    let rows = structured["rows"].as_array().context("no rows")?;
    let kinds: Vec<_> = columns.iter().map(|column| column["type"].as_str().unwrap_or_default()).collect();
    let row = |row: &Value| {
        let values = row.as_array().into_iter().flatten().zip(kinds.iter().copied());
        values.map(|(value, kind)| as_number(value, kind)).collect()
    };
    Ok(Answered {
        columns: columns.iter().map(|c| c["name"].as_str().unwrap_or_default().to_owned()).collect(),
        rows: rows.iter().map(row).collect(),
        truncated: structured["truncated"] == json!(true),
    })
}

/// A number that no double holds comes as a string; here it is compared with what a parser makes of the oracle's.
fn as_number(value: &Value, kind: &str) -> Value {
    let numbers = ["int8", "numeric", "json", "jsonb"].contains(&kind.trim_end_matches("[]"));
    match value {
        Value::String(text) if numbers && text.len() > 15 => match serde_json::from_str(text) {
            Ok(Value::Number(number)) => Value::Number(number),
            _ => value.clone(),
        },
        Value::Array(items) => items.iter().map(|item| as_number(item, kind)).collect(),
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), as_number(value, kind))).collect(),
        other => other.clone(),
    }
}

/// A connection that reads every row: the administrator in the role of the loader, whose policy lets all rows through.
async fn oracle(url: &str) -> Result<tokio_postgres::Client> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    client.batch_execute("SET ROLE retail_loader").await?;
    Ok(client)
}

/// Runs kubectl; `None` where it is not installed.
pub fn kubectl(kubeconfig: &Path, args: &[&str]) -> Option<Output> {
    // The API server may be in this process: waiting must not take its thread away.
    tokio::task::block_in_place(|| Command::new("kubectl").env("KUBECONFIG", kubeconfig).args(args).output().ok())
}

/// Polls until the answer is true; fails with `what` after the timeout.
pub async fn wait_until<F>(what: &str, timeout: Duration, mut check: impl FnMut() -> F) -> Result<Duration>
where
    F: Future<Output = Result<bool>>,
{
    let begun = Instant::now();
    loop {
        let last = check().await;
        if matches!(last, Ok(true)) {
            return Ok(begun.elapsed());
        }
        if begun.elapsed() > timeout {
            bail!("{what}: not within {timeout:?} ({last:?})");
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}
