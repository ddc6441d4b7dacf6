//! The command line. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use storefence_runtime::{AzureOptions, ProbeError, ProbeOptions};
use url::Url;

use crate::{
    audit::{self, chain},
    config::{Config, ConfigError},
    db::life::Span,
    doctor, explain,
    http::hosts::{Allowed, InvalidEntry},
    identity::{self, TokenSettings, authority::Authority, jwks},
    redis::RedisUrl,
    run,
    server::tls::Files,
    telemetry::{self, otlp::TraceSettings},
    tools::budget::{self, Budget},
};

/// Wrong usage or configuration.
const USAGE: u8 = 2;
/// Anything else.
const FAILED: u8 = 1;

/// Storefence's gateway: serves MCP tools over a tenant's data, to each caller the rows of their stores.
#[derive(Debug, Parser)]
#[command(name = "storefence-gateway", version, about, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,

    /// How log lines are written; what is logged is chosen with RUST_LOG
    #[arg(long, env = "STOREFENCE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, global = true)]
    log_format: LogFormat,
}

/// Shape of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve
    Run(Box<RunArgs>),
    /// Try what calls need, by the options of run: one line each for tenants, authority, Key Vault, database, fence,
    /// embeddings and Redis, with what to do; exit code 1 where something is not in order
    Doctor(Box<RunArgs>),
    /// Check the audit log
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Say why a token is refused, or which rules match it and which stores follow; the token itself is not shown
    Explain(Box<ExplainArgs>),
    /// Ask the gateway that runs beside this whether it is ready, for health checks; exit code 1 where it is not
    Probe(ProbeOptions),
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// Find the first line that was removed or edited; exit code 1 where there is one
    Verify {
        /// File with audit lines
        #[arg(value_name = "FILE")]
        file: PathBuf,

        /// Hash of the line before the file's first: the last one of the file before, where files are rotated
        #[arg(long, value_name = "HASH")]
        after: Option<String>,
    },
}

/// Options of `run`. Every one can come from the environment.
#[derive(Debug, Args)]
struct RunArgs {
    /// Configuration file: Key Vaults, and databases' trust roots, by name
    #[arg(long, env = "STOREFENCE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    /// Address for MCP
    #[arg(long, env = "STOREFENCE_LISTEN", value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,

    /// Certificate chain in PEM for --listen, leaf first; read again when it changes. Without it, plain HTTP
    #[arg(long, env = "STOREFENCE_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// Private key in PEM of --tls-cert
    #[arg(long, env = "STOREFENCE_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,

    /// Most connections of clients; one more is answered with 503
    #[arg(long, env = "STOREFENCE_MAX_CONNECTIONS", value_name = "NUMBER", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_connections: u32,

    /// Address for health and metrics
    #[arg(long, env = "STOREFENCE_ADMIN_LISTEN", value_name = "ADDRESS", default_value = "0.0.0.0:9090")]
    admin_listen: SocketAddr,

    /// URL that clients use, without /mcp
    #[arg(long, env = "STOREFENCE_PUBLIC_URL", value_name = "URL")]
    public_url: Option<Url>,

    #[command(flatten)]
    tokens: TokenArgs,

    /// Authorization server named to clients; follows from the authority where not given
    #[arg(long, env = "STOREFENCE_AUTHORIZATION_SERVER", value_name = "URL")]
    authorization_server: Option<Url>,

    /// Seconds between two fetches of a directory's signing keys in the background; the last good ones stay while a fetch
    /// fails
    #[arg(long, env = "STOREFENCE_JWKS_REFRESH", value_name = "SECONDS", default_value_t = jwks::REFRESH.as_secs(), value_parser = clap::value_parser!(u64).range(5..=86_400))]
    jwks_refresh: u64,

    /// Most verified tokens that are remembered until they expire, a few KiB each; others are verified anew with each call
    #[arg(long, env = "STOREFENCE_TOKEN_CACHE", value_name = "NUMBER", default_value_t = identity::REMEMBERED, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    token_cache: u32,

    /// Host that requests may name, beside the public URL's
    #[arg(long, env = "STOREFENCE_ALLOWED_HOST", value_name = "HOST[:PORT]", value_delimiter = ',')]
    allowed_host: Vec<String>,

    /// Origin that browsers may call from, beside the public URL's
    #[arg(long, env = "STOREFENCE_ALLOWED_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
    allowed_origin: Vec<String>,

    /// Most database connections of one tenant
    #[arg(long, env = "STOREFENCE_POOL_PER_TENANT", value_name = "NUMBER", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pool_per_tenant: u32,

    /// Most statements of one principal side by side, or processes of one that is parallel
    #[arg(long, env = "STOREFENCE_POOL_PER_PRINCIPAL", value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pool_per_principal: u32,

