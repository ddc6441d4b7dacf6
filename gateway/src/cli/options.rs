//! The options of `run`, `doctor` and `explain`, as the user writes them.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use storefence_runtime::AzureOptions;
use url::Url;

use crate::{
    identity::{self, jwks},
    tools::budget,
};

/// Options of `run`. Every one can come from the environment.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Configuration file: Key Vaults, and databases' trust roots, by name
    #[arg(long, env = "STOREFENCE_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,

    /// Address for MCP
    #[arg(long, env = "STOREFENCE_LISTEN", value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    pub(super) listen: SocketAddr,

    /// Certificate chain in PEM for --listen, leaf first; read again when it changes. Without it, plain HTTP
    #[arg(long, env = "STOREFENCE_TLS_CERT", value_name = "FILE")]
    pub(super) tls_cert: Option<PathBuf>,

    /// Private key in PEM of --tls-cert
    #[arg(long, env = "STOREFENCE_TLS_KEY", value_name = "FILE")]
    pub(super) tls_key: Option<PathBuf>,

    /// Most connections of clients; one more is answered with 503
    #[arg(long, env = "STOREFENCE_MAX_CONNECTIONS", value_name = "NUMBER", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) max_connections: u32,

    /// Address for health and metrics
    #[arg(long, env = "STOREFENCE_ADMIN_LISTEN", value_name = "ADDRESS", default_value = "0.0.0.0:9090")]
    pub(super) admin_listen: SocketAddr,

    /// URL that clients use, without /mcp
    #[arg(long, env = "STOREFENCE_PUBLIC_URL", value_name = "URL")]
    pub(super) public_url: Option<Url>,

    #[command(flatten)]
    pub(super) tokens: TokenArgs,

    /// Authorization server named to clients; follows from the authority where not given
    #[arg(long, env = "STOREFENCE_AUTHORIZATION_SERVER", value_name = "URL")]
    pub(super) authorization_server: Option<Url>,

    /// Seconds between two fetches of a directory's signing keys in the background; the last good ones stay while a fetch
    /// fails
    #[arg(long, env = "STOREFENCE_JWKS_REFRESH", value_name = "SECONDS", default_value_t = jwks::REFRESH.as_secs(), value_parser = clap::value_parser!(u64).range(5..=86_400))]
    pub(super) jwks_refresh: u64,

    /// Most verified tokens that are remembered until they expire, a few KiB each; others are verified anew with each call
    #[arg(long, env = "STOREFENCE_TOKEN_CACHE", value_name = "NUMBER", default_value_t = identity::REMEMBERED, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) token_cache: u32,

    /// Host that requests may name, beside the public URL's
    #[arg(long, env = "STOREFENCE_ALLOWED_HOST", value_name = "HOST[:PORT]", value_delimiter = ',')]
    pub(super) allowed_host: Vec<String>,

    /// Origin that browsers may call from, beside the public URL's
    #[arg(long, env = "STOREFENCE_ALLOWED_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
    pub(super) allowed_origin: Vec<String>,

    /// Most database connections of one tenant
    #[arg(long, env = "STOREFENCE_POOL_PER_TENANT", value_name = "NUMBER", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) pool_per_tenant: u32,

    /// Most statements of one principal side by side, or processes of one that is parallel
    #[arg(long, env = "STOREFENCE_POOL_PER_PRINCIPAL", value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) pool_per_principal: u32,

    /// Most connections of one tenant for principals whose statements ran long lately
    #[arg(long, env = "STOREFENCE_POOL_LONG_PER_TENANT", value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) pool_long_per_tenant: u32,

    /// Most database connections of all tenants
    #[arg(long, env = "STOREFENCE_POOL_TOTAL", value_name = "NUMBER", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10000))]
    pub(super) pool_total: u32,

    /// Seconds after which an unused database connection is closed
    #[arg(long, env = "STOREFENCE_POOL_IDLE", value_name = "SECONDS", default_value_t = 300)]
    pub(super) pool_idle: u64,

    /// Seconds after which a database connection is replaced, a little earlier at random
    #[arg(long, env = "STOREFENCE_POOL_MAX_AGE", value_name = "SECONDS", default_value_t = 1800, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub(super) pool_max_age: u64,

    /// Calls after which a database connection is replaced, a little earlier at random
    #[arg(long, env = "STOREFENCE_POOL_MAX_CALLS", value_name = "NUMBER", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) pool_max_calls: u32,

    /// Seconds that calls under way get to finish after SIGTERM
    #[arg(long, env = "STOREFENCE_DRAIN", value_name = "SECONDS", default_value_t = 25)]
    pub(super) drain: u64,

    /// Directory of RetailTenant YAML, watched; the cluster of KUBECONFIG where not given
    #[arg(long, env = "STOREFENCE_TENANTS", value_name = "DIR")]
    pub(super) tenants: Option<PathBuf>,

    /// File that audit lines are added to; - for standard output
    #[arg(long, env = "STOREFENCE_AUDIT_FILE", value_name = "FILE", default_value = "-")]
    pub(super) audit_file: PathBuf,

    // Not a doc comment: rustdoc would read the brackets as links.
    #[arg(
        long,
        env = "STOREFENCE_REDIS_URL",
        value_name = "URL",
        hide_env_values = true,
        help = "Redis through which replicas share quotas and cached responses: rediss://[user:password@]host[:port][/database]; each replica is on its own where not given"
    )]
    pub(super) redis_url: Option<String>,

    #[command(flatten)]
    pub(super) traces: TraceArgs,

    /// Seconds that a connection stays open between two requests; longer than a proxy in front keeps it open
    #[arg(long, env = "STOREFENCE_KEEP_ALIVE", value_name = "SECONDS", default_value_t = 75, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(super) keep_alive: u64,

    /// Seconds that a client gets for a TLS handshake, for the headers of a request, for its body, and for each part of
    /// the answer
    #[arg(long, env = "STOREFENCE_CLIENT_TIMEOUT", value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(super) client_timeout: u64,

    /// Most bytes of memory for cached responses, for tenants that ask for it with spec.gateway.cacheTtl; 0 caches none
    #[arg(long, env = "STOREFENCE_CACHE_BYTES", value_name = "BYTES", default_value_t = 32 * 1024 * 1024)]
    pub(super) cache_bytes: u64,

    /// Milliseconds from which a statement counts as slow: it is logged, by its SHA-256 and that of its plan
    #[arg(long, env = "STOREFENCE_SLOW_AFTER", value_name = "MILLISECONDS", default_value_t = 1000)]
    pub(super) slow_after: u64,

    /// Most tokens of an answer, counted as three bytes each; what is left out is named, with the way to get it
    #[arg(long, env = "STOREFENCE_ANSWER_TOKENS", value_name = "NUMBER", default_value_t = budget::TOKENS, value_parser = clap::value_parser!(u32).range(1_000..=100_000_000))]
    pub(super) answer_tokens: u32,

    #[command(flatten)]
    pub(super) azure: AzureOptions,
}

