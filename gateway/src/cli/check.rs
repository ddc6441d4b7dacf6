//! From the options that the user wrote to the settings that run.

use std::{path::PathBuf, time::Duration};

use url::Url;

use super::{
    CliError,
    options::{ExplainArgs, RunArgs, TokenArgs, TraceArgs},
};
use crate::{
    audit,
    config::Config,
    db::{life::Span, pool::PoolSettings},
    explain,
    http::hosts::Allowed,
    identity::{TokenSettings, authority::Authority},
    redis::RedisUrl,
    server::tls::Files,
    settings::{AccessSettings, Listening, Settings},
    telemetry::{LogFormat, otlp::TraceSettings},
    tools::budget::Budget,
};

/// Longest wait for a free database connection.
const POOL_WAIT: Duration = Duration::from_secs(5);

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

pub(super) fn explain_settings(args: ExplainArgs) -> Result<explain::Settings, CliError> {
    let ExplainArgs { token_file, tenants, kubeconfig, ca_file, tokens } = args;
    Ok(explain::Settings { token_file, tenants, kubeconfig, ca_file, tokens: token_settings(tokens)? })
}

/// The settings of `run` and `doctor`.
pub(super) fn settings(args: RunArgs, log_format: LogFormat) -> Result<Settings, CliError> {
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
    let public_url = check_public_url(public_url)?;
    let tls = tls_files(tls_cert, tls_key)?;
    let redis = redis_url.filter(|url| !url.is_empty()).map(|url| RedisUrl::parse(&url)).transpose()?;
    let TraceArgs { otlp_endpoint, trace_statements } = traces;
    let traces = TraceSettings::new(otlp_endpoint.as_deref(), trace_statements, azure.ca_file.clone())?;
    let tokens = token_settings(tokens)?;
    let allowed = Allowed::new(&public_url, &allowed_host, &allowed_origin)?;
    let listening = Listening {
        public: listen,
        tls,
        max_connections: max_connections as usize,
        admin: admin_listen,
        client_timeout: Duration::from_secs(client_timeout),
        keep_alive: Duration::from_secs(keep_alive),
        drain: Duration::from_secs(drain),
    };
    let access = AccessSettings {
        public_url,
        tokens,
        authorization_server,
        jwks_refresh: Duration::from_secs(jwks_refresh),
        token_cache,
        allowed,
    };
    let pools = PoolSettings {
        per_tenant: pool_per_tenant as usize,
        per_principal: pool_per_principal,
        long_per_tenant: pool_long_per_tenant as usize,
        total: pool_total as usize,
        wait: POOL_WAIT,
        idle: Duration::from_secs(pool_idle),
        life: Span { age: Duration::from_secs(pool_max_age), calls: pool_max_calls },
    };
    Ok(Settings {
        config: Config::load(&config)?,
        listening,
        access,
        pools,
        tenants,
        audit,
        redis,
        traces,
        log_format,
        cache_bytes,
        slow_after: Duration::from_millis(slow_after),
        budget: Budget::new(answer_tokens),
        azure,
    })
}

/// The URL that clients use, without a path: `/mcp` is added to it.
fn check_public_url(url: Option<Url>) -> Result<Url, CliError> {
    const FLAG: (&str, &str) = ("--public-url", "STOREFENCE_PUBLIC_URL");
    let url = url.ok_or(missing(FLAG.0, FLAG.1, "the URL that clients use, without /mcp,"))?;
    let invalid = |problem: &str| CliError::Invalid { flag: FLAG.0, variable: FLAG.1, problem: problem.to_owned() };
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(invalid("an http or https URL is expected"));
    }
    if url.query().is_some() || url.fragment().is_some() || url.path() != "/" {
        return Err(invalid("a URL without path, query and fragment is expected; /mcp is added to it"));
    }
    Ok(url)
}

/// Certificate and key: both or neither.
fn tls_files(certificate: Option<PathBuf>, key: Option<PathBuf>) -> Result<Option<Files>, CliError> {
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(Some(Files { certificate, key })),
        (None, None) => Ok(None),
        (None, Some(_)) => Err(missing("--tls-cert", "STOREFENCE_TLS_CERT", "the certificate of --tls-key")),
        (Some(_), None) => Err(missing("--tls-key", "STOREFENCE_TLS_KEY", "the private key of --tls-cert")),
    }
}
