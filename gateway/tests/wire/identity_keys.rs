//! Signing keys: rolled, withdrawn, requested with invented key ids, and with an unavailable authority.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use kube::api::{DeleteParams, DynamicObject, PostParams};
use serde_json::json;
use storefence_devstack::{
    entra::{Endpoint, Fault, KeyIssuer, Signing, SigningKey, principals::ZAVA_TENANT_ID},
    mcp_client::{McpClient, Revision},
};
use storefence_tenancy::credentials::Slot;

use crate::{
    Tests,
    identity::head_office,
    world::{Gateway, World, ZAVA, until},
};

/// Concurrent clients of the flood.
const WORKERS: u32 = 16;
/// Timeout for the gateway's background work.
const SOON: Duration = Duration::from_secs(30);

pub fn tests(tests: &mut Tests) {
    tests.add("a_flood_of_unknown_keys_causes_one_fetch", flood);
    tests.add("a_tenant_of_a_new_directory_leaves_the_gateway_ready", new_directory);
}

/// Runs after all others: the signing keys change, and a gateway that has just fetched for an unknown key does not
/// fetch again for five minutes.
pub fn last(tests: &mut Tests) {
    tests.add_destructive("an_authority_that_is_away_leaves_known_keys_good", away);
    tests.add_destructive("a_client_that_goes_away_does_not_take_the_fetch_along", gone);
    tests.add_destructive("a_fetch_that_failed_is_repeated_soon", repeated);
    tests.add_destructive("a_key_that_is_rolled_and_one_that_is_withdrawn", rolled);
}

pub fn client(world: &World, gateway: &Gateway, token: String) -> McpClient {
    McpClient::new(world.http.clone(), format!("{}/mcp", gateway.url), Some(token), Revision::V2026_07_28)
}

pub async fn ask(world: &World, gateway: &Gateway, token: String) -> Result<u16> {
    Ok(client(world, gateway, token).send("tools/list", json!({})).await?.status.as_u16())
}

/// A token that no gateway has seen, with a key that all know.
pub fn fresh(world: &World) -> Result<String> {
    Ok(world.entra.issue(&head_office()?.claim("uti", json!(rand::random::<u64>().to_string())))?)
}

pub fn fetches(cause: &str, outcome: &str) -> String {
    format!("storefence_jwks_fetches_total{{cause=\"{cause}\",outcome=\"{outcome}\"}}")
}

async fn flood(world: Arc<World>) -> Result<()> {
    let gateway = world.another_gateway("flood", &[]).await?;
    let before = world.entra.key_fetches(ZAVA_TENANT_ID);
    let token = world.entra.issue(&head_office()?)?;
    let (_, rest) = token.split_once('.').context("a token")?;
    let encode = |text: String| {
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
        URL_SAFE_NO_PAD.encode(text)
    };
    let known = client(&world, &gateway, token.clone());
    let flood = |kids: Range<u32>| {
        let mut workers = tokio::task::JoinSet::new();
        for worker in 0..WORKERS {
            let (http, url, rest) = (world.http.clone(), format!("{}/mcp", gateway.url), rest.to_owned());
            let kids: Vec<_> = kids.clone().filter(|kid| kid % WORKERS == worker).collect();
            workers.spawn(async move {
                for kid in kids {
                    let header =
                        json!({"alg": "RS256", "typ": "JWT", "kid": format!("k{kid}-{}", rand::random::<u64>())});
                    let request = http.post(&url).bearer_auth(format!("{}.{rest}", encode(header.to_string())));
                    let status = request.json(&json!({})).send().await?.status();
                    ensure!(status == 401, "{status}");
                }
                Ok(())
            });
        }
        workers
    };
    let finish = async |mut workers: tokio::task::JoinSet<Result<()>>| -> Result<()> {
        while let Some(done) = workers.join_next().await {
            done??;
        }
        Ok(())
    };
    world.entra.set_fault(Endpoint::Keys, Some(Fault::Slow(Duration::from_millis(500))));
    let first = flood(0..1_000);
    // A token with a known key is not delayed by the fetch for the others.
    let started = Instant::now();
    let answer = known.send("tools/list", json!({})).await?;
    let took = started.elapsed();
    finish(first).await?;
    world.entra.set_fault(Endpoint::Keys, None);
    ensure!(answer.status == 200 && took < Duration::from_millis(400), "{} after {took:?}", answer.status);
    // Nothing of a token is kept: nine thousand more would take above 10 MiB.
    let resident = world.metric(&gateway, "process_resident_memory_bytes").await?;
    finish(flood(1_000..10_000)).await?;
    let grown = world.metric(&gateway, "process_resident_memory_bytes").await? - resident;
    ensure!(resident > 0.0 && grown < 6e6, "{grown} bytes more than {resident}");
    let fetches = world.entra.key_fetches(ZAVA_TENANT_ID) - before;
    ensure!(fetches == 1, "{fetches} fetches");
    Ok(())
}

