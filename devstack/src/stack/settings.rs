//! The settings that the product's binaries are started with: the same flags and variables as in production.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use super::facts::write_private;
use crate::{entra::ClientApp, process::Spawn};

/// What both binaries need to know.
pub(super) struct Surroundings<'a> {
    pub directory: &'a Path,
    pub bin_dir: &'a Path,
    pub ca_file: &'a Path,
    pub authority: &'a str,
    pub vault_url: &'a str,
    /// URL and deployment of the embeddings stand-in, if there is one.
    pub embeddings: Option<(&'a str, &'a str)>,
}

impl Surroundings<'_> {
    /// A product binary with an environment of its own, so that a developer's variables do not reach it.
    pub fn spawn(&self, binary: &str, log: &str, identity: &ClientApp, kubeconfig: &Path) -> Spawn {
        let level = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned());
        let mut spawn = Spawn::new(self.bin_dir.join(binary))
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("RUST_LOG", level)
            .env("RUST_BACKTRACE", "1")
            .env("KUBECONFIG", kubeconfig)
            .env("STOREFENCE_CA_FILE", self.ca_file)
            .env("STOREFENCE_CREDENTIAL", "client-secret")
            .env("AZURE_AUTHORITY_HOST", self.authority)
            .env("AZURE_TENANT_ID", &identity.tenant_id)
            .env("AZURE_CLIENT_ID", &identity.client_id)
            .env("AZURE_CLIENT_SECRET", identity.secret.as_deref().unwrap_or_default())
            .log(self.directory.join("logs").join(log));
        // A kubeconfig of a real cluster may call a helper that needs these.
        for name in ["HOME", "USER"] {
            if let Some(value) = std::env::var_os(name) {
                spawn = spawn.env(name, value);
            }
        }
        spawn
    }

    /// The operator's configuration file.
    pub fn operator_config(&self, admin_url: &str, database_ca: Option<&Path>) -> Result<PathBuf> {
        let mut database = json!({"name": "retail", "adminUrl": admin_url});
        if let Some(ca) = database_ca {
            database["caFile"] = json!(ca);
        }
        let mut config = json!({"databases": [database], "keyVaults": self.vaults()});
        self.add_embeddings(&mut config);
        self.write("operator.yaml", &config)
    }

    /// The gateway's configuration file.
    pub fn gateway_config(&self, database_ca: Option<&Path>) -> Result<PathBuf> {
        let mut config = json!({"keyVaults": self.vaults()});
        if let Some(ca) = database_ca {
            config["databases"] = json!([{"name": "retail", "caFile": ca}]);
        }
        self.add_embeddings(&mut config);
        self.write("gateway.yaml", &config)
    }

    fn add_embeddings(&self, config: &mut Value) {
        if let Some((endpoint, deployment)) = self.embeddings {
            config["embeddings"] = json!({"provider": "azureOpenAI", "endpoint": endpoint, "deployment": deployment});
        }
    }

    fn vaults(&self) -> Value {
        json!([{"name": "main", "url": self.vault_url}])
    }

    fn write(&self, name: &str, config: &Value) -> Result<PathBuf> {
        let path = super::file(self.directory, name);
        write_private(&path, serde_saphyr::to_string(config)?.as_bytes())?;
        Ok(path)
    }
}