    /// Most connections of one tenant for principals whose statements ran long lately
    #[arg(long, env = "STOREFENCE_POOL_LONG_PER_TENANT", value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pool_long_per_tenant: u32,

    /// Most database connections of all tenants
    #[arg(long, env = "STOREFENCE_POOL_TOTAL", value_name = "NUMBER", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10000))]
    pool_total: u32,

    /// Seconds after which an unused database connection is closed
    #[arg(long, env = "STOREFENCE_POOL_IDLE", value_name = "SECONDS", default_value_t = 300)]
    pool_idle: u64,

    /// Seconds after which a database connection is replaced, a little earlier at random
    #[arg(long, env = "STOREFENCE_POOL_MAX_AGE", value_name = "SECONDS", default_value_t = 1800, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pool_max_age: u64,

    /// Calls after which a database connection is replaced, a little earlier at random
    #[arg(long, env = "STOREFENCE_POOL_MAX_CALLS", value_name = "NUMBER", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..))]
    pool_max_calls: u32,

    /// Seconds that calls under way get to finish after SIGTERM
    #[arg(long, env = "STOREFENCE_DRAIN", value_name = "SECONDS", default_value_t = 25)]
    drain: u64,

    /// Directory of RetailTenant YAML, watched; the cluster of KUBECONFIG where not given
    #[arg(long, env = "STOREFENCE_TENANTS", value_name = "DIR")]
    tenants: Option<PathBuf>,

    /// File that audit lines are added to; - for standard output
    #[arg(long, env = "STOREFENCE_AUDIT_FILE", value_name = "FILE", default_value = "-")]
    audit_file: PathBuf,

    /// Redis through which replicas share quotas and kept answers: rediss://[user:password@]host[:port][/database]; each
    /// replica is on its own where not given
    #[arg(long, env = "STOREFENCE_REDIS_URL", value_name = "URL", hide_env_values = true)]
    redis_url: Option<String>,

    #[command(flatten)]
    traces: TraceArgs,

    /// Seconds that a connection is kept between two requests; longer than a proxy in front keeps it
    #[arg(long, env = "STOREFENCE_KEEP_ALIVE", value_name = "SECONDS", default_value_t = 75, value_parser = clap::value_parser!(u64).range(1..=3600))]
    keep_alive: u64,

    /// Seconds that a client gets for a TLS handshake, for the headers of a request, for its body, and for each part of
    /// the answer
    #[arg(long, env = "STOREFENCE_CLIENT_TIMEOUT", value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    client_timeout: u64,

    /// Most bytes of memory for kept answers, for tenants that ask for it with spec.gateway.cacheTtl; 0 keeps none
    #[arg(long, env = "STOREFENCE_CACHE_BYTES", value_name = "BYTES", default_value_t = 32 * 1024 * 1024)]
    cache_bytes: u64,

    /// Milliseconds from which a statement counts as slow: it is logged, by its SHA-256 and that of its plan
    #[arg(long, env = "STOREFENCE_SLOW_AFTER", value_name = "MILLISECONDS", default_value_t = 1000)]
    slow_after: u64,

    /// Most tokens of an answer, counted as three bytes each; what is left out is said, and how to get it
    #[arg(long, env = "STOREFENCE_ANSWER_TOKENS", value_name = "NUMBER", default_value_t = budget::TOKENS, value_parser = clap::value_parser!(u32).range(1_000..=100_000_000))]
    answer_tokens: u32,

    #[command(flatten)]
    azure: AzureOptions,
}

/// Traces. What else OpenTelemetry's SDK reads from the environment counts as well.
#[derive(Debug, Args)]
struct TraceArgs {
    /// OpenTelemetry collector that spans are sent to, without /v1/traces (OTLP over HTTP, protobuf); none are made where
    /// not given
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    otlp_endpoint: Option<String>,

    /// Send the text of statements to the collector, with whatever callers wrote into it
    #[arg(long, env = "STOREFENCE_TRACE_STATEMENTS")]
    trace_statements: bool,
}

/// What makes a token acceptable.
#[derive(Debug, Args)]
struct TokenArgs {
    /// Accepted value of aud: the API's client ID and, for version 1.0 tokens, its application ID URI
    #[arg(long, env = "STOREFENCE_AUDIENCE", value_name = "AUDIENCE", value_delimiter = ',')]
    audience: Vec<String>,

    /// Scope that clients ask for, as a rule fully qualified: api://APP/Retail.Query. A token needs one of them
    #[arg(long, env = "STOREFENCE_SCOPE", value_name = "SCOPE", value_delimiter = ',')]
    scope: Vec<String>,

