//! The command line: what is printed where, and the exit codes.

mod harness;

use std::{path::Path, process::Output};

use harness::{World, spec, store};

fn operator(arguments: &[&str]) -> Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_storefence-operator"));
    command.args(arguments).env_clear();
    command.output().unwrap()
}

fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn crds_prints_the_definition() {
    let (code, stdout, stderr) = told(&operator(&["crds"]));
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/retailtenant.yaml");
    assert_eq!(stdout, std::fs::read_to_string(file).unwrap());
}

#[test]
fn wrong_usage_ends_with_2_and_names_flag_and_variable() {
    for command in ["run", "migrate", "seed", "verify", "harden"] {
        let (code, stdout, stderr) = told(&operator(&[command]));
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{command}");
        assert!(stderr.contains("--config") && stderr.contains("STOREFENCE_CONFIG"), "{command}: {stderr}");
    }
    for arguments in [&["--frobnicate"][..], &["nonsense"], &["run", "--resync", "soon"], &[]] {
        assert_eq!(told(&operator(arguments)).0, Some(2), "{arguments:?}");
    }
    let (code, stdout, _) = told(&operator(&["--help"]));
    assert!(code == Some(0) && stdout.contains("migrate"));
}

/// Codes of docs/reference/exit-codes.md: command, code, meaning.
fn documented_codes() -> Vec<(String, i32)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/exit-codes.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, rest) = text.split_once("\n## Exit codes of `storefence-operator`\n").unwrap();
    let rows = rest.lines().skip_while(|line| !line.starts_with("| `")).take_while(|line| line.starts_with('|'));
    rows.flat_map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let codes = ["0", "1", "2"].iter().zip(&cells[1..]).filter(|(_, meaning)| !meaning.is_empty());
        let commands = cells[0].split(", ").map(|command| command.trim_matches('`').to_owned()).collect::<Vec<_>>();
        let codes: Vec<i32> = codes.map(|(code, _)| code.parse().unwrap()).collect();
        commands
            .into_iter()
            .flat_map(move |c| codes.clone().into_iter().map(move |code| (c.clone(), code)))
            .collect::<Vec<_>>()
    })
    .collect()
}

#[test]
fn every_command_has_its_codes_in_the_document_and_help() {
    let codes = documented_codes();
    let (_, help, _) = told(&operator(&["--help"]));
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // A line that goes on is indented further.
    let commands = commands.filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')));
    for command in commands.filter_map(|line| line.split_whitespace().next()).filter(|word| *word != "help") {
        assert!(codes.contains(&(command.to_owned(), 0)), "{command}: {codes:?}");
        let (code, stdout, stderr) = told(&operator(&[command, "--help"]));
        assert!(code == Some(0) && stdout.contains("Usage:") && stderr.is_empty(), "{command}");
        let (code, stdout, stderr) = told(&operator(&[command, "--frobnicate"]));
        let expected = if command == "plan" { 1 } else { 2 };
        assert_eq!((code, stdout.as_str()), (Some(expected), ""), "{command}");
        assert!(
            stderr.contains("--frobnicate") && codes.contains(&(command.to_owned(), expected)),
            "{command}: {stderr}"
        );
    }
    let (code, stdout, _) = told(&operator(&["--version"]));
    assert!(code == Some(0) && stdout.starts_with("storefence-operator "), "{stdout}");
}

