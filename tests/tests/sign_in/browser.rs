//! Headless Chromium, driven through WebDriver by plain HTTP: <https://www.w3.org/TR/webdriver2/>.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use storefence_devstack::process::{Child, Spawn};
use storefence_tests::outside::{debian, major};
use tempfile::TempDir;

const START_TIMEOUT: Duration = Duration::from_secs(30);
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser with a profile of its own. Dropping it ends it.
pub struct Browser {
    // Fields drop in order: the processes, then their files.
    driver: Child,
    http: reqwest::Client,
    session: String,
    _profile: TempDir,
}

/// The browser below `root` that a driver drives: the one of its own major version. A browser that was fetched runs with
/// libraries of its own only and is not asked; it came with its driver.
fn beside(root: &Path, driver: &Path) -> Option<PathBuf> {
    let there = ["usr/lib/chromium/chromium", "usr/bin/google-chrome", "usr/bin/chromium"].map(|path| root.join(path));
    let fits = |browser: &PathBuf| root != Path::new("/") || major(browser).ok() == major(driver).ok();
    there.into_iter().filter(|browser| browser.is_file()).find(fits)
}

impl Browser {
    /// Debian's Chromium; `None` where it cannot be had, and a line that says so.
    pub async fn start() -> Result<Option<Self>> {
        let fetched = tokio::task::spawn_blocking(|| {
            debian::program_that("chromium-driver", "chromedriver", |driver| beside(Path::new("/"), driver).is_some())
        });
        let Some(program) = fetched.await?? else { return Ok(None) };
        let binary = beside(program.root().unwrap_or(Path::new("/")), program.path())
            .context("a chromedriver without a chromium of its version")?;
        let profile = tempfile::Builder::new().prefix("storefence-browser-").tempdir()?;
        let said = profile.path().join("chromedriver.log");
        let home = profile.path().join("home");
        fs::create_dir(&home)?;
        let mut spawn = Spawn::new(program.path())
            .args(["--port=0"])
            .env("HOME", &home)
            .env("XDG_CONFIG_HOME", &home)
            .env("XDG_CACHE_HOME", &home)
            .env("TMPDIR", profile.path())
            .stdout(&said)
            .log(profile.path().join("chromium.log"));
        if let Some(libraries) = program.library_path() {
            // PulseAudio's library looks for another one of its own at an absolute path.
            let own: Vec<PathBuf> = std::env::split_paths(&libraries).map(|path| path.join("pulseaudio")).collect();
            let all = std::env::split_paths(&libraries).chain(own.into_iter().filter(|path| path.is_dir()));
            spawn = spawn.env("LD_LIBRARY_PATH", std::env::join_paths(all)?);
        }
        let mut driver = spawn.start()?;
        let port = port(&said, &mut driver).await?;
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build()?;
        let mut browser = Self { driver, http, session: format!("http://127.0.0.1:{port}/session"), _profile: profile };
        let flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-proxy-server",
            // Nothing outside of this machine is asked for, whatever the browser has in mind.
            "--host-resolver-rules=MAP *.localhost 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        ];
        let mut flags: Vec<String> = flags.map(str::to_owned).into();
        flags.push(format!("--user-data-dir={}", browser._profile.path().join("profile").display()));
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            // The stand-ins' certificates are from an authority of their own.
            "acceptInsecureCerts": true,
            "goog:chromeOptions": {"binary": binary, "args": flags},
        }}});
        let created = browser.send("", Some(capabilities)).await?;
        let id = created["sessionId"].as_str().context("no session")?.to_owned();
        browser.session.push('/');
        browser.session.push_str(&id);
        Ok(Some(browser))
    }

    async fn send(&self, path: &str, body: Option<Value>) -> Result<Value> {
        let url = format!("{}{path}", self.session);
        let request = match body {
            Some(body) => self.http.post(&url).json(&body),
            None => self.http.get(&url),
        };
        let response = request.send().await.with_context(|| format!("chromedriver: {}", self.driver.log_tail(10)))?;
        let (status, answer) = (response.status(), response.json::<Value>().await?);
        if status.is_success() {
            return Ok(answer["value"].clone());
        }
        bail!("{path}: {}: {}", answer["value"]["error"], answer["value"]["message"]);
    }

    /// Opens a page and waits until it is loaded.
    pub async fn open(&self, url: &str) -> Result<()> {
        self.send("/url", Some(json!({"url": url}))).await.map(drop)
    }

    /// Where the browser is.
    pub async fn url(&self) -> Result<String> {
        self.text("/url").await
    }

    pub async fn title(&self) -> Result<String> {
        self.text("/title").await
    }

    /// The elements that a CSS selector finds.
    pub async fn all(&self, selector: &str) -> Result<Vec<String>> {
        let found = self.send("/elements", Some(json!({"using": "css selector", "value": selector}))).await?;
        let found = found.as_array().context("no elements")?;
        found.iter().map(|element| Ok(element[ELEMENT].as_str().context("no element")?.to_owned())).collect()
    }

    /// The one element that a CSS selector finds.
    pub async fn one(&self, selector: &str) -> Result<String> {
        let mut found = self.all(selector).await?;
        match (found.pop(), found.len()) {
            (Some(element), 0) => Ok(element),
            (_, more) => bail!("{} elements match {selector} at {}", more, self.url().await?),
        }
    }

    /// Something that the browser knows of an element: `text`, `computedrole`, `computedlabel`, `css/NAME`.
    pub async fn of(&self, element: &str, what: &str) -> Result<String> {
        self.text(&format!("/element/{element}/{what}")).await
    }

    pub async fn click(&self, element: &str) -> Result<()> {
        self.send(&format!("/element/{element}/click"), Some(json!({}))).await.map(drop)
    }

    /// Types keys into whatever has the focus.
    pub async fn keys(&self, keys: &[&str]) -> Result<()> {
        let typed = keys.iter().flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": key})));
        let actions = json!({"actions": [{"type": "key", "id": "keyboard", "actions": typed.collect::<Vec<_>>()}]});
        self.send("/actions", Some(actions)).await.map(drop)
    }

    /// The element that has the focus.
    pub async fn focused(&self) -> Result<String> {
        Ok(self.send("/element/active", None).await?[ELEMENT].as_str().context("no element")?.to_owned())
    }

    async fn text(&self, path: &str) -> Result<String> {
        Ok(self.send(path, None).await?.as_str().context("not a text")?.to_owned())
    }

    /// Ends browser and driver in order.
    pub async fn stop(self) {
        let _ = self.http.delete(&self.session).send().await;
    }
}

async fn port(said: &Path, driver: &mut Child) -> Result<u16> {
    let begun = Instant::now();
    loop {
        let text = fs::read_to_string(said).unwrap_or_default();
        let port =
            text.split("started successfully on port ").nth(1).and_then(|rest| rest.split('.').next()?.parse().ok());
        if let Some(port) = port {
            return Ok(port);
        }
        if !driver.is_running() || begun.elapsed() > START_TIMEOUT {
            bail!("chromedriver does not start: {text}{}", driver.log_tail(10));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
