//! Azure clients that the operator and the gateway share: trust roots, credentials, Key Vault secrets, embeddings.
//!
//! Everything goes over https, with the system's trust roots and those of `--ca-file`.

mod credential;
pub mod embeddings;
mod http;
mod options;
mod secrets;

pub use embeddings::{Embeddings, EmbeddingsConfig, EmbeddingsConfigError, EmbeddingsEntry, EmbeddingsError};
pub use http::{CaFileError, client};
pub use options::{AzureOptions, CredentialKind, OptionsError};
pub use secrets::{Secret, SecretError, SecretStore, SecretValue, SecretVersion};
