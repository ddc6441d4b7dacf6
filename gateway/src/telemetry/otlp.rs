//! Export of spans over OTLP (HTTP, protobuf) in the background. Calls never wait for it: spans that a collector does
//! not accept in time are dropped and counted.
//!
//! In addition to our own options, the SDK reads the usual variables: `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`,
//! `OTEL_TRACES_SAMPLER` with `_ARG`, `OTEL_EXPORTER_OTLP_HEADERS` and `OTEL_BSP_*`.

use std::{
    env,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use opentelemetry::{Key, KeyValue, trace::TracerProvider};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracer, SdkTracerProvider},
};
use tokio::runtime::Handle;
use url::Url;

use crate::{
    metrics::Metrics,
    trust::tls::{self, TlsError},
};

/// The service name, unless `OTEL_SERVICE_NAME` gives another.
const SERVICE: &str = "storefence-gateway";
/// Timeout for the collector's answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout for exporting the last spans when the process ends.
const LAST: Duration = Duration::from_secs(2);
/// Most bytes of a collector's answer that are read.
const ANSWER_MAX: usize = 64 * 1024;

static STATEMENTS: OnceLock<bool> = OnceLock::new();

/// Whether spans may contain the text of statements.
#[must_use]
pub fn statements() -> bool {
    STATEMENTS.get().copied().unwrap_or_default()
}

/// Whether spans are exported at all.
#[must_use]
pub fn exported() -> bool {
    STATEMENTS.get().is_some()
}

/// The destination of spans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceSettings {
    /// The collector's complete URL for traces.
    pub endpoint: Url,
    /// Whether the text of statements is exported.
    pub statements: bool,
    /// Trust roots in addition to the system's.
    pub ca_file: Option<PathBuf>,
}

/// Traces that cannot be exported as configured.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// Not a URL.
    #[error("--otlp-endpoint ({0}): an http or https URL is expected")]
    Endpoint(&'static str),
    /// Only one protocol is supported.
    #[error("{0}: '{1}' is not spoken; http/protobuf is")]
    Protocol(&'static str, String),
    /// Trust roots.
    #[error("--ca-file (STOREFENCE_CA_FILE): {0}")]
    Roots(#[from] TlsError),
    /// The exporter's error.
    #[error("OTEL_EXPORTER_OTLP_*: {0}")]
    Exporter(String),
}

impl TraceSettings {
    /// From the collector's base URL and the variables that OpenTelemetry defines. `None` if nothing is to be exported.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn new(base: Option<&str>, statements: bool, ca_file: Option<PathBuf>) -> Result<Option<Self>, TraceError> {
        let set = |name: &str| env::var(name).ok().filter(|value| !value.trim().is_empty());
        let is = |name: &str, word: &str| set(name).is_some_and(|value| value.eq_ignore_ascii_case(word));
        if is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
            return Ok(None);
        }
        const TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        let (name, url, path) = match (set(TRACES), base.map(str::trim).filter(|base| !base.is_empty())) {
            (Some(complete), _) => (TRACES, complete, ""),
            (None, Some(base)) => ("OTEL_EXPORTER_OTLP_ENDPOINT", base.trim_end_matches('/').to_owned(), "/v1/traces"),
            (None, None) => return Ok(None),
        };
        for variable in ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"] {
            if let Some(other) = set(variable).filter(|value| value != "http/protobuf") {
                return Err(TraceError::Protocol(variable, other));
            }
        }
        // Checked before the path is added: `http://` has no host, but `http:///v1/traces` has one.
        let sound = |url: &Url| matches!(url.scheme(), "http" | "https") && url.has_host();
        let given = Url::parse(&url).ok().filter(sound);
        let endpoint = given.and_then(|_| Url::parse(&(url + path)).ok()).ok_or(TraceError::Endpoint(name))?;
        Ok(Some(Self { endpoint, statements, ca_file }))
    }
}

/// The running export.
#[derive(Debug, Default)]
pub struct Traces(Option<SdkTracerProvider>);

