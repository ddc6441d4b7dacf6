//! Everything that must be refused (`docs/security.md`, Entra ID tokens), one token each, over the wire; and again with
//! every option that affects identity at the laxest value that it accepts.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use storefence_devstack::entra::{
    KeyIssuer, Signing, SigningKey, TokenRequest,
    principals::{AUDIENCE, CONTOSO_TENANT_ID, ZAVA_TENANT_ID},
    with_altered_signature,
};

use crate::{
    Tests,
    identity::head_office,
    identity_keys::{ask, client},
    world::{Gateway, World},
};

const CONSUMERS: &str = "9188040d-6c67-4c5b-b112-36a304b66dad";

pub fn tests(tests: &mut Tests) {
    tests.add("refused_by_header_and_signature", async |world| by_header(&world, &world.gateway).await);
    tests.add("refused_by_claims", async |world| by_claims(&world, &world.gateway).await);
    tests.add("refused_by_form", async |world| by_form(&world, &world.gateway).await);
    tests.add("refused_for_the_issuer_of_its_key", key_issuer);
    tests.add("refused_whatever_the_options", laxest);
}

/// Refused by the intended check and by no other.
async fn refused(world: &World, gateway: &Gateway, name: &str, reason: &str, token: String) -> Result<()> {
    let metric = format!("storefence_token_verifications_total{{outcome=\"rejected\",reason=\"{reason}\"}}");
    let before = world.metric(gateway, &metric).await?;
    let answer = client(world, gateway, token).send("tools/list", json!({})).await?;
    let (status, body) = (answer.status, answer.message);
    ensure!(status == 401 && body["error"] == "invalid_token", "{name}: {status} {body}");
    ensure!(body["message"] == "The access token is not accepted", "{name} tells why: {body}");
    let counted = world.metric(gateway, &metric).await? - before;
    ensure!(counted == 1.0, "{name} is not refused for '{reason}'");
    Ok(())
}

async fn by_header(world: &World, gateway: &Gateway) -> Result<()> {
    let unpublished = Arc::new(SigningKey::generate(None, KeyIssuer::Template)?);
    let same_kid = world.entra.current_key(ZAVA_TENANT_ID)?;
    let imposter = Arc::new(SigningKey::generate(Some(same_kid.kid()), KeyIssuer::Template)?);
    let long = "k".repeat(4000);
    for (name, reason, request) in [
        ("alg none", "algorithm", head_office()?.signing(Signing::None)),
        ("alg None", "algorithm", head_office()?.signing(Signing::None).header("alg", json!("None"))),
        ("alg NONE with a signature", "algorithm", head_office()?.header("alg", json!("NONE"))),
        ("HS256 with the public key", "algorithm", head_office()?.signing(Signing::HmacWithPublicKey)),
        (
            "HS256 relabelled RS256",
            "signature",
            head_office()?.signing(Signing::HmacWithPublicKey).header("alg", json!("RS256")),
        ),
        ("HS256 with a guess", "algorithm", head_office()?.signing(Signing::Hmac(b"secret".to_vec()))),
        ("RS384", "algorithm", head_office()?.signing(Signing::Algorithm(Algorithm::RS384))),
        ("RS512", "algorithm", head_office()?.signing(Signing::Algorithm(Algorithm::RS512))),
        ("PS256", "algorithm", head_office()?.signing(Signing::Algorithm(Algorithm::PS256))),
        ("no alg", "algorithm", head_office()?.header("alg", Value::Null)),
        ("no kid", "key_id", head_office()?.header("kid", Value::Null)),
        ("kid with a path", "key_id", head_office()?.header("kid", json!("../../../etc/passwd"))),
        ("kid with SQL", "key_id", head_office()?.header("kid", json!("' OR '1'='1"))),
        ("long kid", "key_id", head_office()?.header("kid", json!(long))),
        ("kid that is no text", "key_id", head_office()?.header("kid", json!(["a"]))),
        ("crit", "header_field", head_office()?.header("crit", json!(["exp"]))),
        (
            "embedded jwk",
            "header_field",
            head_office()?.signing(Signing::Key(unpublished.clone())).header("jwk", unpublished.jwk()),
        ),
        ("jku", "header_field", head_office()?.header("jku", json!("https://evil.example/keys"))),
        ("x5u", "header_field", head_office()?.header("x5u", json!("https://evil.example/cert"))),
        ("x5c", "header_field", head_office()?.header("x5c", json!(["AAAA"]))),
        ("typ JWE", "type", head_office()?.header("typ", json!("JWE"))),
        ("unknown key", "unknown_key", head_office()?.signing(Signing::Key(unpublished))),
        ("another key under a known kid", "signature", head_office()?.signing(Signing::Key(imposter))),
    ] {
        refused(world, gateway, name, reason, world.entra.issue(&request)?).await?;
    }
    Ok(())
}

