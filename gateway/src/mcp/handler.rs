//! rmcp's view of the gateway. Decisions are in the tools; this adapts.

use std::{borrow::Cow, sync::Arc, time::Instant};

#[allow(deprecated)] // by SEP-2577; 2025-11-25 has it
use rmcp::model::{SetLevelRequestMethod, SetLevelRequestParams};
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CacheScope, CallToolRequestParams, CallToolResponse, CallToolResult, CompleteRequestParams, CompleteResult,
        ContentBlock, GetPromptRequestParams, GetPromptResponse, Implementation, ListPromptsResult,
        ListResourceTemplatesResult, ListResourcesResult, ListToolsResult, PaginatedRequestParams, ProtocolVersion,
        ReadResourceRequestParams, ReadResourceResponse, ServerCapabilities, ServerConfig, Tool,
    },
    service::RequestContext,
};
use serde_json::Value;

use crate::{
    audit::Call,
    cache::{self, Answered},
};

use super::{
    completions,
    logging::Levels,
    operation::Operation,
    prompts, resources,
    splice::Slot,
    tools::{Caller, Services, ToolError},
};

const SUPPORTED: &[ProtocolVersion] = &[ProtocolVersion::V_2025_11_25, ProtocolVersion::V_2026_07_28];
const INSTRUCTIONS: &str = "Answers questions about one retail chain from its PostgreSQL database. You see the rows of the \
    stores you answer for and no others; list_stores names them. Where you have execute_sales_query, write PostgreSQL \
    SELECT statements for it; tables are in the schema retail. Which tools you have depends on who you are. Ask get_current_utc_date before you use words like today or \
    last quarter.";
/// How long a client may keep a list or a resource, in milliseconds.
const LIST_TTL: u64 = 60_000;
/// In `_meta` of an answer that was kept: how many seconds ago it was made.
const CACHE_AGE: &str = "retail.storefence.dev/cacheAgeSeconds";

/// One per process; cheap to clone, as rmcp makes one per request.
#[derive(Clone)]
pub struct Handler {
    services: Arc<Services>,
    levels: Arc<Levels>,
}

impl Handler {
    /// Serves these tools.
    #[must_use]
    pub fn new(services: Arc<Services>) -> Self {
        Self { services, levels: Arc::default() }
    }
}

/// The HTTP request behind an MCP request, with what the door put there.
pub(super) fn parts(context: &RequestContext<RoleServer>) -> Option<&http::request::Parts> {
    context.extensions.get::<http::request::Parts>()
}

fn caller(context: &RequestContext<RoleServer>) -> Result<Arc<Caller>, ErrorData> {
    let caller = parts(context).and_then(|parts| parts.extensions.get::<Arc<Caller>>()).cloned();
    caller.ok_or_else(|| ErrorData::internal_error("the request has no caller", None))
}

/// One page: every cursor is one that this server did not give.
fn first_page(request: Option<PaginatedRequestParams>) -> Result<(), ErrorData> {
    match request.and_then(|request| request.cursor) {
        Some(_) => Err(ErrorData::invalid_params("Invalid cursor", None)),
        None => Ok(()),
    }
}

/// How long an answer may be kept, and by whom: by nobody but the caller. Older clients know neither field.
fn caching(context: &RequestContext<RoleServer>) -> (Option<u64>, Option<CacheScope>) {
    let known = context.protocol_version().is_some_and(|version| version >= ProtocolVersion::V_2026_07_28);
    if known { (Some(LIST_TTL), Some(CacheScope::Private)) } else { (None, None) }
}

