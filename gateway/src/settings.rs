//! The settings of `run` and `doctor`, checked: the command line and the configuration file make them, and whatever starts
//! reads them.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use storefence_runtime::AzureOptions;
use url::Url;

use crate::{
    audit::Target,
    config::Config,
    db::pool::PoolSettings,
    http::hosts::Allowed,
    identity::TokenSettings,
    redis::RedisUrl,
    server::tls::Files,
    telemetry::{LogFormat, otlp::TraceSettings},
    tools::budget::Budget,
};

#[derive(Debug)]
pub struct Settings {
    /// The configuration file: Key Vaults, trust roots, embeddings.
    pub config: Config,
    /// Addresses and connections of clients.
    pub listening: Listening,
    /// Which requests are accepted.
    pub access: AccessSettings,
    /// Sizes and times of the pools of database connections.
    pub pools: PoolSettings,
    /// Directory of RetailTenant YAML; the cluster where absent.
    pub tenants: Option<PathBuf>,
    /// Where audit lines are written.
    pub audit: Target,
    /// The Redis through which replicas share quotas and cached responses.
    pub redis: Option<RedisUrl>,
    /// Where spans are exported to.
    pub traces: Option<TraceSettings>,
    /// Shape of log lines.
    pub log_format: LogFormat,
    /// Most bytes of cached responses in memory.
    pub cache_bytes: u64,
    /// Statements that take this long or longer are logged as slow.
    pub slow_after: Duration,
    /// How much of an answer a model can hold.
    pub budget: Budget,
    /// The gateway's own identity in Entra ID, and trust roots for HTTPS.
    pub azure: AzureOptions,
}

/// Addresses and connections of clients.
#[derive(Debug)]
pub struct Listening {
    /// Address for MCP.
    pub public: SocketAddr,
    /// TLS on the address for MCP; plain HTTP where absent.
    pub tls: Option<Files>,
    /// Most connections of clients.
    pub max_connections: usize,
    /// Address for health and metrics.
    pub admin: SocketAddr,
    /// Time that a client has for a request's headers, and again for its body.
    pub client_timeout: Duration,
    /// How long a connection may stay idle between two requests.
    pub keep_alive: Duration,
    /// Time that calls in progress have after SIGTERM.
    pub drain: Duration,
}

/// Which requests are accepted.
#[derive(Debug)]
pub struct AccessSettings {
    /// URL that clients use.
    pub public_url: Url,
    /// Which tokens are accepted.
    pub tokens: TokenSettings,
    /// The authorization server that clients are sent to, where it is not the authority.
    pub authorization_server: Option<Url>,
    /// Period between two fetches of signing keys.
    pub jwks_refresh: Duration,
    /// Most verified tokens that are cached.
    pub token_cache: u32,
    /// Host and Origin lists.
    pub allowed: Allowed,
}
