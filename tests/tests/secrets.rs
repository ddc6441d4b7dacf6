//! No secret in any output: a stack in which everything logs at its finest is asked everything, is rotated and broken, and
//! then its operator's and gateway's logs are searched for each secret that was made. In both shapes of log lines.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use regex::Regex;
use serde_json::{Value, json};
use storefence_devstack::{
    mcp_client::{McpClient, Revision},
    stack::{Stack, StackOptions},
};
use storefence_tenancy::{RetailTenant, resource::ROTATE_ANNOTATION};
use storefence_tests::{Shared, wait_until};

/// Occurs in statements and nowhere else.
const STATEMENT: &str = "a_word_of_a_statement";
/// All, and by name, with longer names than what stays quiet has, what would show bodies, headers and statements.
const FINEST: &str = "trace,rmcp::transport=trace,rmcp::service=trace,rmcp::handler=trace,hyper::proto=trace,\
    hyper_util::client=trace,hyper_util::server=trace,reqwest::connect=trace,reqwest::async_impl=trace,\
    tokio_postgres::connection=trace,tokio_postgres::query=trace,azure_core::http=trace,h2::codec=trace";
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_stands_in_a_log() -> Result<()> {
    for format in ["json", "text"] {
        let shared = Shared::start(|options| {
            options.manifests = StackOptions::examples()?;
            for env in [&mut options.operator_env, &mut options.gateway_env] {
                env.push(("STOREFENCE_LOG_FORMAT".to_owned(), format.to_owned()));
                env.push(("RUST_LOG".to_owned(), FINEST.to_owned()));
            }
            for (_, manifest) in &mut options.manifests {
                *manifest =
                    manifest.replace("  keyVaultRef:", "  rotation: {period: 720h, overlap: 2s}\n  keyVaultRef:");
            }
            Ok(())
        })
        .await?;
        let mut secrets = Secrets::default();
        secrets.of_the_surroundings(&shared)?;
        secrets.of_the_vault(&shared.stack)?;
        let tokens = everything(&shared).await?;
        rotate(&shared).await?;
        broken(&shared).await?;
        secrets.of_the_vault(&shared.stack)?;
        tokens.iter().for_each(|token| secrets.token(token));
        let logs = shared.directory().join("logs");
        let looked_at = secrets.look_for(&logs).with_context(|| format!("{format} in {}", logs.display()))?;
        ensure!(looked_at > 100_000, "only {looked_at} bytes of logs: nothing was logged at trace");
        shared.stop().await;
    }
    Ok(())
}

/// Each tool in both revisions, with and without errors, resources, prompts, completions, and tokens that are refused.
async fn everything(shared: &Shared) -> Result<Vec<String>> {
    let mut tokens = vec![
        shared.token_expiring("seattle-manager", json!({}), -120)?,
        shared.token("nobody", json!({})).or_else(|_| shared.token("seattle-manager", json!({"oid": "x"})))?,
    ];
    for token in &tokens {
        let client = shared.client_with(Some(token.clone()), "/mcp", Revision::V2026_07_28);
        ensure!(!client.send("tools/list", json!({})).await?.status.is_success(), "a bad token is let in");
    }
    for revision in Revision::ALL {
        for principal in ["head-office", "seattle-manager", "contoso-head-office"] {
            let token = shared.token(principal, json!({}))?;
            let client = shared.client_with(Some(token.clone()), "/mcp", revision);
            tokens.push(token);
            ask(&client).await?;
        }
    }
    Ok(tokens)
}

async fn ask(client: &McpClient) -> Result<()> {
    let list = client.send("tools/list", json!({})).await?;
    let tools = list.result()["tools"].as_array().cloned().context("no tools")?;
    for tool in &tools {
        let name = tool["name"].as_str().context("a name")?;
        let arguments = match name {
            "execute_sales_query" => json!({"postgresql_query": format!("SELECT count(*) AS {STATEMENT} FROM orders")}),
            "semantic_search_products" => json!({"query_description": STATEMENT}),
            _ => json!({}),
        };
        client.call_tool(name, arguments).await?;
        client.call_tool(name, json!({STATEMENT: STATEMENT})).await?;
    }
    for sql in [
        format!("SELECT {STATEMENT} FROM orders"),
        format!("SELECT '{STATEMENT}'::int"),
        format!("DELETE FROM orders -- {STATEMENT}"),
        format!("SELECT pg_read_file('{STATEMENT}')"),
        format!("SELECT count(*), '{STATEMENT}' FROM generate_series(1, 9000000000) g"),
    ] {
        let answer = client.call_tool("execute_sales_query", json!({"postgresql_query": sql})).await?;
        ensure!(answer.is_tool_error(), "{sql}: {}", answer.message);
    }
    client.call_tool(STATEMENT, json!({})).await?;
    for (method, params) in [
        ("prompts/get", json!({"name": "top_products", "arguments": {"category": STATEMENT}})),
        (
            "completion/complete",
            json!({"ref": {"type": "ref/prompt", "name": "top_products"}, "argument": {"name": "category", "value": STATEMENT}}),
        ),
        ("prompts/list", json!({})),
        ("resources/list", json!({})),
    ] {
        client.send(method, params).await?;
    }
    for uri in ["storefence://schema", "storefence://schema/orders", "storefence://nothing"] {
        client.read(client.request("resources/read", json!({"uri": uri})).header("Mcp-Name", uri)).await?;
    }
    Ok(())
}

