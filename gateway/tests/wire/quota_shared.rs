//! Quotas that replicas share through Redis: a real one from Debian, one that goes away, and one that never existed.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use storefence_devstack::{
    mcp_client::{Answer, McpClient},
    process::{Child, Signal, Spawn},
};
use storefence_tests::{outside::debian, skip};
use tempfile::TempDir;

use crate::{
    Tests,
    world::{Gateway, World, ZAVA, free_port, until},
};

pub fn tests(tests: &mut Tests) {
    tests.add("replicas_share_quotas_through_redis", shared);
    tests.add("without_redis_each_replica_holds_the_limits", away);
}

const ACTIVE: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'storefence-gateway' AND state = 'active'";
const PASSWORD: &str = "a-password-of-redis";

/// A Redis of the test's own, with TLS and a password.
pub struct RedisServer {
    child: Child,
    port: u16,
    directory: TempDir,
    spawn: Spawn,
}

impl RedisServer {
    /// Starts one; `None` if Redis is not installed.
    pub async fn start(world: &World) -> Result<Option<Self>> {
        let found = tokio::task::spawn_blocking(|| debian::program("redis-server", "redis-server")).await??;
        let Some(program) = found else { return Ok(None) };
        let directory = tempfile::tempdir()?;
        // Written and read by the user who runs the tests.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700))?;
        let leaf = world.authority.issue(&["127.0.0.1", "localhost"])?;
        let file = |name: &str, text: &str| -> Result<String> {
            let path = directory.path().join(name);
            fs::write(&path, text)?;
            Ok(path.display().to_string())
        };
        let (certificate, key) = (file("redis.pem", &leaf.certificate_pem)?, file("redis.key", &leaf.key_pem)?);
        let ca = file("ca.pem", world.authority.pem())?;
        let port = free_port()?;
        let mut spawn = Spawn::new(program.path())
            .args(["--port", "0", "--tls-port", &port.to_string(), "--bind", "127.0.0.1", "--tls-auth-clients", "no"])
            .args(["--tls-cert-file", &certificate, "--tls-key-file", &key, "--tls-ca-cert-file", &ca])
            .args(["--requirepass", PASSWORD, "--save", "", "--appendonly", "no", "--dir"])
            .arg(directory.path())
            .log(directory.path().join("redis.log"));
        if let Some(libraries) = program.library_path() {
            spawn = spawn.env("LD_LIBRARY_PATH", libraries);
        }
        let child = spawn.clone().start()?;
        Ok(Some(Self { child, port, directory, spawn }))
    }

    /// For `--redis-url`.
    pub fn url(&self) -> String {
        format!("rediss://:{PASSWORD}@127.0.0.1:{}", self.port)
    }

    /// A connection with full access.
    pub async fn connect(&self) -> Result<redis::aio::MultiplexedConnection> {
        let root = Some(fs::read(self.directory.path().join("ca.pem"))?);
        let roots = redis::TlsCertificates { client_tls: None, root_cert: root };
        let client = redis::Client::build_with_tls(self.url(), roots)?;
        until("Redis answers", Duration::from_secs(10), || async {
            Ok(client.get_multiplexed_async_connection().await.is_ok())
        })
        .await
        .with_context(|| self.child.log_tail(10))?;
        Ok(client.get_multiplexed_async_connection().await?)
    }

    async fn stop(&mut self) -> Result<()> {
        self.child.terminate(Duration::from_secs(5)).await?;
        Ok(())
    }

    fn start_again(&mut self) -> Result<()> {
        self.child = self.spawn.clone().start()?;
        Ok(())
    }
}

async fn date(client: &McpClient) -> Result<Answer> {
    Ok(client.call_tool("get_current_utc_date", json!({})).await?)
}

/// Sets a quota for Zava on these gateways.
async fn set(world: &World, gateways: &[&Gateway], mut quota: Value) -> Result<()> {
    // Also changes a limit that whoami reports, to see when the change has arrived.
    static MARK: AtomicU32 = AtomicU32::new(60);
    let mark = MARK.fetch_add(1, Ordering::Relaxed);
    quota["maxRows"] = json!(mark);
    world.patch_spec("zava", json!({"gateway": quota})).await?;
    for gateway in gateways {
        let client = world.client_of(gateway, "redmond-manager")?;
        until("the quota is in force", Duration::from_secs(5), || async {
            Ok(client.call_tool("whoami", json!({})).await?.structured()["limits"]["maxRows"] == json!(mark))
        })
        .await?;
    }
    Ok(())
}

