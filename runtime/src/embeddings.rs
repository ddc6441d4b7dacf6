//! Embeddings of texts: Azure OpenAI, or any service with OpenAI's `/embeddings`.
//!
//! The operator embeds the products, the gateway the questions; both must use the same model, since vectors of different
//! models do not compare. [`Embeddings::model`] is the name that is written beside each vector.

mod answer;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use azure_core::credentials::TokenCredential;
use reqwest::{Client, Response, StatusCode};
use serde::{Deserialize, Serialize};
use url::Url;

use self::answer::{ANSWER_MAX, refused, start, vectors};
use crate::{credential::Identity, secrets::SecretValue};

/// Dimensions of the column that the vectors are stored in.
pub const DIMENSIONS: usize = 1536;

/// Most texts of one call: OpenAI's limit is 2,048, that of others is lower.
pub const BATCH_MAX: usize = 256;

/// The resource that tokens for Azure OpenAI are for; differs in sovereign clouds.
const RESOURCE: &str = "https://cognitiveservices.azure.com";

/// The stable version of Azure OpenAI's data plane.
const API_VERSION: &str = "2024-10-21";

/// What the user writes under `embeddings` in the configuration file of operator and gateway.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EmbeddingsEntry {
    provider: Provider,
    endpoint: String,
    deployment: Option<String>,
    model: Option<String>,
    api_version: Option<String>,
    api_key_file: Option<PathBuf>,
    token_resource: Option<String>,
}

/// Whose protocol is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Provider {
    /// Azure OpenAI: deployment in the path, Entra token or `api-key`.
    #[serde(rename = "azureOpenAI")]
    AzureOpenAi,
    /// OpenAI and services like it: model in the body, key as bearer token.
    #[serde(rename = "openAI")]
    OpenAi,
}

/// A field of `embeddings` that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("embeddings.{field}: {problem}")]
pub struct EmbeddingsConfigError {
    /// The field.
    pub field: &'static str,
    /// What is wrong and what is expected.
    pub problem: &'static str,
}

/// A checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddingsConfig {
    provider: Provider,
    url: Url,
    model: String,
    key_file: Option<PathBuf>,
    resource: String,
}

impl EmbeddingsEntry {
    /// Checks the fields. A relative `apiKeyFile` is sought beside the configuration, in `directory`.
    ///
    /// # Errors
    /// [`EmbeddingsConfigError`] names the field.
    pub fn check(self, directory: &Path) -> Result<EmbeddingsConfig, EmbeddingsConfigError> {
        let Self { provider, endpoint, deployment, model, api_version, api_key_file, token_resource } = self;
        let refuse = |field, problem| EmbeddingsConfigError { field, problem };
        let given = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.trim().is_empty());
        let mut url = Url::parse(endpoint.trim_end_matches('/'))
            .ok()
            .filter(|url| url.scheme() == "https" && url.host().is_some() && url.query().is_none())
            .ok_or_else(|| refuse("endpoint", "an https:// URL is expected, such as https://NAME.openai.azure.com"))?;
        let extend = |url: &mut Url, segments: &[&str]| {
            // Always there: https URLs have a path.
            if let Ok(mut path) = url.path_segments_mut() {
                path.pop_if_empty().extend(segments);
            }
        };
        match provider {
            Provider::AzureOpenAi => {
                let deployment = deployment
                    .filter(|name| !name.trim().is_empty())
                    .ok_or_else(|| refuse("deployment", "is required with azureOpenAI: the name of the deployment"))?;
                extend(&mut url, &["openai", "deployments", &deployment, "embeddings"]);
                url.query_pairs_mut().append_pair("api-version", api_version.as_deref().unwrap_or(API_VERSION));
                let model = model.filter(|name| !name.trim().is_empty()).unwrap_or(deployment);
                let resource = token_resource.unwrap_or_else(|| RESOURCE.to_owned());
                Ok(EmbeddingsConfig {
                    provider,
                    url,
                    model,
                    key_file: api_key_file.map(|file| directory.join(file)),
                    resource,
                })
            }
            Provider::OpenAi => {
                for (field, unused) in [
                    ("deployment", deployment.is_some()),
                    ("apiVersion", api_version.is_some()),
                    ("tokenResource", token_resource.is_some()),
                ] {
                    if unused {
                        return Err(refuse(field, "belongs to azureOpenAI; openAI has endpoint, model and apiKeyFile"));
                    }
                }
                if !given(&model) {
                    return Err(refuse("model", "is required with openAI: the name of the model"));
                }
                extend(&mut url, &["embeddings"]);
                Ok(EmbeddingsConfig {
                    provider,
                    url,
                    model: model.unwrap_or_default(),
                    key_file: api_key_file.map(|file| directory.join(file)),
                    resource: String::new(),
                })
            }
        }
    }
}

