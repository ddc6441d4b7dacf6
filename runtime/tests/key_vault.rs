//! The real SDK over real TLS against the stand-ins: what works, and what each failure is called.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use azure_core::credentials::TokenCredential as _;
use storefence_devstack::{
    entra::{ClientApp, Endpoint, Entra, EntraOptions, Fault as EntraFault, principals::ZAVA_TENANT_ID},
    key_vault::{Effect, FaultRule, KeyVault, KeyVaultOptions, Operation, Permissions},
    tls::Authority,
};
use storefence_runtime::{AzureOptions, CredentialKind, SecretError, SecretStore, SecretValue};
use tempfile::TempDir;

struct Cloud {
    entra: Entra,
    vault: KeyVault,
    client: ClientApp,
    store: SecretStore,
    options: AzureOptions,
    directory: TempDir,
}

fn options(entra: &Entra, client: &ClientApp, ca_file: PathBuf) -> AzureOptions {
    AzureOptions {
        ca_file: Some(ca_file),
        credential: CredentialKind::ClientSecret,
        authority_host: entra.url().parse().unwrap(),
        tenant_id: Some(client.tenant_id.clone()),
        client_id: Some(client.client_id.clone()),
        federated_token_file: None,
        client_secret: client.secret.clone(),
        key_vault_resource: "https://vault.azure.net".into(),
    }
}

async fn cloud() -> Cloud {
    let authority = Authority::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let ca_file = directory.path().join("ca.pem");
    authority.write_pem(&ca_file).unwrap();
    let entra = Entra::start(&authority, EntraOptions::default()).await.unwrap();
    let vault = KeyVault::start(&authority, &entra, KeyVaultOptions::default()).await.unwrap();
    let client = ClientApp::with_secret(ZAVA_TENANT_ID);
    entra.add_client(client.clone());
    vault.allow(&client.object_id, Permissions::officer());
    let options = options(&entra, &client, ca_file);
    let store = store(&options, &vault);
    Cloud { entra, vault, client, store, options, directory }
}

fn store(options: &AzureOptions, vault: &KeyVault) -> SecretStore {
    let url = vault.url().parse().unwrap();
    options.secret_store(options.credential().unwrap(), &url, Duration::from_secs(2)).unwrap()
}

fn value(text: &str) -> SecretValue {
    SecretValue::new(text.to_owned())
}

