//! Spans as a collector receives them: names, parents, attributes, and what they must not contain.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use axum::{Router, routing::post};
use bytes::Bytes;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value as Any},
    trace::v1::{Span, span::SpanKind},
};
use prost::Message;
use serde_json::{Value, json};
use storefence_devstack::{
    http::{Bind, ServerHandle, serve},
    process::Signal,
};

use crate::{
    Tests,
    world::{Gateway, World, until},
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const OTHER_TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
/// Appears only in statements of these tests.
const MARKER: &str = "words_that_stay_here";

pub fn tests(tests: &mut Tests) {
    tests.add("spans_have_the_callers_parent_and_no_statement", spans);
    tests.add("statements_leave_only_where_that_was_asked_for", statements);
    tests.add("a_collector_that_is_away_delays_nothing", away);
    tests.add("the_variables_of_opentelemetry_count", variables);
}

/// A collector that stores what it receives.
struct Collector {
    server: ServerHandle,
    bodies: Arc<Mutex<Vec<Bytes>>>,
}

impl Collector {
    async fn start() -> Result<Self> {
        let bodies = Arc::<Mutex<Vec<Bytes>>>::default();
        let kept = bodies.clone();
        let take = async move |body: Bytes| kept.lock().unwrap_or_else(PoisonError::into_inner).push(body);
        let router = Router::new().route("/v1/traces", post(move |body: Bytes| async move { take(body).await }));
        Ok(Self { server: serve(Bind::loopback(), None, router).await?, bodies })
    }

    fn bodies(&self) -> Vec<Bytes> {
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn holds(&self, text: &str) -> bool {
        self.bodies().iter().any(|body| body.windows(text.len()).any(|window| window == text.as_bytes()))
    }

    fn requests(&self) -> Result<Vec<ExportTraceServiceRequest>> {
        Ok(self.bodies().into_iter().map(ExportTraceServiceRequest::decode).collect::<Result<_, _>>()?)
    }

    fn spans(&self) -> Result<Vec<Span>> {
        let resources = self.requests()?.into_iter().flat_map(|request| request.resource_spans);
        Ok(resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect())
    }

    /// The span with this parent, once it has arrived.
    async fn child_of(&self, trace: &str, parent: &str) -> Result<Span> {
        let find = || -> Result<Option<Span>> {
            let mut spans = self.spans()?.into_iter();
            Ok(spans.find(|span| hex(&span.trace_id) == trace && hex(&span.parent_span_id) == parent))
        };
        until(&format!("a span below {parent}"), Duration::from_secs(10), || async { Ok(find()?.is_some()) }).await?;
        find()?.context("it was there")
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attributes(list: &[KeyValue]) -> HashMap<String, Value> {
    let value = |any: Option<&Any>| match any {
        Some(Any::StringValue(text)) => json!(text),
        Some(Any::IntValue(number)) => json!(number),
        other => json!(format!("{other:?}")),
    };
    list.iter().map(|pair| (pair.key.clone(), value(pair.value.as_ref().and_then(|any| any.value.as_ref())))).collect()
}

/// A request with a trace context in the headers, in `_meta`, or in both.
async fn send(
    world: &World,
    gateway: &Gateway,
    (method, mut params): (&str, Value),
    header: Option<&str>,
    meta: Option<&str>,
) -> Result<Value> {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {},
    });
    if let Some(parent) = meta {
        params["_meta"]["traceparent"] = json!(parent);
    }
    let name = params["name"].as_str().or(params["uri"].as_str()).map(str::to_owned);
    let mut request = world
        .http
        .post(format!("{}/mcp", gateway.url))
        .bearer_auth(world.token("head-office")?)
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", method);
    if let Some(name) = name {
        request = request.header("mcp-name", name);
    }
    if let Some(parent) = header {
        request = request.header("traceparent", parent);
    }
    let body = json!({"jsonrpc": "2.0", "id": 77, "method": method, "params": params});
    Ok(request.json(&body).send().await?.json().await?)
}

fn query(sql: &str) -> (&'static str, Value) {
    ("tools/call", json!({"name": "execute_sales_query", "arguments": {"postgresql_query": sql}}))
}

fn parent(trace: &str, span: &str) -> String {
    format!("00-{trace}-{span}-01")
}

async fn spans(world: Arc<World>) -> Result<()> {
    let collector = Collector::start().await?;
    let url = collector.server.url();
    let gateway = world.another_gateway("traces", &["--otlp-endpoint", &url]).await?;
    let sql = format!("SELECT store_name, '{MARKER}' AS word FROM retail.stores");

    // The parent comes from the headers; the statement's span is below the request's span.
    let header = parent(TRACE, "00f067aa0ba90201");
    let answer = send(&world, &gateway, query(&sql), Some(&header), None).await?;
    ensure!(answer["result"]["isError"] == json!(false), "{answer}");
    let span = collector.child_of(TRACE, "00f067aa0ba90201").await?;
    ensure!(span.name == "tools/call execute_sales_query" && span.kind == SpanKind::Server as i32, "{span:?}");
    let seen = attributes(&span.attributes);
    for (key, value) in [
        ("mcp.method.name", "tools/call"),
        ("mcp.protocol.version", "2026-07-28"),
        ("gen_ai.tool.name", "execute_sales_query"),
        ("gen_ai.operation.name", "execute_tool"),
        ("jsonrpc.request.id", "77"),
        ("storefence.tenant", "zava"),
    ] {
        ensure!(seen.get(key) == Some(&json!(value)), "{key}: {seen:?}");
    }
    ensure!(!seen.contains_key("error.type"), "{seen:?}");
    let statement = collector.child_of(TRACE, &hex(&span.span_id)).await?;
    let seen = attributes(&statement.attributes);
    ensure!(statement.name == "SELECT" && statement.kind == SpanKind::Client as i32, "{statement:?}");
    ensure!(seen["db.system.name"] == "postgresql" && seen["db.response.returned_rows"] == 3, "{seen:?}");

    // `_meta` is closer to the caller than the HTTP hop, which becomes a link.
    let (meta, header) = (parent(TRACE, "00f067aa0ba90202"), parent(OTHER_TRACE, "00f067aa0ba90203"));
    send(&world, &gateway, query("SELECT nope"), Some(&header), Some(&meta)).await?;
    let span = collector.child_of(TRACE, "00f067aa0ba90202").await?;
    ensure!(span.links.iter().any(|link| hex(&link.trace_id) == OTHER_TRACE), "{span:?}");
    ensure!(attributes(&span.attributes).get("error.type") == Some(&json!("tool_error")), "{span:?}");
    let statement = collector.child_of(TRACE, &hex(&span.span_id)).await?;
    ensure!(attributes(&statement.attributes)["db.response.status_code"] == "42703", "{statement:?}");

    // Names that a caller invents do not become span names.
    for (at, request, name, error) in [
        ("00f067aa0ba90204", ("tools/call", json!({"name": MARKER})), "tools/call", "-32602"),
        ("00f067aa0ba90205", ("prompts/get", json!({"name": "top_products"})), "prompts/get top_products", ""),
        ("00f067aa0ba90206", ("prompts/get", json!({"name": MARKER})), "prompts/get", "-32602"),
        ("00f067aa0ba90207", ("resources/read", json!({"uri": "storefence://schema/orders"})), "resources/read", ""),
        ("00f067aa0ba90208", ("tools/list", json!({})), "tools/list", ""),
        ("00f067aa0ba90209", (MARKER, json!({})), "other", "404"),
    ] {
        send(&world, &gateway, request, None, Some(&parent(TRACE, at))).await?;
        let span = collector.child_of(TRACE, at).await?;
        let seen = attributes(&span.attributes).get("error.type").cloned().unwrap_or(json!(""));
        ensure!(span.name == name && seen == json!(error), "{name}: {seen} {span:?}");
    }

    // What the caller does not sample is not sampled here; an invalid trace context starts a new trace.
    let unsampled = format!("00-{TRACE}-00f067aa0ba9020a-00");
    send(&world, &gateway, query("SELECT 1"), Some(&unsampled), None).await?;
    send(&world, &gateway, query("SELECT 1"), Some("'; DROP TABLE"), Some("nonsense")).await?;
    let roots = || -> Result<bool> {
        Ok(collector.spans()?.iter().any(|span| span.name.starts_with("tools/call") && span.parent_span_id.is_empty()))
    };
    until("a trace of its own", Duration::from_secs(10), || async { roots() }).await?;
    ensure!(!collector.spans()?.iter().any(|span| hex(&span.parent_span_id) == "00f067aa0ba9020a"), "not sampled");

    let resource = collector.requests()?[0].resource_spans[0].resource.clone().context("a resource")?;
    let resource = attributes(&resource.attributes);
    ensure!(resource["service.name"] == "storefence-gateway", "{resource:?}");
    ensure!(resource["deployment.environment.name"] == "wire-tests", "{resource:?}");
    for secret in [MARKER, "nope", "Seattle", "Bearer", "retail.stores"] {
        ensure!(!collector.holds(secret), "{secret} left the gateway");
    }
    let exports = "storefence_trace_exports_total{outcome=\"ok\"}";
    ensure!(world.metric(&gateway, exports).await? >= 1.0);
    Ok(())
}

async fn statements(world: Arc<World>) -> Result<()> {
    let collector = Collector::start().await?;
    let url = collector.server.url();
    let gateway = world.another_gateway("traces-open", &["--otlp-endpoint", &url, "--trace-statements"]).await?;
    let sql = format!("SELECT '{MARKER}', store_name FROM retail.stores");
    send(&world, &gateway, query(&sql), Some(&parent(TRACE, "00f067aa0ba90301")), None).await?;
    let span = collector.child_of(TRACE, "00f067aa0ba90301").await?;
    let statement = collector.child_of(TRACE, &hex(&span.span_id)).await?;
    ensure!(attributes(&statement.attributes)["db.query.text"] == sql, "{statement:?}");
    // Even so rows are not exported, and the log is unchanged.
    ensure!(!collector.holds("Seattle") && !gateway.child.log_text().contains(MARKER));
    Ok(())
}

async fn away(world: Arc<World>) -> Result<()> {
    // Accepts connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", silent.local_addr()?);
    let mut gateway = world.another_gateway("traces-away", &["--otlp-endpoint", &url]).await?;
    send(&world, &gateway, query("SELECT 1"), None, None).await?;
    for _ in 0..20 {
        let begun = Instant::now();
        let answer = send(&world, &gateway, query("SELECT 1"), None, None).await?;
        ensure!(answer["result"]["isError"] == json!(false) && begun.elapsed() < Duration::from_secs(1), "{answer}");
    }
    let begun = Instant::now();
    gateway.child.signal(Signal::Term);
    let status = gateway.child.wait(Duration::from_secs(10)).await?.context("it did not end")?;
    ensure!(status.code() == Some(0) && begun.elapsed() < Duration::from_secs(6), "{status} {:?}", begun.elapsed());

    // Nothing listens.
    drop(silent);
    let mut gateway = world.another_gateway("traces-nobody", &["--otlp-endpoint", &url]).await?;
    send(&world, &gateway, query("SELECT 1"), None, None).await?;
    let failed = "storefence_trace_exports_total{outcome=\"failed\"}";
    until("the failure shows", Duration::from_secs(10), || async { Ok(world.metric(&gateway, failed).await? >= 1.0) })
        .await?;
    ensure!(gateway.child.log_text().contains("the collector takes no spans"));
    gateway.child.signal(Signal::Term);
    let status = gateway.child.wait(Duration::from_secs(10)).await?.context("it did not end")?;
    ensure!(status.code() == Some(0), "{status}");
    Ok(())
}

/// The service name and the sampler, set as an administrator who knows OpenTelemetry sets them.
async fn variables(world: Arc<World>) -> Result<()> {
    let collector = Collector::start().await?;
    let url = collector.server.url();
    let named = [("OTEL_SERVICE_NAME", "till-front"), ("OTEL_TRACES_SAMPLER", "always_on")];
    let gateway = world.gateway_with_environment("traces-named", &["--otlp-endpoint", &url], &named).await?;
    send(&world, &gateway, query("SELECT 1"), None, None).await?;
    until("a span", Duration::from_secs(10), || async { Ok(!collector.spans()?.is_empty()) }).await?;
    let resource = collector.requests()?[0].resource_spans[0].resource.clone().context("a resource")?;
    let resource = attributes(&resource.attributes);
    ensure!(resource["service.name"] == "till-front", "{resource:?}");
    ensure!(resource["deployment.environment.name"] == "wire-tests", "{resource:?}");

    let silent = Collector::start().await?;
    let url = silent.server.url();
    let never = [("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0")];
    let mut gateway = world.gateway_with_environment("traces-never", &["--otlp-endpoint", &url], &never).await?;
    for _ in 0..5 {
        send(&world, &gateway, query("SELECT 1"), None, None).await?;
    }
    // Remaining spans are exported before the process ends.
    gateway.child.signal(Signal::Term);
    ensure!(gateway.child.wait(Duration::from_secs(20)).await?.is_some(), "the gateway did not end");
    ensure!(silent.spans()?.is_empty(), "sampled at a ratio of 0");
    Ok(())
}