/// How many calls, alternating between the gateways, are accepted before one is refused.
async fn until_refused(clients: &[&McpClient], most: usize) -> Result<usize> {
    for (served, client) in clients.iter().cycle().enumerate().take(most + 1) {
        let answer = date(client).await?;
        if answer.is_tool_error() {
            ensure!(answer.structured()["code"] == "RATE_LIMITED", "{}", answer.message);
            ensure!(answer.structured()["retryAfterSeconds"].as_u64().is_some_and(|n| (1..=60).contains(&n)));
            return Ok(served);
        }
    }
    anyhow::bail!("{most} calls and none refused")
}

async fn shared(world: Arc<World>) -> Result<()> {
    let Some(mut redis) = RedisServer::start(&world).await? else { return skip("no redis-server") };
    let mut connection = redis.connect().await?;
    let url = redis.url();
    let one = world.another_gateway("redis-1", &["--redis-url", &url]).await?;
    let mut two = world.another_gateway("redis-2", &["--redis-url", &url]).await?;
    let clients =
        |who: &str| -> Result<[McpClient; 2]> { Ok([world.client_of(&one, who)?, world.client_of(&two, who)?]) };

    // Four per minute for both together: alternating, they accept four and not eight. A fifth becomes available every
    // 15 seconds.
    set(&world, &[&one, &two], json!({"requestsPerMinute": 4, "concurrentCalls": 64})).await?;
    let seattle = clients("seattle-manager")?;
    let served = until_refused(&[&seattle[0], &seattle[1]], 6).await?;
    ensure!((4..=5).contains(&served), "{served} calls");
    for client in &seattle {
        ensure!(date(client).await?.is_tool_error(), "the other replica lets more in");
    }
    // Other principals have their own quota.
    let head_office = clients("head-office")?;
    ensure!(!date(&head_office[0]).await?.is_tool_error(), "another principal is refused");

    // Keys contain no names.
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await?;
    ensure!(!keys.is_empty() && keys.iter().all(|key| key.starts_with("storefence:quota:{")), "{keys:?}");
    ensure!(!keys.iter().any(|key| key.contains("zava") || key.contains('-')), "{keys:?}");

    // One concurrent call for the whole tenant, whoever calls, on whichever replica.
    let slow = "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000) b";
    let tenant = json!({"requestsPerMinute": null, "concurrentCalls": 64, "tenantConcurrentCalls": 1, "statementTimeout": "30s"});
    set(&world, &[&one, &two], tenant).await?;
    let busy = seattle[1].clone();
    let calling = tokio::spawn(async move {
        // A call that has just ended may still count.
        while busy.call_tool("execute_sales_query", json!({"postgresql_query": slow})).await?.structured()["code"]
            == "RATE_LIMITED"
        {}
        anyhow::Ok(())
    });
    until("a second call of the tenant is refused", Duration::from_secs(10), || async {
        let answer = date(&head_office[0]).await?;
        let words = answer.structured()["message"].as_str().unwrap_or_default().contains("your tenant");
        Ok(answer.structured()["code"] == "RATE_LIMITED" && words)
    })
    .await?;
    ensure!(!date(&world.client_of(&one, "contoso-head-office")?).await?.is_tool_error(), "another tenant is refused");
    calling.abort();
    until("its place is free", Duration::from_secs(5), || async { Ok(!date(&head_office[0]).await?.is_tool_error()) })
        .await?;

    // One concurrent call: the other replica knows of the call, and a replica that dies does not hold the slot for
    // long.
    let single = json!({"requestsPerMinute": null, "concurrentCalls": 1, "tenantConcurrentCalls": null, "statementTimeout": "30s"});
    set(&world, &[&one, &two], single).await?;
    let busy = seattle[1].clone();
    let calling =
        tokio::spawn(async move { busy.call_tool("execute_sales_query", json!({"postgresql_query": slow})).await });
    let database = world.superuser().await?;
    until("the statement runs", Duration::from_secs(5), || async {
        Ok(database.query_one(ACTIVE, &[]).await?.get::<_, i64>(0) > 0)
    })
    .await?;
    let refused = date(&seattle[0]).await?;
    ensure!(refused.structured()["code"] == "RATE_LIMITED", "the other replica lets a second in: {}", refused.message);
    two.child.signal(Signal::Kill);
    calling.abort();
    // Nobody renews the lease; its expiry is brought forward here instead of waiting half a minute.
    ensure!(date(&seattle[0]).await?.is_tool_error(), "the dead replica's call is forgotten at once");
    for key in keys_of(&mut connection, "*:running").await? {
        let calls: Vec<(String, f64)> =
            redis::cmd("ZRANGE").arg(&key).arg("0").arg("-1").arg("WITHSCORES").query_async(&mut connection).await?;
        for (call, end) in calls {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_micros() as f64;
            ensure!(end - now < 31e6, "a lease of {} s", (end - now) / 1e6);
            redis::cmd("ZADD").arg(&key).arg(now).arg(call).exec_async(&mut connection).await?;
        }
    }
    ensure!(!date(&seattle[0]).await?.is_tool_error(), "a dead replica's call counts for ever");
    // A call that ended frees its slot at once.
    for _ in 0..5 {
        until("its place is free", Duration::from_secs(1), || async { Ok(!date(&seattle[0]).await?.is_tool_error()) })
            .await?;
    }

    // Redis goes away: the replica enforces the limit alone, and counts the calls that it accepted before.
    redis::cmd("FLUSHALL").exec_async(&mut connection).await?;
    set(&world, &[&one], json!({"requestsPerMinute": 2, "concurrentCalls": 64})).await?;
    let office = world.client_of(&one, "head-office")?;
    until_refused(&[&office], 4).await?;
    redis.stop().await?;
    let begun = Instant::now();
    ensure!(date(&office).await?.is_tool_error(), "who was refused with Redis is let in without");
    ensure!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    until("the circuit shows", Duration::from_secs(5), || async {
        date(&office).await?;
        Ok(world.metric(&one, "storefence_redis_away").await? > 0.0)
    })
    .await?;
    redis.start_again()?;
    until("it comes back", Duration::from_secs(15), || async {
        Ok(world.metric(&one, "storefence_redis_away").await? < 1.0)
    })
    .await?;
    ensure!(world.metric(&one, "storefence_redis_operations_total{outcome=\"ok\"}").await? > 0.0);
    for gateway in [&one, &two] {
        ensure!(!gateway.child.log_text().contains(PASSWORD), "the password of Redis is in the log");
    }
    restore(&world).await
}

