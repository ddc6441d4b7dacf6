//! Requests that are too large, clients that do not read, connections beyond the cap, and abuse of HTTP/2.

use std::{
    net::ToSocketAddrs,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::{
    Tests,
    world::{Gateway, World, ZAVA, until},
};

pub fn tests(tests: &mut Tests) {
    tests.add("requests_that_are_too_large_are_refused_by_name", sizes);
    tests.add("clients_that_do_not_read_their_answers_are_shed", readers);
    tests.add("connections_beyond_the_cap_are_told_so", cap);
    tests.add("a_low_limit_of_open_files_lowers_the_cap", files);
    tests.add("connections_are_kept_between_requests_and_no_longer", kept);
    tests.add("http2_clients_that_only_reset_or_idle_are_shed", http2);
}

fn address(gateway: &Gateway) -> Result<String> {
    Ok(gateway.url.strip_prefix("http://").context("an http URL")?.to_owned())
}

/// Sends bytes and reads to the end, or for two seconds.
async fn exchange(gateway: &Gateway, bytes: &[u8]) -> Result<String> {
    let mut stream = TcpStream::connect(address(gateway)?).await?;
    // The answer may arrive and the connection end before everything is sent.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(2), stream.read_to_end(&mut answer)).await;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn head(world: &World, path: &str, more: &str) -> Result<String> {
    let token = world.token("head-office")?;
    Ok(format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\n{more}\r\n"
    ))
}

fn is(answer: &str, status: u16) -> Result<()> {
    let first = answer.lines().next().unwrap_or_default();
    ensure!(first.starts_with(&format!("HTTP/1.1 {status}")), "{status} is expected: {first:?}");
    Ok(())
}

async fn sizes(world: Arc<World>) -> Result<()> {
    let gateway = &world.gateway;
    let call =
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"get_current_utc_date","arguments":{}}}"#;
    let chunked = |chunks: &[&str]| -> Result<Vec<u8>> {
        let mut bytes = head(&world, "/mcp", "Transfer-Encoding: chunked\r\nConnection: close\r\n")?.into_bytes();
        for chunk in chunks {
            bytes.extend_from_slice(format!("{:x}\r\n{chunk}\r\n", chunk.len()).as_bytes());
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        Ok(bytes)
    };
    // Bodies: with a declared length, and in chunks without one.
    is(&exchange(gateway, &chunked(&[&call[..10], &call[10..]])?).await?, 200)?;
    let spaces = " ".repeat(64 * 1024);
    is(&exchange(gateway, &chunked(&[spaces.as_str(); 17])?).await?, 413)?;
    let announced = head(&world, "/mcp", "Content-Length: 1048577\r\n")? + &" ".repeat(1_048_577);
    is(&exchange(gateway, announced.as_bytes()).await?, 413)?;
    // Headers and URLs.
    let long = "a".repeat(5000);
    is(&exchange(gateway, head(&world, &format!("/mcp?{long}"), "Content-Length: 0\r\n")?.as_bytes()).await?, 414)?;
    let longest = "a".repeat(70_000);
    let answer =
        exchange(gateway, head(&world, &format!("/mcp?{longest}"), "Content-Length: 0\r\n")?.as_bytes()).await?;
    is(&answer, 414).or_else(|_| is(&answer, 431))?;
    is(&exchange(gateway, head(&world, "/mcp", &format!("X-Long: {longest}\r\n"))?.as_bytes()).await?, 431)?;
    let many: String = (0..120).map(|n| format!("X-{n}: x\r\n")).collect();
    is(&exchange(gateway, head(&world, "/mcp", &many)?.as_bytes()).await?, 431)?;
    // The same over HTTP/2.
    let mut client = connect(gateway, 65_535).await?;
    for (uri, header, status) in [("/mcp", longest.as_str(), 431), (&format!("/mcp?{long}"), "x", 414)] {
        let request = http::Request::post(format!("http://localhost{uri}")).header("x-long", header).body(())?;
        client = client.ready().await?;
        // Refused on the stream or with the whole connection.
        match client.send_request(request, true)?.0.await {
            Ok(response) => ensure!(response.status() == status, "{status} is expected: {response:?}"),
            Err(error) => ensure!(status == 431 && (error.is_reset() || error.is_go_away()), "{error}"),
        }
        client = connect(gateway, 65_535).await?;
    }
    Ok(())
}

