//! Spans by OpenTelemetry's conventions for MCP, generative AI and databases.
//!
//! Spans contain only known names: nothing that a caller invents (an unknown tool, a URI), no rows, and the text of a
//! statement only if that is configured.

use http::HeaderMap;
use opentelemetry::{
    Context,
    propagation::{Extractor, TextMapPropagator},
    trace::{Status, TraceContextExt},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use uuid::Uuid;

use super::otlp;

/// The target of spans that are exported.
pub const TARGET: &str = "storefence_gateway::trace";
/// The longest `tracestate` that is passed on; the specification requires at least 512.
const TRACESTATE_MAX: usize = 1024;

/// `traceparent` and `tracestate`, from the headers or from `_meta`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carrier {
    /// W3C `traceparent`.
    pub parent: Option<String>,
    /// W3C `tracestate`.
    pub state: Option<String>,
}

impl Carrier {
    /// From the headers of a request.
    #[must_use]
    pub fn of_headers(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Self { parent: text("traceparent"), state: text("tracestate") }
    }

    fn context(&self) -> Option<Context> {
        self.parent.as_ref()?;
        let context = TraceContextPropagator::new().extract_with_context(&Context::new(), self);
        context.span().span_context().is_valid().then_some(context)
    }
}

impl Extractor for Carrier {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => self.parent.as_deref(),
            "tracestate" => self.state.as_deref().filter(|state| state.len() <= TRACESTATE_MAX),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

/// The parts of a request's span name and attributes.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The method: one that is served, or `other`.
    pub method: &'a str,
    /// The tool, if one of that name exists.
    pub tool: Option<&'a str>,
    /// The prompt, if one of that name exists.
    pub prompt: Option<&'a str>,
    /// The revision of the request.
    pub version: &'a str,
    /// The request's id.
    pub id: Option<&'a str>,
    /// The id of the request in log and audit.
    pub correlation: Uuid,
    pub tenant: &'a str,
}

/// A span for one MCP request. Its parent is the caller's span in `_meta`, else the one in the HTTP headers. If both
/// exist and differ, the second is linked.
#[must_use]
pub fn request(request: Request<'_>, meta: &Carrier, headers: &HeaderMap) -> Span {
    let Request { method, tool, prompt, version, id, correlation, tenant } = request;
    let name = match tool.or(prompt) {
        Some(target) => format!("{method} {target}"),
        None => method.to_owned(),
    };
    let span = tracing::info_span!(
        target: TARGET, "request", otel.name = name, otel.kind = "server", correlation_id = %correlation
    );
    // The rest is for the collector. Without one the span only gives log lines their context, for which its fields
    // suffice.
    if span.is_disabled() || !otlp::exported() {
        return span;
    }
    let (meta, headers) = (meta.context(), Carrier::of_headers(headers).context());
    let hop = headers.as_ref().map(|context| context.span().span_context().clone());
    if let Some(parent) = meta.clone().or(headers) {
        // Fails if nothing is exported.
        let _ = span.set_parent(parent);
    }
    if let (Some(meta), Some(hop)) = (meta, hop)
        && *meta.span().span_context() != hop
    {
        span.add_link(hop);
    }
    for (key, value) in [
        ("mcp.method.name", Some(method)),
        ("mcp.protocol.version", Some(version)),
        ("network.protocol.name", Some("http")),
        ("jsonrpc.request.id", id),
        ("gen_ai.tool.name", tool),
        ("gen_ai.operation.name", tool.map(|_| "execute_tool")),
        ("gen_ai.prompt.name", prompt),
        ("storefence.tenant", Some(tenant)),
    ] {
        if let Some(value) = value {
            span.set_attribute(key, value.to_owned());
        }
    }
    span
}

/// A span for one statement on the database, below the request's span.
#[must_use]
pub fn statement(kind: &'static str, sql: &str) -> Span {
    let span = tracing::info_span!(
        target: TARGET, "statement", otel.name = kind, otel.kind = "client"
    );
    if !span.is_disabled() && otlp::exported() {
        span.set_attribute("db.system.name", "postgresql");
        span.set_attribute("db.operation.name", kind);
        if otlp::statements() {
            span.set_attribute("db.query.text", sql.to_owned());
        }
    }
    span
}

/// Records the end of a statement: its number of rows, or its SQLSTATE or error code.
pub fn rows(span: &Span, ended: Result<u64, &str>) {
    if !otlp::exported() {
        return;
    }
    match ended {
        Ok(rows) => span.set_attribute("db.response.returned_rows", i64::try_from(rows).unwrap_or(i64::MAX)),
        Err(error) => {
            span.set_attribute("db.response.status_code", error.to_owned());
            failed(span, error);
        }
    }
}

/// Marks a span as failed. `error` is one of a closed set of codes.
pub fn failed(span: &Span, error: &str) {
    if !otlp::exported() {
        return;
    }
    span.set_attribute("error.type", error.to_owned());
    span.set_status(Status::error(""));
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TraceContextExt;

    use super::Carrier;

    #[test]
    fn a_parent_that_is_none_is_ignored() {
        let carrier = |parent: &str| Carrier { parent: Some(parent.to_owned()), state: Some("a=b".to_owned()) };
        let good = carrier("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").context().expect("a context");
        assert_eq!(good.span().span_context().trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        for bad in ["", "00", "00-00000000000000000000000000000000-b7ad6b7169203331-01", "00-x-y-01", "'; DROP TABLE"] {
            assert!(carrier(bad).context().is_none(), "{bad}");
        }
        assert!(Carrier::default().context().is_none());
    }
}
