//! `token`: an access token for a sample principal, as Entra ID would issue it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use super::StackFile;
use crate::cli::output::say;
use crate::{entra::principals, stack::StackFacts};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The sample principal
    principal: String,
    /// Claims to add, replace or (null) remove, as a JSON object in a file
    #[arg(long, value_name = "FILE")]
    claims: Option<PathBuf>,
    /// Life of the token; negative for one that has expired
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true)]
    expires_in: Option<i64>,
    #[command(flatten)]
    stack: StackFile,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    let facts = options.stack.read()?;
    say!("{}", issue(&facts, &options.principal, options.claims.as_deref(), options.expires_in).await?);
    Ok(())
}

/// Asks the stack's authority for the token.
pub(crate) async fn issue(
    facts: &StackFacts,
    principal: &str,
    claims: Option<&Path>,
    expires_in: Option<i64>,
) -> Result<String> {
    let all = principals::all();
    let Some(principal) = all.iter().find(|known| known.name == principal) else {
        let names: Vec<&str> = all.iter().map(|known| known.name).collect();
        bail!("'{principal}' is none of the sample principals: {}", names.join(", "));
    };
    let mut merged = principal.claims();
    if let Some(path) = claims {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let extra: Map<String, Value> =
            serde_json::from_str(&text).with_context(|| format!("{} is not a JSON object", path.display()))?;
        merged.extend(extra);
    }
    let mut request = json!({"tenantId": principal.tenant_id, "claims": merged});
    if let Some(seconds) = expires_in {
        request["expiresIn"] = seconds.into();
    }
    let ca = fs::read(&facts.ca_file).with_context(|| format!("cannot read {}", facts.ca_file.display()))?;
    let http = reqwest::Client::builder().add_root_certificate(reqwest::Certificate::from_pem(&ca)?).build()?;
    let response = http.post(format!("{}/_standin/token", facts.issuer_url)).json(&request).send().await?;
    let status = response.status();
    let answer: Value = response.json().await?;
    ensure!(status.is_success(), "the authority answered {status}: {answer}");
    Ok(answer["access_token"].as_str().context("no access_token in the answer")?.to_owned())
}
