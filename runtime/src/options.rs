//! How the process proves its identity to Azure.

use std::{path::PathBuf, sync::Arc, time::Duration};

use azure_core::{
    cloud::{CloudConfiguration, CustomConfiguration},
    credentials::{Secret, TokenCredential},
    http::{ClientOptions, RetryOptions, Transport},
};
use azure_identity::{
    AzureCliCredential, ClientAssertionCredentialOptions, ClientSecretCredential, ClientSecretCredentialOptions,
    ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId, WorkloadIdentityCredential,
    WorkloadIdentityCredentialOptions,
};
use url::Url;

use crate::{
    credential::Identity,
    embeddings::{Embeddings, EmbeddingsConfig},
    http::{CaFileError, client, machine_client},
    secrets::SecretStore,
};

const TOKEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Kinds of identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum CredentialKind {
    /// Federated token of a Kubernetes service account (AKS workload identity).
    #[default]
    WorkloadIdentity,
    /// Managed identity of the machine.
    ManagedIdentity,
    /// Client secret, for places that have no better.
    ClientSecret,
    /// The account signed in to the Azure CLI, for a developer's machine.
    AzureCli,
}

/// Identity and trust roots. The environment variables are those that AKS workload identity sets.
#[derive(Clone, clap::Args)]
#[command(next_help_heading = "Azure")]
pub struct AzureOptions {
    /// Trust roots in PEM, beside the system's, for the authority and the vaults
    #[arg(long, env = "STOREFENCE_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,

    /// Kind of identity
    #[arg(long, env = "STOREFENCE_CREDENTIAL", value_enum, default_value_t)]
    pub credential: CredentialKind,

    /// The authority that issues our own tokens
    #[arg(
        long = "azure-authority-host",
        env = "AZURE_AUTHORITY_HOST",
        value_name = "URL",
        default_value = "https://login.microsoftonline.com"
    )]
    pub authority_host: Url,

    /// Directory (tenant) ID of our own identity
    #[arg(long = "azure-tenant-id", env = "AZURE_TENANT_ID", value_name = "GUID")]
    pub tenant_id: Option<String>,

    /// Client ID of our own identity
    #[arg(long = "azure-client-id", env = "AZURE_CLIENT_ID", value_name = "GUID")]
    pub client_id: Option<String>,

    /// File with the federated token, for workload-identity
    #[arg(long = "azure-federated-token-file", env = "AZURE_FEDERATED_TOKEN_FILE", value_name = "FILE")]
    pub federated_token_file: Option<PathBuf>,

    /// Client secret, for client-secret; by environment only, arguments show in process lists
    #[arg(skip = std::env::var("AZURE_CLIENT_SECRET").ok())]
    pub client_secret: Option<String>,

    /// The resource that vault tokens are for; differs in sovereign clouds
    #[arg(long, env = "STOREFENCE_KEY_VAULT_RESOURCE", value_name = "URL", default_value = "https://vault.azure.net")]
    pub key_vault_resource: String,
}

