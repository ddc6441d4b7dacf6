//! Checks everything that a call needs, for `storefence-gateway doctor` and for `/readyz?verbose` of a running gateway.
//! Each check gives one line, with a remedy if something is not in order.
//!
//! Database, fence and vault are checked with the credentials of a tenant, as a call would use them: one tenant for
//! each pair of database and vault, since a fault there affects all of their tenants.

pub mod command;
pub mod finding;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use storefence_tenancy::{context, scope::StoreSet};
use tokio::sync::{Mutex, Semaphore};

use self::finding::Finding;
use crate::{
    db::{
        batch::{self, Outcome},
        connection::{Connection, OpenError},
        credentials::{CredentialsError, Loaded, Loader},
        life::Span,
        query::{Bounds, Call},
    },
    identity::jwks::KeyStore,
    metrics::Metrics,
    questions::{QuestionError, Questions},
    redis::Redis,
    tenants::{Tenant, watch::Tenants},
};

/// How long findings are reused: probes come every few seconds, and from several sources.
const BELIEVED: Duration = Duration::from_secs(10);
/// Timeout of one check.
const TIMEOUT: Duration = Duration::from_secs(8);
/// Directories or tenants that are checked concurrently, and in total.
const TRIALS: (usize, usize) = (4, 50);
/// Lifetime of a check's signed context, in seconds.
const CONTEXT_SECONDS: i64 = 30;

/// Checks what calls need.
pub struct Doctor {
    pub tenants: Arc<Tenants>,
    /// Signing keys.
    pub keys: Arc<KeyStore>,
    /// Reads credentials.
    pub loader: Loader,
    /// Redis, if configured.
    pub redis: Option<Redis>,
    /// Counts connections.
    pub metrics: Arc<Metrics>,
    /// The last findings.
    pub last: Mutex<Option<(Instant, Arc<Vec<Finding>>)>>,
}

impl Doctor {
    /// Checks, or returns the last findings if they are recent.
    pub async fn recent(&self, questions: &Questions) -> Arc<Vec<Finding>> {
        let mut last = self.last.lock().await;
        if let Some((at, findings)) = &*last
            && at.elapsed() < BELIEVED
        {
            return findings.clone();
        }
        let findings = Arc::new(self.examine(questions).await);
        *last = Some((Instant::now(), findings.clone()));
        findings
    }

    /// Checks everything.
    pub async fn examine(&self, questions: &Questions) -> Vec<Finding> {
        let (authority, trials, embeddings, redis) =
            futures::join!(self.authority(), self.trials(), embeddings(questions), self.redis());
        let mut findings = vec![self.listed()];
        findings.extend(authority);
        findings.extend(trials);
        findings.push(embeddings);
        findings.push(redis);
        findings
    }

    fn listed(&self) -> Finding {
        let served = self.tenants.load().len();
        match (self.tenants.is_synced(), served) {
            (false, _) => Finding::bad(
                "tenants",
                "the RetailTenants have not been listed",
                "is the API server of KUBECONFIG reachable, may this identity list retailtenants, and is the CRD installed? Without a cluster: --tenants",
            ),
            (true, 0) => Finding::bad(
                "tenants",
                "no RetailTenant is served",
                "apply one and wait until it is Ready: kubectl get retailtenants -A",
            ),
            (true, n) => Finding::good("tenants", format!("{n} served")),
        }
    }

    async fn authority(&self) -> Vec<Finding> {
        let directories = self.tenants.load().directories();
        if directories.is_empty() {
            return vec![Finding::skipped("authority", "no tenant names a directory")];
        }
        let total = directories.len();
        let asked = directories.into_iter().take(TRIALS.1).map(|tid| async move {
            let answer = tokio::time::timeout(TIMEOUT, self.keys.try_fetch(tid)).await;
            match answer {
                Ok(Ok(keys)) => Ok(keys),
                Ok(Err(error)) => Err(format!("directory {tid}: {error}")),
                Err(_) => Err(format!("directory {tid}: no answer in time")),
            }
        });
        let answers: Vec<_> = stream::iter(asked).buffered(TRIALS.0).collect().await;
        let failed: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
        match failed.first() {
            None => vec![Finding::good("authority", format!("signing keys of {total} directories"))],
            Some(first) => vec![Finding::bad(
                "authority",
                format!("{} of {total} directories fail; {first}", failed.len()),
                "is --authority right and let through by proxy and firewall? A private CA belongs into --ca-file",
            )],
        }
    }

