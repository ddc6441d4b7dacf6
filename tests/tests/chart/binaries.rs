//! What the chart sets exists: every variable in the binaries' command lines, every file where the configuration says.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    process::{Command, Output},
};

use k8s_openapi::api::core::v1::Container;
use regex::Regex;
use serde_json::Value;

use crate::{
    objects::{SETS, of_kind, pods},
    render::{available, objects, values},
};

/// Where cargo puts the binaries: beside this test's directory.
fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(|deps| deps.parent()).unwrap().join(name);
    assert!(path.is_file(), "{} is not built: cargo build --workspace --bins", path.display());
    path
}

fn run(part: &str, configure: impl FnOnce(&mut Command)) -> Output {
    let mut command = Command::new(binary(&format!("storefence-{part}")));
    command.env_clear();
    configure(&mut command);
    command.output().unwrap()
}

fn container(objects: &[Value], part: &str) -> Container {
    let suffix = format!("-{part}");
    let (_, pod) = pods(objects).into_iter().find(|(name, _)| name.ends_with(&suffix)).unwrap();
    pod.containers.into_iter().next().unwrap()
}

#[test]
fn every_variable_is_one_that_the_binary_reads() {
    if !available() {
        return;
    }
    let variable = Regex::new(r"\[env: ([A-Z0-9_]+)[=\]]").unwrap();
    for part in ["operator", "gateway"] {
        let help = run(part, |command| _ = command.args(["run", "--help"]));
        assert!(help.status.success());
        let help = String::from_utf8(help.stdout).unwrap();
        let known: BTreeSet<&str> = variable.captures_iter(&help).map(|found| found.get(1).unwrap().as_str()).collect();
        for set in SETS {
            let container = container(&objects(&values(set)), part);
            assert_eq!(container.args.as_deref(), Some(&["run".to_owned()][..]), "{part}");
            assert!(container.command.is_none(), "the image's entry point is the binary");
            for set in container.env.iter().flatten().map(|variable| variable.name.as_str()) {
                assert!(set == "RUST_LOG" || known.contains(set), "{part} does not read {set}");
            }
        }
    }
}

/// Variables that no value of the chart sets, and why.
const BY_OTHERS: [(&str, &str); 6] = [
    ("AZURE_TENANT_ID", "the workload identity webhook, or extraEnv"),
    ("AZURE_CLIENT_ID", "the workload identity webhook, or extraEnv"),
    ("AZURE_FEDERATED_TOKEN_FILE", "the workload identity webhook"),
    ("STOREFENCE_CA_FILE", "azure.caBundle"),
    ("STOREFENCE_TENANTS", "gateway.tenantsDirectory"),
    ("AZURE_AUTHORITY_HOST", "azure.authorityHost, or the webhook"),
];

/// Whatever can be set at a binary can be set by a value.
#[test]
fn every_variable_of_the_binary_has_a_value() {
    if !available() {
        return;
    }
    let variable = Regex::new(r"\[env: ([A-Z0-9_]+)[=\]]").unwrap();
    for part in ["operator", "gateway"] {
        let help = run(part, |command| _ = command.args(["run", "--help"]));
        let help = String::from_utf8(help.stdout).unwrap();
        let set: BTreeSet<String> = SETS
            .iter()
            .flat_map(|set| container(&objects(&values(set)), part).env.unwrap_or_default())
            .map(|variable| variable.name)
            .collect();
        let templates = crate::render::read("charts/storefence/templates/_helpers.tpl");
        for found in variable.captures_iter(&help) {
            let name = &found[1];
            let elsewhere = BY_OTHERS.iter().any(|(known, _)| known == &name);
            assert!(set.contains(name) || templates.contains(name) || elsewhere, "{part}: no value sets {name}");
        }
    }
}

/// The rendered configuration and environment are those that the binaries take: they get as far as the cluster, which is
/// not there.
#[test]
fn the_binaries_take_the_configuration() {
    if !available() {
        return;
    }
    for set in SETS {
        let objects = objects(&values(set));
        let work = tempfile::tempdir().unwrap();
        let directory = work.path().to_str().unwrap();
        for part in ["operator", "gateway"] {
            let suffix = format!("-{part}");
            let config = of_kind(&objects, "ConfigMap")
                .filter(|object| object["data"]["config.yaml"].is_string())
                .find(|object| object["metadata"]["name"].as_str().is_some_and(|name| name.ends_with(&suffix)))
                .unwrap();
            // Files that the cluster would mount.
            let mut text = config["data"]["config.yaml"].as_str().unwrap().to_owned();
            for mounted in ["/etc/storefence/", "/var/run/storefence/"] {
                text = text.replace(mounted, &format!("{directory}{mounted}"));
            }
            let parsed: Value = serde_saphyr::from_str(&text).unwrap();
            for database in parsed["databases"].as_array().unwrap() {
                if let Some(file) = database["adminUrlFile"].as_str() {
                    write(file, "postgresql://administrator:secret@127.0.0.1:1/retail");
                }
                if let Some(file) = database["caFile"].as_str() {
                    write(file, storefence_devstack::tls::Authority::new().unwrap().pem());
                }
            }
            let file = format!("{directory}/{part}.yaml");
            write(&file, &text);
            let certificate = storefence_devstack::tls::Authority::new().unwrap().issue(&["mcp.zava.example"]).unwrap();
            write(&format!("{directory}/tls/tls.crt"), &certificate.certificate_pem);
            write(&format!("{directory}/tls/tls.key"), &certificate.key_pem);
            let container = container(&objects, part);
            let output = run(part, |command| {
                for variable in container.env.iter().flatten() {
                    // From a Secret of the cluster.
                    let value = variable.value.clone().unwrap_or_else(|| "redis://127.0.0.1:1".to_owned());
                    let value = value.replace("/etc/storefence/tls", &format!("{directory}/tls"));
                    command.env(&variable.name, value);
                }
                command
                    .env("STOREFENCE_CONFIG", &file)
                    .env("STOREFENCE_ADMIN_LISTEN", "127.0.0.1:0")
                    .env("KUBECONFIG", format!("{directory}/none"))
                    .env("AZURE_TENANT_ID", "11111111-2222-4333-8444-555555555555")
                    .env("AZURE_CLIENT_ID", "11111111-2222-4333-8444-555555555555")
                    .env("AZURE_FEDERATED_TOKEN_FILE", &file)
                    .env("AZURE_CLIENT_SECRET", "secret")
                    .env_remove("STOREFENCE_CA_FILE")
                    .arg("run");
                if part == "gateway" {
                    command.env("STOREFENCE_LISTEN", "127.0.0.1:0");
                }
            });
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(said.contains("kubeconfig") || said.contains("Kubernetes"), "{set}: {part}: {said}");
            assert!(!said.contains("STOREFENCE_"), "{set}: {part}: {said}");
        }
    }
}

fn write(path: &str, text: &str) {
    let path = PathBuf::from(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}
