//! Everything that must be refused (`docs/security.md`, Entra ID tokens), one token each, over the wire.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use storefence_devstack::{
    entra::{
        KeyIssuer, Signing, SigningKey, TokenRequest,
        principals::{self, AUDIENCE, CONTOSO_TENANT_ID, ZAVA_TENANT_ID},
        with_altered_signature,
    },
    mcp_client::Revision,
};

use crate::{
    Tests,
    world::{World, ZAVA, until},
};

const CONSUMERS: &str = "9188040d-6c67-4c5b-b112-36a304b66dad";

pub fn tests(tests: &mut Tests) {
    tests.add("good_tokens_of_both_versions", good);
    tests.add("refused_by_header_and_signature", by_header);
    tests.add("refused_by_claims", by_claims);
    tests.add("refused_by_form", by_form);
    tests.add("store_claims_match_exactly", store_claims);
    tests.add("the_claim_of_a_directory_extension_names_stores", extension_claim);
    tests.add("groups_overage_is_denied_with_the_way_out", overage);
    tests.add("app_only_tokens_are_denied", app_only);
    tests.add("an_application_is_served_through_its_own_rule_only", application_rule);
    tests.add("a_token_is_good_until_its_time_is_over_cached_or_not", until_expiry);
}

pub fn head_office() -> Result<TokenRequest> {
    Ok(TokenRequest::principal(principals::find("head-office").context("known")?))
}

async fn status(world: &World, token: String) -> Result<(u16, Value)> {
    let answer = world.client(token, "/mcp", Revision::V2026_07_28).send("tools/list", json!({})).await?;
    Ok((answer.status.as_u16(), answer.message))
}

/// Refused, by the check that is meant to refuse it and by no other.
async fn refused(world: &World, name: &str, reason: &str, token: String) -> Result<()> {
    let metric = format!("storefence_token_verifications_total{{outcome=\"rejected\",reason=\"{reason}\"}}");
    let before = world.metric(&world.gateway, &metric).await?;
    let (status, body) = status(world, token).await?;
    ensure!(status == 401 && body["error"] == "invalid_token", "{name}: {status} {body}");
    ensure!(body["message"] == "The access token is not accepted", "{name} tells why: {body}");
    let counted = world.metric(&world.gateway, &metric).await? - before;
    ensure!(counted == 1.0, "{name} is not refused for '{reason}'");
    Ok(())
}

async fn good(world: Arc<World>) -> Result<()> {
    for request in [
        head_office()?,
        head_office()?.v1(),
        head_office()?.v1().claim("aud", json!(AUDIENCE)),
        head_office()?.claim("aud", json!(["other", AUDIENCE])),
        head_office()?.claim("scp", json!("User.Read Retail.Query")),
        head_office()?.claim("nbf", Value::Null),
        head_office()?.expires_in(-30),
    ] {
        let (status, body) = status(&world, world.entra.issue(&request)?).await?;
        ensure!(status == 200, "{request:?}: {status} {body}");
    }
    Ok(())
}

async fn by_header(world: Arc<World>) -> Result<()> {
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
        refused(&world, name, reason, world.entra.issue(&request)?).await?;
    }
    // A key that is published for this directory with another directory's issuer.
    let foreign = Arc::new(SigningKey::generate(None, KeyIssuer::Tenant(CONTOSO_TENANT_ID.to_owned()))?);
    world.entra.add_tenant_key(ZAVA_TENANT_ID, foreign.clone());
    let gateway = world.another_gateway("key-issuer", &[]).await?;
    let client = storefence_devstack::mcp_client::McpClient::new(
        world.http.clone(),
        format!("{}/mcp", gateway.url),
        Some(world.entra.issue(&head_office()?.signing(Signing::Key(foreign)))?),
        Revision::V2026_07_28,
    );
    let answer = client.send("tools/list", json!({})).await?;
    world.entra.remove_tenant_keys(ZAVA_TENANT_ID);
    ensure!(answer.status == 401, "key issuer mismatch: {}", answer.status);
    ensure!(
        world
            .metric(&gateway, "storefence_token_verifications_total{outcome=\"rejected\",reason=\"key_issuer\"}")
            .await?
            >= 1.0
    );
    Ok(())
}

async fn by_claims(world: Arc<World>) -> Result<()> {
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
        refused(&world, name, reason, world.entra.issue(&request)?).await?;
    }
    Ok(())
}

