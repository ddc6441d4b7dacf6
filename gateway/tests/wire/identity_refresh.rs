//! Signing keys are refreshed in the background, without a token of an unknown key.

use std::{process::Command, sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use storefence_devstack::entra::{
    Endpoint, Fault,
    principals::{CONTOSO_TENANT_ID, ZAVA_TENANT_ID},
};

use crate::{
    Tests,
    identity::head_office,
    identity_keys::{ask, fetches, fresh},
    world::{Gateway, World, until},
};

/// The shortest interval that the option accepts, and the text of its error.
const SHORTEST: (&str, f64, &str) = ("5", 5.0, "5..=86400");
/// Timeout for a few intervals.
const SOON: Duration = Duration::from_secs(60);

pub fn tests(tests: &mut Tests) {
    tests.add("a_refresh_that_is_too_frequent_or_too_rare_stops_the_start", bounds);
}

/// Runs after all others: the signing keys change.
pub fn last(tests: &mut Tests) {
    tests.add_destructive("keys_are_refreshed_without_a_token_and_kept_while_that_fails", refreshed);
}

async fn bounds(world: Arc<World>) -> Result<()> {
    let config = world.path("config.yaml");
    for (value, by_variable) in [("4", false), ("0", true), ("86401", false), ("hourly", true)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_storefence-gateway"));
        command.env_clear().args(["run", "--public-url", "http://localhost:1", "--audience", "x", "--scope", "x"]);
        command.arg("--config").arg(&config);
        match by_variable {
            true => command.env("STOREFENCE_JWKS_REFRESH", value),
            false => command.args(["--jwks-refresh", value]),
        };
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(2) && said.contains("--jwks-refresh"), "{value}: {output:?}");
        ensure!(value == "hourly" || said.contains(SHORTEST.2), "{value}: the bounds are not named: {said}");
    }
    Ok(())
}

/// Waits until every directory has been fetched twice more: when the second fetch begins, the result of the first is in
/// force.
async fn refreshed_since(world: &World) -> Result<()> {
    let asked = || [ZAVA_TENANT_ID, CONTOSO_TENANT_ID].map(|directory| world.entra.key_fetches(directory));
    let before = asked();
    until("the keys are fetched again, and once more", SOON, || async {
        Ok(asked().iter().zip(before).all(|(now, before)| *now >= before + 2))
    })
    .await
}

async fn age(world: &World, gateway: &Gateway) -> Result<f64> {
    world.metric(gateway, "storefence_jwks_age_seconds").await
}

async fn refreshed(world: Arc<World>) -> Result<()> {
    let gateway = world.another_gateway("refresh", &["--jwks-refresh", SHORTEST.0]).await?;
    let counted = async |cause: &str, outcome: &str| world.metric(&gateway, &fetches(cause, outcome)).await;
    let asked_for_a_token = async || -> Result<f64> {
        let outcomes = ["ok", "status", "unreachable", "unusable"];
        let mut sum = 0.0;
        for outcome in outcomes {
            sum += counted("unknown_key", outcome).await?;
        }
        Ok(sum)
    };
    let old = world.entra.issue(&head_office()?)?;
    ensure!(ask(&world, &gateway, old.clone()).await? == 200);
    let before = counted("refresh", "ok").await?;
    world.entra.rotate_keys()?;
    let new = world.entra.issue(&head_office()?)?;
    refreshed_since(&world).await?;
    ensure!(counted("refresh", "ok").await? >= before + 2.0, "the refresh is not counted");
    // The first token of the new key is accepted.
    ensure!(ask(&world, &gateway, new.clone()).await? == 200, "a token of the key that was added");
    ensure!(ask(&world, &gateway, old.clone()).await? == 200, "a token of the key that is still published");
    ensure!(asked_for_a_token().await? == 0.0, "the new key was fetched for its token");

    world.entra.retire_old_keys();
    refreshed_since(&world).await?;
    ensure!(asked_for_a_token().await? == 0.0);
    ensure!(ask(&world, &gateway, new).await? == 200, "a token of the key that stays");
    ensure!(ask(&world, &gateway, old).await? == 401, "a token of the key that was withdrawn");

    let nonsense = |body: &str| Fault::Body("application/json".to_owned(), body.to_owned());
    for (fault, outcome) in [
        (Fault::Status(503), "status"),
        (nonsense("<html>maintenance</html>"), "unusable"),
        // Well-formed but without a key: not a withdrawal of all keys.
        (nonsense("{\"keys\": []}"), "unusable"),
    ] {
        let failed = counted("refresh", outcome).await?;
        world.entra.set_fault(Endpoint::Keys, Some(fault));
        let outcome = async {
            until("refreshes fail", SOON, || async { Ok(counted("refresh", outcome).await? >= failed + 2.0) }).await?;
            ensure!(ask(&world, &gateway, fresh(&world)?).await? == 200, "{outcome}: a token of a known key");
            until("the keys are older than a pause", SOON, || async {
                Ok(age(&world, &gateway).await? > SHORTEST.1 + 1.0)
            })
            .await?;
            let first = age(&world, &gateway).await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let aged = age(&world, &gateway).await? - first;
            ensure!(aged >= 1.0, "{outcome}: {aged} s older after a second");
            ensure!(ask(&world, &gateway, fresh(&world)?).await? == 200, "{outcome}: a token of a known key, later");
            Ok(first)
        };
        let oldest = outcome.await;
        world.entra.set_fault(Endpoint::Keys, None);
        let oldest = oldest?;
        until("the keys are fresh again", SOON, || async { Ok(age(&world, &gateway).await? < oldest.min(SHORTEST.1)) })
            .await?;
    }
    Ok(())
}
