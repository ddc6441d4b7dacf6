//! Signing in at the Entra ID stand-in as a client sees it: metadata, registration, page, code, tokens; and each thing
//! that is refused.

use std::{collections::HashMap, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{Client, Method, Response, StatusCode, header, redirect::Policy};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use storefence_devstack::{
    entra::{
        Entra, EntraOptions, PlainSignIn,
        principals::{self, AUDIENCE, CLIENT_APPLICATION, CONTOSO_TENANT_ID, ZAVA_TENANT_ID},
    },
    tls::Authority,
};
use url::Url;

const GATEWAY: &str = "http://127.0.0.1:8080/mcp";
const SCOPE: &str = "http://127.0.0.1:8080/mcp/Retail.Query offline_access";
const REDIRECT: &str = "http://127.0.0.1:49152/";
const VERIFIER: &str = "a-verifier-of-forty-three-characters-or-more~._";

struct SignIn {
    entra: Entra,
    http: Client,
    base: String,
}

type Changes<'a> = &'a [(&'a str, Option<&'a str>)];

impl SignIn {
    async fn new() -> Self {
        let authority = Authority::new().unwrap();
        let entra = Entra::start(&authority, EntraOptions::default()).await.unwrap();
        entra.add_resource(GATEWAY);
        let ca = reqwest::Certificate::from_pem(authority.pem().as_bytes()).unwrap();
        let http = Client::builder().tls_certs_only([ca]).no_proxy().redirect(Policy::none()).build().unwrap();
        let base = format!("{}/organizations/oauth2/v2.0", entra.url());
        Self { entra, http, base }
    }

    fn issuer(&self) -> String {
        format!("{}/organizations/v2.0", self.entra.url())
    }

    /// VS Code's request, with parameters replaced or left out.
    async fn ask(&self, changes: Changes<'_>) -> Response {
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER));
        let usual = [
            ("client_id", CLIENT_APPLICATION),
            ("redirect_uri", REDIRECT),
            ("response_type", "code"),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
            ("scope", SCOPE),
            ("resource", GATEWAY),
            ("state", "a state"),
        ];
        let mut url = Url::parse(&format!("{}/authorize", self.base)).unwrap();
        url.query_pairs_mut().extend_pairs(changed(&usual, changes));
        self.http.get(url).send().await.unwrap()
    }

    async fn post(&self, path: &str, form: &[(String, String)]) -> Response {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let request = self.http.post(format!("{}/{path}", self.base));
        request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(body).send().await.unwrap()
    }

    /// Presses a button of the page.
    async fn press(&self, page: &str, name: &str, value: &str) -> HashMap<String, String> {
        let handle = page.split("name=\"request\" value=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
        let form = [("request", handle), (name, value)].map(|(a, b)| (a.to_owned(), b.to_owned()));
        let response = self.post("authorize", &form).await;
        assert_eq!(response.status(), StatusCode::SEE_OTHER);
        returned(&response)
    }

    async fn code(&self, changes: Changes<'_>) -> String {
        let page = self.ask(changes).await;
        assert_eq!(page.status(), StatusCode::OK);
        let answer = self.press(&page.text().await.unwrap(), "principal", "seattle-manager").await;
        answer["code"].clone()
    }

    async fn token(&self, usual: &[(&str, &str)], changes: Changes<'_>) -> (StatusCode, Value) {
        let response = self.post("token", &changed(usual, changes)).await;
        (response.status(), response.json().await.unwrap())
    }

    async fn redeem(&self, code: &str, changes: Changes<'_>) -> (StatusCode, Value) {
        let usual = [
            ("grant_type", "authorization_code"),
            ("client_id", CLIENT_APPLICATION),
            ("code", code),
            ("redirect_uri", REDIRECT),
            ("code_verifier", VERIFIER),
            ("resource", GATEWAY),
        ];
        self.token(&usual, changes).await
    }

    async fn refresh(&self, token: &str, changes: Changes<'_>) -> (StatusCode, Value) {
        let usual = [("grant_type", "refresh_token"), ("client_id", CLIENT_APPLICATION), ("refresh_token", token)];
        self.token(&usual, changes).await
    }

    async fn register(&self, metadata: Value) -> (StatusCode, Value) {
        let response = self.http.post(format!("{}/register", self.base)).json(&metadata).send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }
}