impl Traces {
    /// Starts the export. Needs a runtime.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn start(settings: &TraceSettings, metrics: Arc<Metrics>) -> Result<Self, TraceError> {
        let TraceSettings { endpoint, statements, ca_file } = settings;
        let failed = |error: &dyn std::fmt::Display| TraceError::Exporter(error.to_string());
        let mut http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(TIMEOUT);
        for root in ca_file.as_deref().map(tls::certificates).transpose()?.unwrap_or_default() {
            http = http.add_root_certificate(reqwest::Certificate::from_der(&root).map_err(|error| failed(&error))?);
        }
        let http = http.build().map_err(|error| failed(&error))?;
        let collector = Collector { http, runtime: Handle::current(), metrics, failing: AtomicBool::new(false) };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(collector)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint.as_str())
            .build()
            .map_err(|error| failed(&error))?;
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource()).build();
        let _ = STATEMENTS.set(*statements);
        let endpoint = endpoint.origin().ascii_serialization();
        tracing::info!(endpoint, statements, "exporting traces");
        Ok(Self(Some(provider)))
    }

    /// The tracer for spans; `None` if nothing is exported.
    #[must_use]
    pub fn tracer(&self) -> Option<SdkTracer> {
        self.0.as_ref().map(|provider| provider.tracer(SERVICE))
    }

    /// Exports the last spans, if the collector accepts them within the timeout.
    pub async fn end(self) {
        let Some(provider) = self.0 else { return };
        let last = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(LAST));
        if !matches!(tokio::time::timeout(LAST + LAST / 4, last).await, Ok(Ok(Ok(())))) {
            tracing::warn!("the last spans were not exported");
        }
    }
}

/// The resource: what the environment says, with our own service name as the default.
fn resource() -> Resource {
    let given = Resource::builder().build();
    let text = |name: &'static str| given.get(&Key::new(name)).map(|value| value.to_string());
    let mut builder = Resource::builder();
    if text("service.name").is_none_or(|name| name.starts_with("unknown_service")) {
        builder = builder.with_service_name(SERVICE);
    }
    if text("service.version").is_none() {
        builder = builder.with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    }
    builder.build()
}

/// Sends with our own HTTP client.
struct Collector {
    http: reqwest::Client,
    runtime: Handle,
    metrics: Arc<Metrics>,
    failing: AtomicBool,
}

impl std::fmt::Debug for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collector").finish_non_exhaustive()
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let request = self.http.request(parts.method, parts.uri.to_string()).headers(parts.headers).body(body);
        // The exporter's thread has no tokio runtime for timers and sockets.
        let sent = self.runtime.spawn(send(request)).await;
        let sent = sent.map_err(HttpError::from).and_then(|sent| sent.map_err(|error| error.without_url().into()));
        let problem = match &sent {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(response.status().to_string()),
            Err(error) => Some(error.to_string()),
        };
        let outcome = if problem.is_none() { "ok" } else { "failed" };
        self.metrics.trace_exports.with_label_values(&[outcome]).inc();
        let before = self.failing.swap(problem.is_some(), Ordering::AcqRel);
        match problem {
            Some(problem) if !before => tracing::warn!(problem, "the collector takes no spans; they are dropped"),
            None if before => tracing::info!("the collector takes spans again"),
            _ => {}
        }
        sent
    }
}

async fn send(request: reqwest::RequestBuilder) -> reqwest::Result<http::Response<Bytes>> {
    let mut response = request.send().await?;
    let mut answer = http::Response::new(Bytes::new());
    *answer.status_mut() = response.status();
    *answer.headers_mut() = response.headers().clone();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > ANSWER_MAX {
            break;
        }
    }
    *answer.body_mut() = body.into();
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::TraceSettings;

    #[test]
    fn the_endpoint_is_a_base() {
        let new = |base: &str| TraceSettings::new(Some(base), false, None);
        for base in ["http://collector:4318", "http://collector:4318/"] {
            let settings = new(base).expect("good").expect("configured");
            assert_eq!(settings.endpoint.as_str(), "http://collector:4318/v1/traces");
        }
        assert_eq!(TraceSettings::new(None, true, None).expect("good"), None);
        assert_eq!(new(" ").expect("good"), None);
        for bad in ["collector:4318", "grpc://collector:4317", "http://"] {
            let error = new(bad).expect_err(bad).to_string();
            assert!(error.contains("--otlp-endpoint (OTEL_EXPORTER_OTLP_ENDPOINT)"), "{error}");
        }
    }
}