async fn connect(gateway: &Gateway, window: u32) -> Result<SendRequest<Bytes>> {
    let stream = TcpStream::connect(address(gateway)?).await?;
    let (client, connection) = h2::client::Builder::new().initial_window_size(window).handshake(stream).await?;
    tokio::spawn(connection);
    Ok(client)
}

fn rows_call() -> String {
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "execute_sales_query", "arguments": {
        "postgresql_query": "SELECT repeat('x', 900) FROM generate_series(1, 800)"}}})
    .to_string()
}

async fn alive(world: &World, gateway: &Gateway) -> Result<()> {
    let answer = world.client_of(gateway, "head-office")?.call_tool("get_current_utc_date", json!({})).await?;
    ensure!(answer.status == 200 && !answer.is_tool_error(), "{}", answer.message);
    Ok(())
}

async fn readers(world: Arc<World>) -> Result<()> {
    world
        .limits(
            &ZAVA,
            "head-office",
            Some(json!({"statementTimeout": "2s", "maxRows": 1000, "maxResultBytes": 1_000_000})),
        )
        .await?;
    let gateway = world
        .another_gateway("readers", &["--client-timeout", "1", "--keep-alive", "2", "--answer-tokens", "1000000"])
        .await?;
    let shed = async || world.metric(&gateway, "storefence_slow_clients_total{waiting_for=\"answer\"}").await;
    let open = async || world.metric(&gateway, "storefence_client_connections").await;

    // HTTP/1.1: request after request on one connection without reading, until the buffers in between are full.
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4096)?;
    let to = address(&gateway)?.to_socket_addrs()?.next().context("an address")?;
    let mut stream = socket.connect(to).await?;
    let body = rows_call();
    let request = head(&world, "/mcp", &format!("Content-Length: {}\r\n", body.len()))? + &body;
    let started = Instant::now();
    while shed().await? < 1.0 {
        ensure!(started.elapsed() < Duration::from_secs(30), "HTTP/1.1: still connected");
        // Once writing blocks as well, only time helps.
        let _ = tokio::time::timeout(Duration::from_millis(200), stream.write_all(request.as_bytes())).await;
    }
    // HTTP/2: a window that is never opened, on a connection that is otherwise alive.
    for window in [0, 1000] {
        let before = shed().await?;
        let mut client = connect(&gateway, window).await?.ready().await?;
        let request = http::Request::post(format!("{}/mcp", gateway.url))
            .header("authorization", format!("Bearer {}", world.token("head-office")?))
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream");
        let (response, mut sending) = client.send_request(request.body(())?, false)?;
        sending.send_data(Bytes::from(rows_call()), true)?;
        let response = response.await?;
        ensure!(response.status() == 200, "{response:?}");
        until("the client is shed", Duration::from_secs(10), || async { Ok(shed().await? > before) })
            .await
            .with_context(|| format!("HTTP/2, a window of {window}"))?;
        drop(response);
    }
    until("only the scrape's connection is left", Duration::from_secs(5), || async { Ok(open().await? <= 3.0) })
        .await?;
    alive(&world, &gateway).await?;
    world.limits(&ZAVA, "head-office", None).await
}