async fn rotate(shared: &Shared) -> Result<()> {
    let tenants = Api::<RetailTenant>::default_namespaced(shared.stack.kube().clone());
    let patch = json!({"metadata": {"annotations": {ROTATE_ANNOTATION: "once"}}});
    tenants.patch("zava", &PatchParams::default(), &Patch::Merge(patch)).await?;
    wait_until("the rotation", PATIENCE, async || {
        let status = tenants.get("zava").await?.status.context("no status")?;
        let credentials = status.credentials.context("no credentials")?;
        Ok(status.last_rotation.and_then(|last| last.annotation).as_deref() == Some("once")
            && (credentials.slots.len(), credentials.context_keys.len()) == (1, 1))
    })
    .await?;
    // The new login is used.
    shared.count("head-office", Revision::V2026_07_28, "SELECT count(*) FROM orders").await?;
    Ok(())
}

/// A vault and a database that are away, while something is asked of them.
async fn broken(shared: &Shared) -> Result<()> {
    let tenants = Api::<RetailTenant>::default_namespaced(shared.stack.kube().clone());
    let ask = async || -> Result<bool> {
        let answer = shared.query("head-office", Revision::V2026_07_28, "SELECT count(*) FROM orders").await?;
        Ok(answer.is_tool_error())
    };
    shared.stack.cut_vault(true);
    shared.stack.cut_database(true);
    wait_until("the database is away", PATIENCE, ask).await?;
    for (name, value) in [("zava", "with-nothing-there"), ("contoso", "nor-here")] {
        let patch = json!({"metadata": {"annotations": {ROTATE_ANNOTATION: value}}});
        tenants.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        wait_until("the operator says so", PATIENCE, async || {
            let ready = shared.stack.condition("default", name, "Ready").await?.unwrap_or_default();
            Ok(ready["status"] != "True")
        })
        .await?;
    }
    shared.stack.cut_vault(false);
    shared.stack.cut_database(false);
    wait_until("the database is back", PATIENCE, async || Ok(!ask().await?)).await?;
    Ok(())
}

/// What must not be found, with what it is.
#[derive(Default)]
struct Secrets(BTreeSet<(String, String)>);

impl Secrets {
    fn add(&mut self, what: &str, secret: &str) {
        // Anything shorter is found by chance.
        if secret.len() >= 12 {
            self.0.insert((secret.to_owned(), what.to_owned()));
        }
    }

    fn token(&mut self, token: &str) {
        for part in token.split('.').skip(1) {
            self.add("a token", part);
        }
    }

    /// The administrator's password, client secrets, and what the kubeconfigs hold.
    fn of_the_surroundings(&mut self, shared: &Shared) -> Result<()> {
        self.add("the administrator's password", password(&shared.stack.facts().database_url).context("a password")?);
        self.add(STATEMENT, STATEMENT);
        for child in [shared.stack.operator(), shared.stack.gateway()] {
            let environment = fs::read(format!("/proc/{}/environ", child.pid()))?;
            let secret =
                environment.split(|byte| *byte == 0).find_map(|pair| pair.strip_prefix(b"AZURE_CLIENT_SECRET="));
            self.add("a client secret", std::str::from_utf8(secret.context("a client secret")?)?);
        }
        for name in ["kubeconfig-operator", "kubeconfig-gateway"] {
            let path = shared.directory().join(name);
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let config: Value = serde_saphyr::from_str(&text)?;
            for user in config["users"].as_array().into_iter().flatten() {
                for field in ["token", "client-key-data"] {
                    self.add("a credential for the API server", user["user"][field].as_str().unwrap_or_default());
                }
            }
        }
        Ok(())
    }

    /// Every version of every secret: the logins' passwords, and the context keys in each form in which they are used.
    fn of_the_vault(&mut self, stack: &Stack) -> Result<()> {
        let vault = stack.key_vault();
        let names = vault.names();
        ensure!(names.len() >= 4, "{names:?}");
        for name in names {
            for version in vault.versions(&name) {
                self.add(&name, &version.value);
                match password(&version.value) {
                    Some(password) => self.add(&name, password),
                    None => {
                        let key = BASE64_STANDARD.decode(&version.value)?;
                        let pad = |with: u8| (0..64).map(|at| key.get(at).unwrap_or(&0) ^ with).collect::<Vec<_>>();
                        for bytes in [&key, &pad(0x36), &pad(0x5c)] {
                            let hex: String = bytes.iter().take(32).map(|byte| format!("{byte:02x}")).collect();
                            self.add(&name, &hex);
                            self.add(&name, &hex.to_uppercase());
                            let list: Vec<_> = bytes.iter().take(8).map(ToString::to_string).collect();
                            self.add(&name, &list.join(", "));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// How many bytes of logs hold none of them.
    fn look_for(&self, logs: &Path) -> Result<usize> {
        ensure!(self.0.len() > 30, "{} secrets", self.0.len());
        // Tokens that the binaries got for themselves, and anything else of that shape.
        let token = Regex::new(r"eyJ[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}")?;
        let mut looked_at = 0;
        let mut found = BTreeSet::new();
        for entry in fs::read_dir(logs)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let log = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
            looked_at += log.len();
            for line in log.lines() {
                let start: String = line.chars().take(160).collect();
                for (_, what) in self.0.iter().filter(|(secret, _)| line.contains(secret.as_str())) {
                    found.insert(format!("{name}: {what}: {start}"));
                }
                if token.is_match(line) {
                    found.insert(format!("{name}: a JWT: {start}"));
                }
            }
        }
        let shown: Vec<_> = found.iter().take(30).cloned().collect();
        ensure!(found.is_empty(), "{} lines hold a secret:\n{}", found.len(), shown.join("\n"));
        Ok(looked_at)
    }
}

/// The password of a `postgresql://` URI.
fn password(uri: &str) -> Option<&str> {
    let rest = uri.strip_prefix("postgresql://")?;
    rest.split_once('@')?.0.split_once(':').map(|(_, password)| password)
}
