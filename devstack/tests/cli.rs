//! The commands as somebody types them.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

fn binary(name: &str) -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join(name)
}

/// `cargo xtask … | head`, by the time that head has gone.
#[test]
fn a_reader_that_has_gone_is_no_panic() {
    let directory = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_storefence-devstack"))
        .arg("down")
        .env("STOREFENCE_STACK", directory.path().join("stack.json"))
        .stdout(Stdio::from(writer))
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{}: {said}", output.status);
}

/// Without a cargo to build with.
#[test]
fn help_builds_nothing() {
    for (command, option) in [("up", "--detach"), ("kind", "up")] {
        let output = Command::new(binary("xtask"))
            .args([command, "--help"])
            .env("CARGO", "/nonexistent")
            .output()
            .expect("xtask, which cargo build --workspace --bins makes");
        let text = String::from_utf8_lossy(&output.stdout);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains(option) && said.is_empty(), "{command}: {text}{said}");
    }
}
