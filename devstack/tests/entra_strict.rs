//! The Entra ID stand-in in strict mode: what the real one does not offer, and an application with a secret.

use std::collections::HashMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{Client, Response, StatusCode, header, redirect::Policy};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use storefence_devstack::{
    entra::{
        Entra, EntraOptions,
        principals::{AUDIENCE, CLIENT_APPLICATION},
    },
    tls::Authority,
};
use url::Url;

const APP: &str = "6c1d7b0e-55d8-4a52-9d2c-2f4f8a3b9e10";
const SECRET: &str = "a secret of the application";
const REDIRECT: &str = "https://mcp.example.com/signin/callback";
const SCOPE: &str = "api://storefence/Retail.Query offline_access";
const VERIFIER: &str = "a-verifier-of-forty-three-characters-or-more~._";

struct Strict {
    entra: Entra,
    http: Client,
    base: String,
}

type More<'a> = &'a [(&'a str, &'a str)];

impl Strict {
    async fn new() -> Self {
        let authority = Authority::new().unwrap();
        let entra = Entra::start(&authority, EntraOptions::default()).await.unwrap();
        entra.be_strict();
        entra.add_web_app(APP, "Storefence", SECRET, &[REDIRECT, "http://localhost/callback"]).unwrap();
        let ca = reqwest::Certificate::from_pem(authority.pem().as_bytes()).unwrap();
        let http = Client::builder().tls_certs_only([ca]).no_proxy().redirect(Policy::none()).build().unwrap();
        let base = format!("{}/organizations/oauth2/v2.0", entra.url());
        Self { entra, http, base }
    }

    async fn ask(&self, redirect_uri: &str, more: More<'_>) -> Response {
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER));
        let mut url = Url::parse(&format!("{}/authorize", self.base)).unwrap();
        url.query_pairs_mut()
            .extend_pairs([("client_id", APP), ("redirect_uri", redirect_uri), ("response_type", "code")])
            .extend_pairs([("code_challenge", challenge.as_str()), ("code_challenge_method", "S256")])
            .extend_pairs([("scope", SCOPE), ("state", "a state")])
            .extend_pairs(more);
        self.http.get(url).send().await.unwrap()
    }

    async fn post(&self, path: &str, form: More<'_>) -> Response {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let request = self.http.post(format!("{}/{path}", self.base));
        request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(body).send().await.unwrap()
    }

    /// What the redirect carries after a person signed in.
    async fn sign_in(&self) -> HashMap<String, String> {
        let page = self.ask(REDIRECT, &[]).await;
        assert_eq!(page.status(), StatusCode::OK);
        let page = page.text().await.unwrap();
        let handle = page.split("name=\"request\" value=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
        returned(&self.post("authorize", &[("request", handle), ("principal", "seattle-manager")]).await)
    }

    async fn redeem(&self, code: &str, more: More<'_>) -> (StatusCode, Value) {
        let mut form =
            vec![("grant_type", "authorization_code"), ("client_id", APP), ("code", code), ("redirect_uri", REDIRECT)];
        form.extend(more);
        let response = self.post("token", &form).await;
        (response.status(), response.json().await.unwrap())
    }
}

fn returned(response: &Response) -> HashMap<String, String> {
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
    let location = Url::parse(response.headers()[header::LOCATION].to_str().unwrap()).unwrap();
    location.query_pairs().into_owned().collect()
}

#[tokio::test]
async fn nothing_is_offered_that_entra_lacks() {
    let s = Strict::new().await;
    let body = json!({"redirect_uris": ["http://127.0.0.1/"]});
    let register = s.http.post(format!("{}/register", s.base)).json(&body).send().await.unwrap();
    assert_eq!(register.status(), StatusCode::NOT_FOUND);
    let metadata = format!("{}/.well-known/oauth-authorization-server/organizations/v2.0", s.entra.url());
    assert_eq!(s.http.get(metadata).send().await.unwrap().status(), StatusCode::NOT_FOUND);
    let openid = format!("{}/organizations/v2.0/.well-known/openid-configuration", s.entra.url());
    let openid: Value = s.http.get(openid).send().await.unwrap().json().await.unwrap();
    for name in
        ["registration_endpoint", "code_challenge_methods_supported", "authorization_response_iss_parameter_supported"]
    {
        assert!(openid.get(name).is_none(), "{name}");
    }
    assert!(openid["authorization_endpoint"].is_string());
}

