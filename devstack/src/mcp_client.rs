//! A small MCP client over Streamable HTTP, for `cargo xtask ask` and the tests.
//!
//! It writes each request the way the revision asks for, by hand, so that a test sees the wire and not what a library
//! makes of it. It is no general client: one request, one answer, JSON or a one-shot event stream.

use reqwest::{RequestBuilder, StatusCode, header};
use serde_json::{Value, json};

/// The protocol revisions that the gateway serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revision {
    /// The stateless revision: every request carries its version.
    V2026_07_28,
    /// The revision with the `initialize` handshake.
    V2025_11_25,
}

impl Revision {
    /// Both revisions.
    pub const ALL: [Self; 2] = [Self::V2026_07_28, Self::V2025_11_25];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V2026_07_28 => "2026-07-28",
            Self::V2025_11_25 => "2025-11-25",
        }
    }
}

/// What came back over HTTP.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: header::HeaderMap,
    /// The JSON-RPC message; null where the body was empty or not JSON.
    pub message: Value,
}

/// A request that got no HTTP answer.
#[derive(Debug, thiserror::Error)]
#[error("no answer from {url}: {source}")]
pub struct NoAnswer {
    url: String,
    source: reqwest::Error,
}

impl Answer {
    /// The result of the call.
    pub fn result(&self) -> &Value {
        &self.message["result"]
    }

    /// `structuredContent` of a tool's result.
    pub fn structured(&self) -> &Value {
        &self.message["result"]["structuredContent"]
    }

    /// Whether the tool said that it failed.
    pub fn is_tool_error(&self) -> bool {
        self.message["result"]["isError"] == json!(true)
    }
}

/// A client of one endpoint with one token.
#[derive(Clone, Debug)]
pub struct McpClient {
    http: reqwest::Client,
    url: String,
    token: Option<String>,
    revision: Revision,
}

impl McpClient {
    /// A client of `url` (with `/mcp`).
    pub fn new(http: reqwest::Client, url: impl Into<String>, token: Option<String>, revision: Revision) -> Self {
        Self { http, url: url.into(), token, revision }
    }

    /// The request for a method, ready to be changed or sent.
    pub fn request(&self, method: &str, params: Value) -> RequestBuilder {
        let mut params = params;
        let mut request = self
            .http
            .post(&self.url)
            .header(header::ACCEPT, "application/json, text/event-stream")
            .header("MCP-Protocol-Version", self.revision.as_str());
        if self.revision == Revision::V2026_07_28 {
            params["_meta"] = json!({
                "io.modelcontextprotocol/protocolVersion": self.revision.as_str(),
                "io.modelcontextprotocol/clientCapabilities": {},
                "io.modelcontextprotocol/clientInfo": {"name": "storefence-devstack", "version": env!("CARGO_PKG_VERSION")},
            });
            request = request.header("Mcp-Method", method);
            if let Some(name) = params["name"].as_str() {
                request = request.header("Mcp-Name", name);
            }
        }
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        request.json(&json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
    }

    /// Sends a method and reads the whole answer.
    pub async fn send(&self, method: &str, params: Value) -> Result<Answer, NoAnswer> {
        self.read(self.request(method, params)).await
    }

    /// Sends a prepared request and reads the whole answer.
    pub async fn read(&self, request: RequestBuilder) -> Result<Answer, NoAnswer> {
        let failed = |source| NoAnswer { url: self.url.clone(), source };
        let response = request.send().await.map_err(failed)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let stream = headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.starts_with("text/event-stream"));
        let body = response.text().await.map_err(failed)?;
        let text = if stream { last_response(&body) } else { &body };
        Ok(Answer { status, headers, message: serde_json::from_str(text).unwrap_or(Value::Null) })
    }

    /// Calls a tool; with the older revision after its handshake, as a client of that revision does.
    pub async fn call_tool(&self, name: &str, arguments: Value) -> Result<Answer, NoAnswer> {
        if self.revision == Revision::V2025_11_25 {
            let refused = self.initialize().await?;
            if !refused.status.is_success() {
                return Ok(refused);
            }
        }
        self.send("tools/call", json!({"name": name, "arguments": arguments})).await
    }

    /// The handshake of the older revision.
    pub async fn initialize(&self) -> Result<Answer, NoAnswer> {
        let info = json!({"name": "storefence-devstack", "version": env!("CARGO_PKG_VERSION")});
        let params = json!({"protocolVersion": self.revision.as_str(), "capabilities": {}, "clientInfo": info});
        let answer = self.send("initialize", params).await?;
        if answer.status.is_success() {
            let body = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
            self.read(self.request("notifications/initialized", json!({})).json(&body)).await?;
        }
        Ok(answer)
    }
}

/// The data of the last event of a stream: the response comes after any notification.
fn last_response(body: &str) -> &str {
    body.lines()
        .filter_map(|line| line.strip_prefix("data:"))
        .map(str::trim)
        .rfind(|data| !data.is_empty())
        .unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::last_response;

    #[test]
    fn the_response_is_the_last_event_with_data() {
        assert_eq!(
            last_response("event: message\ndata: {\"a\":1}\n\nid: 2\ndata: {\"b\":2}\n\ndata:\n\n"),
            "{\"b\":2}"
        );
        assert_eq!(last_response(""), "");
    }
}
