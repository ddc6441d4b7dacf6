//! `storefence-gateway explain`: the answer to "why does she not see her store?", from the same code that serves calls.
//!
//! Of the token, only what the rules use is printed: identifiers of directory and principal.

use std::{
    fmt::Write as _,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kube::{
    Api, Config,
    api::{ApiResource, DynamicObject, ListParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use storefence_runtime::CaFileError;
use storefence_tenancy::{
    RetailTenant, Scope, TenantRules, claims::TokenKind, resource::ToolName, rules::ToolSet, scope::StoreSet,
};
use zeroize::Zeroizing;

use crate::{
    identity::{Identity, Reject, TokenSettings, jwks::KeyStore},
    metrics::Metrics,
    tenants::{
        directory::Directory,
        registry::{Applied, Objects, Snapshot, key},
    },
};

/// The inputs of `explain`.
#[derive(Debug)]
pub struct Settings {
    /// File with the token; `-` for standard input.
    pub token_file: PathBuf,
    /// Directory of RetailTenant YAML.
    pub tenants: Option<PathBuf>,
    /// Kubeconfig of the cluster, if no directory is given.
    pub kubeconfig: Option<PathBuf>,
    /// Extra trust roots.
    pub ca_file: Option<PathBuf>,
    /// Which tokens are accepted.
    pub tokens: TokenSettings,
}

/// Why no explanation is possible.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// A file cannot be read.
    #[error("cannot read {0}: {1}")]
    Unreadable(String, std::io::Error),
    /// Trust roots.
    #[error(transparent)]
    CaFile(#[from] CaFileError),
    /// The Kubernetes configuration cannot be used.
    #[error("--kubeconfig: {0}: {1}")]
    Kubeconfig(String, kube::config::KubeconfigError),
    /// The tenants of the cluster cannot be listed.
    #[error(
        "RetailTenants cannot be listed: {0}; name a cluster with --kubeconfig or KUBECONFIG, or files with --tenants"
    )]
    Kubernetes(String),
    /// The runtime or the metrics.
    #[error("the process cannot be set up: {0}")]
    Setup(String),
}

/// The objects as a gateway that starts now would accept them, and the ones that it could not use.
struct Listed {
    objects: Objects,
    broken: Vec<(String, String)>,
}

/// Prints the explanation; returns false if no tenant would serve the token.
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
    let Listed { objects, broken } = match &settings.tenants {
        Some(directory) => from_directory(directory)?,
        None => from_cluster(settings.kubeconfig.as_deref()).await?,
    };
    let tenants = objects.snapshot();
    let directories = tenants.directories();
    let metrics = Arc::new(Metrics::new().map_err(|error| ExplainError::Setup(error.to_string()))?);
    let http = storefence_runtime::client(settings.ca_file.as_deref(), Duration::from_secs(5))?;
    let keys = Arc::new(KeyStore::new(settings.tokens.authority.clone(), http, metrics.clone()));
    keys.keep(&directories);
    let identity = Identity::new(&settings.tokens, keys, &metrics);

    let mut text = String::new();
    let principal = match identity.verify(token.trim(), |directory| directories.contains(&directory)).await {
        Ok(principal) => principal,
        Err(reject) => {
            let _ = writeln!(text, "token: rejected ({}): {reject}", reject.reason());
            if reject == Reject::Directory {
                text.push_str(&not_served(&objects, &tenants, &broken));
            }
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
    let mut granted = Vec::new();
    for tenant in tenants.tenants() {
        let scope = Scope::compute(claims, &tenant.rules);
        let line = match &scope {
            Err(none) => format!("no access ({}): {none}", none.reason()),
            Ok(scope) => access(scope, &tenant.rules),
        };
        let _ = writeln!(text, "tenant {}: {line}", tenant.id());
        granted.extend(scope.is_ok().then(|| format!("/{}/mcp", tenant.id())));
    }
    text.push_str(&not_served(&objects, &tenants, &broken));
    if granted.len() > 1 {
        let _ = writeln!(text, "several tenants match: /mcp answers 400; use {}", granted.join(" or "));
    }
    Ok((text, in_scope && !granted.is_empty()))
}

/// What a scope lets its holder see and call.
fn access(scope: &Scope, rules: &TenantRules) -> String {
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

/// The objects that grant access to nobody, whatever their rules say.
fn not_served(objects: &Objects, tenants: &Snapshot, broken: &[(String, String)]) -> String {
    let mut text = String::new();
    for (name, problem) in broken {
        let _ = writeln!(text, "tenant {name}: cannot be used: {problem}");
    }
    let mut held = objects.held(tenants).filter_map(|(name, held)| Some((name, held?))).peekable();
    if tenants.is_empty() && broken.is_empty() && held.peek().is_none() {
        text.push_str("there are no RetailTenants\n");
    }
    for (name, held) in held {
        let _ = writeln!(text, "tenant {name}: not served: {held}");
    }
    text
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

fn from_directory(path: &Path) -> Result<Listed, ExplainError> {
    let unreadable = |error| ExplainError::Unreadable(path.display().to_string(), error);
    let (objects, problems) = Directory::read(path.to_owned()).map_err(unreadable)?;
    let broken = problems.into_iter().map(|(file, problem)| (file.display().to_string(), problem)).collect();
    Ok(Listed { objects, broken })
}

async fn from_cluster(kubeconfig: Option<&Path>) -> Result<Listed, ExplainError> {
    let failed = |error: &dyn std::fmt::Display| ExplainError::Kubernetes(error.to_string());
    let config = match kubeconfig {
        Some(path) => {
            let unusable = |error| ExplainError::Kubeconfig(path.display().to_string(), error);
            let kubeconfig = Kubeconfig::read_from(path).map_err(unusable)?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(unusable)?
        }
        None => Config::infer().await.map_err(|error| failed(&error))?,
    };
    let client = storefence_runtime::kubernetes_client(config, crate::USER_AGENT).map_err(|error| failed(&error))?;
    // Untyped, as in the gateway's watch: one object that does not parse must not hide the others.
    let api: Api<DynamicObject> = Api::all_with(client, &ApiResource::erase::<RetailTenant>(&()));
    let list = api.list(&ListParams::default()).await.map_err(|error| failed(&error))?;
    let (mut objects, mut broken) = (Objects::default(), Vec::new());
    for object in list {
        let name = key(&object).to_string();
        if let Applied::Broken(problem) = objects.apply(object) {
            broken.push((name, problem));
        }
    }
    Ok(Listed { objects, broken })
}
