//! The schema tool with all tables, warm, against the date tool: with answers kept, as the sample tenants have it
//! (`gateway.cacheTtl`), and without.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{Settings, round};
use crate::{
    report::{Aim, Report, Row},
    wire::{Wire, tool_call},
    world::{World, zava},
};

const ROUND: Duration = Duration::from_millis(600);

pub async fn run(world: &World, settings: Settings, report: &mut Report) -> Result<()> {
    // The tenants of the stack keep no answers, so that every other case asks the database.
    let directory = world.directory.path().join("keeping");
    std::fs::create_dir(&directory)?;
    let (name, manifest) = keeping(&zava()?)?;
    std::fs::write(directory.join(name), manifest)?;
    let mut gateway = world.gateway("keeping", &["--tenants", &directory.display().to_string()])?;
    gateway.ready(Duration::from_secs(60)).await?;
    let (cpu, p50) = rounds(world, &gateway.url, gateway.child.pid(), settings).await?;
    gateway.stop().await?;
    let what = "schema tool with all tables, warm, answers kept (cacheTtl), CPU per call";
    report.add(Row::ratio("schema.kept.cpu", what, "the date tool", "µs", Aim::AtMost(2.0), &cpu));
    report.add(Row::absolute("schema.kept.p50", "schema tool, answers kept, p50 at 4", "ms", Aim::Smaller, &p50));

    let (cpu, p50) = rounds(world, world.url(), world.gateway_pid(), settings).await?;
    let what = "schema tool with all tables, asking the database each time, CPU per call";
    report.add(Row::ratio("schema.cpu", what, "the date tool", "µs", Aim::Smaller, &cpu));
    let what = "schema tool, asking the database each time, p50 at 4";
    report.add(Row::absolute("schema.p50", what, "ms", Aim::Smaller, &p50));
    Ok(())
}

/// CPU per call of both tools, and the schema tool's latency.
async fn rounds(world: &World, url: &str, pid: u32, settings: Settings) -> Result<(Vec<(f64, f64)>, Vec<f64>)> {
    let token = world.token("seattle-manager")?;
    let schema = tool_call(url, &token, "get_multiple_table_schemas", json!({}))?;
    let date = tool_call(url, &token, "get_current_utc_date", json!({}))?;
    let mut ours = Wire::many(url, &schema, 4).await?;
    let mut theirs = Wire::many(url, &date, 4).await?;
    // What is kept is made here, and connections are opened.
    let status = ours[0].exchange().await?;
    let answer: Value = serde_json::from_slice(ours[0].body())?;
    ensure!(status == 200 && answer["result"]["isError"] == false, "the schema tool: {status} {answer}");
    let (mut cpu, mut p50) = (Vec::new(), Vec::new());
    for _ in 0..settings.rounds {
        let (our_cpu, load, back) = round(pid, ours, ROUND).await?;
        ours = back;
        let (their_cpu, _, back) = round(pid, theirs, ROUND).await?;
        theirs = back;
        cpu.push((our_cpu, their_cpu));
        p50.push(load.ms(0.5));
    }
    Ok((cpu, p50))
}

/// The tenant with its answers kept: a file's name, and what stands in it.
fn keeping((tenant, manifest): &(String, String)) -> Result<(String, String)> {
    let mut object: Value = serde_json::from_str(manifest)?;
    object["spec"]["gateway"]["cacheTtl"] = json!("5m");
    Ok((format!("{tenant}.yaml"), object.to_string()))
}

#[cfg(test)]
mod tests {
    use super::{Value, keeping, zava};

    #[test]
    fn answers_are_kept_as_in_the_sample() {
        let root = crate::world::root();
        let sample = std::fs::read_to_string(root.join("examples/zava.yaml")).expect("the sample");
        let sample: Value = serde_saphyr::from_str(&sample).expect("YAML");
        let before = zava().expect("the bench's");
        let (name, after) = keeping(&before).expect("JSON");
        let [before, after] = [&before.1, &after].map(|text| serde_json::from_str::<Value>(text).expect("JSON"));
        assert_eq!(name, "zava.yaml");
        assert_eq!(before["spec"]["gateway"]["cacheTtl"], Value::Null, "the other cases ask the database");
        assert_eq!(after["spec"]["gateway"]["cacheTtl"], sample["spec"]["gateway"]["cacheTtl"]);
        assert_eq!(after["spec"]["principals"], sample["spec"]["principals"]);
    }
}
