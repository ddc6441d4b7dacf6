//! The conversation in README.md is a real one: each call in it is made again, and each line of an answer that it shows
//! stands in the answer, in that order.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use storefence_devstack::mcp_client::Revision;
use storefence_tests::{
    Shared,
    documented::{blocks, document},
};

/// A call, and the lines that are shown of its answer.
struct Turn {
    tool: String,
    arguments: Value,
    shown: Vec<String>,
}

fn turns(text: &str) -> Result<Vec<Turn>> {
    let mut turns: Vec<Turn> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        if let Some(call) = line.strip_prefix("-> ") {
            let (tool, arguments) = call.split_once(' ').context("a call without arguments")?;
            let arguments = serde_json::from_str(arguments).with_context(|| call.to_owned())?;
            turns.push(Turn { tool: tool.to_owned(), arguments, shown: Vec::new() });
        } else if !line.starts_with("> ") {
            turns.last_mut().context("an answer before the first call")?.shown.push(line.to_owned());
        }
    }
    Ok(turns)
}

pub async fn holds(shared: &Shared) -> Result<()> {
    let text = document("README.md")?;
    let block = *blocks(&text, "text").iter().find(|block| block.contains("-> ")).context("no conversation")?;
    let turns = turns(block)?;
    ensure!(turns.len() >= 4, "{} calls", turns.len());
    let client = shared.client("seattle-manager", Revision::V2026_07_28)?;
    for Turn { tool, arguments, shown } in turns {
        let answer = client.call_tool(&tool, arguments).await?;
        let text = answer.result()["content"][0]["text"].as_str().with_context(|| format!("{}", answer.message))?;
        let mut lines = text.lines();
        for line in &shown {
            // Cells are shown in columns; the answer has tabs between them. What ends in an ellipsis goes on.
            let wanted = line.split_whitespace().collect::<Vec<_>>().join(" ");
            if wanted == "…" {
                continue;
            }
            let (wanted, cut) =
                wanted.strip_suffix('…').map_or((wanted.as_str(), false), |start| (start.trim_end(), true));
            let found = lines.any(|real| {
                let real = real.split_whitespace().collect::<Vec<_>>().join(" ");
                if cut { real.starts_with(wanted) } else { real == wanted }
            });
            ensure!(found, "{tool}: {wanted:?} is not in\n{text}");
        }
        ensure!(!shown.is_empty(), "{tool}: no answer is shown");
    }
    Ok(())
}
