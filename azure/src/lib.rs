//! Azure clients that the operator and the gateway share: trust roots, credentials, and Key Vault secrets.
//!
//! Everything goes over https, with the system's trust roots and those of `--ca-file`.

mod credential;
mod http;
mod options;
mod secrets;

pub use http::{CaFileError, client};
pub use options::{AzureOptions, CredentialKind, OptionsError};
pub use secrets::{Secret, SecretError, SecretStore, SecretValue, SecretVersion};
