//! A page in a browser that speaks MCP across origins: one whose origin is allowed shows a row, another one gets nothing.

use std::{
    net::TcpListener,
    sync::LazyLock,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use axum::{Router, response::Html, routing::get};
use serde_json::json;
use storefence_devstack::stack::StackOptions;
use storefence_tests::Shared;
use url::Url;

use super::browser::Browser;

/// Bound before the gateway starts, which is given the origin.
static ALLOWED: LazyLock<TcpListener> = LazyLock::new(|| TcpListener::bind("127.0.0.1:0").expect("a free port"));

/// A gateway on loopback allows the origins `localhost` and `127.0.0.1` by itself; names below `localhost`, which browsers
/// resolve to loopback, are other hosts to it.
fn origin(name: &str, listener: &TcpListener) -> Result<String> {
    Ok(format!("http://{name}.localhost:{}", listener.local_addr()?.port()))
}

/// The stack with the examples, whose gateway allows the page's origin.
pub async fn stack() -> Result<Shared> {
    let allowed = origin("shop", &ALLOWED)?;
    Shared::start(|options| {
        options.manifests = StackOptions::examples()?;
        options.gateway_env.push(("STOREFENCE_ALLOWED_ORIGIN".into(), allowed));
        Ok(())
    })
    .await
}

/// What the page says when it is done.
struct Seen {
    row: String,
    headers: String,
    refused: String,
    error: String,
}

async fn open(browser: &Browser, name: &str, listener: TcpListener, fragment: &str) -> Result<Seen> {
    let origin = origin(name, &listener)?;
    listener.set_nonblocking(true)?;
    let page = Router::new().route("/", get(|| async { Html(include_str!("../../sign_in/page.html")) }));
    let server = tokio::spawn(axum::serve(tokio::net::TcpListener::from_std(listener)?, page).into_future());
    let mut url = Url::parse(&origin)?;
    url.set_fragment(Some(fragment));
    browser.open(url.as_str()).await?;
    let begun = Instant::now();
    while browser.title().await? != "done" {
        ensure!(begun.elapsed() < Duration::from_secs(60), "the page is not done: {}", browser.title().await?);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let text = async |id: &str| browser.of(&browser.one(&format!("#{id}")).await?, "text").await;
    let [row, headers, refused, error] =
        [text("row").await?, text("headers").await?, text("refused").await?, text("error").await?];
    server.abort();
    Ok(Seen { row, headers, refused, error })
}

pub async fn asks_across_origins(shared: &Shared) -> Result<()> {
    let Some(browser) = Browser::start().await? else { return Ok(()) };
    let token = shared.token("seattle-manager", json!({}))?;
    let fragment = format!("{}/mcp|{token}", shared.stack.facts().gateway_url);

    let seen = open(&browser, "shop", ALLOWED.try_clone()?, &fragment).await?;
    ensure!(seen.error.is_empty(), "{}", seen.error);
    let sql = "SELECT count(*) FROM retail.orders JOIN retail.stores USING (store_id) WHERE store_name = 'Seattle'";
    ensure!(seen.row == format!("8 tools, {} orders", shared.oracle(sql).await?), "{}", seen.row);
    let correlation = seen.headers.strip_prefix("session true, correlation ").context(seen.headers.clone())?;
    ensure!(correlation.len() == 36, "a page reads the exposed headers: {}", seen.headers);
    ensure!(seen.refused.starts_with("401 Bearer ") && seen.refused.contains("resource_metadata="), "{}", seen.refused);

    let stranger = open(&browser, "stranger", TcpListener::bind("127.0.0.1:0")?, &fragment).await?;
    ensure!(
        stranger.row.is_empty() && stranger.error.contains("Failed to fetch"),
        "{} {}",
        stranger.row,
        stranger.error
    );
    browser.stop().await;
    Ok(())
}
