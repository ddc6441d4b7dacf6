//! Logs and traces. `RUST_LOG` selects what is logged; the default is `info`. Traces go to an OpenTelemetry collector
//! if one is configured.

pub mod otlp;
pub mod spans;

use std::{io::IsTerminal, sync::Arc};

use clap::ValueEnum;
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt, LevelFilter, Targets, filter_fn},
    fmt,
    layer::{Filter, SubscriberExt},
    registry::Registry,
    util::SubscriberInitExt,
};

use self::otlp::{TraceError, TraceSettings, Traces};
use crate::metrics::Metrics;

/// Modules whose finer levels show statements, headers or bodies; rmcp logs every error with its text. They and their
/// submodules stay quiet whatever `RUST_LOG` says: SQL text, tokens and rows do not belong in logs.
const QUIET: [(&str, LevelFilter); 6] = [
    ("tokio_postgres", LevelFilter::INFO),
    ("rmcp", LevelFilter::ERROR),
    ("hyper", LevelFilter::INFO),
    ("hyper_util", LevelFilter::INFO),
    ("reqwest", LevelFilter::INFO),
    ("azure_core", LevelFilter::INFO),
];

/// Shape of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}

/// Starts logging to standard error.
pub fn init(format: LogFormat) {
    // A second call, in tests, changes nothing.
    let _ = tracing_subscriber::registry().with(logs(format)).try_init();
}

/// Starts logging to standard error and, if a collector is configured, exporting traces. Needs a runtime.
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
    // Only our own spans that are meant for export, and no events: a log line may contain what must not be exported.
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
    let chosen = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let filter = quiet(chosen);
    match format {
        LogFormat::Json => fmt::layer().json().with_writer(std::io::stderr).with_filter(filter).boxed(),
        // Colours only on a terminal: in a file or a collector, colour codes would break up the words that people
        // search for.
        LogFormat::Text => {
            let layer = fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
            layer.with_filter(filter).boxed()
        }
    }
}

/// The selected levels without the quiet modules. Two filters: in a single one the directive for the longer path wins,
/// and `rmcp::transport=trace` would override `rmcp=error`.
fn quiet(chosen: EnvFilter) -> impl Filter<Registry> + Send + Sync + 'static {
    chosen.and(Targets::new().with_default(LevelFilter::TRACE).with_targets(QUIET))
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Arc, Mutex},
    };

    use tracing_subscriber::{EnvFilter, Layer, fmt, layer::SubscriberExt};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("lines").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_directive_brings_back_what_stays_quiet() {
        let lines = Lines::default();
        let writer = lines.clone();
        let chosen = EnvFilter::new("warn,rmcp::transport=trace,hyper::proto::h1=trace,ours=debug,[a_span]=trace");
        let layer = fmt::layer().with_writer(move || writer.clone()).with_filter(super::quiet(chosen));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(target: "rmcp::transport::deep", "hidden");
            tracing::trace!(target: "rmcp::transport", "hidden");
            tracing::debug!(target: "hyper::proto::h1::io", "hidden");
            let _entered = tracing::info_span!(target: "ours", "a_span").entered();
            tracing::trace!(target: "rmcp", "hidden");
            tracing::error!(target: "rmcp::transport", "shown 1");
            tracing::info!(target: "hyper::proto::h1", "shown 2");
            tracing::debug!(target: "ours::module", "shown 3");
        });
        let text = String::from_utf8(lines.0.lock().expect("lines").clone()).expect("text");
        assert!(!text.contains("hidden"), "{text}");
        assert_eq!(text.matches("shown").count(), 3, "{text}");
    }
}
