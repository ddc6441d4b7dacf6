//! What the operator and the gateway share: Azure clients (trust roots, credentials, Key Vault secrets, embeddings), the
//! client of the Kubernetes API and its watch, and the probe of their own health.
//!
//! Everything that leaves the process's machine goes over https, with the system's trust roots and those of `--ca-file`.
#![warn(missing_docs)]

mod backoff;
mod credential;
pub mod embeddings;
mod http;
mod kubernetes;
mod options;
mod probe;
mod secrets;

pub use backoff::{Backoff, Pause};
pub use credential::Identity;
pub use embeddings::{Embeddings, EmbeddingsConfig, EmbeddingsConfigError, EmbeddingsEntry, EmbeddingsError};
pub use http::{CaFileError, client};
pub use kubernetes::{kubernetes_client, patient_watch, watch_backoff};
pub use options::{AzureOptions, CredentialKind, OptionsError};
pub use probe::{ProbeError, ProbeOptions};
pub use secrets::{Secret, SecretError, SecretStore, SecretValue, SecretVersion};
