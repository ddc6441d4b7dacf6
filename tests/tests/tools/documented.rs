//! docs/tools.md: each call in it works, and each answer in it has the shape of the real one.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use storefence_tests::Shared;

use super::administrator::call;

/// The JSON blocks, in order.
fn blocks() -> Result<Vec<Value>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/tools.md");
    let text = fs::read_to_string(path)?;
    let blocks = text.split("```json\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.map(|block| serde_json::from_str(block).with_context(|| block.to_owned())).collect()
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

pub async fn examples(shared: &Shared) -> Result<()> {
    let mut blocks = blocks()?.into_iter();
    let mut called = Vec::new();
    while let Some(example) = blocks.next() {
        let tool = example["name"].as_str().context("a call names its tool")?.to_owned();
        let shown = blocks.next().context("a call without its answer")?;
        let answer = call(shared, "seattle-manager", &tool, example["arguments"].clone()).await?;
        same_shape(&shown, &answer, &tool)?;
        called.push(tool);
    }
    ensure!(called.len() >= 7, "{called:?}");
    Ok(())
}
