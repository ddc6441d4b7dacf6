//! Whose key counts: a directory's own.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use storefence_devstack::entra::{
    KeyIssuer, Signing, SigningKey, TokenRequest,
    principals::{self, CONTOSO_TENANT_ID, ZAVA_TENANT_ID},
};

use crate::{
    Tests,
    identity::head_office,
    identity_keys::ask,
    world::{Gateway, World},
};

pub fn tests(tests: &mut Tests) {
    tests.add("one_key_id_in_two_directories_is_two_keys", same_key_id);
}

fn contoso() -> Result<TokenRequest> {
    Ok(TokenRequest::principal(principals::find("contoso-head-office").context("known")?))
}

async fn rejected(world: &World, gateway: &Gateway, reason: &str) -> Result<f64> {
    let name = format!("storefence_token_verifications_total{{outcome=\"rejected\",reason=\"{reason}\"}}");
    world.metric(gateway, &name).await
}

/// Refused, by the check that is meant to refuse it and by no other.
async fn refused(world: &World, gateway: &Gateway, what: &str, reason: &str, token: String) -> Result<()> {
    let before = rejected(world, gateway, reason).await?;
    let status = ask(world, gateway, token).await?;
    ensure!(status == 401, "{what}: {status}");
    ensure!(rejected(world, gateway, reason).await? == before + 1.0, "{what}: not for '{reason}'");
    Ok(())
}

/// Both keys are published for every directory's issuer, so nothing but the directory tells them apart.
async fn same_key_id(world: Arc<World>) -> Result<()> {
    let key = || Ok::<_, anyhow::Error>(Arc::new(SigningKey::generate(Some("one-and-the-same"), KeyIssuer::Template)?));
    let (of_zava, of_contoso) = (key()?, key()?);
    world.entra.add_tenant_key(ZAVA_TENANT_ID, of_zava.clone());
    world.entra.add_tenant_key(CONTOSO_TENANT_ID, of_contoso.clone());
    // Its first fetch finds them.
    let gateway = world.another_gateway("key-ids", &[]).await;
    for directory in [ZAVA_TENANT_ID, CONTOSO_TENANT_ID] {
        world.entra.remove_tenant_keys(directory);
    }
    let gateway = gateway?;
    let issue =
        |request: TokenRequest, key: &Arc<SigningKey>| world.entra.issue(&request.signing(Signing::Key(key.clone())));
    ensure!(ask(&world, &gateway, issue(head_office()?, &of_zava)?).await? == 200, "zava's token by zava's key");
    ensure!(ask(&world, &gateway, issue(contoso()?, &of_contoso)?).await? == 200, "contoso's token by contoso's key");
    let crossed = issue(head_office()?, &of_contoso)?;
    refused(&world, &gateway, "zava's token by contoso's key", "signature", crossed).await?;
    let crossed = issue(contoso()?, &of_zava)?;
    refused(&world, &gateway, "contoso's token by zava's key", "signature", crossed).await
}