#[tokio::test]
async fn a_resource_is_refused_in_each_request() {
    let s = Strict::new().await;
    for resource in ["https://mcp.example.com/mcp", "api://storefence"] {
        let answer = returned(&s.ask(REDIRECT, &[("resource", resource)]).await);
        assert_eq!(answer["error"], "invalid_target");
        assert!(answer["error_description"].starts_with("AADSTS9010010"), "{answer:?}");
        let code = s.sign_in().await["code"].clone();
        let proof = [("client_secret", SECRET), ("code_verifier", VERIFIER), ("resource", resource)];
        let (status, body) = s.redeem(&code, &proof).await;
        assert_eq!((status, &body["error_codes"][0]), (StatusCode::BAD_REQUEST, &json!(9_010_010)));
    }
}

#[tokio::test]
async fn redirect_uris_are_exact_but_for_the_port_of_localhost() {
    let s = Strict::new().await;
    assert_eq!(s.ask("http://localhost:49152/callback", &[]).await.status(), StatusCode::OK);
    for other in [
        "https://mcp.example.com/signin/callback/",
        "https://mcp.example.com:8443/signin/callback",
        "http://localhost:49152/other",
        "http://127.0.0.1:49152/callback",
    ] {
        let response = s.ask(other, &[]).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{other}");
        assert!(response.text().await.unwrap().contains("50011"), "{other}");
    }
    for never in ["http://[::1]/callback", "http://mcp.example.com/", "cursor://callback"] {
        assert!(s.entra.add_web_app(APP, "Storefence", SECRET, &[never]).is_err(), "{never}");
    }
}

#[tokio::test]
async fn an_application_with_a_secret_shows_it_each_time() {
    let s = Strict::new().await;
    let answer = s.sign_in().await;
    assert_eq!(answer["state"], "a state");
    assert!(!answer.contains_key("iss"));
    let code = answer["code"].as_str();
    let (right, verifier) = (("client_secret", SECRET), ("code_verifier", VERIFIER));
    for (proof, number) in [(&[verifier][..], 7_000_218), (&[verifier, ("client_secret", "another")], 7_000_215)] {
        let (status, body) = s.redeem(code, proof).await;
        assert_eq!((status, &body["error_codes"][0]), (StatusCode::UNAUTHORIZED, &json!(number)));
    }
    let (status, tokens) = s.redeem(code, &[right, verifier]).await;
    assert_eq!(status, StatusCode::OK, "{tokens}");
    let claims = s.entra.verifier().verify(tokens["access_token"].as_str().unwrap(), AUDIENCE).unwrap();
    assert_eq!(claims["azp"], APP);

    let token = tokens["refresh_token"].as_str().unwrap();
    let refresh = [("grant_type", "refresh_token"), ("client_id", APP), ("refresh_token", token)];
    assert_eq!(s.post("token", &refresh).await.status(), StatusCode::UNAUTHORIZED);
    let proved = [&refresh[..], &[right]].concat();
    assert_eq!(s.post("token", &proved).await.status(), StatusCode::OK);

    let (_, body) = s.redeem(code, &[right, verifier]).await;
    assert_eq!(body["error_codes"][0], 54_005, "a code is good once");
    let wrong = s.sign_in().await["code"].clone();
    let (_, body) = s.redeem(&wrong, &[right, ("code_verifier", &VERIFIER.replace('a', "b"))]).await;
    assert_eq!(body["error_codes"][0], 501_481);
    let public = s.http.post(format!("{}/token", s.base));
    let form = format!("grant_type=refresh_token&client_id={CLIENT_APPLICATION}&client_secret=x&refresh_token=x");
    let public = public.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(form);
    let body: Value = public.send().await.unwrap().json().await.unwrap();
    assert_eq!(body["error_codes"][0], 700_025);
}
