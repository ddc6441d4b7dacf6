//! Prometheus metrics. Labels have closed sets of values: none contains a tenant, user, token or statement.

use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

/// Buckets of the OpenTelemetry conventions for MCP, in seconds.
const SECONDS: [f64; 14] = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];
/// Finer buckets at the low end: most statements take a few milliseconds.
const QUERY_SECONDS: [f64; 14] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];

pub struct Metrics {
    registry: Registry,
    /// MCP requests: method, tool, error type.
    pub operations: HistogramVec,
    /// Statements by kind.
    pub queries: IntCounterVec,
    /// Time from taking a connection to the last row, by outcome.
    pub query_seconds: HistogramVec,
    /// Token verifications by outcome and reason.
    pub tokens: IntCounterVec,
    /// Verified-token cache.
    pub token_cache: IntCounterVec,
    /// Requests for scopes by outcome.
    pub scopes: IntCounterVec,
    /// Key set fetches by cause and outcome.
    pub jwks_fetches: IntCounterVec,
    /// Age of the oldest key set.
    pub jwks_age: Gauge,
    /// Tenants by state.
    pub tenants: prometheus::IntGaugeVec,
    /// Statements that the gate refused, by reason.
    pub gate: IntCounterVec,
    /// Rows and bytes sent to callers.
    pub rows: IntCounter,
    /// Bytes of rows.
    pub bytes: IntCounter,
    /// Truncated results.
    pub truncations: IntCounter,
    /// Statements cancelled at the server, by cause.
    pub cancels: IntCounterVec,
    /// Database connections by state.
    pub connections: prometheus::IntGaugeVec,
    /// Connections opened and closed, by cause.
    pub connection_events: IntCounterVec,
    /// Wait for a database connection.
    pub pool_wait: Histogram,
    /// Wait of a principal for its own statements, or for the slow-query throttle.
    pub principal_wait: Histogram,
    /// Statements of throttled principals, by outcome.
    pub throttle: IntCounterVec,
    /// Reads of Key Vault secrets by outcome.
    pub secrets: IntCounterVec,
    /// Questions embedded by the provider, by outcome.
    pub embeddings: IntCounterVec,
    /// Calls refused by a quota: of principal or tenant, rate or concurrency.
    pub quota_refusals: IntCounterVec,
    /// Operations on Redis, by outcome.
    pub redis_operations: IntCounterVec,
    /// 1 while Redis is not used because of a failure.
    pub redis_away: IntGauge,
    /// Batches of spans sent to the collector, by outcome.
    pub trace_exports: IntCounterVec,
    /// Errors of tools, by tool and code.
    pub tool_errors: IntCounterVec,
    /// Look-ups of cached responses, by outcome.
    pub answer_cache: IntCounterVec,
    /// Bytes of cached responses in memory.
    pub answer_cache_bytes: IntGauge,
    /// Statements that took long, by tool.
    pub slow_statements: IntCounterVec,
    /// Audit lines that could not be written.
    pub audit_failures: IntCounter,
    /// Connections closed because the client was slow.
    pub slow_clients: IntCounterVec,
    /// Connections closed because the client gave up too many requests.
    pub reset_floods: IntCounter,
    pub client_connections: IntGauge,
    /// Connections beyond the cap.
    pub connections_refused: IntCounter,
    /// TLS handshakes by outcome.
    pub handshakes: IntCounterVec,
    /// Changes of the certificate on disk by outcome.
    pub certificate_reloads: IntCounterVec,
    /// 1 while the certificate on disk is the one in use.
    pub certificate_current: IntGauge,
    /// End of the certificate's life.
    pub certificate_expiry: IntGauge,
    /// Requests in progress.
    pub in_flight: IntGauge,
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// A duplicate name, which a test excludes.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            let vec = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vec.clone()))?;
            Ok(vec)
        };
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| -> Result<prometheus::IntGaugeVec, prometheus::Error> {
            let vec = prometheus::IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vec.clone()))?;
            Ok(vec)
        };
        let histograms = |name: &str, help: &str, buckets: &[f64], labels: &[&str]| {
            let vec = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?;
            registry.register(Box::new(vec.clone()))?;
            Ok::<_, prometheus::Error>(vec)
        };
        let operations = histograms(
            "mcp_server_operation_duration_seconds",
            "MCP requests by method, tool and error.",
            &SECONDS,
            &["mcp_method_name", "gen_ai_tool_name", "error_type"],
        )?;
        let query_seconds = histograms(
            "mcp_query_duration_seconds",
            "Statements from taking a connection to the last row.",
            &QUERY_SECONDS,
            &["outcome"],
        )?;
        let wait = |name: &str, help: &str| -> Result<Histogram, prometheus::Error> {
            let wait = Histogram::with_opts(HistogramOpts::new(name, help).buckets(QUERY_SECONDS.to_vec()))?;
            registry.register(Box::new(wait.clone()))?;
            Ok(wait)
        };
        let pool_wait = wait("storefence_pool_wait_seconds", "Wait for a database connection.")?;
        let principal_wait = wait(
            "storefence_principal_wait_seconds",
            "Wait for the same principal's other statements, or for its turn, before that for a connection.",
        )?;
        let jwks_age = Gauge::new("storefence_jwks_age_seconds", "Age of the oldest set of signing keys.")?;
        registry.register(Box::new(jwks_age.clone()))?;
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let in_flight = IntGauge::new("storefence_requests_in_flight", "HTTP requests under way.")?;
        registry.register(Box::new(in_flight.clone()))?;
        let redis_away = IntGauge::new("storefence_redis_away", "1 while Redis is away and replicas do not share.")?;
        registry.register(Box::new(redis_away.clone()))?;
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let metrics = Self {
            operations,
            queries: counters("mcp_queries_total", "Statements by kind.", &["query_type"])?,
            query_seconds,
            tokens: counters(
                "storefence_token_verifications_total",
                "Bearer tokens by outcome and reason.",
                &["outcome", "reason"],
            )?,
            token_cache: counters("storefence_token_cache_total", "Look-ups of verified tokens.", &["outcome"])?,
            scopes: counters(
                "storefence_scopes_total",
                "Verified tokens mapped to a scope, by outcome.",
                &["outcome"],
            )?,
            jwks_fetches: counters("storefence_jwks_fetches_total", "Fetches of signing keys.", &["cause", "outcome"])?,
            jwks_age,
            tenants: gauges("storefence_tenants", "RetailTenants by state.", &["state"])?,
            gate: counters("storefence_gate_refusals_total", "Statements that the gate refused.", &["reason"])?,
            rows: counter("storefence_rows_total", "Rows sent to callers.")?,
            bytes: counter("storefence_row_bytes_total", "Bytes of rows sent to callers.")?,
            truncations: counter("storefence_truncations_total", "Answers that were cut at the row or byte limit.")?,
            cancels: counters("storefence_cancels_total", "Statements cancelled at the server.", &["cause"])?,
            connections: gauges("storefence_database_connections", "Database connections by state.", &["state"])?,
            connection_events: counters(
                "storefence_database_connection_events_total",
                "Connections opened and closed.",
                &["event"],
            )?,
            pool_wait,
            principal_wait,
            throttle: counters(
                "storefence_long_statement_turns_total",
                "Statements of principals whose statements ran long lately, by whether they got their turn.",
                &["outcome"],
            )?,
            secrets: counters("storefence_secret_reads_total", "Reads of Key Vault secrets.", &["outcome"])?,
            embeddings: counters("storefence_embeddings_total", "Questions embedded by the provider.", &["outcome"])?,
            quota_refusals: counters(
                "storefence_quota_refusals_total",
                "Tool calls refused by a quota of a principal or a tenant.",
                &["scope", "quota"],
            )?,
            redis_operations: counters("storefence_redis_operations_total", "Operations on Redis.", &["outcome"])?,
            redis_away,
            trace_exports: counters(
                "storefence_trace_exports_total",
                "Batches of spans that the collector took or did not take.",
                &["outcome"],
            )?,
            tool_errors: counters("mcp_tool_errors_total", "Errors of tools.", &["gen_ai_tool_name", "code"])?,
            answer_cache: counters("storefence_answer_cache_total", "Kept answers looked for.", &["outcome"])?,
            answer_cache_bytes: gauge("storefence_answer_cache_bytes", "Bytes of cached responses in memory.")?,
            slow_statements: counters("storefence_slow_statements_total", "Statements that took long.", &["tool"])?,
            audit_failures: counter("storefence_audit_failures_total", "Audit lines that could not be written.")?,
            slow_clients: counters(
                "storefence_slow_clients_total",
                "Clients shed because a handshake, a request or the taking of an answer took too long.",
                &["waiting_for"],
            )?,
            reset_floods: counter(
                "storefence_reset_floods_total",
                "Connections closed because the client gave up more requests than it let finish.",
            )?,
            client_connections: gauge("storefence_client_connections", "Connections of clients, probes and scrapers.")?,
            connections_refused: counter(
                "storefence_client_connections_refused_total",
                "Connections beyond --max-connections, answered with 503 or closed.",
            )?,
            handshakes: counters("storefence_tls_handshakes_total", "TLS handshakes of clients.", &["outcome"])?,
            certificate_reloads: counters(
                "storefence_tls_certificate_reloads_total",
                "Changes of the certificate on disk.",
                &["outcome"],
            )?,
            certificate_current: gauge(
                "storefence_tls_certificate_current",
                "1 while the certificate on disk is the one in use; 0 where it cannot be used, or without TLS.",
            )?,
            certificate_expiry: gauge(
                "storefence_tls_certificate_expiry_timestamp_seconds",
                "End of the life of the certificate in use, in Unix time.",
            )?,
            in_flight,
            registry,
        };
        metrics.begin();
        Ok(metrics)
    }

    /// Sets labelled series to zero: a rate needs a first value, and the reference in the documents is generated from
    /// the series that exist at the start.
    fn begin(&self) {
        let known: [(&IntCounterVec, &[&[&str]]); 20] = [
            (&self.queries, &[&["execute_sales_query"]]),
            (&self.tokens, &[&["accepted", ""], &["rejected", "missing"]]),
            (&self.token_cache, &[&["hit"], &["miss"]]),
            (&self.scopes, &[&["granted"], &["InsufficientScope"], &["NoRule"], &["Ambiguous"]]),
            (&self.jwks_fetches, &[&["refresh", "ok"], &["unknown_key", "ok"]]),
            (&self.gate, &[&["ForbiddenName"], &["NotASelect"], &["SeveralStatements"], &["Syntax"], &["TooHeavy"]]),
            (&self.cancels, &[&["disconnect"], &["timeout"], &["broken"]]),
            (&self.connection_events, &[&["opened"], &["closed"], &["recycled"], &["abandoned"]]),
            (&self.throttle, &[&["taken"], &["refused"]]),
            (&self.secrets, &[&["ok"], &["error"]]),
            (&self.embeddings, &[&["ok"]]),
            (
                &self.quota_refusals,
                &[
                    &["principal", "rate"],
                    &["principal", "concurrency"],
                    &["tenant", "rate"],
                    &["tenant", "concurrency"],
                ],
            ),
            (&self.redis_operations, &[&["ok"], &["failed"], &["timeout"], &["skipped"], &["probe"]]),
            (&self.trace_exports, &[&["ok"], &["failed"]]),
            (
                &self.tool_errors,
                &[&["execute_sales_query", "VALIDATION_ERROR"], &["execute_sales_query", "DATABASE_ERROR"]],
            ),
            (&self.answer_cache, &[&["hit"], &["redis_hit"], &["miss"]]),
            (&self.slow_statements, &[&["execute_sales_query"]]),
            (&self.slow_clients, &[&["handshake"], &["headers"], &["body"], &["answer"]]),
            (&self.handshakes, &[&["ok"], &["failed"], &["timeout"]]),
            (&self.certificate_reloads, &[&["ok"], &["error"]]),
        ];
        for (counter, labels) in known {
            for values in labels {
                counter.with_label_values(values);
            }
        }
        for state in ["open", "idle", "in_use", "ending"] {
            self.connections.with_label_values(&[state]);
        }
        for state in ["served", "waiting", "broken"] {
            self.tenants.with_label_values(&[state]);
        }
        self.operations.with_label_values(&["tools/call", "execute_sales_query", ""]);
        self.query_seconds.with_label_values(&["ok"]);
    }

    /// The text exposition format.
    ///
    /// # Errors
    /// The encoder's error.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_unique_and_render() {
        let metrics = super::Metrics::new().expect("unique names");
        metrics.queries.with_label_values(&["select"]).inc();
        assert!(metrics.render().expect("text").contains("mcp_queries_total{query_type=\"select\"} 1"));
    }
}