async fn by_form(world: Arc<World>) -> Result<()> {
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
        refused(&world, name, reason, token).await?;
    }
    let url = format!("{}/mcp", world.gateway.url);
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

/// The allowance for clocks counts, and what is remembered of a verified token does not outlive it.
async fn until_expiry(world: Arc<World>) -> Result<()> {
    let token = world.entra.issue(&head_office()?.expires_in(-45))?;
    for _ in 0..2 {
        let (status, body) = status(&world, token.clone()).await?;
        ensure!(status == 200, "within the allowance: {status} {body}");
    }
    until("the token is over", Duration::from_secs(60), || async { Ok(status(&world, token.clone()).await?.0 == 401) })
        .await
}

async fn store_claims(world: Arc<World>) -> Result<()> {
    let user = |value: Value| TokenRequest::user(ZAVA_TENANT_ID).claim("extn.storeIds", value);
    let count = async |value: Value| -> Result<(u16, Value)> {
        let token = world.entra.issue(&user(value))?;
        let answer = world
            .client(token, "/mcp", Revision::V2026_07_28)
            .send("tools/call", json!({"name": "list_stores", "arguments": {}}))
            .await?;
        Ok((
            answer.status.as_u16(),
            answer.structured()["stores"].as_array().map_or(Value::Null, |stores| json!(stores.len())),
        ))
    };
    for (value, stores) in [
        (json!("Seattle"), 1),
        (json!(["Seattle", "Online"]), 2),
        (json!(["Seattle", "Seattle", "Atlantis", "*"]), 1),
        (json!("0a000000-0000-4000-8000-000000000002"), 1),
    ] {
        ensure!(count(value.clone()).await? == (200, json!(stores)), "{value}");
    }
    let huge: Vec<_> = (0..501).map(|_| "Seattle").collect();
    for value in [
        json!("*"),
        json!("%"),
        json!("seattle"),
        json!("SEATTLE"),
        json!("Ѕeattle"),
        json!(" Seattle"),
        json!("Seattle,Redmond"),
        json!(""),
        json!([]),
        json!(["Downtown"]),
        json!(["Seattle", 1]),
        json!({"Seattle": true}),
        json!(true),
        json!(huge),
        json!("0A000000-0000-4000-8000-000000000002"),
    ] {
        let (status, body) = count(value.clone()).await?;
        ensure!(status == 403, "{value}: {status} {body}");
    }
    Ok(())
}

/// The claim under the name that a directory extension of an application has.
async fn extension_claim(world: Arc<World>) -> Result<()> {
    const CLAIM: &str = "extension_0f1e2d3c4b5a69788796a5b4c3d2e1f0_storeIds";
    let before = ZAVA.object()["spec"]["principals"].clone();
    let mut after = before.clone();
    let rule = json!({"name": "by-extension", "role": "StoreManager", "storesFromClaim": CLAIM});
    after.as_array_mut().context("rules")?.push(rule);
    world.patch_spec("zava", json!({"principals": after})).await?;
    let ask = async |value: Value| -> Result<(u16, Value)> {
        let token = world.entra.issue(&TokenRequest::user(ZAVA_TENANT_ID).claim(CLAIM, value))?;
        let client = world.client(token, "/mcp", Revision::V2026_07_28);
        let answer = client.send("tools/call", json!({"name": "list_stores", "arguments": {}})).await?;
        let stores = answer.structured()["stores"].as_array().into_iter().flatten();
        Ok((answer.status.as_u16(), stores.map(|store| store["name"].clone()).collect()))
    };
    until("the rule is in force", Duration::from_secs(5), || async { Ok(ask(json!("Seattle")).await?.0 == 200) })
        .await?;
    for (value, due) in [
        (json!("Seattle"), (200, json!(["Seattle"]))),
        (json!(["Online", "Atlantis"]), (200, json!(["Online"]))),
        (json!("seattle"), (403, json!([]))),
        (json!("*"), (403, json!([]))),
        (json!([]), (403, json!([]))),
    ] {
        let seen = ask(value.clone()).await?;
        ensure!(seen == due, "{value}: {seen:?}");
    }
    // That of another application is another claim.
    let other = CLAIM.replace("0f1e", "1f1e");
    let token = world.entra.issue(&TokenRequest::user(ZAVA_TENANT_ID).claim(&other, json!("Seattle")))?;
    ensure!(status(&world, token).await?.0 == 403, "another application's extension");
    world.patch_spec("zava", json!({"principals": before})).await?;
    until("the rule is gone", Duration::from_secs(5), || async { Ok(ask(json!("Seattle")).await?.0 == 403) }).await
}

