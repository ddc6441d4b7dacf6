//! compose.yaml without Docker: the same programs with the same arguments and variables as processes, other addresses put
//! instead of the services' names.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use storefence_devstack::{
    embeddings::Model,
    postgres::{Cluster, ClusterOptions, SslMode},
    process::{Child, Spawn},
};
use storefence_tests::outside::own_program;

const STEP: Duration = Duration::from_secs(120);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn compose() -> Value {
    serde_saphyr::from_str(&fs::read_to_string(root().join("compose.yaml")).unwrap()).unwrap()
}

#[test]
fn nothing_but_the_gateway_is_reachable_and_no_secret_stands_in_the_file() {
    let compose = compose();
    for (name, service) in compose["services"].as_object().unwrap() {
        let ports = service["ports"].as_array().cloned().unwrap_or_default();
        if name == "gateway" {
            assert!(ports.iter().all(|port| port.as_str().unwrap().starts_with("127.0.0.1:")) && ports.len() == 1);
        } else {
            assert!(ports.is_empty(), "{name}");
            assert_eq!(service["networks"], serde_json::json!(["inside"]), "{name}");
        }
        if name != "database" {
            assert_eq!(service["read_only"], true, "{name}");
            assert_eq!(service["cap_drop"], serde_json::json!(["ALL"]), "{name}");
        }
        for (variable, value) in service["environment"].as_object().into_iter().flatten() {
            let secret = ["PASSWORD", "SECRET", "KEY", "TOKEN"].iter().any(|word| variable.contains(word));
            assert!(!secret || value.as_str().unwrap().starts_with("/stack/"), "{name}: {variable}");
        }
        for needed in service["depends_on"].as_object().into_iter().flatten().map(|(needed, _)| needed) {
            assert!(compose["services"][needed].is_object(), "{name} depends on {needed}");
        }
    }
    assert_eq!(compose["networks"]["inside"]["internal"], true);
}

/// A command of a binary, by its definition: unknown words end in wrong usage, and `--help` after known ones does not.
fn is_defined(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(binary(program)).env_clear().args(arguments).arg("--help").output().unwrap();
    output.status.success()
}

