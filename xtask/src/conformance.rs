//! `cargo xtask conformance`: the official MCP suite against a gateway. The work is the test suite of that name, which
//! `cargo xtask test` runs as well; here it may not be skipped, and the gateway can be one that runs already.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::build;

/// Which gateway.
#[derive(clap::Args)]
pub struct Options {
    /// Endpoint of a gateway that runs, with /mcp; a stack is started where not given
    #[arg(long, requires = "token_file")]
    url: Option<String>,
    /// File with a bearer token for it
    #[arg(long, value_name = "FILE", requires = "url")]
    token_file: Option<PathBuf>,
}

/// Runs the suite for both revisions of the protocol.
pub fn run(options: &Options) -> Result<()> {
    build::binaries()?;
    let mut cargo = build::cargo();
    cargo.args(["test", "--package", "storefence-tests", "--test", "conformance"]);
    cargo.env("STOREFENCE_TEST_REQUIRE_ALL", "1");
    if let (Some(url), Some(file)) = (&options.url, &options.token_file) {
        cargo.env("STOREFENCE_CONFORMANCE_URL", url);
        cargo.env("STOREFENCE_CONFORMANCE_TOKEN_FILE", std::path::absolute(file)?);
    }
    if !cargo.status()?.success() {
        bail!("the gateway does not conform");
    }
    Ok(())
}
