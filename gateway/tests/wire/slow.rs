//! Slow and half-open clients are disconnected, and nobody else notices.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    Tests,
    world::{Gateway, World},
};

pub fn tests(tests: &mut Tests) {
    tests.add("slow_and_half_open_clients_are_shed", slow);
    tests.add("headers_dripped_on_a_later_stream_of_http2_are_shed", later_stream);
}

/// What a client sends: one part at once, and then bytes one by one for as long as it is allowed.
struct Slow {
    name: &'static str,
    first: String,
    then: &'static str,
    /// The beginning of the answer; empty if the connection just ends.
    answer: &'static str,
}

/// Sends as slowly as it is let; the answer, and how long the connection lasted.
async fn drip(address: String, slow: Slow) -> Result<(Slow, String, Duration)> {
    let started = Instant::now();
    let (mut read, mut write) = TcpStream::connect(address).await?.into_split();
    let (first, then) = (slow.first.clone(), slow.then);
    let dripping = tokio::spawn(async move {
        if write.write_all(first.as_bytes()).await.is_err() {
            return;
        }
        while !then.is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if write.write_all(then.as_bytes()).await.is_err() {
                return;
            }
        }
        // Half-open: never closes its side.
        std::future::pending::<()>().await;
    });
    let mut answer = Vec::new();
    // A reset counts as an end, too.
    let ended = tokio::time::timeout(Duration::from_secs(8), read.read_to_end(&mut answer)).await;
    dripping.abort();
    ensure!(ended.is_ok(), "{}: still connected after 8 s", slow.name);
    Ok((slow, String::from_utf8_lossy(&answer).into_owned(), started.elapsed()))
}

async fn alive(world: &World, gateway: &Gateway) -> Result<()> {
    let answer = world.client_of(gateway, "head-office")?.call_tool("get_current_utc_date", json!({})).await?;
    ensure!(answer.status == 200 && !answer.is_tool_error(), "{}", answer.message);
    Ok(())
}

async fn slow(world: Arc<World>) -> Result<()> {
    let gateway = world.another_gateway("slow", &["--client-timeout", "1"]).await?;
    let address = gateway.url.strip_prefix("http://").context("a URL")?.to_owned();
    let token = world.token("head-office")?;
    let body = format!(
        "POST /mcp HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nContent-Length: 1000\r\n\r\n{{"
    );
    let headers = format!("POST /mcp HTTP/1.1\r\nHost: {address}\r\nX-Slow: ");
    let case = |name, first: &str, then, answer| Slow { name, first: first.to_owned(), then, answer };
    let cases = || {
        [
            case("nothing", "", "", ""),
            case("half a method", "PO", "", ""),
            case("half of HTTP/2's preface", "PRI * HTTP/2.0\r\n", "", ""),
            case("HTTP/2 without a request", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0", "", ""),
            case("headers dripped", &headers, "x", ""),
            case("headers stopped", &headers, "", ""),
            case("body dripped", &body, " ", "HTTP/1.1 408"),
            case("body stopped", &body, "", "HTTP/1.1 408"),
        ]
    };
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..25 {
        for slow in cases() {
            clients.spawn(drip(address.clone(), slow));
        }
    }
    // 200 of them at once; a client that is not slow is still answered.
    alive(&world, &gateway).await?;
    while let Some(done) = clients.join_next().await {
        let (slow, answer, lasted) = done??;
        ensure!(answer.starts_with(slow.answer), "{}: {answer}", slow.name);
        ensure!(lasted >= Duration::from_millis(800), "{}: shed after {lasted:?} already", slow.name);
    }
    for what in ["headers", "body"] {
        let name = format!("storefence_slow_clients_total{{waiting_for=\"{what}\"}}");
        let shed = world.metric(&gateway, &name).await?;
        ensure!(shed >= 50.0, "{name} is {shed}");
    }
    alive(&world, &gateway).await
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("a short frame");
    [&[0, 0, length, kind, flags, 0, 0, 0, stream][..], payload].concat()
}

/// The first request of a connection is answered; the headers of the second come byte by byte and never end.
async fn later_stream(world: Arc<World>) -> Result<()> {
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const CONTINUATION: u8 = 9;
    let gateway = world.another_gateway("slow-streams", &["--client-timeout", "1", "--keep-alive", "2"]).await?;
    let address = gateway.url.strip_prefix("http://").context("a URL")?.to_owned();
    let (mut read, mut write) = TcpStream::connect(&address).await?.into_split();
    // :method GET, :scheme http, :path / from HPACK's static table; :authority as a literal.
    let mut block = vec![0x82, 0x86, 0x84, 0x01, u8::try_from(address.len())?];
    block.extend_from_slice(address.as_bytes());
    write.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
    write.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    write.write_all(&frame(HEADERS, 0b101, 1, &block)).await?;
    let answered = tokio::time::timeout(Duration::from_secs(5), async {
        let mut seen = Vec::new();
        let mut buffer = [0; 4096];
        // The head of the answer: HEADERS on stream 1.
        while !seen.windows(9).any(|window| window[3] == HEADERS && window[5..] == [0, 0, 0, 1]) {
            let length = read.read(&mut buffer).await?;
            ensure!(length > 0, "no answer to the first request: {seen:?}");
            seen.extend_from_slice(&buffer[..length]);
        }
        Ok(())
    });
    answered.await??;
    let started = Instant::now();
    let dripping = tokio::spawn(async move {
        if write.write_all(&frame(HEADERS, 0, 3, &block)).await.is_err() {
            return;
        }
        loop {
            tokio::time::sleep(Duration::from_millis(700)).await;
            // Literal fields without an end; few enough that no limit of the protocol itself ends them first.
            if write.write_all(&frame(CONTINUATION, 0, 3, &[0x00, 0x01, b'x', 0x01, b'y'])).await.is_err() {
                return;
            }
        }
    });
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(8), read.read_to_end(&mut rest)).await;
    dripping.abort();
    ensure!(ended.is_ok(), "still connected after 8 s");
    ensure!(started.elapsed() >= Duration::from_millis(800), "shed after {:?} already", started.elapsed());
    alive(&world, &gateway).await
}