impl EmbeddingsConfig {
    /// Whether our own Entra identity is used.
    #[must_use]
    pub fn needs_credential(&self) -> bool {
        self.provider == Provider::AzureOpenAi && self.key_file.is_none()
    }

    /// Name of the model, as it is written beside each vector.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }
}

/// A call that gave no vectors. The texts name no input and no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmbeddingsError {
    /// Too many calls or tokens.
    #[error("the embeddings service is throttling calls")]
    Throttled {
        /// When to come back, if the service says.
        retry_after: Option<Duration>,
    },
    /// No answer, or none in order; trying again may help.
    #[error("the embeddings service is not available: {message}")]
    Unavailable {
        /// What happened.
        message: String,
        /// When to come back, if the service says.
        retry_after: Option<Duration>,
    },
    /// No token or key, or one that is not accepted.
    #[error("the embeddings service does not accept our identity: {0}")]
    Unauthorized(String),
    /// No such deployment, model or path.
    #[error("the embeddings service knows no such deployment or model: {0}")]
    NotFound(String),
    /// The request was refused; trying again does not help.
    #[error("the embeddings service refused the request: {0}")]
    Invalid(String),
    /// The vectors cannot be used.
    #[error("the embeddings service gave vectors that cannot be used: {0}")]
    Unusable(String),
}

impl EmbeddingsError {
    /// The reason in events, logs and metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Throttled { .. } => "EmbeddingsThrottled",
            Self::Unavailable { .. } => "EmbeddingsUnavailable",
            Self::Unauthorized(_) => "EmbeddingsUnauthorized",
            Self::NotFound(_) => "EmbeddingsNotFound",
            Self::Invalid(_) => "EmbeddingsRefused",
            Self::Unusable(_) => "EmbeddingsUnusable",
        }
    }

    /// When to try again: `None` where it does not help, otherwise what the service asked for, if anything.
    #[must_use]
    pub const fn retry(&self) -> Option<Option<Duration>> {
        match self {
            Self::Throttled { retry_after } | Self::Unavailable { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }

    /// Whether fewer or other texts may fare better.
    #[must_use]
    pub const fn is_about_texts(&self) -> bool {
        matches!(self, Self::Invalid(_) | Self::Unusable(_))
    }
}

/// A client of one embeddings service. Cheap to clone.
#[derive(Clone)]
pub struct Embeddings {
    config: Arc<EmbeddingsConfig>,
    client: Client,
    credential: Option<Arc<Identity>>,
}

impl Embeddings {
    /// `client` sets the longest wait for an answer.
    pub(crate) fn new(config: EmbeddingsConfig, client: Client, credential: Option<Arc<Identity>>) -> Self {
        let credential = credential.filter(|_| config.needs_credential());
        Self { config: Arc::new(config), client, credential }
    }

    /// Name of the model, as it is written beside each vector.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.config.model
    }

    /// The vectors of some texts, in their order; at most [`BATCH_MAX`] of them. Each has [`DIMENSIONS`] dimensions:
    /// shorter ones are filled up with zeros, which leaves the cosine as it is.
    ///
    /// # Errors
    /// [`EmbeddingsError`]; one call, and another one only where a token of ours is refused.
    pub async fn embed(&self, inputs: &[String]) -> Result<Vec<Vec<f32>>, EmbeddingsError> {
        let mut response = self.send(inputs).await?;
        if response.status() == StatusCode::UNAUTHORIZED
            && let Some(identity) = &self.credential
            && identity.renew()
        {
            response = self.send(inputs).await?;
        }
        let (status, headers) = (response.status(), response.headers().clone());
        let most = ANSWER_MAX * (inputs.len() + 1);
        let (body, is_whole) = start(response, most).await.map_err(unavailable)?;
        if status != StatusCode::OK {
            return Err(refused(status, &headers, &body));
        }
        if !is_whole {
            let problem = format!("the answer for {} texts is longer than {most} bytes", inputs.len());
            return Err(EmbeddingsError::Unusable(problem));
        }
        vectors(&body, inputs.len())
    }

    async fn send(&self, inputs: &[String]) -> Result<Response, EmbeddingsError> {
        let model = (self.config.provider == Provider::OpenAi).then(|| self.config.model.as_str());
        let request = self.client.post(self.config.url.clone()).json(&Request { input: inputs, model });
        let request = match (self.config.provider, self.key().await?) {
            (Provider::AzureOpenAi, Some(key)) => request.header("api-key", key.expose()),
            (Provider::OpenAi, Some(key)) => request.bearer_auth(key.expose()),
            (Provider::OpenAi, None) => request,
            (Provider::AzureOpenAi, None) => request.bearer_auth(self.token().await?.expose()),
        };
        request.send().await.map_err(unavailable)
    }

    async fn key(&self) -> Result<Option<SecretValue>, EmbeddingsError> {
        let Some(path) = &self.config.key_file else { return Ok(None) };
        // Read each time: a mounted secret that is rotated needs no restart.
        let text = tokio::fs::read_to_string(path).await.map_err(|error| {
            EmbeddingsError::Unauthorized(format!("embeddings.apiKeyFile: cannot read {}: {error}", path.display()))
        })?;
        let key = text.trim();
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            let message = format!("embeddings.apiKeyFile: {} does not hold a key", path.display());
            return Err(EmbeddingsError::Unauthorized(message));
        }
        Ok(Some(SecretValue::new(key.to_owned())))
    }

    async fn token(&self) -> Result<SecretValue, EmbeddingsError> {
        let Some(credential) = &self.credential else {
            return Err(EmbeddingsError::Unauthorized("there is neither a key nor an identity".to_owned()));
        };
        let scope = format!("{}/.default", self.config.resource.trim_end_matches('/'));
        // The SDK keeps the token until it is about to expire.
        let token = credential.get_token(&[&scope], None).await.map_err(|error| {
            if crate::secrets::is_outage(&error) {
                EmbeddingsError::Unavailable { message: error.to_string(), retry_after: None }
            } else {
                EmbeddingsError::Unauthorized(error.to_string())
            }
        })?;
        Ok(SecretValue::new(token.token.secret().to_owned()))
    }
}

