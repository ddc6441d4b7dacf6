//! rmcp's view of the gateway. Decisions are in the tools; this adapts.

use std::{borrow::Cow, sync::Arc, time::Instant};

use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CacheScope, CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation,
        ListToolsResult, PaginatedRequestParams, ProtocolVersion, ServerCapabilities, ServerConfig, Tool,
    },
    service::RequestContext,
};
use serde_json::Value;
use tracing::Instrument;

use super::{
    splice::Slot,
    tools::{Caller, Services, ToolError},
};

const SUPPORTED: &[ProtocolVersion] = &[ProtocolVersion::V_2025_11_25, ProtocolVersion::V_2026_07_28];
const INSTRUCTIONS: &str = "Answers questions about one retail chain from its PostgreSQL database. You see the rows of the \
    stores you answer for and no others; list_stores names them. Write PostgreSQL SELECT statements for \
    execute_sales_query; tables are in the schema retail. Ask get_current_utc_date before you use words like today or \
    last quarter.";
/// How long a client may keep the tool list, in milliseconds.
const LIST_TTL: u64 = 60_000;

/// One per process; cheap to clone, as rmcp makes one per request.
#[derive(Clone)]
pub struct Handler {
    services: Arc<Services>,
}

impl Handler {
    /// Serves these tools.
    #[must_use]
    pub const fn new(services: Arc<Services>) -> Self {
        Self { services }
    }
}

fn parts(context: &RequestContext<RoleServer>) -> Option<&http::request::Parts> {
    context.extensions.get::<http::request::Parts>()
}

impl ServerHandler for Handler {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder().enable_tools().build();
        let server = Implementation::new("storefence-gateway", env!("CARGO_PKG_VERSION")).with_title("Storefence");
        ServerConfig::new(capabilities).with_server_info(server).with_instructions(INSTRUCTIONS)
    }

    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        Cow::Borrowed(SUPPORTED)
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.services.tools.find(name).map(|tool| tool.definition().clone())
    }

    async fn list_tools(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let started = Instant::now();
        // One page: every cursor is one that this server did not give.
        if request.is_some_and(|request| request.cursor.is_some()) {
            return Err(ErrorData::invalid_params("Invalid cursor", None));
        }
        let mut result = ListToolsResult::with_all_items(self.services.tools.definitions());
        // Older clients know neither field.
        if context.protocol_version().is_some_and(|version| version >= ProtocolVersion::V_2026_07_28) {
            result.ttl_ms = Some(LIST_TTL);
            result.cache_scope = Some(CacheScope::Private);
        }
        self.services.observe("tools/list", "", "", started);
        Ok(result)
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let started = Instant::now();
        let (Some(caller), Some(slot)) = (
            parts(&context).and_then(|parts| parts.extensions.get::<Arc<Caller>>()).cloned(),
            parts(&context).and_then(|parts| parts.extensions.get::<Slot>()).cloned(),
        ) else {
            return Err(ErrorData::internal_error("the request has no caller", None));
        };
        let Some(tool) = self.services.tools.find(&request.name) else {
            self.services.observe("tools/call", "unknown", "-32602", started);
            let name: String = request.name.chars().take(128).collect();
            return Err(ErrorData::invalid_params(format!("Unknown tool: {name}"), None));
        };
        // Named and attributed by OpenTelemetry's conventions for MCP.
        let span = tracing::info_span!(
            "tools/call",
            otel.name = format!("tools/call {}", tool.name()),
            mcp.method.name = "tools/call",
            gen_ai.tool.name = tool.name(),
            correlation_id = %caller.correlation,
        );
        let calling = tool.call(&self.services, &caller, request.arguments.unwrap_or_default()).instrument(span);
        let outcome = tokio::select! {
            outcome = calling => outcome,
            // The client went away; dropping the call cancels its statement at the server.
            () = context.ct.cancelled() => {
                self.services.observe("tools/call", tool.name(), "cancelled", started);
                return Err(ErrorData::internal_error("cancelled", None));
            }
        };
        let error = if outcome.is_err() { "tool_error" } else { "" };
        self.services.observe("tools/call", tool.name(), error, started);
        let result = match outcome {
            Ok(output) => {
                let (structured, text) = slot.put(output.structured, output.text);
                let mut result = CallToolResult::success(vec![ContentBlock::text(text)]);
                result.structured_content = Some(Value::String(structured));
                result
            }
            Err(error) => failed(&caller, tool.name(), error),
        };
        Ok(result.into())
    }
}

fn failed(caller: &Caller, tool: &str, error: ToolError) -> CallToolResult {
    tracing::info!(
        correlation_id = %caller.correlation, tenant = %caller.tenant.id(), tool, code = error.code.as_str(),
        sqlstate = error.sqlstate, "tool error"
    );
    let mut result = CallToolResult::error(vec![ContentBlock::text(error.text())]);
    result.structured_content = Some(error.structured());
    result
}