/// Traces. What else OpenTelemetry's SDK reads from the environment counts as well.
#[derive(Debug, Args)]
pub(super) struct TraceArgs {
    /// OpenTelemetry collector that spans are sent to, without /v1/traces (OTLP over HTTP, protobuf); none are made where
    /// not given
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub(super) otlp_endpoint: Option<String>,

    /// Send the text of statements to the collector, with whatever callers wrote into it
    #[arg(long, env = "STOREFENCE_TRACE_STATEMENTS")]
    pub(super) trace_statements: bool,
}

/// What makes a token acceptable.
#[derive(Debug, Args)]
pub(super) struct TokenArgs {
    /// Accepted value of aud: the API's client ID and, for version 1.0 tokens, its application ID URI
    #[arg(long, env = "STOREFENCE_AUDIENCE", value_name = "AUDIENCE", value_delimiter = ',')]
    pub(super) audience: Vec<String>,

    /// Scope that clients ask for, as a rule fully qualified: api://APP/Retail.Query. A token needs one of them
    #[arg(long, env = "STOREFENCE_SCOPE", value_name = "SCOPE", value_delimiter = ',')]
    pub(super) scope: Vec<String>,

    /// The Entra authority that issues callers' tokens
    #[arg(long, env = "STOREFENCE_AUTHORITY", value_name = "URL", default_value = "https://login.microsoftonline.com")]
    pub(super) authority: Url,

    /// Issuer of version 1.0 tokens, without the directory; follows from the authority where not given
    #[arg(long, env = "STOREFENCE_V1_ISSUER", value_name = "URL")]
    pub(super) v1_issuer: Option<Url>,
}

/// Options of `explain`.
#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// File with the token; - for standard input
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: PathBuf,

    /// Directory of RetailTenant YAML; the cluster where not given
    #[arg(long, value_name = "DIR", conflicts_with = "kubeconfig")]
    pub(super) tenants: Option<PathBuf>,

    /// Kubeconfig of the cluster that has the RetailTenants; that of KUBECONFIG where not given
    #[arg(long, value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,

    /// Trust roots in PEM, beside the system's, for the authority
    #[arg(long, env = "STOREFENCE_CA_FILE", value_name = "FILE")]
    pub(super) ca_file: Option<PathBuf>,

    #[command(flatten)]
    pub(super) tokens: TokenArgs,
}