fn tags(uid: &str) -> HashMap<String, String> {
    HashMap::from([("managed-by".to_owned(), "storefence".to_owned()), ("storefence-uid".to_owned(), uid.to_owned())])
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_written_read_versioned_disabled_deleted_and_recovered() {
    let Cloud { store, vault, entra, .. } = &cloud().await;
    let first = store.set("sf-zava-db-a", &value("one"), tags("u1")).await.unwrap();
    let second = store.set("sf-zava-db-a", &value("two"), tags("u1")).await.unwrap();
    assert_eq!(store.get("sf-zava-db-a", None).await.unwrap().value.expose(), "two");
    let read = store.get("sf-zava-db-a", Some(&first.version)).await.unwrap();
    assert_eq!((read.value.expose(), read.version.tags.clone()), ("one", tags("u1")));
    assert_eq!(store.versions("sf-zava-db-a").await.unwrap().len(), 2);
    assert_eq!(store.versions("absent").await.unwrap(), []);

    store.update("sf-zava-db-a", &second.version, Some(false), None).await.unwrap();
    assert!(!vault.secret("sf-zava-db-a").unwrap().enabled);
    assert_eq!(vault.secret("sf-zava-db-a").unwrap().tags, tags("u1").into_iter().collect(), "tags stay");
    assert!(matches!(store.get("sf-zava-db-a", None).await, Err(SecretError::Invalid { .. })), "disabled");

    for n in 0..60 {
        vault.put(&format!("other-{n}"), "x", &[]);
    }
    vault.put("foreign", "x", &[("managed-by", "somebody")]);
    let tagged = store.tagged("managed-by", "storefence").await.unwrap();
    assert_eq!(
        tagged.iter().map(|secret| secret.name.as_str()).collect::<Vec<_>>(),
        ["sf-zava-db-a"],
        "over three pages"
    );

    store.delete("sf-zava-db-a").await.unwrap();
    assert_eq!(store.get("sf-zava-db-a", None).await.unwrap_err().reason(), "SecretNotFound");
    let error = store.set("sf-zava-db-a", &value("three"), tags("u2")).await.unwrap_err();
    assert_eq!(error, SecretError::SoftDeleted("sf-zava-db-a".into()));
    store.recover("sf-zava-db-a").await.unwrap();
    store.set("sf-zava-db-a", &value("three"), tags("u2")).await.unwrap();
    store.delete("sf-zava-db-a").await.unwrap();
    store.purge("sf-zava-db-a").await.unwrap();
    assert_eq!(store.versions("sf-zava-db-a").await.unwrap(), []);
    assert_eq!(entra.requests(Endpoint::Token, ZAVA_TENANT_ID), 1, "one token for all calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_failure_has_its_name() {
    let Cloud { store, vault, client, .. } = &cloud().await;
    vault.put("s", "x", &[]);
    for (fault, reason) in [
        (Effect::Status(401, "Unauthorized".into()), "KeyVaultUnauthorized"),
        (Effect::Status(403, "Forbidden".into()), "KeyVaultForbidden"),
        (Effect::Status(409, "Conflict".into()), "SecretConflict"),
        (Effect::Status(400, "BadParameter".into()), "SecretInvalid"),
        (Effect::Status(500, "InternalServerError".into()), "KeyVaultUnreachable"),
        (Effect::Status(503, "ServiceUnavailable".into()), "KeyVaultUnreachable"),
        (Effect::HalfResponse, "KeyVaultUnreachable"),
        (Effect::Hang, "KeyVaultUnreachable"),
    ] {
        vault.inject(FaultRule::new(fault.clone()).on(Operation::Get).secret("s"));
        let error = store.get("s", None).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{fault:?}: {error}");
        assert!(store.get("s", None).await.is_ok(), "{fault:?} is over after one request");
    }
    vault.inject(FaultRule::new(Effect::Throttle(7)));
    let error = store.get("s", None).await.unwrap_err();
    assert_eq!(error, SecretError::Throttled { retry_after: Some(Duration::from_secs(7)) });

    vault.allow(&client.object_id, Permissions::user());
    assert_eq!(store.set("s", &value("y"), HashMap::new()).await.unwrap_err().reason(), "KeyVaultForbidden");
    assert_eq!(vault.secret("s").unwrap().value, "x");
    vault.server().set_down(true);
    assert_eq!(store.get("s", None).await.unwrap_err().reason(), "KeyVaultUnreachable");
    vault.server().set_down(false);
    assert!(store.get("s", None).await.is_ok());
}

/// An authority that starts over with new keys publishes the former ones no more: the vault refuses the token that is kept,
/// long before its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_whose_key_is_published_no_more_is_fetched_anew_once() {
    let Cloud { store, vault, entra, .. } = &cloud().await;
    let tokens = || entra.requests(Endpoint::Token, ZAVA_TENANT_ID);
    vault.put("s", "x", &[]);
    assert!(store.get("s", None).await.is_ok());
    assert_eq!(tokens(), 1);
    entra.rotate_keys().unwrap();
    assert!(store.get("s", None).await.is_ok());
    assert_eq!(tokens(), 1, "the former key is still published");
    entra.retire_old_keys();
    assert!(store.get("s", None).await.is_ok(), "within the same call");
    assert_eq!(tokens(), 2);

    // A vault that refuses every token does not make us ask for one with each call.
    entra.rotate_keys().unwrap();
    entra.retire_old_keys();
    for _ in 0..5 {
        assert_eq!(store.get("s", None).await.unwrap_err().reason(), "KeyVaultUnauthorized");
    }
    assert_eq!(tokens(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_refuses_or_is_away_is_said() {
    let Cloud { options, vault, entra, .. } = &cloud().await;
    let wrong = AzureOptions { client_secret: Some("wrong".into()), ..options.clone() };
    let error = store(&wrong, vault).get("s", None).await.unwrap_err();
    assert_eq!(error.reason(), "KeyVaultUnauthorized");
    assert!(!error.to_string().contains("wrong"), "the secret is not repeated: {error}");
    for fault in [EntraFault::Status(503), EntraFault::Body("text/html".into(), "<html>".into()), EntraFault::Hang] {
        entra.set_fault(Endpoint::Token, Some(fault.clone()));
        let error = store(options, vault).get("s", None).await.unwrap_err();
        assert_eq!(error.reason(), "KeyVaultUnreachable", "{fault:?}: {error}");
    }
    entra.set_fault(Endpoint::Token, None);
    entra.server().set_down(true);
    assert_eq!(store(options, vault).get("s", None).await.unwrap_err().reason(), "KeyVaultUnreachable");
    entra.server().set_down(false);
    vault.put("s", "x", &[]);
    assert!(store(options, vault).get("s", None).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_federated_service_account_gets_in() {
    let cloud = cloud().await;
    let client = ClientApp::with_secret(ZAVA_TENANT_ID).federated("system:serviceaccount:storefence:operator");
    cloud.entra.add_client(client.clone());
    cloud.vault.allow(&client.object_id, Permissions::officer());
    let token = cloud.entra.service_account_token("system:serviceaccount:storefence:operator").unwrap();
    let file = cloud.directory.path().join("token");
    std::fs::write(&file, token).unwrap();
    let options = AzureOptions {
        credential: CredentialKind::WorkloadIdentity,
        client_id: Some(client.client_id),
        client_secret: None,
        federated_token_file: Some(file),
        ..cloud.options.clone()
    };
    store(&options, &cloud.vault).set("s", &value("x"), HashMap::new()).await.unwrap();
}

/// Whatever the server at the vault's address asks for, no other token than one for Key Vault is given.
#[tokio::test(flavor = "multi_thread")]
async fn no_token_for_another_resource_is_asked_for() {
    let cloud = cloud().await;
    let options = AzureOptions { key_vault_resource: "https://vault.azure.cn".into(), ..cloud.options.clone() };
    let before = cloud.entra.requests(Endpoint::Token, ZAVA_TENANT_ID);
    assert_eq!(store(&options, &cloud.vault).get("s", None).await.unwrap_err().reason(), "KeyVaultUnauthorized");
    assert_eq!(cloud.entra.requests(Endpoint::Token, ZAVA_TENANT_ID), before);
}

#[tokio::test]
async fn options_that_make_no_credential_say_which() {
    let cloud = cloud().await;
    let said = |options: AzureOptions| options.credential().unwrap_err().to_string();
    assert!(said(AzureOptions { client_secret: None, ..cloud.options.clone() }).contains("AZURE_CLIENT_SECRET"));
    assert!(said(AzureOptions { tenant_id: None, ..cloud.options.clone() }).contains("AZURE_TENANT_ID"));
    let workload = AzureOptions { credential: CredentialKind::WorkloadIdentity, ..cloud.options.clone() };
    assert!(said(workload).contains("AZURE_FEDERATED_TOKEN_FILE"));
    let http = AzureOptions { authority_host: "http://127.0.0.1:1".parse().unwrap(), ..cloud.options.clone() };
    assert!(said(http).contains("https"));
    let ca = AzureOptions { ca_file: Some("/nonexistent".into()), ..cloud.options.clone() };
    assert!(said(ca).contains("STOREFENCE_CA_FILE"));
    let credential = cloud.options.credential().unwrap();
    let refused =
        cloud.options.secret_store(credential, &"http://127.0.0.1:1".parse().unwrap(), Duration::from_secs(1));
    assert!(refused.unwrap_err().to_string().contains("https"));
}

#[test]
fn values_do_not_show() {
    assert_eq!(format!("{:?}", value("hush")), "SecretValue(…)");
}

/// Not a test: a process with the variables that the platform sets, which a test cannot set for itself.
#[tokio::test]
#[ignore = "started by the_identity_of_the_machine_is_asked_over_plain_http"]
async fn ask_for_the_identity_of_the_machine() {
    let cloud = cloud().await;
    let options = AzureOptions { credential: CredentialKind::ManagedIdentity, ..cloud.options.clone() };
    let token = options.credential().unwrap().get_token(&["https://vault.azure.net/.default"], None).await;
    println!("token {}", token.unwrap().token.secret());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_identity_of_the_machine_is_asked_over_plain_http() {
    let answer =
        r#"{"access_token":"from-the-machine","expires_on":"4000000000","resource":"r","token_type":"Bearer"}"#;
    let json = [("content-type", "application/json")];
    let router = axum::Router::new().route("/msi/token", axum::routing::get(move || async move { (json, answer) }));
    let server =
        storefence_devstack::http::serve(storefence_devstack::http::Bind::loopback(), None, router).await.unwrap();
    let output = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "ask_for_the_identity_of_the_machine", "--ignored", "--nocapture"])
        .env("IDENTITY_ENDPOINT", format!("{}/msi/token", server.url()))
        .env("IDENTITY_HEADER", "header")
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("token from-the-machine"), "{text}");
}