impl ServerHandler for Handler {
    #[allow(deprecated)] // logging, by SEP-2577
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_prompts()
            .enable_resources()
            .enable_completions()
            .enable_logging()
            .build();
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
        let caller = caller(&context)?;
        first_page(request)?;
        let mut result = ListToolsResult::with_all_items(self.services.tools.definitions(&caller.scope));
        (result.ttl_ms, result.cache_scope) = caching(&context);
        self.services.observe("tools/list", "", "", started);
        Ok(result)
    }

    #[allow(deprecated)] // by SEP-2577
    async fn set_level(
        &self,
        request: SetLevelRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        // The newer revision says with each request what it wants to be told.
        if context.protocol_version().is_some_and(|version| version >= ProtocolVersion::V_2026_07_28) {
            return Err(ErrorData::method_not_found::<SetLevelRequestMethod>());
        }
        self.levels.set(&context, &*caller(&context)?, request.level);
        Ok(())
    }

    async fn list_prompts(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        let caller = caller(&context)?;
        first_page(request)?;
        let mut result = ListPromptsResult::with_all_items(prompts::list(caller.scope.tools()));
        (result.ttl_ms, result.cache_scope) = caching(&context);
        Ok(result)
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        let caller = caller(&context)?;
        let call = Call::of("prompts/get", prompts::known(&request.name));
        let operation = Operation::begin(&self.services, &caller, &context, call);
        let got = operation.complete(&context, Box::pin(async { prompts::get(request, &caller) })).await?;
        Ok(got.into())
    }

    async fn list_resources(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        let caller = caller(&context)?;
        first_page(request)?;
        let mut result = ListResourcesResult::with_all_items(resources::list(caller.scope.tools()));
        (result.ttl_ms, result.cache_scope) = caching(&context);
        Ok(result)
    }

    async fn list_resource_templates(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        let caller = caller(&context)?;
        first_page(request)?;
        let mut result = ListResourceTemplatesResult::with_all_items(resources::templates(caller.scope.tools()));
        (result.ttl_ms, result.cache_scope) = caching(&context);
        Ok(result)
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let caller = caller(&context)?;
        let call = Call::of("resources/read", resources::known(&request.uri));
        let operation = Operation::begin(&self.services, &caller, &context, call);
        let reading = Box::pin(resources::read(&request.uri, &self.services, &caller));
        let mut result = operation.complete(&context, reading).await?;
        (result.ttl_ms, result.cache_scope) = caching(&context);
        Ok(result.into())
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        let caller = caller(&context)?;
        let call = Call::of("completion/complete", completions::known(&request));
        let operation = Operation::begin(&self.services, &caller, &context, call);
        operation.complete(&context, Box::pin(completions::complete(&request, &self.services, &caller))).await
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let (Some(caller), Some(slot)) = (
            parts(&context).and_then(|parts| parts.extensions.get::<Arc<Caller>>()).cloned(),
            parts(&context).and_then(|parts| parts.extensions.get::<Slot>()).cloned(),
        ) else {
            return Err(ErrorData::internal_error("the request has no caller", None));
        };
        // Unknown names are the caller's own words, and may be anything.
        let (known, started) = (self.services.tools.find(&request.name), Instant::now());
        let statement = request.arguments.as_ref().and_then(|arguments| arguments.get("postgresql_query")?.as_str());
        let call = Call { statement, ..Call::tool(known.map_or("unknown", |tool| tool.name())) };
        let operation = Operation::begin(&self.services, &caller, &context, call);
        // A tool that no rule of the caller's grants is one that does not exist; only the audit knows better.
        let Some(tool) = known.filter(|tool| caller.scope.tools().contains(tool.name())) else {
            operation.end(if known.is_some() { "FORBIDDEN_TOOL" } else { "UNKNOWN_TOOL" }, "-32602");
            let name: String = request.name.chars().take(128).collect();
            return Err(ErrorData::invalid_params(format!("Unknown tool: {name}"), None));
        };
        let permit = match operation.admit().await {
            Ok(permit) => permit,
            Err(error) => {
                operation.end(error.code.as_str(), "tool_error");
                self.services.refused(tool.name(), &error);
                return Ok(failed(&caller, tool.name(), error).into());
            }
        };
        let arguments = request.arguments.unwrap_or_default();
        let calling = Box::pin(cache::call(&self.services, tool, &caller, arguments));
        let Some(outcome) = operation.run(&context, calling).await else {
            operation.end("cancelled", "cancelled");
            return Err(ErrorData::internal_error("cancelled", None));
        };
        drop(permit);
        self.levels.tell(&context, &caller, tool.name(), &outcome, started).await;
        match &outcome {
            Ok(_) => operation.end("ok", ""),
            Err(error) => {
                operation.end(error.code.as_str(), "tool_error");
                self.services.refused(tool.name(), error);
            }
        }
        let result = match outcome {
            Ok(Answered { output, age }) => {
                let (structured, text) = slot.put(output.structured, output.text);
                let mut result = CallToolResult::success(vec![ContentBlock::text(text)]);
                result.structured_content = Some(Value::String(structured));
                // A reader who compares with the shop floor wants to know how old the figures are.
                if let Some(age) = age {
                    result.meta.get_or_insert_default().insert(CACHE_AGE.to_owned(), age.as_secs().into());
                }
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