/// Options that do not make a credential.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// A value is missing.
    #[error("{option} ({variable}) is required with --credential {kind}")]
    Missing {
        /// The option.
        option: &'static str,
        /// The environment variable.
        variable: &'static str,
        /// The kind of credential.
        kind: &'static str,
    },
    /// A URL that is not https.
    #[error("{option}: {url} is not an https URL")]
    NotHttps {
        /// The option or configuration field.
        option: String,
        /// The URL.
        url: String,
    },
    /// Trust roots.
    #[error(transparent)]
    CaFile(#[from] CaFileError),
    /// The SDK refused.
    #[error("--credential: {0}")]
    Sdk(#[from] azure_core::Error),
}

impl AzureOptions {
    /// The identity of these options.
    ///
    /// # Errors
    /// Names the option.
    pub fn credential(&self) -> Result<Arc<Identity>, OptionsError> {
        let options = self.clone();
        Ok(Identity::new(self.sdk_credential()?, move || options.sdk_credential().map_err(|error| error.to_string())))
    }

    fn sdk_credential(&self) -> Result<Arc<dyn TokenCredential>, OptionsError> {
        if self.authority_host.scheme() != "https" {
            let option = "--azure-authority-host (AZURE_AUTHORITY_HOST)".to_owned();
            return Err(OptionsError::NotHttps { option, url: self.authority_host.to_string() });
        }
        let options = self.client_options(TOKEN_TIMEOUT)?;
        Ok(match self.credential {
            CredentialKind::WorkloadIdentity => {
                let kind = "workload-identity";
                let token_file = self.federated_token_file.clone().ok_or(OptionsError::Missing {
                    option: "--azure-federated-token-file",
                    variable: "AZURE_FEDERATED_TOKEN_FILE",
                    kind,
                })?;
                WorkloadIdentityCredential::new(Some(WorkloadIdentityCredentialOptions {
                    credential_options: ClientAssertionCredentialOptions { client_options: options },
                    client_id: Some(self.client_id(kind)?),
                    tenant_id: Some(self.tenant_id(kind)?),
                    token_file_path: Some(token_file),
                }))?
            }
            CredentialKind::ManagedIdentity => {
                let transport = Transport::new(Arc::new(machine_client(TOKEN_TIMEOUT)?));
                ManagedIdentityCredential::new(Some(ManagedIdentityCredentialOptions {
                    user_assigned_id: self.client_id.clone().map(UserAssignedId::ClientId),
                    client_options: ClientOptions { transport: Some(transport), ..options },
                }))?
            }
            CredentialKind::ClientSecret => {
                let kind = "client-secret";
                let secret = self.client_secret.clone().filter(|secret| !secret.is_empty());
                let secret = secret.ok_or(OptionsError::Missing {
                    option: "the client secret",
                    variable: "AZURE_CLIENT_SECRET",
                    kind,
                })?;
                let options = ClientSecretCredentialOptions { client_options: options };
                ClientSecretCredential::new(
                    &self.tenant_id(kind)?,
                    self.client_id(kind)?,
                    Secret::new(secret),
                    Some(options),
                )?
            }
            CredentialKind::AzureCli => AzureCliCredential::new(None)?,
        })
    }

    /// A client of one vault. `timeout` bounds each call; a failed one is not repeated, since callers have schedules of
    /// their own.
    pub fn secret_store(
        &self,
        credential: Arc<Identity>,
        vault: &Url,
        timeout: Duration,
    ) -> Result<SecretStore, OptionsError> {
        if vault.scheme() != "https" {
            return Err(OptionsError::NotHttps { option: "keyVaults[].url".to_owned(), url: vault.to_string() });
        }
        Ok(SecretStore::new(vault, credential, &self.key_vault_resource, self.client_options(timeout)?, timeout)?)
    }

    /// A client of an embeddings service. `timeout` bounds each call. The identity is set up only where the configuration
    /// has no key.
    pub fn embeddings(&self, config: &EmbeddingsConfig, timeout: Duration) -> Result<Embeddings, OptionsError> {
        let credential = if config.needs_credential() { Some(self.credential()?) } else { None };
        Ok(Embeddings::new(config.clone(), client(self.ca_file.as_deref(), timeout)?, credential))
    }

    fn client_options(&self, timeout: Duration) -> Result<ClientOptions, OptionsError> {
        let mut custom = CustomConfiguration::default();
        custom.authority_host = self.authority_host.to_string();
        Ok(ClientOptions {
            transport: Some(Transport::new(Arc::new(client(self.ca_file.as_deref(), timeout)?))),
            // Callers have their own schedule for trying again, and know who waits.
            retry: RetryOptions::none(),
            cloud: Some(Arc::new(CloudConfiguration::Custom(custom))),
            ..Default::default()
        })
    }

    fn tenant_id(&self, kind: &'static str) -> Result<String, OptionsError> {
        let missing = OptionsError::Missing { option: "--azure-tenant-id", variable: "AZURE_TENANT_ID", kind };
        self.tenant_id.clone().ok_or(missing)
    }

    fn client_id(&self, kind: &'static str) -> Result<String, OptionsError> {
        let missing = OptionsError::Missing { option: "--azure-client-id", variable: "AZURE_CLIENT_ID", kind };
        self.client_id.clone().ok_or(missing)
    }
}

impl std::fmt::Debug for AzureOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { credential, authority_host, tenant_id, client_id, .. } = self;
        f.debug_struct("AzureOptions")
            .field("credential", credential)
            .field("authority_host", &authority_host.as_str())
            .field("tenant_id", tenant_id)
            .field("client_id", client_id)
            .finish_non_exhaustive()
    }
}
