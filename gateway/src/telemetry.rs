//! Logs. What is logged is chosen with `RUST_LOG`; `info` where it is not set.

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::cli::LogFormat;

/// Modules whose finer levels show statements, headers or bodies. They stay quiet whatever `RUST_LOG` says: SQL text,
/// tokens and rows do not belong in logs.
const QUIET: [&str; 6] =
    ["tokio_postgres=info", "rmcp=warn", "hyper=info", "hyper_util=info", "reqwest=info", "azure_core=info"];

/// Starts logging to standard error.
pub fn init(format: LogFormat) {
    let mut filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    for directive in QUIET {
        if let Ok(directive) = directive.parse() {
            filter = filter.add_directive(directive);
        }
    }
    let registry = tracing_subscriber::registry().with(filter);
    // A second call, in tests, changes nothing.
    let _ = match format {
        LogFormat::Json => registry.with(fmt::layer().json().with_writer(std::io::stderr)).try_init(),
        LogFormat::Text => registry.with(fmt::layer().with_writer(std::io::stderr)).try_init(),
    };
}
