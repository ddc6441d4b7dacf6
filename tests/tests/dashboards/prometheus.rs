//! A real Prometheus that scrapes the running stack.

use std::{
    net::TcpListener,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use storefence_devstack::{
    process::{Child, Spawn},
    stack::StackFacts,
};
use storefence_tests::outside::debian::{self, Program};
use tempfile::TempDir;

use crate::render::NAMESPACE;

const START_TIMEOUT: Duration = Duration::from_secs(30);
pub const SCRAPE_INTERVAL: Duration = Duration::from_millis(500);

/// Debian's `prometheus` package holds promtool as well; `None` where it cannot be had.
pub fn program(name: &str) -> Result<Option<Program>> {
    debian::program("prometheus", name)
}

/// Runs promtool, which must like what it is given.
pub fn promtool(program: &Program, args: &[&str], directory: &TempDir) -> Result<String> {
    let mut command: Command = program.command();
    let output = command.args(args).current_dir(directory.path()).output()?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "promtool {}: {said}", args.join(" "));
    Ok(said)
}

/// A running Prometheus. Dropping it ends it.
pub struct Prometheus {
    // Fields drop in order: the process, then its files.
    child: Child,
    url: String,
    http: reqwest::Client,
    _directory: TempDir,
}

impl Prometheus {
    /// Scrapes gateway and operator as the chart's monitors have it: the namespace and the pod are labels.
    pub async fn start(program: &Program, facts: &StackFacts, rules: &Value) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("storefence-prometheus-").tempdir()?;
        let path = |name: &str| directory.path().join(name);
        let target = |url: &str, pod: &str| {
            let labels = json!({"namespace": NAMESPACE, "pod": pod});
            json!({
                "job_name": pod,
                "static_configs": [{"targets": [url.trim_start_matches("http://")], "labels": labels}],
            })
        };
        let interval = format!("{}ms", SCRAPE_INTERVAL.as_millis());
        let config = json!({
            "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [
                target(&facts.admin_url, "storefence-gateway-0"),
                target(&facts.operator_admin_url, "storefence-operator-0"),
            ],
        });
        std::fs::write(path("rules.yaml"), rules.to_string())?;
        std::fs::write(path("prometheus.yaml"), config.to_string())?;
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let mut spawn = Spawn::new(program.path())
            .arg(format!("--config.file={}", path("prometheus.yaml").display()))
            .arg(format!("--storage.tsdb.path={}", path("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--log.level=warn")
            .current_dir(directory.path())
            .log(path("log"));
        if let Some(libraries) = program.library_path() {
            spawn = spawn.env("LD_LIBRARY_PATH", libraries);
        }
        let mut child = spawn.start()?;
        let (url, http) = (format!("http://127.0.0.1:{port}"), reqwest::Client::builder().no_proxy().build()?);
        let begun = Instant::now();
        while !http.get(format!("{url}/-/ready")).send().await.is_ok_and(|answer| answer.status().is_success()) {
            if !child.is_running() || begun.elapsed() > START_TIMEOUT {
                bail!("Prometheus does not start: {}", child.log_tail(10));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(Self { child, url, http, _directory: directory })
    }

    async fn api(&self, path: &str, query: &[(&str, &str)]) -> Result<Value> {
        let mut url = url::Url::parse(&format!("{}/api/v1/{path}", self.url))?;
        url.query_pairs_mut().extend_pairs(query);
        let answer: Value = self.http.get(url).send().await?.json().await?;
        if answer["status"] == "success" {
            return Ok(answer["data"].clone());
        }
        bail!("{}: {} {}", answer["errorType"], answer["error"], self.child.log_tail(3));
    }

    /// The series that an expression gives now, with their values; values that are not numbers are left out.
    pub async fn query(&self, expression: &str) -> Result<Vec<(Value, f64)>> {
        let data = self.api("query", &[("query", expression)]).await.with_context(|| expression.to_owned())?;
        let series = data["result"].as_array().context("no result")?;
        let value = |series: &Value| series["value"][1].as_str().and_then(|value| value.parse::<f64>().ok());
        let numbers = series.iter().filter_map(|series| Some((series["metric"].clone(), value(series)?)));
        Ok(numbers.filter(|(_, value)| value.is_finite()).collect())
    }

    /// The rules, as Prometheus evaluated them.
    pub async fn rules(&self) -> Result<Vec<Value>> {
        let data = self.api("rules", &[]).await?;
        let groups = data["groups"].as_array().context("no groups")?;
        Ok(groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default()).collect())
    }

    /// Waits until both targets were scraped at least this often from now on.
    pub async fn scraped(&self, times: u32) -> Result<()> {
        let begun = Instant::now();
        loop {
            let both = self.query("count(up == 1)").await?.first().is_some_and(|(_, up)| *up >= 2.0);
            // The window begins after the start: earlier scrapes say nothing about what happened since.
            let window = begun.elapsed().as_millis().max(1);
            let expression = format!("min(count_over_time(up[{window}ms]) and min_over_time(up[{window}ms]) == 1)");
            let often = self.query(&expression).await?.first().is_some_and(|(_, n)| *n >= f64::from(times));
            if both && often {
                return Ok(());
            }
            ensure!(begun.elapsed() < START_TIMEOUT, "Prometheus does not reach the stack: {}", self.child.log_tail(5));
            tokio::time::sleep(SCRAPE_INTERVAL).await;
        }
    }
}
