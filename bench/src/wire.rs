//! An HTTP/1.1 client that costs next to nothing, so that what is measured is the server: the request's bytes are
//! prepared once, and of the answer only status and length are read.

use std::{
    io::{Read, Write},
    sync::Arc,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use url::Url;

use crate::load::{BlockingCaller, Caller};

const VERSION: &str = "2026-07-28";

/// The bytes of a tool call.
pub fn tool_call(url: &str, token: &str, tool: &str, arguments: Value) -> Result<Arc<[u8]>> {
    let url: Url = url.parse()?;
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
        "name": tool, "arguments": arguments,
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": VERSION,
            "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo": {"name": "storefence-bench", "version": env!("CARGO_PKG_VERSION")},
        },
    }})
    .to_string();
    let host = url.authority();
    let path = if url.path() == "/" { "/mcp" } else { url.path() };
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: {VERSION}\r\nMcp-Method: tools/call\r\n\
         Mcp-Name: {tool}\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    Ok((head + &body).into_bytes().into())
}

/// A statement through `execute_sales_query`.
pub fn query(url: &str, token: &str, sql: &str) -> Result<Arc<[u8]>> {
    tool_call(url, token, "execute_sales_query", json!({"postgresql_query": sql}))
}

/// A connection that sends one request over and over.
pub struct Wire {
    stream: TcpStream,
    request: Arc<[u8]>,
    buffer: Vec<u8>,
    body_at: usize,
}

impl Wire {
    /// Connects to where the URL points.
    pub async fn connect(url: &str, request: Arc<[u8]>) -> Result<Self> {
        let url: Url = url.parse()?;
        let stream = TcpStream::connect(url.authority()).await.with_context(|| url.to_string())?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, request, buffer: Vec::with_capacity(64 * 1024), body_at: 0 })
    }

    /// Several connections with the same request, each of which has made a call.
    pub async fn many(url: &str, request: &Arc<[u8]>, count: usize) -> Result<Vec<Self>> {
        let mut wires = Vec::new();
        for _ in 0..count {
            wires.push(Self::connect(url, request.clone()).await?);
        }
        futures::future::try_join_all(wires.into_iter().map(|mut wire| async move {
            wire.call().await?;
            Ok(wire)
        }))
        .await
    }

    /// Another request from now on.
    pub fn set(&mut self, request: Arc<[u8]>) {
        self.request = request;
    }

    /// Sends the request and reads the whole answer; its status.
    pub async fn exchange(&mut self) -> Result<u16> {
        self.stream.write_all(&self.request).await?;
        self.buffer.clear();
        loop {
            self.more().await?;
            if let Some((status, body_at)) = whole(&self.buffer)? {
                self.body_at = body_at;
                return Ok(status);
            }
        }
    }

    async fn more(&mut self) -> Result<()> {
        ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the server closed the connection");
        Ok(())
    }

    /// The body of the last answer.
    pub fn body(&self) -> &[u8] {
        &self.buffer[self.body_at..]
    }
}

impl Caller for Wire {
    async fn call(&mut self) -> Result<()> {
        let status = self.exchange().await?;
        answered(status, self.body())
    }
}

/// The same for a thread of its own, which waits in the system call: nothing stands between the answer and who reads it.
pub struct BlockingWire {
    stream: std::net::TcpStream,
    request: Arc<[u8]>,
    buffer: Vec<u8>,
}

impl BlockingWire {
    /// Connects to where the URL points.
    pub fn connect(url: &str, request: Arc<[u8]>) -> Result<Self> {
        let url: Url = url.parse()?;
        let stream = std::net::TcpStream::connect(url.authority()).with_context(|| url.to_string())?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, request, buffer: vec![0; 64 * 1024] })
    }
}

impl BlockingCaller for BlockingWire {
    /// Answers are short.
    fn call(&mut self) -> Result<()> {
        self.stream.write_all(&self.request)?;
        let mut read = 0;
        loop {
            let more = self.stream.read(&mut self.buffer[read..])?;
            ensure!(more > 0, "the server closed the connection, or its answer is long");
            read += more;
            if let Some((status, body_at)) = whole(&self.buffer[..read])? {
                return answered(status, &self.buffer[body_at..read]);
            }
        }
    }
}

/// Status and start of the body, once an answer is there as a whole.
fn whole(buffer: &[u8]) -> Result<Option<(u16, usize)>> {
    // Heads are short and come whole, as a rule in the first read.
    let Some(end) = find(buffer, b"\r\n\r\n") else { return Ok(None) };
    let (head, body_at) = (std::str::from_utf8(&buffer[..end])?, end + 4);
    let status = head.get(9..12).context("no status")?.parse()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    // Chunked: the end is the empty chunk.
    let ends = length.map_or_else(|| buffer.ends_with(b"0\r\n\r\n"), |length| buffer.len() >= body_at + length);
    Ok(ends.then_some((status, body_at)))
}

/// A refusal would be faster than an answer, and the figures would be of refusals.
fn answered(status: u16, body: &[u8]) -> Result<()> {
    if status != 200 || find(&body[..body.len().min(4096)], b"\"isError\":true").is_some() {
        bail!("HTTP {status}: {}", String::from_utf8_lossy(&body[..body.len().min(600)]));
    }
    Ok(())
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
