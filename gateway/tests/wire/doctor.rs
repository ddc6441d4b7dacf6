//! `storefence-gateway doctor` and `/readyz?verbose`: each part is broken in turn, and its line reports it.

use std::{process::Output, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use storefence_devstack::{
    embeddings::{EmbeddingsApi, EmbeddingsOptions, Model},
    entra::principals,
    key_vault::Permissions,
    postgres::SslMode,
};
use storefence_tenancy::credentials::{Slot, database_secret_name};
use storefence_tests::skip;

use crate::{
    Tests,
    quota_shared::RedisServer,
    world::{World, ZAVA, free_port},
};

pub fn tests(tests: &mut Tests) {
    tests.add("the_doctor_finds_embeddings_and_redis_well", around);
    tests.add("the_doctor_names_what_is_broken_and_what_to_do", doctor);
    tests.add("readyz_verbose_tells_what_the_doctor_finds", verbose);
}

/// Runs the doctor with the options of the tests' gateway, and more.
async fn examine(world: &World, config: &str, more: &[&str]) -> Result<(i32, String)> {
    let (entra, client) = (world.entra.url().to_owned(), world.credentials());
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_storefence-gateway"));
    command
        .arg("doctor")
        .arg("--config")
        .arg(world.path(config))
        .args(["--public-url", "http://localhost:1", "--audience", principals::AUDIENCE, "--scope", "x"])
        .args(["--azure-authority-host", &entra, "--credential", "client-secret"])
        .args(["--azure-tenant-id", &client.tenant_id, "--azure-client-id", &client.client_id])
        .arg("--ca-file")
        .arg(world.path("ca.pem"))
        .env("AZURE_CLIENT_SECRET", client.secret.as_deref().unwrap_or_default())
        .env("KUBECONFIG", world.path("kubeconfig"))
        .env("RUST_LOG", "error");
    if !more.contains(&"--authority") {
        command.args(["--authority", &entra]);
    }
    command.args(more);
    let Output { status, stdout, stderr } = tokio::task::spawn_blocking(move || command.output()).await??;
    let text = String::from_utf8(stdout)?;
    ensure!(!text.is_empty(), "{}", String::from_utf8_lossy(&stderr));
    ensure!(!text.contains("hunter2"), "a password stands in {text}");
    Ok((status.code().unwrap_or(-1), text))
}

/// The line of a check begins with this verdict and contains these words; this check alone decides the exit code.
fn line(text: &str, verdict: &str, check: &str, words: &[&str]) -> Result<()> {
    let wanted = format!("{verdict:<5} {check}");
    let line =
        text.lines().find(|line| line.starts_with(&wanted)).with_context(|| format!("no {wanted:?} in {text}"))?;
    ensure!(words.iter().all(|word| line.contains(word)), "{words:?} in {line}");
    ensure!((verdict == "FAIL") == line.contains(" -> "), "a remedy where something fails, and only there: {line}");
    Ok(())
}

async fn doctor(world: Arc<World>) -> Result<()> {
    let (code, text) = examine(&world, "config.yaml", &[]).await?;
    ensure!(code == 0 && !text.contains("FAIL"), "{text}");
    for (check, words) in [
        ("tenants", &["2 served"][..]),
        ("authority", &["2 directories"]),
        ("key-vault", &["main", "contoso"]),
        ("database", &["retail"]),
        ("fence", &["2 stores"]),
    ] {
        line(&text, "ok", check, words)?;
    }
    line(&text, "skip", "embeddings", &["not configured"])?;
    line(&text, "skip", "redis", &["--redis-url"])?;
    line(&text, "skip", "memory", &["retail", "GB to plan", "vm.overcommit_memory", "operations.md"])?;
    ensure!(text.lines().count() == 8, "one line each: {text}");

    let fails = async |config: &str, more: &[&str], check: &str, words: &[&str]| -> Result<String> {
        let (code, text) = examine(&world, config, more).await?;
        ensure!(code == 1, "{check}: exit code {code}: {text}");
        line(&text, "FAIL", check, words)?;
        ensure!(text.lines().filter(|line| line.starts_with("FAIL")).count() == 1, "only {check} is broken: {text}");
        Ok(text)
    };

    // No authority at that address; the vault's address is a separate option.
    let nowhere = format!("https://127.0.0.1:{}", free_port()?);
    fails("config.yaml", &["--authority", &nowhere], "authority", &["2 of 2", "--authority"]).await?;

    // The vault does not let the identity read secrets.
    world.vault.allow(&world.credentials().object_id, Permissions::only(&[]));
    let text = fails("config.yaml", &[], "key-vault", &["sf-contoso", "Key Vault Secrets User"]).await;
    world.vault.allow(&world.credentials().object_id, Permissions::user());
    let text = text?;
    line(&text, "skip", "database", &["no credentials"])?;
    line(&text, "skip", "fence", &["no credentials"])?;

    // The database has another password.
    let contoso = &crate::world::CONTOSO;
    let secret = database_secret_name(&contoso.tenant_id(), Slot::A);
    let login = world.login_name(contoso, Slot::A).await?;
    let uri = |port: Option<u16>| match port {
        None => {
            let uri = world.cluster.url(&login, "another-word", &world.database.name, SslMode::VerifyFull);
            uri.split("&sslrootcert").next().unwrap_or_default().to_owned()
        }
        Some(port) => format!("postgresql://{login}:another-word@127.0.0.1:{port}/retail?sslmode=verify-full"),
    };
    let good = format!("hunter2-{}-{}", Slot::A, contoso.id);
    world.vault.put(&secret, &uri(None), &[]);
    let refused = fails("config.yaml", &[], "database", &["28P01", "retail.storefence.dev/rotate"]).await;
    // Nothing listens there.
    world.vault.put(&secret, &uri(Some(free_port()?)), &[]);
    let unreachable = fails("config.yaml", &[], "database", &["is the server up"]).await;
    world.login(contoso, Slot::A, &good).await?;
    refused?;
    line(&unreachable?, "skip", "fence", &["no connection"])?;

    // The fence turns the tenant away.
    let superuser = world.superuser().await?;
    superuser.batch_execute("UPDATE fence.tenants SET enabled = false WHERE tenant_id = 'contoso'").await?;
    let shut = fails("config.yaml", &[], "fence", &["store context invalid"]).await;
    superuser.batch_execute("UPDATE fence.tenants SET enabled = true WHERE tenant_id = 'contoso'").await?;
    shut?;
    // A login that can bypass the fence.
    let stores = "retail.stores";
    superuser.batch_execute(&format!("GRANT SELECT ON {stores} TO fence_login")).await?;
    let round = fails("config.yaml", &[], "fence", &["without the fence", "storefence-operator verify"]).await;
    superuser.batch_execute(&format!("REVOKE SELECT ON {stores} FROM fence_login")).await?;
    round?;

    // Embeddings and Redis are configured but do not exist.
    let config = std::fs::read_to_string(world.path("config.yaml"))?;
    let embeddings = format!("embeddings: {{provider: openAI, endpoint: '{nowhere}', model: m}}\n");
    std::fs::write(world.path("config-embeddings.yaml"), config + &embeddings)?;
    fails("config-embeddings.yaml", &[], "embeddings", &["embeddings.endpoint"]).await?;
    let redis = format!("redis://:hunter2@127.0.0.1:{}", free_port()?);
    fails("config.yaml", &["--redis-url", &redis], "redis", &["--redis-url"]).await?;

    // No tenants, no cluster.
    let empty = world.path("no-tenants");
    std::fs::create_dir_all(&empty)?;
    let empty = empty.to_str().context("a path")?.to_owned();
    let text = fails("config.yaml", &["--tenants", &empty], "tenants", &["no RetailTenant is served"]).await?;
    line(&text, "skip", "database", &[])?;
    Ok(())
}

/// What a gateway can run without, and what this one has.
async fn around(world: Arc<World>) -> Result<()> {
    let model = tokio::task::spawn_blocking(|| Model::shared(&|line| println!("{line}"))).await??;
    let api = EmbeddingsApi::start(&world.authority, &world.entra, model, EmbeddingsOptions::default()).await?;
    std::fs::write(world.path("embeddings-key"), api.api_key())?;
    let config = std::fs::read_to_string(world.path("config.yaml"))?;
    let embeddings = format!(
        "embeddings: {{provider: azureOpenAI, endpoint: '{}', deployment: {}, apiKeyFile: embeddings-key}}\n",
        api.url(),
        api.deployment()
    );
    std::fs::write(world.path("config-well.yaml"), config + &embeddings)?;
    let redis = RedisServer::start(&world).await?;
    let url = redis.as_ref().map(RedisServer::url);
    let more: Vec<&str> = url.iter().flat_map(|url| ["--redis-url", url.as_str()]).collect();
    let mut examined = examine(&world, "config-well.yaml", &more).await?;
    // The server may take a moment to listen.
    for _ in 0..100 {
        if examined.0 == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        examined = examine(&world, "config-well.yaml", &more).await?;
    }
    let (code, text) = examined;
    ensure!(code == 0 && !text.contains("FAIL"), "{text}");
    line(&text, "ok", "embeddings", &[api.deployment()])?;
    match redis {
        Some(_) => line(&text, "ok", "redis", &[])?,
        None => return skip("no redis-server: its line was not seen"),
    }
    ensure!(api.calls() > 0, "the provider was not asked");
    Ok(())
}

async fn verbose(world: Arc<World>) -> Result<()> {
    let gateway = world.another_gateway("doctor", &[]).await?;
    let read = async |query: &str| -> Result<(u16, String)> {
        let answer = world.http.get(format!("{}/readyz{query}", gateway.admin)).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    };
    ensure!(read("").await? == (200, "ok\n".to_owned()), "the plain form is as before");
    let (status, text) = read("?verbose").await?;
    ensure!(status == 200 && text.starts_with("ok\n"), "{text}");
    for check in ["tenants", "authority", "key-vault", "database", "fence"] {
        line(&text, "ok", check, &[])?;
    }
    // Probes may be frequent; the checks run only now and then.
    let reads = world.metric(&gateway, "storefence_secret_reads_total{outcome=\"ok\"}").await?;
    for _ in 0..5 {
        read("?verbose").await?;
    }
    ensure!(world.metric(&gateway, "storefence_secret_reads_total{outcome=\"ok\"}").await? <= reads);

    // Findings do not change readiness: the other tenant is served.
    let gateway = world.another_gateway("doctor-shut", &[]).await?;
    let superuser = world.superuser().await?;
    superuser.batch_execute("UPDATE fence.tenants SET enabled = false WHERE tenant_id = 'contoso'").await?;
    let answer = world.http.get(format!("{}/readyz?verbose", gateway.admin)).send().await;
    superuser.batch_execute("UPDATE fence.tenants SET enabled = true WHERE tenant_id = 'contoso'").await?;
    let answer = answer?;
    ensure!(answer.status() == 200, "{}", answer.status());
    line(&answer.text().await?, "FAIL", "fence", &["store context invalid"])?;
    let zava = world.client_of(&gateway, "seattle-manager")?;
    let orders =
        zava.call_tool("execute_sales_query", json!({"postgresql_query": "SELECT count(*) FROM retail.orders"}));
    ensure!(orders.await?.structured()["rows"] == json!([[ZAVA.stores[0].2]]));
    Ok(())
}
