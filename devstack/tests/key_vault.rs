//! The Key Vault stand-in over its real wire. What the real client makes of it stands in the tests of storefence-runtime.

use std::time::Duration;

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use storefence_devstack::{
    entra::{
        Entra, EntraOptions, TokenRequest,
        principals::{CONTOSO_TENANT_ID, ZAVA_TENANT_ID},
    },
    key_vault::{Effect, FaultRule, KeyVault, KeyVaultOptions, Operation, Permissions, RESOURCE},
    tls::Authority,
};

const OFFICER: &str = "0a4f6c1e-0000-4000-8000-000000000001";

struct Vault {
    vault: KeyVault,
    entra: Entra,
    client: Client,
    token: String,
}

async fn start(options: KeyVaultOptions) -> Vault {
    let authority = Authority::new().unwrap();
    let entra = Entra::start(&authority, EntraOptions::default()).await.unwrap();
    let vault = KeyVault::start(&authority, &entra, options).await.unwrap();
    vault.allow(OFFICER, Permissions::officer());
    let certificate = reqwest::Certificate::from_pem(authority.pem().as_bytes()).unwrap();
    let client = Client::builder().tls_certs_only([certificate]).no_proxy().build().unwrap();
    let token = entra.issue(&vault_token()).unwrap();
    Vault { vault, entra, client, token }
}

fn vault_token() -> TokenRequest {
    TokenRequest::application(ZAVA_TENANT_ID, "app", &[])
        .claim("aud", json!(RESOURCE))
        .claim("oid", json!(OFFICER))
        .v1()
}

impl Vault {
    async fn send(&self, method: Method, path: &str, token: Option<&str>, body: Option<Value>) -> reqwest::Response {
        let separator = if path.contains('?') { '&' } else { '?' };
        let url = format!("{}{path}{separator}api-version=2025-07-01", self.vault.url());
        let mut request = self.client.request(method, url);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        request.send().await.unwrap()
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let response = self.send(method, path, Some(&self.token), body).await;
        let status = response.status().as_u16();
        (status, response.json().await.unwrap_or_default())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.ask(Method::GET, path, None).await
    }

    async fn set(&self, name: &str, value: &str) -> (u16, Value) {
        self.ask(Method::PUT, &format!("/secrets/{name}"), Some(json!({"value": value}))).await
    }
}

#[tokio::test]
async fn only_tokens_of_our_tenant_for_this_resource_are_taken() {
    let vault = start(KeyVaultOptions::default()).await;
    let response = vault.send(Method::GET, "/secrets/s/", None, None).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let expected = format!("Bearer authorization=\"{}/{ZAVA_TENANT_ID}\", resource=\"{RESOURCE}\"", vault.entra.url());
    assert_eq!(response.headers()["www-authenticate"], expected);
    assert_eq!(response.json::<Value>().await.unwrap()["error"]["code"], "Unauthorized");

    let other_tenant = TokenRequest { tenant_id: CONTOSO_TENANT_ID.into(), ..vault_token() };
    for request in [
        vault_token().claim("aud", json!("https://management.azure.com")),
        vault_token().expires_in(-120),
        other_tenant,
    ] {
        let token = vault.entra.issue(&request).unwrap();
        let response = vault.send(Method::GET, "/secrets", Some(&token), None).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    }
    let altered = storefence_devstack::entra::with_altered_signature(&vault.token);
    let response = vault.send(Method::GET, "/secrets", Some(&altered), None).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(vault.vault.challenges(), 5);
    assert_eq!(vault.vault.calls(Operation::Get) + vault.vault.calls(Operation::List), 0);
    assert_eq!(vault.get("/secrets").await.0, 200);
}

