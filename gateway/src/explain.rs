//! `storefence-gateway explain`: the answer to "why does she not see her store?", by the very code that serves.
//!
//! Nothing of the token is printed but what the rules looked at: identifiers of directory and principal.

use std::{
    fmt::Write as _,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, ListParams},
};
use storefence_azure::CaFileError;
use storefence_tenancy::{
    RetailTenant, Scope, TenantRules, claims::TokenKind, resource::ToolName, rules::ToolSet, scope::StoreSet,
};
use zeroize::Zeroizing;

use crate::{
    identity::{Identity, TokenSettings, jwks::KeyStore},
    metrics::Metrics,
};

/// What `explain` needs.
#[derive(Debug)]
pub struct Settings {
    /// File with the token; `-` for standard input.
    pub token_file: PathBuf,
    /// Directory of RetailTenant YAML.
    pub tenants: Option<PathBuf>,
    /// Extra trust roots.
    pub ca_file: Option<PathBuf>,
    /// Which tokens are accepted.
    pub tokens: TokenSettings,
}

/// Why there is no explanation.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// A file cannot be read.
    #[error("cannot read {0}: {1}")]
    Unreadable(String, std::io::Error),
    /// Trust roots.
    #[error(transparent)]
    CaFile(#[from] CaFileError),
    /// The cluster does not tell its tenants.
    #[error("RetailTenants cannot be listed: {0}")]
    Kubernetes(String),
    /// The runtime or the metrics.
    #[error("the process cannot be set up: {0}")]
    Setup(String),
}

/// A tenant as `explain` sees it: rules, or why there are none.
type Listed = (String, Result<TenantRules, String>);

/// Prints the explanation; false when the token would not be served by any tenant.
///
/// # Errors
/// [`ExplainError`].
pub fn explain(settings: &Settings) -> Result<bool, ExplainError> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| ExplainError::Setup(error.to_string()))?;
    let (text, served) = runtime.block_on(explanation(settings))?;
    print!("{text}");
    Ok(served)
}

async fn explanation(settings: &Settings) -> Result<(String, bool), ExplainError> {
    let token = read_token(&settings.token_file)?;
    let tenants = match &settings.tenants {
        Some(directory) => from_directory(directory)?,
        None => from_cluster().await?,
    };
    let directories: Vec<_> = tenants.iter().filter_map(|(_, rules)| Some(rules.as_ref().ok()?.directory())).collect();
    let metrics = Arc::new(Metrics::new().map_err(|error| ExplainError::Setup(error.to_string()))?);
    let http = storefence_azure::client(settings.ca_file.as_deref(), Duration::from_secs(5))?;
    let keys = Arc::new(KeyStore::new(settings.tokens.authority.clone(), http, metrics.clone()));
    keys.keep(&directories);
    let identity = Identity::new(&settings.tokens, keys, &metrics);

    let mut text = String::new();
    let principal = match identity.verify(token.trim(), |directory| directories.contains(&directory)).await {
        Ok(principal) => principal,
        Err(reject) => {
            let _ = writeln!(text, "token: rejected ({}): {reject}", reject.reason());
            return Ok((text, false));
        }
    };
    let claims = &principal.claims;
    let _ = writeln!(text, "token: accepted; tid {}, oid {}", claims.tid, claims.oid);
    let words = settings.tokens.words();
    let app_only = claims.kind == TokenKind::App;
    let in_scope = app_only || words.iter().any(|word| claims.has_scope(word));
    if app_only {
        let application = claims.application.map_or_else(|| "unknown".to_owned(), |id| id.to_string());
        let _ = writeln!(text, "app-only: application {application}; only entraApplication rules count");
    } else {
        let verdict = if in_scope { "present" } else { "missing: 403 insufficient_scope" };
        let _ = writeln!(text, "scope {}: {verdict}", words.join(" or "));
    }
    let mut served = false;
    for (name, rules) in &tenants {
        let line = match rules {
            Err(problem) => format!("cannot be used: {problem}"),
            Ok(rules) => match Scope::compute(claims, rules) {
                Err(none) => format!("no access ({}): {none}", none.reason()),
                Ok(scope) => {
                    served = in_scope;
                    let stores = match scope.stores() {
                        StoreSet::All => "all stores".to_owned(),
                        StoreSet::Some(ids) => {
                            let names = ids.iter().map(|id| rules.stores().get(id).map_or("?", |store| &store.name));
                            format!("stores {}", names.collect::<Vec<_>>().join(", "))
                        }
                    };
                    let tools = match scope.tools() {
                        ToolSet::All => "all tools".to_owned(),
                        ToolSet::Some(tools) => {
                            let names = tools.iter().map(|tool| tool.as_str());
                            format!("tools {}", names.chain(ToolName::EVERYBODYS).collect::<Vec<_>>().join(", "))
                        }
                    };
                    format!("{}; rules {}; {stores}; {tools}", scope.role(), scope.rules().join(", "))
                }
            },
        };
        let _ = writeln!(text, "tenant {name}: {line}");
    }
    if tenants.is_empty() {
        text.push_str("there are no RetailTenants\n");
    }
    Ok((text, served))
}

fn read_token(path: &Path) -> Result<Zeroizing<String>, ExplainError> {
    let mut token = Zeroizing::new(String::new());
    let unreadable = |error| ExplainError::Unreadable(path.display().to_string(), error);
    if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut token).map_err(unreadable)?;
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut token)).map_err(unreadable)?;
    }
    Ok(token)
}

fn listed(name: String, tenant: Result<RetailTenant, String>) -> Listed {
    let compiled = tenant.and_then(|tenant| {
        let problems = |list: Vec<_>| list.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        TenantRules::compile(&tenant.spec).map_err(|list: Vec<storefence_tenancy::rules::SpecProblem>| problems(list))
    });
    let name = compiled.as_ref().map_or(name, |rules| rules.tenant_id().to_string());
    (name, compiled)
}

/// Every `*.yaml` and `*.yml` of a directory, one object or several per file.
fn from_directory(directory: &Path) -> Result<Vec<Listed>, ExplainError> {
    let unreadable = |path: &Path| {
        let path = path.display().to_string();
        move |error| ExplainError::Unreadable(path, error)
    };
    let entries = std::fs::read_dir(directory).map_err(unreadable(directory))?;
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml"));
    paths.sort();
    let mut tenants = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).map_err(unreadable(&path))?;
        let name = path.display().to_string();
        match serde_saphyr::from_multiple::<serde_json::Value>(&text) {
            Err(error) => tenants.push((name, Err(error.to_string()))),
            Ok(documents) => {
                let ours = documents.into_iter().filter(|document| document["kind"] == "RetailTenant");
                let parsed = ours.map(|document| serde_json::from_value(document).map_err(|error| error.to_string()));
                tenants.extend(parsed.map(|tenant| listed(name.clone(), tenant)));
            }
        }
    }
    Ok(tenants)
}

async fn from_cluster() -> Result<Vec<Listed>, ExplainError> {
    let failed = |error: &dyn std::fmt::Display| ExplainError::Kubernetes(error.to_string());
    let client = Client::try_default().await.map_err(|error| failed(&error))?;
    let api: Api<DynamicObject> = Api::all_with(client, &ApiResource::erase::<RetailTenant>(&()));
    let objects = api.list(&ListParams::default()).await.map_err(|error| failed(&error))?;
    let parsed = objects.into_iter().map(|object| {
        let name = object.metadata.name.clone().unwrap_or_default();
        listed(name, object.try_parse().map_err(|error| error.to_string()))
    });
    Ok(parsed.collect())
}