async fn cap(world: Arc<World>) -> Result<()> {
    let gateway = world.another_gateway("cap", &["--max-connections", "3", "--client-timeout", "30"]).await?;
    let refused = async || world.metric(&gateway, "storefence_client_connections_refused_total").await;
    let before = refused().await?;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(address(&gateway)?).await?;
        stream.write_all(b"POST /mcp HTTP/1.1\r\n").await?;
        held.push(stream);
    }
    // Further connections get an answer at once, over either version of HTTP.
    let request = head(&world, "/mcp", "Content-Length: 2\r\n")? + "{}";
    until("the cap is reached", Duration::from_secs(5), || async {
        let started = Instant::now();
        let answer = exchange(&gateway, request.as_bytes()).await?;
        let told = is(&answer, 503).is_ok();
        ensure!(!told || answer.to_lowercase().contains("retry-after: 1"), "{answer}");
        ensure!(!told || started.elapsed() < Duration::from_millis(1800), "told after {:?}", started.elapsed());
        Ok(told)
    })
    .await?;
    let newer = reqwest::Client::builder().http2_prior_knowledge().build()?;
    let answer = newer.post(format!("{}/mcp", gateway.url)).body("{}").send().await?;
    ensure!(answer.status() == 503 && answer.headers()["retry-after"] == "1", "{answer:?}");
    ensure!(refused().await? >= before + 2.0);
    // Even many silent ones do not queue: they end within their two seconds.
    let mut silent = Vec::new();
    for _ in 0..150 {
        silent.push(TcpStream::connect(address(&gateway)?).await?);
    }
    for mut stream in silent {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(8), stream.read_to_end(&mut rest)).await;
        ensure!(ended.is_ok(), "a connection beyond the cap is kept");
    }
    drop(held);
    until("there is room again", Duration::from_secs(5), || async { Ok(alive(&world, &gateway).await.is_ok()) }).await
}

/// HTTP/2 requests, each followed by its reset.
fn rapid_reset(requests: u32) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    // POST, http and / are in HPACK's static table; the authority is a literal.
    let fields = [&b"\x83\x86\x84\x41\x09"[..], b"localhost"].concat();
    for stream in (0..requests).map(|n| (n * 2 + 1).to_be_bytes()) {
        bytes.extend_from_slice(&[0, 0, fields.len() as u8, 1, 4]);
        bytes.extend_from_slice(&stream);
        bytes.extend_from_slice(&fields);
        bytes.extend_from_slice(&[0, 0, 4, 3, 0]);
        bytes.extend_from_slice(&stream);
        bytes.extend_from_slice(&[0, 0, 0, 8]);
    }
    bytes
}

async fn http2(world: Arc<World>) -> Result<()> {
    let gateway = world
        .another_gateway("http2", &["--client-timeout", "1", "--keep-alive", "2", "--answer-tokens", "1000000"])
        .await?;
    let token = world.token("head-office")?;
    let request = || -> Result<http::Request<()>> {
        let request = http::Request::post(format!("{}/mcp", gateway.url))
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json");
        Ok(request.body(())?)
    };
    // Rapid reset: requests and their resets in one write, so that none has started when it is given up.
    let mut stream = TcpStream::connect(address(&gateway)?).await?;
    let _ = stream.write_all(&rapid_reset(500)).await;
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(8), stream.read_to_end(&mut answer)).await;
    ensure!(ended.is_ok(), "the connection goes on after 500 resets");
    // A GOAWAY frame on stream 0 with ENHANCE_YOUR_CALM (RFC 9113, 6.8 and 7).
    let calm = answer.windows(17).any(|frame| frame[3] == 7 && frame[5..9] == [0; 4] && frame[13..] == [0, 0, 0, 11]);
    ensure!(calm || answer.is_empty(), "no GOAWAY in {answer:?}");
    alive(&world, &gateway).await?;

    // Slow enough for each request to start.
    let mut client = connect(&gateway, 65_535).await?;
    let (mut sent, mut ended) = (0, false);
    while sent < 1000 && !ended {
        let Ok(mut ready) = client.clone().ready().await else { break };
        match ready.send_request(request()?, false) {
            Ok((response, mut sending)) => {
                tokio::time::sleep(Duration::from_millis(2)).await;
                sending.send_reset(h2::Reason::CANCEL);
                drop(response);
                sent += 1;
            }
            Err(_) => ended = true,
        }
        client = ready;
    }
    ensure!(sent < 1000, "{sent} requests were begun and given up");
    alive(&world, &gateway).await?;
    let floods = world.metric(&gateway, "storefence_reset_floods_total").await?;
    ensure!(floods >= 1.0, "no flood was counted");

    // More streams than are allowed at a time: the rest wait at the client, as the settings require.
    let stream = TcpStream::connect(address(&gateway)?).await?;
    let (client, connection) = h2::client::handshake(stream).await?;
    let ending = tokio::spawn(connection);
    let mut client = client.ready().await?;
    until("the settings have come", Duration::from_secs(2), || async { Ok(client.current_max_send_streams() == 256) })
        .await?;
    // One request, and then only answers to pings: the connection ends.
    let (response, _) = client.send_request(http::Request::get(format!("{}/mcp", gateway.url)).body(())?, true)?;
    ensure!(response.await?.status() == 401);
    tokio::time::timeout(Duration::from_secs(8), ending).await.context("an idle connection is kept")??.or_else(
        |error| {
            if error.is_go_away() || error.is_io() { Ok(()) } else { Err(error) }
        },
    )?;
    Ok(())
}