    /// The Entra authority that issues callers' tokens
    #[arg(long, env = "STOREFENCE_AUTHORITY", value_name = "URL", default_value = "https://login.microsoftonline.com")]
    authority: Url,

    /// Issuer of version 1.0 tokens, without the directory; follows from the authority where not given
    #[arg(long, env = "STOREFENCE_V1_ISSUER", value_name = "URL")]
    v1_issuer: Option<Url>,
}

/// Options of `explain`.
#[derive(Debug, Args)]
struct ExplainArgs {
    /// File with the token; - for standard input
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,

    /// Directory of RetailTenant YAML; the cluster where not given
    #[arg(long, value_name = "DIR", conflicts_with = "kubeconfig")]
    tenants: Option<PathBuf>,

    /// Kubeconfig of the cluster that has the RetailTenants; that of KUBECONFIG where not given
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// Trust roots in PEM, beside the system's, for the authority
    #[arg(long, env = "STOREFENCE_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,

    #[command(flatten)]
    tokens: TokenArgs,
}

/// Why a command ends with another code than 0.
#[derive(Debug, thiserror::Error)]
enum CliError {
    /// A value that has no default.
    #[error("{flag} is not given: {what} is expected there or in the environment variable {variable}")]
    Missing { flag: &'static str, variable: &'static str, what: &'static str },
    /// A value that cannot be used.
    #[error("{flag} ({variable}): {problem}")]
    Invalid { flag: &'static str, variable: &'static str, problem: String },
    /// The configuration file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Host or Origin lists.
    #[error("--allowed-host (STOREFENCE_ALLOWED_HOST) or --allowed-origin (STOREFENCE_ALLOWED_ORIGIN): {0}")]
    Allowed(#[from] InvalidEntry),
    /// While running.
    #[error(transparent)]
    Run(#[from] run::RunError),
    /// The audit log is not whole.
    #[error(transparent)]
    Audit(#[from] chain::Broken),
    /// While explaining.
    #[error(transparent)]
    Explain(#[from] explain::ExplainError),
    /// Not ready.
    #[error(transparent)]
    Probe(#[from] ProbeError),
}

impl CliError {
    const fn exit_code(&self) -> u8 {
        match self {
            Self::Run(error) if !error.is_configuration() => FAILED,
            Self::Explain(_) | Self::Audit(_) | Self::Probe(_) => FAILED,
            _ => USAGE,
        }
    }
}

/// The command line's definition, for the check of its reference.
#[must_use]
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Parses the command line, does what it says, and reports errors in one sentence.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = args.into_iter();
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // --help and --version are "errors" that go to standard output with code 0.
            let code = u8::try_from(error.exit_code()).unwrap_or(USAGE);
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    // `run` starts it with the export of traces, which needs its runtime.
    if !matches!(cli.command, Command::Run(_)) {
        telemetry::init(cli.log_format);
    }
    let done = match cli.command {
        Command::Run(args) => {
            settings(*args, cli.log_format).and_then(|settings| Ok(run::run(settings)?)).map(|()| true)
        }
        Command::Doctor(args) => settings(*args, cli.log_format).and_then(|settings| Ok(doctor::run(settings)?)),
        Command::Audit(AuditCommand::Verify { file, after }) => verify_audit(&file, after.as_deref()).map(|()| true),
        Command::Explain(args) => explain_settings(*args).and_then(|settings| Ok(explain::explain(&settings)?)),
        Command::Probe(options) => probe(&options).map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        Err(error) => {
            eprintln!("storefence-gateway: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn probe(options: &ProbeOptions) -> Result<(), CliError> {
    println!("{}", options.run()?);
    Ok(())
}

fn verify_audit(file: &Path, after: Option<&str>) -> Result<(), CliError> {
    let chain::Whole { lines, last } = chain::verify(file, after)?;
    println!("{lines} lines, none removed or edited before the last; the hash of the last is {last}");
    Ok(())
}

const fn missing(flag: &'static str, variable: &'static str, what: &'static str) -> CliError {
    CliError::Missing { flag, variable, what }
}

fn token_settings(args: TokenArgs) -> Result<TokenSettings, CliError> {
    let TokenArgs { audience, scope, authority, v1_issuer } = args;
    let audience: Vec<_> = audience.into_iter().filter(|text| !text.is_empty()).collect();
    if audience.is_empty() {
        let what = "the API's client ID, as it stands in aud,";
        return Err(missing("--audience", "STOREFENCE_AUDIENCE", what));
    }
    let scope: Vec<_> = scope.into_iter().filter(|text| !text.is_empty()).collect();
    if scope.is_empty() {
        return Err(missing("--scope", "STOREFENCE_SCOPE", "the scope of the API, such as api://APP/Retail.Query,"));
    }
    if let Some(bad) = scope.iter().find(|text| text.ends_with('/') || text.contains(['"', '\\']) || !text.is_ascii()) {
        let problem = format!("'{bad}' is not a scope");
        return Err(CliError::Invalid { flag: "--scope", variable: "STOREFENCE_SCOPE", problem });
    }
    if authority.scheme() != "https" {
        let problem = format!("{authority} is not an https URL; signing keys come from there");
        return Err(CliError::Invalid { flag: "--authority", variable: "STOREFENCE_AUTHORITY", problem });
    }
    Ok(TokenSettings { audiences: audience, scopes: scope, authority: Authority::new(&authority, v1_issuer.as_ref()) })
}

fn explain_settings(args: ExplainArgs) -> Result<explain::Settings, CliError> {
    let ExplainArgs { token_file, tenants, kubeconfig, ca_file, tokens } = args;
    Ok(explain::Settings { token_file, tenants, kubeconfig, ca_file, tokens: token_settings(tokens)? })
}

/// From what the user wrote to what runs.
fn settings(args: RunArgs, log_format: LogFormat) -> Result<run::Settings, CliError> {
    let RunArgs {
        config,
        listen,
        tls_cert,
        tls_key,
        max_connections,
        admin_listen,
        public_url,
        tokens,
        authorization_server,
        jwks_refresh,
        token_cache,
        allowed_host,
        allowed_origin,
        pool_per_tenant,
        pool_per_principal,
        pool_long_per_tenant,
        pool_total,
        pool_idle,
        pool_max_age,
        pool_max_calls,
        drain,
        tenants,
        audit_file,
        redis_url,
        traces,
        client_timeout,
        keep_alive,
        cache_bytes,
        slow_after,
        answer_tokens,
        azure,
    } = args;
    let audit = if audit_file.as_os_str() == "-" { audit::Target::Stdout } else { audit::Target::File(audit_file) };
    let config = config.ok_or(missing("--config", "STOREFENCE_CONFIG", "the configuration file with Key Vaults"))?;
    let public_url = public_url.ok_or(missing(
        "--public-url",
        "STOREFENCE_PUBLIC_URL",
        "the URL that clients use, without /mcp,",
    ))?;
    let invalid = |problem: &str| CliError::Invalid {
        flag: "--public-url",
        variable: "STOREFENCE_PUBLIC_URL",
        problem: problem.to_owned(),
    };
    if !matches!(public_url.scheme(), "http" | "https") || public_url.host_str().is_none() {
        return Err(invalid("an http or https URL is expected"));
    }
    if public_url.query().is_some() || public_url.fragment().is_some() || public_url.path() != "/" {
        return Err(invalid("a URL without path, query and fragment is expected; /mcp is added to it"));
    }
    let tls = match (tls_cert, tls_key) {
        (Some(certificate), Some(key)) => Some(Files { certificate, key }),
        (None, None) => None,
        (None, Some(_)) => return Err(missing("--tls-cert", "STOREFENCE_TLS_CERT", "the certificate of --tls-key")),
        (Some(_), None) => return Err(missing("--tls-key", "STOREFENCE_TLS_KEY", "the private key of --tls-cert")),
    };
    let redis = redis_url.filter(|url| !url.is_empty()).map(|url| RedisUrl::parse(&url)).transpose();
    let redis = redis.map_err(run::RunError::from)?;
    let TraceArgs { otlp_endpoint, trace_statements } = traces;
    let traces = TraceSettings::new(otlp_endpoint.as_deref(), trace_statements, azure.ca_file.clone());
    let traces = traces.map_err(run::RunError::from)?;
    let tokens = token_settings(tokens)?;
    let allowed = Allowed::new(&public_url, &allowed_host, &allowed_origin)?;
    Ok(run::Settings {
        config: Config::load(&config)?,
        listen,
        tls,
        max_connections: max_connections as usize,
        admin_listen,
        public_url,
        tokens,
        authorization_server,
        jwks_refresh: Duration::from_secs(jwks_refresh),
        token_cache,
        allowed,
        pool_per_tenant: pool_per_tenant as usize,
        pool_per_principal,
        pool_long_per_tenant: pool_long_per_tenant as usize,
        pool_total: pool_total as usize,
        pool_idle: Duration::from_secs(pool_idle),
        pool_life: Span { age: Duration::from_secs(pool_max_age), calls: pool_max_calls },
        drain: Duration::from_secs(drain),
        tenants,
        audit,
        redis,
        traces,
        log_format,
        client_timeout: Duration::from_secs(client_timeout),
        keep_alive: Duration::from_secs(keep_alive),
        cache_bytes,
        slow_after: Duration::from_millis(slow_after),
        budget: Budget::new(answer_tokens),
        azure,
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
