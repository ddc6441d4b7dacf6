//! Logs and traces. What is logged is chosen with `RUST_LOG`; `info` where it is not set. Traces go to an OpenTelemetry
//! collector where one is configured.

pub mod otlp;
pub mod spans;

use std::sync::Arc;

use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{LevelFilter, filter_fn},
    fmt,
    layer::SubscriberExt,
    registry::Registry,
    util::SubscriberInitExt,
};

use self::otlp::{TraceError, TraceSettings, Traces};
use crate::{cli::LogFormat, metrics::Metrics};

/// Modules whose finer levels show statements, headers or bodies; rmcp warns of every error with its text. They stay quiet
/// whatever `RUST_LOG` says: SQL text, tokens and rows do not belong in logs.
const QUIET: [&str; 6] =
    ["tokio_postgres=info", "rmcp=error", "hyper=info", "hyper_util=info", "reqwest=info", "azure_core=info"];

/// Starts logging to standard error.
pub fn init(format: LogFormat) {
    // A second call, in tests, changes nothing.
    let _ = tracing_subscriber::registry().with(logs(format)).try_init();
}

/// Starts logging to standard error and, where a collector is configured, exporting traces. Needs a runtime.
///
/// # Errors
/// [`TraceError`].
pub fn init_with_traces(
    format: LogFormat,
    settings: Option<&TraceSettings>,
    metrics: &Arc<Metrics>,
) -> Result<Traces, TraceError> {
    let Some(settings) = settings else {
        init(format);
        return Ok(Traces::default());
    };
    let traces = Traces::start(settings, metrics.clone())?;
    // Spans of ours that are meant for export, and no events: a log line may name what must not leave.
    let exported = filter_fn(|metadata| metadata.is_span() && metadata.target() == spans::TARGET);
    let layer = traces.tracer().map(|tracer| {
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_level(false)
            .with_tracked_inactivity(false)
            .with_filter(exported.with_max_level_hint(LevelFilter::INFO))
    });
    let _ = tracing_subscriber::registry().with(logs(format)).with(layer).try_init();
    Ok(traces)
}

fn logs(format: LogFormat) -> Box<dyn Layer<Registry> + Send + Sync> {
    let mut filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    for directive in QUIET {
        if let Ok(directive) = directive.parse() {
            filter = filter.add_directive(directive);
        }
    }
    match format {
        LogFormat::Json => fmt::layer().json().with_writer(std::io::stderr).with_filter(filter).boxed(),
        LogFormat::Text => fmt::layer().with_writer(std::io::stderr).with_filter(filter).boxed(),
    }
}
