//! What a call costs with no product in it: hyper reads the request, and answers with fixed bytes. And the same with rmcp
//! on top, whose one tool answers with a fixed result: what the protocol costs before a gateway does anything.

use std::{convert::Infallible, path::Path};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, header, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, Implementation, ProtocolVersion, ServerCapabilities,
        ServerConfig,
    },
    service::RequestContext,
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService, session::never::NeverSessionManager,
    },
};
use tokio::net::TcpListener;

/// Serves the file's bytes for ever, on the port whose number it prints.
pub async fn serve(body: &Path) -> Result<()> {
    let body = Bytes::from(std::fs::read(body)?);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("{}", listener.local_addr()?.port());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let body = body.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let body = body.clone();
            async move {
                // The question is read: every server has to.
                let _ = request.into_body().collect().await;
                let mut response = Response::new(Full::new(body));
                let json = header::HeaderValue::from_static("application/json");
                response.headers_mut().insert(header::CONTENT_TYPE, json);
                Ok::<_, Infallible>(response)
            }
        });
        tokio::spawn(async move {
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// A server of one tool, as rmcp is configured in the gateway.
#[derive(Clone)]
struct OneTool(CallToolResult);

impl ServerHandler for OneTool {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("storefence-bench", env!("CARGO_PKG_VERSION")))
    }

    fn supported_protocol_versions(&self) -> std::borrow::Cow<'static, [ProtocolVersion]> {
        vec![ProtocolVersion::V_2026_07_28].into()
    }

    async fn call_tool(
        &self,
        _: CallToolRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        Ok(self.0.clone().into())
    }
}

/// Serves the result in the file's answer for ever, through rmcp, on the port whose number it prints.
pub async fn serve_rmcp(body: &Path) -> Result<()> {
    let mut answer: serde_json::Value = serde_json::from_slice(&std::fs::read(body)?)?;
    let handler = OneTool(serde_json::from_value(answer["result"].take())?);
    let config = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(false)
        .with_json_response(true)
        .disable_allowed_hosts()
        .disable_allowed_origins();
    let mcp: StreamableHttpService<OneTool, NeverSessionManager> =
        StreamableHttpService::new(move || Ok(handler.clone()), Default::default(), config);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("{}", listener.local_addr()?.port());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let mcp = mcp.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let mcp = mcp.clone();
            async move { Ok::<_, Infallible>(mcp.handle(request).await) }
        });
        tokio::spawn(async move {
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