/// The earlier limits; limits that they do not name are removed.
async fn restore(world: &World) -> Result<()> {
    let mut before = ZAVA.object()["spec"]["gateway"].clone();
    before["requestsPerMinute"] = Value::Null;
    before["concurrentCalls"] = Value::Null;
    world.patch_spec("zava", json!({"gateway": before})).await
}

async fn keys_of(connection: &mut redis::aio::MultiplexedConnection, pattern: &str) -> Result<Vec<String>> {
    Ok(redis::cmd("KEYS").arg(pattern).query_async(connection).await?)
}

/// A Redis that never answers, and one that does not exist: both gateways start at once, limits hold, nobody waits.
async fn away(world: Arc<World>) -> Result<()> {
    let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
    let (mute, gone) = (format!("redis://{}", silent.local_addr()?), format!("redis://127.0.0.1:{}", free_port()?));
    for (name, url) in [("redis-mute", mute), ("redis-gone", gone)] {
        let gateway = world.another_gateway(name, &["--redis-url", &url]).await?;
        set(&world, &[&gateway], json!({"requestsPerMinute": 5, "concurrentCalls": 64})).await?;
        let client = world.client_of(&gateway, "seattle-manager")?;
        let begun = Instant::now();
        let served = until_refused(&[&client], 8).await?;
        // One more call is available for each twelve seconds that the machine took.
        let spare = usize::try_from(begun.elapsed().as_secs() / 12)? + 1;
        ensure!((5..=5 + spare).contains(&served), "{name}: {served} calls");
        ensure!(begun.elapsed() < Duration::from_secs(15), "{name}: {:?}", begun.elapsed());
        ensure!(world.metric(&gateway, "storefence_redis_away").await? > 0.0, "{name}");
    }
    restore(&world).await
}