fn changed(usual: &[(&str, &str)], changes: Changes<'_>) -> Vec<(String, String)> {
    let kept = usual.iter().filter(|(name, _)| !changes.iter().any(|(changed, _)| changed == name));
    let new = changes.iter().filter_map(|(name, value)| Some((*name, (*value)?)));
    kept.copied().chain(new).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// What a redirect carries back to the client.
fn returned(response: &Response) -> HashMap<String, String> {
    let location = Url::parse(response.headers()[header::LOCATION].to_str().unwrap()).unwrap();
    location.query_pairs().into_owned().collect()
}

fn number(body: &Value) -> u64 {
    body["error_codes"][0].as_u64().unwrap_or_else(|| panic!("{body}"))
}

#[tokio::test]
async fn metadata_names_an_issuer_that_clients_can_compare() {
    let s = SignIn::new().await;
    for tid in ["organizations", ZAVA_TENANT_ID] {
        let base = s.entra.url();
        let url = format!("{base}/.well-known/oauth-authorization-server/{tid}/v2.0");
        let document: Value = s.http.get(url).send().await.unwrap().json().await.unwrap();
        assert_eq!(document["issuer"], format!("{base}/{tid}/v2.0"));
        assert_eq!(document["code_challenge_methods_supported"], json!(["S256"]));
        assert_eq!(document["response_types_supported"], json!(["code"]));
        assert!(document["token_endpoint_auth_methods_supported"].as_array().unwrap().contains(&json!("none")));
        assert_eq!(document["authorization_response_iss_parameter_supported"], true);
        let openid = format!("{base}/{tid}/v2.0/.well-known/openid-configuration");
        let openid: Value = s.http.get(openid).send().await.unwrap().json().await.unwrap();
        for endpoint in ["authorization_endpoint", "token_endpoint", "registration_endpoint", "jwks_uri"] {
            assert_eq!(openid[endpoint], document[endpoint], "{endpoint}");
        }
    }
    let unknown = format!("{}/.well-known/oauth-authorization-server/{}/v2.0", s.entra.url(), uuid::Uuid::new_v4());
    assert_eq!(s.http.get(unknown).send().await.unwrap().status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_person_signs_in_and_the_client_gets_tokens() {
    let s = SignIn::new().await;
    let scope = format!("{SCOPE} openid profile");
    let page = s.ask(&[("scope", Some(&scope)), ("nonce", Some("a nonce"))]).await;
    assert_eq!(page.headers()[header::X_FRAME_OPTIONS], "DENY");
    assert_eq!(page.headers()[header::CACHE_CONTROL], "no-store");
    assert!(page.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN).is_none(), "no site reads the page");
    let page = page.text().await.unwrap();
    for principal in principals::all() {
        assert!(page.contains(&format!("value=\"{}\"", principal.name)), "{}", principal.name);
        assert!(page.contains(&format!("{}: {}", principal.role, principal.stores.join(", "))), "{}", principal.name);
    }
    let answer = s.press(&page, "principal", "seattle-manager").await;
    assert_eq!((answer["state"].as_str(), &answer["iss"]), ("a state", &s.issuer()));
    let (status, tokens) = s.redeem(&answer["code"], &[]).await;
    assert_eq!(status, StatusCode::OK, "{tokens}");
    assert_eq!((&tokens["token_type"], &tokens["expires_in"]), (&json!("Bearer"), &json!(3600)));
    let claims = s.entra.verifier().verify(tokens["access_token"].as_str().unwrap(), AUDIENCE).unwrap();
    assert_eq!(claims["oid"], principals::SEATTLE_MANAGER_OID);
    assert_eq!((claims["scp"].as_str(), claims["azp"].as_str()), (Some("Retail.Query"), Some(CLIENT_APPLICATION)));
    let id = s.entra.verifier().verify(tokens["id_token"].as_str().unwrap(), CLIENT_APPLICATION).unwrap();
    assert_eq!((id["nonce"].as_str(), id["oid"].as_str()), (Some("a nonce"), Some(principals::SEATTLE_MANAGER_OID)));
    assert!(id.get("scp").is_none() && id.get("roles").is_none(), "no access token");

    let (status, next) = s.refresh(tokens["refresh_token"].as_str().unwrap(), &[("resource", Some(GATEWAY))]).await;
    assert_eq!(status, StatusCode::OK, "{next}");
    assert_eq!(
        s.entra.verifier().verify(next["access_token"].as_str().unwrap(), AUDIENCE).unwrap()["oid"],
        claims["oid"]
    );

    // Without the two words no refresh token and no ID token is given.
    let code = s.code(&[("scope", Some("api://storefence/Retail.Query")), ("resource", None)]).await;
    let (status, tokens) = s.redeem(&code, &[("resource", None)]).await;
    assert_eq!(status, StatusCode::OK, "{tokens}");
    assert!(tokens["refresh_token"].is_null() && tokens["id_token"].is_null(), "{tokens}");
}

#[tokio::test]
async fn a_directorys_page_lists_its_own_people_and_takes_no_other() {
    let mut s = SignIn::new().await;
    s.base = format!("{}/{CONTOSO_TENANT_ID}/oauth2/v2.0", s.entra.url());
    let page = s.ask(&[]).await.text().await.unwrap();
    assert!(page.contains("contoso-head-office") && !page.contains("seattle-manager"), "{page}");
    let answer = s.press(&page, "principal", "seattle-manager").await;
    assert_eq!(answer["error"], "access_denied");
    assert_eq!(answer["iss"], format!("{}/{CONTOSO_TENANT_ID}/v2.0", s.entra.url()));
}

#[tokio::test]
async fn what_is_wrong_before_the_client_is_known_goes_to_no_client() {
    let s = SignIn::new().await;
    for (changes, number) in [
        (&[("client_id", None)] as Changes<'_>, 900_144),
        (&[("client_id", Some("5bd4ff4b-36bd-4c19-a78e-11f9a1ee0b34"))], 700_016),
        (&[("client_id", Some(CLIENT_APPLICATION)), ("client_id", Some("another"))], 9_000_411),
        (&[("redirect_uri", None)], 900_144),
        (&[("redirect_uri", Some("https://vscode.dev/redirect/"))], 50_011),
        (&[("redirect_uri", Some("https://vscode.dev.example.com/redirect"))], 50_011),
        (&[("redirect_uri", Some("http://127.0.0.1:49152/other"))], 50_011),
        (&[("redirect_uri", Some("javascript:alert(1)"))], 50_011),
        (&[("redirect_uri", Some(REDIRECT)), ("redirect_uri", Some("https://example.com/"))], 9_000_411),
    ] {
        let response = s.ask(changes).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{changes:?}");
        assert!(response.headers().get(header::LOCATION).is_none(), "{changes:?}");
        let page = response.text().await.unwrap();
        assert!(page.contains(&format!("AADSTS{number}:")), "{changes:?}: {page}");
    }
    for known in ["https://vscode.dev/redirect", "https://insiders.vscode.dev/redirect", "http://localhost:33418/"] {
        assert_eq!(s.ask(&[("redirect_uri", Some(known))]).await.status(), StatusCode::OK, "{known}");
    }
}

#[tokio::test]
async fn what_is_wrong_afterwards_the_client_is_told() {
    let s = SignIn::new().await;
    for (changes, error, number) in [
        (&[("response_type", Some("token"))] as Changes<'_>, "unsupported_response_type", 700_054),
        (&[("response_type", Some("code id_token"))], "unsupported_response_type", 700_054),
        (&[("response_type", None)], "invalid_request", 900_144),
        (&[("response_mode", Some("fragment"))], "invalid_request", 70_007),
        (&[("code_challenge", None)], "invalid_request", 9_002_325),
        (&[("code_challenge", Some("short"))], "invalid_request", 501_491),
        (&[("code_challenge_method", Some("plain"))], "invalid_request", 501_491),
        (&[("code_challenge_method", None)], "invalid_request", 501_491),
        (&[("scope", None)], "invalid_request", 900_144),
        (&[("scope", Some("openid"))], "invalid_scope", 70_011),
        (&[("scope", Some("Retail.Query"))], "invalid_client", 650_053),
        (&[("scope", Some("api://storefence/Retail.Query"))], "invalid_target", 9_010_010),
        (&[("resource", Some("https://elsewhere.example.com/mcp"))], "invalid_target", 9_010_010),
        (&[("scope", Some("https://elsewhere.example.com/mcp/Retail.Query"))], "invalid_resource", 500_011),
        (&[("prompt", Some("none"))], "login_required", 50_058),
        (&[("scope", Some(SCOPE)), ("scope", Some("openid"))], "invalid_request", 9_000_411),
    ] {
        let response = s.ask(changes).await;
        assert_eq!(response.status(), StatusCode::SEE_OTHER, "{changes:?}");
        assert!(response.headers()[header::LOCATION].to_str().unwrap().starts_with(REDIRECT));
        let answer = returned(&response);
        assert_eq!(answer["error"], error, "{changes:?}: {answer:?}");
        assert!(answer["error_description"].starts_with(&format!("AADSTS{number}:")), "{changes:?}: {answer:?}");
        assert_eq!((answer["state"].as_str(), &answer["iss"]), ("a state", &s.issuer()), "{changes:?}");
        assert!(!answer.contains_key("code"));
    }
    let twice = s.ask(&[("state", Some("one")), ("state", Some("two"))]).await;
    assert!(returned(&twice)["error_description"].starts_with("AADSTS9000411"));
    assert!(!returned(&twice).contains_key("state"));
    let page = s.ask(&[]).await.text().await.unwrap();
    let cancelled = s.press(&page, "cancel", "1").await;
    assert_eq!((cancelled["error"].as_str(), cancelled["state"].as_str()), ("access_denied", "a state"));
    let again = s.post("authorize", &[("request".to_owned(), "made-up".to_owned())]).await;
    assert_eq!(again.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_code_is_good_once_for_who_asked() {
    let s = SignIn::new().await;
    let (_, other) = s.register(json!({"redirect_uris": [REDIRECT]})).await;
    for (changes, error, expected) in [
        (&[("client_id", other["client_id"].as_str())] as Changes<'_>, "invalid_grant", 70_000),
        (&[("redirect_uri", Some("http://127.0.0.1:49153/"))], "invalid_grant", 500_112),
        (&[("redirect_uri", None)], "invalid_request", 900_144),
        (&[("code_verifier", Some("another-verifier-of-forty-three-characters-or-more"))], "invalid_grant", 501_481),
        (&[("code_verifier", Some("short"))], "invalid_grant", 501_481),
        (&[("code_verifier", None)], "invalid_request", 900_144),
        (&[("resource", Some("http://127.0.0.1:8080/other"))], "invalid_target", 9_010_010),
        (&[("client_secret", Some("guess"))], "invalid_client", 700_025),
        (&[("code", Some("made-up"))], "invalid_grant", 70_008),
        (&[("grant_type", Some("password"))], "unsupported_grant_type", 70_003),
    ] {
        let code = s.code(&[]).await;
        let (status, body) = s.redeem(&code, changes).await;
        assert!(status.is_client_error(), "{changes:?}: {body}");
        assert_eq!((body["error"].as_str(), number(&body)), (Some(error), expected), "{changes:?}");
    }
    // A verifier that was wrong once is not tried again with the right one.
    let code = s.code(&[]).await;
    let wrong = "another-verifier-of-forty-three-characters-or-more";
    assert_eq!(number(&s.redeem(&code, &[("code_verifier", Some(wrong))]).await.1), 501_481);
    assert_eq!(number(&s.redeem(&code, &[]).await.1), 54_005);

    // Twice: the second attempt fails, and ends what the first one got.
    let code = s.code(&[]).await;
    let (status, tokens) = s.redeem(&code, &[]).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(number(&s.redeem(&code, &[]).await.1), 54_005);
    assert_eq!(number(&s.refresh(tokens["refresh_token"].as_str().unwrap(), &[]).await.1), 70_008);

    s.entra.set_code_lifetime(Duration::ZERO);
    let late = s.code(&[]).await;
    assert_eq!(number(&s.redeem(&late, &[]).await.1), 70_008);
}

#[tokio::test]
async fn a_code_belongs_to_the_tenants_endpoint_that_gave_it() {
    let mut s = SignIn::new().await;
    let code = s.code(&[]).await;
    s.base = format!("{}/{ZAVA_TENANT_ID}/oauth2/v2.0", s.entra.url());
    assert_eq!(number(&s.redeem(&code, &[]).await.1), 70_000);
}

#[tokio::test]
async fn a_refresh_token_is_good_once_for_its_client() {
    let s = SignIn::new().await;
    let (_, other) = s.register(json!({"redirect_uris": [REDIRECT]})).await;
    let (_, tokens) = s.redeem(&s.code(&[]).await, &[]).await;
    let first = tokens["refresh_token"].as_str().unwrap();
    assert_eq!(number(&s.refresh(first, &[("client_id", other["client_id"].as_str())]).await.1), 70_000);
    assert_eq!(number(&s.refresh(first, &[("scope", Some("api://storefence/.default"))]).await.1), 70_011);
    assert_eq!(number(&s.refresh(first, &[("resource", Some("api://storefence"))]).await.1), 9_010_010);
    assert_eq!(number(&s.refresh("made-up", &[]).await.1), 70_008);
    let (status, next) = s.refresh(first, &[("scope", Some(SCOPE))]).await;
    assert_eq!(status, StatusCode::OK, "{next}");
    assert_eq!(number(&s.refresh(first, &[]).await.1), 50_173, "used before");
    assert_eq!(
        number(&s.refresh(next["refresh_token"].as_str().unwrap(), &[]).await.1),
        70_008,
        "and so its successor"
    );
}

#[tokio::test]
async fn clients_register_without_a_secret() {
    let s = SignIn::new().await;
    // What VS Code sends.
    let (status, client) = s
        .register(json!({
            "client_name": "Visual Studio Code",
            "client_uri": "https://code.visualstudio.com",
            "grant_types": ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"],
            "response_types": ["code"],
            "redirect_uris": ["https://insiders.vscode.dev/redirect", "https://vscode.dev/redirect",
                              "http://127.0.0.1/", "http://127.0.0.1:33418/"],
            "scope": SCOPE,
            "token_endpoint_auth_method": "none",
            "application_type": "native",
        }))
        .await;
    assert_eq!(status, StatusCode::CREATED, "{client}");
    assert!(client["client_secret"].is_null());
    assert_eq!(client["grant_types"], json!(["authorization_code", "refresh_token"]));
    let id = client["client_id"].as_str().unwrap();
    for (uri, status) in [
        ("http://127.0.0.1:50000/", StatusCode::OK),
        ("https://vscode.dev/redirect", StatusCode::OK),
        ("http://localhost:50000/", StatusCode::BAD_REQUEST),
        ("https://vscode.dev/redirect?x=1", StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(s.ask(&[("client_id", Some(id)), ("redirect_uri", Some(uri))]).await.status(), status, "{uri}");
    }
    let code = s.code(&[("client_id", Some(id))]).await;
    let (status, tokens) = s.redeem(&code, &[("client_id", Some(id))]).await;
    assert_eq!(status, StatusCode::OK, "{tokens}");
    assert!(tokens["refresh_token"].is_string());
    // A name is shown as text, whatever it is.
    let (_, named) = s.register(json!({"redirect_uris": [REDIRECT], "client_name": "<b>Bank</b>"})).await;
    let page = s.ask(&[("client_id", named["client_id"].as_str())]).await.text().await.unwrap();
    assert!(page.contains("&lt;b&gt;Bank") && !page.contains("<b>"), "{page}");
    // A client that asks for a secret is registered without one.
    let asked = json!({"redirect_uris": [REDIRECT], "token_endpoint_auth_method": "client_secret_post"});
    let (_, given) = s.register(asked).await;
    assert_eq!(given["token_endpoint_auth_method"], "none");
    assert_eq!(given["grant_types"], json!(["authorization_code"]));
}

#[tokio::test]
async fn registrations_that_are_refused() {
    let s = SignIn::new().await;
    for (metadata, error) in [
        (json!({}), "invalid_redirect_uri"),
        (json!({"redirect_uris": []}), "invalid_redirect_uri"),
        (json!({"redirect_uris": ["http://example.com/"]}), "invalid_redirect_uri"),
        (json!({"redirect_uris": [REDIRECT, "javascript:alert(1)"]}), "invalid_redirect_uri"),
        (json!({"redirect_uris": vec![REDIRECT; 11]}), "invalid_redirect_uri"),
        (json!({"redirect_uris": REDIRECT}), "invalid_client_metadata"),
        (
            json!({"redirect_uris": [REDIRECT], "token_endpoint_auth_method": "private_key_jwt"}),
            "invalid_client_metadata",
        ),
        (json!({"redirect_uris": [REDIRECT], "grant_types": ["client_credentials"]}), "invalid_client_metadata"),
        (json!({"redirect_uris": [REDIRECT], "response_types": ["token"]}), "invalid_client_metadata"),
        (json!("text"), "invalid_client_metadata"),
    ] {
        let (status, body) = s.register(metadata.clone()).await;
        assert_eq!((status, body["error"].as_str()), (StatusCode::BAD_REQUEST, Some(error)), "{metadata}: {body}");
    }
}

#[tokio::test]
async fn signing_in_by_plain_http_is_the_same_and_nothing_else_is_there() {
    let authority = Authority::new().unwrap();
    let options = EntraOptions { plain_sign_in: Some(PlainSignIn::default()), ..EntraOptions::default() };
    let entra = Entra::start(&authority, options).await.unwrap();
    entra.add_resource(GATEWAY);
    let http = Client::builder().no_proxy().redirect(Policy::none()).build().unwrap();
    let plain = entra.sign_in_url().unwrap();
    let document = format!("{plain}/.well-known/oauth-authorization-server/organizations/v2.0");
    let document: Value = http.get(document).send().await.unwrap().json().await.unwrap();
    let issuer = format!("{plain}/organizations/v2.0");
    assert_eq!(document["issuer"], issuer);
    for endpoint in ["authorization_endpoint", "token_endpoint", "registration_endpoint"] {
        assert!(document[endpoint].as_str().unwrap().starts_with(&plain), "{endpoint}");
    }
    let s = SignIn { entra, http, base: format!("{plain}/organizations/oauth2/v2.0") };
    let page = s.ask(&[]).await.text().await.unwrap();
    let answer = s.press(&page, "principal", "seattle-manager").await;
    assert_eq!(answer["iss"], issuer);
    let (status, tokens) = s.redeem(&answer["code"], &[]).await;
    assert_eq!(status, StatusCode::OK, "{tokens}");
    let claims = s.entra.verifier().verify(tokens["access_token"].as_str().unwrap(), AUDIENCE).unwrap();
    assert_eq!(claims["iss"], format!("{}/{ZAVA_TENANT_ID}/v2.0", s.entra.url()), "the token is the authority's");
    let asked = s.http.post(format!("{plain}/_standin/token")).json(&json!({})).send().await.unwrap();
    assert_eq!(asked.status(), StatusCode::NOT_FOUND);
    let keys = s.http.get(format!("{plain}/{ZAVA_TENANT_ID}/discovery/v2.0/keys")).send().await.unwrap();
    assert_eq!(keys.status(), StatusCode::NOT_FOUND);
    // A site that points its own name at this machine.
    let rebound = s.http.get(format!("{}/authorize", s.base)).header(header::HOST, "rebound.example.com");
    assert_eq!(rebound.send().await.unwrap().status(), StatusCode::MISDIRECTED_REQUEST);
}

#[tokio::test]
async fn scripts_of_other_sites_reach_what_clients_need_and_nothing_else() {
    let s = SignIn::new().await;
    let base = s.entra.url();
    let preflight = |url: String| {
        s.http
            .request(Method::OPTIONS, url)
            .header(header::ORIGIN, "https://vscode.dev")
            .header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST")
            .header(header::ACCESS_CONTROL_REQUEST_HEADERS, "content-type,mcp-protocol-version")
            .send()
    };
    for path in [
        "organizations/oauth2/v2.0/token",
        "organizations/oauth2/v2.0/register",
        ".well-known/oauth-authorization-server/organizations/v2.0",
        "organizations/v2.0/.well-known/openid-configuration",
    ] {
        let response = preflight(format!("{base}/{path}")).await.unwrap();
        assert_eq!(response.status(), StatusCode::NO_CONTENT, "{path}");
        assert_eq!(response.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*", "{path}");
        assert!(response.headers().get(header::ACCESS_CONTROL_ALLOW_CREDENTIALS).is_none());
    }
    for path in ["organizations/oauth2/v2.0/authorize", "_standin/token"] {
        let response = preflight(format!("{base}/{path}")).await.unwrap();
        assert!(response.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN).is_none(), "{path}");
    }
    // A refusal is readable as well, or the client could not say why.
    let (_, refused) = s.redeem("made-up", &[]).await;
    assert_eq!(number(&refused), 70_008);
    let response = s.post("token", &[]).await;
    assert_eq!(response.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
}
