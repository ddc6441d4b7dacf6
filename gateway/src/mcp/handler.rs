//! The adapter between rmcp and the gateway. The tools make the decisions.

use std::{borrow::Cow, sync::Arc, time::Instant};

#[allow(deprecated)] // by SEP-2577; 2025-11-25 has it
use rmcp::model::{SetLevelRequestMethod, SetLevelRequestParams};
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CacheScope, CallToolRequestParams, CallToolResponse, CallToolResult, CompleteRequestParams, CompleteResult,
        ContentBlock, CustomRequest, CustomResult, DiscoverResult, ErrorCode, GetPromptRequestParams,
        GetPromptResponse, Implementation, InitializeRequestParams, InitializeResult, ListPromptsResult,
        ListResourceTemplatesResult, ListResourcesResult, ListToolsResult, PaginatedRequestParams, ProtocolVersion,
        ReadResourceRequestParams, ReadResourceResponse, ServerCapabilities, ServerConfig, Tool,
    },
    service::RequestContext,
};
use serde_json::Value;

use crate::{
    audit::Call,
    cache::Answered,
    caller::Caller,
    tools::{
        Code, ToolError,
        arguments::{self, Ignored},
        sales_query,
    },
};

use super::{
    Gateway, completions,
    logging::Levels,
    operation::Operation,
    outsider::{self, Outsider},
    prompts, protocol, resources,
    revision::Client,
    splice::Slot,
};

const INSTRUCTIONS: &str = "Answers questions about one retail chain from its PostgreSQL database. You see the rows of the \
    stores you answer for and no others; list_stores names them. Where you have execute_sales_query, write PostgreSQL \
    SELECT statements for it; tables are in the schema retail. Which tools you have depends on who you are. Ask get_current_utc_date before you use words like today or \
    last quarter.";
/// How long a client may keep a list or a resource, in milliseconds.
const LIST_TTL: u64 = 60_000;
/// In `_meta` of a cached response: its age in seconds.
const CACHE_AGE: &str = "retail.storefence.dev/cacheAgeSeconds";

/// One per process. Cheap to clone: rmcp clones it for each request.
#[derive(Clone)]
pub struct Handler {
    gateway: Arc<Gateway>,
    levels: Arc<Levels>,
}

impl Handler {
    #[must_use]
    pub fn new(gateway: Arc<Gateway>) -> Self {
        Self { gateway, levels: Arc::default() }
    }

    /// The refusal of a tool that none of the caller's rules grants.
    fn not_granted(&self, caller: &Caller, tool: &str) -> ToolError {
        let granted: Vec<_> =
            self.gateway.services.tools.granted(&caller.scope).map(crate::tools::Tool::name).collect();
        let message = format!(
            "{tool} is not granted to you; your tools are {}, and your platform team can grant more by a rule",
            granted.join(", ")
        );
        ToolError::new(Code::Authorization, message)
    }
}

/// The HTTP request behind an MCP request, with what the auth layer added to it.
pub(super) fn parts(context: &RequestContext<RoleServer>) -> Option<&http::request::Parts> {
    context.extensions.get::<http::request::Parts>()
}

fn part<T: Clone + Send + Sync + 'static>(context: &RequestContext<RoleServer>) -> Option<T> {
    parts(context).and_then(|parts| parts.extensions.get::<T>()).cloned()
}

fn outsider(context: &RequestContext<RoleServer>) -> Option<Arc<Outsider>> {
    part(context)
}

fn caller(context: &RequestContext<RoleServer>) -> Result<Arc<Caller>, ErrorData> {
    part(context).ok_or_else(|| match outsider(context) {
        Some(outsider) => outsider.error(),
        None => ErrorData::internal_error("the request has no caller", None),
    })
}

/// The caller of a list request. An outsider's list is empty.
fn lister(context: &RequestContext<RoleServer>) -> Result<Option<Arc<Caller>>, ErrorData> {
    match outsider(context) {
        Some(_) => Ok(None),
        None => caller(context).map(Some),
    }
}

/// Lists have one page: this server gives out no cursors, so any cursor is invalid.
fn first_page(request: Option<PaginatedRequestParams>) -> Result<(), ErrorData> {
    match request.and_then(|request| request.cursor) {
        Some(_) => Err(ErrorData::invalid_params("Invalid cursor", None)),
        None => Ok(()),
    }
}

