//! Wrong calls as models make them, with what the answer says: `wrong_calls.jsonl`. `says` is what is wrong, `next` what to do
//! about it; both stand in the text, which is all that many clients show a model.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;
use storefence_devstack::mcp_client::Revision;
use storefence_tests::Shared;

#[derive(Deserialize)]
struct WrongCall {
    why: String,
    tool: String,
    arguments: Value,
    code: String,
    says: String,
    next: String,
}

pub async fn answered(shared: &Shared) -> Result<()> {
    let calls: Vec<WrongCall> = include_str!("wrong_calls.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect::<Result<_>>()?;
    ensure!(calls.len() >= 40, "{} calls", calls.len());
    let client = shared.client("seattle-manager", Revision::V2026_07_28)?;
    let mut wrong = Vec::new();
    for call in &calls {
        let answer = client.call_tool(&call.tool, call.arguments.clone()).await?;
        let text = answer.result()["content"][0]["text"].as_str().unwrap_or_default();
        let (is_error, code) = (answer.is_tool_error(), &answer.structured()["code"]);
        if !is_error || *code != *call.code || !text.contains(&call.says) || !text.contains(&call.next) {
            wrong.push(format!("{}: {} {}\n  {text}", call.why, call.tool, call.arguments));
        }
    }
    ensure!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), calls.len(), wrong.join("\n"));
    Ok(())
}
