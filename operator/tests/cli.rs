//! The command line: what is printed where, and the exit codes.

mod harness;

use std::{path::Path, process::Output};

use harness::World;

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
    for command in ["run", "migrate", "seed", "verify"] {
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

    let (code, _, stderr) = run(&["verify", "--database", "retail"]);
    assert!(code == Some(1) && stderr.contains("migrate"), "not migrated yet: {stderr}");
    let (code, stdout, stderr) = run(&["migrate"]);
    assert!(code == Some(0) && stdout.contains("retail: applied"), "{stdout}{stderr}");
    let (code, stdout, _) = run(&["migrate", "--database", "retail"]);
    assert!(code == Some(0) && stdout.contains("up to date"), "{stdout}");
    let (code, stdout, stderr) = run(&["seed", "--database", "retail", "--tenant", "zava", "--scale", "small"]);
    assert!(code == Some(0) && stdout.contains("5000 orders"), "{stdout}{stderr}");
    let (code, _, stderr) = run(&["seed", "--database", "retail", "--tenant", "nobody"]);
    assert!(code != Some(0) && stderr.contains("nobody"), "{stderr}");
    let (code, stdout, _) = run(&["verify", "--database", "retail"]);
    assert_eq!(code, Some(0), "{stdout}");
    world.execute("GRANT SELECT ON retail.orders TO PUBLIC").await;
    let (code, stdout, _) = run(&["verify", "--database", "retail"]);
    assert!(code == Some(1) && stdout.contains("UNSAFE") && stdout.contains("retail.orders"), "{stdout}");
}
