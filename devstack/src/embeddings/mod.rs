//! A stand-in for Azure OpenAI's embeddings, with a real model behind the real route.
//!
//! `POST /openai/deployments/{deployment}/embeddings?api-version=…` takes a bearer token of the Entra ID stand-in for
//! `https://cognitiveservices.azure.com` from principals that were allowed, or the `api-key`. `POST /v1/embeddings` is
//! OpenAI's own route, with the same key as bearer token. Vectors have 1536 dimensions: the model's 384, then zeros, which
//! leaves every cosine as it is.

mod model;
mod routes;

use std::{
    collections::{HashSet, VecDeque},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub use model::{Embedded, Model, ModelError};

use crate::{
    entra::{Entra, Verifier},
    http::{self, Bind, ServerHandle},
    random,
    tls::{self, Authority},
};

/// The audience of tokens for Azure OpenAI.
pub const RESOURCE: &str = "https://cognitiveservices.azure.com";

/// Dimensions of the vectors.
pub const DIMENSIONS: usize = 1536;

/// What can go wrong while starting.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server's certificate could not be made.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// The server could not listen.
    #[error("the embeddings stand-in cannot listen: {0}")]
    Listen(#[from] io::Error),
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// What happens to a request instead of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 429 with `Retry-After` in whole seconds.
    Throttle(u64),
    /// 429 with `retry-after-ms`, as Azure OpenAI sends it too.
    ThrottleMillis(u64),
    /// This status, with an error of this code.
    Status(u16, &'static str),
    /// An answer that is not JSON.
    Garbage,
    /// An answer of so many bytes, that is JSON as far as it goes.
    Long(usize),
    /// No answer.
    Hang,
    /// The answer, after a while.
    Slow(Duration),
}

/// How to start the stand-in.
pub struct EmbeddingsOptions {
    /// Where to listen; a free loopback port if not given.
    pub bind: Option<Bind>,
    /// The base URL under which clients reach it, if that is not where it listens.
    pub public_url: Option<String>,
    /// Name of the one deployment.
    pub deployment: String,
    /// The one `api-version` that is served; any if not given.
    pub api_version: Option<String>,
    /// Further DNS names for the server's certificate.
    pub names: Vec<String>,
}

impl Default for EmbeddingsOptions {
    fn default() -> Self {
        Self {
            bind: None,
            public_url: None,
            deployment: "text-embedding-3-small".to_owned(),
            api_version: None,
            names: Vec::new(),
        }
    }
}

/// A running stand-in. Dropping it ends the server.
pub struct EmbeddingsApi {
    server: ServerHandle,
    shared: Arc<Shared>,
}

struct Shared {
    url: String,
    deployment: String,
    api_version: Option<String>,
    key: String,
    model: Arc<Model>,
    verifier: Verifier,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    allowed: HashSet<String>,
    faults: VecDeque<Fault>,
    refused: Option<String>,
    calls: u64,
    inputs: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is complete before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EmbeddingsApi {
    /// Starts the stand-in. `model` comes from [`Model::shared`].
    ///
    /// # Errors
    /// [`Error`].
    pub async fn start(
        authority: &Authority,
        entra: &Entra,
        model: Arc<Model>,
        options: EmbeddingsOptions,
    ) -> Result<Self, Error> {
        let EmbeddingsOptions { bind, public_url, deployment, api_version, names } = options;
        let listener = match bind {
            Some(Bind::Listener(listener)) => listener,
            Some(Bind::Address(address)) => std::net::TcpListener::bind(address)?,
            None => http::bind_loopback()?,
        };
        let url = match public_url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("https://{}", listener.local_addr()?),
        };
        let (key, verifier) = (random::password(), entra.verifier());
        let shared = Arc::new(Shared { url, deployment, api_version, key, model, verifier, state: Mutex::default() });
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let tls = authority.server_config(&names)?;
        let server = http::serve(listener, Some(tls), routes::router(Arc::clone(&shared))).await?;
        Ok(Self { server, shared })
    }

    /// The base URL, without a trailing slash.
    pub fn url(&self) -> &str {
        &self.shared.url
    }

    /// Name of the deployment.
    pub fn deployment(&self) -> &str {
        &self.shared.deployment
    }

    /// The key that it accepts instead of a token.
    pub fn api_key(&self) -> &str {
        &self.shared.key
    }

    /// The server, for cutting it off.
    pub fn server(&self) -> &ServerHandle {
        &self.server
    }

    /// Lets the service principal with this object ID use the deployment: the role Cognitive Services OpenAI User.
    pub fn allow(&self, object_id: &str) {
        self.shared.lock().allowed.insert(object_id.to_owned());
    }

    /// The next request that nothing else is planned for runs into this.
    pub fn inject(&self, fault: Fault) {
        self.shared.lock().faults.push_back(fault);
    }

    pub fn clear_faults(&self) {
        self.shared.lock().faults.clear();
    }

    /// From now on, requests with a text in which these words stand are refused, as a content filter does; `None` ends it.
    pub fn refuse(&self, words: Option<&str>) {
        self.shared.lock().refused = words.map(str::to_owned);
    }

    /// Requests by somebody who may, faults included.
    pub fn calls(&self) -> u64 {
        self.shared.lock().calls
    }

    /// Texts that were embedded.
    pub fn inputs(&self) -> u64 {
        self.shared.lock().inputs
    }

    pub async fn shutdown(self) {
        self.server.shutdown().await;
    }
}
