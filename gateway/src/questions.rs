//! Vectors of the texts that callers search for: requested from the provider once, and cached for a while.

use std::{sync::Arc, time::Duration};

use moka::future::Cache;
use sha2::{Digest, Sha256};
use storefence_runtime::{Embeddings, EmbeddingsError};

use crate::metrics::Metrics;

/// Timeout for the vector of a question: a caller waits for it.
pub const TIMEOUT: Duration = Duration::from_secs(5);
/// Vectors that are cached, at 6 KiB each, and for how long.
const REMEMBERED: (u64, Duration) = (1_000, Duration::from_secs(600));

/// Embeds questions.
pub struct Questions {
    provider: Option<Embeddings>,
    cache: Cache<[u8; 32], Arc<Vec<f32>>>,
    metrics: Arc<Metrics>,
}

/// A question as a vector.
#[derive(Debug)]
pub struct Question {
    pub vector: Arc<Vec<f32>>,
    /// The model that made it.
    pub model: String,
}

/// Why there is no vector.
#[derive(Debug, thiserror::Error)]
pub enum QuestionError {
    /// No provider is configured.
    #[error("no embeddings provider is configured")]
    NotConfigured,
    /// The provider failed.
    #[error(transparent)]
    Provider(#[from] Arc<EmbeddingsError>),
}

impl Questions {
    /// Uses this provider, if there is one.
    #[must_use]
    pub fn new(provider: Option<Embeddings>, metrics: Arc<Metrics>) -> Self {
        let cache = Cache::builder().max_capacity(REMEMBERED.0).time_to_live(REMEMBERED.1).build();
        Self { provider, cache, metrics }
    }

    /// Name of the provider's model; empty without a provider.
    #[must_use]
    pub fn model(&self) -> &str {
        self.provider.as_ref().map_or("", Embeddings::model)
    }

    /// Requests one vector from the provider, without the cache, and returns the model's name.
    ///
    /// # Errors
    /// [`QuestionError`].
    pub async fn probe(&self) -> Result<&str, QuestionError> {
        let provider = self.provider.as_ref().ok_or(QuestionError::NotConfigured)?;
        provider.embed(&["storefence".to_owned()]).await.map_err(Arc::new)?;
        Ok(provider.model())
    }

    /// The vector of a text. Callers with the same text wait for one request; failures are not cached.
    ///
    /// # Errors
    /// [`QuestionError`].
    pub async fn embed(&self, text: &str) -> Result<Question, QuestionError> {
        let provider = self.provider.as_ref().ok_or(QuestionError::NotConfigured)?;
        // The vector depends on the text alone, so sharing it between tenants reveals nothing about their rows.
        let key: [u8; 32] = Sha256::digest(text.as_bytes()).into();
        let asked = async {
            let vectors = provider.embed(&[text.to_owned()]).await;
            let outcome = vectors.as_ref().map_or_else(EmbeddingsError::reason, |_| "ok");
            self.metrics.embeddings.with_label_values(&[outcome]).inc();
            vectors.map(|mut vectors| Arc::new(vectors.swap_remove(0)))
        };
        let vector = self.cache.try_get_with(key, asked).await?;
        Ok(Question { vector, model: provider.model().to_owned() })
    }
}
