//! The embeddings client over real TLS against the stand-in of Azure OpenAI: what is sent beside the texts, and how much is
//! read.

use std::time::Duration;

use serde_json::{Value, json};
use storefence_devstack::{
    embeddings::{EmbeddingsApi, EmbeddingsOptions, Fault, Model},
    entra::{Entra, EntraOptions},
    tls::Authority,
};
use storefence_runtime::{
    AzureOptions, CredentialKind, Embeddings, EmbeddingsEntry, EmbeddingsError, embeddings::DIMENSIONS,
};
use tempfile::TempDir;

struct Service {
    api: EmbeddingsApi,
    options: AzureOptions,
    directory: TempDir,
    _entra: Entra,
}

impl Service {
    /// Serves one version of the API. Its Entra ID knows no client: whoever gets in has a key.
    async fn start(api_version: Option<&str>) -> Self {
        let authority = Authority::new().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let ca_file = directory.path().join("ca.pem");
        authority.write_pem(&ca_file).unwrap();
        let entra = Entra::start(&authority, EntraOptions::default()).await.unwrap();
        let model = tokio::task::spawn_blocking(|| Model::shared(&|_| ())).await.unwrap().unwrap();
        let options = EmbeddingsOptions { api_version: api_version.map(str::to_owned), ..EmbeddingsOptions::default() };
        let api = EmbeddingsApi::start(&authority, &entra, model, options).await.unwrap();
        let options = AzureOptions {
            ca_file: Some(ca_file),
            credential: CredentialKind::ClientSecret,
            authority_host: entra.url().parse().unwrap(),
            tenant_id: None,
            client_id: None,
            federated_token_file: None,
            client_secret: None,
            key_vault_resource: "https://vault.azure.net".to_owned(),
        };
        Self { api, options, directory, _entra: entra }
    }

    /// A client of `azureOpenAI` with this key, and with what else the configuration says.
    fn client(&self, key: &str, more: &Value) -> Embeddings {
        std::fs::write(self.directory.path().join("key"), key).unwrap();
        let mut entry = json!({
            "provider": "azureOpenAI", "endpoint": self.api.url(), "deployment": self.api.deployment(), "apiKeyFile": "key",
        });
        entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let entry: EmbeddingsEntry = serde_json::from_value(entry).unwrap();
        self.options.embeddings(&entry.check(self.directory.path()).unwrap(), Duration::from_secs(20)).unwrap()
    }
}

fn glue() -> Vec<String> {
    vec!["glue".to_owned()]
}

#[tokio::test]
async fn a_key_and_a_version_of_ones_own_reach_azure() {
    let service = Service::start(Some("2025-04-01-preview")).await;
    let version = json!({"apiVersion": "2025-04-01-preview"});
    let key = service.api.api_key().to_owned();
    let vectors = service.client(&format!("{key}\n"), &version).embed(&glue()).await.unwrap();
    assert_eq!((vectors.len(), vectors[0].len()), (1, DIMENSIONS));
    let other = service.client(&key, &json!({})).embed(&glue()).await.unwrap_err();
    assert!(matches!(other, EmbeddingsError::NotFound(_)), "the version where none is given: {other}");
    let refused = service.client("another-key", &version).embed(&glue()).await.unwrap_err();
    assert!(matches!(refused, EmbeddingsError::Unauthorized(_)), "{refused}");
}

#[tokio::test]
async fn no_more_is_read_than_vectors_take() {
    let service = Service::start(None).await;
    let client = service.client(service.api.api_key(), &json!({}));
    service.api.inject(Fault::Long(300 << 10));
    let error = client.embed(&glue()).await.unwrap_err();
    assert!(matches!(&error, EmbeddingsError::Unusable(problem) if problem.contains("longer than")), "{error}");
    // White space is no reason to refuse an answer that fits, and the connection is fit for use.
    service.api.inject(Fault::Long(100 << 10));
    let error = client.embed(&glue()).await.unwrap_err();
    assert!(error.to_string().contains("fewer than the 1 vectors"), "{error}");
    let all = client.embed(&vec!["picket fence".to_owned(); 256]).await.unwrap();
    assert_eq!(all.len(), 256);
}
