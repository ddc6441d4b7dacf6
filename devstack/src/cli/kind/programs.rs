//! The programs that do the work: docker, kind, kubectl and helm, as they stand in `PATH`.

use std::{
    env,
    ffi::OsStr,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

/// A program, and where it is to be had.
pub(super) struct Program {
    name: &'static str,
    source: &'static str,
}

pub(super) const DOCKER: Program = Program { name: "docker", source: "https://docs.docker.com/engine/install/" };
pub(super) const KIND: Program =
    Program { name: "kind", source: "https://kind.sigs.k8s.io/docs/user/quick-start/#installation" };
pub(super) const KUBECTL: Program = Program { name: "kubectl", source: "https://kubernetes.io/docs/tasks/tools/" };
pub(super) const HELM: Program = Program { name: "helm", source: "https://helm.sh/docs/intro/install/" };

/// Every program that is missing, one line each.
pub(super) fn require(programs: &[&Program]) -> Result<()> {
    let missing: Vec<String> = programs
        .iter()
        .filter(|program| !on_path(program.name))
        .map(|Program { name, source }| format!("{name} is not installed: {source}"))
        .collect();
    ensure!(missing.is_empty(), "{}", missing.join("\n"));
    Ok(())
}

fn on_path(name: &str) -> bool {
    let executable =
        |path: &Path| path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    env::var_os("PATH").is_some_and(|paths| env::split_paths(&paths).any(|directory| executable(&directory.join(name))))
}

impl Program {
    /// Runs to the end; what it says goes where our own output goes.
    pub(super) fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<()> {
        let mut command = self.command(args);
        let shown = shown(&command);
        let status = command.status().with_context(|| format!("cannot start {}", self.name))?;
        ensure!(status.success(), "{shown} ended with {status}");
        Ok(())
    }

    /// Runs to the end and returns what it printed; its errors are ours.
    pub(super) fn output<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<String> {
        let mut command = self.command(args);
        let shown = shown(&command);
        let output = command.output().with_context(|| format!("cannot start {}", self.name))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("{shown}: {}", said.trim().lines().last().unwrap_or("no answer"));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(self.name);
        command.args(args).current_dir(super::root()).stdin(Stdio::null());
        command
    }
}

fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().take(3).map(OsStr::to_string_lossy));
    words.join(" ")
}