impl std::fmt::Debug for Embeddings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embeddings").field("url", &self.config.url.as_str()).field("model", &self.config.model).finish()
    }
}

#[derive(Serialize)]
struct Request<'a> {
    input: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
}

fn unavailable(error: reqwest::Error) -> EmbeddingsError {
    EmbeddingsError::Unavailable { message: cause(&error.without_url()), retry_after: None }
}

/// The innermost cause says what happened; reqwest's own text only that something did.
fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let innermost = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source()).last();
    innermost.map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(provider: Provider) -> EmbeddingsEntry {
        EmbeddingsEntry {
            provider,
            endpoint: "https://ai.example/base/".to_owned(),
            deployment: None,
            model: None,
            api_version: None,
            api_key_file: None,
            token_resource: None,
        }
    }

    #[test]
    fn routes_of_both_providers() {
        let azure = EmbeddingsEntry { deployment: Some("te3 s".to_owned()), ..entry(Provider::AzureOpenAi) };
        let azure = azure.check(Path::new("/etc")).unwrap();
        let url = "https://ai.example/base/openai/deployments/te3%20s/embeddings?api-version=2024-10-21";
        assert_eq!((azure.url.as_str(), azure.model(), azure.needs_credential()), (url, "te3 s", true));
        let open =
            EmbeddingsEntry { model: Some("m".to_owned()), api_key_file: Some("k".into()), ..entry(Provider::OpenAi) };
        let open = open.check(Path::new("/etc")).unwrap();
        assert_eq!((open.url.as_str(), open.needs_credential()), ("https://ai.example/base/embeddings", false));
        assert_eq!(open.key_file.as_deref(), Some(Path::new("/etc/k")));
    }

    #[test]
    fn the_wrong_field_is_named() {
        let some = || Some("x".to_owned());
        for (entry, field) in [
            (entry(Provider::AzureOpenAi), "deployment"),
            (entry(Provider::OpenAi), "model"),
            (EmbeddingsEntry { model: some(), deployment: some(), ..entry(Provider::OpenAi) }, "deployment"),
            (EmbeddingsEntry { endpoint: "http://plain".to_owned(), ..entry(Provider::OpenAi) }, "endpoint"),
        ] {
            assert_eq!(entry.check(Path::new("/")).unwrap_err().field, field);
        }
    }
}
