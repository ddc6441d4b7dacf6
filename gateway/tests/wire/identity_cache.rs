//! Verified tokens that are remembered: which look-ups count as hits, and that the number is bounded.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use storefence_devstack::entra::with_altered_signature;

use crate::{
    Tests,
    identity::head_office,
    identity_keys::{ask, fresh},
    world::{Gateway, World},
};

pub fn tests(tests: &mut Tests) {
    tests.add("a_token_that_was_verified_is_a_hit_and_a_refused_one_never", hits);
    tests.add("remembered_tokens_are_bounded", bounded);
}

async fn counted(world: &World, gateway: &Gateway, outcome: &str) -> Result<f64> {
    world.metric(gateway, &format!("storefence_token_cache_total{{outcome=\"{outcome}\"}}")).await
}

/// Calls with each token, and returns the numbers of hits and misses.
async fn looked_up(world: &World, gateway: &Gateway, tokens: &[String], status: u16) -> Result<(f64, f64)> {
    let before = (counted(world, gateway, "hit").await?, counted(world, gateway, "miss").await?);
    for token in tokens {
        let answered = ask(world, gateway, token.clone()).await?;
        ensure!(answered == status, "{answered} where {status} is due");
    }
    Ok((counted(world, gateway, "hit").await? - before.0, counted(world, gateway, "miss").await? - before.1))
}

async fn hits(world: Arc<World>) -> Result<()> {
    let gateway = world.another_gateway("token-cache", &[]).await?;
    let (one, other) = (fresh(&world)?, fresh(&world)?);
    for (what, tokens, status, due) in [
        ("the first time", vec![one.clone()], 200, (0.0, 1.0)),
        ("again and again", vec![one.clone(); 7], 200, (7.0, 0.0)),
        ("another token of the same person", vec![other.clone(), one.clone(), other], 200, (2.0, 1.0)),
        // The same claims with a wrong signature are another token, and refusals are not remembered.
        ("a wrong signature", vec![with_altered_signature(&one); 3], 401, (0.0, 3.0)),
        ("after that", vec![one], 200, (1.0, 0.0)),
        ("expired", vec![world.entra.issue(&head_office()?.expires_in(-100))?; 2], 401, (0.0, 2.0)),
    ] {
        let seen = looked_up(&world, &gateway, &tokens, status).await?;
        ensure!(seen == due, "{what}: {seen:?} hits and misses, {due:?} are due");
    }
    Ok(())
}

async fn bounded(world: Arc<World>) -> Result<()> {
    const MOST: u32 = 100;
    const TOKENS: u32 = 600;
    let gateway = world.another_gateway("token-cache-small", &["--token-cache", &MOST.to_string()]).await?;
    let tokens: Vec<_> = (0..TOKENS).map(|_| fresh(&world)).collect::<Result<_>>()?;
    ensure!(looked_up(&world, &gateway, &tokens, 200).await? == (0.0, f64::from(TOKENS)), "all of them are new");
    // Excess entries are evicted by the next look-ups, not by the same one.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let last = vec![fresh(&world)?; 2];
    looked_up(&world, &gateway, &last, 200).await?;
    let (hits, misses) = looked_up(&world, &gateway, &tokens, 200).await?;
    ensure!(hits <= f64::from(MOST), "{hits} of {TOKENS} tokens were remembered, {MOST} may be");
    // Which of them stay is up to the cache, which weighs how often each was asked for.
    ensure!(hits >= f64::from(MOST) / 5.0, "{hits} hits: nothing is remembered once there is too much");
    ensure!(hits + misses == f64::from(TOKENS), "{hits} hits and {misses} misses");
    Ok(())
}