/// Readiness is about the start, not about directories added later: all replicas would go out of service at once.
async fn new_directory(world: Arc<World>) -> Result<()> {
    const DIRECTORY: &str = "55555555-5555-4555-8555-555555555555";
    let api = world.tenants().await?;
    let mut object = ZAVA.object();
    object["metadata"]["name"] = json!("elsewhere");
    object["spec"]["tenantId"] = json!("elsewhere");
    object["spec"]["entra"]["tenantId"] = json!(DIRECTORY);
    object["spec"]["stores"] = json!([{"name": "Elsewhere", "id": "0d000000-0000-4000-8000-000000000001"}]);
    object["spec"]["principals"] = json!([{"name": "all", "role": "HeadOffice", "appRole": "x"}]);
    let object: DynamicObject = serde_json::from_value(object)?;
    world.entra.set_fault(Endpoint::Keys, Some(Fault::Hang));
    api.create(&PostParams::default(), &object).await?;
    world.set_credentials("elsewhere", Slot::A, 1).await?;
    until("its keys are asked for", SOON, || async { Ok(world.entra.key_fetches(DIRECTORY) >= 1) }).await?;
    let ready = world.http.get(format!("{}/readyz", world.gateway.admin)).send().await?;
    let (status, text) = (ready.status(), ready.text().await?);
    world.entra.set_fault(Endpoint::Keys, None);
    api.delete("elsewhere", &DeleteParams::default()).await?;
    ensure!(status == 200, "{status} {text}");
    Ok(())
}

/// Each fault meets a gateway that may still fetch for an unknown key.
async fn away(world: Arc<World>) -> Result<()> {
    let nonsense = Fault::Body("application/json".to_owned(), "{\"keys\": \"nonsense\"}".to_owned());
    for (name, fault, outcome) in [
        ("status", Fault::Status(503), "status"),
        ("nonsense", nonsense, "unusable"),
        ("hang", Fault::Hang, "unreachable"),
    ] {
        let gateway = world.another_gateway(&format!("authority-{name}"), &[]).await?;
        let unpublished = Arc::new(SigningKey::generate(None, KeyIssuer::Template)?);
        let unknown = world.entra.issue(&head_office()?.signing(Signing::Key(unpublished)))?;
        let before = world.entra.key_fetches(ZAVA_TENANT_ID);
        world.entra.set_fault(Endpoint::Keys, Some(fault));
        let asking = client(&world, &gateway, unknown);
        let asking = tokio::spawn(async move { asking.send("tools/list", json!({})).await });
        let asked = || async { Ok(world.entra.key_fetches(ZAVA_TENANT_ID) > before) };
        until("the authority is asked", SOON, asked).await?;
        // While the fetch hangs.
        let status = ask(&world, &gateway, fresh(&world)?).await?;
        ensure!(status == 200, "{name}: {status} for a key that is known");
        ensure!(name != "hang" || !asking.is_finished(), "a token with a known key waited for the authority");
        ensure!(asking.await??.status == 401, "{name}: an unknown key");
        let failed = world.metric(&gateway, &fetches("unknown_key", outcome)).await?;
        ensure!(failed == 1.0, "{name}: {failed} fetches with the outcome {outcome}");
        let status = ask(&world, &gateway, fresh(&world)?).await?;
        world.entra.set_fault(Endpoint::Keys, None);
        ensure!(status == 200, "{name}: {status} after the fetch that failed");
    }
    Ok(())
}