#[tokio::test]
async fn versions_attributes_and_tags_behave() {
    let vault = start(KeyVaultOptions::default()).await;
    let body = json!({"value": "one", "contentType": "text/plain", "tags": {"a": "1"}, "attributes": {"exp": 4_000_000_000_i64}});
    let (status, first) = vault.ask(Method::PUT, "/secrets/s", Some(body)).await;
    assert_eq!((status, &first["value"], &first["tags"]), (200, &json!("one"), &json!({"a": "1"})));
    assert_eq!(first["attributes"]["exp"], 4_000_000_000_i64);
    assert_eq!(first["attributes"]["recoveryLevel"], "Recoverable+Purgeable");
    let id = first["id"].as_str().unwrap().to_owned();
    assert!(id.starts_with(&format!("{}/secrets/s/", vault.vault.url())));
    let path = id.strip_prefix(vault.vault.url()).unwrap().to_owned();

    assert_eq!(vault.set("s", "two").await.0, 200);
    assert_eq!(vault.get("/secrets/s/").await.1["value"], "two");
    assert_eq!(vault.get("/secrets/s").await.1["value"], "two");
    assert_eq!(vault.get(&path).await.1["value"], "one");
    assert_eq!(vault.get("/secrets/s/versions").await.1["value"].as_array().unwrap().len(), 2);
    assert_eq!(vault.get("/secrets/s/00000000000000000000000000000000").await.0, 404);

    let (status, updated) = vault.ask(Method::PATCH, &path, Some(json!({"attributes": {"enabled": false}}))).await;
    assert_eq!((status, &updated["tags"], updated.get("value")), (200, &json!({"a": "1"}), None));
    assert_eq!((&updated["contentType"], &updated["attributes"]["enabled"]), (&json!("text/plain"), &json!(false)));
    let (status, refused) = vault.get(&path).await;
    assert_eq!((status, &refused["error"]["innererror"]["code"]), (403, &json!("SecretDisabled")));
    let (_, updated) = vault.ask(Method::PATCH, "/secrets/s/", Some(json!({"tags": {"b": "2"}}))).await;
    assert_eq!(updated["tags"], json!({"b": "2"}));
    assert_eq!(vault.vault.secret("s").unwrap().tags["b"], "2");
}

#[tokio::test]
async fn soft_delete_recover_and_purge() {
    let vault = start(KeyVaultOptions::default()).await;
    vault.set("s", "one").await;
    let (status, deleted) = vault.ask(Method::DELETE, "/secrets/s", None).await;
    assert_eq!(status, 200);
    assert_eq!(deleted["recoveryId"], format!("{}/deletedsecrets/s", vault.vault.url()));
    assert!(deleted["scheduledPurgeDate"].as_i64() > deleted["deletedDate"].as_i64());
    assert_eq!(vault.get("/secrets/s").await.1["error"]["code"], "SecretNotFound");
    let (status, conflict) = vault.set("s", "two").await;
    assert_eq!((status, &conflict["error"]["innererror"]["code"]), (409, &json!("ObjectIsDeletedButRecoverable")));
    assert_eq!(vault.vault.deleted_names(), ["s"]);
    assert_eq!(vault.get("/deletedsecrets").await.1["value"].as_array().unwrap().len(), 1);
    assert_eq!(vault.ask(Method::POST, "/deletedsecrets/s/recover", None).await.0, 200);
    assert_eq!(vault.get("/secrets/s").await.1["value"], "one");
    vault.ask(Method::DELETE, "/secrets/s", None).await;
    assert_eq!(vault.ask(Method::DELETE, "/deletedsecrets/s", None).await.0, 204);
    assert_eq!(vault.get("/deletedsecrets/s").await.0, 404);
    assert_eq!(vault.set("s", "two").await.0, 200);
    assert_eq!(vault.vault.versions("s").len(), 1);

    let protected = start(KeyVaultOptions { purge_protection: true, ..KeyVaultOptions::default() }).await;
    protected.set("s", "one").await;
    protected.ask(Method::DELETE, "/secrets/s", None).await;
    assert_eq!(protected.ask(Method::DELETE, "/deletedsecrets/s", None).await.0, 403);

    let options = KeyVaultOptions { transition: Duration::from_secs(3600), ..KeyVaultOptions::default() };
    let slow = start(options).await;
    slow.set("s", "one").await;
    slow.ask(Method::DELETE, "/secrets/s", None).await;
    let (status, conflict) = slow.set("s", "two").await;
    assert_eq!((status, &conflict["error"]["innererror"]["code"]), (409, &json!("ObjectIsBeingDeleted")));
    assert_eq!(slow.get("/deletedsecrets/s").await.0, 404);
}