async fn by_claims(world: &World, gateway: &Gateway) -> Result<()> {
    let now = jiff::Timestamp::now().as_second();
    let v2 = |tid: &str| format!("{}/{tid}/v2.0", world.entra.url());
    for (name, reason, request) in [
        ("aud Graph", "audience", head_office()?.claim("aud", json!("00000003-0000-0000-c000-000000000000"))),
        ("aud ARM", "audience", head_office()?.claim("aud", json!("https://management.azure.com"))),
        ("aud of a sibling", "audience", head_office()?.claim("aud", json!("api://storefence-other"))),
        ("aud with our prefix", "audience", head_office()?.claim("aud", json!("api://storefence/"))),
        ("aud array without ours", "audience", head_office()?.claim("aud", json!(["a", "b"]))),
        ("aud array of mixed types", "audience", head_office()?.claim("aud", json!([AUDIENCE, 1]))),
        ("no aud", "audience", head_office()?.claim("aud", Value::Null)),
        (
            "unknown tid",
            "directory",
            head_office()?
                .claim("tid", json!("11111111-1111-4111-8111-111111111111"))
                .claim("iss", json!(v2("11111111-1111-4111-8111-111111111111"))),
        ),
        ("tid not of iss", "issuer", head_office()?.claim("tid", json!(CONTOSO_TENANT_ID))),
        ("iss not of tid", "issuer", head_office()?.claim("iss", json!(v2(CONTOSO_TENANT_ID)))),
        ("no tid", "tenant", head_office()?.claim("tid", Value::Null)),
        ("consumers", "tenant", head_office()?.claim("tid", json!(CONSUMERS)).claim("iss", json!(v2(CONSUMERS)))),
        ("v1 issuer with ver 2.0", "issuer", head_office()?.v1().claim("ver", json!("2.0"))),
        ("v2 issuer with ver 1.0", "issuer", head_office()?.claim("ver", json!("1.0"))),
        ("no ver", "version", head_office()?.claim("ver", Value::Null)),
        (
            "issuer of the real cloud",
            "issuer",
            head_office()?.claim("iss", json!(format!("https://login.microsoftonline.com/{ZAVA_TENANT_ID}/v2.0"))),
        ),
        ("ID token", "not_an_access_token", TokenRequest::id_token(ZAVA_TENANT_ID)),
        ("roles as a string", "not_an_access_token", head_office()?.claim("roles", json!("Storefence.HeadOffice"))),
        ("scp as an array", "not_an_access_token", head_office()?.claim("scp", json!(["Retail.Query"]))),
        ("no oid", "not_an_access_token", head_office()?.claim("oid", Value::Null)),
        ("expired", "expired", head_office()?.expires_in(-61)),
        ("nbf ahead", "not_yet_valid", head_office()?.claim("nbf", json!(now + 120))),
        ("nbf fractional", "not_before", head_office()?.claim("nbf", json!(1.5))),
        ("no exp", "expiry", head_office()?.claim("exp", Value::Null)),
        ("exp negative", "expiry", head_office()?.claim("exp", json!(-1))),
        ("exp fractional", "expiry", head_office()?.claim("exp", json!(now as f64 + 600.5))),
        ("exp as text", "expiry", head_office()?.claim("exp", json!((now + 600).to_string()))),
        ("exp far beyond time", "expiry", head_office()?.claim("exp", json!(u64::MAX))),
    ] {
        refused(world, gateway, name, reason, world.entra.issue(&request)?).await?;
    }
    Ok(())
}

