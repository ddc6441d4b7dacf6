//! Signing in on the cluster with nothing but the gateway's URL, as an editor does it: from the 401 to an answered question.
//! The pages themselves, in a real browser and with the official SDK, are in `tests/sign_in`.

use anyhow::{Context, Result, ensure};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{Client, StatusCode, header, redirect::Policy};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use storefence_devstack::mcp_client::{McpClient, Revision};
use url::{Url, form_urlencoded};

const REDIRECT: &str = "http://127.0.0.1:49152/";
const VERIFIER: &str = "a-verifier-of-forty-three-characters-or-more~._";

/// Signs in as the manager of Seattle and asks whose stores these are.
pub async fn sign_in_and_ask(gateway: &str, pages: &str) -> Result<()> {
    // No certificate of the stack's: the editor and the browser do not know it either.
    let http = Client::builder().no_proxy().redirect(Policy::none()).build()?;
    let endpoint = format!("{gateway}/mcp");
    let refused = http.post(&endpoint).json(&json!({})).send().await?;
    ensure!(refused.status() == StatusCode::UNAUTHORIZED, "{}", refused.status());
    let challenge = refused.headers()[header::WWW_AUTHENTICATE].to_str()?.to_owned();
    let said = |name: &str| challenge.split(&format!("{name}=\"")).nth(1)?.split('"').next().map(str::to_owned);
    let scope = said("scope").with_context(|| challenge.clone())?;
    let resource = json_of(&http, &said("resource_metadata").with_context(|| challenge.clone())?).await?;
    ensure!(resource["resource"] == endpoint, "{resource}");
    let issuer = resource["authorization_servers"][0].as_str().context("no authorization server")?.to_owned();
    ensure!(issuer == format!("{pages}/organizations/v2.0"), "browsers do not get to {issuer}");

    // RFC 8414: between host and path.
    let place = issuer.replacen(pages, &format!("{pages}/.well-known/oauth-authorization-server"), 1);
    let server = json_of(&http, &place).await?;
    ensure!(server["issuer"] == issuer, "{server}");
    let at = |name: &str| -> Result<String> {
        let url = server[name].as_str().with_context(|| format!("no {name}: {server}"))?;
        ensure!(url.starts_with(pages), "browsers do not get to {url}");
        Ok(url.to_owned())
    };
    let client = json!({"client_name": "Editor", "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none"});
    let registered = http.post(at("registration_endpoint")?).json(&client).send().await?;
    ensure!(registered.status().is_success(), "{}", registered.text().await?);
    let client: Value = registered.json().await?;
    let client = client["client_id"].as_str().context("no client_id")?;

    let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER));
    let mut url = Url::parse(&at("authorization_endpoint")?)?;
    url.query_pairs_mut().extend_pairs([
        ("client_id", client),
        ("redirect_uri", REDIRECT),
        ("response_type", "code"),
        ("code_challenge", &hash),
        ("code_challenge_method", "S256"),
        ("scope", &scope),
        ("resource", &endpoint),
        ("state", "a state"),
    ]);
    let page = http.get(url).send().await?.text().await?;
    let handle = page.split("name=\"request\" value=\"").nth(1).and_then(|rest| rest.split('"').next());
    let handle = handle.with_context(|| page.clone())?;
    let pressed =
        form(&http, &at("authorization_endpoint")?, &[("request", handle), ("principal", "seattle-manager")]).await?;
    let back = pressed.headers().get(header::LOCATION).context("the button leads nowhere")?.to_str()?.to_owned();
    ensure!(back.starts_with(REDIRECT), "{back}");
    let back = Url::parse(&back)?;
    let code = back.query_pairs().find(|(name, _)| name == "code").with_context(|| back.to_string())?.1.into_owned();
    let asked = [
        ("grant_type", "authorization_code"),
        ("client_id", client),
        ("code", &code),
        ("redirect_uri", REDIRECT),
        ("code_verifier", VERIFIER),
        ("resource", &endpoint),
    ];
    let token: Value = form(&http, &at("token_endpoint")?, &asked).await?.json().await?;
    let token = token["access_token"].as_str().with_context(|| token.to_string())?.to_owned();

    let client = McpClient::new(http, endpoint, Some(token), Revision::V2026_07_28);
    let answer = client.call_tool("whoami", json!({})).await?;
    ensure!(answer.structured()["stores"].to_string().contains("Seattle"), "{}", answer.message);
    Ok(())
}

async fn json_of(http: &Client, url: &str) -> Result<Value> {
    let answer = http.get(url).send().await.with_context(|| url.to_owned())?;
    ensure!(answer.status().is_success(), "{url}: {}", answer.status());
    Ok(answer.json().await?)
}

async fn form(http: &Client, url: &str, fields: &[(&str, &str)]) -> Result<reqwest::Response> {
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let request = http.post(url).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    Ok(request.body(body).send().await?)
}