async fn overage(world: Arc<World>) -> Result<()> {
    for request in [
        TokenRequest::user(ZAVA_TENANT_ID).group_overage(),
        TokenRequest::user(ZAVA_TENANT_ID).group_overage().claim("groups", json!([principals::REDMOND_MANAGERS_GROUP])),
    ] {
        let (status, body) = status(&world, world.entra.issue(&request)?).await?;
        ensure!(
            status == 403 && body["message"].as_str().is_some_and(|text| text.contains("app role")),
            "{status} {body}"
        );
    }
    // Other rules still count.
    let request = head_office()?.group_overage();
    ensure!(status(&world, world.entra.issue(&request)?).await?.0 == 200);
    Ok(())
}

async fn app_only(world: Arc<World>) -> Result<()> {
    let application = TokenRequest::application(
        ZAVA_TENANT_ID,
        "11111111-1111-4111-8111-111111111111",
        &[principals::HEAD_OFFICE_ROLE],
    );
    let with_scp = head_office()?.claim("idtyp", json!("app"));
    for request in [application, with_scp] {
        let (status, body) = status(&world, world.entra.issue(&request)?).await?;
        ensure!(status == 403, "{status} {body}");
    }
    Ok(())
}

/// A rule that names the application serves its app-only tokens of both versions, and nobody else's.
async fn application_rule(world: Arc<World>) -> Result<()> {
    const REPORTS: &str = "33333333-3333-4333-8333-333333333333";
    const OTHER: &str = "44444444-4444-4444-8444-444444444444";
    let before = ZAVA.object()["spec"]["principals"].clone();
    let mut after = before.clone();
    after
        .as_array_mut()
        .context("rules")?
        .push(json!({"name": "reports", "role": "StoreManager", "entraApplication": REPORTS, "stores": ["Online"]}));
    world.patch_spec("zava", json!({"principals": after})).await?;
    let issue = |application: &str, roles: &[&str]| TokenRequest::application(ZAVA_TENANT_ID, application, roles);
    let granted = world.entra.issue(&issue(REPORTS, &["Storefence.Reports"]))?;
    until("the application is let in", Duration::from_secs(2), || async {
        Ok(status(&world, granted.clone()).await?.0 == 200)
    })
    .await?;
    for token in [granted.clone(), world.entra.issue(&issue(REPORTS, &["Storefence.Reports"]).v1())?] {
        let client = world.client(token, "/mcp", Revision::V2026_07_28);
        let count = json!({"postgresql_query": "SELECT count(*) FROM retail.orders"});
        let answer = client.call_tool("execute_sales_query", count).await?;
        ensure!(answer.structured()["rows"] == json!([[3]]), "{}", answer.message);
    }
    // The role that lets people see everything widens nothing for an application.
    let with_role = world.entra.issue(&issue(REPORTS, &[principals::HEAD_OFFICE_ROLE]))?;
    let stores = world.client(with_role, "/mcp", Revision::V2026_07_28).call_tool("list_stores", json!({})).await?;
    ensure!(stores.structured()["stores"].as_array().is_some_and(|list| list.len() == 1), "{}", stores.message);
    // Another application, the same one of another directory, one without a permission, and a user who signed in through
    // the very application.
    for (request, expected) in [
        (issue(OTHER, &["Storefence.Reports"]), 403),
        (TokenRequest::application(CONTOSO_TENANT_ID, REPORTS, &["Storefence.Reports"]), 403),
        (issue(REPORTS, &[]), 401),
        (TokenRequest::user(ZAVA_TENANT_ID).claim("azp", json!(REPORTS)), 403),
        (issue(OTHER, &["Storefence.Reports"]).claim("appid", json!(REPORTS)), 403),
    ] {
        let (status, body) = status(&world, world.entra.issue(&request)?).await?;
        ensure!(status == expected, "{request:?}: {status} {body}");
    }
    let (_, body) = status(&world, world.entra.issue(&issue(OTHER, &["x"]))?).await?;
    ensure!(body["claims"].to_string().contains("azp") && !body.to_string().contains(OTHER), "{body}");
    world.patch_spec("zava", json!({"principals": before})).await?;
    until("the application is no longer let in", Duration::from_secs(2), || async {
        Ok(status(&world, granted.clone()).await?.0 == 403)
    })
    .await
}
