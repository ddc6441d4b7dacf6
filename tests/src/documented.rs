//! Calls that stand in the documents, each followed by its answer: they work, and the answer has the shape of the real one.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use storefence_devstack::mcp_client::Revision;

use crate::Shared;

/// A document of the repository.
///
/// # Errors
/// It is not there.
pub fn document(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The blocks of one language, in order.
pub fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(&fence) {
        let (block, after) = after.split_once("```").unwrap_or((after, ""));
        blocks.push(block);
        rest = after;
    }
    blocks
}

/// Every field that the document shows is in the real answer, with a value of the same kind.
fn same_shape(shown: &Value, real: &Value, path: &str) -> Result<()> {
    match (shown, real) {
        (Value::Object(shown), Value::Object(real)) => {
            for (name, value) in shown {
                let inner = real.get(name).with_context(|| format!("{path}: no field {name}"))?;
                same_shape(value, inner, &format!("{path}.{name}"))?;
            }
        }
        (Value::Array(shown), Value::Array(real)) => {
            ensure!(shown.is_empty() || !real.is_empty(), "{path}: nothing, where the document shows {shown:?}");
            if let (Some(shown), Some(real)) = (shown.first(), real.first()) {
                same_shape(shown, real, &format!("{path}[]"))?;
            }
        }
        // a figure that there is none of
        (_, Value::Null) => {}
        _ => {
            let kinds = std::mem::discriminant(shown) == std::mem::discriminant(real);
            ensure!(kinds, "{path}: {real}, where the document shows {shown}");
        }
    }
    Ok(())
}

/// Makes the tool calls in the blocks of one language in docs/tools.md, as the manager of Seattle, and returns the names
/// of the tools called.
///
/// # Errors
/// A call does not work, or is answered in another shape.
pub async fn tool_examples(shared: &Shared, language: &str) -> Result<Vec<String>> {
    let text = document("docs/tools.md")?;
    let blocks: Vec<Value> = blocks(&text, language)
        .into_iter()
        .map(|block| serde_json::from_str(block).with_context(|| block.to_owned()))
        .collect::<Result<_>>()?;
    let mut blocks = blocks.into_iter();
    let mut called = Vec::new();
    while let Some(example) = blocks.next() {
        let tool = example["name"].as_str().context("a call names its tool")?.to_owned();
        let shown = blocks.next().context("a call without its answer")?;
        let client = shared.client("seattle-manager", Revision::V2026_07_28)?;
        let answer = client.call_tool(&tool, example["arguments"].clone()).await?;
        ensure!(answer.status.is_success() && !answer.is_tool_error(), "{tool}: {}", answer.message);
        same_shape(&shown, answer.structured(), &tool)?;
        called.push(tool);
    }
    Ok(called)
}