/// What went wrong must not look like the answer.
#[test]
fn plan_and_verify_keep_their_answers_codes_apart_from_trouble() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.yaml");
    // Port 1 answers nobody.
    std::fs::write(&path, "databases:\n- name: retail\n  adminUrl: postgresql://a:b@127.0.0.1:1/d\n").unwrap();
    let config = path.to_str().unwrap();
    let (code, stdout, stderr) = told(&operator(&["verify", "--config", config, "--database", "retail"]));
    assert!(code == Some(2) && stdout.is_empty() && stderr.contains("database retail"), "{stdout}{stderr}");
    for arguments in [
        &["plan", "--config", "/does/not/exist.yaml", "--file", "x.yaml"][..],
        &["plan", "--config", config],
        &["plan", "--config", config, "--file", "/does/not/exist.yaml"],
        &["--log-format", "json", "plan", "--config", config],
    ] {
        let (code, stdout, stderr) = told(&operator(arguments));
        assert!(code == Some(1) && stdout.is_empty() && !stderr.is_empty(), "{arguments:?}: {code:?} {stdout}{stderr}");
    }
}

/// Without a cluster, a configuration or an identity: what is good, what is not and why, and what is no manifest.
#[test]
fn validate_answers_with_its_code_and_names_rule_and_store() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/zava.yaml");
    let good = std::fs::read_to_string(&example).unwrap();
    let answer = |file: &str, input: Option<&str>| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_storefence-operator"));
        let pipe = std::process::Stdio::piped;
        command.args(["validate", "-f", file]).env_clear().stdin(pipe()).stdout(pipe()).stderr(pipe());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, input.unwrap_or_default().as_bytes()).unwrap();
        drop(stdin);
        told(&child.wait_with_output().unwrap())
    };
    assert_eq!(answer(example.to_str().unwrap(), None), (Some(0), "zava: valid\n".to_owned(), String::new()));
    let bad = good.replace("stores: [Seattle]", "stores: [Sea]");
    let contoso = std::fs::read_to_string(example.with_file_name("contoso.yaml")).unwrap();
    let (code, stdout, stderr) = answer("-", Some(&format!("{bad}---\n{contoso}")));
    assert_eq!((code, stderr.as_str()), (Some(1), ""));
    assert!(stdout.starts_with("zava: 1 problem\n") && stdout.ends_with("contoso: valid\n"), "{stdout}");
    assert!(stdout.contains("rule 'seattle-manager' names the store 'Sea'"), "{stdout}");
    for (input, expected) in [("a: [", "-: "), ("kind: Secret", "no RetailTenant"), ("", "no RetailTenant")] {
        let (code, stdout, stderr) = answer("-", Some(input));
        assert!(code == Some(2) && stdout.is_empty() && stderr.contains(expected), "{input:?}: {code:?} {stderr}");
    }
    let (code, _, stderr) = answer("/does/not/exist.yaml", None);
    assert!(code == Some(2) && stderr.contains("--file") && stderr.contains("STOREFENCE_VALIDATE_FILE"), "{stderr}");
    assert_eq!(told(&operator(&["validate"])).0, Some(2));
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_storefence-operator"));
    let pipes = (std::process::Stdio::piped(), std::process::Stdio::piped());
    let mut child = command.arg("crds").env_clear().stdout(pipes.0).stderr(pipes.1).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn a_bad_configuration_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.yaml");
    let path = path.to_str().unwrap();
    for (text, expected) in [
        ("databases:\n- name: retail\n  adminUrl: postgresql://h/d\n  colour: blue\n", "colour"),
        ("databases:\n- name: retail\n", "databases[0]"),
        ("databases: [", "config.yaml"),
    ] {
        std::fs::write(path, text).unwrap();
        let (code, _, stderr) = told(&operator(&["migrate", "--config", path]));
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
    }
    let (code, _, stderr) = told(&operator(&["migrate", "--config", "/does/not/exist.yaml"]));
    assert!(code == Some(2) && stderr.contains("/does/not/exist.yaml"), "{stderr}");
    std::fs::write(path, "databases:\n- name: retail\n  adminUrl: postgresql://h/d\n").unwrap();
    let (code, _, stderr) = told(&operator(&["verify", "--config", path, "--database", "other"]));
    assert!(code == Some(2) && stderr.contains("'other'") && stderr.contains("retail"), "{stderr}");
    let (code, _, stderr) = told(&operator(&["run", "--config", path]));
    assert!(code == Some(2) && stderr.contains("AZURE_"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_seed_and_verify_work_on_a_database() {
    let world = World::start().await;
    let config = world.directory.path().join("config.yaml");
    let config = config.to_str().unwrap();
    let run = |arguments: &[&str]| told(&operator(&[arguments, &["--config", config]].concat()));

    let (code, stdout, stderr) = run(&["verify", "--database", "retail"]);
    assert!(code == Some(2) && stdout.is_empty() && stderr.contains("migrate"), "not migrated yet: {stderr}");
    let (code, stdout, stderr) = run(&["migrate"]);
    assert!(code == Some(0) && stdout.contains("retail: applied"), "{stdout}{stderr}");
    let (code, stdout, _) = run(&["migrate", "--database", "retail"]);
    assert!(code == Some(0) && stdout.contains("up to date"), "{stdout}");
    let (code, stdout, stderr) = run(&["seed", "--database", "retail", "--tenant", "zava", "--scale", "small"]);
    assert!(code == Some(0) && stdout.contains("5000 orders"), "{stdout}{stderr}");
    // how far it is, and how much longer it takes
    assert!(stderr.contains("[####") && stderr.contains("order_items") && stderr.contains(" s left"), "{stderr}");
    let (code, _, stderr) = run(&["seed", "--database", "retail", "--tenant", "nobody"]);
    assert!(code != Some(0) && stderr.contains("nobody"), "{stderr}");
    let (code, stdout, _) = run(&["verify", "--database", "retail"]);
    assert_eq!(code, Some(0), "{stdout}");
    world.execute("GRANT SELECT ON retail.orders TO PUBLIC").await;
    let (code, stdout, _) = run(&["verify", "--database", "retail"]);
    assert!(code == Some(1) && stdout.contains("UNSAFE") && stdout.contains("retail.orders"), "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plan_tells_what_would_change_and_changes_nothing() {
    let world = World::start().await;
    let document = |stores: &[(&str, uuid::Uuid)]| {
        let object = serde_json::json!({
            "apiVersion": "retail.storefence.dev/v1alpha1", "kind": "RetailTenant",
            "metadata": {"name": "zava", "namespace": world.namespace("retail")}, "spec": spec("zava", stores),
        });
        serde_saphyr::to_string(&object).unwrap()
    };
    let seattle = ("Seattle", store(1, 1));
    let file = world.write("tenant.yaml", &document(&[seattle]));
    let arguments = ["plan", "--file", file.to_str().unwrap()];
    let (code, _, stderr) = world.run(&arguments);
    assert!(code == Some(1) && stderr.contains("retail"), "not migrated: {stderr}");
    assert_eq!(world.run(&["migrate"]).0, Some(0));

    let before = world.database_fingerprint().await;
    let (code, stdout, stderr) = world.run(&arguments);
    assert_eq!(code, Some(2), "{stderr}");
    for expected in [
        "Key Vault main: secret sf-zava-db-a: write it with a new password",
        "CREATE ROLE",
        "SCRAM-SHA-256$********",
        "COMMIT;",
    ] {
        assert!(stdout.contains(expected), "{expected}: {stdout}");
    }
    assert_eq!(world.database_fingerprint().await, before);
    assert_eq!(world.vault.writes(), 0);

    // From standard input, as the end of a pipe.
    let piped = format!(
        "'{}' plan -f - --config '{}' < '{}'",
        env!("CARGO_BIN_EXE_storefence-operator"),
        world.directory.path().join("config.yaml").display(),
        file.display()
    );
    let piped = world.command_in_shell(&piped);
    assert_eq!((piped.status.code(), String::from_utf8_lossy(&piped.stdout)), (Some(2), stdout.as_str().into()));

    let operator = world.operator().await;
    world.apply("retail", "zava", spec("zava", &[seattle])).await;
    world.ready("retail", "zava").await;
    assert!(operator.stop().await.success());
    let (code, stdout, stderr) = world.run(&arguments);
    assert_eq!((code, stdout.as_str()), (Some(0), "-- zava: nothing to do\n"), "{stderr}");
    world.write("tenant.yaml", &document(&[seattle, ("Redmond", store(1, 2))]));
    let (code, stdout, _) = world.run(&arguments);
    assert_eq!(code, Some(2));
    assert_eq!(stdout.matches("INSERT INTO").count(), 2, "{stdout}");
    assert!(!stdout.contains("ROLE"), "{stdout}");

    world.write("tenant.yaml", &document(&[seattle]).replace("tenantId: zava", "tenantId: -bad-"));
    let (code, _, stderr) = world.run(&arguments);
    assert!(code == Some(1) && stderr.contains("spec.tenantId"), "{stderr}");
    world.write("tenant.yaml", &document(&[seattle, ("seattle", store(1, 2))]));
    let (code, stdout, stderr) = world.run(&arguments);
    assert!(code == Some(1) && stdout.is_empty() && stderr.contains("'seattle' looks like 'Seattle'"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn harden_needs_a_superuser_says_what_it_closes_and_verify_watches_it() {
    let world = World::start().await;
    assert_eq!(world.run(&["migrate"]).0, Some(0));
    let config = std::fs::read_to_string(world.directory.path().join("config.yaml")).unwrap();
    let open = "SELECT count(*) FROM pg_proc WHERE proname = 'pg_advisory_lock' AND proacl IS NULL";
    let harden = ["harden", "--database", "retail"];

    let (code, stdout, stderr) = world.run(&harden);
    assert!(code == Some(1) && stdout.is_empty() && stderr.contains("is not superuser"), "{stdout}{stderr}");
    let (code, script, stderr) = world.run(&[&harden[..], &["--dry-run"]].concat());
    assert_eq!(code, Some(0), "{stderr}");
    for expected in ["-- closes: SQL inside strings", "REVOKE EXECUTE ON FUNCTION pg_catalog.", "nothing was run"] {
        assert!(script.contains(expected), "{expected}: {script}");
    }
    assert_eq!(world.text(open).await, "2");

    // strict is wanted: reported, and not done behind anybody's back
    world.write("config.yaml", &config.replace("  adminUrl:", "  hardening: strict\n  adminUrl:"));
    let (code, stdout, _) = world.run(&["verify", "--database", "retail"]);
    assert!(code == Some(1) && stdout.contains("built-in function pg_advisory_lock(bigint)"), "{stdout}");
    assert!(stdout.contains("storefence-operator harden"), "{stdout}");
    assert_eq!(world.text(open).await, "2");

    world.execute("CREATE ROLE root2 SUPERUSER LOGIN PASSWORD 'for this test'").await;
    let password = world.write("password", "for this test\n");
    let superuser = ["--superuser", "root2", "--superuser-password-file", password.to_str().unwrap()];
    let (code, stdout, stderr) = world.run(&[&harden[..], &superuser].concat());
    assert!(code == Some(0) && stdout.contains("done"), "{stdout}{stderr}");
    let statements =
        |text: &str| text.lines().filter(|line| line.ends_with(';')).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(statements(&stdout), statements(&script), "--dry-run shows what runs");
    let (code, stdout, stderr) = world.run(&["verify", "--database", "retail"]);
    assert_eq!(code, Some(0), "{stdout}{stderr}");

    // a major upgrade may undo it
    world.execute("GRANT EXECUTE ON FUNCTION pg_catalog.pg_notify(text, text) TO PUBLIC").await;
    let (code, stdout, _) = world.run(&["verify", "--database", "retail"]);
    assert_eq!((code, stdout.matches("MISSING").count()), (Some(1), 1), "{stdout}");
    assert!(stdout.contains("pg_notify(text,text)") && stdout.contains("after a major upgrade"), "{stdout}");
}