#[test]
fn every_service_that_stays_has_a_health_check_and_who_needs_it_waits_for_it() {
    let compose = compose();
    let services = compose["services"].as_object().unwrap();
    let mut stay: Vec<&String> = services.keys().collect();
    for service in services.values() {
        for (needed, how) in service["depends_on"].as_object().into_iter().flatten() {
            let condition = how["condition"].as_str().unwrap();
            if condition == "service_completed_successfully" {
                stay.retain(|name| *name != needed);
            } else {
                assert_eq!(condition, "service_healthy", "{needed}");
            }
        }
    }
    stay.retain(|name| services[*name]["profiles"].is_null());
    assert_eq!(stay, ["database", "devstack", "gateway", "operator"]);
    for name in stay {
        let check = &services[name]["healthcheck"];
        let words: Vec<&str> = check["test"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
        assert_eq!(words[0], "CMD", "{name}: there is no shell in the image");
        if name == "database" {
            continue;
        }
        let program = words[1].rsplit('/').next().unwrap();
        assert_eq!(program, format!("storefence-{name}"), "the image holds this program and no other");
        assert!(is_defined(program, &words[2..]), "{words:?}");
        assert!(!is_defined(program, &["no-such-command"]), "the definition takes anything");
    }
}

#[test]
fn every_target_is_one_of_the_dockerfile() {
    let dockerfile = fs::read_to_string(root().join("Dockerfile")).unwrap();
    for (name, service) in compose()["services"].as_object().unwrap() {
        if let Some(target) = service["build"]["target"].as_str() {
            assert!(dockerfile.contains(&format!("FROM base AS {target}\n")), "{name}");
        }
    }
}

/// A service as a process: what the file says, with addresses of this machine.
struct Services {
    compose: Value,
    replacements: Vec<(String, String)>,
    logs: tempfile::TempDir,
}

impl Services {
    fn here(&self, text: &str) -> String {
        self.replacements.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
    }

    fn spawn(&self, service: &str) -> Spawn {
        let spec = &self.compose["services"][service];
        let image = spec["image"].as_str().unwrap();
        let mut spawn =
            Spawn::new(binary(image.split(':').next().unwrap())).env_clear().log(self.logs.path().join(service));
        for (variable, value) in spec["environment"].as_object().into_iter().flatten() {
            spawn = spawn.env(variable, self.here(value.as_str().unwrap()));
        }
        for argument in spec["command"].as_array().unwrap() {
            spawn = spawn.arg(self.here(argument.as_str().unwrap()));
        }
        spawn
    }

    /// The service's health check, as Docker runs it: in the container, so with its environment.
    async fn is_healthy(&self, service: &str, admin: u16) -> Result<(bool, String)> {
        let spec = &self.compose["services"][service];
        let check = spec["healthcheck"]["test"].as_array().context("no health check")?;
        let program = check[1].as_str().and_then(|path| path.rsplit('/').next()).context("no program")?;
        let log = self.logs.path().join("health");
        let _ = fs::remove_file(&log);
        let mut spawn = Spawn::new(binary(program)).env_clear().log(log);
        for (variable, value) in spec["environment"].as_object().into_iter().flatten() {
            spawn = spawn.env(variable, self.here(value.as_str().context("not a string")?));
        }
        let arguments = check[2..].iter().filter_map(Value::as_str);
        // Each service has a port 9090 of its own there.
        let listen = format!("0.0.0.0:{admin}");
        let mut child = spawn.env("STOREFENCE_ADMIN_LISTEN", listen).args(arguments).start()?;
        let status = child.wait(STEP).await?.context("the health check did not end")?;
        Ok((status.success(), child.log_text()))
    }

    async fn to_end(&self, service: &str) -> Result<()> {
        let mut child = self.spawn(service).start()?;
        let status = child.wait(STEP).await?.context("did not end")?;
        ensure!(status.success(), "{service}: {}", child.log_tail(20));
        Ok(())
    }
}

/// Where cargo puts the binaries.
fn binary(name: &str) -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join(name)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_services_answer_a_question() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions::default()).await?;
    let url = url::Url::parse(&cluster.superuser_url("retail", SslMode::Disable))?;
    let database = format!("127.0.0.1:{}", url.port().context("no port")?);
    let stack = tempfile::tempdir()?;
    let directory = stack.path().to_str().context("not UTF-8")?.to_owned();
    let [kubernetes, entra, vault, embeddings, gateway, operator_admin, gateway_admin] = [(); 7].map(|()| free_port());
    let to = |from: &str, to: String| (from.to_owned(), to);
    let services = Services {
        compose: compose(),
        logs: tempfile::tempdir()?,
        replacements: vec![
            to("--host=devstack", "--host=localhost".to_owned()),
            to("--listen=0.0.0.0", "--listen=127.0.0.1".to_owned()),
            to("--embeddings-port=8445", format!("--embeddings-port={embeddings}")),
            to("/examples/", format!("{}/examples/", root().display())),
            to("https://devstack:8443", format!("https://localhost:{entra}")),
            to("database:5432", database),
            to("http://gateway:8080", format!("http://127.0.0.1:{gateway}")),
            to("http://gateway:9090", format!("http://127.0.0.1:{gateway_admin}")),
            to("http://operator:9090", format!("http://127.0.0.1:{operator_admin}")),
            to("0.0.0.0:8080", format!("127.0.0.1:{gateway}")),
            to("${STOREFENCE_PORT:-8080}", gateway.to_string()),
            to("/stack", directory.clone()),
        ],
    };
    // The model is in the image; here it is where the other suites have it. With the image's variables alone there may be no
    // python3 to fetch it with.
    Model::shared(&|step| println!("{step}"))?;
    let mut devstack = services
        .spawn("devstack")
        .arg(format!("--kubernetes-port={kubernetes}"))
        .arg(format!("--entra-port={entra}"))
        .arg(format!("--key-vault-port={vault}"))
        .env("STOREFENCE_DEVSTACK_DIR", storefence_devstack::paths::state_dir())
        .start()?;
    let ready = async {
        while !Path::new(&directory).join("stack.json").exists() {
            ensure!(devstack.is_running(), "{}", devstack.log_tail(20));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    };
    tokio::time::timeout(STEP, ready).await.context("the devstack is not ready")??;

    // What the image's entry point does.
    let password = fs::read_to_string(Path::new(&directory).join("database-password"))?;
    let administrator = cluster.connect("postgres").await?;
    administrator.batch_execute("CREATE DATABASE retail").await?;
    let exists = administrator.query_opt("SELECT FROM pg_roles WHERE rolname = 'postgres'", &[]).await?.is_some();
    let verb = if exists { "ALTER" } else { "CREATE" };
    administrator.batch_execute(&format!("{verb} ROLE postgres SUPERUSER LOGIN PASSWORD '{password}'")).await?;

    for service in ["migrate", "seed-zava", "seed-contoso", "embed"] {
        services.to_end(service).await?;
    }
    let admin = |port: u16| format!("127.0.0.1:{port}");
    let _operator: Child = services.spawn("operator").env("STOREFENCE_ADMIN_LISTEN", admin(operator_admin)).start()?;
    let mut served: Child = services.spawn("gateway").env("STOREFENCE_ADMIN_LISTEN", admin(gateway_admin)).start()?;
    for (service, port) in [("operator", operator_admin), ("gateway", gateway_admin)] {
        let deadline = Instant::now() + STEP;
        loop {
            let (healthy, said) = services.is_healthy(service, port).await?;
            ensure!(said.lines().count() == 1, "{service}: {said}");
            if healthy {
                ensure!(said.contains("/readyz answers 200"), "{service}: {said}");
                break;
            }
            ensure!(Instant::now() < deadline, "{service}: {said}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let (healthy, said) = services.is_healthy("gateway", free_port()).await?;
    ensure!(!healthy && said.contains("does not answer"), "nothing listens there: {said}");
    services.to_end("ready").await?;

    helm_test(&directory, gateway).await?;

    // The question of the file's head.
    let mut answer = String::new();
    for _ in 0..200 {
        let output = services.logs.path().join("answer");
        let _ = fs::remove_file(&output);
        let stack = format!("{directory}/stack.json");
        let arguments = ["ask", "--as", "seattle-manager", "--stack", &stack, "SELECT count(*) FROM retail.stores"];
        let mut child = Spawn::new(binary("storefence-devstack")).env_clear().args(arguments).log(&output).start()?;
        let status = child.wait(STEP).await?.context("ask did not end")?;
        answer = fs::read_to_string(&output)?;
        if status.success() {
            break;
        }
        ensure!(served.is_running(), "gateway: {}", served.log_tail(20));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(answer.lines().any(|line| line.trim() == "1"), "{answer}");
    Ok(())
}

/// What `helm test` would run in the cluster, against this gateway: refused without a token, answered with one.
async fn helm_test(directory: &str, gateway: u16) -> Result<()> {
    if own_program("curl")?.is_none() {
        return Ok(());
    }
    let golden = fs::read_to_string(root().join("tests/chart/golden/production.yaml"))?;
    let objects: Vec<Value> = serde_saphyr::from_multiple(&golden)?;
    let pod = objects.iter().find(|object| object["kind"] == "Pod").context("no test pod")?;
    let container = &pod["spec"]["containers"][0];
    let answer = format!("{directory}/answer");
    let script = container["args"][0].as_str().context("no script")?.replace("/tmp/answer", &answer);
    let mut variables = container["env"].as_array().context("no environment")?.iter();
    let call = variables.find(|variable| variable["name"] == "CALL").context("no call")?;
    let call = call["value"].as_str().context("no call")?;
    let facts = format!("{directory}/stack.json");
    let token =
        Command::new(binary("storefence-devstack")).args(["token", "seattle-manager", "--stack", &facts]).output()?;
    ensure!(token.status.success(), "{}", String::from_utf8_lossy(&token.stderr));
    let token = String::from_utf8(token.stdout)?;
    let run = |token: &str| {
        Command::new("sh")
            .args(["-euc", &script])
            .env("GATEWAY", format!("http://127.0.0.1:{gateway}"))
            .env("CALL", call)
            .env("TOKEN", token)
            .output()
    };
    // The gateway serves the tenant once it is Ready.
    let deadline = Instant::now() + STEP;
    loop {
        let output = run(token.trim())?;
        if output.status.success() {
            break;
        }
        ensure!(Instant::now() < deadline, "{}", String::from_utf8_lossy(&output.stdout));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let said = fs::read_to_string(&answer)?;
    ensure!(said.contains("\"rowCount\":1"), "{said}");
    let without = run("")?;
    ensure!(without.status.success() && String::from_utf8_lossy(&without.stdout).contains("no question asked"));
    ensure!(!run("not-a-token")?.status.success(), "the chart's test passes with a token that is none");
    Ok(())
}
