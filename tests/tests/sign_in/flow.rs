//! From the 401 to the first answered question, without a token: the official SDK's OAuth client asks, a person chooses
//! who they are in a real browser, and the gateway answers with that person's rows.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use storefence_devstack::entra::principals;
use storefence_tests::{Shared, outside::python};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use super::{browser::Browser, editor};

const STATEMENT: &str = "SELECT count(*) AS orders FROM retail.orders";
const TIMEOUT: Duration = Duration::from_secs(90);

/// The SDK's client, which has printed the URL to open.
struct Asking {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    url: String,
}

impl Asking {
    async fn start(shared: &Shared) -> Result<Option<Self>> {
        let Some(python) = tokio::task::spawn_blocking(|| python::environment(&["mcp==2.3.0"])).await?? else {
            return Ok(None);
        };
        let facts = shared.stack.facts();
        let mut command: Command = python.command(concat!(env!("CARGO_MANIFEST_DIR"), "/sign_in/client.py")).into();
        let endpoint = editor::oauth_endpoint(&facts.gateway_url)?;
        command.args([&endpoint, STATEMENT]).env("SSL_CERT_FILE", &facts.ca_file);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        let mut asking = Self { child, lines, url: String::new() };
        let line = asking.line().await?;
        asking.url = line.strip_prefix("open ").with_context(|| line.clone())?.to_owned();
        Ok(Some(asking))
    }

    async fn line(&mut self) -> Result<String> {
        let line = tokio::time::timeout(TIMEOUT, self.lines.next_line()).await.context("the client says nothing")??;
        match line {
            Some(line) => Ok(line),
            None => {
                let mut said = String::new();
                self.child.stderr.take().context("no stderr")?.read_to_string(&mut said).await?;
                Err(anyhow::Error::msg(said).context("the client ended"))
            }
        }
    }
}

/// Both, or a line that says what is missing.
async fn both(shared: &Shared) -> Result<Option<(Browser, Asking)>> {
    let Some(browser) = Browser::start().await? else { return Ok(None) };
    Ok(Asking::start(shared).await?.map(|asking| (browser, asking)))
}

pub async fn first_question(shared: &Shared) -> Result<()> {
    let Some((browser, mut asking)) = both(shared).await? else { return Ok(()) };
    browser.open(&asking.url).await?;
    ensure!(browser.title().await? == "Sign in to the local stack", "{}", browser.title().await?);
    let style = browser.of(&browser.one("button[value=seattle-manager]").await?, "css/border-radius").await?;
    ensure!(style == "8px", "the policy keeps the page's own style out: {style}");
    for principal in principals::all() {
        let button = browser.one(&format!("button[value={}]", principal.name)).await?;
        ensure!(browser.of(&button, "computedrole").await? == "button");
        let name = browser.of(&button, "computedlabel").await?;
        let expected = format!("{} {}: {}", principal.display_name, principal.role, principal.stores.join(", "));
        ensure!(name == expected, "a screen reader says '{name}', not '{expected}'");
    }
    ensure!(browser.all("h1").await?.len() == 1 && browser.all("main").await?.len() == 1);

    // With the keyboard: the first buttons are in the order of the list.
    browser.keys(&["\u{E004}", "\u{E004}"]).await?;
    let focused = browser.focused().await?;
    let label = browser.of(&focused, "computedlabel").await?;
    ensure!(label.starts_with("Sam Rivera"), "{label}");
    browser.keys(&["\u{E007}"]).await?;
    came_back(&browser).await?;

    let answer: Value = serde_json::from_str(&asking.line().await?)?;
    let seattle =
        "SELECT count(*) FROM retail.orders o JOIN retail.stores s USING (store_id) WHERE store_name = 'Seattle'";
    ensure!(answer["isError"] == json!(false), "{answer}");
    ensure!(answer["answer"]["rows"][0][0] == json!(shared.oracle(seattle).await?), "{answer}");
    let expected = shared.client("seattle-manager", storefence_devstack::mcp_client::Revision::V2026_07_28)?;
    let expected = expected.call_tool("whoami", json!({})).await?;
    for field in ["tenant", "role", "stores"] {
        ensure!(
            answer["whoami"][field] == expected.structured()[field],
            "{field}: {answer}, {}",
            expected.structured()
        );
    }
    ensure!(answer["refreshed"] == json!(true), "a token that is over is renewed without a browser: {answer}");
    ensure!(answer["secret"].is_null(), "{answer}");
    ensure!(answer["tools"].as_array().is_some_and(|tools| tools.len() >= 7), "{answer}");
    browser.stop().await;
    Ok(())
}

/// This time over TLS, with the stack's own certificate.
pub async fn cancelled(shared: &Shared) -> Result<()> {
    let Some((browser, mut asking)) = both(shared).await? else { return Ok(()) };
    let entra = shared.stack.entra();
    let plain = entra.sign_in_url().context("no sign-in without TLS")?;
    ensure!(asking.url.starts_with(&plain), "{}", asking.url);
    browser.open(&asking.url.replacen(&plain, entra.url(), 1)).await?;
    browser.click(&browser.one("button[name=cancel]").await?).await?;
    came_back(&browser).await?;
    let error = asking.line().await.err().context("nobody signed in, and the client got an answer")?;
    ensure!(format!("{error:#}").contains("access_denied: AADSTS65004"), "{error:#}");
    browser.stop().await;
    Ok(())
}

/// The button leads to the client, whatever the page's policy says about forms.
async fn came_back(browser: &Browser) -> Result<()> {
    let begun = Instant::now();
    while browser.title().await? != "Signed in" {
        ensure!(begun.elapsed() < Duration::from_secs(10), "the browser is at {}", browser.url().await?);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ensure!(browser.url().await?.starts_with("http://127.0.0.1:"));
    Ok(())
}
