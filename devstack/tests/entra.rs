//! The Entra ID stand-in over its real wire: TLS, HTTP, JSON.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use storefence_devstack::{
    entra::{
        ClientApp, Endpoint, Entra, EntraOptions, Fault, KeyIssuer, Signing, SigningKey, TokenRequest, TokenVersion,
        principals::{self, AUDIENCE, CONTOSO_TENANT_ID, SCOPE, ZAVA_TENANT_ID},
        with_altered_signature,
    },
    tls::Authority,
};

const VAULT: &str = "https://vault.azure.net";

async fn start() -> (Entra, Client) {
    let authority = Authority::new().unwrap();
    let entra = Entra::start(&authority, EntraOptions::default()).await.unwrap();
    let certificate = reqwest::Certificate::from_pem(authority.pem().as_bytes()).unwrap();
    let client = Client::builder().tls_certs_only([certificate]).no_proxy().build().unwrap();
    (entra, client)
}

async fn get(client: &Client, url: &str) -> Value {
    let response = client.get(url).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "{url}");
    response.json().await.unwrap()
}

fn part(token: &str, index: usize) -> Value {
    let part = token.split('.').nth(index).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

async fn post_form(client: &Client, url: String, form: &[(&str, &str)]) -> (StatusCode, Value) {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    let request = client.post(url).header("content-type", "application/x-www-form-urlencoded").body(body);
    let response = request.send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

#[tokio::test]
async fn publishes_configuration_and_keys_per_tenant_and_version() {
    let (entra, client) = start().await;
    let base = entra.url();
    let v2 = get(&client, &format!("{base}/{ZAVA_TENANT_ID}/v2.0/.well-known/openid-configuration")).await;
    assert_eq!(v2["issuer"], format!("{base}/{ZAVA_TENANT_ID}/v2.0"));
    assert_eq!(v2["jwks_uri"], format!("{base}/{ZAVA_TENANT_ID}/discovery/v2.0/keys"));
    let v1 = get(&client, &format!("{base}/{ZAVA_TENANT_ID}/.well-known/openid-configuration")).await;
    assert_eq!(v1["issuer"], format!("{base}/{ZAVA_TENANT_ID}/"));
    let common = get(&client, &format!("{base}/common/v2.0/.well-known/openid-configuration")).await;
    assert_eq!(common["issuer"], format!("{base}/{{tenantid}}/v2.0"));

    let keys = get(&client, v2["jwks_uri"].as_str().unwrap()).await;
    let key = &keys["keys"][0];
    assert_eq!(key["issuer"], format!("{base}/{{tenantid}}/v2.0"));
    assert_eq!((&key["kty"], &key["use"]), (&json!("RSA"), &json!("sig")));
    assert!(key["x5c"][0].is_string());
    let old = get(&client, v1["jwks_uri"].as_str().unwrap()).await;
    assert_eq!(old["keys"][0]["n"], key["n"]);
    assert_eq!(old["keys"][0].get("issuer"), None);
    assert_eq!(entra.key_fetches(ZAVA_TENANT_ID), 2);
    assert_eq!(entra.key_fetches(CONTOSO_TENANT_ID), 0);

    let unknown = client.get(format!("{base}/unknown.example/discovery/v2.0/keys")).send().await.unwrap();
    assert_eq!(unknown.status(), StatusCode::BAD_REQUEST);
    assert_eq!(unknown.json::<Value>().await.unwrap()["error_codes"], json!([90002]));
}

#[tokio::test]
async fn issues_user_tokens_of_both_versions_that_verify() {
    let (entra, _client) = start().await;
    let seattle = principals::find("seattle-manager").unwrap();
    let token = entra.issue(&TokenRequest::principal(seattle)).unwrap();
    let claims = entra.verifier().verify(&token, AUDIENCE).unwrap();
    assert_eq!(claims["iss"], entra.issuer(ZAVA_TENANT_ID, TokenVersion::V2));
    assert_eq!(claims["tid"], ZAVA_TENANT_ID);
    assert_eq!(claims["oid"], seattle.oid);
    assert_eq!(claims["scp"], SCOPE);
    assert_eq!(claims["ver"], "2.0");
    assert!(claims.contains_key("azp") && !claims.contains_key("appid"));
    assert!(claims["nbf"].is_i64() && claims["sub"] != claims["oid"]);

    let token = entra.issue(&TokenRequest::principal(seattle).v1()).unwrap();
    let claims = entra.verifier().verify(&token, "api://storefence").unwrap();
    assert_eq!(claims["iss"], entra.issuer(ZAVA_TENANT_ID, TokenVersion::V1));
    assert_eq!(claims["ver"], "1.0");
    assert!(claims.contains_key("appid") && !claims.contains_key("azp"));
    assert!(entra.verifier().verify(&token, AUDIENCE).is_err(), "another audience");

    let app = part(&entra.issue(&TokenRequest::application(ZAVA_TENANT_ID, "app", &["Role"])).unwrap(), 1);
    assert_eq!((&app["idtyp"], &app["roles"], app.get("scp")), (&json!("app"), &json!(["Role"]), None));
    let overage = part(&entra.issue(&TokenRequest::principal(seattle).group_overage()).unwrap(), 1);
    assert_eq!((overage.get("groups"), &overage["_claim_names"]["groups"]), (None, &json!("src1")));
}

#[tokio::test]
async fn every_claim_header_and_signature_can_be_wrong() {
    let (entra, _client) = start().await;
    let verifier = entra.verifier();
    let user = || TokenRequest::user(ZAVA_TENANT_ID);
    let issue = |request: TokenRequest| entra.issue(&request).unwrap();
    assert!(verifier.verify(&issue(user()), AUDIENCE).is_ok());

    let changed = issue(user().claim("scp", Value::Null).claim("extra", json!([1])).header("kid", json!("../../x")));
    assert_eq!((part(&changed, 1).get("scp"), &part(&changed, 1)["extra"]), (None, &json!([1])));
    assert_eq!(part(&changed, 0)["kid"], "../../x");
    let none = issue(user().signing(Signing::None).header("alg", json!("nOnE")));
    assert!(none.ends_with('.') && part(&none, 0)["alg"] == "nOnE");
    let foreign = Arc::new(SigningKey::generate(Some("foreign"), KeyIssuer::Absent).unwrap());
    let raw = TokenRequest { raw_payload: Some(String::from(r#"{"aud":"a","aud":"b"}"#)), ..user() };
    let refused = [
        changed,
        none,
        issue(user().signing(Signing::HmacWithPublicKey)),
        issue(user().signing(Signing::Hmac(b"secret".to_vec()))),
        issue(user().signing(Signing::Algorithm(Algorithm::RS512))),
        issue(user().signing(Signing::Algorithm(Algorithm::PS256))),
        issue(user().signing(Signing::Key(Arc::clone(&foreign)))),
        // A published key ID over a foreign signature.
        issue(
            user()
                .signing(Signing::Key(foreign))
                .header("kid", json!(entra.current_key(ZAVA_TENANT_ID).unwrap().kid())),
        ),
        issue(user().expires_in(-120)),
        issue(user().claim("nbf", json!(4_000_000_000_i64))),
        issue(user().claim("exp", Value::Null)),
        issue(user().claim("iss", json!("https://evil.example/"))),
        issue(raw),
        with_altered_signature(&issue(user())),
    ];
    for token in refused {
        assert!(verifier.verify(&token, AUDIENCE).is_err(), "{} {}", part(&token, 0), part(&token, 1));
    }
}

#[tokio::test]
async fn keys_rotate_and_tenants_can_have_their_own() {
    let (entra, client) = start().await;
    let url = format!("{}/{ZAVA_TENANT_ID}/discovery/v2.0/keys", entra.url());
    let count = |document: &Value| document["keys"].as_array().unwrap().len();
    let before = entra.issue(&TokenRequest::user(ZAVA_TENANT_ID)).unwrap();
    let key = entra.rotate_keys().unwrap();
    let after = entra.issue(&TokenRequest::user(ZAVA_TENANT_ID)).unwrap();
    assert_eq!(part(&after, 0)["kid"], key.kid());
    assert_ne!(part(&before, 0)["kid"], key.kid());
    assert_eq!(count(&get(&client, &url).await), 2);
    assert!(entra.verifier().verify(&before, AUDIENCE).is_ok());
    entra.retire_old_keys();
    assert_eq!(count(&get(&client, &url).await), 1);
    assert!(entra.verifier().verify(&before, AUDIENCE).is_err());
    assert!(entra.verifier().verify(&after, AUDIENCE).is_ok());

    let own = SigningKey::generate(Some("contoso-only"), KeyIssuer::Tenant(CONTOSO_TENANT_ID.into())).unwrap();
    entra.add_tenant_key(CONTOSO_TENANT_ID, Arc::new(own));
    let contoso = get(&client, &url.replace(ZAVA_TENANT_ID, CONTOSO_TENANT_ID)).await;
    assert_eq!(contoso["keys"][1]["issuer"], format!("{}/{CONTOSO_TENANT_ID}/v2.0", entra.url()));
    assert_eq!(count(&get(&client, &url).await), 1);
    let token = entra.issue(&TokenRequest::user(CONTOSO_TENANT_ID)).unwrap();
    assert_eq!(part(&token, 0)["kid"], "contoso-only");
}

#[tokio::test]
async fn applications_log_in_with_a_secret_or_a_service_account() {
    let (entra, client) = start().await;
    let subject = "system:serviceaccount:storefence:operator";
    let app = ClientApp::with_secret(ZAVA_TENANT_ID).federated(subject);
    entra.add_client(app.clone());
    let url = format!("{}/{ZAVA_TENANT_ID}/oauth2/v2.0/token", entra.url());
    let secret = app.secret.clone().unwrap();
    let scope = format!("{VAULT}/.default");
    let form = |secret: &str, scope: &str| {
        [
            ("client_id", app.client_id.clone()),
            ("client_secret", secret.into()),
            ("scope", scope.into()),
            ("grant_type", "client_credentials".into()),
        ]
    };
    let ask = async |fields: &[(&'static str, String)]| {
        let pairs: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        post_form(&client, url.clone(), &pairs).await
    };

    let (status, answer) = ask(&form(&secret, &scope)).await;
    assert_eq!((status, &answer["token_type"]), (StatusCode::OK, &json!("Bearer")));
    let claims = entra.verifier().verify(answer["access_token"].as_str().unwrap(), VAULT).unwrap();
    assert_eq!((&claims["oid"], &claims["appid"]), (&json!(app.object_id), &json!(app.client_id)));

    let assertion = entra.service_account_token(subject).unwrap();
    let federated = |assertion: String| {
        [
            ("client_id", app.client_id.clone()),
            ("client_assertion", assertion),
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer".into()),
            ("scope", scope.clone()),
            ("grant_type", "client_credentials".into()),
        ]
    };
    assert_eq!(ask(&federated(assertion)).await.0, StatusCode::OK);

    let other = entra.service_account_token("system:serviceaccount:other:other").unwrap();
    let mut no_grant = form(&secret, &scope);
    no_grant[3].1 = String::from("password");
    let mut unknown = form(&secret, &scope);
    unknown[0].1 = String::from("5f0c6f3e-0000-0000-0000-000000000000");
    for (fields, status, code) in [
        (form("wrong", &scope).to_vec(), 401, 7_000_215),
        (form(&secret, "https://nothing.example/.default").to_vec(), 400, 500_011),
        (form(&secret, "openid").to_vec(), 400, 1_002_012),
        (no_grant.to_vec(), 400, 70_003),
        (unknown.to_vec(), 400, 700_016),
        (federated(other).to_vec(), 401, 700_213),
        (federated(String::from("a.b.c")).to_vec(), 401, 700_027),
    ] {
        let (answered, body) = ask(&fields).await;
        assert_eq!((answered.as_u16(), &body["error_codes"]), (status, &json!([code])), "{body}");
        assert!(body["error_description"].as_str().unwrap().starts_with(&format!("AADSTS{code}: ")));
    }
}

#[tokio::test]
async fn the_stand_in_route_issues_what_is_asked_for() {
    let (entra, client) = start().await;
    let url = format!("{}/_standin/token", entra.url());
    let ask = async |body: Value| {
        let response = client.post(&url).json(&body).send().await.unwrap();
        (response.status(), response.json::<Value>().await.unwrap())
    };
    let (status, answer) = ask(json!({
        "principal": "claim-user", "claims": {"scp": null, "extra": 1}, "expiresIn": 60, "header": {"kid": null}
    }))
    .await;
    assert_eq!(status, StatusCode::OK);
    let token = answer["access_token"].as_str().unwrap();
    let claims = part(token, 1);
    assert_eq!(claims["extn.storeIds"], json!(["Seattle", "Redmond"]));
    assert_eq!((claims.get("scp"), &claims["extra"]), (None, &json!(1)));
    assert_eq!(part(token, 0).get("kid"), None);
    let (_, answer) = ask(json!({"tenantId": CONTOSO_TENANT_ID, "version": 1})).await;
    assert_eq!(part(answer["access_token"].as_str().unwrap(), 1)["ver"], "1.0");
    for wrong in
        [json!({}), json!({"principal": "nobody"}), json!({"tenantId": "t", "version": 3}), json!({"tenant": "t"})]
    {
        assert_eq!(ask(wrong).await.0, StatusCode::BAD_REQUEST);
    }
}

#[tokio::test]
async fn faults_replace_answers_until_they_are_lifted() {
    let (entra, client) = start().await;
    let url = format!("{}/{ZAVA_TENANT_ID}/discovery/v2.0/keys", entra.url());
    entra.set_fault(Endpoint::Keys, Some(Fault::Status(500)));
    assert_eq!(client.get(&url).send().await.unwrap().status(), StatusCode::INTERNAL_SERVER_ERROR);
    entra.set_fault(Endpoint::Keys, Some(Fault::Body("text/html".into(), "<html>".into())));
    assert_eq!(client.get(&url).send().await.unwrap().text().await.unwrap(), "<html>");
    entra.set_fault(Endpoint::Keys, Some(Fault::Hang));
    let hung = client.get(&url).timeout(Duration::from_millis(200)).send().await;
    assert!(hung.unwrap_err().is_timeout());
    entra.set_fault(Endpoint::Keys, Some(Fault::Slow(Duration::from_millis(50))));
    get(&client, &url).await;
    entra.set_fault(Endpoint::Keys, None);
    entra.server().set_down(true);
    assert!(client.get(&url).send().await.is_err());
    entra.server().set_down(false);
    get(&client, &url).await;
    assert_eq!(entra.key_fetches(ZAVA_TENANT_ID), 5, "requests while the server is down do not arrive");
}

#[test]
fn sample_principals_are_eight_people_with_their_own_ids() {
    let mut oids: Vec<&str> = principals::all().iter().map(|principal| principal.oid).collect();
    oids.sort_unstable();
    oids.dedup();
    assert_eq!(oids.len(), 8);
    for principal in principals::all() {
        assert!(uuid::Uuid::parse_str(principal.oid).is_ok() && uuid::Uuid::parse_str(principal.tenant_id).is_ok());
        assert_eq!(principal.claims()["oid"], principal.oid);
    }
}