/// Anyone can send a token with an unknown key and hang up; callers with a new key must not suffer from it.
async fn gone(world: Arc<World>) -> Result<()> {
    let gateway = world.another_gateway("gone", &[]).await?;
    let before = world.entra.key_fetches(ZAVA_TENANT_ID);
    world.entra.set_fault(Endpoint::Keys, Some(Fault::Slow(Duration::from_secs(2))));
    world.entra.rotate_keys()?;
    let token = world.entra.issue(&head_office()?)?;
    let leaving = client(&world, &gateway, token.clone());
    let leaving = tokio::spawn(async move { leaving.send("tools/list", json!({})).await });
    until("the keys are asked for", SOON, || async { Ok(world.entra.key_fetches(ZAVA_TENANT_ID) > before) }).await?;
    leaving.abort();
    ensure!(leaving.await.is_err(), "the answer came before the client was gone");
    until("the fetch ends", SOON, || async { Ok(world.metric(&gateway, &fetches("unknown_key", "ok")).await? == 1.0) })
        .await?;
    world.entra.set_fault(Endpoint::Keys, None);
    let status = ask(&world, &gateway, token).await?;
    ensure!(status == 200, "a token of the new key: {status}");
    Ok(())
}

/// The only fetch within five minutes failed: the background task retries soon instead of after an hour.
async fn repeated(world: Arc<World>) -> Result<()> {
    let gateway = world.another_gateway("repeated", &[]).await?;
    world.entra.set_fault(Endpoint::Keys, Some(Fault::Status(503)));
    world.entra.rotate_keys()?;
    let token = world.entra.issue(&head_office()?)?;
    let refused = ask(&world, &gateway, token.clone()).await?;
    world.entra.set_fault(Endpoint::Keys, None);
    ensure!(refused == 401, "{refused}");
    until("the new key is there", SOON, || async { Ok(ask(&world, &gateway, token.clone()).await? == 200) }).await?;
    let more = world.metric(&gateway, &fetches("unknown_key", "ok")).await?;
    ensure!(more == 0.0, "not by another fetch for the unknown key");
    Ok(())
}

async fn rolled(world: Arc<World>) -> Result<()> {
    let gateway = world.another_gateway("rolled", &[]).await?;
    let old = world.entra.issue(&head_office()?)?;
    ensure!(ask(&world, &gateway, old.clone()).await? == 200);
    world.entra.rotate_keys()?;
    let new = world.entra.issue(&head_office()?)?;
    ensure!(ask(&world, &gateway, new).await? == 200, "a token of the new key");
    ensure!(ask(&world, &gateway, old.clone()).await? == 200, "a token of the old key, still published");
    // A gateway that may still fetch learns that the old key is withdrawn, and forgets the tokens that it signed.
    let gateway = world.another_gateway("withdrawn", &[]).await?;
    ensure!(ask(&world, &gateway, old.clone()).await? == 200 && ask(&world, &gateway, old.clone()).await? == 200);
    world.entra.rotate_keys()?;
    world.entra.retire_old_keys();
    let new = world.entra.issue(&head_office()?)?;
    ensure!(ask(&world, &gateway, new).await? == 200, "a token of the newest key");
    ensure!(ask(&world, &gateway, old).await? == 401, "remembered under a key that is withdrawn");
    Ok(())
}