#[tokio::test]
async fn lists_come_in_pages_without_values() {
    let vault = start(KeyVaultOptions::default()).await;
    for n in 0..7 {
        vault.vault.put(&format!("s-{n}"), "x", &[("n", &n.to_string())]);
    }
    let mut path = String::from("/secrets?maxresults=3");
    let mut names = Vec::new();
    for expected in [3, 3, 1] {
        let (_, page) = vault.get(&path).await;
        let items = page["value"].as_array().unwrap();
        assert_eq!(items.len(), expected);
        assert!(items.iter().all(|item| item.get("value").is_none() && item["tags"]["n"].is_string()));
        names.extend(items.iter().map(|item| item["id"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()));
        let next = page["nextLink"].as_str().unwrap_or_default();
        // The test adds the version that the link has already.
        path = next.trim_start_matches(vault.vault.url()).replace("api-version=2025-07-01&", "");
    }
    assert_eq!(path, "");
    assert_eq!(names, vault.vault.names());
}

#[tokio::test]
async fn bad_requests_and_missing_permissions_are_named() {
    let vault = start(KeyVaultOptions::default()).await;
    for (method, path, body, status) in [
        (Method::GET, "/secrets/a_b", None, 400),
        (Method::PUT, "/secrets/s", Some(json!({})), 400),
        (Method::PUT, "/secrets/s", Some(json!({"value": "x".repeat(26_000)})), 400),
        (Method::PUT, "/secrets/s", Some(json!([])), 400),
        (Method::GET, "/secrets?maxresults=26", None, 400),
        (Method::GET, "/keys", None, 405),
    ] {
        let (answered, body) = vault.ask(method.clone(), path, body).await;
        assert_eq!(answered, status, "{method} {path}");
        assert!(body["error"]["code"].is_string() && body["error"]["message"].is_string());
    }
    let url = format!("{}/secrets", vault.vault.url());
    let response = vault.client.get(url).bearer_auth(&vault.token).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_REQUEST, "no api-version");

    vault.vault.allow(OFFICER, Permissions::user());
    let (status, refused) = vault.set("s", "x").await;
    assert_eq!((status, &refused["error"]["innererror"]["code"]), (403, &json!("ForbiddenByRbac")));
    assert_eq!(vault.get("/secrets").await.0, 200);
    vault.vault.forbid(OFFICER);
    assert_eq!(vault.get("/secrets").await.0, 403);
}

#[tokio::test]
async fn faults_hit_what_they_name_and_calls_are_counted() {
    let vault = start(KeyVaultOptions::default()).await;
    vault.set("s", "one").await;
    vault.set("t", "one").await;
    vault.vault.reset_calls();
    vault
        .vault
        .inject(FaultRule::new(Effect::Status(500, "InternalError".into())).on(Operation::Get).secret("s").times(2));
    vault.vault.inject(FaultRule::new(Effect::Throttle(3)).on(Operation::Set).after(1));
    assert_eq!(vault.get("/secrets/t").await.0, 200);
    assert_eq!(vault.get("/secrets/s").await.0, 500);
    assert_eq!(vault.get("/secrets/s").await.0, 500);
    assert_eq!(vault.get("/secrets/s").await.0, 200);
    assert_eq!(vault.vault.writes(), 0);
    assert_eq!(vault.set("t", "two").await.0, 200);
    let throttled = vault.send(Method::PUT, "/secrets/t", Some(&vault.token), Some(json!({"value": "3"}))).await;
    assert_eq!((throttled.status().as_u16(), &throttled.headers()["retry-after"]), (429, &"3".parse().unwrap()));
    assert_eq!(vault.vault.secret("t").unwrap().value, "two", "a throttled call does nothing");
    assert_eq!((vault.vault.calls(Operation::Get), vault.vault.writes()), (4, 2));

    // The write happens, the answer is lost.
    vault.vault.inject(FaultRule::new(Effect::HalfResponse));
    let response = vault.send(Method::PUT, "/secrets/t", Some(&vault.token), Some(json!({"value": "four"}))).await;
    assert!(response.bytes().await.is_err());
    assert_eq!(vault.vault.secret("t").unwrap().value, "four");

    vault.vault.inject(FaultRule::new(Effect::Hang).always());
    let url = format!("{}/secrets?api-version=7.5", vault.vault.url());
    let hung = vault.client.get(url).bearer_auth(&vault.token).timeout(Duration::from_millis(200)).send().await;
    assert!(hung.unwrap_err().is_timeout());
    vault.vault.clear_faults();

    assert!(vault.vault.edit("t", |secret| secret.value = String::from("tampered")));
    assert_eq!(vault.get("/secrets/t").await.1["value"], "tampered");
    assert!(!vault.vault.edit("absent", |_| ()));
}