    /// One tenant for each pair of database and vault.
    async fn trials(&self) -> Vec<Finding> {
        let snapshot = self.tenants.load_full();
        let mut chosen: BTreeMap<(Arc<str>, Arc<str>), Arc<Tenant>> = BTreeMap::new();
        for tid in snapshot.directories() {
            for tenant in snapshot.of_directory(tid) {
                let pair = (tenant.database.clone(), tenant.vault.clone());
                let first = chosen.entry(pair).or_insert_with(|| tenant.clone());
                if tenant.id() < first.id() {
                    *first = tenant.clone();
                }
            }
        }
        if chosen.is_empty() {
            let skipped = |check| Finding::skipped(check, "no tenant to try it with");
            return ["key-vault", "database", "fence"].map(skipped).into();
        }
        let trials = chosen.into_values().take(TRIALS.1).map(|tenant| async move {
            let late = Finding::bad("database", format!("{}: no answer in time", tenant.database), UNREACHABLE);
            tokio::time::timeout(TIMEOUT, self.trial(&tenant)).await.unwrap_or_else(|_| vec![late])
        });
        stream::iter(trials).buffered(TRIALS.0).concat().await
    }

    async fn trial(&self, tenant: &Tenant) -> Vec<Finding> {
        let (database, vault, through) = (&tenant.database, &tenant.vault, format!("(through tenant {})", tenant.id()));
        let skipped = |check, why: &str| Finding::skipped(check, format!("{database}: {why} {through}"));
        let loaded = match self.loader.load(tenant).await {
            Ok(loaded) => Arc::new(loaded),
            Err(error) => {
                let remedy = match &error {
                    CredentialsError::Secret { .. } => VAULT,
                    CredentialsError::Malformed { .. } => ROTATE,
                    CredentialsError::Tls(_) => "databases[].caFile of the configuration holds the database's CA",
                };
                let vault = Finding::bad("key-vault", format!("{vault}: {error} {through}"), remedy);
                return vec![vault, skipped("database", "no credentials"), skipped("fence", "no credentials")];
            }
        };
        let mut findings = vec![Finding::good("key-vault", format!("{vault}: login and key read {through}"))];
        // Outside of the pools: their budget is for callers, and their open connections say nothing about opening a new
        // one.
        let budget = Arc::new(Semaphore::new(1)).try_acquire_owned();
        let Ok(budget) = budget else { return findings };
        let life = Span { age: TIMEOUT, calls: 2 }.begin();
        let mut connection = match Connection::open(loaded.clone(), life, 0, budget, self.metrics.clone()).await {
            Ok(connection) => connection,
            Err(error) => {
                findings.push(unopened(database, &through, &error));
                findings.push(skipped("fence", "no connection"));
                return findings;
            }
        };
        findings.push(Finding::good("database", format!("{database}: a login of the tenant connects {through}")));
        findings.push(memory(&mut connection, database).await);
        findings.push(fence(&mut connection, &loaded, tenant, &through).await);
        findings
    }

    async fn redis(&self) -> Finding {
        let Some(redis) = &self.redis else { return Finding::skipped("redis", "not configured (--redis-url)") };
        match redis.run::<String>(&redis::cmd("PING")).await {
            Ok(_) => Finding::good("redis", "it answers"),
            Err(_) => Finding::bad(
                "redis",
                "it does not answer; quotas and cached responses are each replica's own until it does",
                "is --redis-url right, with the password and rediss:// where the server wants them? Redis' log says why it refuses",
            ),
        }
    }
}

const VAULT: &str = "does the gateway's identity hold the role Key Vault Secrets User there, and do network rules let it through? \
    A missing secret is the operator's to write: kubectl describe retailtenant";
const ROTATE: &str =
    "have new ones made: kubectl annotate retailtenant NAME retail.storefence.dev/rotate=$(date +%s) --overwrite";
const UNREACHABLE: &str = "is the server up, and do firewall and NetworkPolicy let the gateway through to it?";
const READ_ONLY: &str = "the server is reached and takes no writes: let the endpoint lead to the primary and not to a standby; \
    where default_transaction_read_only is on (managed servers set it when the disk is full), make room and set it back to off";