/// One request and its answer, on a keep-alive connection.
async fn ask(world: &World, stream: &mut TcpStream) -> Result<()> {
    stream.write_all((head(world, "/mcp", "Content-Length: 2\r\n")? + "{}").as_bytes()).await?;
    let mut answer = vec![0; 4096];
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut answer)).await??;
    is(&String::from_utf8_lossy(&answer[..read]), 400)
}

async fn kept(world: Arc<World>) -> Result<()> {
    let gateway = world
        .another_gateway("kept", &["--client-timeout", "1", "--keep-alive", "4", "--answer-tokens", "1000000"])
        .await?;
    let slow = async || world.metric(&gateway, "storefence_slow_clients_total{waiting_for=\"headers\"}").await;
    let mut quiet = TcpStream::connect(address(&gateway)?).await?;
    let mut half = TcpStream::connect(address(&gateway)?).await?;
    ask(&world, &mut quiet).await?;
    ask(&world, &mut half).await?;
    // A longer pause between two requests than is allowed within one.
    tokio::time::sleep(Duration::from_millis(2200)).await;
    ask(&world, &mut quiet).await?;
    let answered = Instant::now();
    ask(&world, &mut half).await?;
    ensure!(slow().await? == 0.0, "who waits between two requests is not slow");
    let ends = async |stream: &mut TcpStream| -> Result<Duration> {
        let read = tokio::time::timeout(Duration::from_secs(15), stream.read(&mut [0; 16])).await.context("kept")?;
        ensure!(read.unwrap_or(0) == 0, "an answer to nothing");
        Ok(answered.elapsed())
    };
    // One next request begins and does not end; another never begins.
    half.write_all(b"POST /mcp").await?;
    let (half, quiet) = tokio::try_join!(ends(&mut half), ends(&mut quiet))?;
    ensure!(half < quiet && quiet > Duration::from_millis(3500), "ended after {half:?} and {quiet:?}");
    ensure!(slow().await? == 1.0, "the one whose request did not end was slow");
    Ok(())
}

/// Without file descriptors a connection would wait in the kernel's queue, and the client would get no answer.
async fn files(world: Arc<World>) -> Result<()> {
    let args = ["--client-timeout", "30", "--pool-total", "4", "--pool-per-tenant", "4"];
    let gateway = world.gateway_with_open_files("files", &args, 256).await?;
    let mut held = Vec::new();
    for _ in 0..150 {
        let mut stream = TcpStream::connect(address(&gateway)?).await?;
        stream.write_all(b"POST /mcp HTTP/1.1\r\n").await?;
        held.push(stream);
    }
    let request = head(&world, "/mcp", "Content-Length: 2\r\n")? + "{}";
    until("the client is told", Duration::from_secs(10), || async {
        Ok(is(&exchange(&gateway, request.as_bytes()).await?, 503).is_ok())
    })
    .await?;
    let log = std::fs::read_to_string(gateway.child.log_path().context("a log")?)?;
    ensure!(log.contains("the limit of open files allows fewer connections"), "the log does not warn");
    ensure!(!log.contains("a connection could not be accepted"), "descriptors ran out");
    drop(held);
    until("there is room again", Duration::from_secs(10), || async { Ok(alive(&world, &gateway).await.is_ok()) }).await
}
