//! What a newcomer does: the README's commands, as they stand there, beside whatever else runs on the machine.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;
use storefence_devstack::{
    kube_api::{KubeApi, KubeApiOptions},
    postgres::{AdminKind, Cluster, ClusterOptions},
    stack::{StackFacts, facts::is_alive},
    tls::Authority,
};
use storefence_tests::outside::own_program;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// A stack in a directory of its own, stopped when the test ends, also when it fails.
struct Newcomer {
    directory: tempfile::TempDir,
    env: Vec<(&'static str, String)>,
}

impl Newcomer {
    fn new(env: Vec<(&'static str, String)>) -> Self {
        Self { directory: tempfile::tempdir().unwrap(), env }
    }

    fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn stack_file(&self) -> PathBuf {
        self.directory().join("stack.json")
    }

    fn facts(&self) -> StackFacts {
        serde_json::from_slice(&fs::read(self.stack_file()).unwrap()).unwrap()
    }

    /// `cargo xtask …`, through the binary that cargo would run.
    fn xtask(&self, args: &[&str]) -> Output {
        let bin = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("xtask");
        Command::new(bin)
            .args(args)
            .env("STOREFENCE_STACK", self.stack_file())
            .env_remove("DATABASE_URL")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(root())
            .output()
            .unwrap()
    }

    fn said(&self, args: &[&str]) -> String {
        let output = self.xtask(args);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{args:?}: {out}{err}");
        out.into_owned()
    }

    fn refused(&self, args: &[&str]) -> String {
        let output = self.xtask(args);
        assert!(!output.status.success(), "{args:?} should fail");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        self.xtask(&["down"]);
    }
}

fn claims(token: &str) -> Value {
    let payload = URL_SAFE_NO_PAD.decode(token.trim().split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice(&payload).unwrap()
}

/// The commands of the README's `sh` blocks.
fn readme_commands() -> Vec<Vec<String>> {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let word = regex::Regex::new(r#""([^"]*)"|(\S+)"#).unwrap();
    let mut commands = Vec::new();
    for block in readme.split("```sh\n").skip(1) {
        for line in block.split("```").next().unwrap().lines() {
            let words = word.captures_iter(line).map(|c| c.get(1).or(c.get(2)).unwrap().as_str().to_owned());
            commands.push(words.collect());
        }
    }
    commands
}

/// The lines of the README's `bash` blocks: what is shown for a look, with the port that `up` printed in its place.
fn shown_for_a_look(gateway_url: &str) -> Vec<String> {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let blocks = readme.split("```bash\n").skip(1).map(|block| block.split("```").next().unwrap());
    blocks.flat_map(str::lines).map(|line| line.replace("http://127.0.0.1:8080", gateway_url)).collect()
}

#[test]
fn the_readmes_commands_work_as_they_stand() {
    let newcomer = Newcomer::new(Vec::new());
    assert!(newcomer.refused(&["status"]).contains("cargo xtask up"), "says the way out");
    let commands = readme_commands();
    assert_eq!(commands[0], ["cargo", "xtask", "up"], "the first command");
    assert!(commands.iter().any(|command| command == &["cargo", "xtask", "test"]), "the second command");

    let printed = newcomer.said(&["up", "--detach"]);
    let facts = newcomer.facts();
    for line in [&format!("{}/mcp", facts.gateway_url), "export KUBECONFIG=", "cargo xtask token", ".vscode/mcp.json"] {
        assert!(printed.contains(line), "'{line}' is not in what up prints:\n{printed}");
    }
    let mcp_json: Value =
        serde_json::from_str(&printed[printed.find("\n{").unwrap()..printed.rfind('}').unwrap() + 1]).unwrap();
    assert_eq!(mcp_json["servers"]["storefence"]["url"], format!("{}/mcp", facts.gateway_url));
    let json: Value = serde_json::from_slice(&fs::read(newcomer.stack_file()).unwrap()).unwrap();
    for key in ["gatewayUrl", "adminUrl", "kubeconfig", "issuerUrl", "databaseUrl", "keyVaultUrl", "audience", "pids"] {
        assert!(!json[key].is_null(), "{key}");
    }

    let looks = shown_for_a_look(&facts.gateway_url);
    assert!(looks.len() == 1 && looks[0].contains(&facts.gateway_url), "another port than in the README: {looks:?}");
    if own_program("curl").unwrap().is_some() {
        let output = Command::new("bash").args(["-euc", &looks[0]]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).to_lowercase();
        assert!(output.status.success(), "{}: {}", looks[0], String::from_utf8_lossy(&output.stderr));
        assert!(said.starts_with("http/1.1 401") && said.contains("www-authenticate: bearer"), "{said}");
        assert!(said.contains("/.well-known/oauth-protected-resource"), "where to sign in: {said}");
    }

    let mut answers = Vec::new();
    for command in commands.iter().filter(|command| !["up", "test"].contains(&command[2].as_str())) {
        let args: Vec<&str> = command[2..].iter().map(String::as_str).collect();
        answers.push((args[0].to_owned(), newcomer.said(&args)));
    }
    let questions: Vec<&str> =
        answers.iter().filter(|(verb, _)| verb == "ask").map(|(_, said)| said.as_str()).collect();
    assert!(
        questions.len() >= 3 && questions[0] != questions[1],
        "different principals, different answers: {questions:?}"
    );
    let (_, token) = answers.iter().find(|(verb, _)| verb == "token").expect("the README shows token");
    assert_eq!(token.trim().split('.').count(), 3);
    assert_eq!(token.lines().count(), 1, "the token and nothing else");

    let file = newcomer.directory().join("claims.json");
    fs::write(&file, r#"{"department": "online", "name": null, "oid": "00000000-0000-4000-8000-000000000001"}"#)
        .unwrap();
    let file = file.display().to_string();
    let changed = claims(&newcomer.said(&["token", "seattle-manager", "--claims", &file, "--expires-in", "60"]));
    assert_eq!(changed["department"], "online", "added");
    assert_eq!(changed["oid"], "00000000-0000-4000-8000-000000000001", "replaced");
    assert!(changed.get("name").is_none(), "null removes");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!((now..=now + 60).contains(&changed["exp"].as_u64().unwrap()), "{changed}");
    assert!(newcomer.refused(&["token", "nobody"]).contains("seattle-manager"), "names the principals there are");
    assert!(newcomer.refused(&["ask", "--as", "seattle-manager", "SELEC 1"]).contains("_ERROR"), "the tool's code");
    assert!(newcomer.refused(&["up", "--detach"]).contains("running already"));

    assert!(newcomer.said(&["status"]).contains("running"));
    newcomer.said(&["down"]);
    for (name, pid) in &facts.pids {
        assert!(!is_alive(*pid), "{name} outlives down");
    }
    assert!(newcomer.said(&["down"]).contains("no stack"), "twice is no error");
}

/// With a cluster and a database of one's own, `up` starts neither: it uses the current context of KUBECONFIG and
/// DATABASE_URL, whose administrator need not be superuser.
#[tokio::test(flavor = "multi_thread")]
async fn up_uses_the_cluster_and_the_database_that_are_there() {
    let authority = Authority::new().unwrap();
    let api = KubeApi::start(KubeApiOptions::new(&authority)).await.unwrap();
    let cluster = Cluster::start(ClusterOptions::default()).await.unwrap();
    let database = cluster.create_database("tenant", AdminKind::CreateRole).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let kubeconfig = directory.path().join("kubeconfig");
    fs::write(&kubeconfig, api.kubeconfig()).unwrap();
    let env = vec![("KUBECONFIG", kubeconfig.display().to_string()), ("DATABASE_URL", database.admin_url.clone())];
    let newcomer = Newcomer::new(env);
    tokio::task::spawn_blocking(move || {
        newcomer.said(&["up", "--detach", "--cluster", "current"]);
        let facts = newcomer.facts();
        assert_eq!(facts.database_url, database.admin_url);
        assert!(!facts.pids.contains_key("postgres"), "{:?}", facts.pids);
        let answer = newcomer.said(&["ask", "--as", "contoso-head-office", "SELECT count(*) FROM retail.stores"]);
        assert!(answer.contains("\n    4\n"), "{answer}");
        newcomer.said(&["down"]);
    })
    .await
    .unwrap();
    assert!(api.counters().get("patch", "retailtenants") > 0, "the tenants were on that cluster");
    assert!(api.counters().get("delete", "retailtenants") == 2, "and left it with the stack");
    let client = cluster.connect("tenant").await.unwrap();
    let orders: i64 = client.query_one("SELECT count(*) FROM retail.orders", &[]).await.unwrap().get(0);
    assert!(orders > 0, "the rows are in that database");
}