const VERIFY: &str = "compare the fence with what was shipped: storefence-operator verify --database NAME";

/// Why no connection can be opened, according to the server's error.
fn unopened(database: &str, through: &str, error: &OpenError) -> Finding {
    let said = error;
    let remedy = match error {
        _ if error.is_refused() => ROTATE,
        OpenError::Postgres(error) if error.sqlstate() == Some("53300") => {
            "raise the server's max_connections, or lower --pool-total"
        }
        // Opening a connection draws a ticket from a sequence.
        OpenError::Postgres(error) if error.sqlstate() == Some("25006") => READ_ONLY,
        // undefined function or schema: what the gateway prepares on each connection
        OpenError::Postgres(error) if matches!(error.sqlstate(), Some("42883" | "3F000")) => {
            "make the fence: storefence-operator migrate --database NAME"
        }
        _ => UNREACHABLE,
    };
    Finding::bad("database", format!("{database}: {said} {through}"), remedy)
}

/// The most memory that planning may take on the server. SQL does not show whether the operating system limits it.
async fn memory(connection: &mut Connection, database: &str) -> Finding {
    const CHECK: &str = "memory";
    match connection.query("SHOW max_connections").await {
        Ok(Some(most)) => {
            let gigabytes = most.parse::<u64>().map(|most| most.div_ceil(4)).unwrap_or_default();
            Finding::skipped(
                CHECK,
                format!(
                    "{database}: {most} connections may take {gigabytes} GB to plan at worst; SQL does not show ulimit -v, \
                     vm.overcommit_memory or a container's limit: see docs/operations.md, Memory of the database"
                ),
            )
        }
        Ok(None) | Err(_) => Finding::skipped(CHECK, format!("{database}: max_connections cannot be read")),
    }
}

/// Checks that a signed context is accepted, and that nothing is readable without one.
async fn fence(connection: &mut Connection, loaded: &Loaded, tenant: &Tenant, through: &str) -> Finding {
    let database = &tenant.database;
    let direct = connection.query("SELECT FROM retail.stores LIMIT 1").await;
    if direct.is_ok() {
        let detail = format!("{database}: the tenant's login reads tables without the fence {through}");
        return Finding::bad("fence", detail, VERIFY);
    }
    let expires = connection.server_now() + CONTEXT_SECONDS;
    let context = context::sign(&loaded.key, loaded.kid, tenant.id(), connection.ticket(), expires, &StoreSet::All);
    let bounds = Bounds { max_rows: 1, max_bytes: 1024, timeout: TIMEOUT };
    let call = Call::Select("SELECT count(*) FROM retail.stores");
    match batch::run(connection, &context, call, bounds, false).await {
        Outcome::Answer(answer) => {
            let stores = answer.rows.text;
            Finding::good(
                "fence",
                format!("{database}: a signed context shows {stores} stores, none shows none {through}"),
            )
        }
        Outcome::Statement(error) => {
            let remedy = if error.sqlstate == "SF001" { ROTATE } else { VERIFY };
            Finding::bad("fence", format!("{database}: {error} {through}"), remedy)
        }
        Outcome::Broken(error) => Finding::bad("fence", format!("{database}: {error} {through}"), UNREACHABLE),
    }
}

async fn embeddings(questions: &Questions) -> Finding {
    match questions.probe().await {
        Ok(model) => Finding::good("embeddings", format!("{model} answers")),
        Err(QuestionError::NotConfigured) => {
            Finding::skipped("embeddings", "not configured; semantic_search_products says so")
        }
        Err(QuestionError::Provider(error)) => {
            let remedy = match error.reason() {
                "EmbeddingsUnauthorized" => {
                    "give the gateway's identity the role Cognitive Services OpenAI User, or renew the key in embeddings.apiKeyFile"
                }
                "EmbeddingsNotFound" => {
                    "embeddings.deployment or embeddings.model of the configuration names what exists there"
                }
                "EmbeddingsThrottled" => "raise the deployment's tokens per minute",
                "EmbeddingsUnusable" => {
                    "the model must give at most 1536 dimensions, and be the one that the operator embeds with"
                }
                _ => "is embeddings.endpoint right, and let through by proxy and firewall?",
            };
            Finding::bad("embeddings", error.to_string(), remedy)
        }
    }
}