/// How long an answer may be cached, and that only the caller may cache it. Older clients know neither field.
fn caching(context: &RequestContext<RoleServer>) -> (Option<u64>, Option<CacheScope>) {
    let known = context.protocol_version().is_some_and(|version| version >= ProtocolVersion::V_2026_07_28);
    if known { (Some(LIST_TTL), Some(CacheScope::Private)) } else { (None, None) }
}

/// What an outsider has to know goes where models look first.
fn instructed(mut config: ServerConfig, context: &RequestContext<RoleServer>) -> ServerConfig {
    if let Some(outsider) = outsider(context) {
        config.instructions = Some(outsider.instructions());
    }
    config
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
        Cow::Borrowed(ProtocolVersion::KNOWN_VERSIONS)
    }

    async fn initialize(
        &self,
        request: InitializeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<InitializeResult, ErrorData> {
        let result = self.negotiate_initialize(&request)?;
        context.peer.set_peer_info(request);
        let agreed = result.protocol_version.clone();
        Ok(Client::config(instructed(result, &context), &agreed))
    }

    async fn discover(&self, context: RequestContext<RoleServer>) -> Result<DiscoverResult, ErrorData> {
        let versions = self.supported_protocol_versions().into_owned();
        Ok(DiscoverResult::from_server_info(versions, instructed(self.get_info(), &context)))
    }

    /// The error for a request whose parameters rmcp could not read.
    async fn on_custom_request(
        &self,
        request: CustomRequest,
        _: RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        let CustomRequest { method, .. } = request;
        if protocol::is_known(&method) {
            return Err(ErrorData::invalid_params(format!("the params are not those of {method}"), None));
        }
        Err(ErrorData::new(ErrorCode::METHOD_NOT_FOUND, method, None))
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.gateway.services.tools.find(name).map(|tool| tool.definition().clone())
    }

    async fn list_tools(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let started = Instant::now();
        let caller = lister(&context)?;
        first_page(request)?;
        let client = Client::of(&context);
        let tools = match &caller {
            Some(caller) => {
                self.gateway.services.tools.granted(&caller.scope).map(|tool| tool.definition().clone()).collect()
            }
            None => self.get_tool(outsider::TOOL).into_iter().collect::<Vec<_>>(),
        };
        let mut result = ListToolsResult::with_all_items(tools.into_iter().map(|tool| client.tool(tool)).collect());
        (result.ttl_ms, result.cache_scope) = caching(&context);
        self.gateway.services.observe("tools/list", "", "", started);
        Ok(result)
    }

    #[allow(deprecated)] // by SEP-2577
    async fn set_level(
        &self,
        request: SetLevelRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        // In the newer revision each request names the level that it wants.
        if context.protocol_version().is_some_and(|version| version >= ProtocolVersion::V_2026_07_28) {
            return Err(ErrorData::method_not_found::<SetLevelRequestMethod>());
        }
        if let Some(caller) = lister(&context)? {
            self.levels.set(&context, &caller, request.level);
        }
        Ok(())
    }

    async fn list_prompts(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        let caller = lister(&context)?;
        first_page(request)?;
        let client = Client::of(&context);
        let items = caller.map_or_else(Vec::new, |caller| prompts::list(caller.scope.tools()));
        let mut result = ListPromptsResult::with_all_items(items.into_iter().map(|item| client.prompt(item)).collect());
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
        let operation = Operation::begin(&self.gateway, &caller, &context, call);
        let got = operation.complete(&context, Box::pin(async { prompts::get(request, &caller) })).await?;
        Ok(got.into())
    }

    async fn list_resources(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        let caller = lister(&context)?;
        first_page(request)?;
        let client = Client::of(&context);
        let items = caller.map_or_else(Vec::new, |caller| resources::list(caller.scope.tools()));
        let mut result =
            ListResourcesResult::with_all_items(items.into_iter().map(|item| client.resource(item)).collect());
        (result.ttl_ms, result.cache_scope) = caching(&context);
        Ok(result)
    }

    async fn list_resource_templates(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        let caller = lister(&context)?;
        first_page(request)?;
        let client = Client::of(&context);
        let items = caller.map_or_else(Vec::new, |caller| resources::templates(caller.scope.tools()));
        let mut result =
            ListResourceTemplatesResult::with_all_items(items.into_iter().map(|item| client.template(item)).collect());
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
        let operation = Operation::begin(&self.gateway, &caller, &context, call);
        let reading = Box::pin(resources::read(&request.uri, &self.gateway.services, &caller));
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
        let operation = Operation::begin(&self.gateway, &caller, &context, call);
        operation.complete(&context, Box::pin(completions::complete(&request, &self.gateway.services, &caller))).await
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let (client, unknown) = (Client::of(&context), |name: &str| {
            let name: String = name.chars().take(128).collect();
            ErrorData::invalid_params(format!("Unknown tool: {name}"), None)
        });
        if let Some(outsider) = outsider(&context) {
            let started = Instant::now();
            let tool = self.gateway.services.tools.find(&request.name).ok_or_else(|| unknown(&request.name))?;
            let (result, error) = match tool.name() {
                outsider::TOOL => (outsider.whoami(client), ""),
                _ => (outsider.refused(client), "tool_error"),
            };
            self.gateway.services.observe("tools/call", tool.name(), error, started);
            return Ok(result.into());
        }
        let caller = caller(&context)?;
        let slot = part::<Slot>(&context).ok_or_else(|| ErrorData::internal_error("the request has no slot", None))?;
        // An unknown name comes from the caller and may be anything.
        let (known, started) = (self.gateway.services.tools.find(&request.name), Instant::now());
        let arguments = request.arguments.unwrap_or_default();
        let (arguments, ignored) = match known {
            Some(tool) => arguments::part(tool.definition(), arguments),
            None => (arguments, Ignored::default()),
        };
        let statement = arguments.get(sales_query::QUERY).and_then(Value::as_str);
        let call = Call { statement, ..Call::tool(known.map_or("unknown", |tool| tool.name())) };
        let operation = Operation::begin(&self.gateway, &caller, &context, call);
        let Some(tool) = known else {
            operation.end("UNKNOWN_TOOL", "-32602");
            return Err(unknown(&request.name));
        };
        // Tool names are documented, so a refusal by name reveals nothing about the tenant.
        if !caller.scope.tools().contains(tool.name()) {
            operation.end("FORBIDDEN_TOOL", "tool_error");
            let error = self.not_granted(&caller, tool.name());
            self.gateway.services.refused(tool.name(), &error);
            return Ok(failed(&caller, client, tool.name(), error).into());
        }
        let permit = match operation.admit().await {
            Ok(permit) => permit,
            Err(error) => {
                operation.end(error.code.as_str(), "tool_error");
                self.gateway.services.refused(tool.name(), &error);
                return Ok(failed(&caller, client, tool.name(), error).into());
            }
        };
        let calling = Box::pin(self.gateway.answers.call(&self.gateway.services, tool, &caller, arguments));
        let Some(mut outcome) = operation.run(&context, calling).await else {
            operation.end("cancelled", "cancelled");
            return Err(ErrorData::internal_error("cancelled", None));
        };
        drop(permit);
        match &mut outcome {
            Ok(answered) => ignored.report(tool.name(), &mut answered.output),
            Err(error) => ignored.explain(tool.name(), error),
        }
        self.levels.notify(&context, &caller, tool.name(), &outcome, started).await;
        match &outcome {
            Ok(_) => operation.end("ok", ""),
            Err(error) => {
                operation.end(error.code.as_str(), "tool_error");
                self.gateway.services.refused(tool.name(), error);
            }
        }
        let result = match outcome {
            Ok(Answered { output, age }) => {
                let (structured, text) = match client.has_structured_content() {
                    true => {
                        let (structured, text) = slot.put(output.structured, output.text);
                        (Some(Value::String(structured)), text)
                    }
                    false => (None, slot.put_text(output.text)),
                };
                let mut result = CallToolResult::success(vec![ContentBlock::text(text)]);
                result.structured_content = structured;
                // A reader who compares with the shop floor needs the age of the figures.
                if let Some(age) = age {
                    result.meta.get_or_insert_default().insert(CACHE_AGE.to_owned(), age.as_secs().into());
                }
                result
            }
            Err(error) => failed(&caller, client, tool.name(), error),
        };
        Ok(result.into())
    }
}

fn failed(caller: &Caller, client: Client, tool: &str, mut error: ToolError) -> CallToolResult {
    tracing::info!(
        correlation_id = %caller.correlation, tenant = %caller.tenant.id(), tool, code = error.code.as_str(),
        sqlstate = error.sqlstate, "tool error"
    );
    if error.code == Code::Authorization {
        // With the id, the person who can grant the right finds the call in the log.
        error.correlation = Some(caller.correlation);
    }
    let mut result = CallToolResult::error(vec![ContentBlock::text(error.text())]);
    result.structured_content = client.has_structured_content().then(|| error.structured());
    result
}
