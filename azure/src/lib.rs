//! What the operator and the gateway share: Azure clients (trust roots, credentials, Key Vault secrets, embeddings), and the
//! probe of their own health.
//!
//! Everything that leaves the process's machine goes over https, with the system's trust roots and those of `--ca-file`.

mod credential;
pub mod embeddings;
mod http;
mod options;
mod probe;
mod secrets;

pub use embeddings::{Embeddings, EmbeddingsConfig, EmbeddingsConfigError, EmbeddingsEntry, EmbeddingsError};
pub use http::{CaFileError, client};
pub use options::{AzureOptions, CredentialKind, OptionsError};
pub use probe::{ProbeError, ProbeOptions};
pub use secrets::{Secret, SecretError, SecretStore, SecretValue, SecretVersion};