async fn by_form(world: &World, gateway: &Gateway) -> Result<()> {
    let token = world.entra.issue(&head_office()?)?;
    let [header, payload, signature] = token.split('.').collect::<Vec<_>>()[..] else { anyhow::bail!("{token}") };
    let claims = json!({"aud": AUDIENCE, "iss": world.entra.issuer(ZAVA_TENANT_ID, Default::default()), "ver": "2.0", "tid": ZAVA_TENANT_ID,
        "oid": "1f0d6b1e-8a52-4c39-9d47-0e6a3b5c7d91", "scp": "Retail.Query", "exp": jiff::Timestamp::now().as_second() + 600});
    let duplicate = claims.to_string().replacen('{', r#"{"roles":["Storefence.HeadOffice"],"roles":[],"#, 1);
    let mut raw = head_office()?;
    raw.raw_payload = Some(duplicate);
    // The last character of a 256-byte signature has unused bits: another letter, the same bytes.
    let last = signature.chars().next_back().context("a signature")?;
    let other = ('A'..='z').find(|c| c.is_ascii_alphanumeric() && *c as u32 == last as u32 + 1).unwrap_or('B');
    let spelled = format!("{header}.{payload}.{}{other}", &signature[..signature.len() - 1]);
    for (name, reason, token) in [
        ("duplicate claim", "json", world.entra.issue(&raw)?),
        ("two segments", "segments", format!("{header}.{payload}")),
        ("four segments", "segments", format!("{token}.x")),
        ("five segments, a JWE", "segments", format!("{token}.x.y")),
        ("empty signature", "signature", format!("{header}.{payload}.")),
        ("altered signature", "signature", with_altered_signature(&token)),
        ("non-canonical base64url", "base64", spelled),
        ("padding", "base64", format!("{token}=")),
        ("swapped payload", "tenant", format!("{header}.{header}.{signature}")),
        ("oversized", "too_long", format!("{header}.{}.{signature}", "A".repeat(30_000))),
    ] {
        refused(world, gateway, name, reason, token).await?;
    }
    let url = format!("{}/mcp", gateway.url);
    let in_query = world.http.post(format!("{url}?access_token={token}")).json(&json!({})).send().await?;
    ensure!(in_query.status() == 401, "a token in the query: {}", in_query.status());
    let twice = world
        .http
        .post(&url)
        .header("authorization", format!("Bearer {token}"))
        .header("authorization", format!("Bearer {token}"));
    ensure!(twice.json(&json!({})).send().await?.status() == 401, "two Authorization headers");
    let basic = world.http.post(&url).basic_auth("user", Some(&token)).json(&json!({})).send().await?;
    ensure!(basic.status() == 401, "Basic");
    Ok(())
}

/// A key that is published for this directory with another directory's issuer.
async fn key_issuer(world: Arc<World>) -> Result<()> {
    let foreign = Arc::new(SigningKey::generate(None, KeyIssuer::Tenant(CONTOSO_TENANT_ID.to_owned()))?);
    world.entra.add_tenant_key(ZAVA_TENANT_ID, foreign.clone());
    let gateway = world.another_gateway("key-issuer", &[]).await;
    world.entra.remove_tenant_keys(ZAVA_TENANT_ID);
    let token = world.entra.issue(&head_office()?.signing(Signing::Key(foreign)))?;
    refused(&world, &gateway?, "key issuer mismatch", "key_issuer", token).await
}

/// A star is a name like any other, and no laxer value admits another token.
async fn laxest(world: Arc<World>) -> Result<()> {
    let issuer = world.entra.url();
    let options = [
        ["--audience", "*"],
        ["--audience", "api://*"],
        ["--scope", "*"],
        ["--scope", "api://storefence/*"],
        ["--allowed-host", "*"],
        ["--allowed-origin", "https://*"],
        ["--v1-issuer", issuer],
        ["--authorization-server", "https://anyone.example"],
        ["--jwks-refresh", "86400"],
        ["--token-cache", "1000000"],
        ["--client-timeout", "600"],
        ["--max-connections", "1000000"],
    ];
    // Names used by other products, which the gateway does not read.
    let variables = ["STOREFENCE_INSECURE", "STOREFENCE_SKIP_VERIFY", "STOREFENCE_DISABLE_AUTH", "STOREFENCE_DEV"];
    let variables: Vec<_> = variables.into_iter().map(|name| (name, "true")).collect();
    let gateway = world.gateway_with_environment("laxest", options.as_flattened(), &variables).await?;
    ensure!(ask(&world, &gateway, world.entra.issue(&head_office()?)?).await? == 200, "a good token");
    by_header(&world, &gateway).await?;
    by_claims(&world, &gateway).await?;
    by_form(&world, &gateway).await?;
    for scp in ["User.Read", "Retail.QueryAll", "Retail", "openid"] {
        let token = world.entra.issue(&head_office()?.claim("scp", json!(scp)))?;
        let status = ask(&world, &gateway, token).await?;
        ensure!(status == 403, "the scope {scp}: {status}");
    }
    let good = client(&world, &gateway, world.entra.issue(&head_office()?)?);
    for (header, value) in [("host", "evil.example"), ("origin", "https://evil.example"), ("origin", "null")] {
        let answer = good.read(good.request("tools/list", json!({})).header(header, value)).await?;
        ensure!(answer.status == 403, "{header}: {value}: {}", answer.status);
    }
    let none = world.http.post(format!("{}/mcp", gateway.url)).json(&json!({})).send().await?;
    ensure!(none.status() == 401, "no token: {}", none.status());
    Ok(())
}
