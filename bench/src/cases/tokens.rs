//! Verifying tokens: 10,000 different ones, then the same again. In this process, with the gateway's own code: a whole
//! call would hide the difference.

use std::{sync::Arc, time::Instant};

use anyhow::{Context, Result};
use storefence_devstack::entra::{TokenRequest, principals};
use storefence_gateway::{
    identity::{Identity, TokenSettings, authority::Authority, jwks::KeyStore},
    metrics::Metrics,
};

use super::Settings;
use crate::{
    load::Caller,
    report::{Aim, Report, Row},
    wire::{Wire, tool_call},
    world::World,
};

const TOKENS: usize = 10_000;

pub async fn run(world: &World, settings: Settings, report: &mut Report) -> Result<()> {
    println!("issuing {TOKENS} tokens");
    let principal = principals::find("seattle-manager").context("no such principal")?;
    let issue = |n: usize| {
        let request =
            TokenRequest::principal(principal).claim("uti", serde_json::json!(format!("bench-{n}"))).expires_in(7200);
        world.stack.entra().issue(&request)
    };
    let tokens = tokio::task::block_in_place(|| (0..TOKENS).map(issue).collect::<Result<Vec<_>, _>>())?;

    let authority = Authority::new(&world.stack.facts().issuer_url.parse()?, None);
    let token_settings = TokenSettings {
        audiences: vec![world.stack.facts().audience.clone()],
        scopes: vec![format!("{}/{}", principals::APPLICATION_ID_URI, principals::SCOPE)],
        authority: authority.clone(),
    };
    let directory = principals::ZAVA_TENANT_ID.parse()?;
    let mut rounds = Vec::new();
    for _ in 0..settings.rounds {
        let metrics = Arc::new(Metrics::new()?);
        let keys = Arc::new(KeyStore::new(authority.clone(), world.stack.http().clone(), metrics.clone()));
        keys.keep(&[directory]);
        let fetching = tokio::spawn({
            let keys = keys.clone();
            async move { keys.keep_fresh().await }
        });
        while !keys.is_ready(&[directory]) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let identity = Identity::new(&token_settings, keys, &metrics);
        let mut seconds = [0.0; 2];
        for pass in &mut seconds {
            let begun = Instant::now();
            for token in &tokens {
                identity.verify(token, |_| true).await.map_err(|reject| anyhow::anyhow!("rejected: {reject}"))?;
            }
            *pass = begun.elapsed().as_secs_f64() * 1e6 / TOKENS as f64;
        }
        fetching.abort();
        rounds.push((seconds[0], seconds[1]));
    }
    let what = format!("{TOKENS} tokens verified, each for the first time");
    report.add(Row::ratio("tokens.cold", &what, "the same tokens again", "µs", Aim::AtLeast(20.0), &rounds));

    // What that means for a call.
    let requests =
        tokens.iter().map(|token| tool_call(world.url(), token, "get_current_utc_date", serde_json::json!({})));
    let requests: Arc<[_]> = requests.collect::<Result<Vec<_>>>()?.into();
    let mut callers =
        vec![EachOnce { wire: Wire::connect(world.url(), requests[0].clone()).await?, requests, next: 0 }];
    let mut cpu = Vec::new();
    for _ in 0..2 {
        let (micros, load, back) = round_of(world.gateway_pid(), callers).await?;
        callers = back;
        anyhow::ensure!(load as usize == TOKENS);
        cpu.push(micros);
    }
    report.add(Row::ratio(
        "tokens.call",
        "date tool with a new token, CPU per call",
        "with a token seen before",
        "µs",
        Aim::Smaller,
        &[(cpu[0], cpu[1])],
    ));
    Ok(())
}

async fn round_of(pid: u32, callers: Vec<EachOnce>) -> Result<(f64, u64, Vec<EachOnce>)> {
    // The caller ends the round by itself: its last call leaves no time.
    let before = crate::process::cpu(pid);
    let mut callers = callers;
    let mut calls = 0;
    for caller in &mut callers {
        for _ in 0..TOKENS {
            caller.call().await?;
            calls += 1;
        }
    }
    let cpu = crate::process::cpu(pid).saturating_sub(before);
    Ok((cpu.as_secs_f64() * 1e6 / calls as f64, calls, callers))
}

/// One connection that sends each request in turn.
struct EachOnce {
    wire: Wire,
    requests: Arc<[Arc<[u8]>]>,
    next: usize,
}

impl Caller for EachOnce {
    async fn call(&mut self) -> Result<()> {
        self.wire.set(self.requests[self.next % self.requests.len()].clone());
        self.next += 1;
        self.wire.call().await
    }
}
